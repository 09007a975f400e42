#include "dispatch.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "pkcs11.h"
#include "rings.h"

enum { OUT_SLACK = 72 * 1024 }; /* what an answer may need beyond its request: random's 64 KiB, a signature, a tag */

bool executor_init(struct executor *executor)
{
    *executor = (struct executor){.crypto = crypto_worker_new()};
    return executor->crypto != NULL;
}

void executor_gather(struct executor *executor, const struct batch_table *table)
{
    executor->gathering.batch = batch_new(executor->crypto, table);
}

void executor_free(struct executor *executor)
{
    batch_free(executor->gathering.batch);
    crypto_worker_free(executor->crypto);
    if (executor->frame != NULL) {
        OPENSSL_cleanse(executor->frame, executor->cap);
    }
    free(executor->frame);
    *executor = (struct executor){0};
}

static bool make_room(struct executor *executor, size_t payload)
{
    size_t cap = WIRE_HEADER_SIZE + payload + OUT_SLACK;
    if (cap <= executor->cap) {
        return true;
    }
    uint8_t *larger = malloc(cap);
    if (larger == NULL) {
        return false;
    }
    if (executor->frame != NULL) {
        OPENSSL_cleanse(executor->frame, executor->cap);
    }
    free(executor->frame);
    executor->frame = larger;
    executor->cap = cap;
    return true;
}

size_t dispatch_seal(const struct dispatch *shared, const struct wire_header *request, uint64_t rv, uint8_t *frame, size_t payload,
                     size_t room)
{
    bool fits = payload <= room - WIRE_HEADER_SIZE;
    const struct wire_header header = {
        .length = fits ? (uint32_t)payload : 0,
        .op = (uint16_t)(request->op | WIRE_RESPONSE),
        .seq = request->seq,
        .word = fits ? rv : CKR_BUFFER_TOO_SMALL,
        .epoch = atomic_load(shared->epoch),
    };
    wire_set_header(frame, &header);
    return WIRE_HEADER_SIZE + header.length;
}

bool dispatch_code(const struct dispatch *shared, struct executor *executor, const struct wire_header *request, uint64_t rv, size_t *len)
{
    if (!make_room(executor, 0)) {
        return false;
    }
    *len = dispatch_seal(shared, request, rv, executor->frame, 0, WIRE_HEADER_SIZE);
    return true;
}

static enum outcome code(const struct dispatch *shared, struct executor *executor, const struct request *request, uint64_t rv, size_t *len)
{
    return dispatch_code(shared, executor, &request->header, rv, len) ? ANSWERED : REFUSED;
}

static enum outcome ask_firmware(struct dispatch *shared, struct executor *executor, const struct request *request,
                                 const struct wire_op_info *info, bool miss, size_t *answer)
{
    struct held *held = calloc(1, sizeof *held);
    size_t len = request->header.length;
    if (held == NULL || (held->redacted = malloc(len + 1)) == NULL || !secret_alloc(&held->payload, len + 1)) {
        if (held != NULL) {
            held_free(held);
        }
        return code(shared, executor, request, CKR_DEVICE_MEMORY, answer);
    }
    if (len != 0) {
        memcpy(held->payload.data, request->payload, len);
    }
    held->len = len;
    if (redact(info->request_fields, held->payload.data, len, held->redacted) != WIRE_OK) {
        held_free(held);
        return REFUSED;
    }
    held->sink = request->sink;
    if (held->sink.ring != NULL) {
        ring_hold(held->sink.ring);
    }
    held->client = request->client == NULL ? NULL : rights_client_hold(shared->rights, request->client->id);
    held->header = request->header;
    held->miss = miss;
    held->pid = request->pid;
    held->uid = request->uid;
    held->party = request->party;
    held->certified = request->certified;
    queue_put(shared->queue, held);
    return PARKED;
}

static bool lease_over(const struct dispatch *shared)
{
    uint64_t until = atomic_load_explicit(shared->serve_until, memory_order_relaxed);
    if (until == UINT64_MAX) {
        return false;
    }
    return ring_now_ns() > until;
}

static struct wire_writer answer_writer(const struct executor *executor)
{
    return wire_writer(executor->frame + WIRE_HEADER_SIZE, executor->cap - WIRE_HEADER_SIZE);
}

static enum outcome run_hot(struct dispatch *shared, struct executor *executor, const struct request *request,
                            const struct wire_op_info *info, size_t *len)
{
    const struct wire_header *header = &request->header;
    bool keyed = hot_keyed(header->op);
    atomic_fetch_add_explicit(&shared->hot, 1, memory_order_relaxed);
    if (keyed && lease_over(shared)) {
        return code(shared, executor, request, CKR_DEVICE_ERROR, len);
    }
    if (keyed && shared->reference) {
        return ask_firmware(shared, executor, request, info, true, len);
    }
    if (!make_room(executor, header->length)) {
        return code(shared, executor, request, CKR_DEVICE_MEMORY, len);
    }
    const struct hot_request hot = {request->client, header->op, header->word, request->payload, header->length, shared->throttle};
    bool gather = request->sink.ring != NULL && executor->gathering.batch != NULL;
    struct wire_writer out = answer_writer(executor);
    enum hot_outcome outcome;
    uint64_t rv = hot_run(shared->rights, executor->crypto, &hot, gather ? &executor->gathering : NULL, &out, &outcome);
    switch (outcome) {
    case HOT_MISS:
        atomic_fetch_add_explicit(&shared->misses, 1, memory_order_relaxed);
        return ask_firmware(shared, executor, request, info, true, len);
    case HOT_MALFORMED:
        return REFUSED;
    case HOT_LATER:
        return GATHERED;
    case HOT_DONE:
        break;
    }
    *len = dispatch_seal(shared, header, rv, executor->frame, rv == CKR_OK ? out.len : 0, request->room);
    return ANSWERED;
}

size_t dispatch_finish(const struct dispatch *shared, struct executor *executor, unsigned place, const struct wire_header *request,
                       size_t room)
{
    struct wire_writer out = answer_writer(executor);
    uint64_t rv = hot_finish(&executor->gathering, place, &out);
    return dispatch_seal(shared, request, rv, executor->frame, rv == CKR_OK ? out.len : 0, room);
}

static bool struck(const struct dispatch *shared, const struct request *request)
{
    const struct faults *faults = shared->faults == NULL ? NULL : atomic_load_explicit(shared->faults, memory_order_relaxed);
    return faults_strike(faults, request->header.op, request->payload, request->header.length);
}

enum outcome dispatch(struct dispatch *shared, struct executor *executor, const struct request *request, size_t *len)
{
    const struct wire_op_info *info = wire_op_find(request->header.op);
    if (info == NULL || request->header.epoch != 0) {
        return REFUSED;
    }
    if (struck(shared, request)) {
        return PARKED;
    }
    if (info->access != WIRE_ACCESS_NONE) {
        if (request->client == NULL) {
            return REFUSED;
        }
        uint64_t rv = rights_access(shared->rights, request->client, info->access);
        if (rv != CKR_OK) {
            return code(shared, executor, request, rv, len);
        }
    }
    if (info->path == WIRE_PATH_HOT) {
        return run_hot(shared, executor, request, info, len);
    }
    return request->sink.ring != NULL ? REFUSED : ask_firmware(shared, executor, request, info, false, len);
}

uint64_t dispatch_again(struct dispatch *shared, struct executor *executor, const struct held *held, size_t *payload, bool *miss)
{
    *miss = false;
    *payload = 0;
    if (held->client == NULL || !make_room(executor, held->len)) {
        return CKR_DEVICE_MEMORY;
    }
    if (lease_over(shared)) {
        return CKR_DEVICE_ERROR;
    }
    const struct hot_request hot = {held->client, held->header.op, held->header.word, held->payload.data, held->len, shared->throttle};
    struct wire_writer out = answer_writer(executor);
    enum hot_outcome outcome;
    uint64_t rv = hot_run(shared->rights, executor->crypto, &hot, NULL, &out, &outcome);
    *miss = outcome == HOT_MISS;
    *payload = rv == CKR_OK ? out.len : 0;
    return rv;
}
