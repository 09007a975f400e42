/* Keys from outside: C_CreateObject's templates, wrapped PKCS#8, SubjectPublicKeyInfo, ECDH points. Input: u8 way, u8 key type,
 * then the bytes. */
#include "../engine/object.h"
#include "fuzz.h"

enum { OUT = 8192 };

static struct masking *masking;
static struct key_object *aes;
static uint8_t aes_masked[64], p256_masked[256], rsa_masked[4096];
static he_material aes_material = {CKO_SECRET_KEY, CKK_AES, aes_masked, sizeof aes_masked};
static he_material p256_material = {CKO_PRIVATE_KEY, CKK_EC, p256_masked, sizeof p256_masked};
static he_material rsa_material = {CKO_PRIVATE_KEY, CKK_RSA, rsa_masked, sizeof rsa_masked};

static void generate(he_material *material, const void *parameters, size_t len)
{
    uint8_t *out = (uint8_t *)(uintptr_t)material->data;
    FUZZ_CHECK(material_generate(masking, material->key_type, parameters, len, out, &material->len) == CKR_OK);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const uint8_t aes_parameters[] = {32, 0, 0, 0}, rsa_parameters[] = {0, 8, 0, 0, 1, 0, 1};
    static const uint8_t p256[] = {0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07};
    (void)argc;
    (void)argv;
    masking = masking_new();
    FUZZ_CHECK(masking != NULL && masking_create(masking) == CKR_OK);
    fuzz_scan_mapping_of(masking_key(masking));
    generate(&aes_material, aes_parameters, sizeof aes_parameters);
    generate(&p256_material, p256, sizeof p256);
    generate(&rsa_material, rsa_parameters, sizeof rsa_parameters);
    FUZZ_CHECK(key_object_open(masking, &aes_material, &aes) == CKR_OK);
    return 0;
}

/* What was masked opens again. */
static void check_masked(uint64_t object_class, uint64_t key_type, const uint8_t *out, size_t len)
{
    const he_material material = {object_class, key_type, out, len};
    struct key_object *key;
    FUZZ_CHECK(key_object_open(masking, &material, &key) == CKR_OK);
    key_object_free(key);
}

static void import_template(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len)
{
    struct wire_reader reader = wire_reader(data, len);
    struct wire_template template;
    uint8_t out[OUT];
    size_t out_len = sizeof out;
    if (wire_get_template(&reader, &template) == WIRE_OK &&
        material_import(masking, &template, object_class, key_type, out, &out_len) == CKR_OK) {
        check_masked(object_class, key_type, out, out_len);
    }
}

static void unwrap(const he_material *under, const struct wire_mechanism *mechanism, uint64_t object_class, uint64_t key_type,
                   const uint8_t *wrapped, size_t len)
{
    uint8_t encoded[128], out[OUT];
    size_t out_len = sizeof out;
    struct wire_writer writer = wire_writer(encoded, sizeof encoded);
    FUZZ_CHECK(wire_put_mechanism(&writer, mechanism) == WIRE_OK);
    if (material_unwrap(masking, under, encoded, writer.len, wrapped, len, object_class, key_type, out, &out_len) == CKR_OK) {
        check_masked(object_class, key_type, out, out_len);
    }
}

/* The bytes as the plaintext of a wrapped key: what anybody with a wrapping key may send. */
static void unwrap_plaintext(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len)
{
    static const uint8_t iv[16];
    const struct wire_mechanism mechanism = {CKM_AES_CBC_PAD, WIRE_KIND_IV, {.iv = {{iv, sizeof iv}}}};
    uint8_t *wrapped = malloc(cipher_room(aes, len)), made[16];
    size_t wrapped_len, made_len;
    FUZZ_CHECK(cipher_encrypt(aes, 0, &mechanism, data, len, wrapped, &wrapped_len, made, &made_len) == CKR_OK);
    unwrap(&aes_material, &mechanism, object_class, key_type, wrapped, wrapped_len);
    free(wrapped);
}

static void unwrap_raw(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len)
{
    static const struct wire_mechanism kwp = {.type = CKM_AES_KEY_WRAP_KWP}, kw = {.type = CKM_AES_KEY_WRAP};
    static const struct wire_mechanism rsa_aes = {
        CKM_RSA_AES_KEY_WRAP, WIRE_KIND_RSA_AES, {.rsa_aes = {256, CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, {NULL, 0}}}};
    unwrap(&aes_material, &kwp, object_class, key_type, data, len);
    unwrap(&aes_material, &kw, object_class, key_type, data, len);
    unwrap(&rsa_material, &rsa_aes, object_class, key_type, data, len);
}

static void derive(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len)
{
    const struct wire_mechanism mechanism = {
        CKM_ECDH1_DERIVE, WIRE_KIND_ECDH1, {.ecdh1 = {CKD_NULL, {NULL, 0}, {data, (uint32_t)len}}}};
    uint8_t *encoded = malloc(len + 64), out[OUT];
    size_t out_len = sizeof out;
    struct wire_writer writer = wire_writer(encoded, len + 64);
    (void)object_class;
    FUZZ_CHECK(wire_put_mechanism(&writer, &mechanism) == WIRE_OK);
    (void)material_derive(masking, &p256_material, encoded, writer.len, NULL, key_type, 0, out, &out_len);
    free(encoded);
}

static void open_clear(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len)
{
    struct key_object *key;
    if (key_object_make(object_class, key_type, data, len, &key) == CKR_OK) {
        key_object_free(key);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const ways[])(uint64_t, uint64_t, const uint8_t *, size_t) = {import_template, unwrap_plaintext, unwrap_raw,
                                                                                derive, open_clear};
    static const uint64_t classes[] = {CKO_SECRET_KEY, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY};
    static const uint64_t types[] = {CKK_RSA, CKK_EC, CKK_EC_EDWARDS, CKK_AES, CKK_GENERIC_SECRET, CKK_SHA256_HMAC};
    struct wire_reader input = wire_reader(data, size);
    uint64_t way = fuzz_number(&input, 1) % (sizeof ways / sizeof *ways), choice = fuzz_number(&input, 1);
    struct wire_bytes rest = fuzz_bytes(&input, wire_left(&input));
    uint8_t *copy = fuzz_copy(rest);
    ways[way](classes[choice / 16 % 3], types[choice % 16 % 6], copy, rest.len);
    free(copy);
    return 0;
}
