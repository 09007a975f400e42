/* The calls of an operation on a session whose lock is held: what the entry points and the dual functions share. Each
 * ends the operation as operation.h says. */
#ifndef HSMSIM_CALLS_H
#define HSMSIM_CALLS_H

#include "operation.h"

CK_RV call_digest_part(struct session *session, const CK_BYTE *part, CK_ULONG len);
CK_RV call_signature_part(struct session *session, bool verify, const CK_BYTE *part, CK_ULONG len);

CK_RV call_cipher_whole(struct session *session, bool encrypt, const CK_BYTE *in, CK_ULONG len, CK_BYTE_PTR out,
                        CK_ULONG_PTR out_len);
CK_RV call_cipher_part(struct session *session, bool encrypt, const CK_BYTE *in, CK_ULONG len, CK_BYTE_PTR out,
                       CK_ULONG_PTR out_len);
CK_RV call_cipher_last(struct session *session, bool encrypt, CK_BYTE_PTR out, CK_ULONG_PTR out_len);

#endif
