/* RSA as a cipher: PKCS#1 v1.5, raw, OAEP (RFC 8017 7). OpenSSL checks paddings in constant time and, in private operations,
 * every result of the Chinese remainder theorem against the public exponent (rsa_ossl_mod_exp, crypto/rsa/rsa_ossl.c). */
#define OPENSSL_SUPPRESS_DEPRECATED /* the padding checks have no other name yet */
#include <openssl/crypto.h>
#include <string.h>

#include "object.h"

static bool oaep_valid(uint64_t hash, uint64_t mgf, uint64_t source, const struct wire_bytes *label)
{
    return hash_find(hash) != NULL && hash_of_mgf(mgf) != NULL &&
           (source == CKZ_DATA_SPECIFIED || (source == 0 && label->len == 0));
}

uint64_t oaep_set(EVP_PKEY_CTX *context, uint64_t hash, uint64_t mgf, uint64_t source, const struct wire_bytes *label)
{
    RV_REQUIRE(oaep_valid(hash, mgf, source, label), CKR_MECHANISM_PARAM_INVALID);
    const struct hash *digest = hash_find(hash), *mask = hash_of_mgf(mgf);
    RV_REQUIRE(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) > 0 &&
                   EVP_PKEY_CTX_set_rsa_oaep_md(context, digest->md) > 0 &&
                   EVP_PKEY_CTX_set_rsa_mgf1_md(context, mask->md) > 0,
               CKR_MECHANISM_PARAM_INVALID);
    if (label->len == 0) {
        return CKR_OK;
    }
    uint8_t *copy = OPENSSL_memdup(label->data, label->len);
    RV_REQUIRE(copy != NULL, CKR_DEVICE_MEMORY);
    if (EVP_PKEY_CTX_set0_rsa_oaep_label(context, copy, (int)label->len) <= 0) {
        OPENSSL_free(copy);
        return CKR_MECHANISM_PARAM_INVALID;
    }
    return CKR_OK;
}

uint64_t rsa_padding(EVP_PKEY_CTX *context, const struct wire_mechanism *mechanism)
{
    const struct wire_params_oaep *oaep = &mechanism->as.oaep;
    switch (mechanism->type) {
    case CKM_RSA_PKCS:
        return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
    case CKM_RSA_X_509:
        return EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
    case CKM_RSA_PKCS_OAEP:
        return oaep_set(context, oaep->hash, oaep->mgf, oaep->source, &oaep->label);
    default:
        return CKR_MECHANISM_INVALID;
    }
}

/* RFC 8017 7.2.1 and 7.1.1: the longest message. */
static size_t longest(const struct key_object *key, const struct wire_mechanism *mechanism)
{
    const struct hash *hash = mechanism->type == CKM_RSA_PKCS_OAEP ? hash_find(mechanism->as.oaep.hash) : NULL;
    size_t overhead = mechanism->type == CKM_RSA_PKCS ? 11 : hash != NULL ? 2 * hash->size + 2 : 0;
    return key->size > overhead ? key->size - overhead : 0;
}

uint64_t rsa_encrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                     uint8_t *out, size_t *out_len)
{
    SECRET_SCOPED padded = {NULL, 0};
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey(evp_context(), key->pkey, NULL);
    RV_REQUIRE(key->object_class == CKO_PUBLIC_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_REQUIRE(context != NULL && EVP_PKEY_encrypt_init(context) > 0, CKR_DEVICE_ERROR);
    RV_TRY(rsa_padding(context, mechanism));
    RV_REQUIRE(len <= longest(key, mechanism), CKR_DATA_LEN_RANGE);
    if (mechanism->type == CKM_RSA_X_509) { /* "prepending ... 0-valued bytes" (PKCS #11 2.1.8) */
        RV_REQUIRE(secret_alloc(&padded, key->size), CKR_DEVICE_MEMORY);
        memcpy(padded.data + key->size - len, data, len);
        data = padded.data;
        len = key->size;
    }
    *out_len = key->size;
    return EVP_PKEY_encrypt(context, out, out_len, data, len) > 0 ? CKR_OK : CKR_DATA_INVALID;
}

uint64_t rsa_decrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                     uint8_t *out, size_t *out_len)
{
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey(evp_context(), key->pkey, NULL);
    RV_REQUIRE(key->object_class == CKO_PRIVATE_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_REQUIRE(context != NULL && EVP_PKEY_decrypt_init(context) > 0, CKR_DEVICE_ERROR);
    RV_TRY(rsa_padding(context, mechanism));
    RV_REQUIRE(len == key->size, CKR_ENCRYPTED_DATA_LEN_RANGE);
    *out_len = key->size;
    return EVP_PKEY_decrypt(context, out, out_len, data, len) > 0 ? CKR_OK : CKR_ENCRYPTED_DATA_INVALID;
}

/* ---- after a private operation of the lanes ------------------------------------------------------------------------- */

bool rsa_unpads(const struct wire_mechanism *mechanism)
{
    enum { IMPLICIT_REJECTION = 0x30200000 }; /* from 3.2 on EVP_PKEY_decrypt hides a bad padding in a way of its own */
    const struct wire_params_oaep *oaep = &mechanism->as.oaep;
    switch (mechanism->type) {
    case CKM_RSA_X_509:
        return true;
    case CKM_RSA_PKCS:
        return OpenSSL_version_num() < IMPLICIT_REJECTION;
    case CKM_RSA_PKCS_OAEP:
        return oaep_valid(oaep->hash, oaep->mgf, oaep->source, &oaep->label);
    default:
        return false;
    }
}

/* OpenSSL's own checks, which take the same time for every content. */
uint64_t rsa_unpad(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *block, uint8_t *out,
                   size_t *out_len)
{
    const struct wire_params_oaep *oaep = &mechanism->as.oaep;
    int size = (int)key->size, len = size;
    if (mechanism->type == CKM_RSA_X_509) {
        memcpy(out, block, key->size);
    } else if (mechanism->type == CKM_RSA_PKCS) {
        len = RSA_padding_check_PKCS1_type_2(out, size, block, size, size);
    } else {
        len = RSA_padding_check_PKCS1_OAEP_mgf1(out, size, block, size, size, oaep->label.data, (int)oaep->label.len,
                                                hash_find(oaep->hash)->md, hash_of_mgf(oaep->mgf)->md);
    }
    if (len < 0) {
        memory_wipe(out, key->size);
        return CKR_ENCRYPTED_DATA_INVALID;
    }
    *out_len = (size_t)len;
    return CKR_OK;
}
