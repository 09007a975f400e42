/* Answers to requests that were held for Python: on the ring or the connection that they came by, if it is still there. */
#ifndef HSMSIM_ANSWER_H
#define HSMSIM_ANSWER_H

#include "dispatch.h"

/* Frees the request. Takes payload's bytes by copy. */
void answer_held(struct dispatch *dispatch, struct held *held, uint64_t rv, const uint8_t *payload, size_t len);
/* Its hot operation again; it may come back to Python's queue. */
void answer_again(struct dispatch *dispatch, struct held *held);

#endif
