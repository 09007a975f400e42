/* What signbench's contenders share: how one operation is done, and what it is done on. */
#ifndef HSMSIM_SIGNBENCH_H
#define HSMSIM_SIGNBENCH_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pkcs11.h"

enum { SIGNATURE_MAX = 1024, PLAINTEXT = 4096 };

/* `bits`: of the modulus, of the order; `curve`: NULL for RSA and AES. `input`: bytes handed to the operation: DigestInfo of SHA-256, the
 * digest, or a plaintext. */
struct kind {
    const char *name;
    CK_MECHANISM_TYPE mechanism;
    int bits;
    const char *curve;
    size_t input;
};

struct signer {
    bool (*sign)(struct signer *, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len);
    unsigned each; /* operations a call */
    CK_FUNCTION_LIST_PTR p11;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    CK_MECHANISM mechanism;
    CK_GCM_PARAMS gcm;
    EVP_PKEY_CTX *context;
    EVP_PKEY *pkey; /* for whole messages, with its context */
    EVP_MD_CTX *message;
    EVP_CIPHER_CTX *cipher;
    uint8_t iv[12];
    void *lanes; /* crypto_mb.c's own */
};

/* Says on stderr what failed; false. */
bool fail(const char *what, unsigned long code);

/* Eight operations a call by Intel's crypto_mb, called by itself: no check of the result, RSA-2048 and P-256 alone. */
bool open_crypto_mb(const struct kind *kind, struct signer *signer);

#endif
