/* Keys under keys. What is wrapped is the raw value of a secret key or the PKCS#8 of a private key; what is unwrapped is
 * checked as an import is, and private keys are encoded anew, before they are masked. */
#include <string.h>

#include "object.h"

static uint64_t read_mechanism(const uint8_t *data, size_t len, struct wire_mechanism *out)
{
    struct wire_reader reader = wire_reader(data, len);
    return wire_get_mechanism(&reader, out) == WIRE_OK && wire_get_end(&reader) == WIRE_OK ? CKR_OK
                                                                                           : CKR_MECHANISM_PARAM_INVALID;
}

/* ---- CKM_RSA_AES_KEY_WRAP (PKCS #11 2.1.22): OAEP of a new AES key, then the target under it by KWP ------------------------ */

static uint64_t oaep_of(const struct wire_params_rsa_aes *params, struct wire_mechanism *out)
{
    RV_REQUIRE(params->aes_bits == 128 || params->aes_bits == 192 || params->aes_bits == 256, CKR_MECHANISM_PARAM_INVALID);
    *out = (struct wire_mechanism){.type = CKM_RSA_PKCS_OAEP, .kind = WIRE_KIND_OAEP,
                                   .as.oaep = {params->hash, params->mgf, params->source, params->label}};
    return CKR_OK;
}

static uint64_t wrap_rsa_aes(const struct key_object *key, const struct wire_params_rsa_aes *params, const struct secret *target,
                             uint8_t *out, size_t *out_len)
{
    struct wire_mechanism oaep;
    SECRET_SCOPED temporary = {NULL, 0};
    size_t head = 0, tail = 0;
    RV_TRY(oaep_of(params, &oaep));
    RV_REQUIRE(secret_alloc(&temporary, (size_t)params->aes_bits / 8), CKR_DEVICE_MEMORY);
    RV_TRY(random_bytes(temporary.data, temporary.len));
    RV_TRY(rsa_encrypt(key, &oaep, temporary.data, temporary.len, out, &head));
    RV_REQUIRE(aes_wrap_run(AES_WRAP_PAD, true, temporary.data, temporary.len, NULL, target->data, target->len, out + head,
                            &tail),
               CKR_DEVICE_ERROR);
    *out_len = head + tail;
    return CKR_OK;
}

static uint64_t unwrap_rsa_aes(const struct key_object *key, const struct wire_params_rsa_aes *params, const uint8_t *wrapped,
                               size_t wrapped_len, uint8_t *out, size_t *out_len)
{
    struct wire_mechanism oaep;
    SECRET_SCOPED temporary = {NULL, 0};
    size_t len = 0;
    RV_TRY(oaep_of(params, &oaep));
    RV_REQUIRE(wrapped_len >= key->size + 16 && (wrapped_len - key->size) % 8 == 0, CKR_ENCRYPTED_DATA_LEN_RANGE);
    RV_REQUIRE(secret_alloc(&temporary, key->size), CKR_DEVICE_MEMORY);
    RV_TRY(rsa_decrypt(key, &oaep, wrapped, key->size, temporary.data, &len));
    RV_REQUIRE(len == params->aes_bits / 8 && aes_wrap_run(AES_WRAP_PAD, false, temporary.data, len, NULL, wrapped + key->size,
                                                           wrapped_len - key->size, out, out_len),
               CKR_ENCRYPTED_DATA_INVALID);
    return CKR_OK;
}

/* ---- wrapping ------------------------------------------------------------------------------------------------------------- */

/* The codes of C_Encrypt in the words of C_WrapKey. */
static uint64_t wrap_error(uint64_t rv)
{
    switch (rv) {
    case CKR_DATA_LEN_RANGE:
    case CKR_DATA_INVALID:
        return CKR_KEY_SIZE_RANGE;
    case CKR_KEY_TYPE_INCONSISTENT:
        return CKR_WRAPPING_KEY_TYPE_INCONSISTENT;
    default:
        return rv;
    }
}

static uint64_t wrap_bytes(const struct key_object *key, const struct wire_mechanism *mechanism, const struct secret *target,
                           struct secret *out, uint8_t iv[16], size_t *iv_len)
{
    size_t len = 0;
    RV_REQUIRE(secret_alloc(out, cipher_room(key, target->len) + target->len), CKR_DEVICE_MEMORY);
    *iv_len = 0;
    if (mechanism->kind == WIRE_KIND_RSA_AES) {
        RV_TRY(wrap_rsa_aes(key, &mechanism->as.rsa_aes, target, out->data, &len));
        secret_trim(out, len);
        return CKR_OK;
    }
    bool prepend = mechanism->type == CKM_CLOUDHSM_AES_GCM;
    uint8_t *at = out->data + (prepend ? MADE_IV : 0);
    RV_TRY(cipher_encrypt(key, 0, mechanism, target->data, target->len, at, &len, iv, iv_len));
    if (prepend && *iv_len == MADE_IV) { /* the IV is part of what was wrapped, and not told apart */
        memcpy(out->data, iv, MADE_IV);
        len += MADE_IV;
        *iv_len = 0;
    }
    secret_trim(out, len);
    return CKR_OK;
}

uint64_t material_wrap(struct masking *masking, const he_material *wrapping, const uint8_t *mechanism, size_t mechanism_len,
                       const he_material *key, uint8_t *out, size_t *len, uint8_t iv[16], size_t *iv_len)
{
    ERRORS_SCOPED;
    struct wire_mechanism how;
    const struct mechanism_info *info;
    KEY_SCOPED *wrapper = NULL;
    SECRET_SCOPED target = {NULL, 0};
    SECRET_SCOPED wrapped = {NULL, 0};
    RV_TRY(read_mechanism(mechanism, mechanism_len, &how));
    RV_TRY(key_object_open(masking, wrapping, &wrapper));
    RV_TRY(wrap_error(mechanism_check(wrapper, &how, CKF_WRAP, &info)));
    RV_REQUIRE(key->object_class != CKO_PUBLIC_KEY, CKR_KEY_NOT_WRAPPABLE);
    /* PKCS #11 2.1.6, 2.1.8: RSA itself wraps secret keys; private keys go by CKM_RSA_AES_KEY_WRAP. */
    RV_REQUIRE(wrapper->key_type != CKK_RSA || how.type == CKM_RSA_AES_KEY_WRAP || key->object_class == CKO_SECRET_KEY,
               CKR_KEY_NOT_WRAPPABLE);
    RV_TRY(material_bytes(masking, key, &target));
    RV_TRY(wrap_error(wrap_bytes(wrapper, &how, &target, &wrapped, iv, iv_len)));
    return put_output(wrapped.data, wrapped.len, out, len);
}

/* ---- unwrapping ----------------------------------------------------------------------------------------------------------- */

/* The codes of C_Decrypt in the words of C_UnwrapKey. */
static uint64_t unwrap_error(uint64_t rv)
{
    switch (rv) {
    case CKR_ENCRYPTED_DATA_LEN_RANGE:
        return CKR_WRAPPED_KEY_LEN_RANGE;
    case CKR_ENCRYPTED_DATA_INVALID:
        return CKR_WRAPPED_KEY_INVALID;
    case CKR_KEY_TYPE_INCONSISTENT:
        return CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT;
    default:
        return rv;
    }
}

static uint64_t unwrap_bytes(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *wrapped,
                             size_t wrapped_len, struct secret *out)
{
    size_t len = 0;
    RV_REQUIRE(wrapped_len <= WIRE_MAX_DATA, CKR_ENCRYPTED_DATA_LEN_RANGE);
    RV_REQUIRE(secret_alloc(out, cipher_room(key, wrapped_len) + wrapped_len), CKR_DEVICE_MEMORY);
    RV_TRY(mechanism->kind == WIRE_KIND_RSA_AES
               ? unwrap_rsa_aes(key, &mechanism->as.rsa_aes, wrapped, wrapped_len, out->data, &len)
               : cipher_decrypt(key, 0, mechanism, wrapped, wrapped_len, out->data, &len));
    secret_trim(out, len);
    return CKR_OK;
}

static uint64_t mask_unwrapped(struct masking *masking, const struct secret *bytes, uint64_t object_class, uint64_t key_type,
                               uint8_t *out, size_t *len)
{
    struct key_parts parts;
    if (object_class == CKO_SECRET_KEY) {
        RV_REQUIRE(secret_type_known(key_type), CKR_ATTRIBUTE_VALUE_INVALID);
        RV_REQUIRE(secret_length_valid(key_type, bytes->len), CKR_WRAPPED_KEY_LEN_RANGE);
        return mask(masking, bytes->data, bytes->len, out, len);
    }
    RV_REQUIRE(object_class == CKO_PRIVATE_KEY, CKR_TEMPLATE_INCONSISTENT);
    RV_REQUIRE(parts_of_pkcs8(bytes->data, bytes->len, &parts) && parts.key_type == key_type && private_parts_valid(&parts),
               CKR_WRAPPED_KEY_INVALID);
    return private_mask(masking, &parts, out, len);
}

uint64_t material_unwrap(struct masking *masking, const he_material *unwrapping, const uint8_t *mechanism,
                         size_t mechanism_len, const uint8_t *wrapped, size_t wrapped_len, uint64_t object_class,
                         uint64_t key_type, uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    struct wire_mechanism how;
    const struct mechanism_info *info;
    KEY_SCOPED *unwrapper = NULL;
    SECRET_SCOPED bytes = {NULL, 0};
    RV_TRY(read_mechanism(mechanism, mechanism_len, &how));
    RV_TRY(key_object_open(masking, unwrapping, &unwrapper));
    RV_TRY(unwrap_error(mechanism_check(unwrapper, &how, CKF_UNWRAP, &info)));
    RV_REQUIRE(wrapped_len != 0, CKR_WRAPPED_KEY_LEN_RANGE);
    RV_TRY(unwrap_error(unwrap_bytes(unwrapper, &how, wrapped, wrapped_len, &bytes)));
    return mask_unwrapped(masking, &bytes, object_class, key_type, out, len);
}
