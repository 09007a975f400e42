/* Hot operations on symmetric keys: once a thread has run one, it allocates nothing for the next, and contexts that are used again
 * answer as new ones do. The linker hands this program's malloc, calloc and realloc to the counters here (tests/native/meson.build);
 * OpenSSL hands over its own. */
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "crypto_fixture.h"

enum { ROUNDS = 20, DATA = 4096, ANSWER = DATA + 2 * CIPHER_EXTRA };

static unsigned long allocations;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *__wrap_malloc(size_t size)
{
    allocations++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    allocations++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    allocations++;
    return __real_realloc(old, size);
}

static void *ssl_malloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return __wrap_malloc(size);
}

static void *ssl_realloc(void *old, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return __wrap_realloc(old, size);
}

static void ssl_free(void *old, const char *file, int line)
{
    (void)file;
    (void)line;
    free(old);
}

/* ---- operations ---------------------------------------------------------------------------------------------------------- */

static const char aes_value[] = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
static uint8_t iv[16] = {0x80}, data[DATA], sealed[ANSWER], opened[ANSWER];
static const uint8_t aad[] = "header";

struct outcome {
    uint64_t rv;
    struct wire_writer out; /* in the room that the caller gave */
};

static struct outcome encrypt(const struct key_object *key, const struct wire_mechanism *mechanism, size_t len, uint8_t *room)
{
    const struct wire_encrypt_request request = {.mechanism = *mechanism, .data = wire_bytes(data, (uint32_t)len)};
    struct outcome outcome = {.out = wire_writer(room, sizeof sealed)};
    outcome.rv = op_encrypt(worker, key, &request, &outcome.out);
    return outcome;
}

static struct outcome decrypt(const struct key_object *key, const struct wire_mechanism *mechanism, struct wire_bytes text, uint8_t *room)
{
    const struct wire_decrypt_request request = {.mechanism = *mechanism, .data = text};
    struct outcome outcome = {.out = wire_writer(room, sizeof opened)};
    outcome.rv = op_decrypt(worker, key, &request, &outcome.out);
    return outcome;
}

static struct wire_bytes field(const struct outcome *outcome)
{
    struct wire_reader reader = wire_reader(outcome->out.data, outcome->out.len);
    struct wire_bytes out;
    CHECK_EQ(outcome->rv, CKR_OK);
    CHECK(wire_get_bytes(&reader, &out) == WIRE_OK);
    return out;
}

static const struct wire_mechanism ciphers[] = {
    {.type = CKM_AES_ECB, .kind = WIRE_KIND_NONE},
    {.type = CKM_AES_CBC, .kind = WIRE_KIND_IV, .as.iv = {{iv, 16}}},
    {.type = CKM_AES_CBC_PAD, .kind = WIRE_KIND_IV, .as.iv = {{iv, 16}}},
    {.type = CKM_AES_CTR, .kind = WIRE_KIND_CTR, .as.ctr = {128, {iv, 16}}},
    {.type = CKM_AES_GCM, .kind = WIRE_KIND_GCM, .as.gcm = {{iv, 12}, 96, {aad, sizeof aad}, 128}},
    {.type = CKM_AES_GCM, .kind = WIRE_KIND_GCM, .as.gcm = {{iv, 16}, 128, {NULL, 0}, 96}},
};
enum { CIPHERS = sizeof ciphers / sizeof *ciphers };

static void check_round(const struct key_object *key, const struct wire_mechanism *mechanism, size_t len)
{
    struct outcome there = encrypt(key, mechanism, len, sealed);
    struct outcome back = decrypt(key, mechanism, field(&there), opened);
    struct wire_bytes out = field(&back);
    CHECK_EQ_MEM(out.data, out.len, data, len);
}

static void test_ciphers_allocate_nothing(void)
{
    for (int i = 0; i < CIPHERS; i++) {
        struct key_object *aes = secret_key(CKK_AES, aes_value); /* a key keeps a handful of contexts */
        check_round(aes, &ciphers[i], DATA);
        unsigned long before = allocations;
        for (int round = 0; round < ROUNDS; round++) {
            iv[1]++;
            check_round(aes, &ciphers[i], DATA - 16 * (size_t)round);
        }
        CHECK_EQ(allocations, before);
        key_object_free(aes);
    }
}

/* The IV, the length, the mechanism and what failed before change nothing: another object of the same key says so. */
static void test_used_contexts_answer_as_new_ones(void)
{
    static uint8_t fresh_room[sizeof sealed];
    struct key_object *used = secret_key(CKK_AES, aes_value);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CIPHERS; i++) {
            iv[2]++;
            struct key_object *fresh = secret_key(CKK_AES, aes_value);
            size_t len = 16 * (size_t)((round * 7 + i) % 5);
            struct outcome one = encrypt(used, &ciphers[i], len, sealed), other = encrypt(fresh, &ciphers[i], len, fresh_room);
            struct wire_bytes got = field(&one), expected = field(&other);
            CHECK_EQ_MEM(got.data, got.len, expected.data, expected.len);
            if (ciphers[i].kind == WIRE_KIND_GCM) {
                sealed[got.data - sealed] ^= 1;
                CHECK_EQ(decrypt(used, &ciphers[i], got, opened).rv, CKR_ENCRYPTED_DATA_INVALID);
                sealed[got.data - sealed] ^= 1;
            }
            struct outcome back = decrypt(used, &ciphers[i], got, opened);
            struct wire_bytes out = field(&back);
            CHECK_EQ_MEM(out.data, out.len, data, len);
            key_object_free(fresh);
        }
    }
    key_object_free(used);
}

/* OpenSSL's HMAC and CMAC are started again with allocations of their own: how many may not grow, and none is ours. */
static void test_macs(void)
{
    static const uint64_t mechanisms[] = {CKM_SHA256_HMAC, CKM_AES_CMAC};
    struct key_object *keys[] = {secret_key(CKK_GENERIC_SECRET, aes_value), secret_key(CKK_AES, aes_value)};
    for (int i = 0; i < 2; i++) {
        const struct wire_sign_request request = {
            .mechanism = {.type = mechanisms[i], .kind = WIRE_KIND_NONE}, .data = wire_bytes(data, DATA)};
        unsigned long first = 0;
        for (int round = 0; round < ROUNDS; round++) {
            struct wire_writer out = wire_writer(sealed, sizeof sealed);
            unsigned long before = allocations;
            CHECK_EQ(op_sign(worker, keys[i], &request, &out), CKR_OK);
            first = round == 1 ? allocations - before : first;
            CHECK(round < 2 || allocations - before == first);
        }
        printf("%s: %lu allocations by OpenSSL\n", i == 0 ? "HMAC" : "CMAC", first);
    }
    key_object_free(keys[0]);
    key_object_free(keys[1]);
}

static void test_random(void)
{
    const struct wire_random_request request = {32};
    unsigned long before = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct wire_writer out = wire_writer(sealed, sizeof sealed);
        before = round == 1 ? allocations : before;
        CHECK_EQ(op_random(worker, &request, &out), CKR_OK);
    }
    CHECK_EQ(allocations, before);
}

int main(void)
{
    CHECK(CRYPTO_set_mem_functions(ssl_malloc, ssl_realloc, ssl_free) == 1);
    fixture_start();
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 31);
    }
    test_ciphers_allocate_nothing();
    test_used_contexts_answer_as_new_ones();
    test_macs();
    test_random();
    fixture_stop();
    return 0;
}
