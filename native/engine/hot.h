/* Hot operations: check the right, run the crypto. No Python, no lock held while computing. */
#ifndef HSMSIM_HOT_H
#define HSMSIM_HOT_H

#include "rights.h"

/* *miss: the engine does not hold the key, ask the firmware. Returns the CK_RV; the payload goes to `out`. A payload that
 * does not parse gives CKR_DATA_INVALID and *malformed. */
uint64_t hot_run(struct rights *rights, struct crypto_worker *worker, struct client *client, uint16_t op, uint64_t session,
                 const uint8_t *payload, size_t len, struct wire_writer *out, bool *miss, bool *malformed);
/* Whether the operation uses a key, so that the reference engine wants it. */
bool hot_keyed(uint16_t op);

#endif
