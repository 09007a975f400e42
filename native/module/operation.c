/* operation.h says the states. */
#include "operation.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"
#include "macros.h"
#include "module.h"
#include "requests.h"

/* What a family needs: CKF_ of the mechanism, bit of KEY_FACTS of the key. */
static const struct {
    CK_FLAGS function;
    uint32_t usage;
} families[OPERATION_FAMILIES] = {
    [OPERATION_DIGEST] = {CKF_DIGEST, 0},
    [OPERATION_ENCRYPT] = {CKF_ENCRYPT, 1 << 0},
    [OPERATION_DECRYPT] = {CKF_DECRYPT, 1 << 1},
    [OPERATION_SIGN] = {CKF_SIGN, 1 << 2},
    [OPERATION_VERIFY] = {CKF_VERIFY, 1 << 3},
    [OPERATION_SIGN_RECOVER] = {CKF_SIGN_RECOVER, 1 << 4},
    [OPERATION_VERIFY_RECOVER] = {CKF_VERIFY_RECOVER, 1 << 5},
};

void operation_end(struct session *session, struct operation *operation)
{
    if (operation->stream != 0) {
        request_mac_cancel(session, operation);
    }
    if (operation->gathered.data != NULL) {
        gathered_wipe(&operation->gathered);
    }
    if (operation->parameters != operation->own) {
        free(operation->parameters);
    }
    if (operation->held_len != 0) {
        OPENSSL_cleanse(operation->held, sizeof operation->held);
        operation->held_len = 0;
    }
    operation->parameters = NULL;
    operation->iv_out = NULL;
    operation->spent = false;
    operation->phase = OPERATION_NONE;
}

/* A paused call has it, and the session's lock does not say so. */
static bool elsewhere(const struct session *session, int family)
{
    return session->away && family == OPERATION_SIGN;
}

/* ---- Init ------------------------------------------------------------------------------------------------------ */

static bool may_use(const struct key_facts *facts, CK_MECHANISM_TYPE type)
{
    bool allowed = facts->allowed_count == 0;
    for (uint32_t i = 0; i < facts->allowed_count && !allowed; i++) {
        allowed = facts->allowed[i] == type;
    }
    return allowed;
}

static enum operation_way way_of(const struct operation *operation, const struct key_facts *facts)
{
    if (operation->hash != 0) {
        return WAY_DIGEST;
    }
    if (mechanism_single_part(operation->info, &operation->mechanism, operation->cloudhsm)) {
        return WAY_SINGLE;
    }
    if (operation->info->mac != 0) {
        return WAY_STREAM;
    }
    /* all parts of CBC_PAD but the last travel as CBC */
    bool whole = operation->mechanism.kind == WIRE_KIND_GCM ||
                 (operation->info->type == CKM_AES_CBC_PAD && !may_use(facts, CKM_AES_CBC));
    return whole ? WAY_WHOLE : WAY_CHAIN;
}

static CK_RV keep_parameters(struct operation *operation)
{
    size_t len = mechanism_bytes(&operation->mechanism);
    operation->parameters = len <= sizeof operation->own ? operation->own : malloc(len);
    CKR_REQUIRE(operation->parameters != NULL, CKR_HOST_MEMORY);
    mechanism_keep(&operation->mechanism, operation->parameters);
    return CKR_OK;
}

static void first_chain(struct operation *operation)
{
    const struct wire_mechanism *mechanism = &operation->mechanism;
    if (operation->way == WAY_CHAIN && mechanism->kind == WIRE_KIND_IV) {
        memcpy(operation->chain, mechanism->as.iv.iv.data, AES_BLOCK);
    } else if (operation->way == WAY_CHAIN && mechanism->kind == WIRE_KIND_CTR) {
        memcpy(operation->chain, mechanism->as.ctr.counter_block.data, AES_BLOCK);
    }
}

static CK_RV start(struct session *session, enum operation_family family, const CK_MECHANISM *mechanism,
                   CK_OBJECT_HANDLE key)
{
    struct operation *operation = &session->operations.of[family];
    struct key_facts facts;
    operation->cloudhsm = module_cloudhsm();
    operation->login = slot_logins_ended(session->slot);
    CKR_TRY(mechanism_convert(mechanism, families[family].function, operation->cloudhsm, NULL, &operation->mechanism,
                              &operation->info));
    CKR_TRY(key_facts(session, key, &facts));
    CKR_REQUIRE((facts.flags & FACTS_FIPS) == 0 || (operation->info->fips_forbids & families[family].function) == 0,
                CKR_MECHANISM_INVALID);
    const struct mechanism_key fit = {facts.key_type, facts.bits, facts.usage, facts.allowed, facts.allowed_count};
    CKR_TRY(mechanism_fits_key(operation->info, &fit, families[family].usage));
    operation->iv_out = mechanism_iv_out(mechanism, &operation->mechanism);
    CKR_TRY(keep_parameters(operation));
    operation->key = key;
    operation->bits = facts.bits;
    operation->settled = facts.settled;
    operation->hash = mechanism_local_hash(operation->info, &operation->mechanism);
    operation->way = way_of(operation, &facts);
    first_chain(operation);
    operation->phase = OPERATION_READY;
    return CKR_OK;
}

CK_RV operation_init(struct session *session, enum operation_family family, const CK_MECHANISM *mechanism,
                     CK_OBJECT_HANDLE key)
{
    struct operation *operation;
    CK_RV state = operation_active(session, family, &operation);
    bool active = state == CKR_OK;
    CKR_REQUIRE(state != CKR_OPERATION_ACTIVE, state);
    if (mechanism == NULL) {
        CKR_REQUIRE(active, CKR_ARGUMENTS_BAD);
        operation_end(session, operation);
        return CKR_OK;
    }
    return active ? CKR_OPERATION_ACTIVE : start(session, family, mechanism, key);
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

CK_RV operation_active(struct session *session, enum operation_family family, struct operation **out)
{
    *out = &session->operations.of[family];
    CKR_REQUIRE(!elsewhere(session, family), CKR_OPERATION_ACTIVE);
    bool outlived = family != OPERATION_DIGEST && (*out)->login != slot_logins_ended(session->slot);
    if (outlived && (*out)->phase != OPERATION_NONE) {
        operation_end(session, *out);
    }
    return (*out)->phase != OPERATION_NONE ? CKR_OK : CKR_OPERATION_NOT_INITIALIZED;
}

CK_RV operation_whole(struct session *session, enum operation_family family, bool size_query, struct operation **out)
{
    CKR_TRY(operation_active(session, family, out));
    return (*out)->phase == OPERATION_READY ? CKR_OK
                                            : operation_done(session, *out, size_query, CKR_OPERATION_ACTIVE);
}

CK_RV operation_no_parts(const struct operation *operation)
{
    return operation->cloudhsm ? CKR_MECHANISM_INVALID : CKR_FUNCTION_NOT_SUPPORTED;
}

CK_RV operation_done(struct session *session, struct operation *operation, bool size_query, CK_RV rv)
{
    if (!size_query && rv != CKR_BUFFER_TOO_SMALL) {
        operation_end(session, operation);
    }
    return rv;
}

CK_RV operation_part_done(struct session *session, struct operation *operation, bool size_query, CK_RV rv)
{
    if (rv == CKR_OK && !size_query) {
        operation->phase = OPERATION_PARTS;
        return CKR_OK;
    }
    return operation_done(session, operation, size_query, rv);
}

/* ---- sessions -------------------------------------------------------------------------------------------------- */

void operations_free(struct session *session, bool tell_hsm)
{
    for (int family = 0; family < OPERATION_FAMILIES; family++) {
        struct operation *operation = &session->operations.of[family];
        if (elsewhere(session, family)) {
            continue; /* freed when that call has come back */
        }
        operation->stream = tell_hsm ? operation->stream : 0;
        operation_end(session, operation);
        digest_free(operation->digest);
        operation->digest = NULL;
    }
}

CK_RV operations_cancel(struct session *session, CK_FLAGS flags)
{
    CK_RV rv = CKR_OK;
    for (int family = 0; family < OPERATION_FAMILIES; family++) {
        bool meant = (flags & families[family].function) != 0;
        if (meant && elsewhere(session, family)) {
            rv = CKR_OPERATION_CANCEL_FAILED;
        } else if (meant) {
            operation_end(session, &session->operations.of[family]);
        }
    }
    return rv;
}
