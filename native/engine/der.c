/* der.h says the rules; X.690 section 10. */
#include "der.h"

#include <string.h>

static bool take_length(struct der *in, size_t *len)
{
    if (der_left(in) < 1) {
        return false;
    }
    uint8_t first = *in->at++;
    if (first < 0x80) {
        *len = first;
        return *len <= der_left(in);
    }
    size_t bytes = first & 0x7F;
    if (bytes < 1 || bytes > 3 || bytes > der_left(in)) {
        return false;
    }
    size_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value = value << 8 | *in->at++;
    }
    *len = value;
    /* "the length shall be encoded using the minimum number of octets" (X.690 10.1) */
    return value >= 0x80 && value >> (8 * (bytes - 1)) != 0 && value <= der_left(in);
}

bool der_take(struct der *in, uint8_t tag, struct der *inside)
{
    struct der at = *in;
    size_t len;
    if (!der_is(&at, tag)) {
        return false;
    }
    at.at++;
    if (!take_length(&at, &len)) {
        return false;
    }
    *inside = der(at.at, len);
    in->at = at.at + len;
    return true;
}

bool der_integer(struct der *in, struct der *magnitude)
{
    if (!der_take(in, DER_INTEGER, magnitude) || der_left(magnitude) == 0 || (*magnitude->at & 0x80) != 0) {
        return false;
    }
    if (*magnitude->at == 0 && der_left(magnitude) > 1) {
        magnitude->at++;
        return (*magnitude->at & 0x80) != 0;
    }
    return true;
}

bool der_small(struct der *in, uint8_t *value)
{
    struct der magnitude;
    if (!der_integer(in, &magnitude) || der_left(&magnitude) != 1) {
        return false;
    }
    *value = *magnitude.at;
    return true;
}

bool der_equals(const struct der *in, const uint8_t *data, size_t len)
{
    return der_left(in) == len && memcmp(in->at, data, len) == 0;
}

void der_put(struct der_writer *out, const void *data, size_t len)
{
    if (out->full || (size_t)(out->at - out->start) < len) {
        out->full = true;
        return;
    }
    out->at -= len;
    if (len != 0) {
        memcpy(out->at, data, len);
    }
}

void der_close(struct der_writer *out, uint8_t tag, const uint8_t *end)
{
    size_t len = (size_t)(end - out->at);
    uint8_t header[4] = {tag};
    size_t size = 2;
    if (len < 0x80) {
        header[1] = (uint8_t)len;
    } else if (len <= 0xFF) {
        header[1] = 0x81;
        header[2] = (uint8_t)len;
        size = 3;
    } else {
        header[1] = 0x82;
        header[2] = (uint8_t)(len >> 8);
        header[3] = (uint8_t)len;
        size = 4;
        out->full = out->full || len > 0xFFFF;
    }
    der_put(out, header, size);
}

void der_put_integer(struct der_writer *out, const uint8_t *magnitude, size_t len)
{
    static const uint8_t zero = 0;
    const uint8_t *end = out->at;
    while (len > 0 && *magnitude == 0) {
        magnitude++;
        len--;
    }
    der_put(out, magnitude, len);
    if (len == 0 || (*magnitude & 0x80) != 0) {
        der_put(out, &zero, 1);
    }
    der_close(out, DER_INTEGER, end);
}
