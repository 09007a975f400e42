#include "server.h"

#include <openssl/crypto.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "answer.h"
#include "connection.h"
#include "dispatch.h"
#include "pkcs11.h"
#include "rings.h"

enum {
    WORKERS_MAX = 64,
    HELD_MAX = 4,
    HOLD_NS = 50000,
    BATCH_NS = 100000,   /* how long answers of a batch wait for each other's wake-up */
    ALONE = 256,         /* requests of one client in a row */
    DEAR_NS = 200000,    /* a batch that takes so long had better be full, wherever its clients are */
    SOCKETS_NS = 100000, /* how long busy rings may keep a worker from the sockets */
    OUT_LIMIT = 65536,     /* answers that may wait before no more requests are taken */
    LISTENER = 0xFFFFFFFF, /* epoll tags beside the slots */
    STOPPER = 0xFFFFFFFE,
    BELL = 0xFFFFFFFD, /* a ring has something; looking is all */
    TLS_LISTENER = 0xFFFFFFFC,
    TIMER = 0xFFFFFFFB, /* of TLS handshakes */
};

struct worker {
    pthread_t thread;
    struct server *server;
    struct executor executor;
    struct connection *held[HELD_MAX]; /* locked, answered, not sent yet */
    uint32_t held_count;
    struct ring_watch watch;
    struct ring_request *taken; /* RING_BATCH of them */
    const struct ring *asked_last; /* to compare with alone */
    uint32_t in_a_row;             /* requests of that ring */
    bool gives_way;
};

struct server {
    struct server_parts parts;
    int epoll, listener, stopper;
    _Atomic(struct listener *) tls; /* NULL: no TCP port */
    struct connections connections;
    struct worker workers[WORKERS_MAX];
    uint32_t running;
    struct dispatch dispatch;
    struct rings *rings; /* NULL: none on this machine */
    struct batch_table table;
    pthread_t measurer; /* fills the table */
    bool measuring;
    _Atomic bool stopping;
    atomic_ullong refused;
};

static uint32_t worker_count(const struct server *server)
{
    uint32_t count = server->parts.workers;
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online < 1 ? 1 : (uint32_t)online;
    }
    return count > WORKERS_MAX ? WORKERS_MAX : count;
}

struct server *server_new(const struct server_parts *parts)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return NULL;
    }
    server->parts = *parts;
    server->dispatch = (struct dispatch){.rights = parts->rights, .queue = parts->queue, .reference = parts->reference,
                                         .serve_until = parts->serve_until, .epoch = parts->epoch, .faults = parts->faults,
                                         .throttle = parts->throttle};
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    server->stopper = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->listener = -1;
    batch_table_init(&server->table);
    if (server->epoll < 0 || server->stopper < 0 ||
        !connections_init(&server->connections, parts->rights, parts->queue, server->epoll, parts->max_connections)) {
        return NULL;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = STOPPER};
    epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->stopper, &event);
    event = (struct epoll_event){.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = TIMER};
    epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->connections.timer, &event);
    server->rings = rings_new(parts->rights, worker_count(server), server->epoll, BELL);
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

uint64_t server_listen_tls(struct server *server, struct listener *listener)
{
    struct listener *none = NULL;
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = TLS_LISTENER};
    if (!atomic_compare_exchange_strong(&server->tls, &none, listener)) {
        listener_close(listener);
        return CKR_FUNCTION_REJECTED;
    }
    return epoll_ctl(server->epoll, EPOLL_CTL_ADD, listener->fd, &event) == 0 ? CKR_OK : CKR_FUNCTION_FAILED;
}

uint64_t server_clients(struct server *server, const he_clients *clients)
{
    struct listener *listener = atomic_load(&server->tls);
    uint64_t rv = listener == NULL ? CKR_OK : tls_clients(listener->tls, clients);
    connections_review(&server->connections);
    return rv;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static bool answer_code(struct worker *worker, struct connection *connection, const struct wire_header *header, uint64_t rv)
{
    size_t len;
    return dispatch_code(&worker->server->dispatch, &worker->executor, header, rv, &len) &&
           connection_queue(connection, worker->executor.frame, len);
}

/* The first frame: a client of its own, or one that is there already. */
static bool meet(struct worker *worker, struct connection *connection, const struct wire_header *header, const uint8_t *payload)
{
    struct rights *rights = connection->all->rights;
    struct wire_reader reader = wire_reader(payload, header->length);
    struct wire_hello_request hello;
    if (connection->client != NULL || wire_get_hello_request(&reader, &hello) != WIRE_OK) {
        return false;
    }
    connection->client = hello.cookie.len == 0 ? rights_client_add(rights) : rights_client_join(rights, hello.cookie.data, hello.cookie.len);
    return connection->client != NULL || answer_code(worker, connection, header, CKR_ARGUMENTS_BAD);
}

/* The answer and the ring's descriptors in one message: there is nothing before it in the buffer. */
static bool send_ring(struct worker *worker, struct connection *connection, const struct wire_header *header, uint32_t slots,
                      const int fds[RING_FDS])
{
    uint8_t frame[WIRE_HEADER_SIZE + 16];
    struct wire_writer writer = wire_writer(frame + WIRE_HEADER_SIZE, sizeof frame - WIRE_HEADER_SIZE);
    const struct wire_ring_response response = {slots, (uint32_t)ring_size(slots), ring_place(connection->ring)};
    if (wire_put_ring_response(&writer, &response) != WIRE_OK) {
        return false;
    }
    size_t len = dispatch_seal(&worker->server->dispatch, header, CKR_OK, frame, writer.len, sizeof frame);
    union {
        struct cmsghdr header;
        uint8_t room[CMSG_SPACE(sizeof(int) * RING_FDS)];
    } control = {0};
    struct iovec part = {frame, len};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * RING_FDS);
    memcpy(CMSG_DATA(rights), fds, sizeof(int) * RING_FDS);
    return sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static bool give_ring(struct worker *worker, struct connection *connection, const struct wire_header *header, const uint8_t *payload)
{
    struct server *server = worker->server;
    struct wire_reader reader = wire_reader(payload, header->length);
    struct wire_ring_request request;
    if (connection->client == NULL || connection->ring != NULL || wire_get_ring_request(&reader, &request) != WIRE_OK) {
        return false;
    }
    uint64_t rv = rights_access(server->parts.rights, connection->client, wire_op_find(WIRE_OP_RING)->access);
    if (rv == CKR_OK && (server->rings == NULL || connection->channel != NULL)) {
        rv = CKR_FUNCTION_NOT_SUPPORTED;
    }
    if (rv == CKR_OK) { /* what waits goes first; a client that does not read it gets no ring */
        rv = connection_flush(connection) && connection->out_len == 0 ? CKR_OK : CKR_DEVICE_MEMORY;
    }
    const struct ring_owner owner = {connection, connection->generation, connection->pid, connection->uid, connection->fd};
    int fds[RING_FDS];
    if (rv == CKR_OK) {
        rv = ring_open(server->rings, &owner, connection->client, request.slots, &connection->ring, fds);
    }
    if (rv != CKR_OK) {
        return answer_code(worker, connection, header, rv);
    }
    bool sent = send_ring(worker, connection, header, request.slots, fds);
    close(fds[0]);
    return sent;
}

/* false: the frame is not one that a client of ours sends; the connection ends. */
static bool handle(struct worker *worker, struct connection *connection, const struct wire_header *header, const uint8_t *payload)
{
    if (header->op == WIRE_OP_RING && header->epoch == 0) {
        return give_ring(worker, connection, header, payload);
    }
    if (header->op == WIRE_OP_HELLO && !meet(worker, connection, header, payload)) {
        return false;
    }
    if (header->op == WIRE_OP_HELLO && connection->client == NULL) {
        return true; /* refused, answered */
    }
    const struct request request = {
        .sink = {.connection = connection, .generation = connection->generation},
        .client = connection->client,
        .pid = connection->pid,
        .uid = connection->uid,
        .party = connection->owner,
        .certified = connection->channel != NULL && channel_certified(connection->channel),
        .header = *header,
        .payload = payload,
        .room = WIRE_HEADER_SIZE + (size_t)WIRE_MAX_FRAME_USER,
    };
    size_t len;
    switch (dispatch(&worker->server->dispatch, &worker->executor, &request, &len)) {
    case ANSWERED: {
        bool queued = connection_queue(connection, worker->executor.frame, len);
        OPENSSL_cleanse(worker->executor.frame, len);
        return queued;
    }
    case PARKED: connection->waiting = true; return true;
    case GATHERED: /* from rings alone */
    case REFUSED: break;
    }
    return false;
}

static bool serve_frames(struct worker *worker, struct connection *connection)
{
    enum progress shaken = connection_shake(connection);
    if (shaken != FRAME) {
        return shaken == NEED_MORE;
    }
    if (!connection_flush(connection)) {
        return false;
    }
    connection->drained = connection->out_len != 0; /* a client that does not read is not read from */
    while (connection->out_len < OUT_LIMIT && !connection->waiting) {
        struct wire_header header;
        enum progress progress = connection_look(connection, &header);
        if (progress == NEED_MORE) {
            if (connection->drained) {
                return true; /* what comes meanwhile wakes a worker again */
            }
            progress = connection_receive(connection);
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
            atomic_fetch_add(&worker->server->refused, 1);
            return false;
        }
        OPENSSL_cleanse((uint8_t *)(uintptr_t)payload, header.length); /* what is encrypted here may be a key, too */
    }
    connection->drained = false; /* whole frames may be left in the buffer */
    return true;
}

static void send_held(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->held_count; i++) {
        struct connection *connection = worker->held[i];
        if (connection_flush(connection)) {
            connection_give_back(connection);
            connection_arm(connection);
        } else {
            connection_drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
    worker->held_count = 0;
}

/* Takes up what a ready connection has; true: it stays locked, with answers to send. */
static bool serve(struct worker *worker, uint32_t index, uint32_t generation, uint32_t events)
{
    struct connection *connection = &worker->server->connections.slots[index];
    if (pthread_mutex_trylock(&connection->lock) != 0) {
        send_held(worker); /* nobody waits for a connection while others wait for his */
        pthread_mutex_lock(&connection->lock);
    }
    if (connection->fd >= 0 && connection->generation == generation) {
        bool hung_up = connection->waiting && (events & (EPOLLHUP | EPOLLERR)) != 0;
        bool kicked = connection->client != NULL && rights_kicked(connection->client);
        if (!hung_up && !kicked && serve_frames(worker, connection)) {
            worker->held[worker->held_count++] = connection;
            return true;
        }
        connection_drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
    return false;
}

static void accept_some(struct server *server, int listener, struct tls *tls)
{
    for (int i = 0; i < 16; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        if (!connection_admit(&server->connections, fd, tls)) {
            close(fd);
        }
    }
}

/* ---- rings ---------------------------------------------------------------------------------------------------------- */

/* What no client of ours puts in a slot ends its connection, as on the socket. */
static void expel(struct server *server, struct ring *ring)
{
    const struct ring_owner *owner = ring_owner(ring);
    struct connection *connection = owner->connection;
    atomic_fetch_add(&server->refused, 1);
    pthread_mutex_lock(&connection->lock);
    if (connection->fd >= 0 && connection->generation == owner->generation) {
        connection_drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
}

static enum outcome run_taken(struct worker *worker, const struct ring_request *taken, size_t *len)
{
    struct server *server = worker->server;
    const struct ring_owner *owner = ring_owner(taken->ring);
    const struct request request = {
        .sink = {.ring = taken->ring, .slot = taken->slot},
        .client = ring_client(taken->ring),
        .pid = owner->pid,
        .uid = owner->uid,
        .party = owner->uid,
        .header = taken->header,
        .payload = taken->payload,
        .room = RING_FRAME,
    };
    if (!taken->sound || rights_kicked(request.client)) {
        return REFUSED;
    }
    return dispatch(&server->dispatch, &worker->executor, &request, len);
}

/* What one look at the rings has brought, being answered. */
struct serving {
    struct worker *worker;
    struct ring_wakes wakes;
    uint64_t since;     /* when clients were woken last */
    uint32_t left;      /* requests without an answer */
    uint32_t unsettled; /* bits of those whose rings are still held, because their clients may have to be woken */
};

/* Answers are seen at once by who spins; sleepers are woken together. */
static void settle(struct serving *serving)
{
    ring_wake_all(&serving->wakes);
    for (uint32_t bits = serving->unsettled; bits != 0; bits &= bits - 1) {
        ring_release(serving->worker->taken[__builtin_ctz(bits)].ring);
    }
    serving->unsettled = 0;
    serving->since = ring_now_ns();
}

/* Before the last `count` answers: who goes on at once need not ring. */
static void look_ahead(struct serving *serving, uint32_t count)
{
    if (serving->left == count) {
        rings_watch(serving->worker->server->rings, &serving->worker->watch);
    }
}

static void done_with(struct serving *serving, uint32_t index, enum outcome outcome, size_t len)
{
    struct worker *worker = serving->worker;
    const struct ring_request *taken = &worker->taken[index];
    look_ahead(serving, 1);
    if (outcome == ANSWERED) {
        ring_answer(taken->ring, taken->slot, worker->executor.frame, len, &serving->wakes);
        OPENSSL_cleanse(worker->executor.frame, len);
    } else if (outcome == REFUSED) {
        expel(worker->server, taken->ring);
    }
    OPENSSL_cleanse((void *)(uintptr_t)taken->payload, taken->sound ? taken->header.length : 0);
    serving->unsettled |= 1u << index;
    serving->left--;
    if (ring_now_ns() - serving->since > BATCH_NS) {
        settle(serving);
    }
}

/* Requests that were gathered, group by group. */
static void serve_gathered(struct serving *serving)
{
    struct worker *worker = serving->worker;
    struct gathering *gathering = &worker->executor.gathering;
    for (uint32_t due; (due = batch_compute(gathering->batch)) != 0;) {
        look_ahead(serving, (uint32_t)__builtin_popcount(due));
        serving->since = ring_now_ns();
        for (; due != 0; due &= due - 1) {
            uint32_t index = (uint32_t)__builtin_ctz(due);
            size_t len = dispatch_finish(&worker->server->dispatch, &worker->executor, index, &worker->taken[index].header, RING_FRAME);
            done_with(serving, index, ANSWERED, len);
        }
        settle(serving);
    }
}

/* With several clients, who asks goes on asking before his processor computes: requests gather while the worker waits for its
 * turn. A lone one is served at once, so that he and the worker come to be on two processors and need not sleep. */
static void give_way(struct worker *worker, uint32_t count)
{
    const struct sched_param none = {0};
    for (uint32_t i = 0; i < count; i++) {
        bool same = worker->asked_last == NULL || worker->taken[i].ring == worker->asked_last;
        worker->in_a_row = same ? worker->in_a_row + 1 : 0;
        worker->asked_last = worker->taken[i].ring;
    }
    int from = worker->gives_way ? SCHED_BATCH : SCHED_OTHER, to = worker->gives_way ? SCHED_OTHER : SCHED_BATCH;
    bool changes = worker->gives_way ? worker->in_a_row > ALONE : worker->in_a_row == 0;
    if (changes) {
        worker->gives_way = !worker->gives_way;
        if (sched_getscheduler(0) == from) { /* else somebody has chosen another one */
            sched_setscheduler(0, to, &none);
        }
    }
}

static void serve_rings(struct worker *worker, uint32_t count)
{
    give_way(worker, count);
    struct serving serving = {.worker = worker, .since = ring_now_ns(), .left = count};
    for (uint32_t i = 0; i < count; i++) {
        size_t len = 0;
        worker->executor.gathering.place = i;
        enum outcome outcome = run_taken(worker, &worker->taken[i], &len);
        if (outcome != GATHERED) {
            done_with(&serving, i, outcome, len);
        }
    }
    worker->watch.together = serving.left > 1;
    worker->watch.dear = false;
    if (serving.left != 0) {
        uint64_t began = ring_now_ns();
        serve_gathered(&serving);
        worker->watch.dear = ring_now_ns() - began > DEAR_NS;
    }
    settle(&serving);
}

/* ---- workers -------------------------------------------------------------------------------------------------------- */

/* The next event, or none in the time that the rings allow. false: stop. */
static int wait_event(struct worker *worker, bool look_only, struct epoll_event *event)
{
    struct server *server = worker->server;
    struct rings *rings = server->rings;
    if (look_only || rings == NULL) {
        return epoll_wait(server->epoll, event, 1, look_only ? 0 : -1);
    }
    if (rings_spin(rings, &worker->watch) || !rings_sleep(rings, &worker->watch)) {
        return 0;
    }
    int n = epoll_wait(server->epoll, event, 1, -1);
    rings_awake(rings);
    return n;
}

/* What is no connection: true. */
static bool beside_slots(struct worker *worker, uint32_t tag)
{
    struct server *server = worker->server;
    if (tag < server->connections.max) {
        return false;
    }
    send_held(worker);
    if (tag == LISTENER) {
        accept_some(server, server->listener, NULL);
    } else if (tag == TLS_LISTENER) {
        const struct listener *listener = atomic_load(&server->tls);
        accept_some(server, listener->fd, listener->tls);
    } else if (tag == TIMER) {
        connections_expire(&server->connections);
    }
    return true;
}

/* While other requests are ready, answers are held for a moment and sent together: each send wakes a client, who may take
 * this thread's processor at once, and a switch there and back costs as much as a signature. */
static void *work(void *argument)
{
    struct worker *worker = argument;
    struct server *server = worker->server;
    uint64_t since = 0, looked = 0;
    for (;;) {
        struct epoll_event event;
        uint32_t taken = server->rings == NULL ? 0 : rings_take(server->rings, &worker->watch, worker->taken);
        if (taken != 0) {
            send_held(worker);
            serve_rings(worker, taken);
            if (worker->watch.together) {
                sched_yield(); /* those whom it woke here ask again before it looks */
            }
            if (ring_now_ns() - looked < SOCKETS_NS) {
                continue;
            }
        }
        int n = wait_event(worker, taken != 0 || worker->held_count != 0, &event);
        if (n <= 0) {
            looked = ring_now_ns();
            send_held(worker);
            continue;
        }
        uint32_t index = (uint32_t)event.data.u64;
        if (index == BELL) {
            continue;
        }
        if (server->rings != NULL) {
            rings_unwatch(server->rings, &worker->watch);
        }
        if (index == STOPPER) {
            send_held(worker);
            return NULL;
        }
        if (beside_slots(worker, index)) {
            continue;
        }
        if (serve(worker, index, (uint32_t)(event.data.u64 >> 32), event.events)) {
            uint64_t now = ring_now_ns();
            since = worker->held_count == 1 ? now : since;
            if (worker->held_count == HELD_MAX || now - since > HOLD_NS) {
                send_held(worker);
            }
        }
    }
}

static void *measure(void *argument)
{
    struct server *server = argument;
    batch_table_measure(&server->table, &server->stopping);
    return NULL;
}

uint64_t server_run(struct server *server)
{
    if (server->parts.batches) {
        server->measuring = pthread_create(&server->measurer, NULL, measure, server) == 0;
    }
    uint32_t count = worker_count(server);
    for (uint32_t i = 0; i < count; i++) {
        struct worker *worker = &server->workers[i];
        worker->server = server;
        worker->taken = calloc(RING_BATCH, sizeof *worker->taken);
        if (worker->taken == NULL || !executor_init(&worker->executor)) {
            return CKR_HOST_MEMORY;
        }
        if (server->measuring) {
            executor_gather(&worker->executor, &server->table);
        }
        if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
            return CKR_HOST_MEMORY;
        }
        server->running++;
    }
    return CKR_OK;
}

void server_stop(struct server *server)
{
    uint64_t one = 1;
    if (server->measuring) {
        atomic_store(&server->stopping, true);
        pthread_join(server->measurer, NULL);
        server->measuring = false;
    }
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
    struct listener *tls = atomic_exchange(&server->tls, NULL);
    if (tls != NULL) {
        listener_close(tls); /* connections keep what they need of it */
    }
    for (uint32_t i = 0; i < server->connections.max; i++) {
        struct connection *connection = &server->connections.slots[i];
        pthread_mutex_lock(&connection->lock);
        if (connection->fd >= 0) {
            connection_drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

/* ---- for Python -------------------------------------------------------------------------------------------------------- */

void server_answer(struct server *server, struct held *held, uint64_t rv, const uint8_t *payload, size_t len)
{
    answer_held(&server->dispatch, held, rv, payload, len);
}

void server_retry(struct server *server, struct held *held)
{
    answer_again(&server->dispatch, held);
}

void server_kick(struct server *server, uint64_t client)
{
    rights_client_kick(server->parts.rights, client);
    for (uint32_t i = 0; i < server->connections.max; i++) {
        struct connection *connection = &server->connections.slots[i];
        pthread_mutex_lock(&connection->lock);
        if (connection->fd >= 0 && connection->client != NULL && connection->client->id == client) {
            connection_drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

void server_counts(struct server *server, he_counts *out)
{
    pthread_mutex_lock(&server->connections.lock);
    out->connections = server->connections.open;
    pthread_mutex_unlock(&server->connections.lock);
    out->rings = server->rings == NULL ? 0 : rings_count(server->rings);
    out->hot_operations = atomic_load(&server->dispatch.hot);
    out->misses = atomic_load(&server->dispatch.misses);
    out->refused_frames = atomic_load(&server->refused);
}
