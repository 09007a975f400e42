/* What an HSM signs as itself: with its hardware key, derived from the seed, and with masked keys that are the cluster's. */
#include <openssl/x509.h>
#include <string.h>

#include "object.h"

enum { SCALAR = 32, TRIES = 8, SIGNATURE_ROOM = 1024 };

/* FIPS 186-5 A.2.2 (rejection): the first of the seed's candidates in [1, n - 1]; each fails with a chance of 2^-32. */
static bool derive_scalar(struct masking *masking, uint8_t scalar[SCALAR])
{
    static const uint8_t order[SCALAR] = {0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF,
                                          0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC, 0xE6, 0xFA, 0xAD, 0xA7, 0x17,
                                          0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51};
    static const uint8_t zero[SCALAR];
    for (uint8_t counter = 0; counter < TRIES; counter++) {
        if (device_derive(masking, "hsmsim hardware p256", counter, scalar, SCALAR) != CKR_OK) {
            return false;
        }
        if (memcmp(scalar, order, SCALAR) < 0 && !memory_equal(scalar, zero, SCALAR)) {
            return true;
        }
    }
    return false;
}

static EVP_PKEY *hardware_key(struct masking *masking)
{
    SECRET_SCOPED scalar = {NULL, 0};
    if (!secret_alloc(&scalar, SCALAR) || !derive_scalar(masking, scalar.data)) {
        return NULL;
    }
    struct key_parts parts = {.key_type = CKK_EC, .curve = curve_of_name("prime256v1")};
    parts.part[EC_D] = wire_bytes(scalar.data, SCALAR);
    return parts.curve == NULL ? NULL : parts_to_pkey(&parts);
}

uint64_t device_signer(struct masking *masking, uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    SCOPED(EVP_PKEY) key = hardware_key(masking);
    uint8_t *encoded = NULL;
    RV_REQUIRE(key != NULL, CKR_DEVICE_ERROR);
    int size = i2d_PUBKEY(key, &encoded);
    RV_REQUIRE(size > 0, CKR_DEVICE_ERROR);
    uint64_t rv = put_output(encoded, (size_t)size, out, len);
    OPENSSL_free(encoded);
    return rv;
}

uint64_t device_sign(struct masking *masking, const uint8_t digest[32], uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    uint8_t signature[SIGNATURE_ROOM];
    size_t size = sizeof signature;
    SCOPED(EVP_PKEY) key = hardware_key(masking);
    SCOPED(EVP_PKEY_CTX) context = key == NULL ? NULL : EVP_PKEY_CTX_new_from_pkey(evp_context(), key, NULL);
    RV_REQUIRE(context != NULL && EVP_PKEY_sign_init(context) > 0 && EVP_PKEY_sign(context, signature, &size, digest, 32) > 0,
               CKR_DEVICE_ERROR);
    return put_output(signature, size, out, len);
}

uint64_t material_sign(struct masking *masking, const he_material *material, uint64_t mechanism, const uint8_t *data,
                       size_t data_len, uint8_t *out, size_t *len)
{
    uint8_t room[SIGNATURE_ROOM];
    KEY_SCOPED *key = NULL;
    struct wire_writer writer = wire_writer(room, sizeof room);
    const struct wire_sign_request request = {
        .mechanism = {.type = mechanism, .kind = WIRE_KIND_NONE},
        .data = wire_bytes(data, (uint32_t)data_len),
    };
    RV_REQUIRE(data_len <= WIRE_MAX_DATA, CKR_DATA_LEN_RANGE);
    RV_TRY(key_object_open(masking, material, &key));
    struct crypto_worker *worker = crypto_worker_new();
    RV_REQUIRE(worker != NULL, CKR_HOST_MEMORY);
    uint64_t rv = op_sign(worker, key, &request, &writer);
    crypto_worker_free(worker);
    RV_TRY(rv);
    struct wire_reader reader = wire_reader(room, writer.len);
    struct wire_sign_response response;
    RV_REQUIRE(wire_get_sign_response(&reader, &response) == WIRE_OK, CKR_DEVICE_ERROR);
    return put_output(response.signature.data, response.signature.len, out, len);
}
