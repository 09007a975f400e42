/* Timing profiles (DESIGN D13): how many operations with private keys this HSM does in a second, of each class from a bucket of
 * its own, so that a client meets the HSM that it plans for.
 *
 * A bucket that holds `rate` tokens a second and at most a tenth of a second's is one word: when it will be full again. To take
 * is one compare-and-swap, to refuse one load. An operation on an RSA-2048 or P-256 key takes one token; on a key of another size
 * as many as the cube of its length says, the cost of an exponentiation (docs/how-to/timing-profiles.md). */
#ifndef HSMSIM_THROTTLE_H
#define HSMSIM_THROTTLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define THROTTLE_BURST_NS UINT64_C(100000000)

struct throttle_bucket {
    uint64_t token_ns; /* 0: no limit */
    _Atomic uint64_t full_at;
};

enum throttle_class { THROTTLE_RSA, THROTTLE_EC, THROTTLE_CLASSES };

struct throttle {
    struct throttle_bucket buckets[THROTTLE_CLASSES];
};

/* per_second: of a class, 0: no limit. */
void throttle_init(struct throttle *throttle, const uint32_t per_second[THROTTLE_CLASSES]);
/* Takes cost_ns' worth at `now` (CLOCK_MONOTONIC). false: it is not there, and nothing is taken. */
bool throttle_take(struct throttle_bucket *bucket, uint64_t cost_ns, uint64_t now);
/* The same for an operation with this key; no limit on keys that are not private, nor without a throttle. */
bool throttle_allows(struct throttle *throttle, uint64_t object_class, uint64_t key_type, uint32_t bits);

#endif
