/* Many signatures in one call: a window of requests, each on a connection of its own, so that those of one caller fill the HSM's
 * batches (ADR 10). Checks, encodings and failover are the module's. */
#include <assert.h>
#include <string.h>

#include "digest.h"
#include "macros.h"
#include "requests.h"
#include "signature.h"
#include "signer.h"

/* While one half is computed the other half waits for its turn. */
enum { WINDOW = 16, HALF = WINDOW / 2 };
static_assert((int)WINDOW <= (int)SLOT_LINKS, "a connection for each");

struct flight {
    struct call call;
    size_t request;
};

struct many {
    struct session *session;
    const signer_batch *batch;
    struct flight flights[WINDOW];
    size_t first, flying;
    CK_RV gone; /* no HSM is left */
};

enum start { FLYING, ENDED, NOT_YET };

static CK_MECHANISM mechanism_of(const signer_kind *kind)
{
    return (CK_MECHANISM){kind->mechanism, (void *)(uintptr_t)kind->parameter, kind->parameter_len};
}

static bool no_hsm(CK_RV rv)
{
    return rv == CKR_DEVICE_ERROR || rv == CKR_DEVICE_REMOVED || rv == CKR_TOKEN_NOT_PRESENT;
}

static void end(struct many *many, size_t request, CK_RV rv, size_t len)
{
    many->batch->rvs[request] = rv;
    many->batch->lengths[request] = rv == CKR_OK ? (uint32_t)len : 0;
    many->gone = no_hsm(rv) ? rv : many->gone;
}

static uint8_t *place_of(const struct many *many, size_t request)
{
    return many->batch->signatures + request * many->batch->room;
}

static bool too_long_for_a_frame(const struct operation *operation, struct wire_bytes data)
{
    return operation->way == WAY_STREAM && data.len > OPERATION_CHUNK;
}

/* CKR_OK with a call that has no link: `*len` bytes are signed already, or there is no connection now. */
static CK_RV send_off(struct many *many, struct operation *operation, size_t request, struct call *call, size_t *len)
{
    const signer_batch *batch = many->batch;
    const signer_kind *kind = &batch->kinds[batch->kind[request]];
    uint64_t begin = request == 0 ? 0 : batch->end[request - 1];
    bool hashed = operation->hash != 0;
    uint8_t digest[DIGEST_MAX];
    struct wire_bytes data;
    *len = 0;
    CKR_TRY(signature_data(operation, batch->data + begin, batch->end[request] - begin, &data));
    CKR_REQUIRE(signature_size(operation) <= batch->room, CKR_BUFFER_TOO_SMALL);
    if (hashed && kind->digested) {
        CKR_REQUIRE(data.len == hash_size(operation->hash), CKR_DATA_LEN_RANGE);
    } else if (hashed) {
        CKR_TRY(signature_digest(operation, data, digest, &data));
    } else if (too_long_for_a_frame(operation, data) && many->flying == 0) {
        *len = batch->room;
        return signature_make(many->session, operation, data, place_of(many, request), len);
    } else if (too_long_for_a_frame(operation, data)) {
        return CKR_OK;
    }
    CKR_REQUIRE(data.len <= WIRE_MAX_DATA, CKR_DATA_LEN_RANGE);
    return request_sign_begin(many->session, operation, hashed, data, many->flying > 0, call);
}

static enum start start(struct many *many, size_t request)
{
    const signer_kind *kind = &many->batch->kinds[many->batch->kind[request]];
    CK_MECHANISM mechanism = mechanism_of(kind);
    /* To ask for a key's facts may mean to wait for a connection, and ours may be what others wait for. */
    if (many->flying > 0 && !key_facts_known(many->session, kind->key)) {
        return NOT_YET;
    }
    struct flight *flight = &many->flights[(many->first + many->flying) % WINDOW];
    *flight = (struct flight){.request = request};
    size_t len = 0;
    CK_RV rv = many->gone;
    if (rv == CKR_OK && (rv = operation_init(many->session, OPERATION_SIGN, &mechanism, kind->key)) == CKR_OK) {
        struct operation *operation = &many->session->operations.of[OPERATION_SIGN];
        rv = send_off(many, operation, request, &flight->call, &len);
        operation_end(many->session, operation);
    }
    if (rv == CKR_OK && flight->call.link != NULL) {
        many->flying++;
        return FLYING;
    }
    if (rv == CKR_OK && len == 0) {
        return NOT_YET;
    }
    end(many, request, rv, len);
    return ENDED;
}

static void land(struct many *many)
{
    struct flight *flight = &many->flights[many->first];
    size_t len = many->batch->room;
    many->first = (many->first + 1) % WINDOW;
    many->flying--;
    CK_RV rv = request_sign_end(&flight->call, place_of(many, flight->request), &len);
    end(many, flight->request, rv, len);
}

static void sign_all(struct many *many)
{
    size_t count = many->batch->count;
    for (size_t next = 0; next < count || many->flying > 0;) {
        while (next < count && many->flying < WINDOW && start(many, next) != NOT_YET) {
            next++;
        }
        size_t stay = next < count ? HALF : 0;
        do {
            if (many->flying > 0) {
                land(many);
            }
        } while (many->flying > stay);
    }
}

unsigned long signer_sign(unsigned long session, const signer_batch *batch)
{
    struct many many = {.batch = batch};
    CKR_TRY(session_enter(session, &many.session));
    sign_all(&many);
    return session_leave(many.session, CKR_OK);
}

unsigned long signer_size(unsigned long session, const signer_kind *kind, size_t *size)
{
    struct session *entered;
    CK_MECHANISM mechanism = mechanism_of(kind);
    CKR_TRY(session_enter(session, &entered));
    CK_RV rv = operation_init(entered, OPERATION_SIGN, &mechanism, kind->key);
    if (rv == CKR_OK) {
        struct operation *operation = &entered->operations.of[OPERATION_SIGN];
        *size = signature_size(operation);
        operation_end(entered, operation);
    }
    return session_leave(entered, rv);
}
