/* C_Encrypt, C_Decrypt and their parts but for the name. */
#include "calls.h"
#include "cipher.h"
#include "macros.h"
#include "module.h"

static enum operation_family family(bool encrypt)
{
    return encrypt ? OPERATION_ENCRYPT : OPERATION_DECRYPT;
}

static CK_RV whole(struct session *session, struct operation *operation, bool encrypt, const CK_BYTE *in, CK_ULONG len,
                   CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CKR_REQUIRE(out_len != NULL && (in != NULL || len == 0), CKR_ARGUMENTS_BAD);
    return out == NULL ? cipher_size(operation, encrypt, len, out_len)
                       : cipher_whole(session, operation, encrypt, in, len, out, out_len);
}

CK_RV call_cipher_whole(struct session *session, bool encrypt, const CK_BYTE *in, CK_ULONG len, CK_BYTE_PTR out,
                        CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_whole(session, family(encrypt), query, &operation));
    return operation_done(session, operation, query, whole(session, operation, encrypt, in, len, out, out_len));
}

static CK_RV part(struct session *session, struct operation *operation, bool encrypt, const CK_BYTE *in, CK_ULONG len,
                  CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CKR_REQUIRE(out_len != NULL && (in != NULL || len == 0), CKR_ARGUMENTS_BAD);
    return out == NULL ? cipher_part_size(operation, encrypt, len, out_len)
                       : cipher_part(session, operation, encrypt, in, len, out, out_len);
}

CK_RV call_cipher_part(struct session *session, bool encrypt, const CK_BYTE *in, CK_ULONG len, CK_BYTE_PTR out,
                       CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_active(session, family(encrypt), &operation));
    return operation_part_done(session, operation, query, part(session, operation, encrypt, in, len, out, out_len));
}

static CK_RV last(struct session *session, struct operation *operation, bool encrypt, CK_BYTE_PTR out,
                  CK_ULONG_PTR out_len)
{
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    return out == NULL ? cipher_last_size(operation, encrypt, out_len)
                       : cipher_last(session, operation, encrypt, out, out_len);
}

CK_RV call_cipher_last(struct session *session, bool encrypt, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_active(session, family(encrypt), &operation));
    return operation_done(session, operation, query, last(session, operation, encrypt, out, out_len));
}
