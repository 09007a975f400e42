/* The HSM's end of every ring (wire/ring.h has the protocol): segments, who looks at them, requests taken, answers put.
 *
 * One lock guards the table of open rings and how many workers look or sleep; it is held for a pass over the `waiting`
 * words, never while something is copied or computed. A ring lives while the table, a taken request or an answer that
 * Python owes refers to it; it is mapped until then, so that nobody needs to ask whether it is still there. */
#ifndef HSMSIM_RINGS_H
#define HSMSIM_RINGS_H

#include "messages.h"
#include "rights.h"
#include "ring.h"

enum { RING_BATCH = 8, RING_FDS = 4 };

struct connection;
struct rings;
struct ring;

/* Whose ring it is. */
struct ring_owner {
    struct connection *connection;
    uint32_t generation;
    int32_t pid;
    uint32_t uid;
    int socket; /* the ring keeps a descriptor of its own */
};

/* A request, taken out of shared memory whole: nothing here changes any more. */
struct ring_request {
    struct ring *ring; /* with a reference */
    uint32_t slot;
    bool sound; /* the frame's header fits the slot */
    struct wire_header header;
    uint8_t payload[RING_FRAME];
};

/* What a worker remembers between its looks. */
struct ring_watch {
    bool watching;
    bool together; /* what it took last was computed together: it takes as much as it can hold */
    bool dear;     /* and took so long that an interrupt for each client more is little */
    uint64_t moved; /* when it last looked for a processor of its own */
    struct ring_spin spin;
};

/* `epoll`: where the workers sleep; an event with the tag `bell` means no more than "look". NULL: no memory. */
struct rings *rings_new(struct rights *rights, uint32_t workers, int epoll, uint64_t bell);

/* A ring of so many slots, 1 to RING_SLOTS. `fds`: segment, board, beds, bell, the caller's to send; it closes the first.
 * CKR_DEVICE_MEMORY: enough rings, or a kernel that cannot seal a page against its readers. */
uint64_t ring_open(struct rings *rings, const struct ring_owner *owner, const struct client *client, uint32_t slots,
                   struct ring **out, int fds[RING_FDS]);
/* Nothing is taken from it any more; whoever waits on it is told. Gives the opener's reference back. */
void ring_close(struct ring *ring);
struct ring *ring_hold(struct ring *ring);
void ring_release(struct ring *ring);
const struct ring_owner *ring_owner(const struct ring *ring);
struct client *ring_client(const struct ring *ring);
uint32_t ring_place(const struct ring *ring); /* on its board */

/* Whatever is waiting is one batch: takes this worker's share of it, or all that it can hold where that has paid (`together`), at
 * most RING_BATCH requests of any clients, and wakes a sleeping worker for the rest. A worker that gets some no longer counts as looking. */
uint32_t rings_take(struct rings *rings, struct ring_watch *watch, struct ring_request *out);
/* From here on the worker counts as looking: clients need not ring. */
void rings_watch(struct rings *rings, struct ring_watch *watch);
void rings_unwatch(struct rings *rings, struct ring_watch *watch);
/* Looks for a while, if that has paid lately and nobody else does; true: there is something to take. */
bool rings_spin(struct rings *rings, struct ring_watch *watch);
/* Before and after the worker waits in epoll. false: there is something to take, do not wait. */
bool rings_sleep(struct rings *rings, struct ring_watch *watch);
void rings_awake(struct rings *rings);

/* Clients to be woken together: see ring_wake_all. Their rings are held until then. */
struct ring_wakes {
    uint32_t count;
    struct {
        _Atomic uint32_t *woken;
        uint32_t bits;
    } groups[RING_BATCH];
};

/* Puts an answer, a whole frame of at most RING_FRAME bytes, where its request was. A client that sleeps is noted in `wakes`,
 * which has room for a batch; at one that is parked it knocks. */
void ring_answer(struct ring *ring, uint32_t slot, const uint8_t *frame, size_t len, struct ring_wakes *wakes);
void ring_wake_all(struct ring_wakes *wakes);

uint32_t rings_count(struct rings *rings);

#endif
