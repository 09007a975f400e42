/* The engine's server over a real socket: frames, limits, rights, answers from Python's side (played by a thread). */
#include <poll.h>
#include <sys/wait.h>

#include "engine_fixture.h"

static int gone_count(void)
{
    pthread_mutex_lock(&gone_lock);
    int count = gone;
    pthread_mutex_unlock(&gone_lock);
    return count;
}

static void wait_gone(int count)
{
    for (int i = 0; i < 500 && gone_count() < count; i++) {
        usleep(10000);
    }
    CHECK(gone_count() == count);
}

static uint64_t sign(int fd, uint64_t session, uint64_t key, uint32_t size)
{
    static uint8_t data[1 << 17], payload[ROOM], out[ROOM];
    size_t len;
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    const struct wire_sign_request request = {.key = key, .mechanism = {.type = CKM_SHA256_HMAC}, .data = wire_bytes(data, size)};
    CHECK(wire_put_sign_request(&writer, &request) == WIRE_OK);
    uint64_t rv = call(fd, WIRE_OP_SIGN, session, payload, writer.len, out, &len);
    CHECK(rv != CKR_OK || len == 4 + 32);
    return rv;
}

static void test_rights(void)
{
    uint8_t cookie[16];
    int fd = open_socket(), second = open_socket(), stranger = open_socket();
    load(100, 7);
    CHECK(hello(fd, wire_bytes(NULL, 0), cookie) == CKR_OK);
    CHECK(sign(fd, 1, 100, 20) == CKR_SESSION_HANDLE_INVALID);
    log_in(fd);
    CHECK(sign(fd, 1, 100, 20) == CKR_OK);
    CHECK(sign(fd, 2, 100, 20) == CKR_SESSION_HANDLE_INVALID);
    CHECK(sign(fd, 1, 101, 20) == CKR_OK); /* a miss, loaded, run again */
    CHECK(sign(fd, 1, 999, 20) == CKR_KEY_HANDLE_INVALID);
    CHECK(sign(fd, 1, 100, 100000) == CKR_OK); /* large frames after a login */
    uint8_t same[16];
    CHECK(hello(second, wire_bytes(cookie, 16), same) == CKR_OK && memcmp(cookie, same, 16) == 0);
    CHECK(sign(second, 1, 100, 20) == CKR_OK);
    memset(same, 9, 16);
    CHECK(hello(stranger, wire_bytes(same, 16), same) == CKR_ARGUMENTS_BAD);
    he_serve_until(engine, 1);
    CHECK(sign(fd, 1, 100, 20) == CKR_DEVICE_ERROR);
    he_serve_until(engine, UINT64_MAX);
    he_key_drop(engine, 100);
    CHECK(sign(fd, 1, 100, 20) == CKR_KEY_HANDLE_INVALID);
    load(100, 8); /* somebody else's now */
    CHECK(sign(fd, 1, 100, 20) == CKR_KEY_HANDLE_INVALID);
    int before = gone_count();
    close(fd);
    usleep(50000);
    CHECK(gone_count() == before);
    close(second);
    wait_gone(before + 1);
    close(stranger);
}

static void test_pipelining(void)
{
    uint8_t cookie[16], out[ROOM];
    int fd = open_socket();
    CHECK(hello(fd, wire_bytes(NULL, 0), cookie) == CKR_OK);
    /* As many as a socket takes answers for: a client that reads none is not read from, and would wait for ever to send more. */
    enum { AT_ONCE = 50 };
    for (uint64_t from = 0; from < 10 * AT_ONCE; from += AT_ONCE) {
        for (uint64_t i = from; i < from + AT_ONCE; i++) {
            send_frame(fd, i % 3 == 0 ? WIRE_OP_USER_LIST : WIRE_OP_PING, 0, i, NULL, 0);
        }
        for (uint64_t i = from; i < from + AT_ONCE; i++) {
            struct wire_header header;
            CHECK(answer(fd, &header, out));
            CHECK(header.seq == i && header.word == (i % 3 == 0 ? CKR_FUNCTION_FAILED : CKR_OK));
        }
    }
    close(fd);
}

static bool closed_after(const void *bytes, size_t len)
{
    uint8_t out[ROOM];
    struct wire_header header;
    int fd = open_socket();
    CHECK(send(fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len);
    bool closed = !answer(fd, &header, out);
    close(fd);
    return closed;
}

static void test_hostile(void)
{
    uint8_t raw[WIRE_HEADER_SIZE + 64] = {0};
    struct wire_header header = {.length = 70000, .op = WIRE_OP_HELLO};
    wire_set_header(raw, &header);
    CHECK(closed_after(raw, WIRE_HEADER_SIZE)); /* too large before a login */
    header = (struct wire_header){.length = 0, .op = 0x7777};
    wire_set_header(raw, &header);
    CHECK(closed_after(raw, WIRE_HEADER_SIZE)); /* no such operation */
    header = (struct wire_header){.length = 0, .op = WIRE_OP_PING, .flags = 1};
    wire_set_header(raw, &header);
    CHECK(closed_after(raw, WIRE_HEADER_SIZE));
    header = (struct wire_header){.length = 64, .op = WIRE_OP_HELLO};
    wire_set_header(raw, &header);
    memset(raw + WIRE_HEADER_SIZE, 0xff, 64);
    CHECK(closed_after(raw, sizeof raw)); /* lengths beyond the frame */
    header = (struct wire_header){.length = 0, .op = WIRE_OP_USER_LIST};
    wire_set_header(raw, &header);
    CHECK(closed_after(raw, WIRE_HEADER_SIZE)); /* no HELLO */
    unsigned seed = 1;
    for (int round = 0; round < 200; round++) {
        uint8_t junk[512];
        for (size_t i = 0; i < sizeof junk; i++) {
            junk[i] = (uint8_t)rand_r(&seed);
        }
        int fd = open_socket();
        CHECK(send(fd, junk, sizeof junk, MSG_NOSIGNAL) > 0);
        close(fd);
    }
    he_counts counts;
    he_counters(engine, &counts);
    CHECK(counts.refused_frames >= 3);
}

/* A client that never reads: others go on, and its answers wait in its own buffer. */
static void test_deaf_client(void)
{
    uint8_t cookie[16], request[64];
    int deaf = open_socket(), other = open_socket();
    CHECK(hello(deaf, wire_bytes(NULL, 0), cookie) == CKR_OK);
    CHECK(hello(other, wire_bytes(NULL, 0), cookie) == CKR_OK);
    log_in(deaf);
    struct wire_writer writer = wire_writer(request, sizeof request);
    const struct wire_random_request random = {65536};
    CHECK(wire_put_random_request(&writer, &random) == WIRE_OK);
    for (uint64_t i = 0; i < 60; i++) {
        send_frame(deaf, WIRE_OP_RANDOM, 1, i, request, writer.len);
    }
    uint8_t out[ROOM];
    size_t len;
    for (int i = 0; i < 100; i++) {
        CHECK(call(other, WIRE_OP_PING, 0, NULL, 0, out, &len) == CKR_OK);
    }
    for (uint64_t i = 0; i < 60; i++) {
        struct wire_header header;
        CHECK(answer(deaf, &header, out) && header.seq == i && header.length == 65540);
    }
    close(deaf);
    close(other);
}

static void *client_thread(void *unused)
{
    uint8_t cookie[16];
    for (int round = 0; round < 20; round++) {
        int fd = open_socket();
        CHECK(hello(fd, wire_bytes(NULL, 0), cookie) == CKR_OK);
        uint8_t out[ROOM];
        size_t len;
        for (int i = 0; i < 50; i++) {
            CHECK(call(fd, i % 7 == 0 ? WIRE_OP_USER_LIST : WIRE_OP_PING, 0, NULL, 0, out, &len) == (i % 7 == 0 ? CKR_FUNCTION_FAILED : CKR_OK));
        }
        if (round % 2 == 0) {
            send_frame(fd, WIRE_OP_USER_LIST, 0, 1, NULL, 0); /* dies with a request under way */
        }
        close(fd);
    }
    return unused;
}

static void test_many(void)
{
    wait_empty();
    int before = gone_count();
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) {
        CHECK(pthread_create(&threads[i], NULL, client_thread, NULL) == 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    wait_gone(before + 160);
    wait_empty();
}

/* As another user: connects until it is refused; how many connections it got. Only system calls: it is forked of threads. */
static int connections_of_another_user(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (setresuid(65534, 65534, 65534) != 0) {
        return 255;
    }
    for (int count = 0;; count++) {
        char byte;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
            return count;
        }
        struct pollfd closed = {.fd = fd, .events = POLLIN};
        if (poll(&closed, 1, 200) == 1 && recv(fd, &byte, 1, 0) == 0) {
            return count;
        }
    }
}

/* Of 64 connections a user may have as many as are left for others; the HSM's own user has all. */
static void test_one_user_leaves_room(void)
{
    if (geteuid() != 0) {
        return; /* there is no other user to be */
    }
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        _exit(connections_of_another_user());
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 32);
    wait_empty();
}

int main(void)
{
    start_engine();
    test_rights();
    test_pipelining();
    test_hostile();
    test_deaf_client();
    test_many();
    test_one_user_leaves_room();
    end_engine();
    puts("engine server: all as it should be");
    return 0;
}
