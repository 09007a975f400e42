/* A hostile client of the engine's server, over a real socket; a thread plays the firmware. Input: u8 how far the connection
 * has come (nothing, HELLO, logged in with session 1), then records: u8 kind, u16 length, bytes.
 *   RAW     the bytes as they are
 *   FRAME   u16 operation, payload: with a good header
 *   SPLIT   a frame again, its first u16 bytes first, the rest when the server has taken those
 * The server must answer in frames and end the connection when the client does; others must be served meanwhile. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/sockios.h>
#include <openssl/crypto.h>

#include "engine.h"
#include "fuzz.h"
#include "messages.h"
#include "pkcs11.h"

enum { PATIENCE_MS = 15000, SESSION = 1, USER = 7, EVERY_USE = 0x1FF, ON_DEMAND = 199, MASKED = 4096, FRAME_MAX = 1 << 17 };

static he_engine *engine;
static char path[64];
static int witness; /* a connection that must be served whatever happens on the other */

/* ---- the firmware -------------------------------------------------------------------------------------------------- */

static struct {
    uint64_t handle;
    he_material material;
    uint8_t bytes[MASKED];
} keys[] = {
    {100, {CKO_SECRET_KEY, CKK_GENERIC_SECRET, NULL, 0}, {0}}, {101, {CKO_SECRET_KEY, CKK_AES, NULL, 0}, {0}},
    {102, {CKO_PRIVATE_KEY, CKK_RSA, NULL, 0}, {0}},           {103, {CKO_PUBLIC_KEY, CKK_RSA, NULL, 0}, {0}},
    {104, {CKO_PRIVATE_KEY, CKK_EC, NULL, 0}, {0}},            {105, {CKO_PUBLIC_KEY, CKK_EC, NULL, 0}, {0}},
    {106, {CKO_PRIVATE_KEY, CKK_EC_EDWARDS, NULL, 0}, {0}},    {107, {CKO_PUBLIC_KEY, CKK_EC_EDWARDS, NULL, 0}, {0}},
};
enum { KEYS = sizeof keys / sizeof *keys };

static void load(uint64_t handle, const he_material *material)
{
    static const uint64_t user = USER;
    const he_key key = {.handle = handle, .partition = 1, .usage = EVERY_USE, .flags = HE_KEY_PRIVATE | HE_KEY_TOKEN,
                        .users = &user, .user_count = 1, .material = *material};
    FUZZ_CHECK(he_key_load(engine, &key) == CKR_OK);
}

static void make_keys(void)
{
    static const uint8_t p256[] = {0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07};
    static const uint8_t ed25519[] = {0x06, 0x03, 0x2B, 0x65, 0x70}, size[] = {32, 0, 0, 0}, rsa[] = {0, 8, 0, 0, 1, 0, 1};
    static const struct wire_bytes parameters[KEYS] = {{size, sizeof size}, {size, sizeof size}, {rsa, sizeof rsa}, {NULL, 0},
                                                       {p256, sizeof p256}, {NULL, 0}, {ed25519, sizeof ed25519}, {NULL, 0}};
    for (size_t i = 0; i < KEYS; i++) {
        he_material *material = &keys[i].material;
        material->len = MASKED;
        uint64_t rv = material->object_class == CKO_PUBLIC_KEY
                          ? he_public(engine, &keys[i - 1].material, keys[i].bytes, &material->len)
                          : he_generate(engine, material->key_type, parameters[i].data, parameters[i].len, keys[i].bytes,
                                        &material->len);
        FUZZ_CHECK(rv == CKR_OK);
        material->data = keys[i].bytes;
        load(keys[i].handle, material);
    }
}

static uint64_t list_call(const struct wire_list *ids, uint64_t client,
                          uint64_t (*call)(he_engine *, uint64_t, const uint64_t *, size_t))
{
    uint64_t all[WIRE_MAX_SESSIONS];
    if (ids->count > WIRE_MAX_SESSIONS) {
        return CKR_SESSION_COUNT;
    }
    for (uint32_t i = 0; i < ids->count; i++) {
        all[i] = wire_list_at(ids, i);
    }
    return call(engine, client, all, ids->count);
}

/* The request's template as a key. Which kind, the firmware would read from it; here it goes with the session. */
static uint64_t create(const he_request *request)
{
    static const uint64_t classes[] = {CKO_SECRET_KEY, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY};
    static const uint64_t types[] = {CKK_RSA, CKK_EC, CKK_EC_EDWARDS, CKK_AES};
    uint8_t out[MASKED];
    size_t len = sizeof out;
    return he_import(engine, request->id, 0, classes[request->session % 3], types[request->session / 3 % 4], out, &len);
}

static uint64_t answer_hello(const he_request *request, struct wire_writer *writer)
{
    uint8_t cookie[16];
    FUZZ_CHECK(he_client_bind(engine, request->client, 1) == CKR_OK);
    FUZZ_CHECK(he_client_cookie(engine, request->client, cookie) == CKR_OK);
    const struct wire_hello_response response = {.client = request->client, .cookie = {cookie, sizeof cookie}, .partition_id = 1};
    FUZZ_CHECK(wire_put_hello_response(writer, &response) == WIRE_OK);
    return CKR_OK;
}

static uint64_t answer_login(const he_request *request, struct wire_reader *reader)
{
    struct wire_login_request login;
    int found;
    FUZZ_CHECK(wire_get_login_request(reader, &login) == WIRE_OK);
    for (uint32_t i = 0; i < login.password.len; i++) {
        FUZZ_CHECK(login.password.data[i] == 0);
    }
    size_t offset = login.password.len == 0 ? 0 : (size_t)(login.password.data - request->payload);
    FUZZ_CHECK(he_secret_contains(engine, request->id, offset, login.password.len, ':', &found) == CKR_OK);
    return he_client_user(engine, request->client, USER, 2);
}

/* Requests are well formed here: the engine refuses others (fuzz_wire_messages shows that redaction checks as decoders do). */
static void decide(const he_request *request)
{
    uint8_t out[256];
    struct wire_writer writer = wire_writer(out, sizeof out);
    struct wire_reader reader = wire_reader(request->payload, request->len);
    union {
        struct wire_open_sessions_request open;
        struct wire_close_sessions_request close;
    } as;
    uint64_t rv = CKR_FUNCTION_FAILED;
    if (request->miss) {
        uint64_t key;
        FUZZ_CHECK(wire_get_u64(&reader, &key) == WIRE_OK);
        if (key == ON_DEMAND) {
            load(ON_DEMAND, &keys[0].material);
            FUZZ_CHECK(he_retry(engine, request->id) == CKR_OK);
            return;
        }
        rv = CKR_KEY_HANDLE_INVALID;
    } else if (request->op == WIRE_OP_HELLO) {
        rv = answer_hello(request, &writer);
    } else if (request->op == WIRE_OP_LOGIN) {
        rv = answer_login(request, &reader);
    } else if (request->op == WIRE_OP_LOGOUT) {
        rv = he_client_user(engine, request->client, 0, 0);
    } else if (request->op == WIRE_OP_OPEN_SESSIONS) {
        FUZZ_CHECK(wire_get_open_sessions_request(&reader, &as.open) == WIRE_OK);
        rv = list_call(&as.open.ids, request->client, he_client_open_sessions);
    } else if (request->op == WIRE_OP_CLOSE_SESSIONS) {
        FUZZ_CHECK(wire_get_close_sessions_request(&reader, &as.close) == WIRE_OK);
        rv = list_call(&as.close.ids, request->client, he_client_close_sessions);
    } else if (request->op == WIRE_OP_CREATE_OBJECT) {
        rv = create(request);
    } else if (request->op == WIRE_OP_DESTROY_OBJECT) {
        rv = he_key_drop(engine, ON_DEMAND);
    } else if (request->op == WIRE_OP_USER_DELETE) {
        FUZZ_CHECK(he_client_kick(engine, request->client) == CKR_OK);
    }
    FUZZ_CHECK(he_reply(engine, request->id, rv, out, writer.len) == CKR_OK);
}

static void *firmware(void *unused)
{
    he_request request;
    for (int got; (got = he_next(engine, &request, 1000)) >= 0;) {
        if (got == 1 && request.op != HE_OP_CLIENT_GONE) {
            decide(&request);
        }
    }
    return unused;
}

/* ---- the client ---------------------------------------------------------------------------------------------------- */

/* What came back so far, as frames. */
struct answers {
    uint8_t header[WIRE_HEADER_SIZE];
    size_t have, skip, frames;
};

static void take_answers(struct answers *answers, const uint8_t *data, size_t len)
{
    while (len > 0) {
        size_t *left = &answers->skip, want = WIRE_HEADER_SIZE - answers->have;
        size_t some = *left != 0 ? (*left < len ? *left : len) : (want < len ? want : len);
        if (*left != 0) {
            *left -= some;
        } else {
            memcpy(answers->header + answers->have, data, some);
            answers->have += some;
        }
        data += some;
        len -= some;
        if (answers->have == WIRE_HEADER_SIZE) {
            struct wire_header header;
            FUZZ_CHECK(wire_get_header(answers->header, &header) == WIRE_OK);
            FUZZ_CHECK((header.op & WIRE_RESPONSE) != 0 && header.epoch != 0);
            answers->skip = header.length;
            answers->have = 0;
            answers->frames++;
        }
    }
}

/* false: the server has ended the connection. */
static bool exchange(int fd, const uint8_t *data, size_t len, struct answers *answers, short wait_for)
{
    static uint8_t buffer[1 << 17];
    while (len > 0 || wait_for != 0) {
        struct pollfd one = {.fd = fd, .events = (short)(POLLIN | (len > 0 ? POLLOUT : 0))};
        int ready = poll(&one, 1, PATIENCE_MS);
        if (ready < 0 && errno == EINTR) { /* libFuzzer's timer */
            continue;
        }
        FUZZ_CHECK(ready > 0); /* else the server hangs */
        if ((one.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (got <= 0) {
                return false;
            }
            take_answers(answers, buffer, (size_t)got);
            if (wait_for == POLLIN && len == 0 && answers->have == 0 && answers->skip == 0) {
                return true;
            }
        } else {
            ssize_t sent = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent <= 0) {
                return false;
            }
            data += sent;
            len -= (size_t)sent;
        }
    }
    return true;
}

/* Waits a moment until the server has taken what was sent, so that a split is one. */
static void settle(int fd)
{
    int queued = 1;
    for (int i = 0; i < 100 && queued != 0 && ioctl(fd, SIOCOUTQ, &queued) == 0; i++) {
        sched_yield();
    }
}

static size_t make_frame(uint8_t *out, uint16_t op, struct wire_bytes payload)
{
    static uint64_t seq;
    const struct wire_header header = {.length = payload.len, .op = op, .seq = ++seq, .word = SESSION};
    wire_set_header(out, &header);
    wire_copy(out + WIRE_HEADER_SIZE, payload);
    return WIRE_HEADER_SIZE + payload.len;
}

static bool call(int fd, uint16_t op, const void *payload, size_t len)
{
    uint8_t frame[256];
    struct answers answers = {0};
    return exchange(fd, frame, make_frame(frame, op, wire_bytes(payload, (uint32_t)len)), &answers, POLLIN);
}

static int connected(unsigned far)
{
    static const uint8_t session[] = {1, 0, 0, 0, SESSION, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0};
    uint8_t payload[128];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    FUZZ_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    if (far >= 1) {
        struct wire_writer writer = wire_writer(payload, sizeof payload);
        const struct wire_hello_request hello = {.version = 1};
        FUZZ_CHECK(wire_put_hello_request(&writer, &hello) == WIRE_OK && call(fd, WIRE_OP_HELLO, payload, writer.len));
    }
    if (far >= 2) {
        struct wire_writer writer = wire_writer(payload, sizeof payload);
        const struct wire_login_request login = {CKU_USER, wire_bytes("alice", 5), wire_bytes("secret12", 8)};
        FUZZ_CHECK(wire_put_login_request(&writer, &login) == WIRE_OK && call(fd, WIRE_OP_LOGIN, payload, writer.len));
        FUZZ_CHECK(call(fd, WIRE_OP_OPEN_SESSIONS, session, sizeof session));
    }
    return fd;
}

static bool send_record(int fd, struct wire_reader *input, struct answers *answers)
{
    enum { RAW, FRAME, SPLIT, KINDS };
    static uint8_t frame[FRAME_MAX];
    uint64_t kind = fuzz_number(input, 1) % KINDS;
    uint16_t op = kind == RAW ? 0 : (uint16_t)fuzz_number(input, 2);
    size_t cut = kind == SPLIT ? fuzz_number(input, 2) : 0;
    struct wire_bytes bytes = fuzz_bytes(input, fuzz_number(input, 2));
    if (kind == RAW) {
        return exchange(fd, bytes.data, bytes.len, answers, 0);
    }
    size_t len = make_frame(frame, op, bytes);
    cut = cut < len ? cut : len;
    if (!exchange(fd, frame, cut, answers, 0)) {
        return false;
    }
    if (cut != 0) {
        settle(fd);
    }
    return exchange(fd, frame + cut, len - cut, answers, 0);
}

static pthread_t firmware_thread;

/* Before OpenSSL's own handlers: its tables go at the exit, whoever still uses them. */
static void stop(void)
{
    he_stop(engine);
    pthread_join(firmware_thread, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const he_config config = {.workers = 2, .boot = 5, .max_connections = 16};
    char error[256];
    (void)argc;
    (void)argv;
    engine = he_create(&config, error, sizeof error);
    FUZZ_CHECK(engine != NULL && he_masking_create(engine) == CKR_OK);
    void *secret = OPENSSL_secure_malloc(16);
    fuzz_scan_mapping_of(secret);
    OPENSSL_secure_free(secret);
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* LeakSanitizer looks at its own process as a debugger does */
    make_keys();
    snprintf(path, sizeof path, "/tmp/hsmsim-fuzz-%d.sock", (int)getpid());
    FUZZ_CHECK(he_listen(engine, path) == CKR_OK && he_run(engine) == CKR_OK);
    FUZZ_CHECK(pthread_create(&firmware_thread, NULL, firmware, NULL) == 0 && atexit(stop) == 0);
    witness = connected(2);
    return 0;
}

__attribute__((destructor)) static void remove_socket(void)
{
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader input = wire_reader(data, size);
    struct answers answers = {0};
    int fd = connected((unsigned)fuzz_number(&input, 1) % 3);
    bool there = true;
    while (there && wire_left(&input) != 0) {
        there = send_record(fd, &input, &answers);
    }
    if (there) {
        shutdown(fd, SHUT_WR);
        there = exchange(fd, NULL, 0, &answers, POLLHUP);
        FUZZ_CHECK(!there);
    }
    close(fd);
    FUZZ_CHECK(call(witness, WIRE_OP_PING, NULL, 0));
    return 0;
}
