#include "wire.h"

#include <endian.h>
#include <assert.h>

enum { TEMPLATE_LIMIT = 256, STRINGS_LIMIT = 65536, ATTRIBUTE_FIXED = 12 };

#define GET_INTEGER(name, type, convert)                                            \
    enum wire_result wire_get_##name(struct wire_reader *reader, type *out)         \
    {                                                                               \
        type raw;                                                                   \
        if (wire_left(reader) < sizeof raw) {                                       \
            return WIRE_SHORT;                                                      \
        }                                                                           \
        memcpy(&raw, reader->at, sizeof raw);                                       \
        reader->at += sizeof raw;                                                   \
        *out = convert(raw);                                                        \
        return WIRE_OK;                                                             \
    }                                                                               \
    enum wire_result wire_put_##name(struct wire_writer *writer, type value)        \
    {                                                                               \
        type raw = convert(value);                                                  \
        return wire_put_raw(writer, &raw, sizeof raw);                              \
    }
#define SAME(value) (value)

GET_INTEGER(u8, uint8_t, SAME)
GET_INTEGER(u16, uint16_t, le16toh)
GET_INTEGER(u32, uint32_t, le32toh)
GET_INTEGER(u64, uint64_t, le64toh)

enum wire_result wire_put_raw(struct wire_writer *writer, const void *data, size_t len)
{
    if (len > writer->cap - writer->len) {
        return WIRE_SHORT;
    }
    if (len != 0) {
        memcpy(writer->data + writer->len, data, len);
        writer->len += len;
    }
    return WIRE_OK;
}

enum wire_result wire_get_bytes(struct wire_reader *reader, struct wire_bytes *out)
{
    uint32_t len;
    WIRE_TRY(wire_get_u32(reader, &len));
    if (wire_left(reader) < len) {
        return WIRE_SHORT;
    }
    *out = (struct wire_bytes){len == 0 ? NULL : reader->at, len};
    reader->at += len;
    return WIRE_OK;
}

enum wire_result wire_put_bytes(struct wire_writer *writer, const struct wire_bytes *value)
{
    size_t start = writer->len;
    WIRE_TRY(wire_put_u32(writer, value->len));
    enum wire_result result = wire_put_raw(writer, value->data, value->len);
    if (result != WIRE_OK) {
        writer->len = start;
    }
    return result;
}

enum wire_result wire_get_list(struct wire_reader *reader, struct wire_list *out)
{
    uint32_t count;
    WIRE_TRY(wire_get_u32(reader, &count));
    if (wire_left(reader) / sizeof(uint64_t) < count) {
        return WIRE_SHORT;
    }
    *out = (struct wire_list){count == 0 ? NULL : reader->at, count};
    reader->at += (size_t)count * sizeof(uint64_t);
    return WIRE_OK;
}

enum wire_result wire_put_list(struct wire_writer *writer, const struct wire_list *value)
{
    size_t start = writer->len;
    WIRE_TRY(wire_put_u32(writer, value->count));
    enum wire_result result = wire_put_raw(writer, value->data, (size_t)value->count * sizeof(uint64_t));
    if (result != WIRE_OK) {
        writer->len = start;
    }
    return result;
}

uint64_t wire_list_at(const struct wire_list *list, uint32_t index)
{
    uint64_t raw;
    memcpy(&raw, list->data + (size_t)index * sizeof raw, sizeof raw);
    return le64toh(raw);
}

bool wire_strings_next(struct wire_reader *reader, struct wire_bytes *out)
{
    return wire_left(reader) != 0 && wire_get_bytes(reader, out) == WIRE_OK;
}

enum wire_result wire_get_strings(struct wire_reader *reader, struct wire_strings *out)
{
    uint32_t count;
    WIRE_TRY(wire_get_u32(reader, &count));
    if (count > STRINGS_LIMIT) {
        return WIRE_LIMIT;
    }
    const uint8_t *start = reader->at;
    for (uint32_t i = 0; i < count; i++) {
        struct wire_bytes skipped;
        WIRE_TRY(wire_get_bytes(reader, &skipped));
    }
    *out = (struct wire_strings){start, (uint32_t)(reader->at - start), count};
    return WIRE_OK;
}

static enum wire_result put_counted(struct wire_writer *writer, uint32_t count, const uint8_t *data, uint32_t len)
{
    size_t start = writer->len;
    WIRE_TRY(wire_put_u32(writer, count));
    enum wire_result result = wire_put_raw(writer, data, len);
    if (result != WIRE_OK) {
        writer->len = start;
    }
    return result;
}

enum wire_result wire_put_strings(struct wire_writer *writer, const struct wire_strings *value)
{
    return put_counted(writer, value->count, value->data, value->len);
}

static enum wire_result get_attribute(struct wire_reader *reader, struct wire_attribute *out)
{
    uint32_t len;
    if (wire_left(reader) < ATTRIBUTE_FIXED) {
        return WIRE_SHORT;
    }
    WIRE_TRY(wire_get_u64(reader, &out->type));
    WIRE_TRY(wire_get_u32(reader, &len));
    out->available = len != WIRE_UNAVAILABLE;
    out->len = out->available ? len : 0;
    if (wire_left(reader) < out->len) {
        return WIRE_SHORT;
    }
    out->value = out->len == 0 ? NULL : reader->at;
    reader->at += out->len;
    return WIRE_OK;
}

bool wire_template_next(struct wire_reader *reader, struct wire_attribute *out)
{
    return wire_left(reader) != 0 && get_attribute(reader, out) == WIRE_OK;
}

enum wire_result wire_get_template(struct wire_reader *reader, struct wire_template *out)
{
    uint32_t count;
    WIRE_TRY(wire_get_u32(reader, &count));
    if (count > TEMPLATE_LIMIT) {
        return WIRE_LIMIT;
    }
    const uint8_t *start = reader->at;
    for (uint32_t i = 0; i < count; i++) {
        struct wire_attribute skipped;
        WIRE_TRY(get_attribute(reader, &skipped));
    }
    *out = (struct wire_template){start, (uint32_t)(reader->at - start), count};
    return WIRE_OK;
}

enum wire_result wire_put_template(struct wire_writer *writer, const struct wire_template *value)
{
    return put_counted(writer, value->count, value->data, value->len);
}

enum wire_result wire_get_end(const struct wire_reader *reader)
{
    return wire_left(reader) == 0 ? WIRE_OK : WIRE_BAD;
}

enum wire_result wire_reserve_u32(struct wire_writer *writer, size_t *where)
{
    *where = writer->len;
    return wire_put_u32(writer, 0);
}

void wire_set_u32(struct wire_writer *writer, size_t where, uint32_t value)
{
    uint32_t raw = htole32(value);
    memcpy(writer->data + where, &raw, sizeof raw);
}

enum wire_result wire_get_header(const uint8_t raw[WIRE_HEADER_SIZE], struct wire_header *out)
{
    struct wire_reader reader = wire_reader(raw, WIRE_HEADER_SIZE);
    WIRE_TRY(wire_get_u32(&reader, &out->length));
    WIRE_TRY(wire_get_u16(&reader, &out->op));
    WIRE_TRY(wire_get_u16(&reader, &out->flags));
    WIRE_TRY(wire_get_u64(&reader, &out->seq));
    WIRE_TRY(wire_get_u64(&reader, &out->word));
    WIRE_TRY(wire_get_u64(&reader, &out->epoch));
    return out->flags == 0 ? WIRE_OK : WIRE_BAD;
}

void wire_set_header(uint8_t raw[WIRE_HEADER_SIZE], const struct wire_header *header)
{
    const struct wire_header little = {
        .length = htole32(header->length), .op = htole16(header->op), .flags = htole16(header->flags),
        .seq = htole64(header->seq), .word = htole64(header->word), .epoch = htole64(header->epoch),
    };
    static_assert(sizeof little == WIRE_HEADER_SIZE, "the header has no padding");
    memcpy(raw, &little, WIRE_HEADER_SIZE);
}
