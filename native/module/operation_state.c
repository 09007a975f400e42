/* C_GetOperationState and C_SetOperationState: no state is handed out. A keyed operation's would hold plaintext or
 * chaining values for a key that the HSM may withdraw meanwhile, and libcrypto 3.0 has no form for a digest's. */
#include "macros.h"
#include "module.h"

static CK_RV get_state(const struct session *session, const CK_ULONG *len)
{
    bool active = false;
    CKR_REQUIRE(len != NULL, CKR_ARGUMENTS_BAD);
    for (int family = 0; family < OPERATION_FAMILIES; family++) {
        active = active || session->operations.of[family].phase != OPERATION_NONE;
    }
    return active ? CKR_STATE_UNSAVEABLE : CKR_OPERATION_NOT_INITIALIZED;
}

CK_RV C_GetOperationState(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pOperationState, CK_ULONG_PTR pulOperationStateLen)
{
    struct session *session;
    (void)pOperationState;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, get_state(session, pulOperationStateLen));
}

/* Nothing that this module gave out. */
CK_RV C_SetOperationState(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pOperationState, CK_ULONG ulOperationStateLen,
                          CK_OBJECT_HANDLE hEncryptionKey, CK_OBJECT_HANDLE hAuthenticationKey)
{
    struct session *session;
    (void)ulOperationStateLen;
    (void)hEncryptionKey;
    (void)hAuthenticationKey;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, pOperationState == NULL ? CKR_ARGUMENTS_BAD : CKR_SAVED_STATE_INVALID);
}
