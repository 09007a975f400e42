/* An HSM's shortest right answer to any request: zeros, no bytes. For whoever plays the HSM against the module. */
#ifndef HSMSIM_PLAIN_ANSWER_H
#define HSMSIM_PLAIN_ANSWER_H

#include <string.h>

#include "messages.h"

enum { PLAIN_ANSWER_MAX = 512 };

static inline size_t plain_payload(const uint8_t *fields, uint8_t *out)
{
    static const size_t sizes[] = {
        [WIRE_FIELD_U8] = 1,        [WIRE_FIELD_U32] = 4,       [WIRE_FIELD_U64] = 8,   [WIRE_FIELD_BYTES] = 4,
        [WIRE_FIELD_SECRET] = 4,    [WIRE_FIELD_TEMPLATE] = 4,  [WIRE_FIELD_TYPES] = 4, [WIRE_FIELD_HANDLES] = 4,
        [WIRE_FIELD_STRINGS] = 4,   [WIRE_FIELD_MECHANISM] = 12,
    };
    size_t len = 0;
    for (; *fields != WIRE_FIELD_END; fields++) {
        memset(out + len, 0, sizes[*fields]);
        len += sizes[*fields];
    }
    return len;
}

/* Returns the length of the frame; 0: no such operation. `frame` has room for PLAIN_ANSWER_MAX. */
static inline size_t plain_answer(const struct wire_header *request, uint64_t epoch, uint8_t *frame)
{
    const struct wire_op_info *info = wire_op_find(request->op);
    if (info == NULL) {
        return 0;
    }
    size_t len = plain_payload(info->response_fields, frame + WIRE_HEADER_SIZE);
    const struct wire_header header = {
        .length = (uint32_t)len, .op = (uint16_t)(request->op | WIRE_RESPONSE), .seq = request->seq, .epoch = epoch};
    wire_set_header(frame, &header);
    return WIRE_HEADER_SIZE + len;
}

#endif
