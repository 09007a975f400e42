/* A signature between the request and the arithmetic: sign.c plans it, OpenSSL or a lane (batch.c) computes it. */
#ifndef HSMSIM_SIGNING_H
#define HSMSIM_SIGNING_H

#include "object.h"

enum purpose { SIGN, VERIFY, RECOVER };

struct job {
    struct crypto_worker *worker;
    const struct key_object *key;
    const struct wire_mechanism *mechanism;
    const struct mechanism_info *info;
    enum purpose purpose;
    bool digested;
    struct wire_bytes data;
    struct recipe recipe;
    struct wire_bytes input; /* of the algorithm: data, its digest, or a padded block */
    uint8_t digest[EVP_MAX_MD_SIZE];
};

/* Checks mechanism, parameters and lengths of an RSA or ECDSA job, and sets recipe and input. */
uint64_t sign_plan(struct job *job);

/* emsa.c: the block of the modulus' length that RSA's private operation takes (RFC 8017 8.1.1, 8.2.1). */
bool emsa_encode(const struct job *job, uint8_t *block);

#endif
