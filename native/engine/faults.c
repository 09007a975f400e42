#include "faults.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <time.h>

#include "messages.h"
#include "tables.h"
#include "wire.h"
#include "words.h"

enum { CUT_CLIENTS = 1, CUT_PEERS = 2, PROFILE_PEER = 4, WORDS = 5, MILLION = 1000000, SLOW_MAX_US = 10 * MILLION };

struct faults {
    _Atomic int64_t slow_us, drop_ppm, cut, disk, clock_s;
};
_Static_assert(sizeof(struct faults) == WORDS * 8, "hsmsim/faults.py has the same words");

const struct faults *faults_map(const char *path)
{
    return (const struct faults *)words_map(path, WORDS);
}

static int64_t word(const _Atomic int64_t *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

int64_t faults_clock_s(const struct faults *faults)
{
    return faults == NULL ? 0 : word(&faults->clock_s);
}

static void wait_us(int64_t us)
{
    us = us > SLOW_MAX_US ? SLOW_MAX_US : us;
    struct timespec left = {us / MILLION, us % MILLION * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static bool lost_by_chance(int64_t drop_ppm)
{
    uint32_t drawn;
    return RAND_bytes((uint8_t *)&drawn, sizeof drawn) == 1 && drawn % MILLION < drop_ppm;
}

/* Who sent it, as far as the request tells: an HSM says so when it says HELLO. */
static int64_t sender(uint16_t op, const uint8_t *payload, size_t len)
{
    switch (op) {
    case WIRE_OP_PEER_HELLO:
    case WIRE_OP_PEER_PROVE:
    case WIRE_OP_PEER_SYNC:
    case WIRE_OP_PEER_BEAT:
    case WIRE_OP_JOIN: return CUT_PEERS;
    case WIRE_OP_HELLO: break;
    default: return CUT_CLIENTS;
    }
    struct wire_reader reader = wire_reader(payload, len);
    struct wire_hello_request hello;
    return wire_get_hello_request(&reader, &hello) == WIRE_OK && (hello.profile & PROFILE_PEER) != 0 ? CUT_PEERS : CUT_CLIENTS;
}

bool faults_strike(const struct faults *faults, uint16_t op, const uint8_t *payload, size_t len)
{
    if (faults == NULL || op == WIRE_OP_HSM_INFO) { /* the box still has its lights */
        return false;
    }
    int64_t slow = word(&faults->slow_us), drop = word(&faults->drop_ppm), cut = word(&faults->cut);
    if (slow > 0) {
        wait_us(slow);
    }
    return (cut != 0 && (sender(op, payload, len) & cut) != 0) || (drop > 0 && lost_by_chance(drop));
}
