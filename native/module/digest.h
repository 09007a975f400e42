/* Digests in the client (DESIGN D3), by libcrypto in a library context of our own: the application's providers and
 * configuration, this module possibly among them, never take part. The context is made on first use and never freed:
 * libcrypto may be gone before our own destructors would run. */
#ifndef HSMSIM_DIGEST_H
#define HSMSIM_DIGEST_H

#include <openssl/types.h>

#include "pkcs11.h"

enum { DIGEST_MAX = 64 };

/* hash: CKM_SHA_1 and its kind. *context is made if it is NULL, else used again. */
CK_RV digest_begin(EVP_MD_CTX **context, CK_MECHANISM_TYPE hash);
CK_RV digest_update(EVP_MD_CTX *context, const void *data, size_t len);
CK_RV digest_end(EVP_MD_CTX *context, uint8_t out[DIGEST_MAX]);
void digest_free(EVP_MD_CTX *context);

#endif
