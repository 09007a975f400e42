/* The engine's server over a real socket: frames, limits, rights, answers from Python's side (played by a thread). */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "messages.h"
#include "pkcs11.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

enum { ROOM = 1 << 18 };

static he_engine *engine;
static char path[64];
static int gone; /* CLIENT_GONE events seen */
static pthread_mutex_t gone_lock = PTHREAD_MUTEX_INITIALIZER;

static int open_socket(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void send_frame(int fd, uint16_t op, uint64_t session, uint64_t seq, const uint8_t *payload, size_t len)
{
    uint8_t raw[WIRE_HEADER_SIZE];
    const struct wire_header header = {.length = (uint32_t)len, .op = op, .seq = seq, .word = session};
    wire_set_header(raw, &header);
    CHECK(send(fd, raw, sizeof raw, MSG_NOSIGNAL) == (ssize_t)sizeof raw);
    CHECK(len == 0 || send(fd, payload, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static bool receive(int fd, uint8_t *out, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t got = recv(fd, out + at, len - at, 0);
        if (got <= 0) {
            return false;
        }
        at += (size_t)got;
    }
    return true;
}

/* false: the connection was closed. */
static bool answer(int fd, struct wire_header *header, uint8_t *payload)
{
    uint8_t raw[WIRE_HEADER_SIZE];
    if (!receive(fd, raw, sizeof raw)) {
        return false;
    }
    CHECK(wire_get_header(raw, header) == WIRE_OK && header->length <= ROOM);
    return receive(fd, payload, header->length);
}

static uint64_t call(int fd, uint16_t op, uint64_t session, const uint8_t *payload, size_t len, uint8_t *out, size_t *out_len)
{
    static __thread uint64_t seq;
    struct wire_header header;
    send_frame(fd, op, session, ++seq, payload, len);
    CHECK(answer(fd, &header, out));
    CHECK(header.op == (op | WIRE_RESPONSE) && header.seq == seq);
    *out_len = header.length;
    return header.word;
}

/* What the firmware would do. Keys 100 and 101 exist; 101 is loaded only when asked for. */
static void load(uint64_t handle, uint64_t user)
{
    const uint8_t size[4] = {32, 0, 0, 0};
    uint8_t masked[256];
    size_t len = sizeof masked;
    CHECK(he_generate(engine, CKK_GENERIC_SECRET, size, sizeof size, masked, &len) == CKR_OK);
    const he_key key = {.handle = handle, .partition = 1, .usage = 4, .flags = HE_KEY_PRIVATE | HE_KEY_TOKEN, .users = &user, .user_count = 1,
                        .material = {CKO_SECRET_KEY, CKK_GENERIC_SECRET, masked, len}};
    CHECK(he_key_load(engine, &key) == CKR_OK);
}

static void decide(const he_request *request)
{
    uint8_t out[256];
    struct wire_writer writer = wire_writer(out, sizeof out);
    struct wire_reader reader = wire_reader(request->payload, request->len);
    if (request->op == WIRE_OP_HELLO) {
        struct wire_hello_request hello;
        CHECK(wire_get_hello_request(&reader, &hello) == WIRE_OK);
        uint8_t cookie[16];
        CHECK(he_client_bind(engine, request->client, 1) == CKR_OK);
        CHECK(he_client_cookie(engine, request->client, cookie) == CKR_OK);
        const struct wire_hello_response response = {.client = request->client, .cookie = wire_bytes(cookie, 16), .partition_id = 1};
        CHECK(wire_put_hello_response(&writer, &response) == WIRE_OK);
        CHECK(he_reply(engine, request->id, CKR_OK, out, writer.len) == CKR_OK);
    } else if (request->op == WIRE_OP_LOGIN) {
        struct wire_login_request login;
        CHECK(wire_get_login_request(&reader, &login) == WIRE_OK);
        for (uint32_t i = 0; i < login.password.len; i++) {
            CHECK(login.password.data[i] == 0);
        }
        uint8_t hash[32], again[32], salt[16] = {0};
        size_t offset = (size_t)(login.password.data - request->payload);
        CHECK(he_password_hash(engine, request->id, offset, login.password.len, salt, hash) == CKR_OK);
        CHECK(he_password_hash(engine, request->id, offset, login.password.len - 1, salt, again) == CKR_OK);
        CHECK(memcmp(hash, again, sizeof hash) != 0);
        int found;
        CHECK(he_secret_contains(engine, request->id, offset, login.password.len, 's', &found) == CKR_OK && found);
        CHECK(he_secret_contains(engine, request->id, offset, request->len, 's', &found) == CKR_ARGUMENTS_BAD);
        CHECK(he_client_user(engine, request->client, 7, 2) == CKR_OK);
        const struct wire_login_response response = {.user_id = 7, .role = 2};
        CHECK(wire_put_login_response(&writer, &response) == WIRE_OK);
        CHECK(he_reply(engine, request->id, CKR_OK, out, writer.len) == CKR_OK);
    } else if (request->op == WIRE_OP_OPEN_SESSIONS) {
        struct wire_open_sessions_request sessions;
        CHECK(wire_get_open_sessions_request(&reader, &sessions) == WIRE_OK);
        for (uint32_t i = 0; i < sessions.ids.count; i++) {
            uint64_t id = wire_list_at(&sessions.ids, i);
            CHECK(he_client_open_sessions(engine, request->client, &id, 1) == CKR_OK);
        }
        CHECK(he_reply(engine, request->id, CKR_OK, NULL, 0) == CKR_OK);
    } else if (request->miss) {
        struct wire_sign_request sign;
        CHECK(wire_get_sign_request(&reader, &sign) == WIRE_OK);
        if (sign.key == 101) {
            load(101, 7);
            CHECK(he_retry(engine, request->id) == CKR_OK);
        } else {
            CHECK(he_reply(engine, request->id, CKR_KEY_HANDLE_INVALID, NULL, 0) == CKR_OK);
        }
    } else {
        CHECK(he_reply(engine, request->id, CKR_FUNCTION_FAILED, NULL, 0) == CKR_OK);
    }
}

static void *firmware(void *unused)
{
    he_request request;
    for (int got; (got = he_next(engine, &request, 100)) >= 0;) {
        if (got == 1 && request.op == HE_OP_CLIENT_GONE) {
            pthread_mutex_lock(&gone_lock);
            gone++;
            pthread_mutex_unlock(&gone_lock);
        } else if (got == 1) {
            decide(&request);
        }
    }
    return unused;
}

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

static uint64_t hello(int fd, struct wire_bytes cookie, uint8_t out_cookie[16])
{
    uint8_t payload[128], out[ROOM];
    size_t len;
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    const struct wire_hello_request request = {.version = 1, .cookie = cookie};
    CHECK(wire_put_hello_request(&writer, &request) == WIRE_OK);
    uint64_t rv = call(fd, WIRE_OP_HELLO, 0, payload, writer.len, out, &len);
    if (rv == CKR_OK) {
        struct wire_reader reader = wire_reader(out, len);
        struct wire_hello_response response;
        CHECK(wire_get_hello_response(&reader, &response) == WIRE_OK && response.cookie.len == 16);
        memcpy(out_cookie, response.cookie.data, 16);
    }
    return rv;
}

static void log_in(int fd)
{
    uint8_t payload[128], out[ROOM];
    size_t len;
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    const struct wire_login_request login = {CKU_USER, wire_bytes("alice", 5), wire_bytes("secret12", 8)};
    CHECK(wire_put_login_request(&writer, &login) == WIRE_OK);
    CHECK(call(fd, WIRE_OP_LOGIN, 0, payload, writer.len, out, &len) == CKR_OK);
    uint8_t one[16];
    struct wire_writer list = wire_writer(payload, sizeof payload);
    uint64_t id = htole64(1);
    memcpy(one, &id, 8);
    const struct wire_open_sessions_request sessions = {{one, 1}, {one, 1}};
    CHECK(wire_put_open_sessions_request(&list, &sessions) == WIRE_OK);
    CHECK(call(fd, WIRE_OP_OPEN_SESSIONS, 0, payload, list.len, out, &len) == CKR_OK);
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

static void wait_empty(void)
{
    he_counts counts = {0};
    for (int i = 0; i < 300; i++) {
        he_counters(engine, &counts);
        if (counts.clients == 0 && counts.connections == 0) {
            return;
        }
        usleep(10000);
    }
    CHECK(!"every client is gone");
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
    char error[256];
    const he_config config = {.workers = 2, .boot = 5, .max_connections = 64};
    engine = he_create(&config, error, sizeof error);
    CHECK(engine != NULL);
    CHECK(he_masking_create(engine) == CKR_OK);
    CHECK(he_epoch(engine) >> 32 == 5);
    snprintf(path, sizeof path, "/tmp/hsmsim-test-%d.sock", (int)getpid());
    CHECK(he_listen(engine, path) == CKR_OK && he_run(engine) == CKR_OK);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, firmware, NULL) == 0);
    }
    test_rights();
    test_pipelining();
    test_hostile();
    test_deaf_client();
    test_many();
    test_one_user_leaves_room();
    he_stop(engine);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    unlink(path);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* LeakSanitizer looks at its own process as a debugger does */
    puts("engine server: all as it should be");
    return 0;
}
