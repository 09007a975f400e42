/* evp.h says the rules. */
#include "evp.h"

#include <openssl/provider.h>
#include <pthread.h>
#include <string.h>

static struct hash hashes[] = {
    {CKM_SHA_1, CKM_SHA_1_HMAC, CKG_MGF1_SHA1, CKD_SHA1_KDF, CKD_CLOUDHSM_X963_SHA1_KDF, "SHA1", 20, NULL},
    {CKM_SHA224, CKM_SHA224_HMAC, CKG_MGF1_SHA224, CKD_SHA224_KDF, CKD_CLOUDHSM_X963_SHA224_KDF, "SHA2-224", 28, NULL},
    {CKM_SHA256, CKM_SHA256_HMAC, CKG_MGF1_SHA256, CKD_SHA256_KDF, CKD_CLOUDHSM_X963_SHA256_KDF, "SHA2-256", 32, NULL},
    {CKM_SHA384, CKM_SHA384_HMAC, CKG_MGF1_SHA384, CKD_SHA384_KDF, CKD_CLOUDHSM_X963_SHA384_KDF, "SHA2-384", 48, NULL},
    {CKM_SHA512, CKM_SHA512_HMAC, CKG_MGF1_SHA512, CKD_SHA512_KDF, CKD_CLOUDHSM_X963_SHA512_KDF, "SHA2-512", 64, NULL},
};
enum { HASHES = sizeof hashes / sizeof *hashes, KEY_LENGTHS = 3 };

static const char *const aes_names[AES_MODES][KEY_LENGTHS] = {
    [AES_ECB] = {"AES-128-ECB", "AES-192-ECB", "AES-256-ECB"},
    [AES_CBC] = {"AES-128-CBC", "AES-192-CBC", "AES-256-CBC"},
    [AES_CTR] = {"AES-128-CTR", "AES-192-CTR", "AES-256-CTR"},
    [AES_GCM] = {"AES-128-GCM", "AES-192-GCM", "AES-256-GCM"},
    [AES_WRAP] = {"AES-128-WRAP", "AES-192-WRAP", "AES-256-WRAP"},
    [AES_WRAP_PAD] = {"AES-128-WRAP-PAD", "AES-192-WRAP-PAD", "AES-256-WRAP-PAD"},
};

static struct {
    pthread_once_t once;
    bool ready;
    OSSL_LIB_CTX *context;
    EVP_CIPHER *aes[AES_MODES][KEY_LENGTHS];
    EVP_MAC *hmac, *cmac;
} evp = {.once = PTHREAD_ONCE_INIT};

static bool fetch_all(void)
{
    bool ok = true;
    for (size_t i = 0; i < HASHES; i++) {
        hashes[i].md = EVP_MD_fetch(evp.context, hashes[i].name, NULL);
        ok = ok && hashes[i].md != NULL;
    }
    for (size_t mode = 0; mode < AES_MODES; mode++) {
        for (size_t i = 0; i < KEY_LENGTHS; i++) {
            evp.aes[mode][i] = EVP_CIPHER_fetch(evp.context, aes_names[mode][i], NULL);
            ok = ok && evp.aes[mode][i] != NULL;
        }
    }
    evp.hmac = EVP_MAC_fetch(evp.context, "HMAC", NULL);
    evp.cmac = EVP_MAC_fetch(evp.context, "CMAC", NULL);
    return ok && evp.hmac != NULL && evp.cmac != NULL;
}

static void start(void)
{
    (void)memory_init();
    evp.context = OSSL_LIB_CTX_new(); /* a context of one's own reads no configuration file */
    evp.ready = evp.context != NULL && OSSL_PROVIDER_load(evp.context, "default") != NULL && fetch_all();
}

bool evp_start(void)
{
    (void)pthread_once(&evp.once, start);
    return evp.ready;
}

OSSL_LIB_CTX *evp_context(void)
{
    return evp.context;
}

#define DEFINE_HASH_OF(function, condition)        \
    const struct hash *function(uint64_t value)    \
    {                                              \
        for (size_t i = 0; i < HASHES; i++) {      \
            const struct hash *hash = &hashes[i];  \
            if (condition) {                       \
                return hash;                       \
            }                                      \
        }                                          \
        return NULL;                               \
    }
DEFINE_HASH_OF(hash_find, hash->mechanism == value)
DEFINE_HASH_OF(hash_of_hmac, hash->hmac == value)
DEFINE_HASH_OF(hash_of_mgf, hash->mgf == value)
DEFINE_HASH_OF(hash_of_kdf, hash->kdf == value || hash->vendor_kdf == value)

const EVP_CIPHER *aes_cipher(enum aes_mode mode, size_t key_len)
{
    return key_len == 16 || key_len == 24 || key_len == 32 ? evp.aes[mode][key_len / 8 - 2] : NULL;
}

EVP_MAC *evp_hmac(void)
{
    return evp.hmac;
}

EVP_MAC *evp_cmac(void)
{
    return evp.cmac;
}

bool evp_kdf(const char *name, const OSSL_PARAM *params, uint8_t *out, size_t len)
{
    EVP_KDF *kdf = EVP_KDF_fetch(evp.context, name, NULL);
    SCOPED(EVP_KDF_CTX) context = EVP_KDF_CTX_new(kdf);
    EVP_KDF_free(kdf);
    return context != NULL && EVP_KDF_derive(context, out, len, params) > 0;
}

bool aes_wrap_run(enum aes_mode mode, bool encrypt, const uint8_t *key, size_t key_len, const uint8_t *iv,
                  const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len)
{
    SCOPED(EVP_CIPHER_CTX) context = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = aes_cipher(mode, key_len);
    if (context == NULL || cipher == NULL || in_len > INT32_MAX) {
        return false;
    }
    EVP_CIPHER_CTX_set_flags(context, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
    int written = 0;
    if (EVP_CipherInit_ex2(context, cipher, key, iv, encrypt, NULL) <= 0 ||
        EVP_CipherUpdate(context, out, &written, in, (int)in_len) <= 0 || written <= 0) {
        return false;
    }
    *out_len = (size_t)written;
    return true;
}

uint8_t *field_begin(const struct wire_writer *writer, size_t len)
{
    size_t left = writer->cap - writer->len;
    return left >= sizeof(uint32_t) && left - sizeof(uint32_t) >= len ? writer->data + writer->len + sizeof(uint32_t) : NULL;
}

void field_done(struct wire_writer *writer, size_t len)
{
    wire_set_u32(writer, writer->len, (uint32_t)len);
    writer->len += sizeof(uint32_t) + len;
}

uint64_t put_empty_field(struct wire_writer *writer)
{
    return wire_put_u32(writer, 0) == WIRE_OK ? CKR_OK : CKR_DEVICE_MEMORY;
}

uint64_t put_output(const uint8_t *data, size_t data_len, uint8_t *out, size_t *len)
{
    size_t room = *len;
    *len = data_len;
    RV_REQUIRE(data_len <= room, CKR_BUFFER_TOO_SMALL);
    if (data_len != 0) {
        memcpy(out, data, data_len);
    }
    return CKR_OK;
}
