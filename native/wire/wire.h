/* Frames and typed fields of the HSM wire: bounded readers and writers over buffers that the caller owns.
 * native/tables/wire.toml says what a frame is; messages.h is generated from it. No function here allocates. */
#ifndef HSMSIM_WIRE_H
#define HSMSIM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_MUST __attribute__((warn_unused_result))

enum wire_result {
    WIRE_OK = 0,
    WIRE_SHORT, /* the buffer ends before the field does, or has no room for it */
    WIRE_LIMIT, /* a count or a length above what the protocol allows */
    WIRE_BAD,   /* an unknown kind, a wrong flag, or bytes left over */
};

#define WIRE_TRY(expression)                              \
    do {                                                  \
        enum wire_result wire_try_result_ = (expression); \
        if (wire_try_result_ != WIRE_OK) {                \
            return wire_try_result_;                      \
        }                                                 \
    } while (0)

enum { WIRE_HEADER_SIZE = 32, WIRE_RESPONSE = 0x8000 };
#define WIRE_UNAVAILABLE UINT32_C(0xFFFFFFFF)
/* AWS's HSM code 187, "HSM could not queue the request": a timing profile has no room for it. Nothing was done; the module asks
 * again, then says CKR_FUNCTION_FAILED. */
#define WIRE_HSM_BUSY UINT64_C(0x800000BB)

struct wire_header {
    uint32_t length;
    uint16_t op;
    uint16_t flags;
    uint64_t seq;
    uint64_t word;
    uint64_t epoch;
};

/* A cursor over bytes that somebody else owns and that outlive it. */
struct wire_reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* data[0..len) is written, cap the room; a put that fails leaves len as it was. */
struct wire_writer {
    uint8_t *data;
    size_t len;
    size_t cap;
};

/* Views into a reader's buffer; data is NULL only with len 0. */
struct wire_bytes {
    const uint8_t *data;
    uint32_t len;
};
struct wire_list {
    const uint8_t *data; /* count unaligned little-endian u64 */
    uint32_t count;
};
struct wire_strings {
    const uint8_t *data;
    uint32_t len;
    uint32_t count;
};
struct wire_template {
    const uint8_t *data; /* count times u64 type, u32 length, raw; validated by wire_get_template */
    uint32_t len;
    uint32_t count;
};
struct wire_attribute {
    uint64_t type;
    const uint8_t *value;
    uint32_t len;
    bool available;
};

static inline struct wire_reader wire_reader(const uint8_t *data, size_t len)
{
    return (struct wire_reader){data, data == NULL ? NULL : data + len};
}
static inline struct wire_writer wire_writer(uint8_t *data, size_t cap)
{
    return (struct wire_writer){data, 0, cap};
}
static inline size_t wire_left(const struct wire_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}
static inline struct wire_bytes wire_bytes(const void *data, uint32_t len)
{
    return (struct wire_bytes){data, len};
}
/* `to` has room for from.len. memcpy takes no NULL, not even for no bytes (C11 7.24.1). */
static inline void wire_copy(void *to, struct wire_bytes from)
{
    if (from.len != 0) {
        memcpy(to, from.data, from.len);
    }
}

WIRE_MUST enum wire_result wire_get_u8(struct wire_reader *reader, uint8_t *out);
WIRE_MUST enum wire_result wire_get_u16(struct wire_reader *reader, uint16_t *out);
WIRE_MUST enum wire_result wire_get_u32(struct wire_reader *reader, uint32_t *out);
WIRE_MUST enum wire_result wire_get_u64(struct wire_reader *reader, uint64_t *out);
WIRE_MUST enum wire_result wire_get_bytes(struct wire_reader *reader, struct wire_bytes *out);
WIRE_MUST enum wire_result wire_get_list(struct wire_reader *reader, struct wire_list *out);
WIRE_MUST enum wire_result wire_get_strings(struct wire_reader *reader, struct wire_strings *out);
WIRE_MUST enum wire_result wire_get_template(struct wire_reader *reader, struct wire_template *out);
WIRE_MUST enum wire_result wire_get_end(const struct wire_reader *reader);

WIRE_MUST enum wire_result wire_put_u8(struct wire_writer *writer, uint8_t value);
WIRE_MUST enum wire_result wire_put_u16(struct wire_writer *writer, uint16_t value);
WIRE_MUST enum wire_result wire_put_u32(struct wire_writer *writer, uint32_t value);
WIRE_MUST enum wire_result wire_put_u64(struct wire_writer *writer, uint64_t value);
WIRE_MUST enum wire_result wire_put_raw(struct wire_writer *writer, const void *data, size_t len);
WIRE_MUST enum wire_result wire_put_bytes(struct wire_writer *writer, const struct wire_bytes *value);
WIRE_MUST enum wire_result wire_put_list(struct wire_writer *writer, const struct wire_list *value);
WIRE_MUST enum wire_result wire_put_strings(struct wire_writer *writer, const struct wire_strings *value);
WIRE_MUST enum wire_result wire_put_template(struct wire_writer *writer, const struct wire_template *value);

/* Element `index` of a list that wire_get_list filled; index < count is the caller's to know. */
uint64_t wire_list_at(const struct wire_list *list, uint32_t index);

/* Iterate: start with a reader over {data, len}; false at the end. The view must come from wire_get_*. */
bool wire_strings_next(struct wire_reader *reader, struct wire_bytes *out);
bool wire_template_next(struct wire_reader *reader, struct wire_attribute *out);

/* Room that put calls may fill later: reserve a u32 and set it when the value is known. */
WIRE_MUST enum wire_result wire_reserve_u32(struct wire_writer *writer, size_t *where);
void wire_set_u32(struct wire_writer *writer, size_t where, uint32_t value);

WIRE_MUST enum wire_result wire_get_header(const uint8_t raw[WIRE_HEADER_SIZE], struct wire_header *out);
void wire_set_header(uint8_t raw[WIRE_HEADER_SIZE], const struct wire_header *header);

#endif
