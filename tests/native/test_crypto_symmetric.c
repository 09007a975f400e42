/* AES, HMAC, CMAC and key wrapping against published vectors, through the engine's operations; what must be refused is. */
#include "crypto_fixture.h"
#include "crypto_vectors_symmetric.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct wire_mechanism plain(uint64_t type)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_NONE};
}

static struct wire_mechanism with_iv(uint64_t type, const struct bytes *iv)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_IV, .as.iv = {view(iv)}};
}

static struct wire_mechanism gcm(const struct bytes *iv, const struct bytes *aad, uint64_t tag_bits)
{
    return (struct wire_mechanism){
        .type = CKM_AES_GCM, .kind = WIRE_KIND_GCM, .as.gcm = {view(iv), 8 * (uint64_t)iv->len, view(aad), tag_bits}};
}

static void check_cipher(const struct wire_mechanism *mechanism, const char *key, const char *plaintext, const char *ciphertext)
{
    struct key_object *aes = secret_key(CKK_AES, key);
    struct bytes data = unhex(plaintext), expected = unhex(ciphertext), out, iv;
    CHECK_EQ(do_encrypt(aes, mechanism, &data, &out, &iv), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, expected.data, expected.len);
    CHECK_EQ(iv.len, 0);
    CHECK_EQ(do_decrypt(aes, mechanism, &expected, &out), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
    key_object_free(aes);
}

/* SP 800-38A F.1.5, F.2.1, F.5.5 */
static void test_block_modes(void)
{
    static const char key256[] = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    static const char key128[] = "2b7e151628aed2a6abf7158809cf4f3c";
    static const char text[] = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
    struct bytes iv = unhex("000102030405060708090a0b0c0d0e0f"), counter = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    struct wire_mechanism ecb = plain(CKM_AES_ECB), cbc = with_iv(CKM_AES_CBC, &iv);
    check_cipher(&ecb, key256, text, "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870");
    check_cipher(&cbc, key128, text, "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2");
    check_cipher(MECHANISM(.type = CKM_AES_CTR, .kind = WIRE_KIND_CTR, .as.ctr = {128, view(&counter)}), key256, text,
                 "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5");
    struct bytes empty = {.len = 0}, out, made;
    struct key_object *aes = secret_key(CKK_AES, key128);
    CHECK_EQ(do_encrypt(aes, &ecb, &empty, &out, &made), CKR_OK);
    CHECK_EQ(out.len, 0);
    key_object_free(aes);
}

static void test_padding(void)
{
    struct key_object *aes = secret_key(CKK_AES, "2b7e151628aed2a6abf7158809cf4f3c");
    struct bytes iv = unhex("000102030405060708090a0b0c0d0e0f"), made, sealed, opened;
    struct wire_mechanism pad = with_iv(CKM_AES_CBC_PAD, &iv), cbc = with_iv(CKM_AES_CBC, &iv);
    for (size_t len = 0; len <= 33; len++) {
        struct bytes data = {.len = len};
        memset(data.data, 7, len);
        CHECK_EQ(do_encrypt(aes, &pad, &data, &sealed, &made), CKR_OK);
        CHECK_EQ(sealed.len, len / 16 * 16 + 16);
        CHECK_EQ(do_decrypt(aes, &pad, &sealed, &opened), CKR_OK);
        CHECK_EQ_MEM(opened.data, opened.len, data.data, data.len);
    }
    struct bytes blocks = {.len = 32};
    CHECK_EQ(do_encrypt(aes, &cbc, &blocks, &sealed, &made), CKR_OK); /* ends in a zero byte: no padding */
    CHECK_EQ(do_decrypt(aes, &pad, &sealed, &opened), CKR_ENCRYPTED_DATA_INVALID);
    sealed.len = 31;
    CHECK_EQ(do_decrypt(aes, &pad, &sealed, &opened), CKR_ENCRYPTED_DATA_LEN_RANGE);
    sealed.len = 0;
    CHECK_EQ(do_decrypt(aes, &pad, &sealed, &opened), CKR_ENCRYPTED_DATA_LEN_RANGE);
    blocks.len = 17;
    CHECK_EQ(do_encrypt(aes, &cbc, &blocks, &sealed, &made), CKR_DATA_LEN_RANGE);
    CHECK_EQ(do_decrypt(aes, &cbc, &blocks, &sealed), CKR_ENCRYPTED_DATA_LEN_RANGE);
    iv.len = 15;
    cbc = with_iv(CKM_AES_CBC, &iv);
    blocks.len = 16;
    CHECK_EQ(do_encrypt(aes, &cbc, &blocks, &sealed, &made), CKR_MECHANISM_PARAM_INVALID);
    key_object_free(aes);
}

/* Only the lowest bits count: the last value may be used, a carry out of them is refused. */
static void test_counter_limits(void)
{
    static const struct {
        const char *block;
        uint64_t bits;
        size_t len;
        uint64_t rv;
    } cases[] = {
        {"000000000000000000000000000000ff", 8, 16, CKR_OK},
        {"000000000000000000000000000000ff", 8, 17, CKR_DATA_LEN_RANGE},
        {"00000000000000000000000000000000", 8, 4096, CKR_OK},
        {"00000000000000000000000000000000", 8, 4097, CKR_DATA_LEN_RANGE},
        {"0000000000000000ffffffffffffffff", 64, 16, CKR_OK},
        {"0000000000000000ffffffffffffffff", 64, 32, CKR_DATA_LEN_RANGE},
        {"0000000000000000ffffffffffffffff", 65, 32, CKR_OK},
        {"0000000000000001ffffffffffffffff", 65, 32, CKR_DATA_LEN_RANGE},
        {"00ffffffffffffffffffffffffffffff", 120, 32, CKR_DATA_LEN_RANGE},
        {"00fffffffffffffffffffffffffffffe", 120, 32, CKR_OK},
        {"ffffffffffffffffffffffffffffffff", 128, 32, CKR_OK},
        {"00000000000000000000000000000000", 0, 16, CKR_MECHANISM_PARAM_INVALID},
        {"00000000000000000000000000000000", 129, 16, CKR_MECHANISM_PARAM_INVALID},
        {"0000000000000000000000000000", 128, 16, CKR_MECHANISM_PARAM_INVALID},
    };
    struct key_object *aes = secret_key(CKK_AES, "2b7e151628aed2a6abf7158809cf4f3c");
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bytes block = unhex(cases[i].block), data = {.len = cases[i].len}, out, made;
        CHECK_EQ(do_encrypt(aes, MECHANISM(.type = CKM_AES_CTR, .kind = WIRE_KIND_CTR, .as.ctr = {cases[i].bits, view(&block)}),
                            &data, &out, &made),
                 cases[i].rv);
    }
    key_object_free(aes);
}

static void test_gcm_vectors(void)
{
    for (size_t i = 0; i < COUNT(gcm_vectors); i++) {
        struct bytes iv = unhex(gcm_vectors[i].iv), aad = unhex(gcm_vectors[i].aad), out;
        struct wire_mechanism mechanism = gcm(&iv, &aad, gcm_vectors[i].tag_bits);
        check_cipher(&mechanism, gcm_vectors[i].key, gcm_vectors[i].plaintext, gcm_vectors[i].sealed);
        struct key_object *aes = secret_key(CKK_AES, gcm_vectors[i].key);
        struct bytes sealed = unhex(gcm_vectors[i].sealed);
        for (size_t at = 0; at < sealed.len; at += 7) {
            sealed.data[at] ^= 1;
            CHECK_EQ(do_decrypt(aes, &mechanism, &sealed, &out), CKR_ENCRYPTED_DATA_INVALID);
            sealed.data[at] ^= 1;
        }
        aad.data[aad.len] = 0; /* one byte more of associated data */
        aad.len++;
        mechanism = gcm(&iv, &aad, gcm_vectors[i].tag_bits);
        CHECK_EQ(do_decrypt(aes, &mechanism, &sealed, &out), CKR_ENCRYPTED_DATA_INVALID);
        sealed.len = gcm_vectors[i].tag_bits / 8 - 1;
        CHECK_EQ(do_decrypt(aes, &mechanism, &sealed, &out), CKR_ENCRYPTED_DATA_LEN_RANGE);
        key_object_free(aes);
    }
}

static void test_gcm_made_iv(void)
{
    struct key_object *aes = secret_key(CKK_AES, "feffe9928665731c6d6a8f9467308308");
    struct bytes none = {.len = 0}, aad = unhex("00ff"), data = unhex("0123456789"), first, second, iv, other, out;
    struct wire_mechanism mechanism = gcm(&none, &aad, 128);
    CHECK_EQ(do_encrypt(aes, &mechanism, &data, &first, &iv), CKR_OK);
    CHECK_EQ(do_encrypt(aes, &mechanism, &data, &second, &other), CKR_OK);
    CHECK(iv.len == 12 && other.len == 12 && memcmp(iv.data, other.data, 12) != 0);
    CHECK_EQ(do_decrypt(aes, &mechanism, &first, &out), CKR_MECHANISM_PARAM_INVALID);
    mechanism = gcm(&iv, &aad, 128);
    CHECK_EQ(do_decrypt(aes, &mechanism, &first, &out), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
    /* CKM_CLOUDHSM_AES_GCM: the client puts the IV before the ciphertext; decryption takes either form. */
    struct wire_mechanism vendor = gcm(&none, &aad, 128);
    vendor.type = CKM_CLOUDHSM_AES_GCM;
    CHECK_EQ(do_encrypt(aes, &vendor, &data, &first, &iv), CKR_OK);
    struct bytes joined = iv;
    memcpy(joined.data + iv.len, first.data, first.len);
    joined.len += first.len;
    CHECK_EQ(do_decrypt(aes, &vendor, &joined, &out), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
    joined.len = 11;
    CHECK_EQ(do_decrypt(aes, &vendor, &joined, &out), CKR_ENCRYPTED_DATA_LEN_RANGE);
    static const uint64_t bad_tags[] = {0, 7, 16, 40, 72, 88, 129, 136};
    for (size_t i = 0; i < COUNT(bad_tags); i++) {
        mechanism = gcm(&iv, &aad, bad_tags[i]);
        CHECK_EQ(do_encrypt(aes, &mechanism, &data, &out, &other), CKR_MECHANISM_PARAM_INVALID);
    }
    key_object_free(aes);
}

/* ---- MACs -------------------------------------------------------------------------------------------------------------- */

static void check_stream(const struct key_object *key, const struct wire_mechanism *mechanism, const struct bytes *data,
                         const struct bytes *mac, uint64_t expected_rv)
{
    struct mac_stream *stream;
    uint8_t room[128];
    struct wire_writer writer = wire_writer(room, sizeof room);
    CHECK_EQ(mac_begin(key, mechanism, true, &stream), CKR_OK);
    for (size_t at = 0; at < data->len; at += 5) {
        CHECK_EQ(mac_update(stream, data->data + at, data->len - at < 5 ? data->len - at : 5), CKR_OK);
    }
    CHECK_EQ(mac_final(stream, view(mac), &writer), expected_rv);
    mac_free(stream);
    if (expected_rv == CKR_OK) { /* an empty MAC field */
        CHECK_EQ(writer.len, 4);
        writer.len = 0;
        struct bytes out;
        CHECK_EQ(mac_begin(key, mechanism, false, &stream), CKR_OK);
        CHECK_EQ(mac_update(stream, data->data, data->len), CKR_OK);
        CHECK_EQ(mac_final(stream, wire_bytes(NULL, 0), &writer), CKR_OK);
        mac_free(stream);
        read_field(&writer, 0, &out, NULL);
        CHECK_EQ_MEM(out.data, out.len, mac->data, mac->len);
    }
}

static void check_mac(const struct key_object *key, const struct wire_mechanism *mechanism, const struct bytes *data,
                      const struct bytes *expected)
{
    struct bytes out, wrong = *expected;
    for (int again = 0; again < 3; again++) { /* contexts are used again */
        CHECK_EQ(do_sign(key, mechanism, false, data, &out), CKR_OK);
        CHECK_EQ_MEM(out.data, out.len, expected->data, expected->len);
    }
    CHECK_EQ(do_verify(key, mechanism, false, data, expected), CKR_OK);
    check_stream(key, mechanism, data, expected, CKR_OK);
    wrong.data[expected->len - 1] ^= 0x80;
    CHECK_EQ(do_verify(key, mechanism, false, data, &wrong), CKR_SIGNATURE_INVALID);
    check_stream(key, mechanism, data, &wrong, CKR_SIGNATURE_INVALID);
    wrong.len--;
    CHECK_EQ(do_verify(key, mechanism, false, data, &wrong), CKR_SIGNATURE_LEN_RANGE);
    check_stream(key, mechanism, data, &wrong, CKR_SIGNATURE_LEN_RANGE);
}

static void test_macs(void)
{
    for (size_t i = 0; i < COUNT(hmac_vectors); i++) {
        struct bytes data = unhex(hmac_vectors[i].data), mac = unhex(hmac_vectors[i].mac);
        struct key_object *key = secret_key(CKK_GENERIC_SECRET, hmac_vectors[i].key);
        struct wire_mechanism mechanism = plain(hmac_vectors[i].mechanism);
        if (mac.len < mechanism_find(mechanism.type)->mac) { /* truncated: CKM_SHA256_HMAC_GENERAL follows CKM_SHA256_HMAC */
            mechanism = (struct wire_mechanism){
                .type = mechanism.type + 1, .kind = WIRE_KIND_MAC_GENERAL, .as.mac_general = {mac.len}};
        }
        check_mac(key, &mechanism, &data, &mac);
        key_object_free(key);
    }
    for (size_t i = 0; i < COUNT(cmac_vectors); i++) {
        struct bytes data = unhex(cmac_vectors[i].b), mac = unhex(cmac_vectors[i].c);
        struct key_object *key = secret_key(CKK_AES, cmac_vectors[i].a);
        struct wire_mechanism mechanism = plain(CKM_AES_CMAC);
        check_mac(key, &mechanism, &data, &mac);
        mac.len = 5;
        check_mac(key, MECHANISM(.type = CKM_AES_CMAC_GENERAL, .kind = WIRE_KIND_MAC_GENERAL, .as.mac_general = {5}), &data, &mac);
        key_object_free(key);
    }
}

static void test_mac_refusals(void)
{
    struct key_object *aes = secret_key(CKK_AES, "2b7e151628aed2a6abf7158809cf4f3c"), *generic = secret_key(CKK_GENERIC_SECRET, "0b");
    struct bytes data = unhex("00"), out;
    struct wire_mechanism hmac = plain(CKM_SHA256_HMAC), cmac = plain(CKM_AES_CMAC), ecb = plain(CKM_AES_ECB);
    struct mac_stream *stream;
    CHECK_EQ(do_sign(aes, &hmac, false, &data, &out), CKR_KEY_TYPE_INCONSISTENT);
    CHECK_EQ(do_sign(generic, &cmac, false, &data, &out), CKR_KEY_TYPE_INCONSISTENT);
    CHECK_EQ(do_sign(aes, &ecb, false, &data, &out), CKR_MECHANISM_INVALID);
    CHECK_EQ(do_sign(generic, &hmac, true, &data, &out), CKR_ARGUMENTS_BAD);
    CHECK_EQ(mac_begin(aes, &ecb, false, &stream), CKR_MECHANISM_INVALID);
    CHECK_EQ(mac_begin(aes, &hmac, false, &stream), CKR_KEY_TYPE_INCONSISTENT);
    static const uint64_t lengths[] = {0, 33, UINT64_MAX};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        CHECK_EQ(do_sign(generic, MECHANISM(.type = CKM_SHA256_HMAC_GENERAL, .kind = WIRE_KIND_MAC_GENERAL,
                                            .as.mac_general = {lengths[i]}),
                         false, &data, &out),
                 CKR_MECHANISM_PARAM_INVALID);
    }
    hmac.kind = WIRE_KIND_IV;
    CHECK_EQ(do_sign(generic, &hmac, false, &data, &out), CKR_MECHANISM_PARAM_INVALID);
    hmac = plain(0x7FFFFFFF);
    CHECK_EQ(do_sign(generic, &hmac, false, &data, &out), CKR_MECHANISM_INVALID);
    key_object_free(aes);
    key_object_free(generic);
}

/* ---- key wrap ------------------------------------------------------------------------------------------------------------ */

static void check_wrap(const struct wire_mechanism *mechanism, const struct vector3 *vector)
{
    struct owned_material kek = secret_material(CKK_AES, vector->a), key = secret_material(CKK_GENERIC_SECRET, vector->b), back;
    struct bytes expected = unhex(vector->c), out, iv;
    CHECK_EQ(do_wrap(&kek, mechanism, &key, &out, &iv), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, expected.data, expected.len);
    CHECK_EQ(do_unwrap(&kek, mechanism, &expected, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_OK);
    check_value(&back, vector->b);
    expected.data[3] ^= 1;
    CHECK_EQ(do_unwrap(&kek, mechanism, &expected, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_WRAPPED_KEY_INVALID);
    expected.len -= 1;
    CHECK_EQ(do_unwrap(&kek, mechanism, &expected, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_WRAPPED_KEY_LEN_RANGE);
}

static void test_key_wrap_vectors(void)
{
    static const uint64_t kw[] = {CKM_AES_KEY_WRAP, CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD};
    static const uint64_t kwp[] = {CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_KWP, CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD};
    for (size_t m = 0; m < COUNT(kw); m++) {
        struct wire_mechanism mechanism = plain(kw[m]);
        for (size_t i = 0; i < COUNT(kw_vectors); i++) {
            check_wrap(&mechanism, &kw_vectors[i]);
        }
    }
    for (size_t m = 0; m < COUNT(kwp); m++) {
        struct wire_mechanism mechanism = plain(kwp[m]);
        for (size_t i = 0; i < COUNT(kwp_vectors); i++) {
            check_wrap(&mechanism, &kwp_vectors[i]);
        }
    }
    struct wire_mechanism pad = plain(CKM_AES_KEY_WRAP_PAD);
    for (size_t i = 0; i < COUNT(kwp_failures); i++) {
        struct owned_material kek = secret_material(CKK_AES, kwp_failures[i].a), back;
        struct bytes wrapped = unhex(kwp_failures[i].b);
        CHECK_EQ(do_unwrap(&kek, &pad, &wrapped, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_WRAPPED_KEY_INVALID);
    }
}

/* RFC 3394 vectors carry over: PKCS#5 padding of 8 bytes more is wrapped with the value. */
static void test_key_wrap_pkcs5(void)
{
    struct wire_mechanism pkcs5 = plain(CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD), no_pad = plain(CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD);
    static const char kek_value[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    struct owned_material kek = secret_material(CKK_AES, kek_value), back;
    struct bytes out, iv, by_hand;
    static const char *const values[][2] = {
        {"00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff0808080808080808"},
        {"0011223344556677889900", "00112233445566778899000505050505"},
    };
    for (size_t i = 0; i < COUNT(values); i++) {
        struct owned_material key = secret_material(CKK_GENERIC_SECRET, values[i][0]);
        struct owned_material padded = secret_material(CKK_GENERIC_SECRET, values[i][1]);
        CHECK_EQ(do_wrap(&kek, &pkcs5, &key, &out, &iv), CKR_OK);
        CHECK_EQ(do_wrap(&kek, &no_pad, &padded, &by_hand, &iv), CKR_OK);
        CHECK_EQ_MEM(out.data, out.len, by_hand.data, by_hand.len);
        CHECK_EQ(do_unwrap(&kek, &pkcs5, &out, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_OK);
        check_value(&back, values[i][0]);
    }
    struct owned_material bad = secret_material(CKK_GENERIC_SECRET, "00112233445566778899aabbccddee00");
    CHECK_EQ(do_wrap(&kek, &no_pad, &bad, &out, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(&kek, &pkcs5, &out, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &back), CKR_WRAPPED_KEY_INVALID);
    struct owned_material tiny = secret_material(CKK_GENERIC_SECRET, "0011");
    CHECK_EQ(do_wrap(&kek, &pkcs5, &tiny, &out, &iv), CKR_KEY_SIZE_RANGE);
    CHECK_EQ(do_wrap(&kek, &no_pad, &tiny, &out, &iv), CKR_KEY_SIZE_RANGE);
}

static void test_key_wrap_iv_and_types(void)
{
    struct owned_material kek = secret_material(CKK_AES, "000102030405060708090a0b0c0d0e0f"), back;
    struct owned_material key = secret_material(CKK_AES, "00112233445566778899aabbccddeeff");
    struct bytes own = unhex("0102030405060708"), short_iv = unhex("01020304"), out, iv;
    struct wire_mechanism custom = with_iv(CKM_AES_KEY_WRAP, &own), usual = plain(CKM_AES_KEY_WRAP);
    CHECK_EQ(do_wrap(&kek, &custom, &key, &out, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(&kek, &custom, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK);
    check_value(&back, "00112233445566778899aabbccddeeff");
    CHECK_EQ(do_unwrap(&kek, &usual, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_WRAPPED_KEY_INVALID);
    custom = with_iv(CKM_AES_KEY_WRAP, &short_iv);
    CHECK_EQ(do_wrap(&kek, &custom, &key, &out, &iv), CKR_MECHANISM_PARAM_INVALID);
    custom = with_iv(CKM_AES_KEY_WRAP_KWP, &short_iv);
    CHECK_EQ(do_wrap(&kek, &custom, &key, &out, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(&kek, &custom, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK);
    struct owned_material generic = secret_material(CKK_GENERIC_SECRET, "000102030405060708090a0b0c0d0e0f");
    CHECK_EQ(do_wrap(&generic, &usual, &key, &out, &iv), CKR_WRAPPING_KEY_TYPE_INCONSISTENT);
    CHECK_EQ(do_unwrap(&generic, &usual, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT);
    struct wire_mechanism ctr = plain(CKM_SHA256_HMAC);
    CHECK_EQ(do_wrap(&kek, &ctr, &key, &out, &iv), CKR_MECHANISM_INVALID);
    struct owned_material odd = secret_material(CKK_GENERIC_SECRET, "00112233445566778899aabbccddeeff0011223344556677");
    CHECK_EQ(do_wrap(&kek, &usual, &odd, &out, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(&kek, &usual, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK); /* 24 bytes */
    CHECK_EQ(do_unwrap(&kek, &usual, &out, CKO_PRIVATE_KEY, CKK_RSA, &back), CKR_WRAPPED_KEY_INVALID);
    CHECK_EQ(do_unwrap(&kek, &usual, &out, CKO_PUBLIC_KEY, CKK_RSA, &back), CKR_TEMPLATE_INCONSISTENT);
    struct owned_material long_key = secret_material(CKK_GENERIC_SECRET, "00112233445566778899aabbccddeeff001122334455667700112233445566778899");
    struct wire_mechanism pad = plain(CKM_AES_KEY_WRAP_PAD);
    CHECK_EQ(do_wrap(&kek, &pad, &long_key, &out, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(&kek, &pad, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_WRAPPED_KEY_LEN_RANGE); /* 34 bytes are no AES key */
}

static void test_gcm_wrap(void)
{
    struct owned_material kek = secret_material(CKK_AES, "000102030405060708090a0b0c0d0e0f"), back;
    struct owned_material key = secret_material(CKK_AES, "00112233445566778899aabbccddeeff");
    struct bytes none = {.len = 0}, aad = unhex("aa"), out, iv = {.len = 0};
    struct wire_mechanism standard = gcm(&none, &aad, 128), vendor = standard;
    CHECK_EQ(do_wrap(&kek, &standard, &key, &out, &iv), CKR_OK);
    CHECK(iv.len == 12 && out.len == 16 + 16);
    standard = gcm(&iv, &aad, 128);
    CHECK_EQ(do_unwrap(&kek, &standard, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK);
    check_value(&back, "00112233445566778899aabbccddeeff");
    vendor.type = CKM_CLOUDHSM_AES_GCM;
    CHECK_EQ(do_wrap(&kek, &vendor, &key, &out, &iv), CKR_OK);
    CHECK(iv.len == 0 && out.len == 12 + 16 + 16);
    CHECK_EQ(do_unwrap(&kek, &vendor, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK);
    check_value(&back, "00112233445566778899aabbccddeeff");
    out.data[0] ^= 1;
    CHECK_EQ(do_unwrap(&kek, &vendor, &out, CKO_SECRET_KEY, CKK_AES, &back), CKR_WRAPPED_KEY_INVALID);
}

int main(void)
{
    fixture_start();
    test_block_modes();
    test_padding();
    test_counter_limits();
    test_gcm_vectors();
    test_gcm_made_iv();
    test_macs();
    test_mac_refusals();
    test_key_wrap_vectors();
    test_key_wrap_pkcs5();
    test_key_wrap_iv_and_types();
    test_gcm_wrap();
    fixture_stop();
    return 0;
}
