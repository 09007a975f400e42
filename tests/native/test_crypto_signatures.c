/* Signatures: published vectors, cross checks by OpenSSL in its default library context, and what must be refused. */
#include <openssl/x509.h>

#include "crypto_fixture.h"
#include "crypto_vectors_asymmetric.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct wire_mechanism plain(uint64_t type)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_NONE};
}

static struct wire_mechanism pss(uint64_t type, uint64_t hash, uint64_t mgf, uint64_t salt)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_PSS, .as.pss = {hash, mgf, salt}};
}

static struct bytes digest(const char *name, const struct bytes *data)
{
    struct bytes out;
    unsigned len = 0;
    CHECK(EVP_Digest(data->data, data->len, out.data, &len, EVP_get_digestbyname(name), NULL) == 1);
    out.len = len;
    return out;
}

/* The same public key in OpenSSL's default context. */
static EVP_PKEY *outside(struct owned_material *private)
{
    struct bytes info = component(private, CKA_PUBLIC_KEY_INFO);
    const uint8_t *at = info.data;
    EVP_PKEY *pkey = d2i_PUBKEY(NULL, &at, (long)info.len);
    CHECK(pkey != NULL);
    return pkey;
}

static struct key_object *open_public_key(struct owned_material *private)
{
    struct owned_material public = public_of(private);
    return open_key(&public);
}

/* ---- RSA -------------------------------------------------------------------------------------------------------------- */

static void test_rsa_vectors(void)
{
    for (size_t i = 0; i < COUNT(rsa_vectors); i++) {
        const struct rsa_vector *vector = &rsa_vectors[i];
        const struct mechanism_info *info = mechanism_find(vector->mechanism);
        const struct hash *hash = hash_find(info->hash);
        struct attributes attributes = {.count = 0};
        struct bytes message = unhex(vector->message), signature = unhex(vector->signature);
        char exponent[32];
        snprintf(exponent, sizeof exponent, "%s%s", strlen(vector->e) % 2 != 0 ? "0" : "", vector->e);
        add_hex(&attributes, CKA_MODULUS, vector->n);
        add_hex(&attributes, CKA_PUBLIC_EXPONENT, exponent);
        struct owned_material public = import_material(&attributes, CKO_PUBLIC_KEY, CKK_RSA);
        struct key_object *key = open_key(&public);
        bool is_pss = (info->kinds >> WIRE_KIND_PSS & 1) != 0;
        struct wire_mechanism mechanism = is_pss ? pss(info->type, info->hash, hash->mgf, 10) : plain(info->type);
        CHECK_EQ(do_verify(key, &mechanism, false, &message, &signature), vector->valid ? CKR_OK : CKR_SIGNATURE_INVALID);
        struct bytes hashed = digest(hash->name, &message);
        CHECK_EQ(do_verify(key, &mechanism, true, &hashed, &signature), vector->valid ? CKR_OK : CKR_SIGNATURE_INVALID);
        signature.len--;
        CHECK_EQ(do_verify(key, &mechanism, false, &message, &signature), CKR_SIGNATURE_LEN_RANGE);
        key_object_free(key);
    }
}

static void check_outside(EVP_PKEY *pkey, int padding, const char *hash, const char *mgf, int salt, const struct bytes *hashed,
                          const struct bytes *signature)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(pkey, NULL);
    CHECK(EVP_PKEY_verify_init(context) == 1 && EVP_PKEY_CTX_set_rsa_padding(context, padding) == 1);
    CHECK(hash == NULL || EVP_PKEY_CTX_set_signature_md(context, EVP_get_digestbyname(hash)) == 1);
    CHECK(mgf == NULL || (EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_get_digestbyname(mgf)) == 1 &&
                          EVP_PKEY_CTX_set_rsa_pss_saltlen(context, salt) == 1));
    CHECK(EVP_PKEY_verify(context, signature->data, signature->len, hashed->data, hashed->len) == 1);
    EVP_PKEY_CTX_free(context);
}

static const struct {
    uint64_t pkcs, pss, hash, mgf;
    const char *name;
} rsa_hashes[] = {
    {CKM_SHA1_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA_1, CKG_MGF1_SHA1, "SHA1"},
    {CKM_SHA224_RSA_PKCS, CKM_SHA224_RSA_PKCS_PSS, CKM_SHA224, CKG_MGF1_SHA224, "SHA224"},
    {CKM_SHA256_RSA_PKCS, CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, "SHA256"},
    {CKM_SHA384_RSA_PKCS, CKM_SHA384_RSA_PKCS_PSS, CKM_SHA384, CKG_MGF1_SHA384, "SHA384"},
    {CKM_SHA512_RSA_PKCS, CKM_SHA512_RSA_PKCS_PSS, CKM_SHA512, CKG_MGF1_SHA512, "SHA512"},
};

static void test_rsa_hashed(struct owned_material *material)
{
    struct key_object *private = open_key(material), *public = open_public_key(material);
    EVP_PKEY *pkey = outside(material);
    struct bytes message = unhex("68736d73696d"), signature, again;
    for (size_t i = 0; i < COUNT(rsa_hashes); i++) {
        struct bytes hashed = digest(rsa_hashes[i].name, &message);
        struct wire_mechanism mechanism = plain(rsa_hashes[i].pkcs);
        CHECK_EQ(do_sign(private, &mechanism, false, &message, &signature), CKR_OK);
        check_outside(pkey, RSA_PKCS1_PADDING, rsa_hashes[i].name, NULL, 0, &hashed, &signature);
        CHECK_EQ(do_sign(private, &mechanism, true, &hashed, &again), CKR_OK);
        CHECK_EQ_MEM(again.data, again.len, signature.data, signature.len);
        CHECK_EQ(do_verify(public, &mechanism, true, &hashed, &signature), CKR_OK);
        for (size_t m = 0; m < COUNT(rsa_hashes); m++) { /* MGF1's hash is independent */
            mechanism = pss(rsa_hashes[i].pss, rsa_hashes[i].hash, rsa_hashes[m].mgf, 7 * m);
            CHECK_EQ(do_sign(private, &mechanism, false, &message, &signature), CKR_OK);
            check_outside(pkey, RSA_PKCS1_PSS_PADDING, rsa_hashes[i].name, rsa_hashes[m].name, (int)(7 * m), &hashed, &signature);
            CHECK_EQ(do_verify(public, &mechanism, false, &message, &signature), CKR_OK);
            mechanism = pss(CKM_RSA_PKCS_PSS, rsa_hashes[i].hash, rsa_hashes[m].mgf, 7 * m);
            CHECK_EQ(do_verify(public, &mechanism, false, &hashed, &signature), CKR_OK);
            mechanism.as.pss.salt_length++;
            CHECK_EQ(do_verify(public, &mechanism, false, &hashed, &signature), CKR_SIGNATURE_INVALID);
        }
        hashed.len--;
        mechanism = plain(rsa_hashes[i].pkcs);
        CHECK_EQ(do_sign(private, &mechanism, true, &hashed, &signature), CKR_DATA_LEN_RANGE);
        mechanism = pss(CKM_RSA_PKCS_PSS, rsa_hashes[i].hash, rsa_hashes[i].mgf, 20);
        CHECK_EQ(do_sign(private, &mechanism, false, &hashed, &signature), CKR_DATA_LEN_RANGE);
        mechanism = pss(rsa_hashes[i].pss, rsa_hashes[(i + 1) % COUNT(rsa_hashes)].hash, rsa_hashes[i].mgf, 20);
        CHECK_EQ(do_sign(private, &mechanism, false, &message, &signature), CKR_MECHANISM_PARAM_INVALID);
    }
    struct wire_mechanism mechanism = pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 256 - 32 - 2);
    CHECK_EQ(do_sign(private, &mechanism, false, &message, &signature), CKR_OK); /* the longest salt */
    for (uint64_t salt = 256 - 32 - 1; salt != 0; salt = salt < 1000 ? UINT64_MAX : salt == UINT64_MAX ? UINT64_C(1) << 32 : 0) {
        mechanism.as.pss.salt_length = salt;
        CHECK_EQ(do_sign(private, &mechanism, false, &message, &signature), CKR_MECHANISM_PARAM_INVALID);
    }
    EVP_PKEY_free(pkey);
    key_object_free(private);
    key_object_free(public);
}

static void test_rsa_raw(struct owned_material *material)
{
    struct key_object *private = open_key(material), *public = open_public_key(material);
    EVP_PKEY *pkey = outside(material);
    struct wire_mechanism pkcs = plain(CKM_RSA_PKCS), raw = plain(CKM_RSA_X_509);
    struct bytes data = unhex("3031300d060960864801650304020105000420"), signature, recovered, block = {.len = 256};
    struct bytes whole = data;
    whole.len = 51;
    CHECK_EQ(do_sign(private, &pkcs, false, &whole, &signature), CKR_OK);
    check_outside(pkey, RSA_PKCS1_PADDING, NULL, NULL, 0, &whole, &signature);
    CHECK_EQ(do_verify(public, &pkcs, false, &whole, &signature), CKR_OK);
    CHECK_EQ(do_verify_recover(public, &pkcs, &signature, &recovered), CKR_OK);
    CHECK_EQ_MEM(recovered.data, recovered.len, whole.data, whole.len);
    CHECK_EQ(do_sign_recover(private, &pkcs, &whole, &recovered), CKR_OK);
    CHECK_EQ_MEM(recovered.data, recovered.len, signature.data, signature.len);
    signature.data[9] ^= 1;
    CHECK_EQ(do_verify(public, &pkcs, false, &whole, &signature), CKR_SIGNATURE_INVALID);
    CHECK_EQ(do_verify_recover(public, &pkcs, &signature, &recovered), CKR_SIGNATURE_INVALID);
    whole.len = 246;
    CHECK_EQ(do_sign(private, &pkcs, false, &whole, &signature), CKR_DATA_LEN_RANGE);
    CHECK_EQ(do_sign(private, &pkcs, true, &data, &signature), CKR_ARGUMENTS_BAD);
    /* raw: short data is a number with zeros in front */
    CHECK_EQ(do_sign(private, &raw, false, &data, &signature), CKR_OK);
    memset(block.data, 0, 256);
    memcpy(block.data + 256 - data.len, data.data, data.len);
    check_outside(pkey, RSA_NO_PADDING, NULL, NULL, 0, &block, &signature);
    CHECK_EQ(do_verify(public, &raw, false, &data, &signature), CKR_OK);
    CHECK_EQ(do_verify_recover(public, &raw, &signature, &recovered), CKR_OK);
    CHECK_EQ_MEM(recovered.data, recovered.len, block.data, block.len);
    memset(block.data, 0xFF, 256);
    CHECK_EQ(do_sign(private, &raw, false, &block, &signature), CKR_DATA_INVALID); /* above the modulus */
    block.len = 257;
    CHECK_EQ(do_sign(private, &raw, false, &block, &signature), CKR_DATA_LEN_RANGE);
    CHECK_EQ(do_sign(public, &pkcs, false, &data, &signature), CKR_KEY_TYPE_INCONSISTENT);
    CHECK_EQ(do_verify(private, &pkcs, false, &data, &signature), CKR_KEY_TYPE_INCONSISTENT);
    struct wire_mechanism ecdsa = plain(CKM_ECDSA);
    CHECK_EQ(do_sign(private, &ecdsa, false, &data, &signature), CKR_KEY_TYPE_INCONSISTENT);
    EVP_PKEY_free(pkey);
    key_object_free(private);
    key_object_free(public);
}

/* ---- RSA as a cipher ------------------------------------------------------------------------------------------------------ */

static struct wire_mechanism oaep(uint64_t hash, uint64_t mgf, const struct bytes *label)
{
    return (struct wire_mechanism){
        .type = CKM_RSA_PKCS_OAEP, .kind = WIRE_KIND_OAEP, .as.oaep = {hash, mgf, CKZ_DATA_SPECIFIED, view(label)}};
}

/* OpenSSL decrypts nothing here: the private key does not leave. It encrypts, and the key object decrypts. */
static void encrypt_outside(EVP_PKEY *pkey, const char *hash, const char *mgf, const struct bytes *label, const struct bytes *data,
                            struct bytes *out)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(pkey, NULL);
    out->len = sizeof out->data;
    CHECK(EVP_PKEY_encrypt_init(context) == 1 && EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_OAEP_PADDING) == 1 &&
          EVP_PKEY_CTX_set_rsa_oaep_md(context, EVP_get_digestbyname(hash)) == 1 &&
          EVP_PKEY_CTX_set_rsa_mgf1_md(context, EVP_get_digestbyname(mgf)) == 1);
    if (label->len != 0) {
        CHECK(EVP_PKEY_CTX_set0_rsa_oaep_label(context, OPENSSL_memdup(label->data, label->len), (int)label->len) == 1);
    }
    CHECK(EVP_PKEY_encrypt(context, out->data, &out->len, data->data, data->len) == 1);
    EVP_PKEY_CTX_free(context);
}

static void test_rsa_oaep(struct owned_material *material)
{
    struct key_object *private = open_key(material), *public = open_public_key(material);
    EVP_PKEY *pkey = outside(material);
    struct bytes labels[2] = {{.len = 0}, unhex("6c6162656c")}, data = unhex("00112233445566778899"), sealed, out, iv;
    for (size_t h = 0; h < COUNT(rsa_hashes); h++) {
        for (size_t m = 0; m < COUNT(rsa_hashes); m++) {
            for (size_t l = 0; l < COUNT(labels); l++) {
                struct wire_mechanism mechanism = oaep(rsa_hashes[h].hash, rsa_hashes[m].mgf, &labels[l]);
                encrypt_outside(pkey, rsa_hashes[h].name, rsa_hashes[m].name, &labels[l], &data, &sealed);
                CHECK_EQ(do_decrypt(private, &mechanism, &sealed, &out), CKR_OK);
                CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
                CHECK_EQ(do_encrypt(public, &mechanism, &data, &sealed, &iv), CKR_OK);
                CHECK_EQ(do_decrypt(private, &mechanism, &sealed, &out), CKR_OK);
                CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
                mechanism.as.oaep.label = view(&labels[1 - l]);
                CHECK_EQ(do_decrypt(private, &mechanism, &sealed, &out), CKR_ENCRYPTED_DATA_INVALID);
            }
        }
    }
    struct wire_mechanism mechanism = oaep(CKM_SHA256, CKG_MGF1_SHA256, &labels[0]);
    data.len = 256 - 2 * 32 - 2;
    CHECK_EQ(do_encrypt(public, &mechanism, &data, &sealed, &iv), CKR_OK);
    data.len++;
    CHECK_EQ(do_encrypt(public, &mechanism, &data, &sealed, &iv), CKR_DATA_LEN_RANGE);
    mechanism.as.oaep.source = 0;
    data.len = 5;
    CHECK_EQ(do_encrypt(public, &mechanism, &data, &sealed, &iv), CKR_OK); /* source 0 without a label: as SoftHSM2 takes it */
    sealed.len--;
    CHECK_EQ(do_decrypt(private, &mechanism, &sealed, &out), CKR_ENCRYPTED_DATA_LEN_RANGE);
    mechanism.as.oaep.hash = CKM_SHA256_RSA_PKCS;
    CHECK_EQ(do_encrypt(public, &mechanism, &data, &sealed, &iv), CKR_MECHANISM_PARAM_INVALID);
    struct wire_mechanism pkcs = plain(CKM_RSA_PKCS), raw = plain(CKM_RSA_X_509);
    CHECK_EQ(do_encrypt(public, &pkcs, &data, &sealed, &iv), CKR_OK);
    CHECK_EQ(do_decrypt(private, &pkcs, &sealed, &out), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, data.data, data.len);
    sealed.data[20] ^= 1;
    CHECK_EQ(do_decrypt(private, &pkcs, &sealed, &out), CKR_ENCRYPTED_DATA_INVALID);
    data.len = 246;
    CHECK_EQ(do_encrypt(public, &pkcs, &data, &sealed, &iv), CKR_DATA_LEN_RANGE);
    data.len = 5;
    CHECK_EQ(do_encrypt(public, &raw, &data, &sealed, &iv), CKR_OK);
    CHECK_EQ(do_decrypt(private, &raw, &sealed, &out), CKR_OK);
    CHECK(out.len == 256 && memcmp(out.data + 251, data.data, 5) == 0);
    EVP_PKEY_free(pkey);
    key_object_free(private);
    key_object_free(public);
}

static void test_oaep_vector(void)
{
    struct bytes pkcs8 = unhex(oaep_key), label = unhex(oaep_label), sealed = unhex(oaep_input), out;
    struct key_object *key;
    CHECK_EQ(key_object_make(CKO_PRIVATE_KEY, CKK_RSA, pkcs8.data, pkcs8.len, &key), CKR_OK);
    struct wire_mechanism mechanism = oaep(CKM_SHA512, CKG_MGF1_SHA512, &label);
    CHECK_EQ(do_decrypt(key, &mechanism, &sealed, &out), CKR_OK);
    CHECK_EQ_MEM(out.data, out.len, "Hello World", strlen("Hello World"));
    key_object_free(key);
}

/* ---- ECDSA ---------------------------------------------------------------------------------------------------------------- */

static void test_ecdsa_vectors(void)
{
    for (size_t i = 0; i < COUNT(ecdsa_vectors); i++) {
        const struct ecdsa_vector *vector = &ecdsa_vectors[i];
        struct attributes attributes = {.count = 0};
        add_hex(&attributes, CKA_EC_PARAMS, vector->curve);
        add_hex(&attributes, CKA_VALUE, vector->d);
        struct owned_material private = import_material(&attributes, CKO_PRIVATE_KEY, CKK_EC), derived = public_of(&private);
        struct attributes with_point = {.count = 0};
        add_hex(&with_point, CKA_EC_PARAMS, vector->curve);
        add_hex(&with_point, CKA_EC_POINT, vector->point);
        struct owned_material public = import_material(&with_point, CKO_PUBLIC_KEY, CKK_EC);
        CHECK_EQ_MEM(derived.bytes.data, derived.bytes.len, public.bytes.data, public.bytes.len); /* Q = d G */
        struct key_object *signer = open_key(&private), *verifier = open_key(&public);
        struct bytes message = unhex(vector->message), signature = unhex(vector->signature), made;
        struct wire_mechanism mechanism = plain(vector->mechanism), raw = plain(CKM_ECDSA);
        struct bytes hashed = digest(hash_find(mechanism_find(vector->mechanism)->hash)->name, &message);
        CHECK_EQ(do_verify(verifier, &mechanism, false, &message, &signature), CKR_OK);
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &signature), CKR_OK); /* longer than the order, too */
        CHECK_EQ(do_sign(signer, &mechanism, false, &message, &made), CKR_OK);
        CHECK_EQ(made.len, signature.len);
        CHECK_EQ(do_verify(verifier, &mechanism, true, &hashed, &made), CKR_OK);
        CHECK_EQ(do_sign(signer, &raw, false, &hashed, &made), CKR_OK);
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &made), CKR_OK);
        made.data[5] ^= 1;
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &made), CKR_SIGNATURE_INVALID);
        memset(made.data, 0, made.len);
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &made), CKR_SIGNATURE_INVALID);
        memset(made.data, 0xFF, made.len);
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &made), CKR_SIGNATURE_INVALID);
        signature.len--;
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &signature), CKR_SIGNATURE_LEN_RANGE);
        signature.len += 3;
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &signature), CKR_SIGNATURE_LEN_RANGE);
        signature.len = 0;
        CHECK_EQ(do_verify(verifier, &raw, false, &hashed, &signature), CKR_SIGNATURE_LEN_RANGE);
        hashed.len = 0;
        CHECK_EQ(do_sign(signer, &raw, false, &hashed, &made), CKR_DATA_LEN_RANGE);
        key_object_free(signer);
        key_object_free(verifier);
    }
}

/* r and s are of fixed width also when they begin with zeros: one in 256 does. */
static void test_ecdsa_width(void)
{
    struct bytes params = unhex(CURVE_P256), data = unhex("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"), out;
    struct owned_material material = generate(CKK_EC, params.data, params.len);
    struct key_object *private = open_key(&material), *public = open_public_key(&material);
    struct wire_mechanism mechanism = plain(CKM_ECDSA);
    int zeros = 0;
    for (int i = 0; i < 3000 && zeros < 4; i++) {
        CHECK_EQ(do_sign(private, &mechanism, false, &data, &out), CKR_OK);
        CHECK_EQ(out.len, 64);
        if (out.data[0] == 0 && out.data[32] != 0) {
            zeros++;
            CHECK_EQ(do_verify(public, &mechanism, false, &data, &out), CKR_OK);
        }
    }
    CHECK(zeros > 0);
    key_object_free(private);
    key_object_free(public);
}

/* ---- EdDSA ------------------------------------------------------------------------------------------------------------------ */

static struct key_object *ed25519_key(uint64_t object_class, const char *value)
{
    struct attributes attributes = {.count = 0};
    add_hex(&attributes, CKA_EC_PARAMS, CURVE_ED25519);
    add_hex(&attributes, object_class == CKO_PRIVATE_KEY ? CKA_VALUE : CKA_EC_POINT, value);
    struct owned_material material = import_material(&attributes, object_class, CKK_EC_EDWARDS);
    return open_key(&material);
}

static void check_ed25519(const struct wire_mechanism *mechanism, const struct ed25519_vector *vector)
{
    struct key_object *private = ed25519_key(CKO_PRIVATE_KEY, vector->seed), *public = ed25519_key(CKO_PUBLIC_KEY, vector->public);
    struct bytes message = unhex(vector->message), expected = unhex(vector->signature), signature;
    CHECK_EQ(do_sign(private, mechanism, false, &message, &signature), CKR_OK);
    CHECK_EQ_MEM(signature.data, signature.len, expected.data, expected.len);
    CHECK_EQ(do_verify(public, mechanism, false, &message, &signature), CKR_OK);
    if (mechanism->kind == WIRE_KIND_EDDSA && mechanism->as.eddsa.ph != 0) {
        struct bytes hashed = digest("SHA512", &message);
        CHECK_EQ(do_sign(private, mechanism, true, &hashed, &signature), CKR_OK);
        CHECK_EQ_MEM(signature.data, signature.len, expected.data, expected.len);
        CHECK_EQ(do_verify(public, mechanism, true, &hashed, &signature), CKR_OK);
        hashed.len--;
        CHECK_EQ(do_sign(private, mechanism, true, &hashed, &signature), CKR_DATA_LEN_RANGE);
    } else {
        CHECK_EQ(do_sign(private, mechanism, true, &message, &signature), CKR_ARGUMENTS_BAD);
    }
    for (size_t at = 0; at < 64; at += 21) {
        expected.data[at] ^= 1;
        CHECK_EQ(do_verify(public, mechanism, false, &message, &expected), CKR_SIGNATURE_INVALID);
        expected.data[at] ^= 1;
    }
    message.data[message.len++] = 0;
    CHECK_EQ(do_verify(public, mechanism, false, &message, &expected), CKR_SIGNATURE_INVALID);
    expected.len--;
    CHECK_EQ(do_verify(public, mechanism, false, &message, &expected), CKR_SIGNATURE_LEN_RANGE);
    key_object_free(private);
    key_object_free(public);
}

static void test_ed25519(void)
{
    struct wire_mechanism pure = plain(CKM_EDDSA), vendor = plain(CKM_CLOUDHSM_EDDSA);
    struct wire_mechanism empty = {.type = CKM_EDDSA, .kind = WIRE_KIND_EDDSA};
    for (size_t i = 0; i < COUNT(ed25519_vectors); i++) {
        check_ed25519(&pure, &ed25519_vectors[i]);
        check_ed25519(&vendor, &ed25519_vectors[i]);
        check_ed25519(&empty, &ed25519_vectors[i]);
    }
    /* RFC 8032 7.3, 7.2 (foo, bar, and foo with another key) */
    static const struct {
        uint8_t ph;
        const char *context;
        struct ed25519_vector vector;
    } variants[] = {
        {1, "", {"833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
                 "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", "616263",
                 "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062a"
                 "aad11c2a26083406"}},
        {0, "666f6f", {"0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6",
                       "dfc9425e4f968f7f0c29f0259cf5f9aed6851c2bb4ad8bfb860cfee0ab248292", "f726936d19c800494e3fdaff20b276a8",
                       "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a8b36950b95130022907a7fb7c4e9b2d5f6cca685"
                       "a587b4b21f4b888e4e7edb0d"}},
        {0, "626172", {"0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6",
                       "dfc9425e4f968f7f0c29f0259cf5f9aed6851c2bb4ad8bfb860cfee0ab248292", "f726936d19c800494e3fdaff20b276a8",
                       "fc60d5872fc46b3aa69f8b5b4351d5808f92bcc044606db097abab6dbcb1aee3216c48e8b3b66431b5b186d1d28f8ee15a5ca2df"
                       "6668346291c2043d4eb3e90d"}},
    };
    for (size_t i = 0; i < COUNT(variants); i++) {
        struct bytes context = unhex(variants[i].context);
        check_ed25519(MECHANISM(.type = CKM_EDDSA, .kind = WIRE_KIND_EDDSA, .as.eddsa = {variants[i].ph, view(&context)}),
                      &variants[i].vector);
    }
    /* The group arithmetic here agrees with OpenSSL's: many keys sign and verify, and their points decode. */
    for (int i = 0; i < 20; i++) {
        struct bytes params = unhex(CURVE_ED25519), message = {.len = (size_t)i}, signature;
        struct owned_material material = generate(CKK_EC_EDWARDS, params.data, params.len);
        struct key_object *private = open_key(&material), *public = open_public_key(&material);
        struct wire_mechanism ph = {.type = CKM_CLOUDHSM_EDDSA, .kind = WIRE_KIND_EDDSA, .as.eddsa = {1, {NULL, 0}}};
        CHECK_EQ(do_sign(private, &ph, false, &message, &signature), CKR_OK);
        CHECK_EQ(do_verify(public, &ph, false, &message, &signature), CKR_OK);
        CHECK_EQ(do_verify(public, &vendor, false, &message, &signature), CKR_SIGNATURE_INVALID);
        key_object_free(private);
        key_object_free(public);
    }
}

/* RFC 8032 5.1.7: S is below L, else one signature has several forms. */
static void test_ed25519_malleability(void)
{
    struct key_object *public = ed25519_key(CKO_PUBLIC_KEY, "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf");
    struct bytes message = unhex("616263"), signature = unhex(
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406");
    static const uint8_t order[32] = {0xED, 0xD3, 0xF5, 0x5C, 0x1A, 0x63, 0x12, 0x58, 0xD6, 0x9C, 0xF7, 0xA2, 0xDE, 0xF9, 0xDE, 0x14,
                                      [31] = 0x10};
    struct wire_mechanism ph = {.type = CKM_EDDSA, .kind = WIRE_KIND_EDDSA, .as.eddsa = {1, {NULL, 0}}};
    CHECK_EQ(do_verify(public, &ph, false, &message, &signature), CKR_OK);
    unsigned carry = 0;
    for (int i = 0; i < 32; i++) {
        carry += signature.data[32 + i] + (unsigned)order[i];
        signature.data[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    CHECK_EQ(do_verify(public, &ph, false, &message, &signature), CKR_SIGNATURE_INVALID);
    key_object_free(public);
}

int main(void)
{
    fixture_start();
    test_rsa_vectors();
    struct owned_material rsa = generate_rsa(2048);
    test_rsa_hashed(&rsa);
    test_rsa_raw(&rsa);
    test_rsa_oaep(&rsa);
    test_oaep_vector();
    test_ecdsa_vectors();
    test_ecdsa_width();
    test_ed25519();
    test_ed25519_malleability();
    fixture_stop();
    return 0;
}
