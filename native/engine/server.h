/* Sockets, connections and the threads of the hot path.
 *
 * Every worker waits on one epoll set. A ready connection belongs to the worker that got it (EPOLLONESHOT) until it is
 * armed again: it reads what is there, executes complete frames in order, writes the answers, and arms it. A request for
 * Python parks its connection: later frames wait in its buffer until the answer is written. A client that does not read
 * fills its own output buffer and is not read from; nothing waits for it. */
#ifndef HSMSIM_SERVER_H
#define HSMSIM_SERVER_H

#include "faults.h"
#include "listener.h"
#include "queue.h"
#include "rights.h"

struct server;

struct server_parts {
    struct rights *rights;
    struct queue *queue;
    bool reference; /* keyed hot operations go up to Python */
    bool batches;   /* where this machine has lanes */
    uint32_t workers, max_connections;
    _Atomic uint64_t *serve_until; /* CLOCK_MONOTONIC nanoseconds */
    _Atomic uint64_t *epoch;
    _Atomic(const struct faults *) *faults;
    struct throttle *throttle; /* NULL: no timing profile */
};

struct server *server_new(const struct server_parts *parts);
uint64_t server_listen(struct server *server, const char *path);
/* The TCP port, also while the threads run; takes the listener over. CKR_FUNCTION_REJECTED: there is one. */
uint64_t server_listen_tls(struct server *server, struct listener *listener);
/* he_tls_clients */
uint64_t server_clients(struct server *server, const he_clients *clients);
uint64_t server_run(struct server *server);
void server_stop(struct server *server);

/* The answer to a held request; frees it. Takes payload's bytes by copy. */
void server_answer(struct server *server, struct held *held, uint64_t rv, const uint8_t *payload, size_t len);
/* The hot operation of a held request again; it may come back to Python's queue. */
void server_retry(struct server *server, struct held *held);
void server_kick(struct server *server, uint64_t client);
void server_counts(struct server *server, he_counts *out);

#endif
