/* batch.h says the rules. */
#include "batch.h"

#include <assert.h>
#include <string.h>

#include "signing.h"

enum state { FREE, WAITING, COMPUTED, ALONE };
enum what { BATCH_SIGN, BATCH_DECRYPT };

struct item {
    enum state state;
    enum what what;
    const struct key_object *key;
    union {
        struct wire_sign_request sign;
        struct wire_decrypt_request decrypt;
    } as;
    uint8_t in[LANE_BLOCK];
    size_t lane; /* of the group computed last */
};

struct batch {
    struct secret whole; /* this struct: blocks and results before their padding is checked are secrets */
    struct crypto_worker *worker;
    const struct batch_table *table;
    struct lane_room *room;
    struct item items[LANES];
    struct lane lanes[LANES];
};
static_assert(sizeof(struct batch) <= SECRET_ARENA_MAX, "in the arena");

struct batch *batch_new(struct crypto_worker *worker, const struct batch_table *table)
{
    struct lane_room *room = lane_room_new();
    struct secret whole = {NULL, 0};
    if (room == NULL || !secret_alloc(&whole, sizeof(struct batch))) {
        lane_room_free(room);
        return NULL;
    }
    struct batch *batch = (struct batch *)(void *)whole.data;
    batch->whole = whole;
    batch->worker = worker;
    batch->table = table;
    batch->room = room;
    return batch;
}

void batch_free(struct batch *batch)
{
    if (batch != NULL) {
        struct secret whole = batch->whole;
        lane_room_free(batch->room);
        secret_free(&whole);
    }
}

static struct item *take_place(struct batch *batch, unsigned place, const struct key_object *key, enum what what)
{
    if (key->lanes.kind == LANE_NONE || atomic_load_explicit(&batch->table->from[key->lanes.kind], memory_order_relaxed) > LANES) {
        return NULL;
    }
    struct item *item = &batch->items[place];
    item->state = WAITING;
    item->what = what;
    item->key = key;
    return item;
}

bool batch_add_sign(struct batch *batch, unsigned place, const struct key_object *key, const struct wire_sign_request *request)
{
    struct item *item = take_place(batch, place, key, BATCH_SIGN);
    if (item != NULL) {
        item->as.sign = *request;
    }
    return item != NULL;
}

bool batch_add_decrypt(struct batch *batch, unsigned place, const struct key_object *key, const struct wire_decrypt_request *request)
{
    struct item *item = key->key_type == CKK_RSA ? take_place(batch, place, key, BATCH_DECRYPT) : NULL;
    if (item != NULL) {
        item->as.decrypt = *request;
    }
    return item != NULL;
}

/* ---- what the lanes take; false: it runs alone, where it is refused or done in another way ------------------------------ */

/* FIPS 186-5 6.4.1: the leftmost bits of the digest, as many as the order has, as a number of its width. */
static void fit_digest(const struct key_object *key, struct wire_bytes digest, uint8_t *out)
{
    size_t width = key->size, spare = 8 * width - key->bits, len = digest.len < width ? digest.len : width;
    memset(out, 0, width - len);
    memcpy(out + width - len, digest.data, len);
    if (8 * len <= key->bits) {
        return;
    }
    for (size_t i = width; i-- > 0;) { /* P-521 alone: its order fills no whole bytes */
        out[i] = (uint8_t)(out[i] >> spare | (i == 0 ? 0 : out[i - 1] << (8 - spare)));
    }
}

static bool prepare_eddsa(const struct item *item, struct lane *lane)
{
    const struct wire_mechanism *mechanism = &item->as.sign.mechanism;
    lane->in = item->as.sign.data.data;
    lane->in_len = item->as.sign.data.len;
    return item->as.sign.digested == 0 && eddsa_is_pure(mechanism);
}

static bool prepare_sign(const struct batch *batch, struct item *item, struct lane *lane)
{
    const struct wire_sign_request *request = &item->as.sign;
    struct job job = {.worker = batch->worker, .key = item->key, .mechanism = &request->mechanism, .purpose = SIGN,
                      .digested = request->digested != 0, .data = request->data};
    if (mechanism_check(item->key, job.mechanism, CKF_SIGN, &job.info) != CKR_OK) {
        return false;
    }
    if (item->key->key_type == CKK_EC_EDWARDS) {
        return prepare_eddsa(item, lane);
    }
    if (sign_plan(&job) != CKR_OK) {
        return false;
    }
    if (item->key->key_type == CKK_RSA) {
        return emsa_encode(&job, item->in) && lane_below_modulus(&item->key->lanes, item->in);
    }
    fit_digest(item->key, job.input, item->in);
    return true;
}

static bool prepare_decrypt(struct item *item)
{
    const struct wire_decrypt_request *request = &item->as.decrypt;
    const struct mechanism_info *info;
    if (mechanism_check(item->key, &request->mechanism, CKF_DECRYPT, &info) != CKR_OK ||
        !rsa_unpads(&request->mechanism) || request->data.len != item->key->size) {
        return false;
    }
    memcpy(item->in, request->data.data, request->data.len);
    return lane_below_modulus(&item->key->lanes, item->in);
}

static bool prepare(const struct batch *batch, struct item *item, struct lane *lane)
{
    *lane = (struct lane){.key = &item->key->lanes, .in = item->in, .in_len = item->key->size};
    return item->what == BATCH_SIGN ? prepare_sign(batch, item, lane) : prepare_decrypt(item);
}

/* ---- groups ---------------------------------------------------------------------------------------------------------- */

/* The waiting ones of a kind, prepared. */
static unsigned gather(struct batch *batch, enum lane_kind kind, struct item *members[LANES], uint32_t *places)
{
    unsigned count = 0;
    for (unsigned i = 0; i < LANES; i++) {
        struct item *item = &batch->items[i];
        if (item->state != WAITING || item->key->lanes.kind != kind) {
            continue;
        }
        *places |= 1u << i;
        item->state = ALONE;
        if (prepare(batch, item, &batch->lanes[count])) {
            item->lane = count;
            members[count++] = item;
        }
    }
    return count;
}

uint32_t batch_compute(struct batch *batch)
{
    ERRORS_SCOPED;
    struct item *members[LANES];
    uint32_t places = 0;
    unsigned at = 0;
    while (at < LANES && batch->items[at].state != WAITING) {
        at++;
    }
    if (at == LANES) {
        return 0;
    }
    enum lane_kind kind = batch->items[at].key->lanes.kind;
    unsigned count = gather(batch, kind, members, &places);
    if (count == 0 || count < atomic_load_explicit(&batch->table->from[kind], memory_order_relaxed)) {
        return places;
    }
    lanes_run(batch->room, kind, batch->lanes, count);
    for (unsigned i = 0; i < count; i++) {
        members[i]->state = batch->lanes[i].done ? COMPUTED : ALONE;
    }
    return places;
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static size_t result_size(const struct item *item)
{
    return item->key->key_type == CKK_RSA ? item->key->size : 2 * item->key->size;
}

static uint64_t put_unpadded(const struct item *item, const struct lane *lane, struct wire_writer *out)
{
    ERRORS_SCOPED;
    size_t len = item->key->size;
    uint8_t *field = field_begin(out, len);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    RV_TRY(rsa_unpad(item->key, &item->as.decrypt.mechanism, lane->out, field, &len));
    field_done(out, len);
    return CKR_OK;
}

static uint64_t put_result(const struct item *item, const struct lane *lane, struct wire_writer *out)
{
    if (item->what == BATCH_DECRYPT) {
        return put_unpadded(item, lane, out);
    }
    size_t len = result_size(item);
    uint8_t *field = field_begin(out, len);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    memcpy(field, lane->out, len);
    field_done(out, len);
    return CKR_OK;
}

uint64_t batch_finish(struct batch *batch, unsigned place, struct wire_writer *out)
{
    struct item *item = &batch->items[place];
    struct lane *lane = &batch->lanes[item->lane];
    uint64_t rv;
    if (item->state == COMPUTED) {
        rv = put_result(item, lane, out);
        memory_wipe(lane->out, result_size(item));
    } else if (item->what == BATCH_SIGN) {
        rv = op_sign(batch->worker, item->key, &item->as.sign, out);
    } else {
        rv = op_decrypt(batch->worker, item->key, &item->as.decrypt, out);
    }
    memory_wipe(item->in, item->key->size);
    item->state = FREE;
    return rv;
}
