/* C_SignRecover and C_VerifyRecover: RSA signatures that carry their data (2.40 5.11.5, 5.12.5). */
#include "macros.h"
#include "module.h"
#include "requests.h"
#include "signature.h"

static CK_RV sign_message(struct session *session, struct operation *operation, const CK_BYTE *data, CK_ULONG len,
                          CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct wire_bytes message;
    size_t size = signature_size(operation);
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    if (out == NULL || *out_len < size) {
        *out_len = size;
        return out == NULL ? CKR_OK : CKR_BUFFER_TOO_SMALL;
    }
    CKR_TRY(signature_data(operation, data, len, &message));
    CKR_REQUIRE(message.len <= size, CKR_DATA_LEN_RANGE);
    return request_sign_recover(session, operation, message, out, out_len);
}

static CK_RV sign_recover(struct session *session, const CK_BYTE *data, CK_ULONG len, CK_BYTE_PTR out,
                          CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_whole(session, OPERATION_SIGN_RECOVER, query, &operation));
    return operation_done(session, operation, query, sign_message(session, operation, data, len, out, out_len));
}

/* The length of the data is known when it is there: a size query gets the most. */
static CK_RV recover_message(struct session *session, struct operation *operation, const CK_BYTE *signature,
                             CK_ULONG len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    size_t size = signature_size(operation);
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    if (out == NULL) {
        *out_len = size;
        return CKR_OK;
    }
    CKR_REQUIRE(signature != NULL, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(len == size, CKR_SIGNATURE_LEN_RANGE);
    return request_verify_recover(session, operation, wire_bytes(signature, (uint32_t)len), out, out_len);
}

static CK_RV verify_recover(struct session *session, const CK_BYTE *signature, CK_ULONG len, CK_BYTE_PTR out,
                            CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_whole(session, OPERATION_VERIFY_RECOVER, query, &operation));
    return operation_done(session, operation, query,
                          recover_message(session, operation, signature, len, out, out_len));
}

CK_RV C_SignRecoverInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_SIGN_RECOVER, pMechanism, hKey));
}

CK_RV C_SignRecover(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
                    CK_ULONG_PTR pulSignatureLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, sign_recover(session, pData, ulDataLen, pSignature, pulSignatureLen));
}

CK_RV C_VerifyRecoverInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_VERIFY_RECOVER, pMechanism, hKey));
}

CK_RV C_VerifyRecover(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG ulSignatureLen, CK_BYTE_PTR pData,
                      CK_ULONG_PTR pulDataLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, verify_recover(session, pSignature, ulSignatureLen, pData, pulDataLen));
}
