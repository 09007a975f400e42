/* C_DigestInit, C_Digest, C_DigestUpdate, C_DigestKey, C_DigestFinal: no data goes to the HSM. */
#include <string.h>

#include "calls.h"
#include "digest.h"
#include "macros.h"
#include "module.h"

static CK_RV init(struct session *session, const CK_MECHANISM *mechanism)
{
    struct operation *operation = &session->operations.of[OPERATION_DIGEST];
    bool active = operation->phase != OPERATION_NONE;
    if (mechanism == NULL) {
        CKR_REQUIRE(active, CKR_ARGUMENTS_BAD);
        operation_end(session, operation);
        return CKR_OK;
    }
    CKR_REQUIRE(!active, CKR_OPERATION_ACTIVE);
    CKR_TRY(mechanism_convert(mechanism, CKF_DIGEST, module_cloudhsm(), NULL, &operation->mechanism,
                              &operation->info));
    CKR_TRY(digest_begin(&operation->digest, operation->info->hash));
    operation->hash = operation->info->hash;
    operation->phase = OPERATION_READY;
    return CKR_OK;
}

static CK_RV add(struct operation *operation, const CK_BYTE *part, CK_ULONG len)
{
    CKR_REQUIRE(part != NULL || len == 0, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(len <= MECHANISM_MAX_DATA, CKR_DATA_LEN_RANGE);
    return digest_update(operation->digest, part, len);
}

/* CKR_OK with *done for a size query. */
static CK_RV room(const struct operation *operation, const CK_BYTE *out, CK_ULONG_PTR out_len, bool *done)
{
    CKR_REQUIRE(out_len != NULL, CKR_ARGUMENTS_BAD);
    CK_ULONG size = hash_size(operation->hash);
    bool fits = out == NULL || *out_len >= size;
    *out_len = size;
    *done = out == NULL;
    return fits ? CKR_OK : CKR_BUFFER_TOO_SMALL;
}

static CK_RV finish(struct operation *operation, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    uint8_t digest[DIGEST_MAX];
    CKR_TRY(digest_end(operation->digest, digest));
    memcpy(out, digest, *out_len);
    return CKR_OK;
}

static CK_RV whole(struct operation *operation, const CK_BYTE *data, CK_ULONG len, CK_BYTE_PTR out,
                   CK_ULONG_PTR out_len)
{
    bool done;
    CKR_TRY(room(operation, out, out_len, &done));
    if (done) {
        return CKR_OK;
    }
    CKR_TRY(add(operation, data, len));
    return finish(operation, out, out_len);
}

static CK_RV digest(struct session *session, const CK_BYTE *data, CK_ULONG len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_whole(session, OPERATION_DIGEST, query, &operation));
    return operation_done(session, operation, query, whole(operation, data, len, out, out_len));
}

CK_RV call_digest_part(struct session *session, const CK_BYTE *part, CK_ULONG len)
{
    struct operation *operation;
    CKR_TRY(operation_active(session, OPERATION_DIGEST, &operation));
    return operation_part_done(session, operation, false, add(operation, part, len));
}

/* No key leaves the HSM, and no digest of one either. */
static CK_RV digest_key(struct session *session, CK_OBJECT_HANDLE key)
{
    struct operation *operation;
    struct key_facts facts;
    CKR_TRY(operation_active(session, OPERATION_DIGEST, &operation));
    CK_RV rv = key_facts(session, key, &facts);
    return operation_done(session, operation, false, rv == CKR_OK ? CKR_KEY_INDIGESTIBLE : rv);
}

static CK_RV last(struct operation *operation, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    bool done;
    CKR_TRY(room(operation, out, out_len, &done));
    return done ? CKR_OK : finish(operation, out, out_len);
}

static CK_RV digest_final(struct session *session, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool query = out == NULL && out_len != NULL;
    CKR_TRY(operation_active(session, OPERATION_DIGEST, &operation));
    return operation_done(session, operation, query, last(operation, out, out_len));
}

CK_RV C_DigestInit(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, init(session, pMechanism));
}

CK_RV C_Digest(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pDigest,
               CK_ULONG_PTR pulDigestLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, digest(session, pData, ulDataLen, pDigest, pulDigestLen));
}

CK_RV C_DigestUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, call_digest_part(session, pPart, ulPartLen));
}

CK_RV C_DigestKey(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hKey)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, digest_key(session, hKey));
}

CK_RV C_DigestFinal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pDigest, CK_ULONG_PTR pulDigestLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, digest_final(session, pDigest, pulDigestLen));
}
