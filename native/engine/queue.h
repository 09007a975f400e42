/* Requests that wait for Python, or that Python works on. Each keeps its payload as it came, in locked memory where the
 * operation can carry secrets, and the copy with the secrets zeroed that Python reads. */
#ifndef HSMSIM_QUEUE_H
#define HSMSIM_QUEUE_H

#include "crypto.h"

struct connection;
struct ring;

/* Where an answer goes: to a connection, if it is still the same one, or into a ring's slot. Neither: an event. */
struct sink {
    struct connection *connection;
    uint32_t generation;
    struct ring *ring; /* with a reference, once the request is held */
    uint32_t slot;
};

struct held {
    struct held *next; /* in the queue */
    uint64_t id;
    struct sink sink;
    struct client *client;
    struct wire_header header;
    bool miss;
    int32_t pid;
    uint32_t uid;
    uint64_t party;
    bool certified;
    struct secret payload; /* unredacted */
    uint8_t *redacted;
    size_t len;
};

struct queue;
struct queue *queue_new(void);
/* Takes `held` and gives it an id. */
void queue_put(struct queue *queue, struct held *held);
/* The next one, which stays known by its id until queue_take; NULL: none in time, *stopped set after queue_stop. */
struct held *queue_next(struct queue *queue, int timeout_ms, bool *stopped);
struct held *queue_find(struct queue *queue, uint64_t id);
struct held *queue_take(struct queue *queue, uint64_t id);
void queue_stop(struct queue *queue);
void held_free(struct held *held);

/* Copies `payload` to `out` with every secret byte zeroed. `fields`: the operation's (wire_op_info). */
enum wire_result redact(const uint8_t *fields, const uint8_t *payload, size_t len, uint8_t *out);

#endif
