/* Keys: seeds, seals and the masking key; import, generation, inspection, wrapping; locked memory; many threads on one key. */
#include <fcntl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crypto_fixture.h"
#include "crypto_vectors_asymmetric.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct wire_mechanism plain(uint64_t type)
{
    return (struct wire_mechanism){.type = type, .kind = WIRE_KIND_NONE};
}

/* ---- seed, seal, masking key, MAC ------------------------------------------------------------------------------------ */

static char folder[] = "/tmp/hsmsim-test-XXXXXX";

static void write_seed(const char *path, size_t len, mode_t mode)
{
    uint8_t seed[64];
    memset(seed, 7, sizeof seed);
    (void)unlink(path);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    CHECK(file >= 0 && write(file, seed, len) == (ssize_t)len && fchmod(file, mode) == 0 && close(file) == 0);
}

static void test_device(void)
{
    char path[64], link[64];
    struct stat status;
    uint8_t first[32], second[32];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/seed", folder);
    snprintf(link, sizeof link, "%s/link", folder);
    struct masking *device = masking_new(), *again = masking_new(), *other = masking_new();
    CHECK_EQ(device_public(device, first), CKR_DEVICE_ERROR);
    CHECK_EQ(device_create(path), CKR_OK);
    CHECK_EQ(device_create(path), CKR_FUNCTION_FAILED); /* never overwritten */
    CHECK(stat(path, &status) == 0 && (status.st_mode & 07777) == 0600 && status.st_size == 32);
    CHECK_EQ(device_load(device, path), CKR_OK);
    CHECK_EQ(device_load(device, path), CKR_FUNCTION_REJECTED);
    CHECK_EQ(device_load(again, path), CKR_OK);
    CHECK_EQ(device_public(device, first), CKR_OK);
    CHECK_EQ(device_public(again, second), CKR_OK);
    CHECK_EQ_MEM(first, 32, second, 32);
    CHECK(symlink(path, link) == 0);
    CHECK_EQ(device_load(other, link), CKR_FUNCTION_FAILED);
    CHECK_EQ(device_load(other, folder), CKR_FUNCTION_FAILED);
    write_seed(path, 32, 0640);
    CHECK_EQ(device_load(other, path), CKR_FUNCTION_FAILED);
    write_seed(path, 31, 0600);
    CHECK_EQ(device_load(other, path), CKR_FUNCTION_FAILED);
    write_seed(path, 33, 0600);
    CHECK_EQ(device_load(other, path), CKR_FUNCTION_FAILED);
    write_seed(path, 32, 0600);
    CHECK_EQ(device_load(other, path), CKR_OK);
    /* X25519 of HKDF-SHA256(seed of 32 times 7, info "hsmsim device x25519" with its length before it), by pyca/cryptography */
    struct bytes expected = unhex("00cc04300702f8cd6dcc36629dde28846544635bea2187e82653c4ba7fe5f40f");
    CHECK_EQ(device_public(other, second), CKR_OK);
    CHECK_EQ_MEM(second, 32, expected.data, expected.len);
    char pin[33], pin2[33];
    CHECK_EQ(device_pin(other, 1, "user", pin), CKR_OK);
    CHECK(strlen(pin) == 32 && strspn(pin, "0123456789abcdef") == 32);
    CHECK(strcmp(pin, "b4bbe9e9f7cb32b31ffe952df4de32c2") == 0);
    CHECK(device_pin(other, 2, "user", pin2) == CKR_OK && strcmp(pin, pin2) != 0);
    CHECK(device_pin(other, 1, "so", pin2) == CKR_OK && strcmp(pin, pin2) != 0);
    CHECK(unlink(path) == 0 && unlink(link) == 0 && rmdir(folder) == 0);
    masking_free(device);
    masking_free(again);
    masking_free(other);
}

static struct masking *device_of(const char *name)
{
    char path[64];
    struct masking *device = masking_new();
    snprintf(path, sizeof path, "/tmp/hsmsim-test-%d-%s", (int)getpid(), name);
    CHECK_EQ(device_create(path), CKR_OK);
    CHECK_EQ(device_load(device, path), CKR_OK);
    CHECK(unlink(path) == 0);
    return device;
}

static void test_seal(void)
{
    static const uint8_t context[] = "cluster and incarnation";
    struct masking *first = device_of("first"), *second = device_of("second");
    uint8_t peer[32], sealed[92], mac[32], mac2[32];
    CHECK_EQ(device_public(second, peer), CKR_OK);
    CHECK_EQ(masking_seal(first, peer, context, sizeof context, sealed), CKR_DEVICE_ERROR);
    CHECK(masking_key(first) == NULL);
    CHECK_EQ(masking_mac(first, "rows", context, 1, mac), CKR_DEVICE_ERROR);
    CHECK_EQ(masking_create(first), CKR_OK);
    CHECK_EQ(masking_create(first), CKR_FUNCTION_REJECTED);
    CHECK_EQ(masking_seal(first, peer, context, sizeof context, sealed), CKR_OK);
    CHECK_EQ(masking_open(first, sealed, context, sizeof context), CKR_ENCRYPTED_DATA_INVALID); /* not the receiver */
    CHECK_EQ(masking_open(second, sealed, context, sizeof context - 1), CKR_ENCRYPTED_DATA_INVALID);
    for (size_t at = 0; at < sizeof sealed; at += 13) {
        sealed[at] ^= 0x40;
        CHECK(masking_open(second, sealed, context, sizeof context) != CKR_OK);
        sealed[at] ^= 0x40;
    }
    CHECK(masking_key(second) == NULL);
    CHECK_EQ(masking_open(second, sealed, context, sizeof context), CKR_OK);
    CHECK_EQ(masking_open(second, sealed, context, sizeof context), CKR_OK);
    CHECK_EQ_MEM(masking_key(second), 32, masking_key(first), 32);
    CHECK_EQ(masking_mac(first, "rows", context, sizeof context, mac), CKR_OK);
    CHECK_EQ(masking_mac(second, "rows", context, sizeof context, mac2), CKR_OK);
    CHECK_EQ_MEM(mac, 32, mac2, 32);
    CHECK_EQ(masking_mac(second, "tickets", context, sizeof context, mac2), CKR_OK);
    CHECK(memcmp(mac, mac2, 32) != 0);
    const uint8_t low_order[32] = {0}; /* RFC 7748 6.1: an all-zero shared secret is refused */
    CHECK(masking_seal(first, low_order, context, sizeof context, sealed) != CKR_OK);
    struct masking *stranger = device_of("stranger");
    CHECK_EQ(masking_create(stranger), CKR_OK);
    CHECK_EQ(masking_seal(stranger, peer, context, sizeof context, sealed), CKR_OK);
    CHECK_EQ(masking_open(second, sealed, context, sizeof context), CKR_FUNCTION_REJECTED); /* another masking key */
    masking_free(first);
    masking_free(second);
    masking_free(stranger);
}

/* A backup's way: sealed to a region, by that to a new device, which alone opens it; the region keeps nothing. */
static void test_reseal(void)
{
    static const uint8_t image[] = "backup/backup-aaaaaaaaaaa", cluster[] = "cluster/hsm";
    struct masking *source = device_of("source"), *region = device_of("region"), *target = device_of("target");
    uint8_t peer[32], sealed[92], again[92];
    CHECK_EQ(masking_create(source), CKR_OK);
    CHECK_EQ(device_public(region, peer), CKR_OK);
    CHECK_EQ(masking_seal(source, peer, image, sizeof image, sealed), CKR_OK);
    CHECK_EQ(device_public(target, peer), CKR_OK);
    CHECK_EQ(masking_reseal(region, sealed, cluster, sizeof cluster, peer, cluster, sizeof cluster, again),
             CKR_ENCRYPTED_DATA_INVALID);
    CHECK_EQ(masking_reseal(target, sealed, image, sizeof image, peer, cluster, sizeof cluster, again),
             CKR_ENCRYPTED_DATA_INVALID);
    CHECK_EQ(masking_reseal(region, sealed, image, sizeof image, peer, cluster, sizeof cluster, again), CKR_OK);
    CHECK(masking_key(region) == NULL);
    CHECK_EQ(masking_open(target, again, image, sizeof image), CKR_ENCRYPTED_DATA_INVALID);
    CHECK_EQ(masking_open(target, again, cluster, sizeof cluster), CKR_OK);
    CHECK_EQ_MEM(masking_key(target), 32, masking_key(source), 32);
    masking_free(source);
    masking_free(region);
    masking_free(target);
}

/* The hardware key of a seed is always the same, and its signatures verify with the public half that it shows. */
static void test_hardware_key(void)
{
    struct masking *device = device_of("hardware"), *other = device_of("other hardware");
    uint8_t spki[128], spki2[128], digest[32] = {1}, signature[128];
    size_t len = sizeof spki, len2 = sizeof spki2, signed_len = sizeof signature, small = 8;
    CHECK_EQ(device_signer(device, spki, &len), CKR_OK);
    CHECK_EQ(device_signer(device, spki2, &len2), CKR_OK);
    CHECK_EQ_MEM(spki, len, spki2, len2);
    len2 = sizeof spki2;
    CHECK_EQ(device_signer(other, spki2, &len2), CKR_OK);
    CHECK(len != len2 || memcmp(spki, spki2, len) != 0);
    CHECK_EQ(device_sign(device, digest, signature, &small), CKR_BUFFER_TOO_SMALL);
    CHECK_EQ(device_sign(device, digest, signature, &signed_len), CKR_OK);
    const uint8_t *at = spki;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &at, (long)len);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    CHECK(context != NULL && EVP_PKEY_verify_init(context) > 0);
    CHECK(EVP_PKEY_verify(context, signature, signed_len, digest, sizeof digest) == 1);
    digest[31] ^= 1;
    CHECK(EVP_PKEY_verify(context, signature, signed_len, digest, sizeof digest) != 1);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(key);
    struct masking *empty = masking_new();
    CHECK_EQ(device_sign(empty, digest, signature, &signed_len), CKR_DEVICE_ERROR);
    masking_free(empty);
    masking_free(device);
    masking_free(other);
}

/* Material is RFC 5649 under the masking key: another implementation opens it. */
static void test_material_is_kwp(void)
{
    struct owned_material key = secret_material(CKK_GENERIC_SECRET, "c37b7e6492584340bed12207808941155068f738");
    struct bytes value = unhex("c37b7e6492584340bed12207808941155068f738");
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    uint8_t out[64];
    int len = 0;
    EVP_CIPHER_CTX_set_flags(context, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
    CHECK(EVP_DecryptInit_ex(context, EVP_aes_256_wrap_pad(), NULL, masking_key(masking), NULL) == 1 &&
          EVP_DecryptUpdate(context, out, &len, key.bytes.data, (int)key.bytes.len) == 1);
    EVP_CIPHER_CTX_free(context);
    CHECK_EQ_MEM(out, (size_t)len, value.data, value.len);
    struct key_object *object;
    for (size_t at = 0; at < key.bytes.len; at += 5) {
        key.bytes.data[at] ^= 1;
        CHECK_EQ(key_object_open(masking, material_of(&key), &object), CKR_DEVICE_ERROR);
        key.bytes.data[at] ^= 1;
    }
    key.material.key_type = CKK_AES; /* 20 bytes are no AES key */
    CHECK_EQ(key_object_open(masking, material_of(&key), &object), CKR_DEVICE_ERROR);
    key.material.object_class = CKO_PRIVATE_KEY;
    CHECK_EQ(key_object_open(masking, material_of(&key), &object), CKR_DEVICE_ERROR);
    key.bytes.len = 8;
    CHECK_EQ(key_object_open(masking, material_of(&key), &object), CKR_DEVICE_ERROR);
}

/* ---- import --------------------------------------------------------------------------------------------------------------- */

static const uint64_t rsa_types[] = {CKA_MODULUS,     CKA_PUBLIC_EXPONENT, CKA_PRIVATE_EXPONENT, CKA_PRIME_1,
                                     CKA_PRIME_2,     CKA_EXPONENT_1,      CKA_EXPONENT_2,       CKA_COEFFICIENT};
enum { N = 1, E = 2, D = 4, P = 8, Q = 16, DP = 32, DQ = 64, QI = 128, ALL = 255 };

static uint64_t import_subset(struct bytes parts[8], unsigned which, struct owned_material *out)
{
    struct attributes attributes = {.count = 0};
    for (int i = 0; i < 8; i++) {
        if ((which >> i & 1) != 0) {
            add_attribute(&attributes, rsa_types[i], parts[i].data, parts[i].len);
        }
    }
    return try_import(&attributes, CKO_PRIVATE_KEY, CKK_RSA, out);
}

static void check_same_key(struct owned_material *material, struct bytes parts[8])
{
    struct bytes modulus = component(material, CKA_MODULUS), e = component(material, CKA_PUBLIC_EXPONENT);
    CHECK_EQ_MEM(modulus.data, modulus.len, parts[0].data, parts[0].len);
    CHECK_EQ_MEM(e.data, e.len, parts[1].data, parts[1].len);
    struct key_object *private = open_key(material);
    struct owned_material public_material = public_of(material);
    struct key_object *public = open_key(&public_material);
    struct bytes data = unhex("00"), signature;
    struct wire_mechanism mechanism = plain(CKM_SHA256_RSA_PKCS);
    CHECK_EQ(do_sign(private, &mechanism, false, &data, &signature), CKR_OK);
    CHECK_EQ(do_verify(public, &mechanism, false, &data, &signature), CKR_OK);
    key_object_free(private);
    key_object_free(public);
}

/* d + (p - 1)(q - 1) 2^131072 is an exponent, too, but the work to find the factors grows with its length. */
static struct bytes huge_exponent(const struct bytes parts[8])
{
    struct bytes out;
    BN_CTX *context = BN_CTX_new();
    BIGNUM *d = BN_bin2bn(parts[2].data, (int)parts[2].len, NULL), *p = BN_bin2bn(parts[3].data, (int)parts[3].len, NULL);
    BIGNUM *q = BN_bin2bn(parts[4].data, (int)parts[4].len, NULL);
    CHECK(BN_sub_word(p, 1) && BN_sub_word(q, 1) && BN_mul(p, p, q, context) && BN_lshift(p, p, 131072) && BN_add(d, d, p));
    CHECK(BN_num_bytes(d) <= BYTES_MAX);
    out.len = (size_t)BN_bn2bin(d, out.data);
    BN_free(d);
    BN_free(p);
    BN_free(q);
    BN_CTX_free(context);
    return out;
}

static void test_import_rsa(struct owned_material *rsa)
{
    static const unsigned enough[] = {ALL,           N | E | D,         N | D,      N | E | D | P | Q, N | D | P | Q,
                                      N | E | D | P, N | E | D | Q,     N | D | P | Q | DP | DQ, N | E | D | Q | DP | DQ | QI};
    static const unsigned few[] = {N, E, D, E | D, N | E, P | Q, N | E | P | Q};
    struct bytes parts[8];
    struct owned_material out;
    for (int i = 0; i < 8; i++) {
        parts[i] = component(rsa, rsa_types[i]);
    }
    for (size_t i = 0; i < COUNT(enough); i++) {
        CHECK_EQ(import_subset(parts, enough[i], &out), CKR_OK);
        check_same_key(&out, parts);
    }
    for (size_t i = 0; i < COUNT(few); i++) {
        CHECK_EQ(import_subset(parts, few[i], &out), CKR_TEMPLATE_INCOMPLETE);
    }
    for (int i = 0; i < 8; i++) { /* every part that does not belong */
        parts[i].data[parts[i].len / 2] ^= 2;
        CHECK_EQ(import_subset(parts, ALL, &out), CKR_ATTRIBUTE_VALUE_INVALID);
        parts[i].data[parts[i].len / 2] ^= 2;
    }
    parts[2].data[9] ^= 1;
    CHECK_EQ(import_subset(parts, N | E | D, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    parts[2].data[9] ^= 1;
    struct bytes exponent = parts[2];
    parts[2] = huge_exponent(parts);
    CHECK_EQ(import_subset(parts, N | D, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    parts[2] = exponent;
    struct bytes padded = {.len = 3 + parts[0].len}; /* leading zeros are no part of a number */
    memcpy(padded.data + 3, parts[0].data, parts[0].len);
    parts[0] = padded;
    CHECK_EQ(import_subset(parts, N | E | D, &out), CKR_OK);
}

/* A number longer than the modulus belongs to no key, and what it would cost to find that out by computing grows without
 * bound: a private exponent of 16 MiB holds a thread for an hour. */
static void test_import_rsa_of_endless_numbers(struct owned_material *rsa)
{
    struct bytes parts[8];
    struct owned_material out;
    for (int i = 0; i < 8; i++) {
        parts[i] = component(rsa, rsa_types[i]);
    }
    /* d + k (p - 1)(q - 1) is an exponent of the same key; this one has 4,096 bytes */
    BIGNUM *n = BN_bin2bn(parts[0].data, (int)parts[0].len, NULL), *p = BN_bin2bn(parts[3].data, (int)parts[3].len, NULL);
    BIGNUM *q = BN_bin2bn(parts[4].data, (int)parts[4].len, NULL), *d = BN_bin2bn(parts[2].data, (int)parts[2].len, NULL);
    CHECK(BN_sub(n, n, p) && BN_sub(n, n, q) && BN_add_word(n, 1) && BN_lshift(n, n, 8 * (4096 - 256)) && BN_add(d, d, n));
    parts[2].len = (size_t)BN_bn2bin(d, parts[2].data);
    CHECK(parts[2].len > 4000);
    CHECK_EQ(import_subset(parts, N | E | D, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    CHECK_EQ(import_subset(parts, N | E | D | P | Q, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    struct key_parts wrapped = {.key_type = CKK_RSA}; /* as it comes out of C_UnwrapKey */
    for (int i = 0; i < 8; i++) {
        wrapped.part[i] = view(&parts[i]);
    }
    CHECK(!private_parts_valid(&wrapped));
    BN_free(n);
    BN_free(p);
    BN_free(q);
    BN_free(d);
}

/* A fault in one half of the Chinese remainder theorem gives away the factors of the modulus (Boneh, DeMillo, Lipton 1997).
 * Here the fault is in the key: a CRT number with one wrong bit. What leaves is right all the same. */
static void test_no_faulty_result_leaves(struct owned_material *rsa)
{
    struct owned_material public_material = public_of(rsa);
    struct key_object *public = open_key(&public_material), *faulty;
    const struct wire_mechanism sign = plain(CKM_SHA256_RSA_PKCS), cipher = plain(CKM_RSA_PKCS);
    struct bytes data = unhex("0102"), signature, ciphertext, opened, iv;
    CHECK_EQ(do_encrypt(public, &cipher, &data, &ciphertext, &iv), CKR_OK);
    for (int number = RSA_DP; number <= RSA_QI; number++) {
        SECRET_SCOPED bytes = {NULL, 0};
        SECRET_SCOPED encoded = {NULL, 0};
        struct key_parts parts;
        CHECK_EQ(material_bytes(masking, material_of(rsa), &bytes), CKR_OK);
        CHECK(parts_of_pkcs8(bytes.data, bytes.len, &parts));
        struct bytes wrong = {.len = parts.part[number].len};
        memcpy(wrong.data, parts.part[number].data, wrong.len);
        wrong.data[wrong.len / 2] ^= 1;
        parts.part[number] = view(&wrong);
        CHECK_EQ(parts_to_pkcs8(&parts, &encoded), CKR_OK);
        CHECK_EQ(key_object_make(CKO_PRIVATE_KEY, CKK_RSA, encoded.data, encoded.len, &faulty), CKR_OK);
        CHECK_EQ(do_sign(faulty, &sign, false, &data, &signature), CKR_OK);
        CHECK_EQ(do_verify(public, &sign, false, &data, &signature), CKR_OK);
        CHECK_EQ(do_decrypt(faulty, &cipher, &ciphertext, &opened), CKR_OK);
        CHECK_EQ_MEM(opened.data, opened.len, data.data, data.len);
        key_object_free(faulty);
    }
    key_object_free(public);
}

static void test_import_ec(void)
{
    const struct ecdsa_vector *vector = &ecdsa_vectors[COUNT(ecdsa_vectors) - 1];
    struct owned_material out;
    struct attributes attributes = {.count = 0};
    add_hex(&attributes, CKA_EC_PARAMS, vector->curve);
    CHECK_EQ(try_import(&attributes, CKO_PRIVATE_KEY, CKK_EC, &out), CKR_TEMPLATE_INCOMPLETE);
    add_hex(&attributes, CKA_VALUE, vector->d);
    struct attributes good = attributes, bad = attributes, other = attributes;
    CHECK_EQ(try_import(&attributes, CKO_PRIVATE_KEY, CKK_EC, &out), CKR_OK);
    check_value(&out, vector->d);
    struct bytes point = component(&out, CKA_EC_POINT), params = component(&out, CKA_EC_PARAMS), wanted = unhex(vector->point);
    CHECK(point.data[0] == 4 && point.data[1] == point.len - 2); /* DER OCTET STRING */
    CHECK_EQ_MEM(point.data + 2, point.len - 2, wanted.data, wanted.len);
    wanted = unhex(vector->curve);
    CHECK_EQ_MEM(params.data, params.len, wanted.data, wanted.len);
    add_hex(&good, CKA_EC_POINT, vector->point);
    CHECK_EQ(try_import(&good, CKO_PRIVATE_KEY, CKK_EC, &out), CKR_OK);
    add_hex(&bad, CKA_EC_POINT, ecdsa_vectors[COUNT(ecdsa_vectors) - 2].point);
    CHECK_EQ(try_import(&bad, CKO_PRIVATE_KEY, CKK_EC, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    CHECK_EQ(try_import(&other, CKO_PRIVATE_KEY, CKK_EC_EDWARDS, &out), CKR_CURVE_NOT_SUPPORTED);
    static const char *const scalars[] = { /* 0, n and n + 1 of secp256k1, and one byte too many */
        "00", "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364142",
        "01fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140"};
    for (size_t i = 0; i < COUNT(scalars); i++) {
        struct attributes wrong = {.count = 0};
        add_hex(&wrong, CKA_EC_PARAMS, CURVE_K256);
        add_hex(&wrong, CKA_VALUE, scalars[i]);
        CHECK_EQ(try_import(&wrong, CKO_PRIVATE_KEY, CKK_EC, &out),
                 i == 0 ? CKR_TEMPLATE_INCOMPLETE : CKR_ATTRIBUTE_VALUE_INVALID);
    }
    struct attributes unknown = {.count = 0}; /* brainpoolP256r1 */
    add_hex(&unknown, CKA_EC_PARAMS, "06092b2403030208010107");
    add_hex(&unknown, CKA_VALUE, vector->d);
    CHECK_EQ(try_import(&unknown, CKO_PRIVATE_KEY, CKK_EC, &out), CKR_CURVE_NOT_SUPPORTED);
    struct attributes off = {.count = 0};
    add_hex(&off, CKA_EC_PARAMS, CURVE_K256);
    add_hex(&off, CKA_EC_POINT, ecdsa_vectors[5].point); /* P-256's */
    CHECK_EQ(try_import(&off, CKO_PUBLIC_KEY, CKK_EC, &out), CKR_ATTRIBUTE_VALUE_INVALID);
}

static void test_import_edwards_and_secrets(void)
{
    static const char *const names[] = {CURVE_ED25519, "130c656477617264733235353139", "06092b06010401da470f01"};
    struct owned_material out;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct attributes attributes = {.count = 0};
        add_hex(&attributes, CKA_EC_PARAMS, names[i]);
        add_hex(&attributes, CKA_VALUE, ed25519_vectors[1].seed);
        CHECK_EQ(try_import(&attributes, CKO_PRIVATE_KEY, CKK_EC_EDWARDS, &out), CKR_OK);
        struct bytes point = component(&out, CKA_EC_POINT), expected = unhex(ed25519_vectors[1].public);
        CHECK_EQ_MEM(point.data + 2, point.len - 2, expected.data, expected.len);
        add_hex(&attributes, CKA_EC_POINT, ed25519_vectors[2].public);
        CHECK_EQ(try_import(&attributes, CKO_PRIVATE_KEY, CKK_EC_EDWARDS, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    }
    struct attributes none = {.count = 0}, wrong = {.count = 0};
    CHECK_EQ(try_import(&none, CKO_SECRET_KEY, CKK_AES, &out), CKR_TEMPLATE_INCOMPLETE);
    add_hex(&wrong, CKA_VALUE, "00112233445566778899aabbccddeeff00");
    CHECK_EQ(try_import(&wrong, CKO_SECRET_KEY, CKK_AES, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    CHECK_EQ(try_import(&wrong, CKO_SECRET_KEY, CKK_DES3, &out), CKR_ATTRIBUTE_VALUE_INVALID);
    CHECK_EQ(try_import(&wrong, CKO_SECRET_KEY, CKK_GENERIC_SECRET, &out), CKR_OK);
    uint8_t room[4];
    size_t len = sizeof room;
    const struct wire_template template = {wrong.encoded.data, (uint32_t)wrong.encoded.len, wrong.count};
    CHECK_EQ(material_import(masking, &template, CKO_SECRET_KEY, CKK_GENERIC_SECRET, room, &len), CKR_BUFFER_TOO_SMALL);
    CHECK_EQ(len, 32); /* 17 bytes to a multiple of 8, and 8 more */
}

/* ---- generation and inspection -------------------------------------------------------------------------------------------- */

static void test_generate(void)
{
    static const struct {
        uint64_t key_type;
        const char *parameters;
        uint32_t bits;
        size_t check_len;
    } kinds[] = {
        {CKK_EC, CURVE_P224, 224, 0},     {CKK_EC, CURVE_P256, 256, 0},     {CKK_EC, CURVE_P384, 384, 0},
        {CKK_EC, CURVE_P521, 521, 0},     {CKK_EC, CURVE_K256, 256, 0},     {CKK_EC_EDWARDS, CURVE_ED25519, 256, 0},
        {CKK_AES, "10000000", 128, 3},    {CKK_AES, "20000000", 256, 3},    {CKK_GENERIC_SECRET, "2a000000", 336, 3},
        {CKK_RSA, "00080000010001", 2048, 0}, {CKK_RSA, "000c000003", 3072, 0},
    };
    for (size_t i = 0; i < COUNT(kinds); i++) {
        struct bytes parameters = unhex(kinds[i].parameters);
        struct owned_material material = generate(kinds[i].key_type, parameters.data, parameters.len);
        uint32_t bits = 0;
        uint8_t check[3];
        size_t check_len = 9;
        CHECK_EQ(material_inspect(masking, material_of(&material), &bits, check, &check_len), CKR_OK);
        CHECK_EQ(bits, kinds[i].bits);
        CHECK_EQ(check_len, kinds[i].check_len);
    }
    static const struct {
        uint64_t key_type;
        const char *parameters;
        uint64_t rv;
    } wrong[] = {
        {CKK_RSA, "ff070000010001", CKR_KEY_SIZE_RANGE},      {CKK_RSA, "01100000010001", CKR_KEY_SIZE_RANGE},
        {CKK_RSA, "00080000010000", CKR_ATTRIBUTE_VALUE_INVALID}, {CKK_RSA, "0008000001", CKR_ATTRIBUTE_VALUE_INVALID},
        {CKK_RSA, "0008", CKR_ARGUMENTS_BAD},                 {CKK_AES, "11000000", CKR_KEY_SIZE_RANGE},
        {CKK_GENERIC_SECRET, "00000000", CKR_KEY_SIZE_RANGE}, {CKK_GENERIC_SECRET, "ffffffff", CKR_KEY_SIZE_RANGE},
        {CKK_EC, CURVE_ED25519, CKR_CURVE_NOT_SUPPORTED},     {CKK_EC_EDWARDS, CURVE_P256, CKR_CURVE_NOT_SUPPORTED},
        {CKK_EC, "", CKR_CURVE_NOT_SUPPORTED},                {CKK_DES3, "18000000", CKR_KEY_TYPE_INCONSISTENT},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct bytes parameters = unhex(wrong[i].parameters), out = {.len = BYTES_MAX};
        CHECK_EQ(material_generate(masking, wrong[i].key_type, parameters.data, parameters.len, out.data, &out.len), wrong[i].rv);
    }
}

static void test_check_values(void)
{
    struct owned_material aes = secret_material(CKK_AES, "000102030405060708090a0b0c0d0e0f");
    struct owned_material generic = secret_material(CKK_GENERIC_SECRET, "616263");
    uint32_t bits;
    uint8_t check[3];
    size_t len;
    CHECK_EQ(material_inspect(masking, material_of(&aes), &bits, check, &len), CKR_OK);
    CHECK_EQ_MEM(check, len, "\xc6\xa1\x3b", 3); /* AES-128 of a zero block: c6a13b37878f5b826f4f8162a1c8d879 */
    CHECK_EQ(material_inspect(masking, material_of(&generic), &bits, check, &len), CKR_OK);
    CHECK_EQ_MEM(check, len, "\xa9\x99\x3e", 3); /* SHA-1("abc"), FIPS 180 */
    struct secret value;
    CHECK_EQ(material_component(masking, material_of(&aes), CKA_MODULUS, &value), CKR_ATTRIBUTE_TYPE_INVALID);
    CHECK(value.data == NULL);
}

static void test_components_of_public_keys(struct owned_material *rsa)
{
    struct owned_material public = public_of(rsa);
    struct secret value;
    struct bytes from_private = component(rsa, CKA_MODULUS), from_public = component(&public, CKA_MODULUS);
    CHECK_EQ_MEM(from_public.data, from_public.len, from_private.data, from_private.len);
    CHECK_EQ(material_component(masking, material_of(&public), CKA_PRIVATE_EXPONENT, &value), CKR_ATTRIBUTE_TYPE_INVALID);
    CHECK_EQ(material_component(masking, material_of(&public), CKA_VALUE, &value), CKR_ATTRIBUTE_TYPE_INVALID);
    CHECK_EQ(material_component(masking, material_of(rsa), CKA_EC_POINT, &value), CKR_ATTRIBUTE_TYPE_INVALID);
}

/* ---- wrapping ------------------------------------------------------------------------------------------------------------------ */

static void check_private_round(struct owned_material *wrapping, struct owned_material *unwrapping,
                                const struct wire_mechanism *mechanism, struct owned_material *key)
{
    struct bytes wrapped, iv;
    struct owned_material back;
    CHECK_EQ(do_wrap(wrapping, mechanism, key, &wrapped, &iv), CKR_OK);
    CHECK_EQ(do_unwrap(unwrapping, mechanism, &wrapped, key->material.object_class, key->material.key_type, &back), CKR_OK);
    struct owned_material before = public_of(key), after = public_of(&back);
    CHECK_EQ_MEM(after.bytes.data, after.bytes.len, before.bytes.data, before.bytes.len);
    CHECK_EQ_MEM(back.bytes.data, back.bytes.len, key->bytes.data, key->bytes.len); /* material is canonical */
    uint64_t other = key->material.key_type == CKK_RSA ? CKK_EC : CKK_RSA;
    CHECK_EQ(do_unwrap(unwrapping, mechanism, &wrapped, CKO_PRIVATE_KEY, other, &back), CKR_WRAPPED_KEY_INVALID);
    wrapped.data[wrapped.len - 1] ^= 1;
    CHECK_EQ(do_unwrap(unwrapping, mechanism, &wrapped, CKO_PRIVATE_KEY, key->material.key_type, &back), CKR_WRAPPED_KEY_INVALID);
}

static void test_wrap_private(struct owned_material *rsa)
{
    static const char *const curves[] = {CURVE_P224, CURVE_P256, CURVE_P384, CURVE_P521, CURVE_K256, CURVE_ED25519};
    struct owned_material kek = secret_material(CKK_AES, "000102030405060708090a0b0c0d0e0f"), public = public_of(rsa);
    struct wire_mechanism kwp = plain(CKM_AES_KEY_WRAP_PAD), pkcs5 = plain(CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD);
    struct wire_mechanism rsa_aes = {.type = CKM_RSA_AES_KEY_WRAP, .kind = WIRE_KIND_RSA_AES,
                                     .as.rsa_aes = {256, CKM_SHA256, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, {NULL, 0}}};
    struct wire_mechanism gcm = {.type = CKM_CLOUDHSM_AES_GCM, .kind = WIRE_KIND_GCM, .as.gcm = {.tag_bits = 128}};
    for (size_t i = 0; i <= COUNT(curves); i++) {
        struct bytes params = unhex(i < COUNT(curves) ? curves[i] : "");
        struct owned_material key =
            i < COUNT(curves) ? generate(i == COUNT(curves) - 1 ? CKK_EC_EDWARDS : CKK_EC, params.data, params.len) : *rsa;
        check_private_round(&kek, &kek, &kwp, &key);
        check_private_round(&kek, &kek, &pkcs5, &key);
        check_private_round(&kek, &kek, &gcm, &key);
        check_private_round(&public, rsa, &rsa_aes, &key);
    }
    struct bytes wrapped, iv;
    struct owned_material back;
    rsa_aes.as.rsa_aes.aes_bits = 512;
    CHECK_EQ(do_wrap(&public, &rsa_aes, rsa, &wrapped, &iv), CKR_MECHANISM_PARAM_INVALID);
    CHECK_EQ(do_wrap(&kek, &kwp, &public, &wrapped, &iv), CKR_KEY_NOT_WRAPPABLE);
    struct wire_mechanism oaep = {.type = CKM_RSA_PKCS_OAEP, .kind = WIRE_KIND_OAEP,
                                  .as.oaep = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, {NULL, 0}}};
    struct wire_mechanism pkcs = plain(CKM_RSA_PKCS);
    CHECK_EQ(do_wrap(&public, &oaep, rsa, &wrapped, &iv), CKR_KEY_NOT_WRAPPABLE);
    const struct wire_mechanism *both[] = {&oaep, &pkcs};
    for (size_t i = 0; i < COUNT(both); i++) {
        CHECK_EQ(do_wrap(&public, both[i], &kek, &wrapped, &iv), CKR_OK);
        CHECK_EQ(wrapped.len, 256);
        CHECK_EQ(do_unwrap(rsa, both[i], &wrapped, CKO_SECRET_KEY, CKK_AES, &back), CKR_OK);
        check_value(&back, "000102030405060708090a0b0c0d0e0f");
        CHECK_EQ(do_unwrap(&public, both[i], &wrapped, CKO_SECRET_KEY, CKK_AES, &back), CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT);
        wrapped.len--;
        CHECK_EQ(do_unwrap(rsa, both[i], &wrapped, CKO_SECRET_KEY, CKK_AES, &back), CKR_WRAPPED_KEY_LEN_RANGE);
    }
    struct bytes junk = {.len = 512};
    memset(junk.data, 0x5A, junk.len);
    rsa_aes.as.rsa_aes.aes_bits = 256;
    CHECK_EQ(do_unwrap(rsa, &rsa_aes, &junk, CKO_PRIVATE_KEY, CKK_RSA, &back), CKR_WRAPPED_KEY_INVALID);
    struct bytes encoded = encode_mechanism(&kwp);
    encoded.data[encoded.len++] = 0; /* bytes left over */
    CHECK_EQ(material_wrap(masking, material_of(&kek), encoded.data, encoded.len, material_of(&kek), wrapped.data, &wrapped.len,
                           iv.data, &iv.len),
             CKR_MECHANISM_PARAM_INVALID);
}

/* PKCS#8 that is wrong anywhere does not come in: every byte changed, every length cut. */
static void test_damaged_pkcs8(void)
{
    struct bytes params = unhex(CURVE_P256);
    struct owned_material material = generate(CKK_EC, params.data, params.len);
    struct secret encoded;
    struct key_parts parts;
    CHECK_EQ(unmask(masking, material.bytes.data, material.bytes.len, &encoded), CKR_OK);
    CHECK(parts_of_pkcs8(encoded.data, encoded.len, &parts) && private_parts_valid(&parts));
    for (size_t len = 0; len < encoded.len; len++) {
        CHECK(!parts_of_pkcs8(encoded.data, len, &parts));
    }
    for (size_t at = 0; at < encoded.len; at++) {
        encoded.data[at] ^= 0x11;
        CHECK(!parts_of_pkcs8(encoded.data, encoded.len, &parts) || !private_parts_valid(&parts));
        encoded.data[at] ^= 0x11;
    }
    struct bytes longer = {.len = encoded.len + 7};
    memset(longer.data, 0, sizeof longer.data);
    memcpy(longer.data, encoded.data, encoded.len); /* as SoftHSM2 wraps it: up to seven zeros behind */
    CHECK(parts_of_pkcs8(longer.data, longer.len, &parts) && private_parts_valid(&parts));
    CHECK(!parts_of_pkcs8(longer.data, longer.len + 1, &parts));
    longer.data[longer.len - 1] = 1;
    CHECK(!parts_of_pkcs8(longer.data, longer.len, &parts));
    secret_free(&encoded);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------- */

static void test_password_and_random(void)
{
    const uint8_t salt[16] = "0123456789abcdef";
    uint8_t hash[32], room[70000];
    /* hashlib.scrypt(b"correct horse", salt=b"0123456789abcdef", n=2**14, r=8, p=1, dklen=32) of Python 3.11 */
    struct bytes expected = unhex("d0bba9c87933008803afd503b2b88001ff3bbcc6c26dc6947c3bc53801e4d03d");
    CHECK_EQ(password_hash((const uint8_t *)"correct horse", 13, salt, hash), CKR_OK);
    CHECK_EQ_MEM(hash, 32, expected.data, expected.len);
    CHECK_EQ(password_hash(NULL, 0, salt, hash), CKR_OK);
    struct wire_writer writer = wire_writer(room, sizeof room);
    struct wire_random_request request = {.length = 65536};
    CHECK_EQ(op_random(worker, &request, &writer), CKR_OK);
    CHECK_EQ(writer.len, 65540);
    request.length = 65537;
    CHECK_EQ(op_random(worker, &request, &writer), CKR_ARGUMENTS_BAD);
    request.length = 65536; /* no room is left */
    CHECK_EQ(op_random(worker, &request, &writer), CKR_DEVICE_MEMORY);
    CHECK_EQ(writer.len, 65540);
    const struct wire_seed_random_request seed = {wire_bytes(salt, sizeof salt)};
    CHECK_EQ(op_seed_random(worker, &seed, &writer), CKR_OK);
}

static void test_no_room(struct owned_material *rsa)
{
    struct key_object *key = open_key(rsa);
    struct bytes data = unhex("00");
    const struct wire_sign_request request = {.mechanism = plain(CKM_SHA256_RSA_PKCS), .data = view(&data)};
    uint8_t room[260];
    for (size_t cap = 0; cap < sizeof room; cap += 37) {
        struct wire_writer writer = wire_writer(room, cap);
        CHECK_EQ(op_sign(worker, key, &request, &writer), CKR_DEVICE_MEMORY);
        CHECK_EQ(writer.len, 0);
    }
    struct wire_writer writer = wire_writer(room, sizeof room);
    CHECK_EQ(op_sign(worker, key, &request, &writer), CKR_OK);
    key_object_free(key);
}

enum { THREADS = 6, ROUNDS = 60 };

struct shared {
    struct key_object *private, *public, *hmac;
};

static void *use_keys(void *argument)
{
    const struct shared *keys = argument;
    struct crypto_worker *own = crypto_worker_new();
    uint8_t room[512], mac[64];
    for (uint8_t i = 0; i < ROUNDS; i++) {
        const uint8_t data[2] = {i, 1};
        struct wire_writer writer = wire_writer(room, sizeof room), none = wire_writer(mac, sizeof mac);
        const struct wire_sign_request sign = {.mechanism = plain(i % 2 != 0 ? CKM_SHA256_RSA_PKCS : CKM_SHA384_RSA_PKCS),
                                               .data = wire_bytes(data, 2)};
        CHECK_EQ(op_sign(own, keys->private, &sign, &writer), CKR_OK);
        const struct wire_verify_request verify = {
            .mechanism = sign.mechanism, .data = sign.data, .signature = wire_bytes(room + 4, (uint32_t)writer.len - 4)};
        CHECK_EQ(op_verify(own, keys->public, &verify, &none), CKR_OK);
        const struct wire_sign_request hmac = {.mechanism = plain(CKM_SHA256_HMAC), .data = wire_bytes(data, 2)};
        CHECK_EQ(op_sign(own, keys->hmac, &hmac, &none), CKR_OK);
    }
    crypto_worker_free(own);
    return NULL;
}

static void test_threads(struct owned_material *rsa)
{
    pthread_t threads[THREADS];
    struct owned_material public = public_of(rsa);
    struct shared keys = {open_key(rsa), open_key(&public), secret_key(CKK_GENERIC_SECRET, "0b0b")};
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, use_keys, &keys) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    key_object_free(keys.private);
    key_object_free(keys.public);
    key_object_free(keys.hmac);
}

/* A forked child finds zeros where the keys were. */
static void test_memory(void)
{
    struct secret small, large, none;
    CHECK(secret_alloc(&small, 64) && secret_alloc(&large, 1 << 20) && secret_alloc(&none, 0));
    CHECK(none.data != NULL && !memory_low());
    for (size_t i = 0; i < large.len; i++) {
        CHECK(large.data[i] == 0);
    }
    memset(small.data, 0x55, small.len);
    memset(large.data, 0x55, large.len);
    secret_trim(&small, 10);
    CHECK(small.len == 10 && small.data[9] == 0x55 && small.data[10] == 0 && small.data[63] == 0);
    pid_t child = fork();
    if (child == 0) {
        _exit(small.data[0] == 0 && large.data[0] == 0 && large.data[large.len - 1] == 0 ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    secret_free(&small);
    secret_free(&large);
    secret_free(&none);
    secret_free(&none);
    CHECK(none.data == NULL);
}

int main(void)
{
    fixture_start();
    test_memory();
    test_device();
    test_seal();
    test_reseal();
    test_hardware_key();
    test_material_is_kwp();
    struct owned_material rsa = generate_rsa(2048);
    test_import_rsa(&rsa);
    test_import_rsa_of_endless_numbers(&rsa);
    test_no_faulty_result_leaves(&rsa);
    test_import_ec();
    test_import_edwards_and_secrets();
    test_generate();
    test_check_values();
    test_components_of_public_keys(&rsa);
    test_wrap_private(&rsa);
    test_damaged_pkcs8();
    test_password_and_random();
    test_no_room(&rsa);
    test_threads(&rsa);
    fixture_stop();
    return 0;
}
