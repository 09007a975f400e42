/* SIGNATURE: RSA (PKCS#1 v1.5, PSS, none), ECDSA, Ed25519. Messages are digested here; the HSM signs the digest. */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/params.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "provider.h"

enum { SIGNATURE_MAX = 1024, DIGEST_MAX = 64 };

struct signature {
    const struct provider *provider;
    struct key *key;
    const struct hash *hash; /* NULL: what is signed is signed as it is */
    const struct hash *mgf;  /* NULL: as `hash` */
    int padding;
    int salt; /* bytes, or RSA_PSS_SALTLEN_ */
    EVP_MD_CTX *digest;
};

static const struct hash hashes[] = {
    {"SHA1", NID_sha1, 20, CKM_SHA_1, CKG_MGF1_SHA1, {0x30, 33, 0x30, 9, 6, 5, 43, 14, 3, 2, 26, 5, 0, 4, 20}, 15},
#define SHA2(name, nid, mechanism, mgf, size, arc) \
    {name, nid, size, mechanism, mgf, {0x30, 17 + size, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, size}, 19}
    SHA2("SHA2-224", NID_sha224, CKM_SHA224, CKG_MGF1_SHA224, 28, 4),
    SHA2("SHA2-256", NID_sha256, CKM_SHA256, CKG_MGF1_SHA256, 32, 1),
    SHA2("SHA2-384", NID_sha384, CKM_SHA384, CKG_MGF1_SHA384, 48, 2),
    SHA2("SHA2-512", NID_sha512, CKM_SHA512, CKG_MGF1_SHA512, 64, 3),
};

const struct hash *hash_find(const struct provider *provider, const char *name)
{
    const struct hash *found = NULL;
    EVP_MD *md = EVP_MD_fetch(provider->library, name, NULL); /* knows all names of a digest */
    for (size_t i = 0; md != NULL && i < sizeof hashes / sizeof *hashes; i++) {
        found = EVP_MD_is_a(md, hashes[i].name) ? &hashes[i] : found;
    }
    EVP_MD_free(md);
    if (found == NULL) {
        FAIL(provider, REASON_PARAMETER, "the HSM signs with SHA-1, SHA-224, SHA-256, SHA-384 and SHA-512, not with %s", name);
    }
    return found;
}

/* ---- contexts ------------------------------------------------------------------------------------------------------- */

static void *signature_new(void *provider, const char *properties)
{
    struct signature *signature = OPENSSL_zalloc(sizeof *signature);
    (void)properties;
    if (signature != NULL) {
        signature->provider = provider;
        signature->padding = RSA_PKCS1_PADDING;
        signature->salt = RSA_PSS_SALTLEN_AUTO;
    }
    return signature;
}

static void signature_free(void *context)
{
    struct signature *signature = context;
    key_free(signature->key);
    EVP_MD_CTX_free(signature->digest);
    OPENSSL_free(signature);
}

static void *signature_dup(void *context)
{
    const struct signature *from = context;
    struct signature *copy = OPENSSL_memdup(from, sizeof *from);
    if (copy == NULL) {
        return NULL;
    }
    copy->key = from->key == NULL ? NULL : key_hold(from->key);
    copy->digest = from->digest == NULL ? NULL : EVP_MD_CTX_new();
    if (from->digest != NULL && (copy->digest == NULL || EVP_MD_CTX_copy_ex(copy->digest, from->digest) != 1)) {
        signature_free(copy);
        return NULL;
    }
    return copy;
}

/* ---- parameters ----------------------------------------------------------------------------------------------------- */

/* A number, or one of these words. */
struct word {
    const char *text;
    int number;
};

static int get_word(const OSSL_PARAM *param, const struct word *words, int *out)
{
    const char *text;
    if (param->data_type != OSSL_PARAM_UTF8_STRING) {
        return OSSL_PARAM_get_int(param, out);
    }
    if (!OSSL_PARAM_get_utf8_string_ptr(param, &text)) {
        return 0;
    }
    for (; words->text != NULL; words++) {
        if (strcmp(words->text, text) == 0) {
            *out = words->number;
            return 1;
        }
    }
    *out = atoi(text);
    return *text >= '0' && *text <= '9';
}

static int get_hash(const struct signature *signature, const OSSL_PARAM *param, const struct hash **out)
{
    const char *name;
    if (!OSSL_PARAM_get_utf8_string_ptr(param, &name)) {
        return 0;
    }
    *out = hash_find(signature->provider, name);
    return *out != NULL;
}

static const struct word paddings[] = {{OSSL_PKEY_RSA_PAD_MODE_PKCSV15, RSA_PKCS1_PADDING},
                                       {OSSL_PKEY_RSA_PAD_MODE_PSS, RSA_PKCS1_PSS_PADDING},
                                       {OSSL_PKEY_RSA_PAD_MODE_NONE, RSA_NO_PADDING},
                                       {NULL, 0}};

static int set_padding(struct signature *signature, const OSSL_PARAM *param)
{
    int padding = 0;
    if (get_word(param, paddings, &padding)) {
        for (const struct word *one = paddings; one->text != NULL; one++) {
            if (one->number == padding) {
                signature->padding = padding;
                return 1;
            }
        }
    }
    return FAIL(signature->provider, REASON_PARAMETER, "the HSM signs with padding pkcs1, pss and none");
}

static int signature_set_params(void *context, const OSSL_PARAM params[])
{
    static const struct word salts[] = {{OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST, RSA_PSS_SALTLEN_DIGEST},
                                        {OSSL_PKEY_RSA_PSS_SALT_LEN_MAX, RSA_PSS_SALTLEN_MAX},
                                        {OSSL_PKEY_RSA_PSS_SALT_LEN_AUTO, RSA_PSS_SALTLEN_AUTO},
                                        {NULL, 0}};
    struct signature *signature = context;
    int fine = 1;
    for (const OSSL_PARAM *one = params; one != NULL && one->key != NULL && fine; one++) {
        if (strcmp(one->key, OSSL_SIGNATURE_PARAM_DIGEST) == 0) {
            fine = get_hash(signature, one, &signature->hash);
        } else if (strcmp(one->key, OSSL_SIGNATURE_PARAM_MGF1_DIGEST) == 0) {
            fine = get_hash(signature, one, &signature->mgf);
        } else if (strcmp(one->key, OSSL_SIGNATURE_PARAM_PAD_MODE) == 0) {
            fine = set_padding(signature, one);
        } else if (strcmp(one->key, OSSL_SIGNATURE_PARAM_PSS_SALTLEN) == 0) {
            fine = get_word(one, salts, &signature->salt);
        }
    }
    return fine;
}

static const OSSL_PARAM *signature_settable(void *context, void *provider)
{
    static const OSSL_PARAM rsa[] = {
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, NULL, 0), OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0), OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, NULL, 0),
        OSSL_PARAM_END};
    static const OSSL_PARAM others[] = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, NULL, 0), OSSL_PARAM_END};
    const struct signature *signature = context;
    (void)provider;
    return signature == NULL || signature->key == NULL || signature->key->kind == KEY_RSA ? rsa : others;
}

/* Bytes of salt for a PSS signature; negative: the key is too short. */
static int salt_bytes(const struct signature *signature)
{
    int most = (EVP_PKEY_get_bits(signature->key->public) + 6) / 8 - (int)signature->hash->size - 2;
    switch (signature->salt) {
    case RSA_PSS_SALTLEN_DIGEST: return (int)signature->hash->size;
    case RSA_PSS_SALTLEN_AUTO:
    case RSA_PSS_SALTLEN_MAX: return most;
    default: return signature->salt <= most ? signature->salt : -1;
    }
}

static X509_ALGOR *digest_algorithm(const struct hash *hash)
{
    X509_ALGOR *algorithm = X509_ALGOR_new();
    if (algorithm != NULL) {
        X509_ALGOR_set0(algorithm, OBJ_nid2obj(hash->nid), V_ASN1_NULL, NULL);
    }
    return algorithm;
}

/* RFC 4055 3.1. */
static ASN1_STRING *pss_parameters(const struct signature *signature)
{
    RSA_PSS_PARAMS *params = RSA_PSS_PARAMS_new();
    X509_ALGOR *mgf = digest_algorithm(signature->mgf != NULL ? signature->mgf : signature->hash);
    ASN1_STRING *packed = NULL, *mgf_packed = NULL;
    if (params != NULL && mgf != NULL && ASN1_item_pack(mgf, ASN1_ITEM_rptr(X509_ALGOR), &mgf_packed) != NULL) {
        params->hashAlgorithm = digest_algorithm(signature->hash);
        params->maskGenAlgorithm = X509_ALGOR_new();
        params->saltLength = ASN1_INTEGER_new();
        if (params->hashAlgorithm != NULL && params->maskGenAlgorithm != NULL && params->saltLength != NULL &&
            X509_ALGOR_set0(params->maskGenAlgorithm, OBJ_nid2obj(NID_mgf1), V_ASN1_SEQUENCE, mgf_packed) == 1) {
            mgf_packed = NULL;
            ASN1_INTEGER_set(params->saltLength, salt_bytes(signature));
            ASN1_item_pack(params, ASN1_ITEM_rptr(RSA_PSS_PARAMS), &packed);
        }
    }
    ASN1_STRING_free(mgf_packed);
    X509_ALGOR_free(mgf);
    RSA_PSS_PARAMS_free(params);
    return packed;
}

/* What stands in a certificate as its signature's algorithm. */
static int put_algorithm(const struct signature *signature, OSSL_PARAM *param)
{
    static const int types[KEY_KINDS] = {EVP_PKEY_RSA, EVP_PKEY_EC, NID_ED25519};
    bool pss = signature->key->kind == KEY_RSA && signature->padding == RSA_PKCS1_PSS_PADDING;
    int nid = pss ? NID_rsassaPss : NID_ED25519, shape = pss ? V_ASN1_SEQUENCE : V_ASN1_UNDEF;
    unsigned char *der = NULL;
    if (signature->key->kind != KEY_ED25519 && (signature->hash == NULL ||
        (!pss && OBJ_find_sigid_by_algs(&nid, signature->hash->nid, types[signature->key->kind]) != 1))) {
        return 0;
    }
    shape = !pss && signature->key->kind == KEY_RSA ? V_ASN1_NULL : shape;
    X509_ALGOR *algorithm = X509_ALGOR_new();
    ASN1_STRING *params = pss ? pss_parameters(signature) : NULL;
    int fine = algorithm != NULL && (!pss || params != NULL) && X509_ALGOR_set0(algorithm, OBJ_nid2obj(nid), shape, params) == 1;
    int len = fine ? i2d_X509_ALGOR(algorithm, &der) : -1;
    fine = len > 0 && OSSL_PARAM_set_octet_string(param, der, (size_t)len);
    OPENSSL_free(der);
    X509_ALGOR_free(algorithm);
    return fine;
}

static int signature_get_params(void *context, OSSL_PARAM params[])
{
    const struct signature *signature = context;
    OSSL_PARAM *algorithm = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_ALGORITHM_ID);
    OSSL_PARAM *hash = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_DIGEST);
    OSSL_PARAM *padding = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
    return (algorithm == NULL || put_algorithm(signature, algorithm)) &&
           (hash == NULL || OSSL_PARAM_set_utf8_string(hash, signature->hash == NULL ? "" : OBJ_nid2sn(signature->hash->nid))) &&
           (padding == NULL || OSSL_PARAM_set_int(padding, signature->padding));
}

static const OSSL_PARAM *signature_gettable(void *context, void *provider)
{
    static const OSSL_PARAM all[] = {
        OSSL_PARAM_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, NULL, 0), OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, NULL, 0),
        OSSL_PARAM_int(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL), OSSL_PARAM_END};
    (void)context;
    (void)provider;
    return all;
}

static int begin(void *context, void *key, const OSSL_PARAM params[])
{
    struct signature *signature = context;
    if (key != NULL) { /* NULL: the one of before */
        key_free(signature->key);
        signature->key = key_hold(key);
    }
    if (signature->key == NULL || !signature->key->private) {
        return FAIL(signature->provider, REASON_KEY, "this is a public key; a signature needs type=private in the key's name");
    }
    return signature_set_params(signature, params);
}

/* ---- signing -------------------------------------------------------------------------------------------------------- */

/* r and s as Cryptoki has them, side by side (2.3.1), to the SEQUENCE that everybody else has. */
static bool to_der(const unsigned char *raw, size_t len, unsigned char *out, size_t *out_len)
{
    ECDSA_SIG *both = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, (int)(len / 2), NULL), *s = BN_bin2bn(raw + len / 2, (int)(len / 2), NULL);
    if (both == NULL || r == NULL || s == NULL || ECDSA_SIG_set0(both, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(both);
        return false;
    }
    int size = i2d_ECDSA_SIG(both, NULL);
    bool fits = size > 0 && (size_t)size <= *out_len;
    if (fits) {
        *out_len = (size_t)i2d_ECDSA_SIG(both, &out);
    }
    ECDSA_SIG_free(both);
    return fits;
}

static int sign_rsa(const struct signature *signature, const unsigned char *in, size_t len, unsigned char *out, size_t *out_len)
{
    const struct hash *hash = signature->hash, *mgf = signature->mgf != NULL ? signature->mgf : hash;
    unsigned char block[sizeof hash->prefix + DIGEST_MAX];
    CK_MECHANISM mechanism = {CKM_RSA_PKCS, NULL, 0};
    if (hash != NULL && len != hash->size) {
        return FAIL(signature->provider, REASON_PARAMETER, "a digest of %s has %u bytes, not %zu", hash->name, hash->size, len);
    }
    switch (signature->padding) {
    case RSA_PKCS1_PSS_PADDING: {
        if (hash == NULL || salt_bytes(signature) < 0) {
            return FAIL(signature->provider, REASON_PARAMETER, "PSS needs a digest, and room for its salt in the key");
        }
        CK_RSA_PKCS_PSS_PARAMS pss = {hash->mechanism, mgf->mgf, (CK_ULONG)salt_bytes(signature)};
        mechanism = (CK_MECHANISM){CKM_RSA_PKCS_PSS, &pss, sizeof pss};
        return key_sign(signature->key, &mechanism, in, len, out, out_len);
    }
    case RSA_NO_PADDING: mechanism.mechanism = CKM_RSA_X_509; break;
    default:
        if (hash != NULL) {
            memcpy(block, hash->prefix, hash->prefix_len);
            memcpy(block + hash->prefix_len, in, len);
            in = block;
            len += hash->prefix_len;
        }
    }
    return key_sign(signature->key, &mechanism, in, len, out, out_len);
}

static int sign_ec(const struct signature *signature, const unsigned char *in, size_t len, unsigned char *out, size_t *out_len)
{
    unsigned char raw[SIGNATURE_MAX];
    size_t raw_len = sizeof raw;
    CK_MECHANISM mechanism = {CKM_ECDSA, NULL, 0};
    return key_sign(signature->key, &mechanism, in, len, raw, &raw_len) && to_der(raw, raw_len, out, out_len);
}

static int sign_ed25519(const struct signature *signature, const unsigned char *in, size_t len, unsigned char *out, size_t *out_len)
{
    CK_MECHANISM mechanism = {CKM_EDDSA, NULL, 0};
    return key_sign(signature->key, &mechanism, in, len, out, out_len);
}

static int signature_sign(void *context, unsigned char *out, size_t *out_len, size_t room, const unsigned char *in, size_t len)
{
    static int (*const by_kind[KEY_KINDS])(const struct signature *, const unsigned char *, size_t, unsigned char *, size_t *) = {
        [KEY_RSA] = sign_rsa, [KEY_EC] = sign_ec, [KEY_ED25519] = sign_ed25519};
    const struct signature *signature = context;
    size_t size = (size_t)EVP_PKEY_get_size(signature->key->public);
    *out_len = size;
    if (out == NULL) {
        return 1;
    }
    if (room < size) {
        return FAIL(signature->provider, REASON_PARAMETER, "the signature needs %zu bytes", size);
    }
    return by_kind[signature->key->kind](signature, in, len, out, out_len);
}

/* ---- whole messages and parts --------------------------------------------------------------------------------------- */

static int digest_begin(void *context, const char *name, void *key, const OSSL_PARAM params[])
{
    struct signature *signature = context;
    const struct hash *hash = name == NULL || *name == '\0' ? &hashes[2] : hash_find(signature->provider, name);
    if (hash == NULL || !begin(signature, key, params)) {
        return 0;
    }
    signature->hash = hash;
    EVP_MD *md = EVP_MD_fetch(signature->provider->library, hash->name, NULL);
    if (signature->digest == NULL) {
        signature->digest = EVP_MD_CTX_new();
    }
    int fine = md != NULL && signature->digest != NULL && EVP_DigestInit_ex2(signature->digest, md, NULL);
    EVP_MD_free(md);
    return fine;
}

static int digest_update(void *context, const unsigned char *data, size_t len)
{
    return EVP_DigestUpdate(((struct signature *)context)->digest, data, len);
}

static int digest_final(void *context, unsigned char *out, size_t *out_len, size_t room)
{
    struct signature *signature = context;
    unsigned char digest[DIGEST_MAX];
    unsigned len = 0;
    return (out == NULL || EVP_DigestFinal_ex(signature->digest, digest, &len)) &&
           signature_sign(context, out, out_len, room, digest, len);
}

static int ed25519_begin(void *context, const char *name, void *key, const OSSL_PARAM params[])
{
    const struct signature *signature = context;
    if (name != NULL && *name != '\0') {
        return FAIL(signature->provider, REASON_PARAMETER, "Ed25519 takes no digest");
    }
    return begin(context, key, params);
}

#define SIGNATURE                                                                                                           \
    FUNCTION(OSSL_FUNC_SIGNATURE_NEWCTX, signature_new), FUNCTION(OSSL_FUNC_SIGNATURE_FREECTX, signature_free),             \
        FUNCTION(OSSL_FUNC_SIGNATURE_DUPCTX, signature_dup), FUNCTION(OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, signature_get_params), \
        FUNCTION(OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, signature_gettable)
const OSSL_DISPATCH signature_functions[] = {
    SIGNATURE,
    FUNCTION(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, signature_set_params),
    FUNCTION(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, signature_settable),
    FUNCTION(OSSL_FUNC_SIGNATURE_SIGN_INIT, begin),
    FUNCTION(OSSL_FUNC_SIGNATURE_SIGN, signature_sign),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, digest_begin),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, digest_update),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, digest_final),
    NO_FUNCTION,
};
const OSSL_DISPATCH signature_ed25519[] = {
    SIGNATURE,
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, ed25519_begin),
    FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, signature_sign),
    NO_FUNCTION,
};
