/* C_Digest and its kind, and the digests of hashed signature mechanisms. */
#include "digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>

static const struct {
    CK_MECHANISM_TYPE hash;
    const char *name;
} names[] = {
    {CKM_SHA_1, "SHA1"},     {CKM_SHA224, "SHA2-224"}, {CKM_SHA256, "SHA2-256"},
    {CKM_SHA384, "SHA2-384"}, {CKM_SHA512, "SHA2-512"},
};
enum { HASH_COUNT = sizeof names / sizeof *names };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_MD *algorithms[HASH_COUNT];

static void fetch_all(void)
{
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    for (size_t i = 0; library != NULL && i < HASH_COUNT; i++) {
        algorithms[i] = EVP_MD_fetch(library, names[i].name, NULL);
    }
}

static const EVP_MD *algorithm(CK_MECHANISM_TYPE hash)
{
    (void)pthread_once(&once, fetch_all);
    for (size_t i = 0; i < HASH_COUNT; i++) {
        if (names[i].hash == hash) {
            return algorithms[i];
        }
    }
    return NULL;
}

CK_RV digest_begin(EVP_MD_CTX **context, CK_MECHANISM_TYPE hash)
{
    const EVP_MD *md = algorithm(hash);
    if (*context == NULL) {
        *context = EVP_MD_CTX_new();
    }
    if (*context == NULL) {
        return CKR_HOST_MEMORY;
    }
    return md != NULL && EVP_DigestInit_ex(*context, md, NULL) == 1 ? CKR_OK : CKR_GENERAL_ERROR;
}

CK_RV digest_update(EVP_MD_CTX *context, const void *data, size_t len)
{
    return len == 0 || EVP_DigestUpdate(context, data, len) == 1 ? CKR_OK : CKR_GENERAL_ERROR;
}

CK_RV digest_end(EVP_MD_CTX *context, uint8_t out[DIGEST_MAX])
{
    return EVP_DigestFinal_ex(context, out, NULL) == 1 ? CKR_OK : CKR_GENERAL_ERROR;
}

void digest_free(EVP_MD_CTX *context)
{
    EVP_MD_CTX_free(context);
}
