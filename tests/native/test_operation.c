/* The states, lengths and chains of operations. Behind them stands libcrypto in place of an HSM: the frames that would
 * travel are computed here one by one, each alone, as the HSM does; whole messages by libcrypto are what they must give. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "requests.h"

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)
#define IS(rv, expression) CHECK((expression) == (rv))
#define FINE(expression) IS(CKR_OK, expression)

/* ---- the HSM --------------------------------------------------------------------------------------------------- */

static const uint8_t secret[16] = "0123456789abcdef";
static struct session session;
static struct key_facts facts;
static bool cloudhsm;
static unsigned logouts;
static unsigned frames;
static size_t largest;

enum { KEY = 7, EVERYTHING = 0x1FF };

static void hsm_key(uint64_t key_type, uint32_t bits, uint32_t usage)
{
    facts = (struct key_facts){.key_type = key_type, .bits = bits, .usage = usage};
    frames = 0;
    largest = 0;
}

CK_RV session_enter(CK_SESSION_HANDLE handle, struct session **out)
{
    *out = &session;
    return handle == 1 ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

CK_RV session_leave(struct session *left, CK_RV rv)
{
    CHECK(left == &session);
    return rv;
}

unsigned slot_logins_ended(struct slot *slot)
{
    CHECK(slot == session.slot);
    return logouts;
}

bool module_cloudhsm(void)
{
    return cloudhsm;
}

CK_RV key_facts(struct session *of, CK_OBJECT_HANDLE key, struct key_facts *out)
{
    CHECK(of == &session);
    *out = facts;
    return key == KEY ? CKR_OK : CKR_KEY_HANDLE_INVALID;
}

static CK_RV answer(const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    size_t room = *out_len;
    *out_len = len;
    if (len > room) {
        return CKR_BUFFER_TOO_SMALL;
    }
    memcpy(out, data, len);
    return CKR_OK;
}

static CK_RV crypt(const struct wire_mechanism *mechanism, bool encrypt, struct wire_bytes data, uint8_t *result,
                   size_t *result_len, uint8_t made_iv[12])
{
    static const uint8_t hsm_iv[12] = "HSM's own iv";
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int len = 0, last = 0;
    bool gcm = mechanism->kind == WIRE_KIND_GCM;
    struct wire_bytes iv = {NULL, 0};
    const EVP_CIPHER *cipher = EVP_aes_128_ecb();
    if (mechanism->kind == WIRE_KIND_IV) {
        cipher = EVP_aes_128_cbc();
        iv = mechanism->as.iv.iv;
    } else if (mechanism->kind == WIRE_KIND_CTR) {
        cipher = EVP_aes_128_ctr();
        iv = mechanism->as.ctr.counter_block;
    } else if (gcm) {
        cipher = EVP_aes_128_gcm();
        iv = mechanism->as.gcm.iv;
        if (iv.len == 0) {
            iv = wire_bytes(hsm_iv, sizeof hsm_iv);
            memcpy(made_iv, hsm_iv, sizeof hsm_iv);
        }
    }
    CHECK(EVP_CipherInit_ex(ctx, cipher, NULL, NULL, NULL, encrypt) == 1);
    CHECK(!gcm || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, (int)iv.len, NULL) == 1);
    CHECK(EVP_CipherInit_ex(ctx, NULL, NULL, secret, iv.data, -1) == 1);
    EVP_CIPHER_CTX_set_padding(ctx, mechanism->type == CKM_AES_CBC_PAD);
    size_t tag = gcm ? mechanism->as.gcm.tag_bits / 8 : 0;
    size_t input = encrypt || !gcm ? data.len : data.len - tag;
    if (gcm) {
        CHECK(EVP_CipherUpdate(ctx, NULL, &len, mechanism->as.gcm.aad.data, (int)mechanism->as.gcm.aad.len) == 1);
        if (!encrypt) {
            CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, (int)tag, (void *)(uintptr_t)(data.data + input)) == 1);
        }
    }
    CHECK(input == 0 || EVP_CipherUpdate(ctx, result, &len, data.data, (int)input) == 1);
    len = input == 0 ? 0 : len;
    int good = EVP_CipherFinal_ex(ctx, result + len, &last);
    *result_len = (size_t)(len + last);
    if (gcm && encrypt) {
        CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, (int)tag, result + *result_len) == 1);
        *result_len += tag;
    }
    EVP_CIPHER_CTX_free(ctx);
    return good == 1 ? CKR_OK : CKR_ENCRYPTED_DATA_INVALID;
}

static CK_RV crypt_frame(const struct wire_mechanism *mechanism, bool encrypt, struct wire_bytes data, uint8_t *out,
                         size_t *out_len, uint8_t *iv)
{
    uint8_t *result = malloc(data.len + 64);
    uint8_t made[12];
    size_t len;
    frames++;
    largest = data.len > largest ? data.len : largest;
    CK_RV rv = crypt(mechanism, encrypt, data, result, &len, made);
    rv = rv == CKR_OK ? answer(result, len, out, out_len) : rv;
    if (iv != NULL) {
        memcpy(iv, made, sizeof made);
    }
    free(result);
    return rv;
}

CK_RV request_encrypt(struct session *of, const struct operation *operation, const struct wire_mechanism *mechanism,
                      struct wire_bytes data, uint8_t *out, size_t *out_len, uint8_t *iv)
{
    CHECK(of == &session && operation->key == KEY);
    return crypt_frame(mechanism, true, data, out, out_len, iv);
}

CK_RV request_decrypt(struct session *of, const struct operation *operation, const struct wire_mechanism *mechanism,
                      struct wire_bytes data, uint8_t *out, size_t *out_len)
{
    CHECK(of == &session && operation->key == KEY);
    return crypt_frame(mechanism, false, data, out, out_len, NULL);
}

static uint8_t mac_data[1 << 20]; /* one stream, numbered 9 */
static size_t mac_len;
static bool mac_open;

/* MACs are real; a signature is "the digest, or the data, and whether it was digested", as long as it must be. */
static CK_RV sign(const struct operation *operation, bool digested, struct wire_bytes data, uint8_t *out, size_t *out_len)
{
    uint8_t result[512] = {0};
    size_t size = mechanism_signature_size(operation->info, &operation->mechanism, operation->bits);
    frames++;
    largest = data.len > largest ? data.len : largest;
    if (operation->info->mac != 0) {
        HMAC(EVP_sha256(), secret, sizeof secret, data.data, data.len, result, NULL);
    } else {
        CHECK(data.len < size);
        memcpy(result, data.data, data.len);
        result[size - 1] = digested;
    }
    return answer(result, size, out, out_len);
}

CK_RV request_sign(struct session *of, const struct operation *operation, bool digested, struct wire_bytes data,
                   uint8_t *out, size_t *out_len)
{
    CHECK(of == &session);
    return sign(operation, digested, data, out, out_len);
}

CK_RV request_verify(struct session *of, const struct operation *operation, bool digested, struct wire_bytes data,
                     struct wire_bytes signature)
{
    uint8_t expected[512];
    size_t len = sizeof expected;
    CHECK(of == &session && sign(operation, digested, data, expected, &len) == CKR_OK && len == signature.len);
    return memcmp(expected, signature.data, len) == 0 ? CKR_OK : CKR_SIGNATURE_INVALID;
}

CK_RV request_sign_recover(struct session *of, const struct operation *operation, struct wire_bytes data, uint8_t *out,
                           size_t *out_len)
{
    CHECK(of == &session);
    return sign(operation, false, data, out, out_len);
}

CK_RV request_verify_recover(struct session *of, const struct operation *operation, struct wire_bytes signature,
                             uint8_t *out, size_t *out_len)
{
    CHECK(of == &session && operation->key == KEY);
    return answer(signature.data, 20, out, out_len);
}

CK_RV request_mac_begin(struct session *of, struct operation *operation, bool verify)
{
    (void)verify;
    CHECK(of == &session && !mac_open);
    mac_open = true;
    mac_len = 0;
    operation->stream = 9;
    return CKR_OK;
}

CK_RV request_mac_update(struct session *of, const struct operation *operation, struct wire_bytes data)
{
    CHECK(of == &session && operation->stream == 9 && mac_open && mac_len + data.len <= sizeof mac_data);
    memcpy(mac_data + mac_len, data.data, data.len);
    mac_len += data.len;
    frames++;
    largest = data.len > largest ? data.len : largest;
    return CKR_OK;
}

CK_RV request_mac_final(struct session *of, struct operation *operation, struct wire_bytes expected, uint8_t *out,
                        size_t *out_len)
{
    struct wire_bytes data = wire_bytes(mac_data, (uint32_t)mac_len);
    CHECK(mac_open && operation->stream == 9);
    mac_open = false;
    operation->stream = 0;
    return expected.data == NULL ? sign(operation, false, data, out, out_len)
                                 : request_verify(of, operation, false, data, expected);
}

void request_mac_cancel(struct session *of, struct operation *operation)
{
    CHECK(of == &session && mac_open);
    mac_open = false;
    operation->stream = 0;
}

/* ---- chains ---------------------------------------------------------------------------------------------------- */

enum { LONGEST = 300000 };
static uint8_t plain[LONGEST], cipher[LONGEST + 64], back[LONGEST + 64], expected[LONGEST + 64];
static uint8_t iv[16] = "initial vector..";
static CK_AES_CTR_PARAMS ctr = {128, "counter block 0"};
static CK_GCM_PARAMS gcm = {iv, 12, 96, plain, 21, 128};
static const struct {
    CK_MECHANISM mechanism;
    bool blocks; /* the length must be a multiple of the block */
} ciphers[] = {
    {{CKM_AES_ECB, NULL, 0}, true},
    {{CKM_AES_CBC, iv, sizeof iv}, true},
    {{CKM_AES_CBC_PAD, iv, sizeof iv}, false},
    {{CKM_AES_CTR, &ctr, sizeof ctr}, false},
    {{CKM_AES_GCM, &gcm, sizeof gcm}, false},
};
enum { CIPHERS = sizeof ciphers / sizeof *ciphers };

static uint32_t state = 1;
static size_t random_below(size_t limit)
{
    state = state * 1664525 + 1013904223;
    return (size_t)(state >> 8) % limit;
}

typedef CK_RV (*update)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
typedef CK_RV (*final)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG_PTR);

/* In random parts; each is asked for its size first, then given one byte too little, then exactly enough. */
static size_t in_parts(update part, final end, uint8_t *in, size_t len, uint8_t *out, size_t most)
{
    size_t done = 0, made = 0;
    CK_ULONG size, got;
    while (done < len) {
        size_t take = random_below(most) + 1;
        take = take < len - done ? take : len - done;
        FINE(part(1, in + done, take, NULL, &size));
        if (size > 0) {
            got = size - 1;
            IS(CKR_BUFFER_TOO_SMALL, part(1, in + done, take, out + made, &got));
            CHECK(got == size);
        }
        got = size;
        FINE(part(1, in + done, take, out + made, &got));
        CHECK(got == size);
        done += take;
        made += got;
    }
    FINE(end(1, NULL, &size));
    got = size;
    FINE(end(1, out + made, &got));
    CHECK(got <= size);
    return made + got;
}

static size_t whole(const CK_MECHANISM *mechanism, size_t len)
{
    struct wire_mechanism wire;
    size_t expected_len;
    FINE(mechanism_convert(mechanism, CKF_ENCRYPT, false, NULL, &wire, NULL));
    FINE(crypt(&wire, true, wire_bytes(plain, (uint32_t)len), expected, &expected_len, NULL));
    return expected_len;
}

static void check_round(const CK_MECHANISM *given, size_t len, size_t most, bool in_place)
{
    CK_MECHANISM mechanism = *given;
    size_t expected_len = whole(given, len);
    uint8_t *source = in_place ? cipher : plain;
    memcpy(cipher, plain, len);
    FINE(C_EncryptInit(1, &mechanism, KEY));
    CHECK(in_parts(C_EncryptUpdate, C_EncryptFinal, source, len, cipher, most) == expected_len);
    CHECK(memcmp(cipher, expected, expected_len) == 0);
    FINE(C_DecryptInit(1, &mechanism, KEY));
    memcpy(back, cipher, expected_len);
    CHECK(in_parts(C_DecryptUpdate, C_DecryptFinal, in_place ? back : cipher, expected_len, back, most) == len);
    CHECK(memcmp(back, plain, len) == 0);
    CK_ULONG got = expected_len;
    FINE(C_EncryptInit(1, &mechanism, KEY));
    FINE(C_Encrypt(1, plain, len, cipher, &got));
    CHECK(got == expected_len && memcmp(cipher, expected, got) == 0);
    FINE(C_DecryptInit(1, &mechanism, KEY));
    got = len; /* exactly enough, although CBC_PAD's size query says more */
    FINE(C_Decrypt(1, cipher, expected_len, back, &got));
    CHECK(got == len && memcmp(back, plain, len) == 0);
}

static void test_chains(void)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 31, 32, 33, 4096, 61439, 61440, 61441, 61456, 122880, 200003, LONGEST};
    for (size_t i = 0; i < sizeof plain; i++) {
        plain[i] = (uint8_t)(i * 7 + i / 251);
    }
    hsm_key(CKK_AES, 128, EVERYTHING);
    for (size_t c = 0; c < CIPHERS; c++) {
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            size_t len = ciphers[c].blocks ? lengths[l] / 16 * 16 : lengths[l];
            check_round(&ciphers[c].mechanism, len, len < 5000 ? 40 : 100000, false);
            check_round(&ciphers[c].mechanism, len, len < 5000 ? 40 : 100000, ciphers[c].mechanism.mechanism != CKM_AES_GCM);
        }
    }
}

/* A key that allows CBC_PAD only sees no CBC frame: the message is gathered. */
static void test_gathered_padding(void)
{
    hsm_key(CKK_AES, 128, EVERYTHING);
    static const uint64_t only[] = {CKM_AES_CBC_PAD};
    facts.allowed_count = 1;
    memcpy(facts.allowed, only, sizeof only);
    check_round(&ciphers[2].mechanism, 1000, 90, false);
    frames = 0;
    CK_MECHANISM mechanism = ciphers[2].mechanism;
    FINE(C_EncryptInit(1, &mechanism, KEY));
    CHECK(in_parts(C_EncryptUpdate, C_EncryptFinal, plain, 1000, cipher, 90) == 1008 && frames == 1);
}

static void test_frame_sizes(void)
{
    CK_MECHANISM cbc = ciphers[1].mechanism, ecdsa = {CKM_ECDSA_SHA256, NULL, 0};
    CK_ULONG got = sizeof cipher;
    hsm_key(CKK_AES, 128, EVERYTHING);
    FINE(C_EncryptInit(1, &cbc, KEY));
    FINE(C_Encrypt(1, plain, 16000, cipher, &got));
    CHECK(frames == 1);
    got = sizeof cipher;
    FINE(C_EncryptInit(1, &cbc, KEY));
    FINE(C_Encrypt(1, plain, LONGEST, cipher, &got));
    CHECK(frames == 1 + (LONGEST + OPERATION_CHUNK - 1) / OPERATION_CHUNK && largest == OPERATION_CHUNK);
    hsm_key(CKK_EC, 256, EVERYTHING);
    FINE(C_SignInit(1, &ecdsa, KEY));
    got = sizeof cipher;
    FINE(C_Sign(1, plain, LONGEST, cipher, &got));
    CHECK(frames == 1 && largest == 32 && got == 64);
}

static void test_counter(void)
{
    CK_AES_CTR_PARAMS params = {.ulCounterBits = 8};
    CK_MECHANISM mechanism = {CKM_AES_CTR, &params, sizeof params};
    CK_ULONG got = sizeof cipher;
    params.cb[14] = 0x5A;
    params.cb[15] = 0xFE;
    hsm_key(CKK_AES, 128, EVERYTHING);
    FINE(C_EncryptInit(1, &mechanism, KEY));
    FINE(C_EncryptUpdate(1, plain, 30, cipher, &got)); /* counters FE, FF */
    got = sizeof cipher;
    FINE(C_EncryptUpdate(1, plain, 2, cipher, &got)); /* the rest of FF's key stream */
    got = sizeof cipher;
    IS(CKR_DATA_LEN_RANGE, C_EncryptUpdate(1, plain, 1, cipher, &got));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_EncryptFinal(1, cipher, &got));
    memset(params.cb, 0xFF, sizeof params.cb);
    params.ulCounterBits = 128;
    check_round(&mechanism, 100, 20, true);
}

/* ---- states ---------------------------------------------------------------------------------------------------- */

static void test_init(void)
{
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0}, rsa = {CKM_RSA_PKCS, NULL, 0}, unknown = {0x9999, NULL, 0};
    hsm_key(CKK_EC, 256, 1 << 2);
    IS(CKR_SESSION_HANDLE_INVALID, C_SignInit(2, &ecdsa, KEY));
    IS(CKR_ARGUMENTS_BAD, C_SignInit(1, NULL, KEY));
    IS(CKR_MECHANISM_INVALID, C_SignInit(1, &unknown, KEY));
    IS(CKR_KEY_HANDLE_INVALID, C_SignInit(1, &ecdsa, KEY + 1));
    IS(CKR_KEY_TYPE_INCONSISTENT, C_SignInit(1, &rsa, KEY));
    IS(CKR_KEY_FUNCTION_NOT_PERMITTED, C_VerifyInit(1, &ecdsa, KEY));
    FINE(C_SignInit(1, &ecdsa, KEY));
    IS(CKR_OPERATION_ACTIVE, C_SignInit(1, &ecdsa, KEY));
    FINE(C_SignInit(1, NULL, KEY)); /* 3.0: cancels */
    IS(CKR_ARGUMENTS_BAD, C_SignInit(1, NULL, KEY));
    FINE(C_SignInit(1, &ecdsa, KEY));
    operations_cancel(&session, CKF_VERIFY | CKF_ENCRYPT);
    IS(CKR_OPERATION_ACTIVE, C_SignInit(1, &ecdsa, KEY));
    operations_cancel(&session, CKF_SIGN);
    FINE(C_SignInit(1, &ecdsa, KEY));
    operations_cancel(&session, CKF_SIGN);
    CHECK(frames == 0);
}

static void test_sign_states(void)
{
    CK_MECHANISM raw = {CKM_ECDSA, NULL, 0}, hashed = {CKM_ECDSA_SHA256, NULL, 0};
    uint8_t signature[64], again[64], digest[32];
    CK_ULONG len = 0;
    hsm_key(CKK_EC, 256, EVERYTHING);
    IS(CKR_OPERATION_NOT_INITIALIZED, C_Sign(1, plain, 32, signature, &len));
    FINE(C_SignInit(1, &raw, KEY));
    FINE(C_Sign(1, plain, 32, NULL, &len));
    CHECK(len == 64 && frames == 0);
    len = 63;
    IS(CKR_BUFFER_TOO_SMALL, C_Sign(1, plain, 32, signature, &len));
    CHECK(len == 64 && frames == 0);
    FINE(C_Sign(1, plain, 32, signature, &len));
    CHECK(len == 64 && frames == 1 && memcmp(signature, plain, 32) == 0 && signature[63] == 0);
    IS(CKR_OPERATION_NOT_INITIALIZED, C_Sign(1, plain, 32, signature, &len));
    FINE(C_SignInit(1, &raw, KEY));
    IS(CKR_ARGUMENTS_BAD, C_Sign(1, NULL, 32, signature, &len));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_Sign(1, plain, 32, signature, &len));
    FINE(C_SignInit(1, &raw, KEY));
    IS(CKR_ARGUMENTS_BAD, C_Sign(1, plain, 32, signature, NULL));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_Sign(1, plain, 32, signature, &len));
    FINE(C_SignInit(1, &raw, KEY));
    IS(CKR_DATA_LEN_RANGE, C_Sign(1, plain, ~0UL, signature, &len));
    FINE(C_SignInit(1, &raw, KEY));
    IS(CKR_FUNCTION_NOT_SUPPORTED, C_SignUpdate(1, plain, 32));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_SignFinal(1, signature, &len));

    FINE(C_SignInit(1, &hashed, KEY));
    FINE(C_SignUpdate(1, plain, 1000));
    IS(CKR_OPERATION_ACTIVE, C_Sign(1, plain, 32, signature, &len));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_SignUpdate(1, plain, 1));
    FINE(C_SignInit(1, &hashed, KEY));
    FINE(C_SignUpdate(1, plain, 1000));
    FINE(C_SignUpdate(1, NULL, 0));
    FINE(C_SignUpdate(1, plain + 1000, 234));
    FINE(C_SignFinal(1, NULL, &len));
    len--;
    IS(CKR_BUFFER_TOO_SMALL, C_SignFinal(1, signature, &len));
    FINE(C_SignFinal(1, signature, &len));
    EVP_Digest(plain, 1234, digest, NULL, EVP_sha256(), NULL);
    CHECK(memcmp(signature, digest, 32) == 0 && signature[63] == 1);
    FINE(C_SignInit(1, &hashed, KEY));
    FINE(C_Sign(1, plain, 1234, again, &len));
    CHECK(memcmp(signature, again, 64) == 0);
    FINE(C_VerifyInit(1, &hashed, KEY));
    FINE(C_VerifyUpdate(1, plain, 1234));
    FINE(C_VerifyFinal(1, signature, 64));
    FINE(C_VerifyInit(1, &hashed, KEY));
    IS(CKR_SIGNATURE_LEN_RANGE, C_Verify(1, plain, 1234, signature, 63));
    FINE(C_VerifyInit(1, &hashed, KEY));
    IS(CKR_SIGNATURE_INVALID, C_Verify(1, plain, 1235, signature, 64));
    FINE(C_VerifyInit(1, &hashed, KEY));
    IS(CKR_ARGUMENTS_BAD, C_Verify(1, plain, 1234, NULL, 64));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_Verify(1, plain, 1234, signature, 64));
}

static void test_macs(void)
{
    CK_MECHANISM hmac = {CKM_SHA256_HMAC, NULL, 0};
    uint8_t mac[32], expected_mac[32];
    hsm_key(CKK_GENERIC_SECRET, 128, EVERYTHING);
    static const size_t lengths[] = {0, 1, 1000, OPERATION_CHUNK, OPERATION_CHUNK + 1, LONGEST};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        size_t len = lengths[l], done = 0;
        CK_ULONG got = sizeof mac;
        HMAC(EVP_sha256(), secret, sizeof secret, plain, len, expected_mac, NULL);
        FINE(C_SignInit(1, &hmac, KEY));
        FINE(C_Sign(1, plain, len, mac, &got));
        CHECK(got == 32 && memcmp(mac, expected_mac, 32) == 0 && !mac_open);
        FINE(C_SignInit(1, &hmac, KEY));
        FINE(C_VerifyInit(1, &hmac, KEY));
        frames = 0;
        while (done < len) {
            size_t take = random_below(90000) + 1;
            take = take < len - done ? take : len - done;
            FINE(C_SignUpdate(1, plain + done, take));
            done += take;
        }
        FINE(C_SignFinal(1, mac, &got));
        CHECK(memcmp(mac, expected_mac, 32) == 0 && (len > OPERATION_CHUNK || frames == 1));
        FINE(C_VerifyUpdate(1, plain, len));
        FINE(C_VerifyFinal(1, mac, 32));
        mac[0] ^= 1;
        FINE(C_VerifyInit(1, &hmac, KEY));
        IS(CKR_SIGNATURE_INVALID, C_Verify(1, plain, len, mac, 32));
    }
    largest = 0;
    FINE(C_SignInit(1, &hmac, KEY));
    FINE(C_SignUpdate(1, plain, LONGEST));
    CHECK(mac_open && largest <= OPERATION_CHUNK);
    operations_cancel(&session, CKF_SIGN);
    CHECK(!mac_open);
}

static void test_cipher_states(void)
{
    CK_MECHANISM cbc = ciphers[1].mechanism, pad = ciphers[2].mechanism, gcm_mechanism = ciphers[4].mechanism;
    CK_ULONG got = sizeof cipher;
    hsm_key(CKK_AES, 128, EVERYTHING);
    FINE(C_EncryptInit(1, &cbc, KEY));
    IS(CKR_OPERATION_ACTIVE, C_EncryptInit(1, &cbc, KEY));
    FINE(C_EncryptUpdate(1, plain, 20, cipher, &got));
    CHECK(got == 16);
    got = sizeof cipher;
    IS(CKR_OPERATION_ACTIVE, C_Encrypt(1, plain, 16, NULL, &got)); /* a size query does not end it */
    IS(CKR_DATA_LEN_RANGE, C_EncryptFinal(1, cipher, &got));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_EncryptFinal(1, cipher, &got));
    FINE(C_DecryptInit(1, &cbc, KEY));
    got = sizeof cipher;
    FINE(C_DecryptUpdate(1, plain, 20, cipher, &got));
    IS(CKR_ENCRYPTED_DATA_LEN_RANGE, C_DecryptFinal(1, cipher, &got));
    FINE(C_EncryptInit(1, &cbc, KEY));
    IS(CKR_ARGUMENTS_BAD, C_EncryptUpdate(1, NULL, 16, cipher, &got));
    FINE(C_EncryptInit(1, &cbc, KEY));
    IS(CKR_ARGUMENTS_BAD, C_EncryptUpdate(1, plain, 16, cipher, NULL));
    FINE(C_EncryptInit(1, &cbc, KEY));
    got = ~0UL;
    IS(CKR_DATA_LEN_RANGE, C_Encrypt(1, plain, 0xFFFFFFFFFFFFFFF0UL, cipher, &got));

    got = sizeof cipher; /* a long CBC_PAD message into too little room, then again */
    FINE(C_EncryptInit(1, &pad, KEY));
    FINE(C_Encrypt(1, plain, 100000, cipher, &got));
    CHECK(got == 100016 - 100000 % 16);
    FINE(C_DecryptInit(1, &pad, KEY));
    CK_ULONG room = 99995;
    IS(CKR_BUFFER_TOO_SMALL, C_Decrypt(1, cipher, got, back, &room));
    FINE(C_Decrypt(1, cipher, got, back, &room));
    CHECK(room == 100000 && memcmp(back, plain, room) == 0);
    cipher[got - 1] ^= 1;
    FINE(C_DecryptInit(1, &pad, KEY));
    room = sizeof back;
    CK_RV rv = C_Decrypt(1, cipher, got, back, &room);
    CHECK(rv == CKR_ENCRYPTED_DATA_INVALID);

    got = sizeof cipher; /* no plaintext before the tag is right */
    FINE(C_EncryptInit(1, &gcm_mechanism, KEY));
    FINE(C_Encrypt(1, plain, 100, cipher, &got));
    cipher[got - 1] ^= 1;
    memset(back, 0, 128);
    FINE(C_DecryptInit(1, &gcm_mechanism, KEY));
    room = sizeof back;
    FINE(C_DecryptUpdate(1, cipher, got, back, &room));
    CHECK(room == 0);
    room = sizeof back;
    IS(CKR_ENCRYPTED_DATA_INVALID, C_DecryptFinal(1, back, &room));
    static const uint8_t none[128];
    CHECK(memcmp(back, none, sizeof none) == 0);
    FINE(C_DecryptInit(1, &gcm_mechanism, KEY));
    IS(CKR_ENCRYPTED_DATA_LEN_RANGE, C_Decrypt(1, cipher, 15, back, &room));
}

static void test_aws_gcm(void)
{
    uint8_t pointed[12] = {0};
    CK_GCM_PARAMS params = {pointed, sizeof pointed, 96, NULL, 0, 128};
    CK_MECHANISM mechanism = {CKM_AES_GCM, &params, sizeof params};
    CK_ULONG got = sizeof cipher, room = sizeof back;
    hsm_key(CKK_AES, 128, EVERYTHING);
    cloudhsm = true;
    FINE(C_EncryptInit(1, &mechanism, KEY));
    FINE(C_Encrypt(1, plain, 100, NULL, &got));
    CHECK(got == 116);
    FINE(C_Encrypt(1, plain, 100, cipher, &got));
    CHECK(got == 116 && memcmp(pointed, "HSM's own iv", 12) == 0);
    FINE(C_DecryptInit(1, &mechanism, KEY));
    FINE(C_Decrypt(1, cipher, got, back, &room));
    CHECK(room == 100 && memcmp(back, plain, 100) == 0);
    FINE(C_EncryptInit(1, &mechanism, KEY));
    got = sizeof cipher;
    IS(CKR_MECHANISM_INVALID, C_EncryptUpdate(1, plain, 16, cipher, &got));
    FINE(C_EncryptInit(1, &mechanism, KEY));
    IS(CKR_DATA_LEN_RANGE, C_Encrypt(1, plain, 16225, cipher, &got));
    cloudhsm = false;

    params = (CK_GCM_PARAMS){NULL, 0, 0, NULL, 0, 128};
    mechanism.mechanism = CKM_CLOUDHSM_AES_GCM;
    got = sizeof cipher;
    FINE(C_EncryptInit(1, &mechanism, KEY));
    FINE(C_Encrypt(1, plain, 100, cipher, &got));
    CHECK(got == 128 && memcmp(cipher, "HSM's own iv", 12) == 0);
    FINE(C_DecryptInit(1, &mechanism, KEY));
    room = 100;
    FINE(C_Decrypt(1, cipher, got, back, &room));
    CHECK(room == 100 && memcmp(back, plain, 100) == 0);
    FINE(C_DecryptInit(1, &mechanism, KEY));
    IS(CKR_ENCRYPTED_DATA_LEN_RANGE, C_Decrypt(1, cipher, 27, back, &room));
}

static void test_digests(void)
{
    CK_MECHANISM sha384 = {CKM_SHA384, NULL, 0};
    uint8_t digest[48], expected_digest[48];
    CK_ULONG len = 0;
    EVP_Digest(plain, 1000, expected_digest, NULL, EVP_sha384(), NULL);
    FINE(C_DigestInit(1, &sha384));
    IS(CKR_OPERATION_ACTIVE, C_DigestInit(1, &sha384));
    FINE(C_Digest(1, plain, 1000, NULL, &len));
    CHECK(len == 48);
    len = 47;
    IS(CKR_BUFFER_TOO_SMALL, C_Digest(1, plain, 1000, digest, &len));
    FINE(C_Digest(1, plain, 1000, digest, &len));
    CHECK(len == 48 && memcmp(digest, expected_digest, 48) == 0);
    FINE(C_DigestInit(1, &sha384));
    FINE(C_DigestUpdate(1, plain, 999));
    IS(CKR_OPERATION_ACTIVE, C_Digest(1, plain, 1, digest, &len));
    FINE(C_DigestInit(1, &sha384));
    FINE(C_DigestUpdate(1, plain, 999));
    FINE(C_DigestUpdate(1, plain + 999, 1));
    FINE(C_DigestFinal(1, NULL, &len));
    FINE(C_DigestFinal(1, digest, &len));
    CHECK(memcmp(digest, expected_digest, 48) == 0);
    FINE(C_DigestInit(1, &sha384));
    IS(CKR_KEY_INDIGESTIBLE, C_DigestKey(1, KEY));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_DigestUpdate(1, plain, 1));
    FINE(C_DigestInit(1, &sha384));
    IS(CKR_DATA_LEN_RANGE, C_DigestUpdate(1, plain, 0xFFFFFFFF));
}

static void test_recover(void)
{
    CK_MECHANISM rsa = {CKM_RSA_X_509, NULL, 0};
    uint8_t signature[256], data[20];
    CK_ULONG len = 0;
    hsm_key(CKK_RSA, 2048, EVERYTHING);
    FINE(C_SignRecoverInit(1, &rsa, KEY));
    FINE(C_SignRecover(1, plain, 20, NULL, &len));
    CHECK(len == 256);
    FINE(C_SignRecover(1, plain, 20, signature, &len));
    FINE(C_VerifyRecoverInit(1, &rsa, KEY));
    FINE(C_VerifyRecover(1, signature, 256, NULL, &len));
    CHECK(len == 256);
    len = 19;
    IS(CKR_BUFFER_TOO_SMALL, C_VerifyRecover(1, signature, 256, data, &len));
    FINE(C_VerifyRecover(1, signature, 256, data, &len));
    CHECK(len == 20 && memcmp(data, plain, 20) == 0);
    FINE(C_VerifyRecoverInit(1, &rsa, KEY));
    IS(CKR_SIGNATURE_LEN_RANGE, C_VerifyRecover(1, signature, 255, data, &len));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_VerifyRecover(1, signature, 256, data, &len));
}

static void test_dual(void)
{
    CK_MECHANISM cbc = ciphers[1].mechanism, sha = {CKM_SHA256, NULL, 0};
    uint8_t digest[32], expected_digest[32];
    CK_ULONG len = 32, got;
    hsm_key(CKK_AES, 128, EVERYTHING);
    EVP_Digest(plain, 200, expected_digest, NULL, EVP_sha256(), NULL);
    size_t expected_len = whole(&cbc, 208);
    memcpy(cipher, plain, 208);
    FINE(C_EncryptInit(1, &cbc, KEY));
    IS(CKR_OPERATION_NOT_INITIALIZED, C_DigestEncryptUpdate(1, cipher, 100, cipher, &got));
    FINE(C_DigestInit(1, &sha));
    FINE(C_DigestEncryptUpdate(1, cipher, 160, NULL, &got));
    CHECK(got == 160);
    got = 159;
    IS(CKR_BUFFER_TOO_SMALL, C_DigestEncryptUpdate(1, cipher, 160, cipher, &got));
    FINE(C_DigestEncryptUpdate(1, cipher, 160, cipher, &got)); /* in place */
    FINE(C_DigestUpdate(1, plain + 160, 40));
    FINE(C_DigestFinal(1, digest, &len));
    CHECK(memcmp(digest, expected_digest, 32) == 0);
    got = 48;
    FINE(C_EncryptUpdate(1, plain + 160, 48, cipher + 160, &got));
    got = 0;
    FINE(C_EncryptFinal(1, cipher + 208, &got));
    CHECK(memcmp(cipher, expected, expected_len) == 0);
    EVP_Digest(plain, 208, expected_digest, NULL, EVP_sha256(), NULL);
    FINE(C_DigestInit(1, &sha));
    FINE(C_DecryptInit(1, &cbc, KEY));
    got = 208;
    FINE(C_DecryptDigestUpdate(1, cipher, 208, back, &got));
    FINE(C_DigestFinal(1, digest, &len));
    CHECK(got == 208 && memcmp(back, plain, 208) == 0 && memcmp(digest, expected_digest, 32) == 0);
    FINE(C_DecryptFinal(1, back, &len));
}

static void test_dual_signatures(void)
{
    CK_MECHANISM ecb = ciphers[0].mechanism, hashed = {CKM_ECDSA_SHA256, NULL, 0};
    uint8_t signature[64];
    CK_ULONG got = 64, len = 64;
    hsm_key(CKK_EC, 256, EVERYTHING);
    FINE(C_SignInit(1, &hashed, KEY));
    hsm_key(CKK_AES, 128, EVERYTHING);
    FINE(C_EncryptInit(1, &ecb, KEY));
    FINE(C_SignEncryptUpdate(1, plain, 64, cipher, &got));
    FINE(C_SignFinal(1, signature, &len));
    FINE(C_EncryptFinal(1, back, &len));
    hsm_key(CKK_EC, 256, EVERYTHING);
    FINE(C_VerifyInit(1, &hashed, KEY));
    hsm_key(CKK_AES, 128, EVERYTHING);
    FINE(C_DecryptInit(1, &ecb, KEY));
    FINE(C_DecryptVerifyUpdate(1, cipher, 64, back, &got));
    FINE(C_VerifyFinal(1, signature, 64));
    FINE(C_DecryptFinal(1, back, &len));
}

int main(void)
{
    test_chains();
    test_gathered_padding();
    test_frame_sizes();
    test_counter();
    test_init();
    test_sign_states();
    test_macs();
    test_cipher_states();
    test_aws_gcm();
    test_digests();
    test_recover();
    test_dual();
    test_dual_signatures();
    operations_free(&session, true);
    return 0;
}
