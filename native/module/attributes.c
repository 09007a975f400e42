#include "attributes.h"

#include <endian.h>
#include <string.h>

#include "macros.h"
#include "tables.h"

enum { TEMPLATE_MAX = WIRE_MAX_TEMPLATE, NESTING_MAX = 4, FIXED = 12 };
#define VALUE_MAX ((CK_ULONG)1 << 20)

static enum attribute_kind kind_of(CK_ATTRIBUTE_TYPE type)
{
    const struct attribute_info *info = attribute_find(type);
    return info == NULL ? ATTRIBUTE_BYTES : info->kind;
}

static CK_RV room_of(const CK_ATTRIBUTE *template, CK_ULONG count, unsigned depth, size_t *room);

static CK_RV value_room(const CK_ATTRIBUTE *attribute, unsigned depth, size_t *room)
{
    CK_ULONG len = attribute->ulValueLen;
    CKR_REQUIRE(len <= VALUE_MAX, CKR_ATTRIBUTE_VALUE_INVALID);
    CKR_REQUIRE(attribute->pValue != NULL || len == 0, CKR_ATTRIBUTE_VALUE_INVALID);
    *room = len;
    switch (kind_of(attribute->type)) {
    case ATTRIBUTE_BOOL: return len == sizeof(CK_BBOOL) ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID;
    case ATTRIBUTE_ULONG: return len == sizeof(CK_ULONG) ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID;
    case ATTRIBUTE_ULONGS: return len % sizeof(CK_ULONG) == 0 ? CKR_OK : CKR_ATTRIBUTE_VALUE_INVALID;
    case ATTRIBUTE_TEMPLATE:
        CKR_REQUIRE(len % sizeof(CK_ATTRIBUTE) == 0 && depth < NESTING_MAX, CKR_ATTRIBUTE_VALUE_INVALID);
        return room_of(attribute->pValue, len / sizeof(CK_ATTRIBUTE), depth + 1, room);
    case ATTRIBUTE_BYTES:
    case ATTRIBUTE_TEXT:
    case ATTRIBUTE_DATE:
    case ATTRIBUTE_BIGINT: return CKR_OK;
    }
    return CKR_ATTRIBUTE_VALUE_INVALID;
}

static CK_RV room_of(const CK_ATTRIBUTE *template, CK_ULONG count, unsigned depth, size_t *room)
{
    *room = sizeof(uint32_t);
    CKR_REQUIRE(template != NULL || count == 0, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(count <= TEMPLATE_MAX, CKR_TEMPLATE_INCONSISTENT);
    for (CK_ULONG i = 0; i < count; i++) {
        size_t more;
        CKR_TRY(value_room(&template[i], depth, &more));
        *room += FIXED + more;
    }
    return CKR_OK;
}

CK_RV attributes_room(const CK_ATTRIBUTE *template, CK_ULONG count, size_t *room)
{
    return room_of(template, count, 0, room);
}

static enum wire_result put_ulongs(struct wire_writer *writer, const void *value, CK_ULONG len)
{
    for (CK_ULONG at = 0; at < len; at += sizeof(CK_ULONG)) {
        CK_ULONG number;
        memcpy(&number, (const uint8_t *)value + at, sizeof number);
        WIRE_TRY(wire_put_u64(writer, number));
    }
    return WIRE_OK;
}

static enum wire_result put_all(struct wire_writer *writer, const CK_ATTRIBUTE *template, CK_ULONG count);

static enum wire_result put_value(struct wire_writer *writer, const CK_ATTRIBUTE *attribute)
{
    switch (kind_of(attribute->type)) {
    case ATTRIBUTE_BOOL: return wire_put_u8(writer, *(const CK_BBOOL *)attribute->pValue != CK_FALSE);
    case ATTRIBUTE_ULONG:
    case ATTRIBUTE_ULONGS: return put_ulongs(writer, attribute->pValue, attribute->ulValueLen);
    case ATTRIBUTE_TEMPLATE: return put_all(writer, attribute->pValue, attribute->ulValueLen / sizeof(CK_ATTRIBUTE));
    case ATTRIBUTE_BYTES:
    case ATTRIBUTE_TEXT:
    case ATTRIBUTE_DATE:
    case ATTRIBUTE_BIGINT: return wire_put_raw(writer, attribute->pValue, attribute->ulValueLen);
    }
    return WIRE_BAD;
}

static enum wire_result put_all(struct wire_writer *writer, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    WIRE_TRY(wire_put_u32(writer, (uint32_t)count));
    for (CK_ULONG i = 0; i < count; i++) {
        size_t length;
        WIRE_TRY(wire_put_u64(writer, template[i].type));
        WIRE_TRY(wire_reserve_u32(writer, &length));
        size_t start = writer->len;
        WIRE_TRY(put_value(writer, &template[i]));
        wire_set_u32(writer, length, (uint32_t)(writer->len - start));
    }
    return WIRE_OK;
}

CK_RV attributes_put(struct wire_writer *writer, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    return put_all(writer, template, count) == WIRE_OK ? CKR_OK : CKR_HOST_MEMORY;
}

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

static CK_RV fill_one(const struct wire_attribute *from, CK_ATTRIBUTE *to);

/* A nested template: the caller's array gets types, and values where it brought room for them. */
static CK_RV fill_template(const struct wire_attribute *from, CK_ATTRIBUTE *to)
{
    struct wire_reader reader = wire_reader(from->value, from->len);
    struct wire_template nested;
    struct wire_attribute one;
    CK_RV rv = CKR_OK;
    CKR_REQUIRE(wire_get_template(&reader, &nested) == WIRE_OK, CKR_DEVICE_ERROR);
    CK_ULONG needed = nested.count * sizeof(CK_ATTRIBUTE), room = to->ulValueLen;
    to->ulValueLen = needed;
    if (to->pValue == NULL) {
        return CKR_OK;
    }
    if (room < needed) {
        to->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_BUFFER_TOO_SMALL;
    }
    reader = wire_reader(nested.data, nested.len);
    for (CK_ATTRIBUTE *inner = to->pValue; wire_template_next(&reader, &one); inner++) {
        /* A buffer that the caller made for another type holds no CK_ATTRIBUTE to follow. */
        bool confused = kind_of(one.type) == ATTRIBUTE_TEMPLATE && inner->pValue != NULL && inner->type != one.type;
        CK_RV problem = confused ? CKR_DEVICE_ERROR : CKR_OK;
        if (!confused) {
            inner->type = one.type;
            problem = fill_one(&one, inner);
        }
        rv = problem == CKR_OK ? rv : problem;
    }
    return rv;
}

static void copy_value(const struct wire_attribute *from, void *to, enum attribute_kind kind)
{
    if (kind != ATTRIBUTE_ULONG && kind != ATTRIBUTE_ULONGS) {
        memcpy(to, from->value, from->len);
        return;
    }
    for (uint32_t at = 0; at + sizeof(uint64_t) <= from->len; at += (uint32_t)sizeof(uint64_t)) {
        uint64_t raw;
        memcpy(&raw, from->value + at, sizeof raw);
        CK_ULONG number = le64toh(raw);
        memcpy((uint8_t *)to + at, &number, sizeof number);
    }
}

static CK_RV fill_one(const struct wire_attribute *from, CK_ATTRIBUTE *to)
{
    enum attribute_kind kind = kind_of(from->type);
    if (!from->available) {
        to->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_OK; /* the HSM's own code says why */
    }
    if (kind == ATTRIBUTE_TEMPLATE) {
        return fill_template(from, to);
    }
    CK_ULONG room = to->ulValueLen;
    to->ulValueLen = from->len;
    if (to->pValue == NULL || from->len == 0) {
        return CKR_OK;
    }
    if (room < from->len) {
        to->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        return CKR_BUFFER_TOO_SMALL;
    }
    copy_value(from, to->pValue, kind);
    return CKR_OK;
}

CK_RV attributes_fill(const struct wire_template *answer, CK_ATTRIBUTE *template, CK_ULONG count, CK_RV rv)
{
    struct wire_reader reader = wire_reader(answer->data, answer->len);
    struct wire_attribute one;
    CKR_REQUIRE(answer->count == count, CKR_DEVICE_ERROR);
    for (CK_ULONG i = 0; i < count; i++) {
        CKR_REQUIRE(wire_template_next(&reader, &one) && one.type == template[i].type, CKR_DEVICE_ERROR);
        CK_RV problem = fill_one(&one, &template[i]);
        rv = rv == CKR_OK ? problem : rv;
    }
    return rv;
}
