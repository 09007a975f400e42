/* A link's ring: the client's half of wire/ring.h. */
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "async.h"
#include "log.h"
#include "slot.h"

enum {
    FDS = 4, /* segment, board, beds, bell */
    SLICE_NS = 20000000, /* between two looks at the socket: how long a dead HSM goes unnoticed */
};

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static void close_all(const int fds[FDS])
{
    for (int i = 0; i < FDS; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

/* Memory that nobody can shrink under us and that a forked child does not have. */
static void *map(int fd, size_t size, int protection)
{
    struct stat status;
    int seals = fcntl(fd, F_GET_SEALS);
    bool whole = seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(fd, &status) == 0 && status.st_size >= (off_t)size;
    void *memory = whole ? mmap(NULL, size, protection, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (memory == MAP_FAILED) {
        return NULL;
    }
    if (madvise(memory, size, MADV_DONTFORK) != 0) {
        munmap(memory, size);
        return NULL;
    }
    madvise(memory, size, MADV_DONTDUMP);
    return memory;
}

static void unmap_part(const void *memory, size_t size)
{
    if (memory != NULL) {
        munmap((void *)(uintptr_t)memory, size);
    }
}

static void unmap(const struct link_ring *ring)
{
    unmap_part(ring->segment, ring_size(1));
    unmap_part(ring->board, sizeof *ring->board);
    unmap_part(ring->beds, sizeof *ring->beds);
}

static bool take_over(struct link_ring *ring, uint32_t place, int fds[FDS])
{
    struct link_ring mapped = *ring;
    mapped.segment = map(fds[0], ring_size(1), PROT_READ | PROT_WRITE);
    mapped.board = map(fds[1], sizeof *mapped.board, PROT_READ);
    mapped.beds = map(fds[2], sizeof *mapped.beds, PROT_READ | PROT_WRITE);
    if (mapped.segment == NULL || mapped.board == NULL || mapped.beds == NULL) {
        unmap(&mapped);
        return false;
    }
    mapped.woken = &mapped.beds->groups[place / RING_GROUP].woken;
    mapped.bit = 1u << place % RING_GROUP;
    mapped.bell = fds[3];
    fds[3] = -1;
    *ring = mapped;
    return true;
}

static bool ask(struct link *link)
{
    const struct wire_header request = {.length = 4, .op = WIRE_OP_RING, .seq = ++link->seq};
    uint8_t frame[WIRE_HEADER_SIZE + 4];
    struct wire_writer writer = wire_writer(frame + WIRE_HEADER_SIZE, sizeof frame - WIRE_HEADER_SIZE);
    const struct wire_ring_request one = {1};
    wire_set_header(frame, &request);
    return wire_put_ring_request(&writer, &one) == WIRE_OK &&
           send(link->fd, frame, sizeof frame, MSG_NOSIGNAL) == (ssize_t)sizeof frame;
}

/* The answer is one message: what it says and what comes with it. */
static bool hear(struct link *link, unsigned patience, uint8_t *frame, size_t room, size_t *len, int fds[FDS])
{
    union {
        struct cmsghdr header;
        uint8_t room[CMSG_SPACE(sizeof(int) * FDS)];
    } control;
    struct iovec part = {frame, room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct pollfd one = {.fd = link->fd, .events = POLLIN};
    ssize_t got = poll(&one, 1, (int)patience) == 1 ? recvmsg(link->fd, &message, MSG_CMSG_CLOEXEC) : -1;
    if (got < WIRE_HEADER_SIZE) {
        return false;
    }
    *len = (size_t)got;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    bool brought = rights != NULL && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
                   rights->cmsg_len == CMSG_LEN(sizeof(int) * FDS) && (message.msg_flags & MSG_CTRUNC) == 0;
    if (brought) {
        memcpy(fds, CMSG_DATA(rights), sizeof(int) * FDS);
    }
    return true;
}

enum link_result link_ring_open(struct link *link, unsigned patience)
{
    uint8_t frame[WIRE_HEADER_SIZE + 64];
    size_t len = 0;
    int fds[FDS] = {-1, -1, -1, -1};
    struct wire_header header;
    link->ring.asked = true;
    if (module_config()->socket_only || atomic_load(&link->slot->ringless)) {
        return LINK_OK;
    }
    if (!ask(link) || !hear(link, patience, frame, sizeof frame, &len, fds)) {
        atomic_store(&link->slot->ringless, true);
        return LINK_LOST;
    }
    bool ours = wire_get_header(frame, &header) == WIRE_OK && header.op == (WIRE_OP_RING | WIRE_RESPONSE) && header.seq == link->seq &&
                len == WIRE_HEADER_SIZE + (size_t)header.length;
    bool given = ours && header.word == CKR_OK && fds[0] >= 0;
    if (given) {
        struct wire_reader reader = wire_reader(frame + WIRE_HEADER_SIZE, header.length);
        struct wire_ring_response response;
        given = wire_get_ring_response(&reader, &response) == WIRE_OK && response.place < RING_PLACES &&
                take_over(&link->ring, response.place, fds);
    }
    close_all(fds);
    if (ours && !given) {
        log_line(LEVEL_INFO, "no shared memory with %s (0x%lx); the socket takes everything",
                 link->slot->config->servers[link->server].name, (unsigned long)header.word);
    }
    return ours ? LINK_OK : LINK_LOST;
}

void link_ring_forget(struct link *link)
{
    if (link->ring.segment != NULL) {
        close(link->ring.bell);
    }
    link->ring = (struct link_ring){.bell = -1};
}

void link_ring_close(struct link *link)
{
    unmap(&link->ring);
    link_ring_forget(link);
}

/* ---- an exchange ----------------------------------------------------------------------------------------------------- */

void link_ring_submit(struct link *link, const struct wire_header *request)
{
    const uint64_t one = 1;
    struct link_ring *ring = &link->ring;
    struct ring_slot *slot = &ring->segment->slots[0];
    wire_set_header(link->out, request);
    memcpy(slot->frame, link->out, WIRE_HEADER_SIZE + (size_t)request->length);
    ring->submitted = true;
    atomic_store_explicit(&ring->segment->processor, (uint32_t)sched_getcpu(), memory_order_relaxed);
    atomic_store_explicit(&slot->state, RING_REQUEST, memory_order_relaxed);
    atomic_fetch_or_explicit(&ring->segment->waiting, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&ring->board->ring, memory_order_seq_cst) != 0 && write(ring->bell, &one, sizeof one) < 0) {
        return; /* full: it has rung */
    }
}

static bool settled(uint32_t state)
{
    return state != RING_REQUEST && state != RING_ASLEEP && state != RING_PARKED;
}

/* The slot's state, after a spin if one is worth while. */
static uint32_t first_look(struct ring_spin *spin, struct ring_slot *slot)
{
    uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
    if (!settled(state) && ring_spin_begin(spin)) {
        do {
            state = atomic_load_explicit(&slot->state, memory_order_acquire);
        } while (!settled(state) && ring_spin_turn(spin));
        ring_spin_end(spin, settled(state));
    }
    return state;
}

static bool hung_up(const struct link *link)
{
    struct pollfd one = {.fd = link->fd, .events = POLLIN}; /* the HSM says nothing unasked: its end is all there can be */
    return link->fd < 0 || poll(&one, 1, 0) > 0;
}

/* true: the answer is there. */
static bool wait_answer(struct link *link, struct ring_slot *slot, unsigned patience)
{
    struct link_ring *ring = &link->ring;
    uint32_t state = first_look(&ring->spin, slot);
    uint64_t now = settled(state) ? 0 : ring_now_ns(), give_up = now + patience * UINT64_C(1000000);
    while (!settled(state)) {
        uint32_t seen = atomic_load_explicit(ring->woken, memory_order_acquire);
        uint64_t slice_end = now + SLICE_NS;
        if (state == RING_REQUEST &&
            !atomic_compare_exchange_strong_explicit(&slot->state, &state, RING_ASLEEP, memory_order_acq_rel, memory_order_acquire)) {
            continue;
        }
        ring_futex_wait(ring->woken, seen, ring->bit, slice_end);
        state = atomic_load_explicit(&slot->state, memory_order_acquire);
        if (!settled(state) && (now = ring_now_ns()) >= slice_end && (now > give_up || hung_up(link))) {
            return false;
        }
    }
    return state == RING_ANSWER;
}

/* The byte that follows an answer to a parked request. */
static bool take_knock(const struct link *link)
{
    struct pollfd one = {.fd = link->fd, .events = POLLIN};
    uint8_t knock;
    return poll(&one, 1, (int)module_config()->timeout_ms) == 1 && recv(link->fd, &knock, 1, MSG_DONTWAIT) == 1 && knock == RING_KNOCK;
}

bool link_ring_answered(struct link *link)
{
    return settled(atomic_load_explicit(&link->ring.segment->slots[0].state, memory_order_acquire));
}

bool link_ring_leave(struct link *link)
{
    if (!link_ring_answered(link) || !take_knock(link)) {
        return false;
    }
    OPENSSL_cleanse(link->ring.segment->slots[0].frame, RING_FRAME);
    return true;
}

/* The answer comes with a knock, unless it was there before the request was parked. */
static enum link_result wait_paused(struct link *link, struct ring_slot *slot, struct pause *pause, unsigned patience)
{
    uint32_t state = RING_REQUEST;
    bool parked =
        atomic_compare_exchange_strong_explicit(&slot->state, &state, RING_PARKED, memory_order_acq_rel, memory_order_acquire);
    enum link_result result = parked ? pause_until(pause, link_ring_answered, patience) : LINK_OK;
    if (result == LINK_DEAD) {
        return result;
    }
    pause_end(pause);
    state = atomic_load_explicit(&slot->state, memory_order_acquire);
    return result == LINK_OK && state == RING_ANSWER && (!parked || take_knock(link)) ? LINK_OK : LINK_LOST;
}

enum link_result link_ring_exchange(struct link *link, const struct wire_header *request, unsigned patience, struct session *pausable,
                                    struct wire_header *header, bool *sent)
{
    struct ring_slot *slot = &link->ring.segment->slots[0];
    size_t len = WIRE_HEADER_SIZE + (size_t)request->length;
    *sent = true;
    if (!link->ring.submitted) {
        link_ring_submit(link, request);
    }
    link->ring.submitted = false;
    struct pause pause;
    enum link_result result = pause_begin(&pause, pausable, link)       ? wait_paused(link, slot, &pause, patience)
                              : wait_answer(link, slot, patience) ? LINK_OK
                                                                  : LINK_LOST;
    if (result != LINK_OK) {
        return result;
    }
    memcpy(link->in, slot->frame, WIRE_HEADER_SIZE);
    if (wire_get_header(link->in, header) != WIRE_OK || header->length > RING_FRAME - WIRE_HEADER_SIZE) {
        return LINK_LOST;
    }
    size_t whole = WIRE_HEADER_SIZE + (size_t)header->length;
    memcpy(link->in, slot->frame, whole);
    OPENSSL_cleanse(slot->frame, whole > len ? whole : len);
    return header->word == CKR_BUFFER_TOO_SMALL ? LINK_REFUSED : LINK_OK;
}
