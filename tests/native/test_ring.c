/* The ring as a client sees it: every slot, many threads, misses and refusals as on the socket, clients that scribble, die
 * or leave, and nobody else the worse for it. The scribbler and the mortal are processes of their own. */
#include "engine_fixture.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "ring_client.h"

enum { KEY = 100, MAC = 32, REQUEST = 256 };

static size_t sign_request(uint8_t out[REQUEST], uint64_t key, uint64_t number)
{
    struct wire_writer writer = wire_writer(out, REQUEST);
    const struct wire_sign_request request = {
        .key = key, .mechanism = {.type = CKM_SHA256_HMAC}, .data = wire_bytes(&number, sizeof number)};
    CHECK(wire_put_sign_request(&writer, &request) == WIRE_OK);
    return writer.len;
}

static int joined(const uint8_t cookie[16])
{
    uint8_t same[16];
    int fd = open_socket();
    CHECK(hello(fd, wire_bytes(cookie, 16), same) == CKR_OK);
    return fd;
}

static int logged_in(uint8_t cookie[16])
{
    int fd = open_socket();
    CHECK(hello(fd, wire_bytes(NULL, 0), cookie) == CKR_OK);
    log_in(fd);
    return fd;
}

static void sign_by_socket(int fd, uint64_t number, uint8_t mac[MAC])
{
    uint8_t payload[REQUEST], out[ROOM];
    size_t len, size = sign_request(payload, KEY, number);
    CHECK(call(fd, WIRE_OP_SIGN, 1, payload, size, out, &len) == CKR_OK && len == 4 + MAC);
    memcpy(mac, out + 4, MAC);
}

static uint64_t sign_by_ring(struct ring_client *client, uint32_t slot, uint64_t key, uint64_t number, uint8_t mac[MAC])
{
    uint8_t payload[REQUEST], out[RING_FRAME];
    size_t len = sign_request(payload, key, number);
    ring_put(client, slot, WIRE_OP_SIGN, 1, payload, len);
    ring_submit(client, 1u << slot);
    CHECK(ring_wait(client, slot) == RING_ANSWER);
    uint64_t rv = ring_take(client, slot, out, &len);
    CHECK(rv == CKR_OK ? len == 4 + MAC : len == 0);
    if (rv == CKR_OK) {
        memcpy(mac, out + 4, MAC);
    }
    return rv;
}

static uint64_t rings_open(void)
{
    he_counts counts;
    he_counters(engine, &counts);
    return counts.rings;
}

static void wait_rings(uint64_t count)
{
    for (int i = 0; i < 500 && rings_open() != count; i++) {
        usleep(10000);
    }
    CHECK(rings_open() == count);
}

static bool some_thread_gives_way(void)
{
    bool some = false;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        some = some || sched_getscheduler((pid_t)atoi(task->d_name)) == SCHED_BATCH;
    }
    closedir(tasks);
    return some;
}

/* A lone client is served at once; among several, who asks goes before who computes. */
static void test_who_goes_first(void)
{
    uint8_t cookie[16], mac[MAC];
    struct ring_client first = ring_connect(logged_in(cookie), 1);
    for (uint64_t i = 0; i < 20; i++) {
        CHECK(sign_by_ring(&first, 0, KEY, i, mac) == CKR_OK && !some_thread_gives_way());
    }
    struct ring_client second = ring_connect(joined(cookie), 1);
    for (uint64_t i = 0; i < 10000 && !some_thread_gives_way(); i++) { /* a worker has to meet both */
        CHECK(sign_by_ring(i % 2 == 0 ? &second : &first, 0, KEY, i, mac) == CKR_OK);
    }
    CHECK(some_thread_gives_way());
    ring_disconnect(&first);
    ring_disconnect(&second);
    wait_rings(0);
}

/* What the descriptors let a client do. */
static void test_descriptors(void)
{
    uint8_t cookie[16];
    int fds[RING_CLIENT_FDS], first = logged_in(cookie);
    uint64_t rv;
    uint32_t place;
    CHECK(ask_ring(first, 0, &rv, &place, fds) && rv == CKR_ARGUMENTS_BAD);
    CHECK(ask_ring(first, RING_SLOTS + 1, &rv, &place, fds) && rv == CKR_ARGUMENTS_BAD);
    struct ring_client client = ring_connect(first, RING_SLOTS);
    CHECK(rings_open() == 1);
    CHECK(ftruncate(client.memory, 0) != 0 && ftruncate(client.memory, 1 << 20) != 0);
    CHECK(fcntl(client.memory, F_ADD_SEALS, F_SEAL_WRITE) != 0);
    CHECK(mmap(NULL, sizeof *client.board, PROT_READ | PROT_WRITE, MAP_SHARED, client.board_memory, 0) == MAP_FAILED);
    CHECK(write(client.board_memory, "1", 1) < 0 && ftruncate(client.board_memory, 0) != 0);
    CHECK(fallocate(client.board_memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) != 0);
    CHECK(!ask_ring(first, 1, &rv, &place, fds)); /* a second one for a connection is not what a client of ours asks */
    CHECK(ring_wait(&client, 0) == RING_CLOSED || atomic_load(&client.segment->slots[0].state) == RING_CLOSED);
    ring_disconnect(&client);
    int stranger = open_socket();
    CHECK(!ask_ring(stranger, 1, &rv, &place, fds)); /* before HELLO */
    close(stranger);
    wait_rings(0);
}

/* Answers are the socket's, code by code. */
static void test_same_answers(void)
{
    uint8_t cookie[16], mac[MAC], expected[MAC], payload[64], out[RING_FRAME];
    int fd = logged_in(cookie);
    struct ring_client client = ring_connect(joined(cookie), 1);
    for (uint64_t i = 0; i < 300; i++) {
        sign_by_socket(fd, i, expected);
        CHECK(sign_by_ring(&client, 0, KEY, i, mac) == CKR_OK && memcmp(mac, expected, MAC) == 0);
    }
    CHECK(sign_by_ring(&client, 0, 101, 0, mac) == CKR_OK); /* a miss: the firmware loads it */
    CHECK(sign_by_ring(&client, 0, 999, 0, mac) == CKR_KEY_HANDLE_INVALID);
    he_serve_until(engine, 1);
    CHECK(sign_by_ring(&client, 0, KEY, 0, mac) == CKR_DEVICE_ERROR);
    he_serve_until(engine, UINT64_MAX);
    for (uint32_t size = 100; size <= 65536; size += 65436) {
        size_t len;
        struct wire_writer writer = wire_writer(payload, sizeof payload);
        const struct wire_random_request random = {size};
        CHECK(wire_put_random_request(&writer, &random) == WIRE_OK);
        ring_put(&client, 0, WIRE_OP_RANDOM, 1, payload, writer.len);
        ring_submit(&client, 1);
        CHECK(ring_wait(&client, 0) == RING_ANSWER);
        CHECK(ring_take(&client, 0, out, &len) == (size == 100 ? CKR_OK : CKR_BUFFER_TOO_SMALL) && len == (size == 100 ? 104u : 0));
    }
    ring_disconnect(&client);
    close(fd);
}

/* Sixteen requests published as one, over and over: each slot gets its own answer. */
static void test_full_ring(void)
{
    uint8_t cookie[16], mac[RING_SLOTS][MAC], payload[REQUEST], out[RING_FRAME];
    int fd = logged_in(cookie);
    struct ring_client client = ring_connect(joined(cookie), RING_SLOTS);
    for (uint64_t round = 0; round < 100; round++) {
        for (uint32_t slot = 0; slot < RING_SLOTS; slot++) {
            size_t len = sign_request(payload, KEY, slot);
            ring_put(&client, slot, WIRE_OP_SIGN, 1, payload, len);
        }
        ring_submit(&client, 0xFFFF);
        for (uint32_t slot = 0; slot < RING_SLOTS; slot++) {
            size_t len;
            CHECK(ring_wait(&client, slot) == RING_ANSWER && ring_take(&client, slot, out, &len) == CKR_OK && len == 4 + MAC);
            if (round == 0) {
                sign_by_socket(fd, slot, mac[slot]);
            }
            CHECK(memcmp(out + 4, mac[slot], MAC) == 0);
        }
    }
    ring_disconnect(&client);
    close(fd);
}

struct signer {
    pthread_t thread;
    struct ring_client *client;
    uint32_t slot;
    const uint8_t (*macs)[MAC];
    int rounds;
};

static void *sign_on(void *argument)
{
    struct signer *signer = argument;
    uint8_t mac[MAC];
    for (int i = 0; i < signer->rounds; i++) {
        uint64_t number = (uint64_t)i % 64;
        if (i % 50 == 49) {
            usleep(200); /* so that workers fall asleep, and are woken */
        }
        CHECK(sign_by_ring(signer->client, signer->slot, KEY, number, mac) == CKR_OK);
        CHECK(memcmp(mac, signer->macs[number], MAC) == 0);
    }
    return NULL;
}

enum { SIGNERS = 8 };

static void sign_many(struct ring_client *clients, int per_client, int rounds, const uint8_t (*macs)[MAC])
{
    struct signer signers[SIGNERS];
    for (int i = 0; i < SIGNERS; i++) {
        signers[i] = (struct signer){.client = &clients[i / per_client], .slot = (uint32_t)(i % per_client), .macs = macs, .rounds = rounds};
        CHECK(pthread_create(&signers[i].thread, NULL, sign_on, &signers[i]) == 0);
    }
    for (int i = 0; i < SIGNERS; i++) {
        pthread_join(signers[i].thread, NULL);
    }
}

static void expect_macs(int fd, uint8_t (*macs)[MAC])
{
    for (uint64_t i = 0; i < 64; i++) {
        sign_by_socket(fd, i, macs[i]);
    }
}

/* Threads with a ring each, and threads that share one. */
static void test_threads(void)
{
    static uint8_t macs[64][MAC];
    uint8_t cookie[16];
    struct ring_client clients[SIGNERS];
    int fd = logged_in(cookie);
    expect_macs(fd, macs);
    for (int i = 0; i < SIGNERS; i++) {
        clients[i] = ring_connect(joined(cookie), 1);
    }
    sign_many(clients, 1, 2000, (const uint8_t(*)[MAC])macs);
    for (int i = 0; i < SIGNERS; i++) {
        ring_disconnect(&clients[i]);
    }
    wait_rings(0);
    clients[0] = ring_connect(joined(cookie), SIGNERS);
    sign_many(clients, SIGNERS, 500, (const uint8_t(*)[MAC])macs);
    ring_disconnect(&clients[0]);
    close(fd);
}

/* What no client of ours puts in a slot ends the connection, and whoever waits is told. */
static void test_refusals(void)
{
    static const struct wire_header bad[] = {
        {.op = WIRE_OP_USER_LIST}, {.op = WIRE_OP_RING}, {.op = 0x7777}, {.op = WIRE_OP_SIGN}, {.op = WIRE_OP_PING, .flags = 1},
        {.op = WIRE_OP_PING, .epoch = 1}, {.op = WIRE_OP_SIGN, .length = RING_FRAME}, {.op = WIRE_OP_SIGN, .length = 0xFFFFFFFF},
    };
    uint8_t cookie[16], one;
    int fd = logged_in(cookie);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ring_client client = ring_connect(joined(cookie), 2);
        ring_put(&client, 1, WIRE_OP_PING, 0, NULL, 0);
        wire_set_header(client.segment->slots[1].frame, &bad[i]);
        atomic_store(&client.segment->slots[0].state, RING_REQUEST);
        ring_submit(&client, 2);
        CHECK(ring_wait(&client, 0) == RING_CLOSED && ring_wait(&client, 1) == RING_CLOSED);
        CHECK(recv(client.fd, &one, 1, 0) == 0);
        ring_disconnect(&client);
    }
    close(fd);
}

/* A kick ends the wait of a thread whose request Python still has. */
static void test_kick(void)
{
    uint8_t cookie[16];
    int fd = logged_in(cookie);
    struct ring_client client = ring_connect(joined(cookie), 1);
    atomic_store(&client.segment->slots[0].state, RING_REQUEST);
    he_client_kick(engine, atomic_load(&latest));
    CHECK(ring_wait(&client, 0) == RING_CLOSED);
    ring_disconnect(&client);
    close(fd);
    wait_rings(0);
}

/* ---- clients that mean harm, or come to it ------------------------------------------------------------------------- */

static void scribble(struct ring_client *client, unsigned *seed)
{
    uint8_t payload[REQUEST];
    uint32_t slot = (uint32_t)rand_r(seed) % RING_SLOTS;
    size_t len = sign_request(payload, rand_r(seed) % 4 == 0 ? 999 : KEY, (uint64_t)rand_r(seed));
    struct ring_slot *shared = &client->segment->slots[slot];
    ring_put(client, slot, WIRE_OP_SIGN, 1, payload, len);
    atomic_fetch_or(&client->segment->waiting, 1u << slot);
    for (int i = 0; i < 40; i++) {
        switch (rand_r(seed) % 5) {
        case 0: atomic_store(&shared->state, (uint32_t)rand_r(seed) % 7); break;
        case 1: atomic_fetch_xor(&client->segment->waiting, 1u << (rand_r(seed) % 32)); break;
        case 2: atomic_store(&client->segment->processor, (uint32_t)rand_r(seed)); break;
        case 3: shared->frame[rand_r(seed) % (rand_r(seed) % 2 ? 64 : RING_FRAME)] ^= (uint8_t)rand_r(seed); break;
        default: break;
        }
    }
    ring_submit(client, rand_r(seed) % 8 == 0 ? UINT32_MAX : 1u << slot);
}

static bool still_open(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 0) == 0;
}

/* A logged-in client whose rings are full of it; a new connection whenever the last one was ended. */
static void scribbler(unsigned seed)
{
    uint8_t cookie[16];
    logged_in(cookie);
    for (;;) {
        struct ring_client client = ring_connect(joined(cookie), RING_SLOTS);
        while (still_open(client.fd)) {
            scribble(&client, &seed);
        }
        ring_disconnect(&client);
    }
}

/* Dies with sixteen requests under way, some of them with the firmware. */
static void mortal(unsigned seed)
{
    uint8_t cookie[16], payload[REQUEST];
    struct ring_client client = ring_connect(logged_in(cookie), RING_SLOTS);
    for (uint32_t slot = 0; slot < RING_SLOTS; slot++) {
        size_t len = sign_request(payload, slot % 2 == 0 ? KEY : 999, seed);
        ring_put(&client, slot, WIRE_OP_SIGN, 1, payload, len);
    }
    ring_submit(&client, 0xFFFF);
    _exit(0);
}

/* Forked before the engine's threads are there; each waits for its start. */
struct other {
    pid_t pid;
    int start;
};

static struct other other(void (*run)(unsigned), unsigned seed)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        uint8_t go;
        close(ends[1]);
        if (read(ends[0], &go, 1) == 1) {
            run(seed);
        }
        _exit(1);
    }
    close(ends[0]);
    return (struct other){pid, ends[1]};
}

static void go(const struct other *one)
{
    CHECK(write(one->start, "g", 1) == 1);
    close(one->start);
}

static void test_hostile(const struct other *hostile, size_t count)
{
    static uint8_t macs[64][MAC];
    uint8_t cookie[16];
    struct ring_client clients[SIGNERS];
    int fd = logged_in(cookie);
    expect_macs(fd, macs);
    for (int i = 0; i < SIGNERS; i++) {
        clients[i] = ring_connect(joined(cookie), 1);
    }
    for (size_t i = 0; i < count; i++) {
        go(&hostile[i]);
    }
    usleep(300000); /* logged in by now, or soon */
    he_counts before, after;
    he_counters(engine, &before);
    for (int i = 0; i < 10; i++) {
        sign_many(clients, 1, 300, (const uint8_t(*)[MAC])macs);
    }
    he_counters(engine, &after);
    CHECK(after.refused_frames > before.refused_frames);
    for (int i = 0; i < SIGNERS; i++) {
        CHECK(still_open(clients[i].fd));
        ring_disconnect(&clients[i]);
    }
    for (size_t i = 0; i < count; i++) {
        kill(hostile[i].pid, SIGKILL);
        CHECK(waitpid(hostile[i].pid, NULL, 0) == hostile[i].pid);
    }
    close(fd);
    wait_rings(0);
}

static void test_mortals(const struct other *mortals, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int status;
        go(&mortals[i]);
        CHECK(waitpid(mortals[i].pid, &status, 0) == mortals[i].pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    wait_rings(0);
    wait_empty();
}

int main(void)
{
    enum { HOSTILE = 2, MORTALS = 6 };
    struct other hostile[HOSTILE], mortals[MORTALS];
    name_socket();
    for (unsigned i = 0; i < HOSTILE; i++) {
        hostile[i] = other(scribbler, 11 + i);
    }
    for (unsigned i = 0; i < MORTALS; i++) {
        mortals[i] = other(mortal, i);
    }
    start_engine();
    load(KEY, 7);
    test_who_goes_first();
    test_descriptors();
    test_same_answers();
    test_full_ring();
    test_threads();
    test_refusals();
    test_kick();
    test_hostile(hostile, HOSTILE);
    test_mortals(mortals, MORTALS);
    end_engine();
    puts("ring: all as it should be");
    return 0;
}
