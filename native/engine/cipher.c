/* Encryption and decryption, of data and of wrapped keys: AES modes here, RSA in rsa.c. */
#include <endian.h>
#include <string.h>

#include "object.h"

enum { BLOCK = 16, WRAP_UNIT = 8 };

struct crypt {
    const struct key_object *key;
    unsigned index; /* the worker's, for its contexts */
    const struct wire_mechanism *mechanism;
    bool encrypt;
    const uint8_t *data;
    size_t len;
    uint8_t *out;
    size_t *out_len;
    uint8_t *iv; /* encryption: the one made here; 16 bytes */
    size_t *iv_len;
};

static uint64_t length_error(const struct crypt *crypt)
{
    return crypt->encrypt ? CKR_DATA_LEN_RANGE : CKR_ENCRYPTED_DATA_LEN_RANGE;
}

/* ---- contexts --------------------------------------------------------------------------------------------------------- */

/* `iv_len`: GCM's; 0: the mode has one length. */
static bool start_cipher(EVP_CIPHER_CTX *context, const struct crypt *crypt, enum aes_mode mode, const uint8_t *iv, size_t iv_len)
{
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_CIPHER_PARAM_AEAD_IVLEN, &iv_len), OSSL_PARAM_construct_end()};
    return EVP_CipherInit_ex2(context, aes_cipher(mode, crypt->key->size), NULL, NULL, crypt->encrypt, iv_len != 0 ? params : NULL) > 0 &&
           EVP_CipherInit_ex2(context, NULL, crypt->key->value.data, iv, crypt->encrypt, NULL) > 0;
}

/* A used context has the key's schedule already: it starts again with an IV alone. NULL: it does not start. */
static struct prepared *cipher_for(const struct crypt *crypt, enum aes_mode mode, const uint8_t *iv, size_t iv_len)
{
    const struct recipe recipe = {.mechanism = crypt->mechanism->type, .verify = crypt->encrypt, .salt = iv_len};
    struct prepared *prepared = prepared_take(crypt->key, crypt->index, &recipe);
    bool started = prepared != NULL && EVP_CipherInit_ex2(prepared->cipher, NULL, NULL, iv, crypt->encrypt, NULL) > 0;
    if (prepared == NULL && (prepared = prepared_new(&recipe)) != NULL) {
        prepared->cipher = EVP_CIPHER_CTX_new();
        started = prepared->cipher != NULL && start_cipher(prepared->cipher, crypt, mode, iv, iv_len);
    }
    if (!started) {
        prepared_free(prepared);
        return NULL;
    }
    return prepared;
}

/* What has failed starts anew. */
static uint64_t cipher_done(const struct crypt *crypt, struct prepared *prepared, uint64_t rv)
{
    if (rv == CKR_OK) {
        prepared_give(crypt->key, crypt->index, prepared);
    } else {
        prepared_free(prepared);
    }
    return rv;
}

/* ---- ECB, CBC, CTR -------------------------------------------------------------------------------------------------- */

static uint64_t put_blocks(const struct crypt *crypt, EVP_CIPHER_CTX *context, bool padding)
{
    int first = 0, last = 0;
    RV_REQUIRE(EVP_CIPHER_CTX_set_padding(context, padding) > 0 &&
                   EVP_CipherUpdate(context, crypt->out, &first, crypt->data, (int)crypt->len) > 0,
               CKR_DEVICE_ERROR);
    RV_REQUIRE(EVP_CipherFinal_ex(context, crypt->out + first, &last) > 0,
               crypt->encrypt ? CKR_DEVICE_ERROR : CKR_ENCRYPTED_DATA_INVALID);
    *crypt->out_len = (size_t)(first + last);
    return CKR_OK;
}

static uint64_t run_blocks(const struct crypt *crypt, enum aes_mode mode, const uint8_t *iv, bool padding)
{
    struct prepared *prepared = cipher_for(crypt, mode, iv, 0);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    return cipher_done(crypt, prepared, put_blocks(crypt, prepared->cipher, padding));
}

static uint64_t run_ecb(const struct crypt *crypt)
{
    RV_REQUIRE(crypt->len % BLOCK == 0, length_error(crypt));
    return run_blocks(crypt, AES_ECB, NULL, false);
}

static uint64_t run_cbc(const struct crypt *crypt)
{
    const struct wire_bytes *iv = &crypt->mechanism->as.iv.iv;
    bool padding = crypt->mechanism->type == CKM_AES_CBC_PAD;
    RV_REQUIRE(iv->len == BLOCK, CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(crypt->len % BLOCK == 0 || (padding && crypt->encrypt), length_error(crypt));
    RV_REQUIRE(!padding || crypt->encrypt || crypt->len != 0, CKR_ENCRYPTED_DATA_LEN_RANGE);
    return run_blocks(crypt, AES_CBC, iv->data, padding);
}

/* Only the lowest bits count (PKCS #11 2.7.3), OpenSSL counts with all: data that would carry out of them is refused. */
static bool counter_lasts(const struct wire_params_ctr *ctr, size_t blocks)
{
    if (ctr->counter_bits >= 64) { /* 2^64 blocks do not arrive; a wrap of the whole block is OpenSSL's, too */
        uint64_t low;
        memcpy(&low, ctr->counter_block.data + 8, sizeof low);
        bool carries = blocks != 0 && be64toh(low) > UINT64_MAX - (blocks - 1);
        for (uint64_t bit = 64; carries && bit < ctr->counter_bits; bit++) {
            carries = (ctr->counter_block.data[15 - bit / 8] >> bit % 8 & 1) != 0;
        }
        return !carries || ctr->counter_bits == 128;
    }
    uint64_t counter, limit = UINT64_C(1) << ctr->counter_bits;
    memcpy(&counter, ctr->counter_block.data + 8, sizeof counter);
    return blocks <= limit - (be64toh(counter) & (limit - 1));
}

static uint64_t run_ctr(const struct crypt *crypt)
{
    const struct wire_params_ctr *ctr = &crypt->mechanism->as.ctr;
    RV_REQUIRE(ctr->counter_block.len == BLOCK && ctr->counter_bits >= 1 && ctr->counter_bits <= 128,
               CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(counter_lasts(ctr, (crypt->len + BLOCK - 1) / BLOCK), length_error(crypt));
    return run_blocks(crypt, AES_CTR, ctr->counter_block.data, false);
}

/* ---- GCM (SP 800-38D) ------------------------------------------------------------------------------------------------- */

enum { GCM_IV_MAX = 128 }; /* OpenSSL 3.0's GCM_IV_MAX_SIZE */

static bool put_aad(const struct crypt *crypt, EVP_CIPHER_CTX *context)
{
    const struct wire_bytes *aad = &crypt->mechanism->as.gcm.aad;
    int ignored;
    return aad->len == 0 || EVP_CipherUpdate(context, NULL, &ignored, aad->data, (int)aad->len) > 0;
}

static uint64_t seal_gcm(const struct crypt *crypt, EVP_CIPHER_CTX *context, size_t tag_len)
{
    int written = 0, last = 0;
    RV_REQUIRE(put_aad(crypt, context) &&
                   (crypt->len == 0 || EVP_CipherUpdate(context, crypt->out, &written, crypt->data, (int)crypt->len) > 0) &&
                   EVP_CipherFinal_ex(context, crypt->out + written, &last) > 0 &&
                   EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, (int)tag_len, crypt->out + crypt->len) > 0,
               CKR_DEVICE_ERROR);
    *crypt->out_len = crypt->len + tag_len;
    return CKR_OK;
}

/* Plaintext is there only if the tag is right. */
static uint64_t open_gcm(const struct crypt *crypt, EVP_CIPHER_CTX *context, size_t tag_len)
{
    int written = 0, last = 0;
    uint8_t tag[BLOCK];
    size_t len = crypt->len - tag_len;
    memcpy(tag, crypt->data + len, tag_len);
    RV_REQUIRE(put_aad(crypt, context), CKR_DEVICE_ERROR);
    if (EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, (int)tag_len, tag) <= 0 ||
        (len != 0 && EVP_CipherUpdate(context, crypt->out, &written, crypt->data, (int)len) <= 0) ||
        EVP_CipherFinal_ex(context, crypt->out + written, &last) <= 0) {
        memory_wipe(crypt->out, len);
        return CKR_ENCRYPTED_DATA_INVALID;
    }
    *crypt->out_len = len;
    return CKR_OK;
}

static uint64_t run_gcm(const struct crypt *crypt)
{
    const struct wire_params_gcm *gcm = &crypt->mechanism->as.gcm;
    struct wire_bytes iv = gcm->iv;
    struct crypt sealed = *crypt; /* without the IV before it */
    size_t tag_len = (size_t)gcm->tag_bits / 8;
    RV_REQUIRE(gcm->tag_bits % 8 == 0 && (tag_len == 4 || tag_len == 8 || (tag_len >= 12 && tag_len <= BLOCK)) &&
                   iv.len <= GCM_IV_MAX && (gcm->iv_bits == 0 || gcm->iv_bits == 8 * (uint64_t)iv.len),
               CKR_MECHANISM_PARAM_INVALID);
    if (iv.len == 0 && crypt->encrypt) { /* SP 800-38D 8.2.2: 96 random bits */
        RV_TRY(random_bytes(crypt->iv, MADE_IV));
        *crypt->iv_len = MADE_IV;
        iv = wire_bytes(crypt->iv, MADE_IV);
    } else if (iv.len == 0) { /* CKM_CLOUDHSM_AES_GCM: the IV stands before the ciphertext */
        RV_REQUIRE(crypt->mechanism->type == CKM_CLOUDHSM_AES_GCM, CKR_MECHANISM_PARAM_INVALID);
        RV_REQUIRE(crypt->len >= MADE_IV, CKR_ENCRYPTED_DATA_LEN_RANGE);
        iv = wire_bytes(crypt->data, MADE_IV);
        sealed.data += MADE_IV;
        sealed.len -= MADE_IV;
    }
    RV_REQUIRE(crypt->encrypt || sealed.len >= tag_len, CKR_ENCRYPTED_DATA_LEN_RANGE);
    struct prepared *prepared = cipher_for(crypt, AES_GCM, iv.data, iv.len);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    return cipher_done(crypt, prepared, crypt->encrypt ? seal_gcm(crypt, prepared->cipher, tag_len)
                                                       : open_gcm(&sealed, prepared->cipher, tag_len));
}

/* ---- AES key wrap (RFC 3394, RFC 5649, and AWS's PKCS#5 padding before RFC 3394) ---------------------------------------- */

static uint64_t wrap_iv(const struct wire_mechanism *mechanism, size_t len, const uint8_t **iv)
{
    const struct wire_bytes *given = &mechanism->as.iv.iv;
    *iv = NULL;
    if (mechanism->kind == WIRE_KIND_IV && given->len != 0) {
        RV_REQUIRE(given->len == len, CKR_MECHANISM_PARAM_INVALID);
        *iv = given->data;
    }
    return CKR_OK;
}

static uint64_t run_wrap(const struct crypt *crypt, enum aes_mode mode, const uint8_t *data, size_t len)
{
    const struct key_object *key = crypt->key;
    const uint8_t *iv;
    RV_TRY(wrap_iv(crypt->mechanism, mode == AES_WRAP ? 8 : 4, &iv));
    size_t shortest = crypt->encrypt ? (mode == AES_WRAP ? 2 * WRAP_UNIT : 1) : (mode == AES_WRAP ? 3 * WRAP_UNIT : 2 * WRAP_UNIT);
    RV_REQUIRE(len >= shortest && (len % WRAP_UNIT == 0 || (mode == AES_WRAP_PAD && crypt->encrypt)), length_error(crypt));
    return aes_wrap_run(mode, crypt->encrypt, key->value.data, key->value.len, iv, data, len, crypt->out, crypt->out_len)
               ? CKR_OK
               : CKR_ENCRYPTED_DATA_INVALID;
}

static uint64_t run_wrap_plain(const struct crypt *crypt)
{
    return run_wrap(crypt, AES_WRAP, crypt->data, crypt->len);
}

static uint64_t run_wrap_zero_pad(const struct crypt *crypt)
{
    return run_wrap(crypt, AES_WRAP_PAD, crypt->data, crypt->len);
}

/* The unwrapped data has passed RFC 3394's integrity check, so an oracle on its padding is no use to anyone. */
static uint64_t strip_pkcs5(uint8_t *data, size_t *len)
{
    size_t count = data[*len - 1];
    bool valid = count >= 1 && count <= WRAP_UNIT;
    for (size_t i = 1; valid && i <= count; i++) {
        valid = data[*len - i] == count;
    }
    if (!valid) {
        memory_wipe(data, *len);
        return CKR_ENCRYPTED_DATA_INVALID;
    }
    *len -= count;
    return CKR_OK;
}

static uint64_t run_wrap_pkcs5(const struct crypt *crypt)
{
    if (!crypt->encrypt) {
        RV_TRY(run_wrap(crypt, AES_WRAP, crypt->data, crypt->len));
        return strip_pkcs5(crypt->out, crypt->out_len);
    }
    SECRET_SCOPED padded = {NULL, 0};
    size_t count = WRAP_UNIT - crypt->len % WRAP_UNIT;
    RV_REQUIRE(secret_alloc(&padded, crypt->len + count), CKR_DEVICE_MEMORY);
    if (crypt->len != 0) {
        memcpy(padded.data, crypt->data, crypt->len);
    }
    memset(padded.data + crypt->len, (int)count, count);
    return run_wrap(crypt, AES_WRAP, padded.data, padded.len);
}

/* ---- all of them ----------------------------------------------------------------------------------------------------------- */

static const struct {
    uint64_t mechanism;
    uint64_t (*run)(const struct crypt *crypt);
} aes_table[] = {
    {CKM_AES_ECB, run_ecb},
    {CKM_AES_CBC, run_cbc},
    {CKM_AES_CBC_PAD, run_cbc},
    {CKM_AES_CTR, run_ctr},
    {CKM_AES_GCM, run_gcm},
    {CKM_CLOUDHSM_AES_GCM, run_gcm},
    {CKM_AES_KEY_WRAP, run_wrap_plain},
    {CKM_AES_KEY_WRAP_PAD, run_wrap_zero_pad},
    {CKM_AES_KEY_WRAP_KWP, run_wrap_zero_pad},
    {CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD, run_wrap_plain},
    {CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD, run_wrap_pkcs5},
    {CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD, run_wrap_zero_pad},
};

static uint64_t run_aes(const struct crypt *crypt)
{
    RV_REQUIRE(crypt->key->object_class == CKO_SECRET_KEY && crypt->key->key_type == CKK_AES, CKR_KEY_TYPE_INCONSISTENT);
    RV_REQUIRE(crypt->len <= INT32_MAX - CIPHER_EXTRA, length_error(crypt));
    for (size_t i = 0; i < sizeof aes_table / sizeof *aes_table; i++) {
        if (aes_table[i].mechanism == crypt->mechanism->type) {
            return aes_table[i].run(crypt);
        }
    }
    return CKR_MECHANISM_INVALID;
}

size_t cipher_room(const struct key_object *key, size_t len)
{
    return (key->key_type == CKK_RSA ? key->size : len) + CIPHER_EXTRA;
}

uint64_t cipher_encrypt(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                        uint8_t *out, size_t *out_len, uint8_t iv[16], size_t *iv_len)
{
    *iv_len = 0;
    if (key->key_type == CKK_RSA) {
        return rsa_encrypt(key, mechanism, data, len, out, out_len);
    }
    return run_aes(&(struct crypt){key, index, mechanism, true, data, len, out, out_len, iv, iv_len});
}

uint64_t cipher_decrypt(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                        uint8_t *out, size_t *out_len)
{
    if (key->key_type == CKK_RSA) {
        return rsa_decrypt(key, mechanism, data, len, out, out_len);
    }
    return run_aes(&(struct crypt){key, index, mechanism, false, data, len, out, out_len, NULL, NULL});
}

uint64_t op_encrypt(struct crypto_worker *worker, const struct key_object *key, const struct wire_encrypt_request *request,
                    struct wire_writer *out)
{
    ERRORS_SCOPED;
    const struct mechanism_info *info;
    uint8_t iv[16];
    size_t len = 0, iv_len = 0, start = out->len;
    RV_TRY(mechanism_check(key, &request->mechanism, CKF_ENCRYPT, &info));
    uint8_t *field = field_begin(out, cipher_room(key, request->data.len));
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    RV_TRY(cipher_encrypt(key, worker->index, &request->mechanism, request->data.data, request->data.len, field, &len, iv, &iv_len));
    field_done(out, len);
    struct wire_bytes view = wire_bytes(iv, (uint32_t)iv_len);
    if (wire_put_bytes(out, &view) != WIRE_OK) {
        out->len = start;
        return CKR_DEVICE_MEMORY;
    }
    return CKR_OK;
}

uint64_t op_decrypt(struct crypto_worker *worker, const struct key_object *key, const struct wire_decrypt_request *request,
                    struct wire_writer *out)
{
    ERRORS_SCOPED;
    const struct mechanism_info *info;
    size_t len = 0, room = cipher_room(key, request->data.len);
    RV_TRY(mechanism_check(key, &request->mechanism, CKF_DECRYPT, &info));
    uint8_t *field = field_begin(out, room);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    uint64_t rv = cipher_decrypt(key, worker->index, &request->mechanism, request->data.data, request->data.len, field, &len);
    if (rv != CKR_OK) {
        memory_wipe(field, room); /* what a failed decryption has left */
        return rv;
    }
    field_done(out, len);
    return CKR_OK;
}
