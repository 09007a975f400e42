#include "connection.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ_SIZE = 8192,
    KEEP_SIZE = 1 << 20, /* buffers above this are given back after use */
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
    return true;
}

void connection_drop(struct connection *connection)
{
    struct connections *all = connection->all;
    struct client *client = connection->client;
    if (connection->ring != NULL) {
        ring_close(connection->ring);
        connection->ring = NULL;
    }
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
    pthread_mutex_lock(&all->lock);
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
    bool pending = connection->out_len != 0;
    bool buffered = connection->in_len != connection->in_at;
    struct epoll_event event = {.events = EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | connection->index};
    if (!connection->waiting) {
        /* frames that wait in the buffer are looked at as soon as the socket takes answers */
        event.events |= pending || (buffered && !connection->drained) ? EPOLLOUT : EPOLLIN;
    }
    epoll_ctl(connection->all->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

bool connection_flush(struct connection *connection)
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

enum progress connection_look(struct connection *connection, struct wire_header *header)
{
    size_t buffered = connection->in_len - connection->in_at;
    if (buffered < WIRE_HEADER_SIZE) {
        return NEED_MORE;
    }
    if (wire_get_header(connection->in + connection->in_at, header) != WIRE_OK) {
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

void connection_give_back(struct connection *connection)
{
    if (connection->in_cap > KEEP_SIZE && connection->in_at == connection->in_len) {
        OPENSSL_cleanse(connection->in, connection->in_cap);
        free(connection->in);
        connection->in = NULL;
        connection->in_at = connection->in_len = connection->in_cap = 0;
    }
}

/* A user may have as many connections as are left for others, so that none can shut the others out; root and the HSMs' own
 * user have all. The common lock is held. */
static bool room_for(const struct connections *all, uint32_t uid)
{
    uint32_t own = 0;
    for (uint32_t i = 0; i < all->max; i++) {
        own += all->slots[i].taken && all->slots[i].owner == uid;
    }
    return uid == 0 || uid == geteuid() || own < all->max - all->open;
}

bool connection_admit(struct connections *all, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
        return false;
    }
    pthread_mutex_lock(&all->lock);
    uint32_t index = all->free;
    bool room = index < all->max && room_for(all, peer.uid);
    if (room) {
        all->slots[index].taken = true;
        all->slots[index].owner = peer.uid;
        all->free = all->slots[index].next_free;
        all->open++;
    }
    pthread_mutex_unlock(&all->lock);
    if (!room) {
        return false;
    }
    struct connection *connection = &all->slots[index];
    pthread_mutex_lock(&connection->lock);
    connection->fd = fd;
    connection->pid = peer.pid;
    connection->uid = peer.uid;
    connection->drained = false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = (uint64_t)connection->generation << 32 | index};
    if (epoll_ctl(all->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        connection_drop(connection);
    }
    pthread_mutex_unlock(&connection->lock);
    return true;
}
