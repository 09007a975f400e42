/* CK_MECHANISM to struct wire_mechanism: the one place that reads a caller's mechanism parameters.
 *
 * Rules: every pointer and length is checked before it is followed. NULL with a length: CKR_ARGUMENTS_BAD; a length
 * or a value that the mechanism does not take: CKR_MECHANISM_PARAM_INVALID; a mechanism that this profile does not
 * offer for this function: CKR_MECHANISM_INVALID. The result views the caller's memory (and `room`), so it is good for
 * this call only; mechanism_keep copies what an operation needs into bytes that it owns. */
#ifndef HSMSIM_MECHANISM_H
#define HSMSIM_MECHANISM_H

#include "messages.h"
#include "pkcs11.h"
#include "tables.h"

enum {
    MECHANISM_ROOM = 4096,         /* the encoded segments of an SP 800-108 derivation */
    MECHANISM_MAX_BYTES = 1048576, /* the longest byte string in a parameter, additional data of GCM included */
    GCM_IV_MAX = 128,              /* the specification has 256, OpenSSL 3.0 stops here */
    GCM_HSM_IV = 12,               /* bytes of an IV that the HSM makes */
    MECHANISM_MAX_DATA = INT32_MAX, /* what any one call takes: a length near 2^32 is a mistake, not a message */
};

struct mechanism_room {
    uint8_t bytes[MECHANISM_ROOM];
};

/* The table's row if `profile` offers the mechanism for `function` (one CKF_ bit of CK_MECHANISM_INFO), else NULL. */
const struct mechanism_info *mechanism_offered(CK_MECHANISM_TYPE type, CK_FLAGS function, bool cloudhsm);

/* function: CKF_SIGN, CKF_WRAP, ...; room may be NULL for everything but CKF_DERIVE; info may be NULL. */
CK_RV mechanism_convert(const CK_MECHANISM *in, CK_FLAGS function, bool cloudhsm, struct mechanism_room *room,
                        struct wire_mechanism *out, const struct mechanism_info **info);

/* Where to write the IV that the HSM made for this (converted) mechanism: GCM_HSM_IV bytes; NULL: nowhere. */
CK_BYTE_PTR mechanism_iv_out(const CK_MECHANISM *in, const struct wire_mechanism *converted);

/* Bytes that the views of a mechanism take together. */
size_t mechanism_bytes(const struct wire_mechanism *mechanism);
/* Copies them to `bytes` and points the views there; not for derivations. */
void mechanism_keep(struct wire_mechanism *mechanism, uint8_t *bytes);

/* Local checks of C_SignInit and its kind. `usage` is the KEY_FACTS bit that the function needs. */
struct mechanism_key {
    uint64_t key_type;
    uint32_t bits;
    uint32_t usage;
    const uint64_t *allowed;
    uint32_t allowed_count;
};
CK_RV mechanism_fits_key(const struct mechanism_info *info, const struct mechanism_key *key, uint32_t usage);

/* Bytes of a signature or MAC under a key of `bits`. */
size_t mechanism_signature_size(const struct mechanism_info *info, const struct wire_mechanism *mechanism,
                                uint32_t bits);
/* The digest that the client makes before it sends the data: CKM_SHA256 and its kind; 0: the data goes as it is. */
CK_MECHANISM_TYPE mechanism_local_hash(const struct mechanism_info *info, const struct wire_mechanism *mechanism);
/* No C_SignUpdate and its kind. */
bool mechanism_single_part(const struct mechanism_info *info, const struct wire_mechanism *mechanism, bool cloudhsm);
/* The most data that one call takes in this profile. */
size_t mechanism_max_data(const struct mechanism_info *info, const struct wire_mechanism *mechanism, bool cloudhsm);

/* Bytes of the digest CKM_SHA_1, CKM_SHA224 ...; 0: not a digest. */
size_t hash_size(CK_MECHANISM_TYPE hash);

#endif
