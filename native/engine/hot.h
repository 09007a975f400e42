/* Hot operations: check the right, run the crypto. No Python, no lock held while computing. */
#ifndef HSMSIM_HOT_H
#define HSMSIM_HOT_H

#include "batch.h"
#include "rights.h"
#include "throttle.h"

struct hot_request {
    struct client *client;
    uint16_t op;
    uint64_t session;
    const uint8_t *payload;
    size_t len;
    struct throttle *throttle; /* NULL: no timing profile */
};

enum hot_outcome {
    HOT_DONE,
    HOT_MISS,      /* the engine does not hold the key, ask the firmware */
    HOT_MALFORMED, /* the payload does not parse; the CK_RV is CKR_DATA_INVALID */
    HOT_LATER,     /* allowed, and in the gathering */
};

/* Operations that were allowed and wait to be computed together; a thread's own. Each holds its key. */
struct gathering {
    struct batch *batch; /* NULL: nothing is gathered */
    unsigned place;      /* for the next one: free, below LANES */
    struct key_entry *keys[LANES];
};

/* The CK_RV; the payload of the answer goes to `out`. `gathering`: NULL where the answer is wanted now. */
uint64_t hot_run(struct rights *rights, struct crypto_worker *worker, const struct hot_request *request,
                 struct gathering *gathering, struct wire_writer *out, enum hot_outcome *outcome);
/* The answer to the request of a place that batch_compute has named. */
uint64_t hot_finish(struct gathering *gathering, unsigned place, struct wire_writer *out);
/* Whether the operation uses a key, so that the reference engine wants it. */
bool hot_keyed(uint16_t op);

#endif
