/* C_DecryptInit, C_Decrypt, C_DecryptUpdate, C_DecryptFinal. */
#include "calls.h"
#include "macros.h"
#include "module.h"

CK_RV C_DecryptInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_DECRYPT, pMechanism, hKey));
}

CK_RV C_Decrypt(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedData, CK_ULONG ulEncryptedDataLen,
                CK_BYTE_PTR pData, CK_ULONG_PTR pulDataLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_whole(session, false, pEncryptedData, ulEncryptedDataLen, pData,
                                                    pulDataLen));
}

CK_RV C_DecryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen,
                      CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_part(session, false, pEncryptedPart, ulEncryptedPartLen, pPart,
                                                   pulPartLen));
}

CK_RV C_DecryptFinal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pLastPart, CK_ULONG_PTR pulLastPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_last(session, false, pLastPart, pulLastPartLen));
}
