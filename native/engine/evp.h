/* OpenSSL as the engine's cryptography uses it: a library context that no configuration file and no other user of
 * libcrypto in this process (SoftHSM2, Python) can change, algorithms fetched once, and guards. Private to ENGINE's
 * cryptographic files. */
#ifndef HSMSIM_EVP_H
#define HSMSIM_EVP_H

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rsa.h>

#include "crypto.h"
#include "pkcs11_values.h"
#include "tables.h"

#define RV_TRY(expression)                     \
    do {                                       \
        uint64_t rv_try_ = (expression);       \
        if (rv_try_ != CKR_OK) {               \
            return rv_try_;                    \
        }                                      \
    } while (0)
#define RV_REQUIRE(condition, rv) \
    do {                          \
        if (!(condition)) {       \
            return (rv);          \
        }                         \
    } while (0)

#define DEFINE_SCOPED(type, release)                        \
    static inline void scoped_##type##_release(type **held) \
    {                                                       \
        release(*held);                                     \
    }
#define SCOPED(type) __attribute__((cleanup(scoped_##type##_release))) type *
DEFINE_SCOPED(EVP_PKEY, EVP_PKEY_free)
DEFINE_SCOPED(EVP_PKEY_CTX, EVP_PKEY_CTX_free)
DEFINE_SCOPED(EVP_CIPHER_CTX, EVP_CIPHER_CTX_free)
DEFINE_SCOPED(EVP_MD_CTX, EVP_MD_CTX_free)
DEFINE_SCOPED(EVP_MAC_CTX, EVP_MAC_CTX_free)
DEFINE_SCOPED(EVP_KDF_CTX, EVP_KDF_CTX_free)
DEFINE_SCOPED(BIGNUM, BN_clear_free)
DEFINE_SCOPED(BN_CTX, BN_CTX_free)
DEFINE_SCOPED(EC_GROUP, EC_GROUP_free)
DEFINE_SCOPED(EC_POINT, EC_POINT_clear_free)

/* What OpenSSL reports stays ours: Python's ssl module reads the same per-thread queue. */
#define ERRORS_SCOPED __attribute__((cleanup(errors_release), unused)) int errors_marked_ = ERR_set_mark()
static inline void errors_release(const int *marked)
{
    if (*marked != 0) {
        (void)ERR_pop_to_mark();
    } else {
        ERR_clear_error(); /* a mark needs an entry to stand on: the queue was empty */
    }
}

struct hash {
    uint64_t mechanism; /* CKM_SHA256 */
    uint64_t hmac;      /* CKM_SHA256_HMAC */
    uint64_t mgf;       /* CKG_MGF1_SHA256 */
    uint64_t kdf;       /* CKD_SHA256_KDF */
    uint64_t vendor_kdf;
    const char *name;
    uint32_t size;
    EVP_MD *md;
};

enum aes_mode { AES_ECB, AES_CBC, AES_CTR, AES_GCM, AES_WRAP, AES_WRAP_PAD, AES_MODES };

/* false: OpenSSL cannot be used. Everything below needs it to have succeeded once (masking_new does). */
bool evp_start(void);
OSSL_LIB_CTX *evp_context(void);
const struct hash *hash_find(uint64_t mechanism); /* NULL: not one of SHA-1, SHA-2 */
const struct hash *hash_of_hmac(uint64_t mechanism);
const struct hash *hash_of_mgf(uint64_t mgf);
const struct hash *hash_of_kdf(uint64_t kdf); /* standard and CloudHSM's numbers; NULL for CKD_NULL */
const EVP_CIPHER *aes_cipher(enum aes_mode mode, size_t key_len); /* NULL: no AES key has that length */
EVP_MAC *evp_hmac(void);
EVP_MAC *evp_cmac(void);
/* HKDF, X963KDF or SCRYPT with these parameters. */
bool evp_kdf(const char *name, const OSSL_PARAM *params, uint8_t *out, size_t len);

/* One whole AES-WRAP or AES-WRAP-PAD call; iv NULL: the RFC's. *out_len: written; `out` has in_len + 16 bytes room. */
bool aes_wrap_run(enum aes_mode mode, bool encrypt, const uint8_t *key, size_t key_len, const uint8_t *iv,
                  const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len);

static inline OSSL_PARAM param_octets(const char *name, const void *data, size_t len)
{
    return OSSL_PARAM_construct_octet_string(name, (void *)(uintptr_t)data, len);
}
static inline OSSL_PARAM param_text(const char *name, const char *text)
{
    return OSSL_PARAM_construct_utf8_string(name, (char *)(uintptr_t)text, 0);
}

/* Room for a bytes field of at most `len`; NULL: the writer has not so much. Then field_done with the length used. */
uint8_t *field_begin(const struct wire_writer *writer, size_t len);
void field_done(struct wire_writer *writer, size_t len);
uint64_t put_empty_field(struct wire_writer *writer);

/* Copies to a he_ function's output. */
uint64_t put_output(const uint8_t *data, size_t data_len, uint8_t *out, size_t *len);

#endif
