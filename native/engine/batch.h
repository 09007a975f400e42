/* Operations that wait together are computed together: those of one kind go to the lanes (lanes.h) as one group where that is
 * quicker than one after the other, all else to OpenSSL. Which it is says a table that was measured on this machine.
 *
 * A batch belongs to one thread and has a place for each request in that thread's hands. Whatever a lane refuses (a wrong
 * length, a block above the modulus, a result that did not check) runs alone afterwards, and gets the answer it gets alone. */
#ifndef HSMSIM_BATCH_H
#define HSMSIM_BATCH_H

#include <stdatomic.h>

#include "crypto.h"
#include "lanes.h"

/* ---- the table ----------------------------------------------------------------------------------------------------- */

/* How many of a kind have to wait for a batch to pay; above LANES: none does, or not measured yet. */
struct batch_table {
    _Atomic uint32_t from[LANE_KINDS];
};
void batch_table_init(struct batch_table *table);
/* Measures; some 0.1 s of a thread. `stop` ends it between two kinds. */
void batch_table_measure(struct batch_table *table, const _Atomic bool *stop);

/* ---- batches -------------------------------------------------------------------------------------------------------- */

struct batch;
/* NULL: no lanes here, or no memory; then everything runs alone. */
struct batch *batch_new(struct crypto_worker *worker, const struct batch_table *table);
void batch_free(struct batch *batch);

/* Takes the operation over until batch_finish, where it runs if no batch paid; key and request's data stay as they are until then. false: it is of no kind that
 * has lanes here. `place`: free, below LANES. */
bool batch_add_sign(struct batch *batch, unsigned place, const struct key_object *key, const struct wire_sign_request *request);
bool batch_add_decrypt(struct batch *batch, unsigned place, const struct key_object *key, const struct wire_decrypt_request *request);
/* Computes the next group: a bit for each place whose answer is due. 0: all are done. */
uint32_t batch_compute(struct batch *batch);
/* The response, as op_sign and op_decrypt write it; the place is free again. */
uint64_t batch_finish(struct batch *batch, unsigned place, struct wire_writer *out);

#endif
