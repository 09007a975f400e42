/* Batches: every place of every kind, mixed with requests that fail, verified by OpenSSL; each answer is the one that the request
 * gets alone. Without lanes on this machine there is nothing to test (status 77). */
#include <pthread.h>

#include "batch.h"
#include "crypto_fixture.h"

enum { MODULUS_MAX = 512, NONCES = 20000 };

static struct batch_table table;
static struct batch *batch;

static void set_table(uint32_t from)
{
    for (int kind = 0; kind < LANE_KINDS; kind++) {
        atomic_store(&table.from[kind], from);
    }
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

enum { RSA_A, RSA_B, RSA_3072, RSA_4096, P256_A, P256_B, P384, P521, ED_A, ED_B, P224, K256, HMAC, KEYS };

static struct pair {
    struct key_object *private, *public;
} keys[KEYS];

static void make_pair(int at, struct owned_material material)
{
    struct owned_material public = public_of(&material);
    keys[at] = (struct pair){open_key(&material), open_key(&public)};
    key_object_widen(keys[at].private);
}

static void make_curve(int at, uint64_t type, const char *params)
{
    struct bytes encoded = unhex(params);
    make_pair(at, generate(type, encoded.data, encoded.len));
}

static void make_keys(void)
{
    make_pair(RSA_A, generate_rsa(2048));
    make_pair(RSA_B, generate_rsa(2048));
    make_pair(RSA_3072, generate_rsa(3072));
    make_pair(RSA_4096, generate_rsa(4096));
    make_curve(P256_A, CKK_EC, "06082a8648ce3d030107");
    make_curve(P256_B, CKK_EC, "06082a8648ce3d030107");
    make_curve(P384, CKK_EC, "06052b81040022");
    make_curve(P521, CKK_EC, "06052b81040023");
    make_curve(ED_A, CKK_EC_EDWARDS, "06032b6570");
    make_curve(ED_B, CKK_EC_EDWARDS, "06032b6570");
    make_curve(P224, CKK_EC, "06052b81040021");
    make_curve(K256, CKK_EC, "06052b8104000a");
    keys[HMAC].private = secret_key(CKK_GENERIC_SECRET, "000102030405060708090a0b0c0d0e0f");
    key_object_widen(keys[HMAC].private);
    for (int i = 0; i < KEYS; i++) {
        CHECK((keys[i].private->lanes.kind != LANE_NONE) == (i < P224));
    }
}

static void free_keys(void)
{
    for (int i = 0; i < KEYS; i++) {
        key_object_free(keys[i].private);
        key_object_free(keys[i].public);
    }
}

/* ---- one batch ------------------------------------------------------------------------------------------------------- */

struct wish {
    int key;
    struct wire_mechanism mechanism;
    bool digested;
    struct bytes data;
    uint64_t rv;
    struct bytes out;
};

static struct wire_mechanism plain(uint64_t type)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_NONE};
}

static struct wire_mechanism pss(uint64_t type, uint64_t hash, uint64_t mgf, uint64_t salt)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_PSS, .as.pss = {hash, mgf, salt}};
}

static uint64_t finish(unsigned place, struct bytes *out)
{
    RUN_OPERATION(batch_finish(batch, place, writer), out, NULL);
}

static bool add_sign(unsigned place, const struct wish *wish)
{
    const struct wire_sign_request request = {.mechanism = wish->mechanism, .digested = wish->digested, .data = view(&wish->data)};
    return batch_add_sign(batch, place, keys[wish->key].private, &request);
}

static bool add_decrypt(unsigned place, const struct wish *wish)
{
    const struct wire_decrypt_request request = {.mechanism = wish->mechanism, .data = view(&wish->data)};
    return batch_add_decrypt(batch, place, keys[wish->key].private, &request);
}

/* All that was added gets its answer once. */
static void answer_all(struct wish *wishes, uint32_t added)
{
    uint32_t answered = 0;
    for (uint32_t due; (due = batch_compute(batch)) != 0;) {
        CHECK((answered & due) == 0);
        answered |= due;
        for (; due != 0; due &= due - 1) {
            unsigned place = (unsigned)__builtin_ctz(due);
            wishes[place].rv = finish(place, &wishes[place].out);
        }
    }
    CHECK(answered == added);
}

static void sign_together(struct wish *wishes, unsigned count)
{
    uint32_t added = 0;
    for (unsigned i = 0; i < count; i++) {
        if (add_sign(i, &wishes[i])) {
            added |= 1u << i;
        } else {
            wishes[i].rv = do_sign(keys[wishes[i].key].private, &wishes[i].mechanism, wishes[i].digested, &wishes[i].data, &wishes[i].out);
        }
    }
    answer_all(wishes, added);
}

static void check_signed(const struct wish *wish)
{
    struct bytes again;
    uint64_t alone = do_sign(keys[wish->key].private, &wish->mechanism, wish->digested, &wish->data, &again);
    CHECK_EQ(wish->rv, alone);
    if (alone != CKR_OK) {
        return;
    }
    CHECK_EQ(wish->out.len, again.len);
    const struct key_object *verifier = keys[wish->key].public != NULL ? keys[wish->key].public : keys[wish->key].private;
    CHECK_EQ(do_verify(verifier, &wish->mechanism, wish->digested, &wish->data, &wish->out), CKR_OK);
}

static void check_together(struct wish *wishes, unsigned count)
{
    sign_together(wishes, count);
    for (unsigned i = 0; i < count; i++) {
        check_signed(&wishes[i]);
    }
}

/* ---- signatures -------------------------------------------------------------------------------------------------------- */

static struct wish wish(int key, struct wire_mechanism mechanism, bool digested, size_t len, unsigned seed)
{
    struct wish out = {.key = key, .mechanism = mechanism, .digested = digested, .data = {.len = len}};
    for (size_t i = 0; i < len; i++) {
        out.data.data[i] = (uint8_t)(seed * 31 + i * 7 + 1);
    }
    return out;
}

static struct wish wishes[LANES];

/* Each number of each kind, alone and together with its twin. */
static void test_every_place(void)
{
    static const struct {
        int key, twin;
        uint64_t mechanism;
        size_t len;
    } kinds[] = {
        {RSA_A, RSA_B, CKM_RSA_PKCS, 51},  {RSA_3072, RSA_3072, CKM_RSA_PKCS, 51}, {RSA_4096, RSA_4096, CKM_RSA_PKCS, 51},
        {P256_A, P256_B, CKM_ECDSA, 32},   {P384, P384, CKM_ECDSA, 48},            {P521, P521, CKM_ECDSA, 64},
        {ED_A, ED_B, CKM_EDDSA, 100},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (unsigned count = 1; count <= LANES; count++) {
            for (unsigned i = 0; i < count; i++) {
                wishes[i] = wish(i % 3 == 1 ? kinds[k].twin : kinds[k].key, plain(kinds[k].mechanism), false, kinds[k].len, count * 8 + i);
            }
            check_together(wishes, count);
        }
    }
}

static const struct {
    uint64_t pkcs, pss, ecdsa, hash, mgf;
    size_t size;
} hashes[] = {
    {CKM_SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS, CKM_ECDSA_SHA1, CKM_SHA_1, CKG_MGF1_SHA1, 20},
    {CKM_SHA224_RSA_PKCS, CKM_SHA224_RSA_PKCS_PSS, CKM_ECDSA_SHA224, CKM_SHA224, CKG_MGF1_SHA224, 28},
    {CKM_SHA256_RSA_PKCS, CKM_SHA256_RSA_PKCS_PSS, CKM_ECDSA_SHA256, CKM_SHA256, CKG_MGF1_SHA256, 32},
    {CKM_SHA384_RSA_PKCS, CKM_SHA384_RSA_PKCS_PSS, CKM_ECDSA_SHA384, CKM_SHA384, CKG_MGF1_SHA384, 48},
    {CKM_SHA512_RSA_PKCS, CKM_SHA512_RSA_PKCS_PSS, CKM_ECDSA_SHA512, CKM_SHA512, CKG_MGF1_SHA512, 64},
};
enum { HASHES = sizeof hashes / sizeof *hashes };

/* Every encoding, of data and of digests, in one batch. PKCS#1 v1.5 is deterministic: the same bytes as OpenSSL's. */
static void test_encodings(void)
{
    for (size_t h = 0; h < HASHES; h++) {
        for (size_t m = 0; m < HASHES; m++) {
            size_t size = hashes[h].size;
            wishes[0] = wish(RSA_A, plain(hashes[h].pkcs), false, 300, 1);
            wishes[1] = wish(RSA_B, plain(hashes[h].pkcs), true, size, 2);
            wishes[2] = wish(RSA_A, pss(hashes[h].pss, hashes[h].hash, hashes[m].mgf, 9 * m), false, 77, 3);
            wishes[3] = wish(RSA_B, pss(CKM_RSA_PKCS_PSS, hashes[h].hash, hashes[m].mgf, 256 - 2 - size), false, size, 4);
            wishes[4] = wish(P256_A, plain(hashes[h].ecdsa), false, 200, 5);
            wishes[5] = wish(P256_B, plain(hashes[h].ecdsa), true, size, 6);
            wishes[6] = wish(RSA_A, plain(CKM_RSA_X_509), false, 200, 7);
            wishes[7] = wish(P521, plain(hashes[h].ecdsa), true, size, 8);
            check_together(wishes, LANES);
            for (int i = 0; i < 2; i++) {
                struct bytes alone;
                CHECK_EQ(do_sign(keys[wishes[i].key].private, &wishes[i].mechanism, wishes[i].digested, &wishes[i].data, &alone), CKR_OK);
                CHECK_EQ_MEM(wishes[i].out.data, wishes[i].out.len, alone.data, alone.len);
            }
        }
    }
}

/* Digests shorter and longer than the order, zero, all ones, and the order itself with its neighbours. */
static void test_ecdsa_edges(void)
{
    static const struct {
        int key;
        const char *order;
    } curves[] = {
        {P256_A, "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"},
        {P384, "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973"},
        {P521, "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b88"
               "99c47aebb6fb71e91386409"},
    };
    for (size_t c = 0; c < sizeof curves / sizeof *curves; c++) {
        struct bytes order = unhex(curves[c].order);
        for (size_t len = 1; len <= 140; len += len < order.len - 2 ? 13 : 1) {
            for (unsigned i = 0; i < LANES; i++) {
                wishes[i] = wish(curves[c].key, plain(CKM_ECDSA), false, len, i);
                memset(wishes[i].data.data, i == 1 ? 0xFF : 0, i == 0 || i == 1 ? len : 0);
                wishes[i].data.data[0] = i == 2 ? 0x80 : i == 3 ? 0x01 : wishes[i].data.data[0];
            }
            for (unsigned i = 4; i < 7 && len == order.len; i++) { /* n - 1, n, n + 1 */
                wishes[i].data = order;
                wishes[i].data.data[len - 1] = (uint8_t)(order.data[len - 1] + i - 5);
            }
            check_together(wishes, LANES);
        }
    }
}

/* Deterministic, so the same bytes; messages of many lengths side by side. */
static void test_ed25519(void)
{
    for (size_t len = 0; len < 400; len += 3) {
        for (unsigned i = 0; i < LANES; i++) {
            wishes[i] = wish(i % 2 == 0 ? ED_A : ED_B, plain(CKM_EDDSA), false, i == 3 ? 2000 : len + i % 2, i);
        }
        wishes[5].mechanism = (struct wire_mechanism){.type = CKM_EDDSA, .kind = WIRE_KIND_EDDSA, .as.eddsa = {1, {NULL, 0}}};
        wishes[6].digested = true;
        check_together(wishes, LANES);
        for (unsigned i = 0; i < LANES; i++) {
            struct bytes alone;
            CHECK_EQ(do_sign(keys[wishes[i].key].private, &wishes[i].mechanism, wishes[i].digested, &wishes[i].data, &alone), wishes[i].rv);
            CHECK(wishes[i].rv != CKR_OK || memcmp(alone.data, wishes[i].out.data, 64) == 0);
        }
    }
}

/* ---- neighbours ----------------------------------------------------------------------------------------------------------- */

static struct wish failing(unsigned number, unsigned seed)
{
    struct wish out;
    switch (number) {
    case 0: return wish(RSA_A, plain(CKM_RSA_PKCS), false, 246, seed);
    case 1: /* above the modulus */
        out = wish(RSA_B, plain(CKM_RSA_X_509), false, 256, seed);
        memset(out.data.data, 0xFF, 256);
        return out;
    case 2: return wish(RSA_A, plain(CKM_ECDSA), false, 32, seed);
    case 3: return wish(P256_A, plain(CKM_ECDSA), false, 0, seed);
    case 4: return wish(P256_B, plain(CKM_RSA_PKCS), false, 32, seed);
    case 5: return wish(RSA_B, pss(CKM_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 223), false, 32, seed);
    case 6: return wish(ED_A, plain(CKM_ECDSA), false, 32, seed);
    case 7: return wish(RSA_A, plain(CKM_SHA256_RSA_PKCS), true, 31, seed);
    case 8: return wish(P521, plain(CKM_ECDSA_SHA256), true, 20, seed);
    default: return wish(HMAC, plain(CKM_AES_CMAC), false, 20, seed);
    }
}
enum { FAILURES = 10 };

static struct wish sound(unsigned number, unsigned seed)
{
    switch (number % 9) {
    case 0:
    case 1: return wish(RSA_A, plain(CKM_RSA_PKCS), false, 51, seed);
    case 2: return wish(RSA_B, pss(CKM_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32), false, 32, seed);
    case 3: return wish(P256_A, plain(CKM_ECDSA), false, 32, seed);
    case 4: return wish(P256_B, plain(CKM_ECDSA_SHA384), false, 32, seed);
    case 5: return wish(ED_B, plain(CKM_EDDSA), false, 32, seed);
    case 6: return wish(K256, plain(CKM_ECDSA), false, 32, seed);
    case 7: return wish(HMAC, plain(CKM_SHA256_HMAC), false, 32, seed);
    default: return wish(P384, plain(CKM_ECDSA), false, 48, seed);
    }
}

/* A request that fails, at every place, among sound ones of its own and of other kinds. */
static void test_failing_neighbours(void)
{
    for (unsigned failure = 0; failure < FAILURES; failure++) {
        for (unsigned place = 0; place < LANES; place++) {
            for (unsigned mixed = 0; mixed < 2; mixed++) {
                for (unsigned i = 0; i < LANES; i++) {
                    wishes[i] = sound(mixed != 0 ? i + place : failure == 3 || failure == 4 ? 3 + i % 2 : i % 3, place * 8 + i);
                }
                wishes[place] = failing(failure, place);
                check_together(wishes, LANES);
                CHECK(wishes[place].rv != CKR_OK);
                for (unsigned i = 0; i < LANES; i++) {
                    CHECK(i == place || wishes[i].rv == CKR_OK);
                }
            }
        }
    }
}

/* One wrong bit in a number of a key as the lanes read it, at every place: the lane gives nothing out, the others are right,
 * and the request gets a good signature from elsewhere. */
static void test_faults(void)
{
    struct lane_room *room = lane_room_new();
    static struct lane lanes[LANES];
    static uint8_t blocks[LANES][MODULUS_MAX];
    static const uint8_t nothing[LANE_BLOCK];
    struct key_object *weak = keys[RSA_B].private;
    CHECK(room != NULL);
    for (size_t number = 0; number < 5; number++) {
        for (unsigned place = 0; place < LANES; place++) {
            uint8_t *fault = weak->lanes.numbers.data + number * 128 + 13 * place + 8;
            *fault ^= (uint8_t)(1u << place);
            for (unsigned i = 0; i < LANES; i++) {
                memset(blocks[i], (int)(i + 1), 256);
                blocks[i][0] = 0;
                lanes[i] = (struct lane){.key = &keys[i == place ? RSA_B : RSA_A].private->lanes, .in = blocks[i]};
                wishes[i] = wish(i == place ? RSA_B : RSA_A, plain(CKM_SHA256_RSA_PKCS), false, 99, i);
            }
            lanes_run(room, LANE_RSA2048, lanes, LANES);
            for (unsigned i = 0; i < LANES; i++) {
                CHECK_EQ(lanes[i].done, i != place);
                CHECK((memcmp(lanes[i].out, nothing, sizeof nothing) == 0) == (i == place));
            }
            check_together(wishes, LANES);
            *fault ^= (uint8_t)(1u << place);
        }
    }
    lane_room_free(room);
}

/* ---- nonces ---------------------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 32);
}

/* r is the nonce's point: no two signatures, of one digest or of several, under one key or two, have the same. Their high bits
 * are not all alike either. */
static void test_nonces(void)
{
    static uint8_t all[NONCES][32];
    unsigned high = 0;
    for (size_t at = 0; at < NONCES; at += LANES) {
        for (unsigned i = 0; i < LANES; i++) {
            wishes[i] = wish(i % 2 == 0 ? P256_A : P256_B, plain(CKM_ECDSA), false, 32, i / 4);
        }
        sign_together(wishes, LANES);
        for (unsigned i = 0; i < LANES; i++) {
            CHECK_EQ(wishes[i].rv, CKR_OK);
            memcpy(all[at + i], wishes[i].out.data, 32);
            high += wishes[i].out.data[0] >> 7;
        }
    }
    CHECK(high > NONCES / 2 - 500 && high < NONCES / 2 + 500); /* seven standard deviations */
    qsort(all, NONCES, sizeof *all, compare);
    for (size_t i = 1; i < NONCES; i++) {
        CHECK(memcmp(all[i - 1], all[i], 32) != 0);
    }
}

/* ---- decryption --------------------------------------------------------------------------------------------------------------- */

static struct wish sealed(unsigned number, unsigned seed)
{
    static const struct bytes label = {{'l', 'a', 'b', 'e', 'l'}, 5};
    struct wish out = wish(seed % 2 == 0 ? RSA_A : RSA_B, plain(number % 3 == 0 ? CKM_RSA_PKCS : CKM_RSA_X_509), false, 20, seed);
    if (number % 3 == 2) {
        out.mechanism = (struct wire_mechanism){.type = CKM_RSA_PKCS_OAEP, .kind = WIRE_KIND_OAEP,
                                                .as.oaep = {hashes[seed % HASHES].hash, hashes[seed % 3].mgf, CKZ_DATA_SPECIFIED, view(&label)}};
    }
    struct bytes message = out.data, iv;
    CHECK_EQ(do_encrypt(keys[out.key].public, &out.mechanism, &message, &out.data, &iv), CKR_OK);
    return out;
}

static void test_decrypt(void)
{
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < LANES; i++) {
            wishes[i] = sealed(i + round, i + 3 * round);
        }
        wishes[round % LANES].data.data[100] ^= 1;                       /* another content, most likely a bad padding */
        wishes[(round + 3) % LANES].data.len = round % 3 == 0 ? 255 : 256; /* a bad length */
        memset(wishes[(round + 5) % LANES].data.data, round % 5 == 0 ? 0xFF : 0, round % 5 < 2 ? 256 : 0);
        for (unsigned i = 0; i < LANES; i++) {
            CHECK(add_decrypt(i, &wishes[i]));
        }
        answer_all(wishes, 0xFF);
        for (unsigned i = 0; i < LANES; i++) {
            struct bytes alone;
            uint64_t rv = do_decrypt(keys[wishes[i].key].private, &wishes[i].mechanism, &wishes[i].data, &alone);
            CHECK_EQ(wishes[i].rv, rv);
            CHECK(rv != CKR_OK || (alone.len == wishes[i].out.len && memcmp(alone.data, wishes[i].out.data, alone.len) == 0));
        }
    }
}

/* ---- the table --------------------------------------------------------------------------------------------------------------- */

/* Below what pays, and where nothing pays, the same answers come from OpenSSL. */
static void test_choice(void)
{
    for (uint32_t from = 2; from <= LANES + 1; from++) {
        set_table(from);
        for (unsigned count = 1; count <= LANES; count++) {
            for (unsigned i = 0; i < count; i++) {
                wishes[i] = sound(i * from, i);
            }
            check_together(wishes, count);
        }
        CHECK(add_sign(0, &wishes[0]) == (from <= LANES));
        answer_all(wishes, from <= LANES);
    }
    set_table(1);
}

static void test_measured(void)
{
    static struct batch_table measured;
    static const _Atomic bool stop = false, stopped = true;
    batch_table_init(&measured);
    batch_table_measure(&measured, &stopped);
    CHECK_EQ(atomic_load(&measured.from[LANE_P256]), LANES + 1);
    batch_table_measure(&measured, &stop);
    for (int kind = LANE_NONE + 1; kind < LANE_KINDS; kind++) {
        uint32_t from = atomic_load(&measured.from[kind]);
        CHECK(from >= 1 && from <= LANES + 1);
        CHECK(kind <= LANE_RSA4096 || from <= LANES); /* what it measured was signed, not refused */
    }
    CHECK(atomic_load(&measured.from[LANE_P256]) > 1); /* OpenSSL's one takes half of eight in lanes */
}

/* Threads have batches of their own and share keys. */
static void *sign_in_thread(void *unused)
{
    struct crypto_worker *mine = crypto_worker_new();
    struct batch *own = batch_new(mine, &table);
    uint8_t room[2 * MODULUS_MAX], digest[32] = {1};
    CHECK(mine != NULL && own != NULL);
    for (int round = 0; round < 30; round++) {
        for (unsigned i = 0; i < LANES; i++) {
            bool rsa = round % 5 == 0;
            const struct wire_sign_request request = {.mechanism = plain(rsa ? CKM_RSA_PKCS : CKM_ECDSA), .data = wire_bytes(digest, 32)};
            CHECK(batch_add_sign(own, i, keys[rsa ? RSA_A : P256_A].private, &request));
        }
        for (uint32_t due; (due = batch_compute(own)) != 0;) {
            for (; due != 0; due &= due - 1) {
                struct wire_writer writer = wire_writer(room, sizeof room);
                CHECK_EQ(batch_finish(own, (unsigned)__builtin_ctz(due), &writer), CKR_OK);
            }
        }
    }
    batch_free(own);
    crypto_worker_free(mine);
    return unused;
}

static void test_threads(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, sign_in_thread, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
}

int main(void)
{
    fixture_start();
    if (!lanes_there()) {
        fixture_stop();
        return 77;
    }
    batch_table_init(&table);
    set_table(1);
    batch = batch_new(worker, &table);
    CHECK(batch != NULL);
    make_keys();
    test_every_place();
    test_encodings();
    test_ecdsa_edges();
    test_ed25519();
    test_failing_neighbours();
    test_faults();
    test_nonces();
    test_decrypt();
    test_choice();
    test_measured();
    test_threads();
    free_keys();
    batch_free(batch);
    fixture_stop();
    return 0;
}
