/* HMAC (RFC 2104) and CMAC (SP 800-38B), whole or truncated to the length that the _GENERAL mechanisms name; at once or as
 * a stream. */
#include <stdlib.h>
#include <string.h>

#include "object.h"

struct mac_stream {
    EVP_MAC_CTX *context;
    size_t len;
    bool verify;
};

/* The algorithm behind a mechanism: hash NULL is CMAC. */
static uint64_t resolve(const struct wire_mechanism *mechanism, const struct mechanism_info *info, const struct hash **hash,
                        size_t *len)
{
    RV_REQUIRE(info->mac != 0, CKR_MECHANISM_INVALID);
    *hash = hash_find(info->hash);
    *len = info->mac;
    if (mechanism->kind == WIRE_KIND_MAC_GENERAL) {
        uint64_t wanted = mechanism->as.mac_general.length;
        RV_REQUIRE(wanted >= 1 && wanted <= info->mac, CKR_MECHANISM_PARAM_INVALID);
        *len = (size_t)wanted;
    }
    return CKR_OK;
}

static bool start_mac(EVP_MAC_CTX *context, const struct key_object *key, const struct hash *hash)
{
    static const char *const ciphers[] = {"AES-128-CBC", "AES-192-CBC", "AES-256-CBC"};
    OSSL_PARAM params[2] = {OSSL_PARAM_construct_end(), OSSL_PARAM_construct_end()};
    params[0] = hash != NULL ? param_text(OSSL_MAC_PARAM_DIGEST, hash->name)
                             : param_text(OSSL_MAC_PARAM_CIPHER, ciphers[key->size / 8 - 2]);
    return EVP_MAC_init(context, key->value.data, key->value.len, params) > 0;
}

static EVP_MAC_CTX *new_mac(const struct key_object *key, const struct hash *hash)
{
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(hash != NULL ? evp_hmac() : evp_cmac());
    if (context != NULL && !start_mac(context, key, hash)) {
        EVP_MAC_CTX_free(context);
        return NULL;
    }
    return context;
}

/* A used HMAC context starts again without a key: the hashed pads are in it. CMAC gets its key again, as OpenSSL 3.0 keeps
 * the last block otherwise. */
static struct prepared *mac_for(const struct key_object *key, unsigned index, const struct hash *hash)
{
    const struct recipe recipe = {.mechanism = hash != NULL ? hash->hmac : CKM_AES_CMAC};
    struct prepared *prepared = prepared_take(key, index, &recipe);
    if (prepared == NULL) {
        prepared = prepared_new(&recipe);
        if (prepared != NULL && (prepared->mac = new_mac(key, hash)) == NULL) {
            prepared_free(prepared);
            return NULL;
        }
        return prepared;
    }
    if (hash != NULL ? EVP_MAC_init(prepared->mac, NULL, 0, NULL) <= 0 : !start_mac(prepared->mac, key, hash)) {
        prepared_free(prepared);
        return NULL;
    }
    return prepared;
}

uint64_t mac_compute(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data,
                     size_t len, uint8_t out[EVP_MAX_MD_SIZE], size_t *out_len)
{
    const struct mechanism_info *info = mechanism_find(mechanism->type);
    const struct hash *hash;
    size_t whole = 0;
    RV_REQUIRE(info != NULL && key->object_class == CKO_SECRET_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_TRY(resolve(mechanism, info, &hash, out_len));
    struct prepared *prepared = mac_for(key, index, hash);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    if (EVP_MAC_update(prepared->mac, data, len) <= 0 || EVP_MAC_final(prepared->mac, out, &whole, EVP_MAX_MD_SIZE) <= 0 ||
        whole < *out_len) {
        prepared_free(prepared);
        return CKR_DEVICE_ERROR;
    }
    prepared_give(key, index, prepared);
    return CKR_OK;
}

uint64_t mac_begin(const struct key_object *key, const struct wire_mechanism *mechanism, bool verify, struct mac_stream **out)
{
    ERRORS_SCOPED;
    const struct mechanism_info *info;
    const struct hash *hash;
    size_t len;
    *out = NULL;
    RV_TRY(mechanism_check(key, mechanism, verify ? CKF_VERIFY : CKF_SIGN, &info));
    RV_REQUIRE(key->object_class == CKO_SECRET_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_TRY(resolve(mechanism, info, &hash, &len));
    struct mac_stream *stream = calloc(1, sizeof *stream);
    RV_REQUIRE(stream != NULL, CKR_DEVICE_MEMORY);
    *stream = (struct mac_stream){new_mac(key, hash), len, verify};
    if (stream->context == NULL) {
        mac_free(stream);
        return CKR_DEVICE_ERROR;
    }
    *out = stream;
    return CKR_OK;
}

uint64_t mac_update(struct mac_stream *stream, const uint8_t *data, size_t len)
{
    ERRORS_SCOPED;
    return EVP_MAC_update(stream->context, data, len) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
}

uint64_t mac_final(struct mac_stream *stream, struct wire_bytes expected, struct wire_writer *out)
{
    ERRORS_SCOPED;
    uint8_t mac[EVP_MAX_MD_SIZE];
    size_t whole = 0;
    RV_REQUIRE(EVP_MAC_final(stream->context, mac, &whole, sizeof mac) > 0 && whole >= stream->len, CKR_DEVICE_ERROR);
    if (!stream->verify) {
        struct wire_bytes view = wire_bytes(mac, (uint32_t)stream->len);
        return wire_put_bytes(out, &view) == WIRE_OK ? CKR_OK : CKR_DEVICE_MEMORY;
    }
    RV_REQUIRE(expected.len == stream->len, CKR_SIGNATURE_LEN_RANGE);
    RV_REQUIRE(memory_equal(mac, expected.data, stream->len), CKR_SIGNATURE_INVALID);
    return put_empty_field(out);
}

void mac_free(struct mac_stream *stream)
{
    if (stream != NULL) {
        EVP_MAC_CTX_free(stream->context);
        free(stream);
    }
}
