/* Eight private-key operations side by side, by Intel's crypto_mb: each lane has a key, an input and a result of its own, and
 * what goes wrong in one changes none of the others. Built in where the library is found (x86-64); whether it can be used is
 * asked of the processor at run time (AVX512-IFMA).
 *
 * RSA results are checked with the public exponent here, before anybody sees them. ECDSA's nonces are made here. */
#ifndef HSMSIM_LANES_H
#define HSMSIM_LANES_H

#include "memory.h"

enum { LANES = 8, LANE_BLOCK = 512 /* the largest modulus */, LANE_STACK_PLACES = 4 };

enum lane_kind { LANE_NONE, LANE_RSA2048, LANE_RSA3072, LANE_RSA4096, LANE_P256, LANE_P384, LANE_P521, LANE_ED25519, LANE_KINDS };

/* A private key as the library reads it, made with its key object and wiped with it. RSA: p, q, dp, dq, q^-1 mod p, n; ECDSA:
 * the scalar; all as little-endian words. Ed25519: seed and public key. */
struct lane_key {
    enum lane_kind kind; /* LANE_NONE: this key goes alone */
    struct secret numbers;
};

/* RSA: `in` is a block of the modulus' length and below it, `out` another. ECDSA: `in` is a number of the order's length, big
 * endian (FIPS 186-5 6.4.1: the leftmost bits of the digest), `out` r and s. Ed25519: `in` is the message, of `in_len`. */
struct lane {
    const struct lane_key *key;
    const uint8_t *in;
    uint32_t in_len;
    uint8_t out[LANE_BLOCK];
    bool done; /* the result is there and is right; false: do it some other way */
};

struct key_object;

/* What a thread computes with; locked, wiped when freed. NULL: no memory, or no lanes on this machine. */
struct lane_room;
struct lane_room *lane_room_new(void);
void lane_room_free(struct lane_room *room);

bool lanes_there(void);
/* The numbers of a private key of a kind that has lanes; else LANE_NONE. Two primes, p > q, public exponent 65537 for RSA: what
 * every generator makes; others go alone. */
struct lane_key lane_key_of(const struct key_object *key);
void lane_key_free(struct lane_key *key);
/* 1 to LANES lanes, all of this kind. */
void lanes_run(struct lane_room *room, enum lane_kind kind, struct lane *lanes, unsigned count);
/* Where from now on the library's stack begins when it runs this kind, of LANE_STACK_PLACES: a matter of speed alone. */
void lanes_begin_stack(enum lane_kind kind, unsigned place);
/* A key of random numbers, to measure with: lanes with an RSA key of that sort are never `done`. */
bool lane_key_random(enum lane_kind kind, struct lane_key *out);
/* Bytes of a block or a number of `in`. */
uint32_t lane_width(enum lane_kind kind);

/* Whether the big-endian number of the modulus' length is below it. */
bool lane_below_modulus(const struct lane_key *key, const uint8_t *number);

#endif
