/* The little DER that private keys need, read and written in place: OpenSSL's decoders and encoders copy a key through
 * buffers that they do not wipe. Everything public goes through OpenSSL. */
#ifndef HSMSIM_DER_H
#define HSMSIM_DER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DER_INTEGER = 0x02,
    DER_BIT_STRING = 0x03,
    DER_OCTETS = 0x04,
    DER_NULL = 0x05,
    DER_OID = 0x06,
    DER_SEQUENCE = 0x30,
    DER_CONTEXT_0 = 0xA0,
    DER_CONTEXT_1 = 0xA1,
    DER_IMPLICIT_1 = 0x81, /* PKCS#8 v2's publicKey */
};

struct der {
    const uint8_t *at;
    const uint8_t *end;
};

static inline struct der der(const uint8_t *data, size_t len)
{
    return (struct der){data, data + len};
}
static inline size_t der_left(const struct der *in)
{
    return (size_t)(in->end - in->at);
}
static inline bool der_is(const struct der *in, uint8_t tag)
{
    return in->at < in->end && *in->at == tag;
}

/* Takes one element with this tag off `in`; `inside` is its content. false: another tag, not DER, or it does not fit. */
bool der_take(struct der *in, uint8_t tag, struct der *inside);
/* A non-negative INTEGER without its leading zero. */
bool der_integer(struct der *in, struct der *magnitude);
bool der_small(struct der *in, uint8_t *value); /* an INTEGER below 128 */
bool der_equals(const struct der *in, const uint8_t *data, size_t len);

/* Writes from the end of its room backwards, so that lengths are known: put contents first, then der_close over them. */
struct der_writer {
    uint8_t *start;
    uint8_t *at;
    uint8_t *end;
    bool full; /* sticky */
};
static inline struct der_writer der_writer(uint8_t *room, size_t len)
{
    return (struct der_writer){room, room + len, room + len, false};
}
void der_put(struct der_writer *out, const void *data, size_t len);
void der_put_integer(struct der_writer *out, const uint8_t *magnitude, size_t len);
/* Makes what stands between here and `end` the content of one element. */
void der_close(struct der_writer *out, uint8_t tag, const uint8_t *end);

#endif
