/* An engine with a socket, the firmware played by a thread, and a client's frames: for tests of the server. */
#ifndef ENGINE_FIXTURE_H
#define ENGINE_FIXTURE_H

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
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
static atomic_ullong latest; /* the client that said HELLO last */
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
        atomic_store(&latest, request->client);
        if (he_client_bind(engine, request->client, 1) != CKR_OK || he_client_cookie(engine, request->client, cookie) != CKR_OK) {
            he_reply(engine, request->id, CKR_DEVICE_REMOVED, NULL, 0); /* it was killed meanwhile */
            return;
        }
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
        uint64_t rv = he_client_user(engine, request->client, 7, 2); /* not CKR_OK: it was killed meanwhile */
        const struct wire_login_response response = {.user_id = 7, .role = 2};
        CHECK(wire_put_login_response(&writer, &response) == WIRE_OK);
        CHECK(he_reply(engine, request->id, rv, out, rv == CKR_OK ? writer.len : 0) == CKR_OK);
    } else if (request->op == WIRE_OP_OPEN_SESSIONS) {
        struct wire_open_sessions_request sessions;
        CHECK(wire_get_open_sessions_request(&reader, &sessions) == WIRE_OK);
        uint64_t rv = CKR_OK;
        for (uint32_t i = 0; i < sessions.ids.count && rv == CKR_OK; i++) {
            uint64_t id = wire_list_at(&sessions.ids, i);
            rv = he_client_open_sessions(engine, request->client, &id, 1);
        }
        CHECK(he_reply(engine, request->id, rv, NULL, 0) == CKR_OK);
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

static pthread_t firmware_threads[2];

static void name_socket(void)
{
    if (path[0] == '\0') {
        snprintf(path, sizeof path, "/tmp/hsmsim-test-%d.sock", (int)getpid());
    }
}

static void start_engine(void)
{
    char error[256];
    const he_config config = {.workers = 2, .boot = 5, .max_connections = 64};
    engine = he_create(&config, error, sizeof error);
    CHECK(engine != NULL);
    CHECK(he_masking_create(engine) == CKR_OK);
    CHECK(he_epoch(engine) >> 32 == 5);
    name_socket();
    CHECK(he_listen(engine, path) == CKR_OK && he_run(engine) == CKR_OK);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&firmware_threads[i], NULL, firmware, NULL) == 0);
    }
}

static void end_engine(void)
{
    he_stop(engine);
    for (int i = 0; i < 2; i++) {
        pthread_join(firmware_threads[i], NULL);
    }
    unlink(path);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* LeakSanitizer looks at its own process as a debugger does */
}

#endif
