/* C_SignInit, C_Sign, C_SignUpdate, C_SignFinal. C_SignInit and C_Sign are the hot path: no allocation, one frame. */
#include "calls.h"
#include "macros.h"
#include "module.h"
#include "signature.h"

static CK_RV sign_message(struct session *session, struct operation *operation, const CK_BYTE *data, CK_ULONG len,
                          CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct wire_bytes message;
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    if (out == NULL) {
        *out_len = signature_size(operation);
        return CKR_OK;
    }
    CKR_TRY(signature_data(operation, data, len, &message));
    return signature_make(session, operation, message, out, out_len);
}

static CK_RV sign(struct session *session, const CK_BYTE *data, CK_ULONG len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_whole(session, OPERATION_SIGN, query, &operation));
    return operation_done(session, operation, query, sign_message(session, operation, data, len, out, out_len));
}

static CK_RV sign_last(struct session *session, struct operation *operation, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    if (out == NULL) {
        *out_len = signature_size(operation);
        return CKR_OK;
    }
    return signature_make_last(session, operation, out, out_len);
}

static CK_RV sign_final(struct session *session, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_active(session, OPERATION_SIGN, &operation));
    return operation_done(session, operation, query, sign_last(session, operation, out, out_len));
}

static CK_RV add_part(struct session *session, struct operation *operation, bool verify, const CK_BYTE *part,
                      CK_ULONG len)
{
    struct wire_bytes data;
    CKR_TRY(signature_data(operation, part, len, &data));
    return signature_part(session, operation, verify, data.data, data.len);
}

CK_RV call_signature_part(struct session *session, bool verify, const CK_BYTE *part, CK_ULONG len)
{
    struct operation *operation;
    CKR_TRY(operation_active(session, verify ? OPERATION_VERIFY : OPERATION_SIGN, &operation));
    return operation_part_done(session, operation, false, add_part(session, operation, verify, part, len));
}

CK_RV C_SignInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_SIGN, pMechanism, hKey));
}

CK_RV C_Sign(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
             CK_ULONG_PTR pulSignatureLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, sign(session, pData, ulDataLen, pSignature, pulSignatureLen));
}

CK_RV C_SignUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_signature_part(session, false, pPart, ulPartLen));
}

CK_RV C_SignFinal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG_PTR pulSignatureLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, sign_final(session, pSignature, pulSignatureLen));
}
