#include "rings.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "pkcs11.h"

enum {
    RINGS_MAX = 256, /* every look passes them all */
    BOARDS_MAX = 16, /* users with rings at a time */
    PROCESSORS = 256, /* on those above, clients belong to nobody's worker */
    LATELY_NS = 200000,
    SETTLED_NS = 10000000,
    SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
};

/* Two pages for the clients of one user, who may kill each other anyway: whoever waits there at the wrong place, or writes to the
 * beds, harms no other user. */
struct board {
    struct ring_board *shared; /* NULL: free */
    struct ring_beds *beds;
    int fd, beds_fd;
    uint32_t uid, rings;
    uint32_t taken[RING_GROUPS]; /* places */
};

struct ring {
    struct rings *rings;
    struct ring_owner owner;
    struct board *board;
    uint32_t place;
    struct client *client;
    struct ring_segment *segment;
    uint32_t slots;
    int bell;
    uint32_t index; /* in the table */
    _Atomic uint32_t references;
    _Atomic uint32_t busy; /* slots that a worker or Python works for: what a client writes there changes nothing */
};

struct rings {
    struct rights *rights;
    int epoll, call; /* call: an eventfd of our own, for one worker to wake another */
    uint64_t bell;
    pthread_mutex_t lock;
    struct board boards[BOARDS_MAX];
    struct ring *table[RINGS_MAX];
    uint32_t count, next; /* next: where the coming pass begins, so that all get their turn */
    struct {
        uint64_t when;
        const struct ring_watch *who;
    } looked[PROCESSORS]; /* the last worker's look there */
    uint32_t workers, looking, asleep;
    bool ringing; /* what the boards say */
};

static void *map(int fd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Memory with a descriptor to pass on, whose size nobody can change; NULL: none to be had. */
static void *shared_memory(const char *name, size_t size, int seals, int *fd)
{
    *fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *memory = *fd < 0 || ftruncate(*fd, (off_t)size) != 0 ? NULL : map(*fd, size);
    if (memory != NULL && fcntl(*fd, F_ADD_SEALS, seals) != 0) {
        munmap(memory, size);
        memory = NULL;
    }
    if (memory == NULL && *fd >= 0) {
        close(*fd);
    }
    return memory;
}

/* An edge at every write, so that nobody needs to read it: a client that fills its counter silences its own bell. */
static int make_bell(const struct rings *rings)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = rings->bell};
    if (fd >= 0 && epoll_ctl(rings->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

struct rings *rings_new(struct rights *rights, uint32_t workers, int epoll, uint64_t bell)
{
    struct rings *rings = calloc(1, sizeof *rings);
    if (rings == NULL) {
        return NULL;
    }
    rings->rights = rights;
    rings->workers = workers;
    rings->epoll = epoll;
    rings->bell = bell;
    rings->call = make_bell(rings);
    if (rings->call < 0) {
        free(rings);
        return NULL;
    }
    pthread_mutex_init(&rings->lock, NULL);
    return rings;
}

/* ---- rings come and go ------------------------------------------------------------------------------------------ */

static void drop_board(struct board *board)
{
    munmap(board->shared, sizeof *board->shared);
    close(board->fd);
    board->shared = NULL;
}

static void make_board(struct board *board, bool ringing)
{
    board->shared = shared_memory("hsmsim-board", sizeof *board->shared, SEALS | F_SEAL_FUTURE_WRITE, &board->fd);
    if (board->shared == NULL) {
        return;
    }
    board->beds = shared_memory("hsmsim-beds", sizeof *board->beds, SEALS, &board->beds_fd);
    if (board->beds == NULL) {
        drop_board(board);
        return;
    }
    atomic_store_explicit(&board->shared->ring, ringing, memory_order_seq_cst);
}

/* The lock is held. NULL: enough users. */
static struct board *board_of(struct rings *rings, uint32_t uid)
{
    struct board *free = NULL;
    for (int i = 0; i < BOARDS_MAX; i++) {
        struct board *board = &rings->boards[i];
        if (board->shared != NULL && board->uid == uid) {
            return board;
        }
        free = board->shared == NULL ? board : free;
    }
    if (free != NULL) {
        *free = (struct board){.uid = uid};
        make_board(free, rings->ringing);
    }
    return free == NULL || free->shared == NULL ? NULL : free;
}

static bool take_place(struct ring *ring, struct board *board)
{
    for (uint32_t group = 0; group < RING_GROUPS; group++) {
        if (board->taken[group] != UINT32_MAX) {
            uint32_t bit = (uint32_t)__builtin_ctz(~board->taken[group]);
            board->taken[group] |= 1u << bit;
            board->rings++;
            ring->board = board;
            ring->place = group * RING_GROUP + bit;
            return true;
        }
    }
    return false;
}

static void leave_place(struct ring *ring)
{
    struct board *board = ring->board;
    pthread_mutex_lock(&ring->rings->lock);
    board->taken[ring->place / RING_GROUP] &= ~(1u << ring->place % RING_GROUP);
    if (--board->rings == 0) {
        munmap(board->beds, sizeof *board->beds);
        close(board->beds_fd);
        drop_board(board);
    }
    pthread_mutex_unlock(&ring->rings->lock);
}

/* As with connections: a user may have as many as are left for others; root and the HSMs' own user have all. */
static bool room_for(const struct rings *rings, const struct board *board)
{
    return board->uid == 0 || board->uid == geteuid() || board->rings < RINGS_MAX - rings->count;
}

static bool enter(struct ring *ring)
{
    struct rings *rings = ring->rings;
    pthread_mutex_lock(&rings->lock);
    struct board *board = rings->count < RINGS_MAX ? board_of(rings, ring->owner.uid) : NULL;
    bool room = board != NULL && room_for(rings, board) && take_place(ring, board);
    if (room) {
        ring->index = rings->count;
        rings->table[rings->count++] = ring;
    }
    pthread_mutex_unlock(&rings->lock);
    return room;
}

uint64_t ring_open(struct rings *rings, const struct ring_owner *owner, const struct client *client, uint32_t slots,
                   struct ring **out, int fds[RING_FDS])
{
    if (slots == 0 || slots > RING_SLOTS) {
        return CKR_ARGUMENTS_BAD;
    }
    struct ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) {
        return CKR_DEVICE_MEMORY;
    }
    *ring = (struct ring){.rings = rings, .owner = *owner, .slots = slots, .references = 1, .bell = make_bell(rings)};
    ring->segment = shared_memory("hsmsim-ring", ring_size(slots), SEALS, &fds[0]);
    ring->client = rights_client_hold(rings->rights, client->id);
    ring->owner.socket = fcntl(owner->socket, F_DUPFD_CLOEXEC, 0);
    if (ring->owner.socket < 0 || ring->bell < 0 || ring->segment == NULL || ring->client == NULL || !enter(ring)) {
        if (ring->segment != NULL) {
            close(fds[0]);
        }
        ring_release(ring);
        return CKR_DEVICE_MEMORY;
    }
    fds[1] = ring->board->fd;
    fds[2] = ring->board->beds_fd;
    fds[3] = ring->bell;
    *out = ring;
    return CKR_OK;
}

struct ring *ring_hold(struct ring *ring)
{
    atomic_fetch_add_explicit(&ring->references, 1, memory_order_relaxed);
    return ring;
}

void ring_release(struct ring *ring)
{
    if (atomic_fetch_sub_explicit(&ring->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    if (ring->board != NULL) {
        leave_place(ring);
    }
    if (ring->bell >= 0) {
        epoll_ctl(ring->rings->epoll, EPOLL_CTL_DEL, ring->bell, NULL); /* closing is not enough: the client has it, too */
        close(ring->bell);
    }
    if (ring->owner.socket >= 0) {
        close(ring->owner.socket);
    }
    if (ring->segment != NULL) {
        munmap(ring->segment, ring_size(ring->slots));
    }
    if (ring->client != NULL) {
        rights_client_release(ring->rings->rights, ring->client);
    }
    free(ring);
}

static void note(struct ring_wakes *wakes, const struct ring *ring)
{
    _Atomic uint32_t *woken = &ring->board->beds->groups[ring->place / RING_GROUP].woken;
    uint32_t at = 0;
    while (at < wakes->count && wakes->groups[at].woken != woken) {
        at++;
    }
    if (at == wakes->count) {
        wakes->count++;
        wakes->groups[at].woken = woken;
        wakes->groups[at].bits = 0;
    }
    wakes->groups[at].bits |= 1u << ring->place % RING_GROUP;
}

void ring_wake_all(struct ring_wakes *wakes)
{
    for (uint32_t i = 0; i < wakes->count; i++) {
        atomic_fetch_add_explicit(wakes->groups[i].woken, 1, memory_order_release);
        ring_futex_wake(wakes->groups[i].woken, wakes->groups[i].bits);
    }
    wakes->count = 0;
}

void ring_close(struct ring *ring)
{
    struct rings *rings = ring->rings;
    pthread_mutex_lock(&rings->lock);
    struct ring *last = rings->table[--rings->count];
    rings->table[ring->index] = last;
    last->index = ring->index;
    pthread_mutex_unlock(&rings->lock);
    struct ring_wakes wakes = {0};
    for (uint32_t i = 0; i < ring->slots; i++) {
        atomic_store_explicit(&ring->segment->slots[i].state, RING_CLOSED, memory_order_seq_cst);
    }
    note(&wakes, ring);
    ring_wake_all(&wakes);
    shutdown(ring->owner.socket, SHUT_RDWR); /* the connection's own descriptor goes; the hang-up does not wait for ours */
    ring_release(ring);
}

const struct ring_owner *ring_owner(const struct ring *ring)
{
    return &ring->owner;
}

struct client *ring_client(const struct ring *ring)
{
    return ring->client;
}

uint32_t ring_place(const struct ring *ring)
{
    return ring->place;
}

uint32_t rings_count(struct rings *rings)
{
    pthread_mutex_lock(&rings->lock);
    uint32_t count = rings->count;
    pthread_mutex_unlock(&rings->lock);
    return count;
}

/* ---- who looks, who sleeps; the lock is held -------------------------------------------------------------------- */

/* Clients ring when a worker sleeps and none looks. With all of them at work each looks again when it is done. */
static bool set_sign(struct rings *rings)
{
    bool ring = rings->asleep != 0 && rings->looking == 0;
    bool rises = ring && !rings->ringing;
    for (int i = 0; i < BOARDS_MAX && ring != rings->ringing; i++) {
        if (rings->boards[i].shared != NULL) {
            atomic_store_explicit(&rings->boards[i].shared->ring, ring, memory_order_seq_cst);
        }
    }
    rings->ringing = ring;
    return rises;
}

static uint32_t waiting(const struct ring *ring)
{
    uint32_t asked = atomic_load_explicit(&ring->segment->waiting, memory_order_seq_cst);
    uint32_t slots = (uint32_t)(((uint64_t)1 << ring->slots) - 1);
    return asked & slots & ~atomic_load_explicit(&ring->busy, memory_order_acquire);
}

static bool some_waiting(const struct rings *rings)
{
    for (uint32_t i = 0; i < rings->count; i++) {
        if (waiting(rings->table[i]) != 0) {
            return true;
        }
    }
    return false;
}

/* A worker's part of what waits: a batch in one pair of hands leaves the others idle. */
static uint32_t share(const struct rings *rings)
{
    uint32_t all = 0;
    for (uint32_t i = 0; i < rings->count; i++) {
        all += (uint32_t)__builtin_popcount(waiting(rings->table[i]));
    }
    uint32_t part = (all + rings->workers - 1) / rings->workers;
    return part < RING_BATCH ? part : RING_BATCH;
}

static void look_away(struct rings *rings, struct ring_watch *watch)
{
    rings->looking -= watch->watching;
    watch->watching = false;
}

static void call_worker(const struct rings *rings)
{
    const uint64_t one = 1;
    if (write(rings->call, &one, sizeof one) < 0) {
        return; /* its counter is full: whoever sleeps has been called */
    }
}

/* ---- taking -------------------------------------------------------------------------------------------------------- */

static uint32_t claim(struct ring *ring, struct ring_request *out, uint32_t room)
{
    uint32_t count = 0;
    for (uint32_t bits = waiting(ring); bits != 0 && count < room; bits &= bits - 1) {
        uint32_t slot = (uint32_t)__builtin_ctz(bits);
        atomic_fetch_and_explicit(&ring->segment->waiting, ~(1u << slot), memory_order_acquire);
        atomic_fetch_or_explicit(&ring->busy, 1u << slot, memory_order_relaxed);
        out[count].ring = ring_hold(ring);
        out[count].slot = slot;
        count++;
    }
    return count;
}

/* The one read of a request. The fence keeps the compiler from reading shared memory again where the copy is meant. */
static void copy_out(struct ring_request *request)
{
    const uint8_t *frame = request->ring->segment->slots[request->slot].frame;
    uint8_t raw[WIRE_HEADER_SIZE];
    memcpy(raw, frame, sizeof raw);
    atomic_signal_fence(memory_order_seq_cst);
    request->sound = wire_get_header(raw, &request->header) == WIRE_OK && request->header.length <= RING_FRAME - WIRE_HEADER_SIZE;
    if (request->sound) {
        memcpy(request->payload, frame + WIRE_HEADER_SIZE, request->header.length);
        atomic_signal_fence(memory_order_seq_cst);
    }
}

/* Of a client here, or of one where no worker has looked since then. */
static bool left_to(const struct rings *rings, const struct ring *ring, uint32_t here, uint64_t since)
{
    uint32_t there = atomic_load_explicit(&ring->segment->processor, memory_order_relaxed);
    return there == here || there >= PROCESSORS || rings->looked[there].when < since;
}

/* From the rings in turn. */
static uint32_t pass(struct rings *rings, struct ring_request *out, uint32_t room, uint32_t here, uint64_t since)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rings->count && count < room; i++) {
        rings->next = rings->next + 1 < rings->count ? rings->next + 1 : 0;
        struct ring *ring = rings->table[rings->next];
        if (left_to(rings, ring, here, since)) {
            count += claim(ring, out + count, room - count);
        }
    }
    return count;
}

/* The lock is held. Where a worker had better be that shares this processor with another one: together they would wake the clients of
 * the others' by interrupts. */
static uint32_t better_place(struct rings *rings, struct ring_watch *watch, uint32_t here, uint64_t now)
{
    cpu_set_t allowed;
    bool shared = rings->looked[here].who != watch && now - rings->looked[here].when < LATELY_NS;
    if (!shared || now - watch->moved < SETTLED_NS || sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return here;
    }
    watch->moved = now;
    for (uint32_t there = 0; there < PROCESSORS; there++) {
        if (CPU_ISSET(there, &allowed) && now - rings->looked[there].when > LATELY_NS) {
            return there;
        }
    }
    return here;
}

/* Once; afterwards the kernel may move it as before. */
static void go_to(uint32_t processor)
{
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && sched_setaffinity(0, sizeof one, &one) == 0) {
        sched_setaffinity(0, sizeof allowed, &allowed);
    }
}

/* Clients that sleep on this processor first: to wake one on another takes an interrupt there, which costs more than two P-256
 * signatures in a virtual machine. They are for the worker there, unless it is held up, or nothing else is to be done. */
uint32_t rings_take(struct rings *rings, struct ring_watch *watch, struct ring_request *out)
{
    pthread_mutex_lock(&rings->lock);
    uint32_t room = watch->together ? RING_BATCH : share(rings), count = 0;
    uint32_t here = (uint32_t)sched_getcpu(), better = here;
    if (room != 0) {
        uint64_t now = ring_now_ns();
        count = pass(rings, out, room, here, 0);
        count += pass(rings, out + count, room - count, here, count == 0 || watch->dear ? UINT64_MAX : now - LATELY_NS);
        if (here < PROCESSORS) {
            better = better_place(rings, watch, here, now);
            rings->looked[here].when = now;
            rings->looked[here].who = watch;
        }
    }
    bool more = false;
    if (count != 0) {
        look_away(rings, watch);
        set_sign(rings); /* what came before the sign rose has not rung */
        more = rings->ringing && some_waiting(rings);
    }
    pthread_mutex_unlock(&rings->lock);
    if (more) {
        call_worker(rings);
    }
    for (uint32_t i = 0; i < count; i++) {
        copy_out(&out[i]);
    }
    if (better != here) {
        go_to(better);
    }
    return count;
}

/* ---- waiting -------------------------------------------------------------------------------------------------------- */

void rings_watch(struct rings *rings, struct ring_watch *watch)
{
    if (!watch->watching) {
        pthread_mutex_lock(&rings->lock);
        watch->watching = true;
        rings->looking++;
        set_sign(rings);
        pthread_mutex_unlock(&rings->lock);
    }
}

void rings_unwatch(struct rings *rings, struct ring_watch *watch)
{
    if (watch->watching) {
        pthread_mutex_lock(&rings->lock);
        look_away(rings, watch);
        bool more = set_sign(rings) && some_waiting(rings);
        pthread_mutex_unlock(&rings->lock);
        if (more) {
            call_worker(rings);
        }
    }
}

static bool peek(struct rings *rings)
{
    pthread_mutex_lock(&rings->lock);
    bool found = some_waiting(rings);
    pthread_mutex_unlock(&rings->lock);
    return found;
}

bool rings_spin(struct rings *rings, struct ring_watch *watch)
{
    pthread_mutex_lock(&rings->lock);
    bool alone = rings->count != 0 && rings->looking == watch->watching;
    bool found = some_waiting(rings);
    pthread_mutex_unlock(&rings->lock);
    if (found || !alone || !ring_spin_begin(&watch->spin)) {
        return found;
    }
    rings_watch(rings, watch);
    while (!found && ring_spin_turn(&watch->spin)) {
        found = peek(rings);
    }
    ring_spin_end(&watch->spin, found);
    return found;
}

bool rings_sleep(struct rings *rings, struct ring_watch *watch)
{
    pthread_mutex_lock(&rings->lock);
    look_away(rings, watch);
    rings->asleep++;
    set_sign(rings);
    bool nothing = !some_waiting(rings);
    if (!nothing) {
        rings->asleep--;
        set_sign(rings);
    }
    pthread_mutex_unlock(&rings->lock);
    return nothing;
}

void rings_awake(struct rings *rings)
{
    pthread_mutex_lock(&rings->lock);
    rings->asleep--;
    set_sign(rings);
    pthread_mutex_unlock(&rings->lock);
}

/* ---- answering ------------------------------------------------------------------------------------------------------ */

/* Nothing else is on the socket while a client of ours waits here. One that does not read harms itself. */
static void knock(const struct ring *ring)
{
    static const uint8_t knock = RING_KNOCK;
    if (send(ring->owner.socket, &knock, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        return; /* gone, or full of what it has not read */
    }
}

void ring_answer(struct ring *ring, uint32_t slot, const uint8_t *frame, size_t len, struct ring_wakes *wakes)
{
    struct ring_slot *shared = &ring->segment->slots[slot];
    memcpy(shared->frame, frame, len);
    /* free before the client sees the answer: its next request may follow at once */
    atomic_fetch_and_explicit(&ring->busy, ~(1u << slot), memory_order_release);
    uint32_t was = atomic_exchange_explicit(&shared->state, RING_ANSWER, memory_order_acq_rel);
    if (was == RING_ASLEEP) {
        note(wakes, ring);
    } else if (was == RING_PARKED) {
        knock(ring);
    }
}
