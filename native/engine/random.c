/* Random bytes and password hashes. The generator is OpenSSL's (CTR_DRBG, seeded by the kernel), of our own context. */
#include <openssl/rand.h>
#include <string.h>

#include "evp.h"

enum { RANDOM_MAX = 65536, STRENGTH = 256 };

uint64_t random_bytes(uint8_t *out, size_t len)
{
    return evp_start() && RAND_priv_bytes_ex(evp_context(), out, len, STRENGTH) > 0 ? CKR_OK : CKR_DEVICE_ERROR;
}

uint64_t op_random(struct crypto_worker *worker, const struct wire_random_request *request, struct wire_writer *out)
{
    ERRORS_SCOPED;
    (void)worker;
    RV_REQUIRE(request->length <= RANDOM_MAX, CKR_ARGUMENTS_BAD);
    uint8_t *field = field_begin(out, request->length);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    /* What leaves the HSM comes from another generator than keys and nonces. */
    RV_REQUIRE(request->length == 0 || RAND_bytes_ex(evp_context(), field, request->length, STRENGTH) > 0, CKR_DEVICE_ERROR);
    field_done(out, request->length);
    return CKR_OK;
}

uint64_t op_seed_random(struct crypto_worker *worker, const struct wire_seed_random_request *request, struct wire_writer *out)
{
    ERRORS_SCOPED;
    (void)worker;
    (void)out; /* an empty response */
    EVP_RAND_CTX *primary = RAND_get0_primary(evp_context());
    if (request->seed.len == 0) {
        return CKR_OK;
    }
    /* As additional input beside the kernel's entropy: a caller cannot make the output worse (SP 800-90A 8.7.2). */
    RV_REQUIRE(primary != NULL && EVP_RAND_reseed(primary, 0, NULL, 0, request->seed.data, request->seed.len) > 0,
               CKR_DEVICE_ERROR);
    return CKR_OK;
}

uint64_t password_hash(const uint8_t *data, size_t len, const uint8_t salt[16], uint8_t out[32])
{
    ERRORS_SCOPED;
    uint64_t n = 1 << 14;
    uint32_t r = 8, p = 1;
    const OSSL_PARAM params[] = {
        param_octets(OSSL_KDF_PARAM_PASSWORD, len != 0 ? data : (const uint8_t *)"", len),
        param_octets(OSSL_KDF_PARAM_SALT, salt, 16),
        OSSL_PARAM_construct_uint64(OSSL_KDF_PARAM_SCRYPT_N, &n),
        OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_R, &r),
        OSSL_PARAM_construct_uint32(OSSL_KDF_PARAM_SCRYPT_P, &p),
        OSSL_PARAM_construct_end(),
    };
    RV_REQUIRE(evp_start() && evp_kdf("SCRYPT", params, out, 32), CKR_DEVICE_ERROR);
    return CKR_OK;
}
