#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "hot.h"
#include "pkcs11.h"

enum {
    WORKERS_MAX = 64,
    HELD_MAX = 4,
    HOLD_NS = 50000,
    OUT_LIMIT = 65536, /* answers that may wait before no more requests are taken */
    READ_SIZE = 8192,
    OUT_SLACK = 72 * 1024, /* what an answer may need beyond its request: random's 64 KiB, a signature, a tag */
    KEEP_SIZE = 1 << 20,   /* buffers above this are given back after use */
    LISTENER = 0xFFFFFFFF, /* epoll tags beside the slots */
    STOPPER = 0xFFFFFFFE,
};

/* A slot is never freed; `generation` tells a connection from the one that had the slot before. */
struct connection {
    pthread_mutex_t lock;
    uint32_t index, generation;
    int fd; /* -1: free */
    struct client *client;
    struct server *server;
    int32_t pid;
    uint32_t uid;
    bool waiting; /* for Python */
    bool drained; /* the last recv took all there was */
    uint8_t *in;
    size_t in_at, in_len, in_cap;
    uint8_t *out;
    size_t out_at, out_len, out_cap;
    uint32_t next_free;
    bool taken; /* this and the owner are under the server's lock */
    uint32_t owner;
};

struct worker {
    pthread_t thread;
    struct server *server;
    struct crypto_worker *crypto;
    uint8_t *buffer; /* the answer under construction, header first */
    size_t cap;
    struct connection *held[HELD_MAX]; /* locked, answered, not sent yet */
    uint32_t held_count;
};

struct server {
    struct server_parts parts;
    int epoll, listener, stopper;
    pthread_mutex_t lock; /* free list and counts */
    struct connection *slots;
    uint32_t free, open;
    struct worker workers[WORKERS_MAX];
    uint32_t running;
    atomic_ullong hot, misses, refused;
};

struct server *server_new(const struct server_parts *parts)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return NULL;
    }
    server->parts = *parts;
    uint32_t max = parts->max_connections;
    server->slots = calloc(max, sizeof *server->slots);
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    server->stopper = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->listener = -1;
    if (server->slots == NULL || server->epoll < 0 || server->stopper < 0) {
        return NULL;
    }
    for (uint32_t i = 0; i < max; i++) {
        server->slots[i] = (struct connection){.index = i, .fd = -1, .server = server, .next_free = i + 1};
        pthread_mutex_init(&server->slots[i].lock, NULL);
    }
    pthread_mutex_init(&server->lock, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = STOPPER};
    epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->stopper, &event);
    return server;
}

uint64_t server_listen(struct server *server, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        return CKR_ARGUMENTS_BAD;
    }
    strcpy(address.sun_path, path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = LISTENER};
    bool fine = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && chmod(path, 0666) == 0 &&
                listen(fd, SOMAXCONN) == 0 && epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
    if (!fine) {
        if (fd >= 0) {
            close(fd);
        }
        return CKR_FUNCTION_FAILED;
    }
    server->listener = fd;
    return CKR_OK;
}

/* ---- a connection; its lock is held ----------------------------------------------------------------------------- */

static void drop(struct connection *connection)
{
    struct server *server = connection->server;
    struct client *client = connection->client;
    close(connection->fd); /* leaves the epoll set with it */
    connection->fd = -1;
    connection->generation++;
    connection->client = NULL;
    connection->waiting = false;
    if (connection->in != NULL) {
        OPENSSL_cleanse(connection->in, connection->in_cap);
    }
    if (connection->out != NULL) {
        OPENSSL_cleanse(connection->out, connection->out_cap);
    }
    free(connection->in);
    free(connection->out);
    connection->in = connection->out = NULL;
    connection->in_at = connection->in_len = connection->in_cap = 0;
    connection->out_at = connection->out_len = connection->out_cap = 0;
    pthread_mutex_lock(&server->lock);
    connection->taken = false;
    connection->next_free = server->free;
    server->free = connection->index;
    server->open--;
    pthread_mutex_unlock(&server->lock);
    if (client == NULL) {
        return;
    }
    struct held *event = rights_client_left(server->parts.rights, client) ? calloc(1, sizeof *event) : NULL;
    if (event != NULL) { /* the reference goes with it */
        event->client = client;
        event->header.op = HE_OP_CLIENT_GONE;
        event->connection = NULL;
        queue_put(server->parts.queue, event);
    } else {
        rights_client_release(server->parts.rights, client);
    }
}

static void arm(struct connection *connection)
{
    bool pending = connection->out_len != 0;
    bool buffered = connection->in_len != connection->in_at;
    struct epoll_event event = {.events = EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | connection->index};
    if (!connection->waiting) {
        /* frames that wait in the buffer are looked at as soon as the socket takes answers */
        event.events |= pending || (buffered && !connection->drained) ? EPOLLOUT : EPOLLIN;
    }
    epoll_ctl(connection->server->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

/* false: the connection is broken. */
static bool flush(struct connection *connection)
{
    while (connection->out_at < connection->out_len) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_at, connection->out_len - connection->out_at,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        connection->out_at += (size_t)sent;
    }
    if (connection->out_len != 0) {
        OPENSSL_cleanse(connection->out, connection->out_len); /* a decrypted key, an attribute's value */
    }
    if (connection->out_cap > KEEP_SIZE) {
        free(connection->out);
        connection->out = NULL;
        connection->out_cap = 0;
    }
    connection->out_at = connection->out_len = 0;
    return true;
}

/* Answers wait in the connection's buffer until serve_all sends them: see there. */
static bool queue_frame(struct connection *connection, const uint8_t *frame, size_t len)
{
    if (connection->out_cap - connection->out_len < len) {
        size_t cap = (connection->out_len + len) * 2;
        uint8_t *larger = malloc(cap);
        if (larger == NULL) {
            return false;
        }
        if (connection->out != NULL) {
            memcpy(larger, connection->out, connection->out_len);
            OPENSSL_cleanse(connection->out, connection->out_cap);
            free(connection->out);
        }
        connection->out = larger;
        connection->out_cap = cap;
    }
    memcpy(connection->out + connection->out_len, frame, len);
    connection->out_len += len;
    return true;
}

static bool respond(struct connection *connection, const struct wire_header *request, uint64_t rv, uint8_t *frame, size_t payload)
{
    const struct wire_header header = {
        .length = (uint32_t)payload,
        .op = (uint16_t)(request->op | WIRE_RESPONSE),
        .seq = request->seq,
        .word = rv,
        .epoch = atomic_load(connection->server->parts.epoch),
    };
    wire_set_header(frame, &header);
    return queue_frame(connection, frame, WIRE_HEADER_SIZE + payload);
}

static bool reserve(struct connection *connection, size_t cap)
{
    if (cap <= connection->in_cap) {
        return true;
    }
    uint8_t *larger = malloc(cap);
    if (larger == NULL) {
        return false;
    }
    if (connection->in != NULL) {
        memcpy(larger, connection->in, connection->in_len);
        OPENSSL_cleanse(connection->in, connection->in_cap);
        free(connection->in);
    }
    connection->in = larger;
    connection->in_cap = cap;
    return true;
}

enum progress { NEED_MORE, FRAME, BROKEN };

/* A complete frame at in_at, or why not. */
static enum progress look(struct connection *connection, struct wire_header *header)
{
    size_t buffered = connection->in_len - connection->in_at;
    if (buffered < WIRE_HEADER_SIZE) {
        return NEED_MORE;
    }
    if (wire_get_header(connection->in + connection->in_at, header) != WIRE_OK) {
        return BROKEN;
    }
    bool large = connection->client != NULL && header->length > WIRE_MAX_FRAME_OPEN &&
                 rights_large_frames(connection->server->parts.rights, connection->client);
    if (header->length > (large ? WIRE_MAX_FRAME_USER : WIRE_MAX_FRAME_OPEN)) {
        return BROKEN;
    }
    if (buffered >= WIRE_HEADER_SIZE + (size_t)header->length) {
        return FRAME;
    }
    if (connection->in_at != 0) {
        memmove(connection->in, connection->in + connection->in_at, buffered);
        connection->in_len = buffered;
        connection->in_at = 0;
    }
    return reserve(connection, WIRE_HEADER_SIZE + (size_t)header->length) ? NEED_MORE : BROKEN;
}

static enum progress receive(struct connection *connection)
{
    if (connection->in_at == connection->in_len) {
        connection->in_at = connection->in_len = 0;
    }
    if (connection->in_len == connection->in_cap && connection->in_at != 0) {
        memmove(connection->in, connection->in + connection->in_at, connection->in_len - connection->in_at);
        connection->in_len -= connection->in_at;
        connection->in_at = 0;
    }
    if (!reserve(connection, READ_SIZE)) {
        return BROKEN;
    }
    size_t room = connection->in_cap - connection->in_len;
    ssize_t got = recv(connection->fd, connection->in + connection->in_len, room, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        connection->drained = true;
        return NEED_MORE;
    }
    if (got <= 0) {
        return BROKEN;
    }
    connection->drained = (size_t)got < room;
    connection->in_len += (size_t)got;
    return FRAME;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static bool answer_code(struct connection *connection, const struct wire_header *header, uint64_t rv)
{
    uint8_t frame[WIRE_HEADER_SIZE];
    return respond(connection, header, rv, frame, 0);
}

/* Hands a request to Python and parks the connection. */
static bool ask_firmware(struct connection *connection, const struct wire_header *header, const struct wire_op_info *info,
                         const uint8_t *payload, bool miss)
{
    struct server *server = connection->server;
    struct held *held = calloc(1, sizeof *held);
    size_t len = header->length;
    if (held == NULL || (held->redacted = malloc(len + 1)) == NULL || !secret_alloc(&held->payload, len + 1)) {
        if (held != NULL) {
            held_free(held);
        }
        return answer_code(connection, header, CKR_DEVICE_MEMORY);
    }
    if (len != 0) {
        memcpy(held->payload.data, payload, len);
    }
    held->len = len;
    if (redact(info->request_fields, held->payload.data, len, held->redacted) != WIRE_OK) {
        held_free(held);
        return false;
    }
    held->connection = connection;
    held->generation = connection->generation;
    held->client = connection->client == NULL ? NULL : rights_client_hold(server->parts.rights, connection->client->id);
    held->header = *header;
    held->miss = miss;
    held->pid = connection->pid;
    held->uid = connection->uid;
    connection->waiting = true;
    queue_put(server->parts.queue, held);
    return true;
}

/* The first frame: a client of its own, or one that is there already. */
static bool meet(struct connection *connection, const struct wire_header *header, const uint8_t *payload)
{
    struct rights *rights = connection->server->parts.rights;
    struct wire_reader reader = wire_reader(payload, header->length);
    struct wire_hello_request hello;
    if (connection->client != NULL || wire_get_hello_request(&reader, &hello) != WIRE_OK) {
        return false;
    }
    connection->client = hello.cookie.len == 0 ? rights_client_add(rights) : rights_client_join(rights, hello.cookie.data, hello.cookie.len);
    return connection->client != NULL || answer_code(connection, header, CKR_ARGUMENTS_BAD);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool lease_over(struct server *server)
{
    uint64_t until = atomic_load_explicit(server->parts.serve_until, memory_order_relaxed);
    if (until == UINT64_MAX) {
        return false;
    }
    return now_ns() > until;
}

static bool worker_room(struct worker *worker, size_t cap)
{
    if (cap <= worker->cap) {
        return true;
    }
    uint8_t *larger = malloc(cap);
    if (larger == NULL) {
        return false;
    }
    if (worker->buffer != NULL) {
        OPENSSL_cleanse(worker->buffer, worker->cap);
    }
    free(worker->buffer);
    worker->buffer = larger;
    worker->cap = cap;
    return true;
}

static bool run_hot(struct worker *worker, struct connection *connection, const struct wire_header *header,
                    const struct wire_op_info *info, const uint8_t *payload)
{
    struct server *server = connection->server;
    bool keyed = hot_keyed(header->op);
    atomic_fetch_add_explicit(&server->hot, 1, memory_order_relaxed);
    if (keyed && lease_over(server)) {
        return answer_code(connection, header, CKR_DEVICE_ERROR);
    }
    if (keyed && server->parts.reference) {
        return ask_firmware(connection, header, info, payload, true);
    }
    if (!worker_room(worker, WIRE_HEADER_SIZE + header->length + OUT_SLACK)) {
        return answer_code(connection, header, CKR_DEVICE_MEMORY);
    }
    struct wire_writer out = wire_writer(worker->buffer + WIRE_HEADER_SIZE, worker->cap - WIRE_HEADER_SIZE);
    bool miss, malformed;
    uint64_t rv = hot_run(server->parts.rights, worker->crypto, connection->client, header->op, header->word, payload,
                          header->length, &out, &miss, &malformed);
    if (miss) {
        atomic_fetch_add_explicit(&server->misses, 1, memory_order_relaxed);
        return ask_firmware(connection, header, info, payload, true);
    }
    bool fine = !malformed && respond(connection, header, rv, worker->buffer, rv == CKR_OK ? out.len : 0);
    OPENSSL_cleanse(worker->buffer, WIRE_HEADER_SIZE + out.len);
    return fine;
}

/* false: the frame is not one that a client of ours sends; the connection ends. */
static bool handle(struct worker *worker, struct connection *connection, const struct wire_header *header, const uint8_t *payload)
{
    struct server *server = connection->server;
    const struct wire_op_info *info = wire_op_find(header->op);
    if (info == NULL || header->epoch != 0) {
        return false;
    }
    if (header->op == WIRE_OP_HELLO && !meet(connection, header, payload)) {
        return false;
    }
    if (header->op == WIRE_OP_HELLO && connection->client == NULL) {
        return true; /* refused, answered */
    }
    if (info->access != WIRE_ACCESS_NONE) {
        if (connection->client == NULL) {
            return false;
        }
        uint64_t rv = rights_access(server->parts.rights, connection->client, info->access);
        if (rv != CKR_OK) {
            return answer_code(connection, header, rv);
        }
    }
    if (info->path == WIRE_PATH_HOT) {
        return run_hot(worker, connection, header, info, payload);
    }
    return ask_firmware(connection, header, info, payload, false);
}

static bool serve_frames(struct worker *worker, struct connection *connection)
{
    if (!flush(connection)) {
        return false;
    }
    connection->drained = connection->out_len != 0; /* a client that does not read is not read from */
    while (connection->out_len < OUT_LIMIT && !connection->waiting) {
        struct wire_header header;
        enum progress progress = look(connection, &header);
        if (progress == NEED_MORE) {
            if (connection->drained) {
                return true; /* what comes meanwhile wakes a worker again */
            }
            progress = receive(connection);
            if (progress == FRAME) {
                continue;
            }
        }
        if (progress != FRAME) {
            return progress == NEED_MORE;
        }
        const uint8_t *payload = connection->in + connection->in_at + WIRE_HEADER_SIZE;
        connection->in_at += WIRE_HEADER_SIZE + (size_t)header.length;
        if (!handle(worker, connection, &header, payload)) {
            atomic_fetch_add(&connection->server->refused, 1);
            return false;
        }
        OPENSSL_cleanse((uint8_t *)(uintptr_t)payload, header.length); /* what is encrypted here may be a key, too */
    }
    connection->drained = false; /* whole frames may be left in the buffer */
    return true;
}

static void give_back(struct connection *connection)
{
    if (connection->in_cap > KEEP_SIZE && connection->in_at == connection->in_len) {
        OPENSSL_cleanse(connection->in, connection->in_cap);
        free(connection->in);
        connection->in = NULL;
        connection->in_at = connection->in_len = connection->in_cap = 0;
    }
}

static void send_held(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->held_count; i++) {
        struct connection *connection = worker->held[i];
        if (flush(connection)) {
            give_back(connection);
            arm(connection);
        } else {
            drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
    worker->held_count = 0;
}

/* Takes up what a ready connection has; true: it stays locked, with answers to send. */
static bool serve(struct worker *worker, uint32_t index, uint32_t generation, uint32_t events)
{
    struct connection *connection = &worker->server->slots[index];
    if (pthread_mutex_trylock(&connection->lock) != 0) {
        send_held(worker); /* nobody waits for a connection while others wait for his */
        pthread_mutex_lock(&connection->lock);
    }
    if (connection->fd >= 0 && connection->generation == generation) {
        bool hung_up = connection->waiting && (events & (EPOLLHUP | EPOLLERR)) != 0;
        bool kicked = connection->client != NULL && rights_kicked(worker->server->parts.rights, connection->client);
        if (!hung_up && !kicked && serve_frames(worker, connection)) {
            worker->held[worker->held_count++] = connection;
            return true;
        }
        drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
    return false;
}

/* A user may have as many connections as are left for others, so that none can shut the others out; root and the HSMs' own
 * user have all. The server's lock is held. */
static bool room_for(const struct server *server, uint32_t uid)
{
    uint32_t own = 0;
    for (uint32_t i = 0; i < server->parts.max_connections; i++) {
        own += server->slots[i].taken && server->slots[i].owner == uid;
    }
    return uid == 0 || uid == geteuid() || own < server->parts.max_connections - server->open;
}

static bool admit(struct server *server, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
        return false;
    }
    pthread_mutex_lock(&server->lock);
    uint32_t index = server->free;
    bool room = index < server->parts.max_connections && room_for(server, peer.uid);
    if (room) {
        server->slots[index].taken = true;
        server->slots[index].owner = peer.uid;
        server->free = server->slots[index].next_free;
        server->open++;
    }
    pthread_mutex_unlock(&server->lock);
    if (!room) {
        return false;
    }
    struct connection *connection = &server->slots[index];
    pthread_mutex_lock(&connection->lock);
    connection->fd = fd;
    connection->pid = peer.pid;
    connection->uid = peer.uid;
    connection->drained = false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | index};
    if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
    return true;
}

static void accept_some(struct server *server)
{
    for (int i = 0; i < 16; i++) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        if (!admit(server, fd)) {
            close(fd);
        }
    }
}

/* While other requests are ready, answers are held for a moment and sent together: each send wakes a client, who may take
 * this thread's processor at once, and a switch there and back costs as much as a signature. */
static void *work(void *argument)
{
    struct worker *worker = argument;
    struct server *server = worker->server;
    uint64_t since = 0;
    for (;;) {
        struct epoll_event event;
        int n = epoll_wait(server->epoll, &event, 1, worker->held_count == 0 ? -1 : 0);
        if (n <= 0) {
            send_held(worker);
            continue;
        }
        uint32_t index = (uint32_t)event.data.u64;
        if (index == STOPPER) {
            send_held(worker);
            return NULL;
        }
        if (index == LISTENER) {
            send_held(worker);
            accept_some(server);
        } else if (serve(worker, index, (uint32_t)(event.data.u64 >> 32), event.events)) {
            uint64_t now = now_ns();
            since = worker->held_count == 1 ? now : since;
            if (worker->held_count == HELD_MAX || now - since > HOLD_NS) {
                send_held(worker);
            }
        }
    }
}

uint64_t server_run(struct server *server)
{
    uint32_t count = server->parts.workers;
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online < 1 ? 1 : (uint32_t)online;
    }
    count = count > WORKERS_MAX ? WORKERS_MAX : count;
    for (uint32_t i = 0; i < count; i++) {
        struct worker *worker = &server->workers[i];
        worker->server = server;
        worker->crypto = crypto_worker_new();
        if (worker->crypto == NULL || pthread_create(&worker->thread, NULL, work, worker) != 0) {
            return CKR_HOST_MEMORY;
        }
        server->running++;
    }
    return CKR_OK;
}

void server_stop(struct server *server)
{
    uint64_t one = 1;
    if (write(server->stopper, &one, sizeof one) < 0) {
        return; /* already signalled */
    }
    for (uint32_t i = 0; i < server->running; i++) {
        pthread_join(server->workers[i].thread, NULL);
    }
    server->running = 0;
    if (server->listener >= 0) {
        close(server->listener);
        server->listener = -1;
    }
    for (uint32_t i = 0; i < server->parts.max_connections; i++) {
        struct connection *connection = &server->slots[i];
        pthread_mutex_lock(&connection->lock);
        if (connection->fd >= 0) {
            drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

/* ---- answers from Python ----------------------------------------------------------------------------------------------- */

static bool still_there(const struct held *held)
{
    return held->connection != NULL && held->connection->fd >= 0 && held->connection->generation == held->generation;
}

static void finish(struct server *server, struct held *held)
{
    if (held->client != NULL) {
        rights_client_release(server->parts.rights, held->client);
    }
    held_free(held);
}

void server_answer(struct server *server, struct held *held, uint64_t rv, const uint8_t *payload, size_t len)
{
    struct connection *connection = held->connection;
    uint8_t *frame = connection == NULL ? NULL : malloc(WIRE_HEADER_SIZE + len);
    if (frame != NULL) {
        if (len != 0) {
            memcpy(frame + WIRE_HEADER_SIZE, payload, len);
        }
        pthread_mutex_lock(&connection->lock);
        if (still_there(held)) {
            connection->waiting = false;
            if (respond(connection, &held->header, rv, frame, len) && flush(connection)) {
                connection->drained = false; /* look again: more frames may be buffered */
                arm(connection);
            } else {
                drop(connection);
            }
        }
        pthread_mutex_unlock(&connection->lock);
        OPENSSL_cleanse(frame, WIRE_HEADER_SIZE + len);
        free(frame);
    }
    finish(server, held);
}

void server_retry(struct server *server, struct held *held)
{
    struct crypto_worker *crypto = crypto_worker_new();
    size_t cap = held->len + OUT_SLACK;
    uint8_t *buffer = crypto == NULL || held->client == NULL ? NULL : malloc(cap);
    if (buffer == NULL) {
        crypto_worker_free(crypto);
        server_answer(server, held, CKR_DEVICE_MEMORY, NULL, 0);
        return;
    }
    struct wire_writer out = wire_writer(buffer, cap);
    bool miss, malformed;
    uint64_t rv = lease_over(server) ? CKR_DEVICE_ERROR
                                     : hot_run(server->parts.rights, crypto, held->client, held->header.op, held->header.word,
                                               held->payload.data, held->len, &out, &miss, &malformed);
    if (rv == CKR_OK && miss) { /* evicted or dropped since: the firmware decides again */
        queue_put(server->parts.queue, held);
    } else {
        server_answer(server, held, rv, buffer, rv == CKR_OK ? out.len : 0);
    }
    crypto_worker_free(crypto);
    OPENSSL_cleanse(buffer, cap);
    free(buffer);
}

void server_kick(struct server *server, uint64_t client)
{
    rights_client_kick(server->parts.rights, client);
    for (uint32_t i = 0; i < server->parts.max_connections; i++) {
        struct connection *connection = &server->slots[i];
        pthread_mutex_lock(&connection->lock);
        if (connection->fd >= 0 && connection->client != NULL && connection->client->id == client) {
            drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

void server_counts(struct server *server, he_counts *out)
{
    pthread_mutex_lock(&server->lock);
    out->connections = server->open;
    pthread_mutex_unlock(&server->lock);
    out->hot_operations = atomic_load(&server->hot);
    out->misses = atomic_load(&server->misses);
    out->refused_frames = atomic_load(&server->refused);
}
