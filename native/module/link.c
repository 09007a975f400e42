/* One connection to one HSM: a unix socket in a folder that nobody else can write, to a process of the configured user; or TCP
 * (link_tls.c). */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "async.h"
#include "log.h"
#include "slot.h"

enum { KEEP_SIZE = 262144 };

/* A PIN goes to no stranger (DESIGN D15). A folder that is not there or not ours to look into is as safe as can be:
 * connecting will fail, and say so. */
static bool folder_is_safe(const char *path, uid_t uid)
{
    char folder[CONFIG_PATH];
    struct stat status;
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL || slash == path ? 0 : (size_t)(slash - path);
    if (len == 0 || len >= sizeof folder) {
        return false;
    }
    memcpy(folder, path, len);
    folder[len] = '\0';
    if (stat(folder, &status) != 0) {
        return errno == ENOENT || errno == EACCES;
    }
    bool owner = status.st_uid == 0 || status.st_uid == uid;
    return owner && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static bool peer_is_hsm(int fd, uid_t uid)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == uid || peer.uid == 0);
}

enum link_result link_open(struct link *link, const struct config_server *server, uid_t uid, unsigned timeout_ms)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static_assert(sizeof server->socket <= sizeof address.sun_path, "a configured path fits");
    link_close(link);
    if (server->port != 0) {
        return link_tls_open(link, server, timeout_ms);
    }
    if (!folder_is_safe(server->socket, uid)) {
        slot_complain(link->slot, "the folder of %s is not root's or user %u's alone: no PIN goes there; write the configuration "
                      "again with `hsmsim configure-pkcs11`", server->socket, (unsigned)uid);
        return LINK_REFUSED;
    }
    memcpy(address.sun_path, server->socket, strlen(server->socket));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
    if (fd < 0) {
        slot_complain(link->slot, "no socket: %s; raise the limit of open files", strerror(errno));
        return LINK_REFUSED;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (errno == EACCES) {
            slot_complain(link->slot, "%s: %s: this user may not reach the HSMs' folder", server->socket, strerror(errno));
        }
        log_line(LEVEL_DEBUG, "%s: %s", server->socket, strerror(errno));
        close(fd);
        return LINK_REFUSED;
    }
    if (!peer_is_hsm(fd, uid)) {
        slot_complain(link->slot, "who listens at %s is not user %u: no PIN goes there; write the configuration again with "
                      "`hsmsim configure-pkcs11`", server->socket, (unsigned)uid);
        close(fd);
        return LINK_REFUSED;
    }
    link->fd = fd;
    return LINK_OK;
}

void link_close(struct link *link)
{
    link_ring_close(link);
    link_tls_close(link);
    link->in_len = 0;
    if (link->fd >= 0) {
        close(link->fd);
        link->fd = -1;
    }
}

static bool grow(uint8_t **buffer, size_t *cap, size_t wanted, size_t keep)
{
    if (wanted <= *cap) {
        return true;
    }
    uint8_t *larger = malloc(wanted);
    if (larger == NULL) {
        return false;
    }
    if (*buffer != NULL) {
        memcpy(larger, *buffer, keep);
        OPENSSL_cleanse(*buffer, *cap);
        free(*buffer);
    }
    *buffer = larger;
    *cap = wanted;
    return true;
}

bool link_room(struct link *link, size_t payload)
{
    if (link->out_cap > KEEP_SIZE && payload < KEEP_SIZE / 2) {
        OPENSSL_cleanse(link->out, link->out_cap);
        free(link->out);
        link->out = NULL;
        link->out_cap = 0;
    }
    return grow(&link->out, &link->out_cap, WIRE_HEADER_SIZE + payload, 0);
}

/* Milliseconds of CLOCK_MONOTONIC. */
static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool send_all(struct link *link, int64_t deadline, bool *sent)
{
    if (link->tls != NULL) {
        return link_tls_send(link, deadline, sent);
    }
    for (size_t at = 0; at < link->out_len;) {
        ssize_t some = send(link->fd, link->out + at, link->out_len - at, MSG_NOSIGNAL);
        if (some < 0 && errno == EINTR) {
            continue;
        }
        if (some <= 0) {
            return false;
        }
        *sent = true;
        at += (size_t)some;
        if (at < link->out_len && now_ms() >= deadline) {
            return false;
        }
    }
    return true;
}

/* Waits in poll, not in recv: when the HSM takes our request off its queue, Linux wakes whoever sleeps in recv on this end
 * (unix_write_space), who finds nothing and sleeps again: two context switches a signature. */
static bool wait_readable(int fd, int64_t deadline)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    for (;;) {
        int64_t left = deadline - now_ms();
        int ready = poll(&one, 1, left < 0 ? 0 : (int)(left < INT_MAX ? left : INT_MAX));
        if (ready > 0) {
            return true;
        }
        if ((ready == 0 && left < INT_MAX) || (ready < 0 && errno != EINTR)) {
            return false;
        }
    }
}

static ssize_t receive_some(struct link *link, uint8_t *out, size_t room, int64_t deadline)
{
    if (link->tls != NULL) {
        return link_tls_receive(link, out, room, deadline);
    }
    return wait_readable(link->fd, deadline) ? recv(link->fd, out, room, MSG_DONTWAIT) : 0;
}

/* Reads until `want` bytes are there, and what else came with them. */
static bool receive(struct link *link, size_t *have, size_t want, int64_t deadline)
{
    while (*have < want) {
        ssize_t some = receive_some(link, link->in + *have, link->in_cap - *have, deadline);
        if (some < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (some <= 0) {
            return false;
        }
        *have += (size_t)some;
    }
    return true;
}

static bool answers(const struct wire_header *header, const struct wire_header *request)
{
    bool ours = header->op == (request->op | WIRE_RESPONSE) && header->seq == request->seq && header->length <= WIRE_MAX_FRAME_USER;
    if (!ours) {
        log_line(LEVEL_ERROR, "the HSM's answer to operation 0x%x does not fit its question", request->op);
    }
    return ours;
}

static bool readable(struct link *link)
{
    struct pollfd one = {.fd = link->fd, .events = POLLIN};
    return poll(&one, 1, 0) > 0;
}

static enum link_result wait_paused(struct link *link, struct session *pausable, unsigned patience)
{
    struct pause pause;
    if (!pause_begin(&pause, pausable, link)) {
        return LINK_OK;
    }
    enum link_result result = pause_until(&pause, readable, patience);
    if (result != LINK_DEAD) {
        pause_end(&pause);
    }
    return result;
}

static enum link_result socket_exchange(struct link *link, const struct wire_header *request, unsigned patience, struct session *pausable,
                                        struct wire_header *header, bool *sent)
{
    /* of the whole exchange: an HSM that sends a byte now and then does not hold its caller */
    int64_t deadline = now_ms() + patience;
    size_t have = 0;
    wire_set_header(link->out, request);
    if (!send_all(link, deadline, sent)) {
        return LINK_LOST;
    }
    enum link_result waited = wait_paused(link, pausable, patience);
    if (waited != LINK_OK) {
        return waited;
    }
    if (!receive(link, &have, WIRE_HEADER_SIZE, deadline) ||
        wire_get_header(link->in, header) != WIRE_OK || !answers(header, request)) {
        return LINK_LOST;
    }
    size_t whole = WIRE_HEADER_SIZE + (size_t)header->length;
    if (!grow(&link->in, &link->in_cap, whole, have) || !receive(link, &have, whole, deadline)) {
        return LINK_LOST;
    }
    if (have != whole) {
        log_line(LEVEL_ERROR, "the HSM's answer to operation 0x%x is longer than it says", request->op);
        return LINK_LOST;
    }
    return LINK_OK;
}

static bool by_ring(const struct link *link, const struct wire_header *request)
{
    return link->ring.segment != NULL && op_hot(request->op) && request->length + RING_SLACK <= RING_FRAME - WIRE_HEADER_SIZE;
}

/* The header of what is in link->out: of a request that is under way its own, else a new one's. */
static enum link_result prepare(struct link *link, uint16_t op, uint64_t session, unsigned patience, struct wire_header *request)
{
    if (!grow(&link->in, &link->in_cap, RING_FRAME, 0)) {
        return LINK_LOST;
    }
    if (op_hot(op) && !link->ring.asked && link_ring_open(link, patience) != LINK_OK) {
        return LINK_LOST;
    }
    link->seq += link->ring.submitted ? 0 : 1;
    *request = (struct wire_header){
        .length = (uint32_t)(link->out_len - WIRE_HEADER_SIZE), .op = op, .seq = link->seq, .word = session};
    return LINK_OK;
}

void link_submit(struct link *link, uint16_t op, uint64_t session)
{
    struct wire_header request;
    if (prepare(link, op, session, module_config()->timeout_ms, &request) == LINK_OK && by_ring(link, &request)) {
        link_ring_submit(link, &request);
    }
}

enum link_result link_exchange(struct link *link, uint16_t op, uint64_t session, unsigned patience, struct session *pausable,
                               struct wire_header *header, bool *sent)
{
    struct wire_header request;
    if (prepare(link, op, session, patience, &request) != LINK_OK) {
        return LINK_LOST;
    }
    if (by_ring(link, &request)) {
        enum link_result result = link_ring_exchange(link, &request, patience, pausable, header, sent);
        if (result == LINK_OK) {
            return answers(header, &request) ? LINK_OK : LINK_LOST;
        }
        if (result != LINK_REFUSED) {
            return result;
        }
    }
    return socket_exchange(link, &request, patience, pausable, header, sent);
}

/* ---- without waiting --------------------------------------------------------------------------------------------------- */

bool link_say(struct link *link, uint16_t op)
{
    bool sent = false;
    const struct wire_header request = {.length = (uint32_t)(link->out_len - WIRE_HEADER_SIZE), .op = op, .seq = ++link->seq};
    wire_set_header(link->out, &request);
    return send_all(link, now_ms(), &sent); /* it fits the empty buffer of a new connection */
}

/* Bytes that are there; 0: none yet, -1: none any more. */
static ssize_t receive_now(struct link *link, uint8_t *out, size_t room)
{
    if (link->tls != NULL) {
        return link_tls_receive(link, out, room, 0);
    }
    ssize_t some = recv(link->fd, out, room, MSG_DONTWAIT);
    bool later = some < 0 && (errno == EINTR || errno == EAGAIN);
    return later ? 0 : some == 0 ? -1 : some;
}

enum link_result link_hear(struct link *link, uint16_t op, uint64_t seq, struct wire_header *header)
{
    const struct wire_header request = {.op = op, .seq = seq};
    if (!grow(&link->in, &link->in_cap, RING_FRAME, 0)) {
        return LINK_LOST;
    }
    for (;;) {
        bool begun = link->in_len >= WIRE_HEADER_SIZE;
        if (begun && (wire_get_header(link->in, header) != WIRE_OK || !answers(header, &request) ||
                      header->length > link->in_cap - WIRE_HEADER_SIZE)) {
            return LINK_LOST;
        }
        if (begun && link->in_len >= WIRE_HEADER_SIZE + (size_t)header->length) {
            return LINK_OK;
        }
        ssize_t some = receive_now(link, link->in + link->in_len, link->in_cap - link->in_len);
        if (some <= 0) {
            return some == 0 ? LINK_REFUSED : LINK_LOST;
        }
        link->in_len += (size_t)some;
    }
}

void link_heard(struct link *link, const struct wire_header *header)
{
    size_t whole = WIRE_HEADER_SIZE + (size_t)header->length;
    link->in_len -= whole;
    memmove(link->in, link->in + whole, link->in_len);
}
