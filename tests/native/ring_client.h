/* A ring's client as plain as can be: what wire/ring.h says, without a module around it. After engine_fixture.h. */
#ifndef RING_CLIENT_H
#define RING_CLIENT_H

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include "ring.h"

enum { RING_CLIENT_FDS = 4 }; /* segment, board, beds, bell */

struct ring_client {
    int fd, memory, board_memory, beds_memory, bell;
    uint32_t slots, place;
    struct ring_segment *segment;
    const struct ring_board *board;
    struct ring_beds *beds;
    atomic_ullong seq;
};

/* The answer to RING, and what came with it. false: the HSM ended the connection. */
static bool ask_ring(int fd, uint32_t slots, uint64_t *rv, uint32_t *place, int fds[RING_CLIENT_FDS])
{
    uint8_t payload[4], frame[WIRE_HEADER_SIZE + 12];
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    const struct wire_ring_request request = {slots};
    CHECK(wire_put_ring_request(&writer, &request) == WIRE_OK);
    send_frame(fd, WIRE_OP_RING, 0, 77, payload, writer.len);
    union {
        struct cmsghdr header;
        uint8_t room[CMSG_SPACE(sizeof(int) * RING_CLIENT_FDS)];
    } control = {0};
    struct iovec part = {frame, sizeof frame};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) {
        return false;
    }
    struct wire_header header;
    CHECK(got >= WIRE_HEADER_SIZE && wire_get_header(frame, &header) == WIRE_OK && header.seq == 77);
    *rv = header.word;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    CHECK((rights != NULL) == (header.word == CKR_OK));
    if (rights != NULL) {
        struct wire_reader reader = wire_reader(frame + WIRE_HEADER_SIZE, header.length);
        struct wire_ring_response response;
        CHECK(rights->cmsg_len == CMSG_LEN(sizeof(int) * RING_CLIENT_FDS));
        memcpy(fds, CMSG_DATA(rights), sizeof(int) * RING_CLIENT_FDS);
        CHECK(wire_get_ring_response(&reader, &response) == WIRE_OK);
        CHECK(response.slots == slots && response.size == ring_size(slots) && response.place < RING_PLACES);
        *place = response.place;
    }
    return true;
}

static struct ring_client ring_connect(int fd, uint32_t slots)
{
    struct ring_client client = {.fd = fd, .slots = slots};
    uint64_t rv;
    int fds[RING_CLIENT_FDS];
    CHECK(ask_ring(fd, slots, &rv, &client.place, fds) && rv == CKR_OK);
    client.memory = fds[0];
    client.board_memory = fds[1];
    client.beds_memory = fds[2];
    client.bell = fds[3];
    client.segment = mmap(NULL, ring_size(slots), PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    client.board = mmap(NULL, sizeof *client.board, PROT_READ, MAP_SHARED, fds[1], 0);
    client.beds = mmap(NULL, sizeof *client.beds, PROT_READ | PROT_WRITE, MAP_SHARED, fds[2], 0);
    CHECK(client.segment != MAP_FAILED && client.board != MAP_FAILED && client.beds != MAP_FAILED);
    return client;
}

static void ring_disconnect(struct ring_client *client)
{
    munmap(client->segment, ring_size(client->slots));
    munmap((void *)(uintptr_t)client->board, sizeof *client->board);
    munmap(client->beds, sizeof *client->beds);
    close(client->memory);
    close(client->board_memory);
    close(client->beds_memory);
    close(client->bell);
    close(client->fd);
}

static void ring_put(struct ring_client *client, uint32_t slot, uint16_t op, uint64_t session, const uint8_t *payload, size_t len)
{
    struct ring_slot *shared = &client->segment->slots[slot];
    const struct wire_header header = {.length = (uint32_t)len, .op = op, .seq = atomic_fetch_add(&client->seq, 1), .word = session};
    wire_set_header(shared->frame, &header);
    if (len != 0) {
        memcpy(shared->frame + WIRE_HEADER_SIZE, payload, len);
    }
    atomic_store(&shared->state, RING_REQUEST);
}

static void ring_submit(struct ring_client *client, uint32_t bits)
{
    const uint64_t one = 1;
    atomic_fetch_or(&client->segment->waiting, bits);
    if (atomic_load(&client->board->ring) != 0) {
        CHECK(write(client->bell, &one, sizeof one) == (ssize_t)sizeof one);
    }
}

/* ANSWER or CLOSED. A lost wake-up shows as a wait that outlasts the test's patience. */
static uint32_t ring_wait(struct ring_client *client, uint32_t slot)
{
    _Atomic uint32_t *state = &client->segment->slots[slot].state;
    const _Atomic uint32_t *woken = &client->beds->groups[client->place / RING_GROUP].woken;
    for (uint64_t until = ring_now_ns() + UINT64_C(20000000000);;) {
        uint32_t seen = atomic_load(woken), found = RING_REQUEST;
        if (!atomic_compare_exchange_strong(state, &found, RING_ASLEEP) && found != RING_ASLEEP) {
            return found;
        }
        CHECK(ring_now_ns() < until);
        ring_futex_wait(woken, seen, 1u << client->place % RING_GROUP, until);
    }
}

static uint64_t ring_take(struct ring_client *client, uint32_t slot, uint8_t *out, size_t *len)
{
    struct wire_header header;
    const uint8_t *frame = client->segment->slots[slot].frame;
    CHECK(wire_get_header(frame, &header) == WIRE_OK && header.length <= RING_FRAME - WIRE_HEADER_SIZE);
    memcpy(out, frame + WIRE_HEADER_SIZE, header.length);
    *len = header.length;
    return header.word;
}

#endif
