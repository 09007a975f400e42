/* lanes.h with crypto_mb. A lane that nobody needs computes again what the first one does, into a place of its own: the library
 * sees eight good operations at all times. */
#include "lanes.h"

#include <crypto_mb/cpu_features.h>
#include <crypto_mb/ec_nistp256.h>
#include <crypto_mb/ec_nistp384.h>
#include <crypto_mb/ec_nistp521.h>
#include <crypto_mb/ed25519.h>
#include <crypto_mb/rsa.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "object.h"

enum { RSA_NUMBERS = 5, WORD = 8, ORDER_WORDS = 9, ALIGNMENT = 64 /* a cache line */, ED25519_WIDTH = 32 };
enum { LANE_STACK_STEP = ALIGNMENT / LANE_STACK_PLACES };

typedef mbx_status ecdsa_function(int8u *r[LANES], int8u *s[LANES], const int8u *const message[LANES],
                                  const int64u *const nonce[LANES], const int64u *const key[LANES], int8u *buffer);

static const struct kind {
    uint64_t key_type;
    uint32_t bits;  /* modulus, order */
    uint32_t width; /* bytes of a block, of r and of s */
    enum MBX_ALGO algorithm;
    const char *curve;
    ecdsa_function *sign;
} kinds[LANE_KINDS] = {
    [LANE_RSA2048] = {CKK_RSA, 2048, 256, MBX_ALGO_RSA_2K, NULL, NULL},
    [LANE_RSA3072] = {CKK_RSA, 3072, 384, MBX_ALGO_RSA_3K, NULL, NULL},
    [LANE_RSA4096] = {CKK_RSA, 4096, 512, MBX_ALGO_RSA_4K, NULL, NULL},
    [LANE_P256] = {CKK_EC, 256, 32, MBX_ALGO_ECDSA_NIST_P256, "prime256v1", mbx_nistp256_ecdsa_sign_mb8},
    [LANE_P384] = {CKK_EC, 384, 48, MBX_ALGO_ECDSA_NIST_P384, "secp384r1", mbx_nistp384_ecdsa_sign_mb8},
    [LANE_P521] = {CKK_EC, 521, 66, MBX_ALGO_ECDSA_NIST_P521, "secp521r1", mbx_nistp521_ecdsa_sign_mb8},
    [LANE_ED25519] = {CKK_EC_EDWARDS, 256, ED25519_WIDTH, MBX_ALGO_ED25519, NULL, NULL},
};

struct lane_room {
    struct secret whole, scratch;
    uint64_t nonces[LANES * ORDER_WORDS];
    uint8_t out[LANES][LANE_BLOCK], check[LANES][LANE_BLOCK];
    int8u *buffer; /* in scratch, aligned */
};

static struct {
    pthread_once_t once;
    bool there;
    uint64_t orders[LANE_KINDS][ORDER_WORDS];
} lanes_state = {.once = PTHREAD_ONCE_INIT};

static bool order_of(const struct kind *kind, uint64_t out[ORDER_WORDS])
{
    SCOPED(EC_GROUP) group = EC_GROUP_new_by_curve_name_ex(evp_context(), NULL, OBJ_sn2nid(kind->curve));
    return group != NULL && BN_bn2lebinpad(EC_GROUP_get0_order(group), (uint8_t *)out, ORDER_WORDS * WORD) > 0;
}

static void look(void)
{
    bool fine = evp_start() && mbx_is_crypto_mb_applicable(0) != 0;
    for (int i = 0; i < LANE_KINDS && fine; i++) {
        fine = (kinds[i].key_type == 0 || (mbx_get_algo_info(kinds[i].algorithm) & MBX_WIDTH_MB8) != 0) &&
               (kinds[i].curve == NULL || order_of(&kinds[i], lanes_state.orders[i]));
    }
    lanes_state.there = fine;
}

bool lanes_there(void)
{
    (void)pthread_once(&lanes_state.once, look);
    return lanes_state.there;
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

static void put_number(uint8_t *out, size_t width, struct wire_bytes big_endian)
{
    memset(out, 0, width);
    for (size_t i = 0; i < big_endian.len; i++) {
        out[i] = big_endian.data[big_endian.len - 1 - i];
    }
}

static bool usual_rsa(const struct kind *kind, const struct key_parts *parts)
{
    static const uint8_t exponent[] = {1, 0, 1};
    const struct wire_bytes *p = &parts->part[RSA_P], *q = &parts->part[RSA_Q], *e = &parts->part[RSA_E];
    size_t half = kind->width / 2;
    return parts->part[RSA_N].len == kind->width && e->len == sizeof exponent && memcmp(e->data, exponent, e->len) == 0 &&
           p->len == half && q->len == half && (p->data[0] & q->data[0] & 0x80) != 0 && memcmp(p->data, q->data, half) > 0 &&
           parts->part[RSA_DP].len <= half && parts->part[RSA_DQ].len <= half && parts->part[RSA_QI].len <= half;
}

static bool rsa_numbers(const struct kind *kind, const struct key_parts *parts, struct secret *out)
{
    static const int order[RSA_NUMBERS] = {RSA_P, RSA_Q, RSA_DP, RSA_DQ, RSA_QI};
    size_t half = kind->width / 2;
    if (!usual_rsa(kind, parts) || !secret_alloc(out, RSA_NUMBERS * half + kind->width)) {
        return false;
    }
    for (int i = 0; i < RSA_NUMBERS; i++) {
        put_number(out->data + (size_t)i * half, half, parts->part[order[i]]);
    }
    put_number(out->data + RSA_NUMBERS * half, kind->width, parts->part[RSA_N]);
    return true;
}

static bool ec_numbers(const struct kind *kind, const struct key_parts *parts, struct secret *out)
{
    size_t room = (kind->bits + 63) / 64 * WORD;
    if (parts->part[EC_D].len > room || !secret_alloc(out, room)) {
        return false;
    }
    put_number(out->data, room, parts->part[EC_D]);
    return true;
}

static bool ed25519_numbers(const struct key_parts *parts, struct secret *out)
{
    if (parts->part[EC_D].len != ED25519_WIDTH || parts->part[EC_Q].len != ED25519_WIDTH || !secret_alloc(out, 2 * ED25519_WIDTH)) {
        return false;
    }
    memcpy(out->data, parts->part[EC_D].data, ED25519_WIDTH);
    memcpy(out->data + ED25519_WIDTH, parts->part[EC_Q].data, ED25519_WIDTH);
    return true;
}

static enum lane_kind kind_of(const struct key_object *key)
{
    for (int i = LANE_NONE + 1; i < LANE_KINDS; i++) {
        bool same = kinds[i].key_type == key->key_type && kinds[i].bits == key->bits;
        if (same && (kinds[i].curve == NULL || strcmp(kinds[i].curve, key->curve->name) == 0)) {
            return (enum lane_kind)i;
        }
    }
    return LANE_NONE;
}

struct lane_key lane_key_of(const struct key_object *key)
{
    ERRORS_SCOPED;
    struct lane_key out = {.kind = LANE_NONE};
    SECRET_SCOPED room = {NULL, 0};
    struct key_parts parts;
    enum lane_kind kind = lanes_there() && key->object_class == CKO_PRIVATE_KEY ? kind_of(key) : LANE_NONE;
    if (kind == LANE_NONE || parts_of_pkey(key->pkey, true, &room, &parts) != CKR_OK) {
        return out;
    }
    bool made = kinds[kind].key_type == CKK_RSA  ? rsa_numbers(&kinds[kind], &parts, &out.numbers)
                : kinds[kind].key_type == CKK_EC ? ec_numbers(&kinds[kind], &parts, &out.numbers)
                                                 : ed25519_numbers(&parts, &out.numbers);
    out.kind = made ? kind : LANE_NONE;
    return out;
}

bool lane_key_random(enum lane_kind kind, struct lane_key *out)
{
    const struct kind *row = &kinds[kind];
    size_t half = row->width / 2;
    size_t size = row->key_type == CKK_RSA ? RSA_NUMBERS * half + row->width : (size_t)ORDER_WORDS * WORD;
    *out = (struct lane_key){.kind = kind};
    if (!lanes_there() || !secret_alloc(&out->numbers, size) ||
        RAND_priv_bytes_ex(evp_context(), out->numbers.data, size, 0) != 1) {
        lane_key_free(out);
        return false;
    }
    for (size_t i = 0; i < RSA_NUMBERS && row->key_type == CKK_RSA; i++) { /* moduli are odd and of full length */
        out->numbers.data[i * half] |= 1;
        out->numbers.data[i * half + half - 1] |= 0x80;
    }
    if (row->key_type == CKK_EC) { /* surely below the order */
        memset(out->numbers.data + row->width - 2, 0, size - row->width + 2);
    }
    return true;
}

uint32_t lane_width(enum lane_kind kind)
{
    return kinds[kind].width;
}

void lane_key_free(struct lane_key *key)
{
    secret_free(&key->numbers);
    key->kind = LANE_NONE;
}

bool lane_below_modulus(const struct lane_key *key, const uint8_t *number)
{
    size_t width = kinds[key->kind].width;
    const uint8_t *modulus = key->numbers.data + RSA_NUMBERS * (width / 2);
    for (size_t i = 0; i < width; i++) {
        uint8_t theirs = modulus[width - 1 - i];
        if (number[i] != theirs) {
            return number[i] < theirs;
        }
    }
    return false;
}

/* ---- rooms --------------------------------------------------------------------------------------------------------- */

static size_t scratch_needed(void)
{
    size_t most = 0;
    for (int i = LANE_RSA2048; i <= LANE_RSA4096; i++) {
        int private = mbx_RSA_Method_BufSize(mbx_RSA_private_crt_Method((int)kinds[i].bits));
        int public = mbx_RSA_Method_BufSize(mbx_RSA_pub65537_Method((int)kinds[i].bits));
        size_t larger = (size_t)(private > public ? private : public);
        most = larger > most ? larger : most;
    }
    return most;
}

struct lane_room *lane_room_new(void)
{
    struct secret whole = {NULL, 0};
    if (!lanes_there() || !secret_alloc(&whole, sizeof(struct lane_room))) {
        return NULL;
    }
    struct lane_room *room = (struct lane_room *)(void *)whole.data;
    room->whole = whole;
    if (!secret_alloc(&room->scratch, scratch_needed() + ALIGNMENT)) {
        lane_room_free(room);
        return NULL;
    }
    room->buffer = room->scratch.data + (ALIGNMENT - (uintptr_t)room->scratch.data % ALIGNMENT);
    return room;
}

void lane_room_free(struct lane_room *room)
{
    if (room != NULL) {
        struct secret whole = room->whole;
        secret_free(&room->scratch);
        secret_free(&whole);
    }
}

/* ---- RSA ----------------------------------------------------------------------------------------------------------- */

static const int64u *number(const struct lane *lane, size_t offset)
{
    return (const int64u *)(const void *)(lane->key->numbers.data + offset);
}

static bool lane_fine(mbx_status status, unsigned lane)
{
    return MBX_GET_STS(status, (int)lane) == MBX_STATUS_OK;
}

static void run_rsa(struct lane_room *room, const struct kind *kind, struct lane *lanes, unsigned count)
{
    size_t half = kind->width / 2;
    int bits = (int)kind->bits;
    const int8u *in[LANES], *signature[LANES];
    int8u *out[LANES], *check[LANES];
    const int64u *numbers[RSA_NUMBERS][LANES], *modulus[LANES];
    for (unsigned i = 0; i < LANES; i++) {
        const struct lane *lane = &lanes[i < count ? i : 0];
        in[i] = lane->in;
        signature[i] = out[i] = room->out[i];
        check[i] = room->check[i];
        for (size_t n = 0; n < RSA_NUMBERS; n++) {
            numbers[n][i] = number(lane, n * half);
        }
        modulus[i] = number(lane, RSA_NUMBERS * half);
    }
    mbx_status made = mbx_rsa_private_crt_mb8(in, out, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], bits,
                                              mbx_RSA_private_crt_Method(bits), room->buffer);
    mbx_status checked = mbx_rsa_public_mb8(signature, check, modulus, bits, mbx_RSA_pub65537_Method(bits), room->buffer);
    for (unsigned i = 0; i < count; i++) {
        lanes[i].done = lane_fine(made, i) && lane_fine(checked, i) && memory_equal(check[i], in[i], kind->width);
        memcpy(lanes[i].out, lanes[i].done ? out[i] : check[i], lanes[i].done ? kind->width : 0);
    }
    memory_wipe(room->out, sizeof room->out); /* of a wrong result one can take the primes */
    memory_wipe(room->check, sizeof room->check);
    memory_wipe(room->buffer, (size_t)mbx_RSA_Method_BufSize(mbx_RSA_private_crt_Method(bits)));
}

/* ---- ECDSA --------------------------------------------------------------------------------------------------------- */

static size_t words_of(const struct kind *kind)
{
    return (kind->bits + 63) / 64;
}

/* 0 < number < order, in the same time for all numbers. */
static bool in_range(const uint64_t *number, const uint64_t *order, size_t words)
{
    uint64_t any = 0, borrow = 0;
    for (size_t i = 0; i < words; i++) {
        unsigned __int128 difference = (unsigned __int128)number[i] - order[i] - borrow;
        borrow = (uint64_t)(difference >> 64) & 1;
        any |= number[i];
    }
    return (borrow & (any != 0)) != 0;
}

/* FIPS 186-5 A.3.2: as many random bits as the order has. One call for all: each has its price. */
static bool draw(uint64_t *out, const struct kind *kind, unsigned count)
{
    size_t words = words_of(kind);
    uint64_t top = kind->bits % 64 == 0 ? UINT64_MAX : (UINT64_C(1) << kind->bits % 64) - 1;
    bool drawn = RAND_priv_bytes_ex(evp_context(), (uint8_t *)out, count * words * WORD, 0) == 1;
    for (unsigned i = 0; i < count; i++) {
        out[(i + 1) * words - 1] &= top;
    }
    return drawn;
}

/* "If the number is not in range, draw again": so that none is likelier than another. */
static bool make_nonces(struct lane_room *room, const struct kind *kind, const uint64_t *order, unsigned count)
{
    size_t words = words_of(kind);
    bool drawn = draw(room->nonces, kind, count);
    for (unsigned i = 0; i < count && drawn; i++) {
        while (drawn && !in_range(room->nonces + i * words, order, words)) {
            drawn = draw(room->nonces + i * words, kind, 1);
        }
    }
    return drawn;
}

static void run_ecdsa(struct lane_room *room, enum lane_kind which, struct lane *lanes, unsigned count)
{
    const struct kind *kind = &kinds[which];
    int8u *r[LANES], *s[LANES];
    const int8u *message[LANES];
    const int64u *nonce[LANES], *key[LANES];
    bool ready = make_nonces(room, kind, lanes_state.orders[which], count);
    for (unsigned i = 0; i < LANES; i++) {
        unsigned from = i < count ? i : 0; /* the same nonce for the same message: the same signature again */
        r[i] = room->out[i];
        s[i] = room->out[i] + kind->width;
        message[i] = lanes[from].in;
        nonce[i] = (const int64u *)(room->nonces + from * words_of(kind));
        key[i] = number(&lanes[from], 0);
    }
    mbx_status status = ready ? kind->sign(r, s, message, nonce, key, NULL) : MBX_SET_STS_ALL(MBX_STATUS_NULL_PARAM_ERR);
    memory_wipe(room->nonces, sizeof room->nonces);
    for (unsigned i = 0; i < count; i++) {
        lanes[i].done = lane_fine(status, i);
        memcpy(lanes[i].out, room->out[i], 2 * kind->width);
    }
}

/* ---- Ed25519 ------------------------------------------------------------------------------------------------------- */

static void run_ed25519(struct lane_room *room, struct lane *lanes, unsigned count)
{
    ed25519_sign_component *r[LANES], *s[LANES];
    const ed25519_private_key *private[LANES];
    const ed25519_public_key *public[LANES];
    const int8u *message[LANES];
    int32u len[LANES];
    for (unsigned i = 0; i < LANES; i++) {
        const struct lane *lane = &lanes[i < count ? i : 0];
        r[i] = (ed25519_sign_component *)room->out[i];
        s[i] = (ed25519_sign_component *)(room->out[i] + ED25519_WIDTH);
        private[i] = (const ed25519_private_key *)lane->key->numbers.data;
        public[i] = (const ed25519_public_key *)(lane->key->numbers.data + ED25519_WIDTH);
        message[i] = lane->in;
        len[i] = lane->in_len;
    }
    mbx_status status = mbx_ed25519_sign_mb8(r, s, message, len, private, public);
    for (unsigned i = 0; i < count; i++) {
        lanes[i].done = lane_fine(status, i);
        memcpy(lanes[i].out, room->out[i], 2 * ED25519_WIDTH);
    }
}

/* ---- all of them --------------------------------------------------------------------------------------------------- */

/* crypto_mb keeps vectors on the stack that it does not align, so the place within a cache line where its stack begins decides
 * what its loads cost: eight signatures of RSA-3072 take 3.6 or 5.3 ms. Which place suits a kind is measured. */
static _Atomic unsigned stack_places[LANE_KINDS];

/* Not inlined: from the same place, the same code. */
static __attribute__((noinline)) void run_from(unsigned place, struct lane_room *room, enum lane_kind kind, struct lane *lanes,
                                               unsigned count)
{
    uintptr_t here = (uintptr_t)__builtin_alloca(LANE_STACK_STEP);
    volatile uint8_t *gap = __builtin_alloca((here - place * LANE_STACK_STEP) % ALIGNMENT + 1);
    gap[0] = 0; /* so that it is there */
    switch (kind) {
    case LANE_RSA2048:
    case LANE_RSA3072:
    case LANE_RSA4096: run_rsa(room, &kinds[kind], lanes, count); break;
    case LANE_P256:
    case LANE_P384:
    case LANE_P521: run_ecdsa(room, kind, lanes, count); break;
    case LANE_ED25519: run_ed25519(room, lanes, count); break;
    case LANE_NONE:
    case LANE_KINDS: break;
    }
}

void lanes_run(struct lane_room *room, enum lane_kind kind, struct lane *lanes, unsigned count)
{
    run_from(atomic_load_explicit(&stack_places[kind], memory_order_relaxed), room, kind, lanes, count);
}

void lanes_begin_stack(enum lane_kind kind, unsigned place)
{
    atomic_store_explicit(&stack_places[kind], place, memory_order_relaxed);
}
