/* Key derivation: SP 800-108, HKDF, ECDH with the X9.63 functions, encrypted data. */
#include "crypto_fixture.h"
#include "crypto_vectors_asymmetric.h"
#include "crypto_vectors_symmetric.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- SP 800-108 ------------------------------------------------------------------------------------------------------- */

struct segments {
    struct bytes encoded;
    uint32_t count;
};

static void add_segment(struct segments *to, const struct bytes *value)
{
    struct wire_writer writer = wire_writer(to->encoded.data + to->encoded.len, BYTES_MAX - to->encoded.len);
    struct wire_bytes data = view(value);
    CHECK(wire_put_bytes(&writer, &data) == WIRE_OK);
    to->encoded.len += writer.len;
    to->count++;
}

static void put_u64(struct bytes *to, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        to->data[to->len++] = (uint8_t)(value >> (8 * i));
    }
}

static void add_raw(struct segments *to, const char *text)
{
    struct bytes raw = unhex(text), segment = {.len = 0};
    put_u64(&segment, CK_SP800_108_BYTE_ARRAY);
    memcpy(segment.data + segment.len, raw.data, raw.len);
    segment.len += raw.len;
    add_segment(to, &segment);
}

static void add_counter(struct segments *to, uint64_t width, uint8_t little_endian)
{
    struct bytes segment = {.len = 0};
    put_u64(&segment, CK_SP800_108_ITERATION_VARIABLE);
    put_u64(&segment, width);
    segment.data[segment.len++] = little_endian;
    add_segment(to, &segment);
}

static void add_length(struct segments *to, uint64_t method, uint64_t width, uint8_t little_endian)
{
    struct bytes segment = {.len = 0};
    put_u64(&segment, CK_SP800_108_DKM_LENGTH);
    put_u64(&segment, method);
    put_u64(&segment, width);
    segment.data[segment.len++] = little_endian;
    add_segment(to, &segment);
}

static struct wire_mechanism kbkdf(uint64_t prf, const struct segments *segments)
{
    return (struct wire_mechanism){
        .type = CKM_SP800_108_COUNTER_KDF,
        .kind = WIRE_KIND_SP800_108,
        .as.sp800_108 = {prf, {segments->encoded.data, (uint32_t)segments->encoded.len, segments->count}}};
}

static void test_kbkdf_vectors(void)
{
    for (size_t i = 0; i < COUNT(kbkdf_vectors); i++) {
        const struct kdf_vector *vector = &kbkdf_vectors[i];
        struct owned_material base = secret_material(vector->prf == CKM_AES_CMAC ? CKK_AES : CKK_GENERIC_SECRET, vector->key), out;
        struct segments segments = {.count = 0};
        add_raw(&segments, vector->before);
        add_counter(&segments, vector->counter_bits, 0);
        add_raw(&segments, vector->after);
        struct wire_mechanism mechanism = kbkdf(vector->prf, &segments);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, strlen(vector->output) / 2, &out), CKR_OK);
        check_value(&out, vector->output);
    }
}

/* [L] is one more byte string: the same key as with the string written out. */
static void test_kbkdf_length(void)
{
    static const struct {
        uint64_t method, width;
        uint8_t little_endian;
        const char *text;
    } cases[] = {
        {CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, 32, 0, "00000140"},
        {CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, 16, 1, "4001"},
        {CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS, 64, 0, "0000000000000200"},
    };
    struct owned_material base = secret_material(CKK_GENERIC_SECRET, "00112233445566778899aabbccddeeff"), with, written;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct segments first = {.count = 0}, second = {.count = 0};
        add_counter(&first, 16, 1);
        add_length(&first, cases[i].method, cases[i].width, cases[i].little_endian);
        add_counter(&second, 16, 1);
        add_raw(&second, cases[i].text);
        struct wire_mechanism a = kbkdf(CKM_SHA256_HMAC, &first), b = kbkdf(CKM_SHA256_HMAC, &second);
        CHECK_EQ(do_derive(&base, &a, NULL, CKK_GENERIC_SECRET, 40, &with), CKR_OK);
        CHECK_EQ(do_derive(&base, &b, NULL, CKK_GENERIC_SECRET, 40, &written), CKR_OK);
        struct bytes left = component(&with, CKA_VALUE), right = component(&written, CKA_VALUE);
        CHECK_EQ_MEM(left.data, left.len, right.data, right.len);
    }
}

static void test_kbkdf_refusals(void)
{
    struct owned_material base = secret_material(CKK_GENERIC_SECRET, "00112233445566778899aabbccddeeff"), out;
    struct segments none = {.count = 0}, twice = none, wide = none, odd = none, narrow = none, tiny = none;
    struct wire_mechanism mechanism = kbkdf(CKM_SHA256_HMAC, &none);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    add_counter(&twice, 8, 0);
    add_counter(&twice, 8, 0);
    mechanism = kbkdf(CKM_SHA256_HMAC, &twice);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    add_counter(&wide, 40, 0);
    mechanism = kbkdf(CKM_SHA256_HMAC, &wide);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    add_counter(&odd, 12, 0);
    mechanism = kbkdf(CKM_SHA256_HMAC, &odd);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    add_counter(&narrow, 32, 0);
    add_length(&narrow, CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, 8, 0); /* 256 bits do not fit */
    mechanism = kbkdf(CKM_SHA256_HMAC, &narrow);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    add_counter(&tiny, 8, 0);
    mechanism = kbkdf(CKM_AES_CMAC, &tiny);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 16, &out), CKR_KEY_TYPE_INCONSISTENT);
    mechanism = kbkdf(CKM_SHA256, &tiny);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 16, &out), CKR_MECHANISM_PARAM_INVALID);
    mechanism = kbkdf(CKM_SHA256_HMAC, &tiny);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 17, &out), CKR_KEY_SIZE_RANGE);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_RSA, 16, &out), CKR_TEMPLATE_INCONSISTENT);
    mechanism.kind = WIRE_KIND_NONE;
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 16, &out), CKR_MECHANISM_PARAM_INVALID);
    mechanism = (struct wire_mechanism){.type = CKM_AES_ECB};
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 16, &out), CKR_MECHANISM_INVALID);
}

/* ---- HKDF ---------------------------------------------------------------------------------------------------------------- */

static void test_hkdf_vectors(void)
{
    for (size_t i = 0; i < COUNT(hkdf_vectors); i++) {
        const struct hkdf_vector *vector = &hkdf_vectors[i];
        size_t prk_len = strlen(vector->prk) / 2, len = strlen(vector->output) / 2;
        struct owned_material base = secret_material(CKK_GENERIC_SECRET, vector->key), out;
        struct owned_material prk = secret_material(CKK_GENERIC_SECRET, vector->prk);
        struct bytes salt = unhex(vector->salt), info = unhex(vector->info);
        struct wire_mechanism mechanism = {.type = CKM_HKDF_DERIVE, .kind = WIRE_KIND_HKDF,
                                           .as.hkdf = {.extract = 1, .expand = 1, .prf = vector->hash, .info = view(&info),
                                                       .salt_type = salt.len != 0 ? CKF_HKDF_SALT_DATA : CKF_HKDF_SALT_NULL,
                                                       .salt = view(&salt)}};
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, len, &out), CKR_OK);
        check_value(&out, vector->output);
        if (salt.len != 0) {
            struct owned_material salt_key = secret_material(CKK_GENERIC_SECRET, vector->salt);
            mechanism.as.hkdf.salt_type = CKF_HKDF_SALT_KEY;
            CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, len, &out), CKR_MECHANISM_PARAM_INVALID);
            CHECK_EQ(do_derive(&base, &mechanism, &salt_key, CKK_GENERIC_SECRET, len, &out), CKR_OK);
            check_value(&out, vector->output);
        }
        mechanism.as.hkdf.expand = 0;
        mechanism.as.hkdf.salt_type = salt.len != 0 ? CKF_HKDF_SALT_DATA : CKF_HKDF_SALT_NULL;
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_OK);
        check_value(&out, vector->prk);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, prk_len + 1, &out), CKR_KEY_SIZE_RANGE);
        mechanism.as.hkdf.expand = 1;
        mechanism.as.hkdf.extract = 0;
        CHECK_EQ(do_derive(&prk, &mechanism, NULL, CKK_GENERIC_SECRET, len, &out), CKR_OK);
        check_value(&out, vector->output);
        mechanism.as.hkdf.expand = 0;
        CHECK_EQ(do_derive(&prk, &mechanism, NULL, CKK_GENERIC_SECRET, len, &out), CKR_MECHANISM_PARAM_INVALID);
    }
}

/* ---- ECDH ---------------------------------------------------------------------------------------------------------------- */

static struct owned_material ec_private(const char *curve, const char *d)
{
    struct attributes attributes = {.count = 0};
    add_hex(&attributes, CKA_EC_PARAMS, curve);
    add_hex(&attributes, CKA_VALUE, d);
    return import_material(&attributes, CKO_PRIVATE_KEY, CKK_EC);
}

static struct wire_mechanism ecdh(uint64_t kdf, const struct bytes *shared, const struct bytes *point)
{
    return (struct wire_mechanism){.type = CKM_ECDH1_DERIVE, .kind = WIRE_KIND_ECDH1, .as.ecdh1 = {kdf, view(shared), view(point)}};
}

static void test_ecdh_vectors(void)
{
    struct bytes none = {.len = 0};
    for (size_t i = 0; i < COUNT(ecdh_vectors); i++) {
        struct owned_material base = ec_private(ecdh_vectors[i].curve, ecdh_vectors[i].d), out;
        struct bytes point = unhex(ecdh_vectors[i].point), z = unhex(ecdh_vectors[i].z), wrapped = {.len = 0};
        struct wire_mechanism mechanism = ecdh(CKD_NULL, &none, &point);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_OK);
        check_value(&out, ecdh_vectors[i].z);
        /* "The truncation removes bytes from the leading end of the secret value." */
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 16, &out), CKR_OK);
        struct bytes tail = component(&out, CKA_VALUE);
        CHECK_EQ_MEM(tail.data, tail.len, z.data + z.len - 16, 16);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, z.len + 1, &out), CKR_KEY_SIZE_RANGE);
        wrapped.data[0] = 4; /* the same point as DER OCTET STRING */
        size_t header = point.len < 128 ? 2 : 3;
        wrapped.data[1] = point.len < 128 ? (uint8_t)point.len : 0x81;
        wrapped.data[header - 1] = (uint8_t)point.len;
        memcpy(wrapped.data + header, point.data, point.len);
        wrapped.len = point.len + header;
        mechanism = ecdh(CKD_NULL, &none, &wrapped);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_OK);
        check_value(&out, ecdh_vectors[i].z);
        point.data[point.len - 1] ^= 1; /* not on the curve */
        mechanism = ecdh(CKD_NULL, &none, &point);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_MECHANISM_PARAM_INVALID);
        point.len--;
        mechanism = ecdh(CKD_NULL, &none, &point);
        CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_MECHANISM_PARAM_INVALID);
    }
}

/* X9.63: Hash(Z | counter | SharedInfo) ..., computed here with OpenSSL's hash alone. */
static void x963(const char *name, const struct bytes *z, const struct bytes *info, uint8_t *out, size_t len)
{
    for (uint32_t counter = 1; len > 0; counter++) {
        const uint8_t big_endian[] = {0, 0, 0, (uint8_t)counter};
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned size = 0;
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        CHECK(EVP_DigestInit_ex(context, EVP_get_digestbyname(name), NULL) && EVP_DigestUpdate(context, z->data, z->len) &&
              EVP_DigestUpdate(context, big_endian, 4) && EVP_DigestUpdate(context, info->data, info->len) &&
              EVP_DigestFinal_ex(context, digest, &size));
        EVP_MD_CTX_free(context);
        size_t taken = len < size ? len : size;
        memcpy(out, digest, taken);
        out += taken;
        len -= taken;
    }
}

static void test_ecdh_x963(void)
{
    static const struct {
        uint64_t kdf, vendor;
        const char *name;
    } kdfs[] = {
        {CKD_SHA1_KDF, CKD_CLOUDHSM_X963_SHA1_KDF, "SHA1"},       {CKD_SHA224_KDF, CKD_CLOUDHSM_X963_SHA224_KDF, "SHA224"},
        {CKD_SHA256_KDF, CKD_CLOUDHSM_X963_SHA256_KDF, "SHA256"}, {CKD_SHA384_KDF, CKD_CLOUDHSM_X963_SHA384_KDF, "SHA384"},
        {CKD_SHA512_KDF, CKD_CLOUDHSM_X963_SHA512_KDF, "SHA512"},
    };
    struct owned_material base = ec_private(ecdh_vectors[1].curve, ecdh_vectors[1].d), out;
    struct bytes point = unhex(ecdh_vectors[1].point), z = unhex(ecdh_vectors[1].z), info = unhex("75eef81aa3041e33b80971203d2c0c52");
    for (size_t i = 0; i < COUNT(kdfs); i++) {
        for (size_t len = 32; len <= 200; len += 84) {
            uint8_t expected[200];
            x963(kdfs[i].name, &z, &info, expected, len);
            for (int vendor = 0; vendor < 2; vendor++) {
                struct wire_mechanism mechanism = ecdh(vendor != 0 ? kdfs[i].vendor : kdfs[i].kdf, &info, &point);
                CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, len, &out), CKR_OK);
                struct bytes actual = component(&out, CKA_VALUE);
                CHECK_EQ_MEM(actual.data, actual.len, expected, len);
            }
        }
    }
    for (size_t i = 0; i < COUNT(x963_vectors); i++) { /* that the function above is X9.63's */
        struct bytes secret = unhex(x963_vectors[i].z), shared = unhex(x963_vectors[i].info), wanted = unhex(x963_vectors[i].output);
        uint8_t actual[256];
        x963(hash_find(x963_vectors[i].hash)->name, &secret, &shared, actual, wanted.len);
        CHECK_EQ_MEM(actual, wanted.len, wanted.data, wanted.len);
    }
    struct wire_mechanism mechanism = ecdh(CKD_NULL, &info, &point);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    mechanism = ecdh(CKD_CPDIVERSIFY_KDF, &info, &point);
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_MECHANISM_PARAM_INVALID);
    struct owned_material secret = secret_material(CKK_GENERIC_SECRET, "00");
    CHECK_EQ(do_derive(&secret, &mechanism, NULL, CKK_GENERIC_SECRET, 32, &out), CKR_KEY_TYPE_INCONSISTENT);
}

/* ---- encrypted data: SP 800-38A F.1.1 and F.2.1 as keys --------------------------------------------------------------------- */

static void test_encrypted_data(void)
{
    struct owned_material base = secret_material(CKK_AES, "2b7e151628aed2a6abf7158809cf4f3c"), out;
    struct bytes data = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    struct bytes with_iv = unhex("000102030405060708090a0b0c0d0e0f6bc1bee22e409f96e93d7e117393172a");
    struct wire_mechanism mechanism = {.type = CKM_AES_ECB_ENCRYPT_DATA, .kind = WIRE_KIND_DATA, .as.data = {view(&data)}};
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_GENERIC_SECRET, 0, &out), CKR_OK);
    check_value(&out, "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf");
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 16, &out), CKR_OK);
    check_value(&out, "f5d3d58503b9699de785895a96fdbaaf");
    mechanism = (struct wire_mechanism){.type = CKM_AES_CBC_ENCRYPT_DATA, .kind = WIRE_KIND_DATA, .as.data = {view(&with_iv)}};
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 0, &out), CKR_OK);
    check_value(&out, "7649abac8119b246cee98e9b12e9197d");
    mechanism.as.data.data.len = 16;
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 0, &out), CKR_MECHANISM_PARAM_INVALID);
    mechanism.as.data.data.len = 31;
    CHECK_EQ(do_derive(&base, &mechanism, NULL, CKK_AES, 0, &out), CKR_MECHANISM_PARAM_INVALID);
}

int main(void)
{
    fixture_start();
    test_kbkdf_vectors();
    test_kbkdf_length();
    test_kbkdf_refusals();
    test_hkdf_vectors();
    test_ecdh_vectors();
    test_ecdh_x963();
    test_encrypted_data();
    fixture_stop();
    return 0;
}
