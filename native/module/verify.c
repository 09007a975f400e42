/* C_VerifyInit, C_Verify, C_VerifyUpdate, C_VerifyFinal. */
#include "calls.h"
#include "macros.h"
#include "module.h"
#include "signature.h"

/* Longer than any signature is as wrong as any other wrong length. */
static CK_RV signature_view(const CK_BYTE *signature, CK_ULONG len, struct wire_bytes *out)
{
    CKR_REQUIRE(signature != NULL, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(len <= UINT16_MAX, CKR_SIGNATURE_LEN_RANGE);
    *out = wire_bytes(signature, (uint32_t)len);
    return CKR_OK;
}

static CK_RV verify_message(struct session *session, struct operation *operation, const CK_BYTE *data, CK_ULONG len,
                            const CK_BYTE *signature, CK_ULONG signature_len)
{
    struct wire_bytes message;
    struct wire_bytes expected;
    CKR_TRY(signature_data(operation, data, len, &message));
    CKR_TRY(signature_view(signature, signature_len, &expected));
    return signature_check(session, operation, message, expected);
}

static CK_RV verify(struct session *session, const CK_BYTE *data, CK_ULONG len, const CK_BYTE *signature,
                    CK_ULONG signature_len)
{
    struct operation *operation;
    CKR_TRY(operation_whole(session, OPERATION_VERIFY, false, &operation));
    return operation_done(session, operation, false,
                          verify_message(session, operation, data, len, signature, signature_len));
}

static CK_RV verify_last(struct session *session, struct operation *operation, const CK_BYTE *signature, CK_ULONG len)
{
    struct wire_bytes expected;
    CKR_TRY(signature_view(signature, len, &expected));
    return signature_check_last(session, operation, expected);
}

static CK_RV verify_final(struct session *session, const CK_BYTE *signature, CK_ULONG len)
{
    struct operation *operation;
    CKR_TRY(operation_active(session, OPERATION_VERIFY, &operation));
    return operation_done(session, operation, false, verify_last(session, operation, signature, len));
}

CK_RV C_VerifyInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_VERIFY, pMechanism, hKey));
}

CK_RV C_Verify(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
               CK_ULONG ulSignatureLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, verify(session, pData, ulDataLen, pSignature, ulSignatureLen));
}

CK_RV C_VerifyUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_signature_part(session, true, pPart, ulPartLen));
}

CK_RV C_VerifyFinal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSignature, CK_ULONG ulSignatureLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, verify_final(session, pSignature, ulSignatureLen));
}
