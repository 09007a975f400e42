/* Opened keys, and the contexts that wait in them for their next operation. */
#include "object.h"

#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

/* ---- idle contexts ------------------------------------------------------------------------------------------------- */

void prepared_free(struct prepared *prepared)
{
    if (prepared != NULL) {
        EVP_PKEY_CTX_free(prepared->pkey);
        EVP_MAC_CTX_free(prepared->mac);
        EVP_CIPHER_CTX_free(prepared->cipher);
        free(prepared);
    }
}

struct prepared *prepared_new(const struct recipe *recipe)
{
    struct prepared *prepared = calloc(1, sizeof *prepared);
    if (prepared != NULL) {
        prepared->recipe = *recipe;
    }
    return prepared;
}

/* A slot's content may be looked at only by the thread that has taken it out: another one may free it meanwhile. */
struct prepared *prepared_take(const struct key_object *key, unsigned index, const struct recipe *recipe)
{
    for (unsigned i = 0; i < IDLE_CONTEXTS; i++) {
        _Atomic(struct prepared *) *slot = &key->idle->slots[(index + i) % IDLE_CONTEXTS];
        if (atomic_load_explicit(slot, memory_order_relaxed) == NULL) {
            continue;
        }
        struct prepared *taken = atomic_exchange_explicit(slot, NULL, memory_order_acq_rel);
        if (taken == NULL) {
            continue;
        }
        if (memcmp(&taken->recipe, recipe, sizeof *recipe) == 0) {
            return taken;
        }
        prepared_give(key, index + i, taken);
    }
    return NULL;
}

void prepared_give(const struct key_object *key, unsigned index, struct prepared *prepared)
{
    for (unsigned i = 0; i < IDLE_CONTEXTS; i++) {
        struct prepared *empty = NULL;
        if (atomic_compare_exchange_strong_explicit(&key->idle->slots[(index + i) % IDLE_CONTEXTS], &empty, prepared,
                                                    memory_order_acq_rel, memory_order_relaxed)) {
            return;
        }
    }
    prepared_free(atomic_exchange(&key->idle->slots[index % IDLE_CONTEXTS], prepared));
}

/* ---- opening --------------------------------------------------------------------------------------------------------- */

bool secret_type_known(uint64_t key_type)
{
    switch (key_type) {
    case CKK_AES:
    case CKK_GENERIC_SECRET:
    case CKK_SHA_1_HMAC:
    case CKK_SHA224_HMAC:
    case CKK_SHA256_HMAC:
    case CKK_SHA384_HMAC:
    case CKK_SHA512_HMAC:
    case CKK_HKDF:
        return true;
    default:
        return false;
    }
}

bool secret_length_valid(uint64_t key_type, size_t len)
{
    enum { GENERIC_MAX = 4096 };
    return key_type == CKK_AES ? len == 16 || len == 24 || len == 32 : len >= 1 && len <= GENERIC_MAX;
}

uint64_t material_bytes(const struct masking *masking, const he_material *material, struct secret *out)
{
    if (material->object_class != CKO_PUBLIC_KEY) {
        return unmask(masking, material->data, material->len, out);
    }
    RV_REQUIRE(material->len != 0 && material->len <= WIRE_MAX_DATA, CKR_DEVICE_ERROR);
    RV_REQUIRE(secret_alloc(out, material->len), CKR_DEVICE_MEMORY);
    memcpy(out->data, material->data, material->len);
    return CKR_OK;
}

static EVP_PKEY *open_public(const uint8_t *data, size_t len)
{
    const uint8_t *at = data;
    EVP_PKEY *pkey = d2i_PUBKEY_ex(NULL, &at, (long)len, evp_context(), NULL);
    if (pkey != NULL && at != data + len) {
        EVP_PKEY_free(pkey);
        return NULL;
    }
    return pkey;
}

static EVP_PKEY *open_private(const uint8_t *data, size_t len)
{
    struct key_parts parts;
    return parts_of_pkcs8(data, len, &parts) ? parts_to_pkey(&parts) : NULL;
}

/* What kind of key OpenSSL has made of it, whatever the material's label says. */
static bool describe(struct key_object *key)
{
    char name[32];
    if (EVP_PKEY_is_a(key->pkey, "RSA")) {
        key->key_type = CKK_RSA;
        key->bits = (uint32_t)EVP_PKEY_get_bits(key->pkey);
        key->size = (key->bits + 7) / 8;
        return key->bits >= 1024 && key->size <= sizeof ((struct crypto_worker *)0)->block;
    }
    if (EVP_PKEY_is_a(key->pkey, "ED25519")) {
        key->key_type = CKK_EC_EDWARDS;
        key->curve = &curve_ed25519;
    } else if (EVP_PKEY_is_a(key->pkey, "EC") &&
               EVP_PKEY_get_utf8_string_param(key->pkey, OSSL_PKEY_PARAM_GROUP_NAME, name, sizeof name, NULL)) {
        key->key_type = CKK_EC;
        key->curve = curve_of_name(name);
    }
    if (key->curve == NULL) {
        return false;
    }
    key->bits = key->curve->bits;
    key->size = key->curve->size;
    return true;
}

static uint64_t fill(struct key_object *key, uint64_t key_type, const uint8_t *data, size_t len)
{
    if (key->object_class == CKO_SECRET_KEY) {
        RV_REQUIRE(secret_type_known(key_type) && secret_length_valid(key_type, len), CKR_DEVICE_ERROR);
        RV_REQUIRE(secret_alloc(&key->value, len), CKR_DEVICE_MEMORY);
        memcpy(key->value.data, data, len);
        key->key_type = key_type;
        key->size = (uint32_t)len;
        key->bits = 8 * key->size;
        return CKR_OK;
    }
    RV_REQUIRE(key->object_class == CKO_PRIVATE_KEY || key->object_class == CKO_PUBLIC_KEY, CKR_KEY_TYPE_INCONSISTENT);
    key->pkey = key->object_class == CKO_PRIVATE_KEY ? open_private(data, len) : open_public(data, len);
    RV_REQUIRE(key->pkey != NULL && describe(key) && key->key_type == key_type, CKR_DEVICE_ERROR);
    return CKR_OK;
}

uint64_t key_object_make(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len, struct key_object **out)
{
    *out = NULL;
    struct key_object *key = calloc(1, sizeof *key);
    RV_REQUIRE(key != NULL, CKR_DEVICE_MEMORY);
    key->object_class = object_class;
    key->idle = calloc(1, sizeof *key->idle);
    uint64_t rv = key->idle == NULL ? CKR_DEVICE_MEMORY : fill(key, key_type, data, len);
    if (rv != CKR_OK) {
        key_object_free(key);
        return rv;
    }
    *out = key;
    return CKR_OK;
}

uint64_t key_object_open(struct masking *masking, const he_material *material, struct key_object **out)
{
    ERRORS_SCOPED;
    *out = NULL;
    RV_REQUIRE(!memory_low(), CKR_DEVICE_MEMORY);
    SECRET_SCOPED bytes = {NULL, 0};
    RV_TRY(material_bytes(masking, material, &bytes));
    return key_object_make(material->object_class, material->key_type, bytes.data, bytes.len, out);
}

void key_object_widen(struct key_object *key)
{
    key->lanes = lane_key_of(key);
}

void key_object_free(struct key_object *key)
{
    if (key == NULL) {
        return;
    }
    for (unsigned i = 0; key->idle != NULL && i < IDLE_CONTEXTS; i++) {
        prepared_free(atomic_load(&key->idle->slots[i]));
    }
    free(key->idle);
    EVP_PKEY_free(key->pkey);
    secret_free(&key->value);
    lane_key_free(&key->lanes);
    free(key);
}

uint64_t key_object_class(const struct key_object *key)
{
    return key->object_class;
}

uint64_t key_object_type(const struct key_object *key)
{
    return key->key_type;
}

uint32_t key_object_bits(const struct key_object *key)
{
    return key->bits;
}

/* ---- what every operation checks first ------------------------------------------------------------------------------- */

static bool takes_key_type(const struct mechanism_info *info, const struct key_object *key)
{
    for (size_t i = 0; i < info->key_type_count; i++) {
        if (info->key_types[i] == key->key_type) {
            return true;
        }
    }
    /* CKK_SHA256_HMAC and its kind are generic secrets with a purpose. */
    return key->object_class == CKO_SECRET_KEY && key->key_type != CKK_AES && info->key_types[0] == CKK_GENERIC_SECRET;
}

uint64_t mechanism_check(const struct key_object *key, const struct wire_mechanism *mechanism, uint32_t functions,
                         const struct mechanism_info **out)
{
    const struct mechanism_info *info = mechanism_find(mechanism->type);
    RV_REQUIRE(info != NULL && (info->functions & functions) != 0, CKR_MECHANISM_INVALID);
    RV_REQUIRE(mechanism->kind < 32 && (info->kinds >> mechanism->kind & 1) != 0, CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(takes_key_type(info, key), CKR_KEY_TYPE_INCONSISTENT);
    *out = info;
    return CKR_OK;
}

struct crypto_worker *crypto_worker_new(void)
{
    static atomic_uint next;
    if (!evp_start()) {
        return NULL;
    }
    struct crypto_worker *worker = calloc(1, sizeof *worker);
    if (worker != NULL) {
        worker->index = atomic_fetch_add(&next, 1);
        worker->digest = EVP_MD_CTX_new();
    }
    if (worker != NULL && worker->digest == NULL) {
        free(worker);
        return NULL;
    }
    return worker;
}

void crypto_worker_free(struct crypto_worker *worker)
{
    if (worker != NULL) {
        EVP_MD_CTX_free(worker->digest);
        memory_wipe(worker->block, sizeof worker->block);
        free(worker);
    }
}
