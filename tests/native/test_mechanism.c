/* CK_MECHANISM to the wire: what is taken, what is refused and with which code, sizes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mechanism.h"

#include "cloudhsm_pkcs11_vendor_defs.h"

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

enum { GENERAL, CLOUDHSM, BOTH };

static uint8_t bytes[512];
static uint8_t zero_iv[12];
static uint8_t default_icv[8] = {0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6};

struct row {
    const char *what;
    CK_MECHANISM_TYPE type;
    const void *parameter;
    CK_ULONG len;
    CK_FLAGS function;
    int profile;
    CK_RV rv;
};

#define P(...) &(__VA_ARGS__), sizeof(__VA_ARGS__)
#define GCM(...) P((CK_GCM_PARAMS){__VA_ARGS__})
#define OAEP(...) P((CK_RSA_PKCS_OAEP_PARAMS){__VA_ARGS__})
#define PSS(...) P((CK_RSA_PKCS_PSS_PARAMS){__VA_ARGS__})
#define HKDF(...) P((CK_HKDF_PARAMS){__VA_ARGS__})
#define ECDH(...) P((CK_ECDH1_DERIVE_PARAMS){__VA_ARGS__})
#define EDDSA(...) P((CK_EDDSA_PARAMS){__VA_ARGS__})
#define LENGTH(value) P((CK_ULONG){value})

#define OK CKR_OK
#define BAD CKR_MECHANISM_PARAM_INVALID
#define ARGS CKR_ARGUMENTS_BAD
#define NOT CKR_MECHANISM_INVALID

static void check_row(const struct row *row, bool cloudhsm)
{
    union {
        struct mechanism_room room;
        uint64_t align;
    } room;
    CK_MECHANISM in = {row->type, (void *)(uintptr_t)row->parameter, row->len};
    struct wire_mechanism out;
    CK_RV rv = mechanism_convert(&in, row->function, cloudhsm, &room.room, &out, NULL);
    if (rv != row->rv) {
        fprintf(stderr, "%s (%s): 0x%lx, expected 0x%lx\n", row->what, cloudhsm ? "cloudhsm" : "general", rv, row->rv);
        exit(1);
    }
    if (rv == CKR_OK) { /* what was taken can be sent and read again */
        static uint8_t encoded[8192];
        struct wire_writer writer = wire_writer(encoded, sizeof encoded);
        struct wire_mechanism back;
        CHECK(wire_put_mechanism(&writer, &out) == WIRE_OK);
        struct wire_reader reader = wire_reader(encoded, writer.len);
        CHECK(wire_get_mechanism(&reader, &back) == WIRE_OK && wire_get_end(&reader) == WIRE_OK);
        CHECK(back.type == row->type && back.kind == out.kind);
    }
}

static void test_conversion(void)
{
    const struct row rows[] = {
        {"ECDSA", CKM_ECDSA, NULL, 0, CKF_SIGN, BOTH, OK},
        {"ECDSA with a stray pointer", CKM_ECDSA, bytes, 0, CKF_SIGN, BOTH, OK},
        {"ECDSA takes no parameter", CKM_ECDSA, bytes, 4, CKF_SIGN, BOTH, BAD},
        {"ECDSA does not encrypt", CKM_ECDSA, NULL, 0, CKF_ENCRYPT, BOTH, NOT},
        {"unknown mechanism", 0x12345678, NULL, 0, CKF_SIGN, BOTH, NOT},
        {"3DES is in no profile", CKM_DES3_CBC, bytes, 8, CKF_ENCRYPT, BOTH, NOT},
        {"EDDSA is not AWS's", CKM_EDDSA, NULL, 0, CKF_SIGN, CLOUDHSM, NOT},
        {"SignRecover is not AWS's", CKM_RSA_PKCS, NULL, 0, CKF_SIGN_RECOVER, CLOUDHSM, NOT},
        {"SignRecover", CKM_RSA_PKCS, NULL, 0, CKF_SIGN_RECOVER, GENERAL, OK},

        {"CBC", CKM_AES_CBC, bytes, 16, CKF_ENCRYPT, BOTH, OK},
        {"CBC without IV", CKM_AES_CBC, NULL, 0, CKF_ENCRYPT, BOTH, BAD},
        {"CBC with NULL of 16", CKM_AES_CBC, NULL, 16, CKF_ENCRYPT, BOTH, ARGS},
        {"CBC with 8 bytes", CKM_AES_CBC, bytes, 8, CKF_ENCRYPT, BOTH, BAD},
        {"CBC with 17 bytes", CKM_AES_CBC, bytes, 17, CKF_ENCRYPT, BOTH, BAD},
        {"CBC with 2^32", CKM_AES_CBC, bytes, 0x100000000UL, CKF_ENCRYPT, BOTH, BAD},
        {"CBC with 2^32 + 16", CKM_AES_CBC, bytes, 0x100000010UL, CKF_ENCRYPT, BOTH, BAD},
        {"CBC with 2^64 - 1", CKM_AES_CBC, bytes, ~0UL, CKF_ENCRYPT, BOTH, BAD},

        {"CTR", CKM_AES_CTR, P((CK_AES_CTR_PARAMS){.ulCounterBits = 128}), CKF_ENCRYPT, BOTH, OK},
        {"CTR of 0 bits", CKM_AES_CTR, P((CK_AES_CTR_PARAMS){.ulCounterBits = 0}), CKF_ENCRYPT, BOTH, BAD},
        {"CTR of 129 bits", CKM_AES_CTR, P((CK_AES_CTR_PARAMS){.ulCounterBits = 129}), CKF_ENCRYPT, BOTH, BAD},
        {"CTR with an IV", CKM_AES_CTR, bytes, 16, CKF_ENCRYPT, BOTH, BAD},

        {"GCM", CKM_AES_GCM, GCM(bytes, 12, 96, bytes, 20, 128), CKF_ENCRYPT, GENERAL, OK},
        {"GCM decrypts", CKM_AES_GCM, GCM(bytes, 12, 96, bytes, 20, 128), CKF_DECRYPT, BOTH, OK},
        {"GCM with ulIvBits 0", CKM_AES_GCM, GCM(bytes, 12, 0, NULL, 0, 96), CKF_ENCRYPT, GENERAL, OK},
        {"GCM, pIv NULL of 12", CKM_AES_GCM, GCM(NULL, 12, 96, NULL, 0, 128), CKF_ENCRYPT, GENERAL, ARGS},
        {"GCM, pAAD NULL of 1", CKM_AES_GCM, GCM(bytes, 12, 96, NULL, 1, 128), CKF_ENCRYPT, BOTH, ARGS},
        {"GCM, pAAD of 2^64 - 1", CKM_AES_GCM, GCM(bytes, 12, 96, bytes, ~0UL, 128), CKF_ENCRYPT, BOTH, BAD},
        {"GCM without IV", CKM_AES_GCM, GCM(NULL, 0, 0, NULL, 0, 128), CKF_ENCRYPT, BOTH, BAD},
        {"GCM, IV of 129", CKM_AES_GCM, GCM(bytes, 129, 0, NULL, 0, 128), CKF_ENCRYPT, BOTH, BAD},
        {"GCM, tag of 0 bits", CKM_AES_GCM, GCM(bytes, 12, 96, NULL, 0, 0), CKF_ENCRYPT, BOTH, BAD},
        {"GCM, tag of 100 bits", CKM_AES_GCM, GCM(bytes, 12, 96, NULL, 0, 100), CKF_ENCRYPT, BOTH, BAD},
        {"GCM, tag of 136 bits", CKM_AES_GCM, GCM(bytes, 12, 96, NULL, 0, 136), CKF_ENCRYPT, BOTH, BAD},
        {"GCM, parameter one byte short", CKM_AES_GCM, bytes, sizeof(CK_GCM_PARAMS) - 1, CKF_ENCRYPT, BOTH, BAD},
        {"GCM, no parameter", CKM_AES_GCM, NULL, 0, CKF_ENCRYPT, BOTH, BAD},
        {"GCM, HSM's IV", CKM_AES_GCM, GCM(zero_iv, 12, 96, NULL, 0, 128), CKF_ENCRYPT, CLOUDHSM, OK},
        {"GCM, HSM's IV to nowhere", CKM_AES_GCM, GCM(NULL, 12, 96, NULL, 0, 128), CKF_ENCRYPT, CLOUDHSM, BAD},
        {"GCM, HSM's IV to 16 bytes", CKM_AES_GCM, GCM(bytes, 16, 128, NULL, 0, 128), CKF_WRAP, CLOUDHSM, BAD},
        {"AWS's GCM", CKM_CLOUDHSM_AES_GCM, GCM(NULL, 0, 0, bytes, 4, 128), CKF_ENCRYPT, BOTH, OK},
        {"AWS's GCM with an IV", CKM_CLOUDHSM_AES_GCM, GCM(bytes, 12, 96, NULL, 0, 128), CKF_DECRYPT, BOTH, BAD},

        {"PSS", CKM_RSA_PKCS_PSS, PSS(CKM_SHA256, CKG_MGF1_SHA256, 32), CKF_SIGN, BOTH, OK},
        {"PSS, other MGF", CKM_SHA256_RSA_PKCS_PSS, PSS(CKM_SHA256, CKG_MGF1_SHA1, 20), CKF_SIGN, BOTH, OK},
        {"PSS, other hash", CKM_SHA256_RSA_PKCS_PSS, PSS(CKM_SHA384, CKG_MGF1_SHA256, 32), CKF_SIGN, BOTH, BAD},
        {"PSS, MD5", CKM_RSA_PKCS_PSS, PSS(CKM_MD5, CKG_MGF1_SHA1, 16), CKF_SIGN, BOTH, BAD},
        {"PSS, MGF 0", CKM_RSA_PKCS_PSS, PSS(CKM_SHA256, 0, 32), CKF_SIGN, BOTH, BAD},
        {"PSS, salt of 2^64 - 1", CKM_RSA_PKCS_PSS, PSS(CKM_SHA256, CKG_MGF1_SHA256, ~0UL), CKF_SIGN, BOTH, BAD},
        {"PSS, no parameter", CKM_RSA_PKCS_PSS, NULL, 0, CKF_SIGN, BOTH, BAD},

        {"OAEP", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0), CKF_WRAP, BOTH, OK},
        {"OAEP, source 0", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA_1, CKG_MGF1_SHA1, 0, NULL, 0), CKF_WRAP, BOTH, OK},
        {"OAEP, source 0 and data", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA_1, CKG_MGF1_SHA1, 0, bytes, 1), CKF_WRAP, BOTH, BAD},
        {"OAEP, NULL label of 9", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA_1, CKG_MGF1_SHA1, 1, NULL, 9), CKF_WRAP, BOTH, ARGS},
        {"OAEP, MGF of another hash", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA256, CKG_MGF1_SHA1, 1, NULL, 0), CKF_DECRYPT,
         GENERAL, OK},
        {"OAEP, MGF of another hash", CKM_RSA_PKCS_OAEP, OAEP(CKM_SHA256, CKG_MGF1_SHA1, 1, NULL, 0), CKF_DECRYPT,
         CLOUDHSM, BAD},

        {"pure Ed25519", CKM_EDDSA, NULL, 0, CKF_SIGN, GENERAL, OK},
        {"Ed25519ph", CKM_EDDSA, EDDSA(CK_TRUE, 0, NULL), CKF_SIGN, GENERAL, OK},
        {"Ed25519ctx", CKM_EDDSA, EDDSA(CK_FALSE, 255, bytes), CKF_SIGN, GENERAL, OK},
        {"Ed25519, context of 256", CKM_EDDSA, EDDSA(CK_FALSE, 256, bytes), CKF_SIGN, GENERAL, BAD},
        {"Ed25519, flag of 2", CKM_EDDSA, EDDSA(2, 0, NULL), CKF_SIGN, GENERAL, BAD},
        {"AWS's Ed25519ph", CKM_CLOUDHSM_EDDSA, EDDSA(CK_TRUE, 0, NULL), CKF_SIGN, CLOUDHSM, OK},
        {"AWS's Ed25519 with a context", CKM_CLOUDHSM_EDDSA, EDDSA(CK_TRUE, 1, bytes), CKF_SIGN, CLOUDHSM, BAD},
        {"a number of ours is in AWS's profile only", CKM_CLOUDHSM_EDDSA, NULL, 0, CKF_SIGN, GENERAL, NOT},

        {"HMAC of 16", CKM_SHA256_HMAC_GENERAL, LENGTH(16), CKF_SIGN, GENERAL, OK},
        {"HMAC of 32", CKM_SHA256_HMAC_GENERAL, LENGTH(32), CKF_SIGN, GENERAL, OK},
        {"HMAC of 33", CKM_SHA256_HMAC_GENERAL, LENGTH(33), CKF_SIGN, GENERAL, BAD},
        {"HMAC of 0", CKM_SHA256_HMAC_GENERAL, LENGTH(0), CKF_SIGN, GENERAL, BAD},
        {"CMAC", CKM_AES_CMAC, NULL, 0, CKF_VERIFY, BOTH, OK},

        {"ECDH", CKM_ECDH1_DERIVE, ECDH(CKD_NULL, 0, NULL, 65, bytes), CKF_DERIVE, BOTH, OK},
        {"ECDH, X9.63", CKM_ECDH1_DERIVE, ECDH(CKD_SHA256_KDF, 7, bytes, 65, bytes), CKF_DERIVE, BOTH, OK},
        {"ECDH, shared data and CKD_NULL", CKM_ECDH1_DERIVE, ECDH(CKD_NULL, 7, bytes, 65, bytes), CKF_DERIVE, BOTH, BAD},
        {"ECDH, unknown KDF", CKM_ECDH1_DERIVE, ECDH(CKD_SHA3_256_KDF, 0, NULL, 65, bytes), CKF_DERIVE, BOTH, BAD},
        {"ECDH, no point", CKM_ECDH1_DERIVE, ECDH(CKD_NULL, 0, NULL, 0, NULL), CKF_DERIVE, BOTH, BAD},
        {"ECDH, NULL point", CKM_ECDH1_DERIVE, ECDH(CKD_NULL, 0, NULL, 65, NULL), CKF_DERIVE, BOTH, ARGS},

        {"HKDF", CKM_HKDF_DERIVE, HKDF(1, 1, CKM_SHA256, CKF_HKDF_SALT_DATA, bytes, 8, 0, bytes, 4), CKF_DERIVE, GENERAL, OK},
        {"HKDF, neither step", CKM_HKDF_DERIVE, HKDF(0, 0, CKM_SHA256, CKF_HKDF_SALT_NULL, NULL, 0, 0, NULL, 0), CKF_DERIVE,
         GENERAL, BAD},
        {"HKDF, HMAC for a hash", CKM_HKDF_DERIVE, HKDF(1, 1, CKM_SHA256_HMAC, CKF_HKDF_SALT_NULL, NULL, 0, 0, NULL, 0),
         CKF_DERIVE, GENERAL, BAD},
        {"HKDF, salt type 8", CKM_HKDF_DERIVE, HKDF(1, 1, CKM_SHA256, 8, NULL, 0, 0, NULL, 0), CKF_DERIVE, GENERAL, BAD},

        {"key wrap", CKM_AES_KEY_WRAP, NULL, 0, CKF_WRAP, GENERAL, OK},
        {"key wrap, IV", CKM_AES_KEY_WRAP, bytes, 8, CKF_WRAP, GENERAL, OK},
        {"key wrap, IV of 4", CKM_AES_KEY_WRAP, bytes, 4, CKF_WRAP, GENERAL, BAD},
        {"padded key wrap, IV", CKM_AES_KEY_WRAP_KWP, bytes, 4, CKF_WRAP, GENERAL, OK},
        {"standard key wrap is not AWS's", CKM_AES_KEY_WRAP, NULL, 0, CKF_WRAP, CLOUDHSM, NOT},
        {"AWS's wrap, default IV", CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD, default_icv, 8, CKF_WRAP, BOTH, OK},
        {"AWS's wrap, own IV", CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD, bytes, 8, CKF_WRAP, BOTH, BAD},
        {"AWS's zero padding takes none", CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD, default_icv, 8, CKF_WRAP, BOTH, BAD},
        {"RSA_AES", CKM_RSA_AES_KEY_WRAP,
         P((CK_RSA_AES_KEY_WRAP_PARAMS){256, &(CK_RSA_PKCS_OAEP_PARAMS){CKM_SHA256, CKG_MGF1_SHA256, 1, NULL, 0}}),
         CKF_WRAP, BOTH, OK},
        {"RSA_AES without OAEP", CKM_RSA_AES_KEY_WRAP, P((CK_RSA_AES_KEY_WRAP_PARAMS){256, NULL}), CKF_WRAP, BOTH, ARGS},
        {"RSA_AES of 255", CKM_RSA_AES_KEY_WRAP, P((CK_RSA_AES_KEY_WRAP_PARAMS){255, NULL}), CKF_WRAP, BOTH, BAD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].profile != CLOUDHSM) {
            check_row(&rows[i], false);
        }
        if (rows[i].profile != GENERAL) {
            check_row(&rows[i], true);
        }
    }
    struct wire_mechanism out;
    CHECK(mechanism_convert(NULL, CKF_SIGN, false, NULL, &out, NULL) == CKR_ARGUMENTS_BAD);
}

static void test_unaligned(void)
{
    uint8_t raw[sizeof(CK_GCM_PARAMS) + 1];
    const CK_GCM_PARAMS params = {bytes, 12, 96, bytes, 20, 128};
    struct wire_mechanism out;
    memcpy(raw + 1, &params, sizeof params);
    CK_MECHANISM in = {CKM_AES_GCM, raw + 1, sizeof params};
    CHECK(mechanism_convert(&in, CKF_DECRYPT, false, NULL, &out, NULL) == CKR_OK);
    CHECK(out.as.gcm.iv.data == bytes && out.as.gcm.iv.len == 12 && out.as.gcm.tag_bits == 128);
    CHECK(out.as.gcm.iv_bits == 96 && out.as.gcm.aad.len == 20);
}

static void test_keep(void)
{
    uint8_t iv[12] = "initial....", aad[5] = "aad.", own[64];
    CK_GCM_PARAMS params = {iv, sizeof iv, 0, aad, sizeof aad, 128};
    CK_MECHANISM in = {CKM_AES_GCM, &params, sizeof params};
    struct wire_mechanism out;
    CHECK(mechanism_convert(&in, CKF_ENCRYPT, false, NULL, &out, NULL) == CKR_OK);
    CHECK(mechanism_bytes(&out) == 17 && mechanism_iv_out(&in, &out) == NULL);
    mechanism_keep(&out, own);
    memset(iv, 0, sizeof iv);
    memset(aad, 0, sizeof aad);
    CHECK(memcmp(out.as.gcm.iv.data, "initial....", 12) == 0 && memcmp(out.as.gcm.aad.data, "aad.", 5) == 0);
    CHECK(mechanism_convert(&in, CKF_ENCRYPT, true, NULL, &out, NULL) == CKR_OK);
    CHECK(out.as.gcm.iv.len == 0 && mechanism_iv_out(&in, &out) == iv);
}

static void test_kdf_numbers(void)
{
    CK_ECDH1_DERIVE_PARAMS params = {CKD_CLOUDHSM_X963_SHA384_KDF, 0, NULL, 97, bytes};
    CK_MECHANISM in = {CKM_ECDH1_DERIVE, &params, sizeof params};
    struct wire_mechanism out;
    CHECK(mechanism_convert(&in, CKF_DERIVE, true, NULL, &out, NULL) == CKR_OK);
    CHECK(out.as.ecdh1.kdf == CKD_SHA384_KDF);
}

/* ---- SP 800-108: two numberings, two layouts, one wire ---- */

#undef CK_SP800_108_COUNTER_FORMAT
#undef CK_SP800_108_DKM_LENGTH_FORMAT
#undef CK_SP800_108_KDF_PARAMS
#undef CKM_SP800_108_COUNTER_KDF
enum { STANDARD_KDF = 0x3AC };

static struct wire_strings segments_of(CK_MECHANISM_TYPE type, void *params, size_t len, bool cloudhsm)
{
    static struct mechanism_room room;
    CK_MECHANISM in = {type, params, len};
    struct wire_mechanism out;
    CHECK(mechanism_convert(&in, CKF_DERIVE, cloudhsm, &room, &out, NULL) == CKR_OK);
    CHECK(out.kind == WIRE_KIND_SP800_108 && out.as.sp800_108.prf == CKM_SHA256_HMAC);
    return out.as.sp800_108.segments;
}

static void test_sp800_108(void)
{
    CK_SP800_108_COUNTER_FORMAT counter = {CK_FALSE, 32};
    CK_SP800_108_DKM_LENGTH_FORMAT length = {CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS, CK_FALSE, 16};
    CK_PRF_DATA_PARAM standard[] = {
        {CK_SP800_108_ITERATION_VARIABLE, &counter, sizeof counter},
        {CK_SP800_108_BYTE_ARRAY, "label", 5},
        {CK_SP800_108_BYTE_ARRAY, "\0", 1},
        {CK_SP800_108_BYTE_ARRAY, "context", 7},
        {CK_SP800_108_DKM_LENGTH, &length, sizeof length},
    };
    CK_SP800_108_KDF_PARAMS params = {CKM_SHA256_HMAC, 5, standard, 0, NULL};
    uint8_t expected[256];
    struct wire_strings first = segments_of(STANDARD_KDF, &params, sizeof params, false);
    CHECK(first.count == 5 && first.len <= sizeof expected);
    memcpy(expected, first.data, first.len);
    static const uint8_t head[] = {17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 4};
    CHECK(memcmp(expected, head, sizeof head) == 0);
    uint32_t expected_len = first.len;

    CK_CLOUDHSM_SP800_108_COUNTER_FORMAT aws_counter = {32};
    CK_CLOUDHSM_SP800_108_DKM_LENGTH_FORMAT aws_length = {SP800_108_DKM_LENGTH_SUM_OF_KEYS, 16};
    CK_PRF_DATA_PARAM aws[] = {
        {SP800_108_COUNTER_FORMAT, &aws_counter, sizeof aws_counter},
        {SP800_108_PRF_LABEL, "label", 5},
        {SP800_108_PRF_CONTEXT, "context", 7},
        {SP800_108_DKM_FORMAT, &aws_length, sizeof aws_length},
    };
    CK_CLOUDHSM_SP800_108_KDF_PARAMS aws_params = {CKM_SHA256_HMAC, 4, aws};
    struct wire_strings second =
        segments_of(CKM_CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF, &aws_params, sizeof aws_params, true);
    CHECK(second.count == 5 && second.len == expected_len && memcmp(second.data, expected, expected_len) == 0);

    aws_params.pDataParams = standard; /* AWS's mechanism with 3.0's names */
    aws_params.ulNumberOfDataParams = 5;
    struct wire_strings third =
        segments_of(CKM_CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF, &aws_params, sizeof aws_params, true);
    CHECK(third.len == expected_len && memcmp(third.data, expected, expected_len) == 0);
}

static void test_sp800_108_refusals(void)
{
    struct mechanism_room room;
    struct wire_mechanism out;
    CK_SP800_108_COUNTER_FORMAT counter = {CK_FALSE, 32};
    CK_PRF_DATA_PARAM segments[40] = {{CK_SP800_108_ITERATION_VARIABLE, &counter, sizeof counter}};
    CK_SP800_108_KDF_PARAMS good = {CKM_SHA256_HMAC, 1, segments, 0, NULL};
    CK_SP800_108_KDF_PARAMS params = good;
    CK_MECHANISM in = {STANDARD_KDF, &params, sizeof params};
#define CONVERT() mechanism_convert(&in, CKF_DERIVE, false, &room, &out, NULL)
    CHECK(CONVERT() == CKR_OK && mechanism_bytes(&out) == 21);
    params.ulNumberOfDataParams = 0;
    CHECK(CONVERT() == BAD);
    params.ulNumberOfDataParams = ~0UL;
    CHECK(CONVERT() == BAD);
    params = good;
    params.pDataParams = NULL;
    CHECK(CONVERT() == ARGS);
    params = good;
    params.prfType = CKM_SHA256;
    CHECK(CONVERT() == BAD);
    params = good;
    params.ulAdditionalDerivedKeys = 1;
    CHECK(CONVERT() == BAD);
    params = good;
    counter.ulWidthInBits = 12;
    CHECK(CONVERT() == BAD);
    counter.ulWidthInBits = 32;
    segments[0].ulValueLen = 3;
    CHECK(CONVERT() == BAD);
    segments[0].pValue = NULL;
    CHECK(CONVERT() == ARGS);
    segments[0] = (CK_PRF_DATA_PARAM){CK_SP800_108_OPTIONAL_COUNTER, &counter, sizeof counter};
    CHECK(CONVERT() == BAD);
    static uint8_t large[MECHANISM_ROOM];
    segments[0] = (CK_PRF_DATA_PARAM){CK_SP800_108_BYTE_ARRAY, large, sizeof large};
    CHECK(CONVERT() == BAD);
    in.ulParameterLen = offsetof(CK_SP800_108_KDF_PARAMS, ulAdditionalDerivedKeys);
    CHECK(CONVERT() == BAD); /* AWS's layout with the standard mechanism */
}

/* ---- facts ---- */

static size_t size_of(CK_MECHANISM_TYPE type, uint32_t bits)
{
    struct wire_mechanism mechanism = {.type = type, .kind = WIRE_KIND_NONE};
    return mechanism_signature_size(mechanism_find(type), &mechanism, bits);
}

static void test_sizes(void)
{
    CHECK(size_of(CKM_RSA_PKCS, 2048) == 256 && size_of(CKM_SHA256_RSA_PKCS_PSS, 3072) == 384);
    CHECK(size_of(CKM_ECDSA, 224) == 56 && size_of(CKM_ECDSA, 256) == 64 && size_of(CKM_ECDSA_SHA384, 384) == 96);
    CHECK(size_of(CKM_ECDSA, 521) == 132 && size_of(CKM_EDDSA, 255) == 64);
    CHECK(size_of(CKM_SHA512_HMAC, 256) == 64 && size_of(CKM_AES_CMAC, 128) == 16);
    struct wire_mechanism general = {.type = CKM_AES_CMAC_GENERAL, .kind = WIRE_KIND_MAC_GENERAL};
    general.as.mac_general.length = 5;
    CHECK(mechanism_signature_size(mechanism_find(CKM_AES_CMAC_GENERAL), &general, 128) == 5);
    CHECK(hash_size(CKM_SHA_1) == 20 && hash_size(CKM_SHA512) == 64 && hash_size(CKM_SHA256_HMAC) == 0);
}

static void test_ways(void)
{
    struct wire_mechanism plain = {.kind = WIRE_KIND_NONE};
    struct wire_mechanism ph = {.kind = WIRE_KIND_EDDSA, .as.eddsa.ph = 1};
    const struct mechanism_info *eddsa = mechanism_find(CKM_EDDSA);
    CHECK(mechanism_local_hash(eddsa, &plain) == 0 && mechanism_single_part(eddsa, &plain, false));
    CHECK(mechanism_local_hash(eddsa, &ph) == CKM_SHA512 && !mechanism_single_part(eddsa, &ph, false));
    CHECK(mechanism_local_hash(mechanism_find(CKM_ECDSA_SHA384), &plain) == CKM_SHA384);
    CHECK(mechanism_local_hash(mechanism_find(CKM_SHA256_HMAC), &plain) == 0);
    const struct mechanism_info *gcm = mechanism_find(CKM_AES_GCM);
    CHECK(!mechanism_single_part(gcm, &plain, false) && mechanism_single_part(gcm, &plain, true));
    CHECK(mechanism_max_data(gcm, &plain, true) == 16224 && mechanism_max_data(gcm, &plain, false) == INT32_MAX);
    CHECK(mechanism_max_data(mechanism_find(CKM_CLOUDHSM_EDDSA), &plain, true) == 16000);
}

static void test_keys(void)
{
    enum { SIGN = 1 << 2, VERIFY = 1 << 3 };
    const uint64_t only_pss[] = {CKM_RSA_PKCS_PSS};
    const struct mechanism_info *ecdsa = mechanism_find(CKM_ECDSA), *rsa = mechanism_find(CKM_RSA_PKCS);
    struct mechanism_key key = {CKK_EC, 256, SIGN, NULL, 0};
    CHECK(mechanism_fits_key(ecdsa, &key, SIGN) == CKR_OK);
    CHECK(mechanism_fits_key(ecdsa, &key, VERIFY) == CKR_KEY_FUNCTION_NOT_PERMITTED);
    CHECK(mechanism_fits_key(rsa, &key, SIGN) == CKR_KEY_TYPE_INCONSISTENT);
    key = (struct mechanism_key){CKK_RSA, 2048, SIGN, only_pss, 1};
    CHECK(mechanism_fits_key(rsa, &key, SIGN) == CKR_MECHANISM_INVALID);
    CHECK(mechanism_fits_key(mechanism_find(CKM_RSA_PKCS_PSS), &key, SIGN) == CKR_OK);
    key = (struct mechanism_key){CKK_RSA, 1024, SIGN, NULL, 0};
    CHECK(mechanism_fits_key(rsa, &key, SIGN) == CKR_KEY_SIZE_RANGE);
    key = (struct mechanism_key){CKK_AES, 128, SIGN, NULL, 0};
    CHECK(mechanism_fits_key(mechanism_find(CKM_AES_CMAC), &key, SIGN) == CKR_OK);
    key = (struct mechanism_key){CKK_EC_EDWARDS, 255, SIGN, NULL, 0};
    CHECK(mechanism_fits_key(mechanism_find(CKM_EDDSA), &key, SIGN) == CKR_OK);
}

int main(void)
{
    test_conversion();
    test_unaligned();
    test_keep();
    test_kdf_numbers();
    test_sp800_108();
    test_sp800_108_refusals();
    test_sizes();
    test_ways();
    test_keys();
    return 0;
}
