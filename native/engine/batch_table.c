/* What a batch and what one operation of OpenSSL's take here, in this thread's processor time: other programs that run meanwhile
 * change little. No key is generated but on curves: for RSA the two exponentiations stand for the operation. */
#include <time.h>

#include "batch.h"
#include "evp.h"

enum { ROUNDS = 3, ROUNDS_IN_LANES = 2, MESSAGE = 32, NEVER = LANES + 1 };

static const char *const curves[LANE_KINDS] = {[LANE_P256] = "prime256v1", [LANE_P384] = "secp384r1", [LANE_P521] = "secp521r1"};

static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Of one run; UINT64_MAX: refused, so what it took says nothing. */
static uint64_t time_lanes(struct lane_room *room, const struct lane_key *key)
{
    static const uint8_t message[LANE_BLOCK] = {0, 1}; /* below every modulus and order; the library refuses a digest of zeros */
    struct lane lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        lanes[i] = (struct lane){.key = key, .in = message, .in_len = MESSAGE};
    }
    uint64_t start = thread_ns();
    lanes_run(room, key->kind, lanes, LANES);
    uint64_t took = thread_ns() - start;
    return lanes[0].done || key->kind <= LANE_RSA4096 ? took : UINT64_MAX;
}

/* With the stack where it is quickest; there it stays. */
static uint64_t cost_in_lanes(struct lane_room *room, enum lane_kind kind)
{
    struct lane_key key;
    uint64_t best = UINT64_MAX;
    unsigned at = 0;
    if (!lane_key_random(kind, &key)) {
        return best;
    }
    for (unsigned i = 0; i < ROUNDS_IN_LANES * LANE_STACK_PLACES; i++) {
        unsigned place = i % LANE_STACK_PLACES;
        lanes_begin_stack(kind, place);
        uint64_t took = time_lanes(room, &key);
        if (took < best) {
            best = took;
            at = place;
        }
    }
    lanes_begin_stack(kind, at);
    lane_key_free(&key);
    return best;
}

/* As RSA with two primes does it (rsa_ossl_mod_exp, crypto/rsa/rsa_ossl.c). */
static uint64_t cost_of_rsa(enum lane_kind kind)
{
    int bits = (int)lane_width(kind) * 8 / 2;
    SCOPED(BN_CTX) context = BN_CTX_new_ex(evp_context());
    SCOPED(BIGNUM) base = BN_new();
    SCOPED(BIGNUM) exponent = BN_new();
    SCOPED(BIGNUM) modulus = BN_new();
    SCOPED(BIGNUM) one = BN_new();
    SCOPED(BIGNUM) other = BN_new();
    BN_MONT_CTX *montgomery = BN_MONT_CTX_new();
    uint64_t best = UINT64_MAX;
    bool fine = context != NULL && base != NULL && exponent != NULL && modulus != NULL && one != NULL && other != NULL &&
                montgomery != NULL && BN_rand(modulus, bits, BN_RAND_TOP_TWO, BN_RAND_BOTTOM_ODD) &&
                BN_rand(exponent, bits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) && BN_rand_range(base, modulus) &&
                BN_MONT_CTX_set(montgomery, modulus, context);
    for (int round = 0; round < ROUNDS && fine; round++) {
        uint64_t start = thread_ns();
        fine = BN_mod_exp_mont_consttime_x2(one, base, exponent, modulus, montgomery, other, base, exponent, modulus, montgomery,
                                            context) > 0;
        uint64_t took = thread_ns() - start;
        best = took < best ? took : best;
    }
    BN_MONT_CTX_free(montgomery);
    return fine ? best : UINT64_MAX;
}

static uint64_t cost_on_curve(const char *curve)
{
    static const uint8_t digest[MESSAGE];
    SCOPED(EVP_PKEY) pkey = curve != NULL ? EVP_PKEY_Q_keygen(evp_context(), NULL, "EC", curve)
                                          : EVP_PKEY_Q_keygen(evp_context(), NULL, "ED25519");
    SCOPED(EVP_PKEY_CTX) context = curve != NULL ? EVP_PKEY_CTX_new_from_pkey(evp_context(), pkey, NULL) : NULL;
    SCOPED(EVP_MD_CTX) message = EVP_MD_CTX_new();
    uint8_t out[160];
    uint64_t best = UINT64_MAX;
    bool fine = pkey != NULL && message != NULL && (curve == NULL || (context != NULL && EVP_PKEY_sign_init(context) > 0));
    for (int round = 0; round < ROUNDS && fine; round++) {
        size_t len = sizeof out;
        uint64_t start = thread_ns();
        fine = curve != NULL ? EVP_PKEY_sign(context, out, &len, digest, sizeof digest) > 0
                             : EVP_DigestSignInit_ex(message, NULL, NULL, evp_context(), NULL, pkey, NULL) > 0 &&
                                   EVP_DigestSign(message, out, &len, digest, sizeof digest) > 0;
        uint64_t took = thread_ns() - start;
        best = took < best ? took : best;
        EVP_MD_CTX_reset(message);
    }
    return fine ? best : UINT64_MAX;
}

void batch_table_init(struct batch_table *table)
{
    for (int kind = 0; kind < LANE_KINDS; kind++) {
        atomic_init(&table->from[kind], NEVER);
    }
}

void batch_table_measure(struct batch_table *table, const _Atomic bool *stop)
{
    ERRORS_SCOPED;
    struct lane_room *room = lane_room_new();
    for (int kind = LANE_NONE + 1; kind < LANE_KINDS && room != NULL && !atomic_load(stop); kind++) {
        uint64_t batch = cost_in_lanes(room, (enum lane_kind)kind);
        uint64_t alone = kind <= LANE_RSA4096 ? cost_of_rsa((enum lane_kind)kind) : cost_on_curve(curves[kind]);
        bool known = batch != UINT64_MAX && alone != UINT64_MAX && alone != 0;
        uint64_t from = known ? batch / alone + 1 : NEVER;
        atomic_store_explicit(&table->from[kind], from < NEVER ? (uint32_t)from : NEVER, memory_order_relaxed);
    }
    lane_room_free(room);
}
