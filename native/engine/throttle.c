#include "throttle.h"

#include "pkcs11.h"
#include "ring.h"

enum { SECOND_NS = 1000000000, WORD = 32 };

/* Bits of the key that costs one token: what AWS publishes rates for. */
static const uint64_t one_token[THROTTLE_CLASSES] = {[THROTTLE_RSA] = 2048, [THROTTLE_EC] = 256};

void throttle_init(struct throttle *throttle, const uint32_t per_second[THROTTLE_CLASSES])
{
    for (int i = 0; i < THROTTLE_CLASSES; i++) {
        throttle->buckets[i].token_ns = per_second[i] == 0 ? 0 : SECOND_NS / per_second[i];
        atomic_init(&throttle->buckets[i].full_at, 0);
    }
}

bool throttle_take(struct throttle_bucket *bucket, uint64_t cost_ns, uint64_t now)
{
    uint64_t full_at = atomic_load_explicit(&bucket->full_at, memory_order_relaxed), then;
    do {
        then = (full_at > now ? full_at : now) + cost_ns;
        if (then - now > THROTTLE_BURST_NS) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&bucket->full_at, &full_at, then, memory_order_relaxed, memory_order_relaxed));
    return true;
}

static uint64_t cost_of(const struct throttle_bucket *bucket, uint64_t one, uint64_t bits)
{
    uint64_t words = (bits + WORD - 1) / WORD, fewest = one / WORD; /* bits would overflow */
    uint64_t cost = bucket->token_ns * (words * words * words) / (fewest * fewest * fewest);
    return cost < THROTTLE_BURST_NS ? cost : THROTTLE_BURST_NS; /* the dearest key finds a full bucket enough */
}

bool throttle_allows(struct throttle *throttle, uint64_t object_class, uint64_t key_type, uint32_t bits)
{
    enum throttle_class class = key_type == CKK_RSA                                  ? THROTTLE_RSA
                                : key_type == CKK_EC || key_type == CKK_EC_EDWARDS ? THROTTLE_EC
                                                                                     : THROTTLE_CLASSES;
    if (throttle == NULL || object_class != CKO_PRIVATE_KEY || class == THROTTLE_CLASSES) {
        return true;
    }
    struct throttle_bucket *bucket = &throttle->buckets[class];
    return bucket->token_ns == 0 || throttle_take(bucket, cost_of(bucket, one_token[class], bits), ring_now_ns());
}
