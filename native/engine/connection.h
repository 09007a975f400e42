/* Connections: descriptors, buffers, whole frames in and out. A connection's lock is held by whoever calls a function here
 * with it; it belongs to one thread at a time (EPOLLONESHOT) until it is armed again. */
#ifndef HSMSIM_CONNECTION_H
#define HSMSIM_CONNECTION_H

#include <pthread.h>

#include "listener.h"
#include "queue.h"
#include "rights.h"
#include "rings.h"

struct connections {
    struct rights *rights;
    struct queue *queue;
    int epoll;
    struct connection *slots;
    uint32_t max;
    pthread_mutex_t lock; /* free list and counts; taken inside a connection's */
    uint32_t free, open;
    uint32_t shaking; /* TLS handshakes under way */
    int timer;        /* a timerfd that ticks while there are some */
};

/* A slot is never freed; `generation` tells a connection from the one that had the slot before. */
struct connection {
    pthread_mutex_t lock;
    uint32_t index, generation;
    int fd; /* -1: free */
    struct client *client;
    struct connections *all;
    int32_t pid;
    uint32_t uid;
    struct channel *channel; /* TLS; NULL: a unix socket */
    uint64_t shaken_by;      /* ring_now_ns when the handshake must be over */
    struct ring *ring; /* NULL: none asked for */
    bool waiting;      /* for Python */
    bool ending;       /* once it has its answer */
    bool drained; /* the last recv took all there was */
    uint8_t *in;
    size_t in_at, in_len, in_cap;
    uint8_t *out;
    size_t out_at, out_len, out_cap;
    uint32_t next_free;
    bool taken; /* this and what follows are under the common lock */
    bool shaking;
    uint64_t owner; /* a uid, or what listener_peer says */
};

/* false: no memory. */
bool connections_init(struct connections *all, struct rights *rights, struct queue *queue, int epoll, uint32_t max);
/* Takes a socket in, armed; false: no room, or nobody's. tls: of the port that it came by, NULL for the unix socket. */
bool connection_admit(struct connections *all, int fd, struct tls *tls);
/* Ends TLS handshakes that take too long: at each tick of the timer. The caller holds no connection. */
void connections_expire(struct connections *all);
/* After tls_clients: ends those that would not be let in any more. The caller holds no connection. */
void connections_review(struct connections *all);
/* Ends it; the firmware is told when its client has none left. */
void connection_drop(struct connection *connection);
void connection_arm(struct connection *connection);

/* Sends what waits, as far as the socket takes it. false: the connection is broken, or was to end with that. */
bool connection_flush(struct connection *connection);
/* An answer behind those that wait, until connection_flush. false: no memory. */
bool connection_queue(struct connection *connection, const uint8_t *frame, size_t len);

enum progress { NEED_MORE, FRAME, BROKEN };
/* A step of the TLS handshake; FRAME: it is over, or there is none. */
enum progress connection_shake(struct connection *connection);
/* A complete frame at in_at, or why not. */
enum progress connection_look(struct connection *connection, struct wire_header *header);
/* Reads once. FRAME: there is more to look at. */
enum progress connection_receive(struct connection *connection);
/* Large buffers go after use. */
void connection_give_back(struct connection *connection);

#endif
