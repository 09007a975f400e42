/* New keys, and what may be said about a key: its public half, its size and check value, single attributes. */
#include <endian.h>
#include <openssl/x509.h>
#include <string.h>

#include "object.h"

/* ---- generation ---------------------------------------------------------------------------------------------------- */

static uint64_t mask_pkey(struct masking *masking, EVP_PKEY *pkey, uint8_t *out, size_t *len)
{
    SECRET_SCOPED room = {NULL, 0};
    struct key_parts parts;
    RV_TRY(parts_of_pkey(pkey, true, &room, &parts));
    return private_mask(masking, &parts, out, len);
}

static uint64_t generate_rsa(struct masking *masking, uint32_t bits, const uint8_t *exponent, size_t exponent_len,
                             uint8_t *out, size_t *len)
{
    RV_REQUIRE(bits >= 2048 && bits <= 4096, CKR_KEY_SIZE_RANGE);
    RV_REQUIRE(exponent_len <= 8, CKR_ATTRIBUTE_VALUE_INVALID); /* more than 64 bits: OpenSSL could not verify with it */
    SCOPED(BIGNUM) e = BN_bin2bn(exponent, (int)exponent_len, NULL);
    RV_REQUIRE(e != NULL && BN_is_odd(e) && !BN_is_one(e), CKR_ATTRIBUTE_VALUE_INVALID);
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_name(evp_context(), "RSA", NULL);
    EVP_PKEY *made = NULL;
    RV_REQUIRE(context != NULL && EVP_PKEY_keygen_init(context) > 0 && EVP_PKEY_CTX_set_rsa_keygen_bits(context, (int)bits) > 0 &&
                   EVP_PKEY_CTX_set1_rsa_keygen_pubexp(context, e) > 0 && EVP_PKEY_generate(context, &made) > 0,
               CKR_FUNCTION_FAILED);
    SCOPED(EVP_PKEY) pkey = made;
    return mask_pkey(masking, pkey, out, len);
}

static uint64_t generate_curve(struct masking *masking, uint64_t key_type, const uint8_t *params, size_t params_len,
                               uint8_t *out, size_t *len)
{
    const struct curve *curve = curve_of_params(params, params_len);
    RV_REQUIRE(curve != NULL && (curve->name == NULL) == (key_type == CKK_EC_EDWARDS), CKR_CURVE_NOT_SUPPORTED);
    SCOPED(EVP_PKEY) pkey = curve->name == NULL ? EVP_PKEY_Q_keygen(evp_context(), NULL, "ED25519")
                                                : EVP_PKEY_Q_keygen(evp_context(), NULL, "EC", curve->name);
    RV_REQUIRE(pkey != NULL, CKR_FUNCTION_FAILED);
    return mask_pkey(masking, pkey, out, len);
}

static uint64_t generate_secret(struct masking *masking, uint64_t key_type, size_t bytes, uint8_t *out, size_t *len)
{
    SECRET_SCOPED value = {NULL, 0};
    RV_REQUIRE(secret_length_valid(key_type, bytes), CKR_KEY_SIZE_RANGE);
    RV_REQUIRE(secret_alloc(&value, bytes), CKR_DEVICE_MEMORY);
    RV_TRY(random_bytes(value.data, bytes));
    return mask(masking, value.data, value.len, out, len);
}

uint64_t material_generate(struct masking *masking, uint64_t key_type, const uint8_t *parameters, size_t parameters_len,
                           uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    uint32_t size = 0;
    RV_REQUIRE(masking_key(masking) != NULL, CKR_DEVICE_ERROR);
    if (key_type == CKK_EC || key_type == CKK_EC_EDWARDS) {
        return generate_curve(masking, key_type, parameters, parameters_len, out, len);
    }
    RV_REQUIRE(parameters_len >= sizeof size, CKR_ARGUMENTS_BAD);
    memcpy(&size, parameters, sizeof size);
    size = le32toh(size);
    if (key_type == CKK_RSA) {
        return generate_rsa(masking, size, parameters + sizeof size, parameters_len - sizeof size, out, len);
    }
    RV_REQUIRE(secret_type_known(key_type), CKR_KEY_TYPE_INCONSISTENT);
    return generate_secret(masking, key_type, size, out, len);
}

/* ---- what is known about a key ---------------------------------------------------------------------------------------- */

static uint64_t public_info(EVP_PKEY *pkey, struct secret *out)
{
    uint8_t *encoded = NULL;
    int len = i2d_PUBKEY(pkey, &encoded);
    RV_REQUIRE(len > 0, CKR_DEVICE_ERROR);
    bool ok = secret_alloc(out, (size_t)len);
    if (ok) {
        memcpy(out->data, encoded, (size_t)len);
    }
    OPENSSL_free(encoded);
    return ok ? CKR_OK : CKR_DEVICE_MEMORY;
}

uint64_t material_public(struct masking *masking, const he_material *material, uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    KEY_SCOPED *key = NULL;
    SECRET_SCOPED encoded = {NULL, 0};
    RV_TRY(key_object_open(masking, material, &key));
    RV_REQUIRE(key->pkey != NULL, CKR_KEY_TYPE_INCONSISTENT);
    RV_TRY(public_info(key->pkey, &encoded));
    return put_output(encoded.data, encoded.len, out, len);
}

/* CKA_CHECK_VALUE: of AES one zero block encrypted, of other secrets SHA-1 of the value; three bytes (PKCS #11 4.10.2). */
static uint64_t check_value(const struct key_object *key, uint8_t check[3])
{
    static const struct wire_mechanism ecb = {.type = CKM_AES_ECB, .kind = WIRE_KIND_NONE};
    static const uint8_t zeros[16];
    uint8_t out[16 + CIPHER_EXTRA], iv[16];
    size_t len = 0, iv_len = 0;
    if (key->key_type == CKK_AES) {
        RV_TRY(cipher_encrypt(key, 0, &ecb, zeros, sizeof zeros, out, &len, iv, &iv_len));
    } else {
        RV_REQUIRE(EVP_Digest(key->value.data, key->value.len, out, NULL, hash_find(CKM_SHA_1)->md, NULL) > 0,
                   CKR_DEVICE_ERROR);
    }
    memcpy(check, out, 3);
    return CKR_OK;
}

uint64_t material_inspect(struct masking *masking, const he_material *material, uint32_t *bits, uint8_t check[3],
                          size_t *check_len)
{
    ERRORS_SCOPED;
    KEY_SCOPED *key = NULL;
    RV_TRY(key_object_open(masking, material, &key));
    *bits = key->bits;
    *check_len = key->object_class == CKO_SECRET_KEY ? 3 : 0;
    return *check_len != 0 ? check_value(key, check) : CKR_OK;
}

/* ---- single attributes ------------------------------------------------------------------------------------------------- */

static const struct {
    uint64_t attribute;
    uint8_t part;
    bool rsa;
    bool private;
} component_table[] = {
    {CKA_MODULUS, RSA_N, true, false},
    {CKA_PUBLIC_EXPONENT, RSA_E, true, false},
    {CKA_PRIVATE_EXPONENT, RSA_D, true, true},
    {CKA_PRIME_1, RSA_P, true, true},
    {CKA_PRIME_2, RSA_Q, true, true},
    {CKA_EXPONENT_1, RSA_DP, true, true},
    {CKA_EXPONENT_2, RSA_DQ, true, true},
    {CKA_COEFFICIENT, RSA_QI, true, true},
    {CKA_VALUE, EC_D, false, true},
    {CKA_EC_POINT, EC_Q, false, false},
};

static uint64_t copy_secret(const void *data, size_t len, struct secret *out)
{
    RV_REQUIRE(secret_alloc(out, len), CKR_DEVICE_MEMORY);
    memcpy(out->data, data, len);
    return CKR_OK;
}

/* "DER-encoding of ANSI X9.62 ECPoint value Q": an OCTET STRING, for Ed25519 around the 32 bytes. */
static uint64_t copy_point(const struct wire_bytes *point, struct secret *out)
{
    uint8_t room[160];
    struct der_writer writer = der_writer(room, sizeof room);
    der_put(&writer, point->data, point->len);
    der_close(&writer, DER_OCTETS, writer.end);
    return copy_secret(writer.at, (size_t)(writer.end - writer.at), out);
}

static uint64_t asymmetric_component(const struct key_object *key, uint64_t attribute, struct secret *out)
{
    bool private = key->object_class == CKO_PRIVATE_KEY, rsa = key->key_type == CKK_RSA;
    SECRET_SCOPED room = {NULL, 0};
    struct key_parts parts;
    if (attribute == CKA_PUBLIC_KEY_INFO) {
        return public_info(key->pkey, out);
    }
    if (attribute == CKA_EC_PARAMS && !rsa) {
        return copy_secret(key->curve->params, key->curve->params_len, out);
    }
    RV_TRY(parts_of_pkey(key->pkey, private, &room, &parts));
    for (size_t i = 0; i < sizeof component_table / sizeof *component_table; i++) {
        if (component_table[i].attribute == attribute && component_table[i].rsa == rsa &&
            (private || !component_table[i].private)) {
            const struct wire_bytes *part = &parts.part[component_table[i].part];
            return attribute == CKA_EC_POINT ? copy_point(part, out) : copy_secret(part->data, part->len, out);
        }
    }
    return CKR_ATTRIBUTE_TYPE_INVALID;
}

uint64_t material_component(struct masking *masking, const he_material *material, uint64_t attribute, struct secret *out)
{
    ERRORS_SCOPED;
    KEY_SCOPED *key = NULL;
    *out = (struct secret){NULL, 0};
    RV_TRY(key_object_open(masking, material, &key));
    if (key->pkey != NULL) {
        return asymmetric_component(key, attribute, out);
    }
    RV_REQUIRE(attribute == CKA_VALUE, CKR_ATTRIBUTE_TYPE_INVALID);
    return copy_secret(key->value.data, key->value.len, out);
}
