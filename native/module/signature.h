/* Signatures and MACs, whole and in parts: what sign.c and verify.c share. */
#ifndef HSMSIM_SIGNATURE_H
#define HSMSIM_SIGNATURE_H

#include "digest.h"
#include "operation.h"

size_t signature_size(const struct operation *operation);

CK_RV signature_make(struct session *session, struct operation *operation, struct wire_bytes data, uint8_t *out,
                     size_t *out_len);
CK_RV signature_check(struct session *session, struct operation *operation, struct wire_bytes data,
                      struct wire_bytes signature);

/* operation_no_parts if the mechanism takes none. verify: the stream is to compare at its end. */
CK_RV signature_part(struct session *session, struct operation *operation, bool verify, const uint8_t *data,
                     size_t len);
CK_RV signature_make_last(struct session *session, struct operation *operation, uint8_t *out, size_t *out_len);
CK_RV signature_check_last(struct session *session, struct operation *operation, struct wire_bytes signature);

/* The digest of a message for a mechanism that hashes. */
CK_RV signature_digest(struct operation *operation, struct wire_bytes data, uint8_t digest[DIGEST_MAX], struct wire_bytes *out);

/* A caller's buffer as a view: CKR_ARGUMENTS_BAD for NULL with a length, CKR_DATA_LEN_RANGE above what the profile or
 * the protocol takes in one call. */
CK_RV signature_data(const struct operation *operation, const void *data, CK_ULONG len, struct wire_bytes *out);

#endif
