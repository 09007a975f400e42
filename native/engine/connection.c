#include "connection.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "tcp.h"

enum {
    READ_SIZE = 8192,
    KEEP_SIZE = 1 << 20, /* buffers above this are given back after use */
    HANDSHAKES = 512,    /* at once: each may make OpenSSL keep 128 KiB of what a stranger says */
    HANDSHAKE_SECONDS = 5,
    GONE_MS = 60000, /* until a silent TCP peer is given up */
};

bool connections_init(struct connections *all, struct rights *rights, struct queue *queue, int epoll, uint32_t max)
{
    *all = (struct connections){.rights = rights, .queue = queue, .epoll = epoll, .max = max, .slots = calloc(max, sizeof *all->slots)};
    if (all->slots == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < max; i++) {
        all->slots[i] = (struct connection){.index = i, .fd = -1, .all = all, .next_free = i + 1};
        pthread_mutex_init(&all->slots[i].lock, NULL);
    }
    pthread_mutex_init(&all->lock, NULL);
    all->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return all->timer >= 0;
}

/* ---- TLS handshakes --------------------------------------------------------------------------------------------------- */

static void tick(const struct connections *all, bool on)
{
    const struct itimerspec second = {.it_interval = {.tv_sec = on}, .it_value = {.tv_sec = on}};
    timerfd_settime(all->timer, 0, &second, NULL);
}

/* The common lock is held. */
static void count_shaking(struct connection *connection, bool shaking)
{
    struct connections *all = connection->all;
    if (connection->shaking != shaking) {
        connection->shaking = shaking;
        all->shaking += shaking ? 1 : UINT32_MAX;
        if (all->shaking == shaking) { /* the first one, or the last */
            tick(all, shaking);
        }
    }
}

enum progress connection_shake(struct connection *connection)
{
    if (connection->channel == NULL || channel_ready(connection->channel)) {
        return FRAME;
    }
    enum channel_result result = channel_shake(connection->channel);
    if (result == CHANNEL_READY) {
        pthread_mutex_lock(&connection->all->lock);
        count_shaking(connection, false);
        pthread_mutex_unlock(&connection->all->lock);
        return FRAME;
    }
    connection->drained = true;
    return result == CHANNEL_AGAIN ? NEED_MORE : BROKEN;
}

void connections_expire(struct connections *all)
{
    uint64_t ticks, now = ring_now_ns();
    if (read(all->timer, &ticks, sizeof ticks) < 0) {
        return; /* another worker's */
    }
    for (uint32_t i = 0; i < all->max; i++) {
        struct connection *connection = &all->slots[i];
        pthread_mutex_lock(&all->lock);
        bool shaking = connection->shaking;
        pthread_mutex_unlock(&all->lock);
        if (!shaking) {
            continue;
        }
        pthread_mutex_lock(&connection->lock);
        if (connection->channel != NULL && !channel_ready(connection->channel) && now > connection->shaken_by) {
            connection_drop(connection);
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

void connections_review(struct connections *all)
{
    for (uint32_t i = 0; i < all->max; i++) {
        struct connection *connection = &all->slots[i];
        pthread_mutex_lock(&connection->lock);
        if (connection->channel != NULL && !channel_review(connection->channel)) {
            if (connection->waiting) { /* it may be this very change that it waits for */
                connection->ending = true;
            } else {
                connection_drop(connection);
            }
        }
        pthread_mutex_unlock(&connection->lock);
    }
}

/* ---- ending and arming ------------------------------------------------------------------------------------------------ */

void connection_drop(struct connection *connection)
{
    struct connections *all = connection->all;
    struct client *client = connection->client;
    if (connection->ring != NULL) {
        ring_close(connection->ring);
        connection->ring = NULL;
    }
    channel_free(connection->channel);
    connection->channel = NULL;
    close(connection->fd); /* leaves the epoll set with it */
    connection->fd = -1;
    connection->generation++;
    connection->client = NULL;
    connection->waiting = connection->ending = false;
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
    pthread_mutex_lock(&all->lock);
    count_shaking(connection, false);
    connection->taken = false;
    connection->next_free = all->free;
    all->free = connection->index;
    all->open--;
    pthread_mutex_unlock(&all->lock);
    if (client == NULL) {
        return;
    }
    struct held *event = rights_client_left(all->rights, client) ? calloc(1, sizeof *event) : NULL;
    if (event != NULL) { /* the reference goes with it */
        event->client = client;
        event->header.op = HE_OP_CLIENT_GONE;
        queue_put(all->queue, event);
    } else {
        rights_client_release(all->rights, client);
    }
}

void connection_arm(struct connection *connection)
{
    struct channel *channel = connection->channel;
    bool pending = connection->out_len != 0 || (channel != NULL && channel_wants_write(channel));
    bool buffered = connection->in_len != connection->in_at || (channel != NULL && channel_pending(channel));
    struct epoll_event event = {.events = EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | connection->index};
    if (!connection->waiting) {
        /* frames that wait in the buffer are looked at as soon as the socket takes answers */
        event.events |= pending || (buffered && !connection->drained) ? EPOLLOUT : EPOLLIN;
    }
    epoll_ctl(connection->all->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

static ssize_t put(const struct connection *connection, const uint8_t *data, size_t len)
{
    return connection->channel != NULL ? channel_send(connection->channel, data, len)
                                       : send(connection->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t take(const struct connection *connection, uint8_t *out, size_t room)
{
    return connection->channel != NULL ? channel_recv(connection->channel, out, room) : recv(connection->fd, out, room, MSG_DONTWAIT);
}

/* What has been read is all that there was. */
static bool took_all(const struct connection *connection, size_t got, size_t room)
{
    return connection->channel != NULL ? !channel_pending(connection->channel) : got < room;
}

bool connection_flush(struct connection *connection)
{
    while (connection->out_at < connection->out_len) {
        ssize_t sent = put(connection, connection->out + connection->out_at, connection->out_len - connection->out_at);
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
    return !connection->ending;
}

bool connection_queue(struct connection *connection, const uint8_t *frame, size_t len)
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

/* Another HSM is let in without a client certificate, and has the masking key to prove itself. */
static bool may_ask(const struct connection *connection, uint16_t op)
{
    bool peers = (op & 0x0F00) == (WIRE_OP_PEER_HELLO & 0x0F00) || op == WIRE_OP_HELLO;
    return peers || connection->channel == NULL || !channel_of_peer(connection->channel);
}

enum progress connection_look(struct connection *connection, struct wire_header *header)
{
    size_t buffered = connection->in_len - connection->in_at;
    if (buffered < WIRE_HEADER_SIZE) {
        return NEED_MORE;
    }
    if (wire_get_header(connection->in + connection->in_at, header) != WIRE_OK || !may_ask(connection, header->op)) {
        return BROKEN;
    }
    bool large = connection->client != NULL && header->length > WIRE_MAX_FRAME_OPEN &&
                 rights_large_frames(connection->all->rights, connection->client);
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

enum progress connection_receive(struct connection *connection)
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
    ssize_t got = take(connection, connection->in + connection->in_len, room);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        connection->drained = true;
        return NEED_MORE;
    }
    if (got <= 0) {
        return BROKEN;
    }
    connection->drained = took_all(connection, (size_t)got, room);
    connection->in_len += (size_t)got;
    return FRAME;
}

void connection_give_back(struct connection *connection)
{
    if (connection->in_cap > KEEP_SIZE && connection->in_at == connection->in_len) {
        OPENSSL_cleanse(connection->in, connection->in_cap);
        free(connection->in);
        connection->in = NULL;
        connection->in_at = connection->in_len = connection->in_cap = 0;
    }
}

/* ---- letting in ------------------------------------------------------------------------------------------------------- */

struct peer {
    uint64_t owner;
    int32_t pid;
    uint32_t uid;
    struct channel *channel;
};

static bool identify(int fd, struct tls *tls, struct peer *peer)
{
    if (tls != NULL) {
        *peer = (struct peer){.pid = TCP_PID, .uid = TCP_UID};
        return listener_peer(fd, &peer->owner) && tcp_options(fd, GONE_MS) && (peer->channel = channel_new(tls, fd)) != NULL;
    }
    struct ucred user;
    socklen_t len = sizeof user;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &len) != 0) {
        return false;
    }
    *peer = (struct peer){.owner = user.uid, .pid = user.pid, .uid = user.uid};
    return true;
}

/* A user, or an address, may have as many connections as are left for others, so that none can shut the others out, and as many
 * handshakes; root and the HSMs' own user have all. The common lock is held. */
static bool room_for(const struct connections *all, const struct peer *peer)
{
    uint32_t own = 0, shaking = 0;
    for (uint32_t i = 0; i < all->max; i++) {
        bool his = all->slots[i].taken && all->slots[i].owner == peer->owner;
        own += his;
        shaking += his && all->slots[i].shaking;
    }
    bool trusted = peer->owner == 0 || peer->owner == geteuid();
    return (trusted || own < all->max - all->open) && (peer->channel == NULL || shaking < HANDSHAKES - all->shaking);
}

/* NULL: no room. */
static struct connection *occupy(struct connections *all, const struct peer *peer)
{
    struct connection *connection = NULL;
    pthread_mutex_lock(&all->lock);
    if (all->free < all->max && room_for(all, peer)) {
        connection = &all->slots[all->free];
        connection->taken = true;
        connection->owner = peer->owner;
        all->free = connection->next_free;
        all->open++;
        count_shaking(connection, peer->channel != NULL);
    }
    pthread_mutex_unlock(&all->lock);
    return connection;
}

bool connection_admit(struct connections *all, int fd, struct tls *tls)
{
    struct peer peer;
    if (!identify(fd, tls, &peer)) {
        return false;
    }
    struct connection *connection = occupy(all, &peer);
    if (connection == NULL) {
        channel_free(peer.channel);
        return false;
    }
    uint32_t index = connection->index;
    pthread_mutex_lock(&connection->lock);
    connection->fd = fd;
    connection->pid = peer.pid;
    connection->uid = peer.uid;
    connection->channel = peer.channel;
    connection->shaken_by = ring_now_ns() + HANDSHAKE_SECONDS * UINT64_C(1000000000);
    connection->drained = false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | index};
    if (epoll_ctl(all->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        connection_drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
    return true;
}
