/* C_EncryptInit, C_Encrypt, C_EncryptUpdate, C_EncryptFinal. */
#include "calls.h"
#include "macros.h"
#include "module.h"

CK_RV C_EncryptInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, operation_init(session, OPERATION_ENCRYPT, pMechanism, hKey));
}

CK_RV C_Encrypt(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pEncryptedData,
                CK_ULONG_PTR pulEncryptedDataLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_whole(session, true, pData, ulDataLen, pEncryptedData,
                                                    pulEncryptedDataLen));
}

CK_RV C_EncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen, CK_BYTE_PTR pEncryptedPart,
                      CK_ULONG_PTR pulEncryptedPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_part(session, true, pPart, ulPartLen, pEncryptedPart,
                                                   pulEncryptedPartLen));
}

CK_RV C_EncryptFinal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pLastEncryptedPart, CK_ULONG_PTR pulLastEncryptedPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_cipher_last(session, true, pLastEncryptedPart, pulLastEncryptedPartLen));
}
