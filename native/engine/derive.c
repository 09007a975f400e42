/* Secret keys from other keys: ECDH with the X9.63 functions, HKDF (RFC 5869), SP 800-108 in counter mode, and data encrypted under
 * the base key. A length of 0 asks for what the mechanism gives by itself. */
#include <string.h>

#include "object.h"

struct derivation {
    const struct key_object *base;
    const struct wire_mechanism *mechanism;
    const struct key_object *salt; /* HKDF's salt key, or NULL */
    uint64_t key_type;
    size_t len; /* asked for */
};

/* The length that was asked for, or the natural one. */
static size_t wanted(const struct derivation *derivation, size_t natural)
{
    return derivation->len != 0 ? derivation->len : natural;
}

static uint64_t allocate(const struct derivation *derivation, size_t len, struct secret *out)
{
    RV_REQUIRE(secret_length_valid(derivation->key_type, len),
               derivation->len == 0 ? CKR_TEMPLATE_INCOMPLETE : CKR_KEY_SIZE_RANGE);
    RV_REQUIRE(secret_alloc(out, len), CKR_DEVICE_MEMORY);
    return CKR_OK;
}

/* "the truncation removes bytes from the leading end" (PKCS #11 2.3.11 of ECDH, 2.15 of encrypted data) */
static uint64_t keep_tail(const struct derivation *derivation, const struct secret *whole, struct secret *out)
{
    size_t len = wanted(derivation, whole->len);
    RV_REQUIRE(len <= whole->len, CKR_KEY_SIZE_RANGE);
    RV_TRY(allocate(derivation, len, out));
    memcpy(out->data, whole->data + whole->len - len, len);
    return CKR_OK;
}

/* ---- CKM_ECDH1_DERIVE ------------------------------------------------------------------------------------------------ */

static EVP_PKEY *peer_key(const struct curve *curve, const struct wire_bytes *public)
{
    struct key_parts parts = {.key_type = CKK_EC, .curve = curve};
    EVP_PKEY *peer = point_view(curve, *public, &parts.part[EC_Q]) ? parts_to_pkey(&parts) : NULL;
    if (peer == NULL) {
        return NULL;
    }
    SCOPED(EVP_PKEY_CTX) check = EVP_PKEY_CTX_new_from_pkey(evp_context(), peer, NULL);
    if (check == NULL || EVP_PKEY_public_check(check) <= 0) { /* on the curve, not infinity */
        EVP_PKEY_free(peer);
        return NULL;
    }
    return peer;
}

static uint64_t agree(const struct derivation *derivation, struct secret *shared)
{
    const struct key_object *base = derivation->base;
    RV_REQUIRE(base->key_type == CKK_EC && base->object_class == CKO_PRIVATE_KEY, CKR_KEY_TYPE_INCONSISTENT);
    SCOPED(EVP_PKEY) peer = peer_key(base->curve, &derivation->mechanism->as.ecdh1.public_data);
    RV_REQUIRE(peer != NULL, CKR_MECHANISM_PARAM_INVALID);
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey(evp_context(), base->pkey, NULL);
    size_t len = base->size;
    RV_REQUIRE(secret_alloc(shared, len), CKR_DEVICE_MEMORY);
    RV_REQUIRE(context != NULL && EVP_PKEY_derive_init(context) > 0 && EVP_PKEY_derive_set_peer(context, peer) > 0 &&
                   EVP_PKEY_derive(context, shared->data, &len) > 0 && len == base->size,
               CKR_DEVICE_ERROR);
    return CKR_OK;
}

static uint64_t derive_ecdh(const struct derivation *derivation, struct secret *out)
{
    const struct wire_params_ecdh1 *params = &derivation->mechanism->as.ecdh1;
    const struct hash *hash = hash_of_kdf(params->kdf);
    SECRET_SCOPED shared = {NULL, 0};
    RV_REQUIRE(hash != NULL || (params->kdf == CKD_NULL && params->shared_data.len == 0), CKR_MECHANISM_PARAM_INVALID);
    RV_TRY(agree(derivation, &shared));
    if (hash == NULL) {
        return keep_tail(derivation, &shared, out);
    }
    RV_TRY(allocate(derivation, wanted(derivation, hash->size), out));
    const OSSL_PARAM kdf[] = { /* SEC 1 3.6.1, ANSI X9.63 */
        param_text(OSSL_KDF_PARAM_DIGEST, hash->name),
        param_octets(OSSL_KDF_PARAM_KEY, shared.data, shared.len),
        param_octets(OSSL_KDF_PARAM_INFO, params->shared_data.len != 0 ? params->shared_data.data : (const uint8_t *)"",
                     params->shared_data.len),
        OSSL_PARAM_construct_end(),
    };
    return evp_kdf("X963KDF", kdf, out->data, out->len) ? CKR_OK : CKR_DEVICE_ERROR;
}

/* ---- HMAC and CMAC as pseudo-random functions -------------------------------------------------------------------------- */

struct prf {
    EVP_MAC_CTX *context;
    const uint8_t *key;
    size_t key_len;
    size_t size; /* of its output */
    OSSL_PARAM params[2];
};

static void prf_free(struct prf *prf)
{
    EVP_MAC_CTX_free(prf->context);
}

static uint64_t prf_hmac(const struct hash *hash, const uint8_t *key, size_t key_len, struct prf *out)
{
    *out = (struct prf){EVP_MAC_CTX_new(evp_hmac()), key, key_len, hash->size,
                        {param_text(OSSL_MAC_PARAM_DIGEST, hash->name), OSSL_PARAM_construct_end()}};
    return out->context != NULL ? CKR_OK : CKR_DEVICE_MEMORY;
}

static uint64_t prf_cmac(const uint8_t *key, size_t key_len, struct prf *out)
{
    static const char *const names[] = {"AES-128-CBC", "AES-192-CBC", "AES-256-CBC"};
    *out = (struct prf){EVP_MAC_CTX_new(evp_cmac()), key, key_len, 16,
                        {param_text(OSSL_MAC_PARAM_CIPHER, names[key_len / 8 - 2]), OSSL_PARAM_construct_end()}};
    return out->context != NULL ? CKR_OK : CKR_DEVICE_MEMORY;
}

static bool prf_start(const struct prf *prf)
{
    return EVP_MAC_init(prf->context, prf->key, prf->key_len, prf->params) > 0;
}

/* ---- HKDF ----------------------------------------------------------------------------------------------------------------- */

/* RFC 5869 2.3; by hand since OpenSSL 3.0's limits info to 1,024 bytes. */
static uint64_t hkdf_expand(const struct hash *hash, const uint8_t *key, size_t key_len, const struct wire_bytes *info,
                            struct secret *out)
{
    __attribute__((cleanup(prf_free))) struct prf prf = {0};
    SECRET_SCOPED block = {NULL, 0};
    RV_REQUIRE(out->len <= 255 * (size_t)hash->size, CKR_KEY_SIZE_RANGE);
    RV_TRY(prf_hmac(hash, key, key_len, &prf));
    RV_REQUIRE(secret_alloc(&block, hash->size), CKR_DEVICE_MEMORY);
    uint8_t counter = 0;
    for (size_t done = 0; done < out->len; done += hash->size) {
        size_t len = 0, left = out->len - done;
        counter++;
        RV_REQUIRE(prf_start(&prf) && (counter == 1 || EVP_MAC_update(prf.context, block.data, block.len) > 0) &&
                       EVP_MAC_update(prf.context, info->data, info->len) > 0 &&
                       EVP_MAC_update(prf.context, &counter, 1) > 0 &&
                       EVP_MAC_final(prf.context, block.data, &len, block.len) > 0,
                   CKR_DEVICE_ERROR);
        memcpy(out->data + done, block.data, left < hash->size ? left : hash->size);
    }
    return CKR_OK;
}

static uint64_t hkdf_extract(const struct hash *hash, const struct wire_bytes *salt, const struct secret *key, uint8_t *out)
{
    static const uint8_t zeros[EVP_MAX_MD_SIZE]; /* "if not provided, it is set to a string of HashLen zeros" (2.2) */
    __attribute__((cleanup(prf_free))) struct prf prf = {0};
    size_t len = 0;
    RV_TRY(prf_hmac(hash, salt->len != 0 ? salt->data : zeros, salt->len != 0 ? salt->len : hash->size, &prf));
    RV_REQUIRE(prf_start(&prf) && EVP_MAC_update(prf.context, key->data, key->len) > 0 &&
                   EVP_MAC_final(prf.context, out, &len, hash->size) > 0,
               CKR_DEVICE_ERROR);
    return CKR_OK;
}

static uint64_t hkdf_salt(const struct derivation *derivation, struct wire_bytes *out)
{
    const struct wire_params_hkdf *params = &derivation->mechanism->as.hkdf;
    *out = wire_bytes(NULL, 0);
    switch (params->salt_type) {
    case CKF_HKDF_SALT_NULL:
        return CKR_OK;
    case CKF_HKDF_SALT_DATA:
        *out = params->salt;
        return CKR_OK;
    case CKF_HKDF_SALT_KEY:
        RV_REQUIRE(derivation->salt != NULL && derivation->salt->object_class == CKO_SECRET_KEY, CKR_MECHANISM_PARAM_INVALID);
        *out = wire_bytes(derivation->salt->value.data, (uint32_t)derivation->salt->value.len);
        return CKR_OK;
    default:
        return CKR_MECHANISM_PARAM_INVALID;
    }
}

static uint64_t derive_hkdf(const struct derivation *derivation, struct secret *out)
{
    const struct wire_params_hkdf *params = &derivation->mechanism->as.hkdf;
    const struct hash *hash = hash_find(params->prf);
    const struct secret *base = &derivation->base->value;
    SECRET_SCOPED extracted = {NULL, 0};
    struct wire_bytes salt;
    RV_REQUIRE(hash != NULL && (params->extract != 0 || params->expand != 0), CKR_MECHANISM_PARAM_INVALID);
    RV_TRY(allocate(derivation, wanted(derivation, hash->size), out));
    if (params->extract == 0) {
        return hkdf_expand(hash, base->data, base->len, &params->info, out);
    }
    RV_TRY(hkdf_salt(derivation, &salt));
    RV_REQUIRE(secret_alloc(&extracted, hash->size), CKR_DEVICE_MEMORY);
    RV_TRY(hkdf_extract(hash, &salt, base, extracted.data));
    if (params->expand != 0) {
        return hkdf_expand(hash, extracted.data, extracted.len, &params->info, out);
    }
    RV_REQUIRE(out->len <= hash->size, CKR_KEY_SIZE_RANGE);
    memcpy(out->data, extracted.data, out->len);
    return CKR_OK;
}

/* ---- SP 800-108r1 4.1: K(i) = PRF(key, segments), with [i] and [L] where the caller has put them -------------------------- */

enum { COUNTER_MAX_BITS = 32, LENGTH_MAX_BITS = 64 };

struct number_segment {
    uint64_t method;
    uint64_t width;
    uint8_t little_endian;
};

static uint64_t read_segment(struct wire_bytes segment, uint64_t *type, struct number_segment *number, struct wire_bytes *raw)
{
    struct wire_reader reader = wire_reader(segment.data, segment.len);
    *number = (struct number_segment){0};
    *raw = wire_bytes(NULL, 0);
    RV_REQUIRE(wire_get_u64(&reader, type) == WIRE_OK, CKR_MECHANISM_PARAM_INVALID);
    if (*type == CK_SP800_108_BYTE_ARRAY) {
        *raw = wire_bytes(reader.at, (uint32_t)wire_left(&reader));
        return CKR_OK;
    }
    bool length = *type == CK_SP800_108_DKM_LENGTH;
    uint64_t max = length ? LENGTH_MAX_BITS : COUNTER_MAX_BITS;
    RV_REQUIRE(length || *type == CK_SP800_108_ITERATION_VARIABLE, CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE((!length || wire_get_u64(&reader, &number->method) == WIRE_OK) &&
                   wire_get_u64(&reader, &number->width) == WIRE_OK && wire_get_u8(&reader, &number->little_endian) == WIRE_OK &&
                   wire_get_end(&reader) == WIRE_OK && number->width >= 8 && number->width <= max && number->width % 8 == 0,
               CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(!length || number->method == CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS ||
                   number->method == CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS,
               CKR_MECHANISM_PARAM_INVALID);
    return CKR_OK;
}

static uint64_t add_number(const struct prf *prf, const struct number_segment *number, uint64_t value)
{
    uint8_t bytes[8];
    size_t len = (size_t)number->width / 8;
    RV_REQUIRE(number->width == 64 || value >> number->width == 0, CKR_MECHANISM_PARAM_INVALID);
    for (size_t i = 0; i < len; i++) {
        bytes[number->little_endian != 0 ? i : len - 1 - i] = (uint8_t)(value >> (8 * i));
    }
    return EVP_MAC_update(prf->context, bytes, len) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
}

/* One block. L: the bits asked for, or those of all whole blocks. */
static uint64_t run_block(const struct prf *prf, const struct wire_strings *segments, uint64_t i, size_t len, uint8_t *out)
{
    struct wire_reader reader = wire_reader(segments->data, segments->len);
    struct wire_bytes segment, raw;
    struct number_segment number;
    uint64_t type;
    unsigned counters = 0;
    size_t written = 0;
    RV_REQUIRE(prf_start(prf), CKR_DEVICE_ERROR);
    while (wire_strings_next(&reader, &segment)) {
        RV_TRY(read_segment(segment, &type, &number, &raw));
        if (type == CK_SP800_108_BYTE_ARRAY) {
            RV_REQUIRE(EVP_MAC_update(prf->context, raw.data, raw.len) > 0, CKR_DEVICE_ERROR);
        } else if (type == CK_SP800_108_ITERATION_VARIABLE) {
            counters++;
            RV_TRY(add_number(prf, &number, i));
        } else {
            size_t blocks = (len + prf->size - 1) / prf->size;
            bool keys = number.method == CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS;
            RV_TRY(add_number(prf, &number, 8 * (uint64_t)(keys ? len : blocks * prf->size)));
        }
    }
    RV_REQUIRE(counters == 1, CKR_MECHANISM_PARAM_INVALID); /* PKCS #11 2.42.5: the iteration variable is mandatory, once */
    return EVP_MAC_final(prf->context, out, &written, prf->size) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
}

static uint64_t find_prf(const struct derivation *derivation, struct prf *out)
{
    uint64_t prf = derivation->mechanism->as.sp800_108.prf;
    const struct secret *key = &derivation->base->value;
    const struct hash *hash = hash_of_hmac(prf);
    if (hash == NULL && prf == CKM_AES_CMAC) {
        RV_REQUIRE(derivation->base->key_type == CKK_AES, CKR_KEY_TYPE_INCONSISTENT);
        return prf_cmac(key->data, key->len, out);
    }
    RV_REQUIRE(hash != NULL, CKR_MECHANISM_PARAM_INVALID);
    return prf_hmac(hash, key->data, key->len, out);
}

static uint64_t derive_sp800_108(const struct derivation *derivation, struct secret *out)
{
    __attribute__((cleanup(prf_free))) struct prf prf = {0};
    SECRET_SCOPED block = {NULL, 0};
    RV_TRY(find_prf(derivation, &prf));
    RV_TRY(allocate(derivation, wanted(derivation, prf.size), out));
    RV_REQUIRE(secret_alloc(&block, prf.size), CKR_DEVICE_MEMORY);
    for (size_t done = 0; done < out->len; done += prf.size) {
        size_t left = out->len - done;
        RV_TRY(run_block(&prf, &derivation->mechanism->as.sp800_108.segments, done / prf.size + 1, out->len, block.data));
        memcpy(out->data + done, block.data, left < prf.size ? left : prf.size);
    }
    return CKR_OK;
}

/* ---- CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_CBC_ENCRYPT_DATA (its data begins with the 16 bytes of the IV) ---------------------- */

static uint64_t derive_encrypted(const struct derivation *derivation, struct secret *out)
{
    const struct wire_bytes *data = &derivation->mechanism->as.data.data;
    bool cbc = derivation->mechanism->type == CKM_AES_CBC_ENCRYPT_DATA;
    uint32_t skip = cbc ? 16 : 0;
    uint8_t iv[16];
    size_t len = 0, iv_len = 0;
    SECRET_SCOPED whole = {NULL, 0};
    RV_REQUIRE(derivation->mechanism->kind == WIRE_KIND_DATA && data->len > skip && data->len % 16 == 0,
               CKR_MECHANISM_PARAM_INVALID);
    const struct wire_mechanism how = {.type = cbc ? CKM_AES_CBC : CKM_AES_ECB, .kind = cbc ? WIRE_KIND_IV : WIRE_KIND_NONE,
                                       .as.iv = {wire_bytes(data->data, skip)}};
    RV_REQUIRE(secret_alloc(&whole, cipher_room(derivation->base, data->len)), CKR_DEVICE_MEMORY);
    RV_TRY(cipher_encrypt(derivation->base, 0, &how, data->data + skip, data->len - skip, whole.data, &len, iv, &iv_len));
    secret_trim(&whole, len);
    return keep_tail(derivation, &whole, out);
}

/* ---- all of them ------------------------------------------------------------------------------------------------------------ */

static const struct {
    uint64_t mechanism;
    uint32_t kind;
    uint64_t (*run)(const struct derivation *derivation, struct secret *out);
} derive_table[] = {
    {CKM_ECDH1_DERIVE, WIRE_KIND_ECDH1, derive_ecdh},
    {CKM_HKDF_DERIVE, WIRE_KIND_HKDF, derive_hkdf},
    {CKM_SP800_108_COUNTER_KDF, WIRE_KIND_SP800_108, derive_sp800_108},
    {CKM_CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF, WIRE_KIND_SP800_108, derive_sp800_108},
    {CKM_CLOUDHSM_SP800_108_COUNTER_KDF, WIRE_KIND_SP800_108, derive_sp800_108},
    {CKM_AES_ECB_ENCRYPT_DATA, WIRE_KIND_DATA, derive_encrypted},
    {CKM_AES_CBC_ENCRYPT_DATA, WIRE_KIND_DATA, derive_encrypted},
};

static uint64_t run(const struct derivation *derivation, struct secret *out)
{
    bool secret_base = derivation->base->object_class == CKO_SECRET_KEY;
    for (size_t i = 0; i < sizeof derive_table / sizeof *derive_table; i++) {
        if (derive_table[i].mechanism == derivation->mechanism->type) {
            RV_REQUIRE(derivation->mechanism->kind == derive_table[i].kind, CKR_MECHANISM_PARAM_INVALID);
            RV_REQUIRE(secret_base == (derive_table[i].kind != WIRE_KIND_ECDH1), CKR_KEY_TYPE_INCONSISTENT);
            return derive_table[i].run(derivation, out);
        }
    }
    return CKR_MECHANISM_INVALID;
}

uint64_t material_derive(struct masking *masking, const he_material *base, const uint8_t *mechanism, size_t mechanism_len,
                         const he_material *salt, uint64_t key_type, size_t value_len, uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    struct wire_mechanism how;
    struct wire_reader reader = wire_reader(mechanism, mechanism_len);
    KEY_SCOPED *base_key = NULL;
    KEY_SCOPED *salt_key = NULL;
    SECRET_SCOPED derived = {NULL, 0};
    RV_REQUIRE(wire_get_mechanism(&reader, &how) == WIRE_OK && wire_get_end(&reader) == WIRE_OK, CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(secret_type_known(key_type), CKR_TEMPLATE_INCONSISTENT);
    RV_TRY(key_object_open(masking, base, &base_key));
    if (salt != NULL) {
        RV_TRY(key_object_open(masking, salt, &salt_key));
    }
    const struct derivation derivation = {base_key, &how, salt_key, key_type, value_len};
    RV_TRY(run(&derivation, &derived));
    return mask(masking, derived.data, derived.len, out, len);
}
