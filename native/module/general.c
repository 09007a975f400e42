/* What is left: C_GetInfo, random, and functions whose answer the specification fixes. */
#include <string.h>

#include "macros.h"
#include "module.h"

enum { RANDOM_CHUNK = 65536, SEED_MAX = 4096 };

CK_RV C_GetInfo(CK_INFO_PTR pInfo)
{
    static const char maker[] = "hsmsim", what[] = "hsmsim PKCS#11 module";
    CKR_TRY(module_ready());
    CKR_REQUIRE(pInfo != NULL, CKR_ARGUMENTS_BAD);
    memset(pInfo, 0, sizeof *pInfo);
    pInfo->cryptokiVersion = (CK_VERSION){2, 40};
    pInfo->libraryVersion = (CK_VERSION){0, 1};
    memset(pInfo->manufacturerID, ' ', sizeof pInfo->manufacturerID);
    memcpy(pInfo->manufacturerID, maker, sizeof maker - 1);
    memset(pInfo->libraryDescription, ' ', sizeof pInfo->libraryDescription);
    memcpy(pInfo->libraryDescription, what, sizeof what - 1);
    return CKR_OK;
}

static CK_RV random_chunk(struct session *session, uint8_t *out, uint32_t len)
{
    struct call call;
    struct wire_random_response response;
    const struct wire_random_request request = {len};
    CKR_TRY(call_begin(&call, session->slot, WIRE_OP_RANDOM, session->id, 16));
    CK_RV rv = CKR_WIRE(wire_put_random_request(&call.request, &request));
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_random_response(&call.response, &response)) : rv;
    rv = rv == CKR_OK && response.data.len != len ? CKR_DEVICE_ERROR : rv;
    if (rv == CKR_OK) {
        memcpy(out, response.data.data, len);
    }
    call_end(&call, true);
    return rv;
}

CK_RV C_GenerateRandom(CK_SESSION_HANDLE hSession, CK_BYTE_PTR RandomData, CK_ULONG ulRandomLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = RandomData == NULL && ulRandomLen != 0 ? CKR_ARGUMENTS_BAD : CKR_OK;
    rv = rv == CKR_OK && ulRandomLen > MECHANISM_MAX_DATA ? CKR_ARGUMENTS_BAD : rv;
    for (CK_ULONG at = 0; rv == CKR_OK && at < ulRandomLen;) {
        CK_ULONG left = ulRandomLen - at;
        uint32_t some = left > RANDOM_CHUNK ? RANDOM_CHUNK : (uint32_t)left;
        rv = random_chunk(session, RandomData + at, some);
        at += some;
    }
    return session_leave(session, rv);
}

CK_RV C_SeedRandom(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pSeed, CK_ULONG ulSeedLen)
{
    struct session *session;
    struct call call = {0};
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = (pSeed == NULL && ulSeedLen != 0) || ulSeedLen > SEED_MAX ? CKR_ARGUMENTS_BAD : CKR_OK;
    const struct wire_seed_random_request request = {wire_bytes(pSeed, (uint32_t)ulSeedLen)};
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_SEED_RANDOM, session->id, SEED_MAX + 16) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_seed_random_request(&call.request, &request)) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    call_end(&call, true);
    return session_leave(session, rv);
}

/* Tokens are made with the cluster; their users by its admins. */
CK_RV C_InitToken(CK_SLOT_ID slotID, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen, CK_UTF8CHAR_PTR pLabel)
{
    struct slot *slot;
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE((pPin != NULL || ulPinLen == 0) && pLabel != NULL, CKR_ARGUMENTS_BAD);
    return CKR_FUNCTION_NOT_SUPPORTED;
}

CK_RV C_InitPIN(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, pPin == NULL && ulPinLen != 0 ? CKR_ARGUMENTS_BAD : CKR_FUNCTION_NOT_SUPPORTED);
}

/* Legacy functions, PKCS #11 2.40 5.15. */
CK_RV C_GetFunctionStatus(CK_SESSION_HANDLE hSession)
{
    (void)hSession;
    return CKR_FUNCTION_NOT_PARALLEL;
}

CK_RV C_CancelFunction(CK_SESSION_HANDLE hSession)
{
    (void)hSession;
    return CKR_FUNCTION_NOT_PARALLEL;
}
