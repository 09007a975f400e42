/* The bare library in a loop: what no HSM that computes with it can exceed. ECDSA's nonces are drawn as OpenSSL's generator gives them,
 * eight in one call, below the order because their top bit is clear: good enough for a benchmark, for no key that matters. */
#include <crypto_mb/cpu_features.h>
#include <crypto_mb/ec_nistp256.h>
#include <crypto_mb/rsa.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>

#include "signbench.h"

enum { LANES = 8, RSA_BITS = 2048, HALF = RSA_BITS / 64 / 2, P256 = 32, WORDS = 4, NUMBERS = 5 };

struct lanes {
    int64u numbers[NUMBERS][HALF]; /* p, q, dp, dq, q^-1 mod p */
    int64u scalar[WORDS], nonces[LANES][WORDS];
    int8u out[LANES][RSA_BITS / 8];
    int8u *buffer;
};

static bool number(const EVP_PKEY *key, const char *name, int64u *out, size_t size)
{
    BIGNUM *value = NULL;
    bool got = EVP_PKEY_get_bn_param(key, name, &value) == 1 && BN_bn2lebinpad(value, (unsigned char *)out, (int)size) > 0;
    BN_clear_free(value);
    return got || fail(name, 0);
}

static bool sign_rsa(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    struct lanes *lanes = s->lanes;
    uint8_t block[RSA_BITS / 8] = {0, 1}; /* RFC 8017 9.2 */
    const int8u *in[LANES];
    int8u *to[LANES];
    const int64u *numbers[NUMBERS][LANES];
    memset(block + 2, 0xff, sizeof block - 3 - len);
    memcpy(block + sizeof block - len, data, len);
    for (int i = 0; i < LANES; i++) {
        in[i] = block;
        to[i] = lanes->out[i];
        for (int n = 0; n < NUMBERS; n++) {
            numbers[n][i] = lanes->numbers[n];
        }
    }
    mbx_status status = mbx_rsa_private_crt_mb8(in, to, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], RSA_BITS,
                                                mbx_RSA_private_crt_Method(RSA_BITS), lanes->buffer);
    memcpy(out, to[0], sizeof block);
    *out_len = sizeof block;
    return status == MBX_STATUS_OK || fail("mbx_rsa_private_crt_mb8", status);
}

static bool sign_p256(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    struct lanes *lanes = s->lanes;
    int8u *r[LANES], *t[LANES];
    const int8u *message[LANES];
    const int64u *nonce[LANES], *key[LANES];
    (void)len;
    if (RAND_bytes((unsigned char *)lanes->nonces, sizeof lanes->nonces) != 1) {
        return fail("RAND_bytes", 0);
    }
    for (int i = 0; i < LANES; i++) {
        lanes->nonces[i][WORDS - 1] >>= 1;
        r[i] = lanes->out[i];
        t[i] = lanes->out[i] + P256;
        message[i] = data;
        nonce[i] = lanes->nonces[i];
        key[i] = lanes->scalar;
    }
    mbx_status status = mbx_nistp256_ecdsa_sign_mb8(r, t, message, nonce, key, NULL);
    memcpy(out, lanes->out[0], 2 * P256);
    *out_len = 2 * P256;
    return status == MBX_STATUS_OK || fail("mbx_nistp256_ecdsa_sign_mb8", status);
}

static bool read_rsa(const EVP_PKEY *key, struct lanes *lanes)
{
    static const char *const names[NUMBERS] = {OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2, OSSL_PKEY_PARAM_RSA_EXPONENT1,
                                               OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1};
    int size = mbx_RSA_Method_BufSize(mbx_RSA_private_crt_Method(RSA_BITS));
    lanes->buffer = aligned_alloc(64, ((size_t)size + 63) / 64 * 64);
    bool fine = lanes->buffer != NULL;
    for (int i = 0; i < NUMBERS && fine; i++) {
        fine = number(key, names[i], lanes->numbers[i], sizeof lanes->numbers[i]);
    }
    return fine;
}

bool open_crypto_mb(const struct kind *kind, struct signer *signer)
{
    bool rsa = strcmp(kind->name, "rsa2048") == 0;
    if ((!rsa && strcmp(kind->name, "p256") != 0) || mbx_is_crypto_mb_applicable(0) == 0) {
        return fail("--crypto-mb takes rsa2048 and p256, on a processor with AVX512-IFMA", 0);
    }
    struct lanes *lanes = calloc(1, sizeof *lanes);
    EVP_PKEY *key = rsa ? EVP_RSA_gen(RSA_BITS) : EVP_EC_gen(kind->curve);
    if (lanes == NULL || key == NULL) {
        return fail("no key for crypto_mb", 0);
    }
    signer->lanes = lanes;
    signer->each = LANES;
    signer->sign = rsa ? sign_rsa : sign_p256;
    return rsa ? read_rsa(key, lanes) : number(key, OSSL_PKEY_PARAM_PRIV_KEY, lanes->scalar, sizeof lanes->scalar);
}
