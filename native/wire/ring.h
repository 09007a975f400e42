/* The ring: shared memory beside a connection's socket, in which a client puts hot requests and finds their answers.
 *
 * The HSM makes a segment for a connection that asks (operation RING), seals its size, and passes it over the socket with
 * three more descriptors: the board, a page that the clients of one user read and the HSM alone writes; the beds, a page of
 * the words on which those clients sleep; and an eventfd, the bell. The socket stays open: it carries every other operation, and either side's end shows as its hang-up.
 *
 * A slot holds one request at a time, then its answer, both whole frames (wire.h) in the same bytes. A request:
 *
 *   client   frame := request; state := REQUEST; waiting |= bit (seq_cst)
 *            if board.ring (seq_cst): write the bell
 *            wait for ANSWER: spin a little, then seen := beds.woken[group]; REQUEST -> ASLEEP (or it is answered);
 *            FUTEX_WAIT_BITSET on woken[group] = seen with the bit of its place, a slice at a time, with a look at the
 *            socket in between. Or, to wait where descriptors are waited for: REQUEST -> PARKED; then the socket
 *   HSM      a worker that looks finds the bit, clears it and marks the slot busy in its own memory; copies the frame out,
 *            and from then on works on the copy; frame := answer; not busy; old := exchange(state, ANSWER);
 *            if old was ASLEEP: woken[group] += 1, FUTEX_WAKE_BITSET with the bits of all whom it answered: one system
 *            call for a batch, after which its clients run one after the other; if old was PARKED: one byte, RING_KNOCK,
 *            down the socket, which the client takes off before it uses the socket again
 *
 * No wake-up is lost between a client and the workers: a worker that goes to sleep stores board.ring := 1, then looks at
 * every `waiting` once more (both seq_cst). Either that look finds the bit, or the client's later load finds the 1. A worker
 * that is awake looks again before it sleeps, so a 0 that a client reads is always followed by a look. Nor between an
 * answer and its client: `seen` is older than ASLEEP, and woken changes after ASLEEP was found.
 *
 * CLOSED: the HSM has ended the connection; nothing put here is answered.
 *
 * What the other side may do: a client may write anything anywhere in its own segment at any time. It then gets wrong
 * answers, or none, or loses its connection; the HSM reads a frame once, bounded, and believes no state but its own. In the
 * beds a client can wait in others' places, and write what it likes: processes of the same user, which it may kill anyway, are
 * then woken for nothing, or notice their answer when they next look at the socket. The HSM reads nothing there. They are
 * writable because the kernel takes twice as long to find a futex in memory that may only be read. */
#ifndef HSMSIM_RING_H
#define HSMSIM_RING_H

#include <assert.h>
#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

enum {
    RING_LINE = 64, /* what a processor moves at once: two words that different sides write do not share one */
    RING_SLOTS = 16,
    RING_SLOT_SIZE = 8192 - RING_LINE, /* one slot and the segment's head fill two pages */
    RING_FRAME = RING_SLOT_SIZE - RING_LINE,
    RING_GROUPS = 8,
    RING_GROUP = 32, /* places: bits of a futex's set */
    RING_PLACES = RING_GROUPS * RING_GROUP,
    RING_KNOCK = 0x4B,
    RING_SLACK = 1024, /* an answer is at most this much longer than its request, but RANDOM's */
};

enum ring_state { RING_IDLE, RING_REQUEST, RING_ASLEEP, RING_ANSWER, RING_CLOSED, RING_PARKED };

struct ring_slot {
    alignas(RING_LINE) _Atomic uint32_t state; /* the client waits on it */
    alignas(RING_LINE) uint8_t frame[RING_FRAME];
};

struct ring_segment {
    alignas(RING_LINE) _Atomic uint32_t waiting; /* a bit for each slot with a request that nobody has taken */
    _Atomic uint32_t processor;                  /* where the client ran when it asked: a hint, see rings_take */
    struct ring_slot slots[];
};

struct ring_board {
    alignas(RING_LINE) _Atomic uint32_t ring; /* 1: no worker is looking; write the bell */
};

struct ring_beds {
    struct {
        alignas(RING_LINE) _Atomic uint32_t woken; /* how often clients with a place in this group were woken */
    } groups[RING_GROUPS];
};

static_assert(sizeof(struct ring_slot) == RING_SLOT_SIZE, "no padding");
static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock would be in one process only");

static inline size_t ring_size(uint32_t slots)
{
    return sizeof(struct ring_segment) + (size_t)slots * sizeof(struct ring_slot);
}

static inline void ring_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline uint64_t ring_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Not the private kind: the two sides are processes of their own. `until`: CLOCK_MONOTONIC. */
static inline void ring_futex_wait(const _Atomic uint32_t *word, uint32_t value, uint32_t bits, uint64_t until)
{
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &at, NULL, bits);
}

static inline void ring_futex_wake(_Atomic uint32_t *word, uint32_t bits)
{
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT32_MAX, NULL, NULL, bits);
}

/* ---- spinning that adapts -------------------------------------------------------------------------------------------
 * Whoever waits spins only where that has paid lately: a success is worth a credit, a failure costs two, and without
 * credit one wait in `interval` is a trial, ever rarer while they fail. On a busy machine that ends in no spinning. A spin
 * that loses its processor has failed, whatever it finds: the other side needed that processor. */

struct ring_spin {
    uint32_t credit, interval, since;
    uint64_t until, last; /* the spin under way */
};
enum {
    RING_CREDIT_MAX = 8,
    RING_TRIAL_MIN = 32,
    RING_TRIAL_MAX = 1024,
    RING_SPIN_NS = 30000,
    RING_SPIN_GAP_NS = 5000, /* a turn takes half a microsecond, unless somebody else runs */
    RING_SPIN_PAUSES = 16,
};

/* Whether to spin; if so, it has begun. */
static inline bool ring_spin_begin(struct ring_spin *spin)
{
    if (spin->credit == 0 && ++spin->since <= spin->interval) {
        return false;
    }
    spin->since = 0;
    spin->last = ring_now_ns();
    spin->until = spin->last + RING_SPIN_NS;
    return true;
}

/* A few pauses. false: enough. */
static inline bool ring_spin_turn(struct ring_spin *spin)
{
    for (int i = 0; i < RING_SPIN_PAUSES; i++) {
        ring_pause();
    }
    uint64_t now = ring_now_ns(), gap = now - spin->last;
    spin->last = now;
    if (gap > RING_SPIN_GAP_NS) {
        spin->until = 0;
    }
    return now < spin->until;
}

static inline void ring_spin_end(struct ring_spin *spin, bool found)
{
    if (found && spin->until != 0) {
        spin->credit += spin->credit < RING_CREDIT_MAX;
        spin->interval = RING_TRIAL_MIN;
        return;
    }
    if (spin->credit == 0) {
        uint32_t rarer = spin->interval < RING_TRIAL_MIN ? RING_TRIAL_MIN : spin->interval * 2;
        spin->interval = rarer > RING_TRIAL_MAX ? RING_TRIAL_MAX : rarer;
    }
    spin->credit = spin->credit < 2 ? 0 : spin->credit - 2;
}

#endif
