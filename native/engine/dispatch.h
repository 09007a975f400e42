/* What a request gets, whatever brought it: refused, answered here and now, or handed to Python. */
#ifndef HSMSIM_DISPATCH_H
#define HSMSIM_DISPATCH_H

#include "faults.h"
#include "hot.h"
#include "queue.h"
#include "rights.h"

struct dispatch {
    struct rights *rights;
    struct queue *queue;
    bool reference;                /* keyed hot operations go up to Python */
    _Atomic uint64_t *serve_until; /* CLOCK_MONOTONIC nanoseconds */
    _Atomic uint64_t *epoch;
    _Atomic(const struct faults *) *faults; /* NULL: this engine has none */
    struct throttle *throttle;     /* NULL: no timing profile */
    atomic_ullong hot, misses;
};

/* A thread's own means. */
struct executor {
    struct crypto_worker *crypto;
    uint8_t *frame; /* the answer, header first */
    size_t cap;
    struct gathering gathering; /* of requests in rings; without a batch unless executor_gather was called */
};

struct request {
    struct sink sink;
    struct client *client; /* NULL: no HELLO yet; alive while the request is worked on */
    int32_t pid;
    uint32_t uid;
    uint64_t party;
    bool certified; /* by TCP, with a client certificate */
    struct wire_header header;
    const uint8_t *payload;
    size_t room; /* for the answer's frame */
};

enum outcome {
    ANSWERED, /* executor->frame has the answer */
    PARKED,   /* Python has it, and the answer comes to the sink; or it is lost by a fault, and none comes */
    REFUSED,  /* not a request that a client of ours sends */
    GATHERED, /* the answer comes from dispatch_finish, under the place that gathering.place named */
};

enum outcome dispatch(struct dispatch *shared, struct executor *executor, const struct request *request, size_t *len);
/* An answer without content. false: no memory. */
bool dispatch_code(const struct dispatch *shared, struct executor *executor, const struct wire_header *request, uint64_t rv, size_t *len);
/* Sets the header before `payload` bytes; the frame's length. An answer that does not fit becomes CKR_BUFFER_TOO_SMALL. */
size_t dispatch_seal(const struct dispatch *shared, const struct wire_header *request, uint64_t rv, uint8_t *frame, size_t payload,
                     size_t room);
/* A held request's hot operation again. The CK_RV; *miss: the key is gone again. */
uint64_t dispatch_again(struct dispatch *shared, struct executor *executor, const struct held *held, size_t *payload, bool *miss);
/* The answer to a request that was gathered; the frame's length. batch_compute has named the place. */
size_t dispatch_finish(const struct dispatch *shared, struct executor *executor, unsigned place, const struct wire_header *request,
                       size_t room);
bool executor_init(struct executor *executor);
/* From now on it gathers what the table says is worth it, where this machine has lanes. */
void executor_gather(struct executor *executor, const struct batch_table *table);
void executor_free(struct executor *executor);

#endif
