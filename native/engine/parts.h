/* A key as its numbers: what PKCS#8, attribute templates and OpenSSL's keys are all converted through. */
#ifndef HSMSIM_PARTS_H
#define HSMSIM_PARTS_H

#include "der.h"
#include "evp.h"

struct curve {
    const char *name;   /* OpenSSL's; NULL: Ed25519 */
    uint8_t params[11]; /* DER EC_PARAMS: the OID with its header */
    uint8_t params_len;
    uint16_t bits;
    uint8_t size; /* bytes of the field and of the order, which are the same for all of ours */
};
const struct curve *curve_of_params(const uint8_t *der, size_t len); /* NULL: not ours */
const struct curve *curve_of_name(const char *name);
extern const struct curve curve_ed25519;

enum {
    RSA_N,
    RSA_E,
    RSA_D,
    RSA_P,
    RSA_Q,
    RSA_DP,
    RSA_DQ,
    RSA_QI,
    RSA_PARTS,
    EC_D = 0, /* EC: big-endian scalar; Ed25519: the seed */
    EC_Q = 1, /* EC: uncompressed point; Ed25519: 32 bytes; may be missing with EC_D */
};

/* Views of big-endian numbers; what they point to outlives them. Absent: {NULL, 0}. */
struct key_parts {
    uint64_t key_type; /* CKK_RSA, CKK_EC, CKK_EC_EDWARDS */
    const struct curve *curve;
    struct wire_bytes part[RSA_PARTS];
};

/* Strict DER, named curves only, nothing left over but SoftHSM2's zeros. false: not a private key of ours. */
bool parts_of_pkcs8(const uint8_t *der, size_t len, struct key_parts *out);
/* Canonical: RSA with all numbers, EC with fixed-width scalar and public point. */
uint64_t parts_to_pkcs8(const struct key_parts *parts, struct secret *out);
/* Private if it has RSA_D or EC_D, else public. A missing EC_Q is computed. NULL: they make no key. */
EVP_PKEY *parts_to_pkey(const struct key_parts *parts);
/* The numbers of a key, kept in `room`. */
uint64_t parts_of_pkey(EVP_PKEY *pkey, bool private, struct secret *room, struct key_parts *out);

/* The point from raw or DER OCTET STRING form (both are sent as CKA_EC_POINT and as pPublicData). false: wrong length. */
bool point_view(const struct curve *curve, struct wire_bytes in, struct wire_bytes *out);
/* Uncompressed point of scalar * G. */
bool curve_multiply(const struct curve *curve, struct wire_bytes scalar, uint8_t *out, size_t *len);

#endif
