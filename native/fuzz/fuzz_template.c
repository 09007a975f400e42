/* CK_ATTRIBUTE arrays to the wire, and hostile answers into the caller's arrays. Input: u8 way, an array (see read_array),
 * then for answers the wire template. */
#include "attributes.h"
#include "fuzz.h"
#include "tables.h"

enum { DEPTH = 6, ALLOCATED = 4096 };

static void *allocated[ALLOCATED];
static size_t allocated_count;

static void *keep(void *memory)
{
    FUZZ_CHECK(memory != NULL && allocated_count < ALLOCATED);
    return allocated[allocated_count++] = memory;
}

static CK_ATTRIBUTE *read_array(struct wire_reader *input, CK_ULONG *count, unsigned depth);

static CK_ATTRIBUTE_TYPE read_type(struct wire_reader *input)
{
    uint64_t index = fuzz_number(input, 1);
    return index < attribute_count ? attribute_table[index].type : fuzz_number(input, 4);
}

/* `how` says what stands in pValue and ulValueLen: a length that nothing backs is only for rejected ones. */
static void read_attribute(struct wire_reader *input, CK_ATTRIBUTE *out, unsigned depth)
{
    enum { NOTHING, HOSTILE_NULL, HOSTILE_LENGTH, NESTED, BYTES };
    out->type = read_type(input);
    const struct attribute_info *info = attribute_find(out->type);
    bool template = info != NULL && info->kind == ATTRIBUTE_TEMPLATE;
    uint64_t how = fuzz_number(input, 1);
    if (how == HOSTILE_NULL) {
        out->ulValueLen = fuzz_number(input, 8);
    } else if (how == HOSTILE_LENGTH) {
        out->pValue = keep(malloc(1));
        out->ulValueLen = ~(CK_ULONG)0 - fuzz_number(input, 2);
    } else if (template && how >= NESTED && depth < DEPTH) {
        CK_ULONG count;
        out->pValue = read_array(input, &count, depth + 1);
        out->ulValueLen = count * sizeof *out;
    } else if (!template && how >= BYTES) {
        struct wire_bytes bytes = fuzz_bytes(input, how - BYTES);
        out->pValue = keep(fuzz_copy(bytes));
        out->ulValueLen = bytes.len;
    }
}

static CK_ATTRIBUTE *read_array(struct wire_reader *input, CK_ULONG *count, unsigned depth)
{
    *count = wire_left(input) == 0 ? 0 : fuzz_number(input, 1) + (depth == 0 ? 0 : 1);
    *count = *count == 0xFF ? WIRE_MAX_TEMPLATE + 1 : *count;
    *count = *count > wire_left(input) && *count <= WIRE_MAX_TEMPLATE ? wire_left(input) : *count;
    CK_ATTRIBUTE *array = keep(calloc(*count + 1, sizeof *array));
    for (CK_ULONG i = 0; i < *count && wire_left(input) != 0; i++) {
        read_attribute(input, &array[i], depth);
    }
    return array;
}

static void check_put(const CK_ATTRIBUTE *template, CK_ULONG count)
{
    size_t room;
    if (attributes_room(template, count, &room) != CKR_OK) {
        return;
    }
    uint8_t *out = malloc(room);
    struct wire_writer writer = wire_writer(out, room);
    FUZZ_CHECK(attributes_put(&writer, template, count) == CKR_OK && writer.len <= room);
    struct wire_reader reader = wire_reader(out, writer.len);
    struct wire_template back;
    FUZZ_CHECK(wire_get_template(&reader, &back) == WIRE_OK && wire_get_end(&reader) == WIRE_OK && back.count == count);
    free(out);
}

/* A caller says with lengths what it has room for; ours are true by now. */
static void make_fair(CK_ATTRIBUTE *template, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++) {
        bool one_byte = template[i].ulValueLen > ~(CK_ULONG)0 - 0x10000; /* HOSTILE_LENGTH */
        template[i].ulValueLen = one_byte ? 1 : template[i].ulValueLen;
        const struct attribute_info *info = attribute_find(template[i].type);
        if (!one_byte && info != NULL && info->kind == ATTRIBUTE_TEMPLATE && template[i].pValue != NULL) {
            make_fair(template[i].pValue, template[i].ulValueLen / sizeof *template);
        }
    }
}

static void check_fill(struct wire_reader *input, CK_ATTRIBUTE *template, CK_ULONG count)
{
    struct wire_template answer;
    struct wire_bytes bytes = fuzz_bytes(input, wire_left(input));
    uint8_t *copy = keep(fuzz_copy(bytes));
    struct wire_reader reader = wire_reader(copy, bytes.len);
    make_fair(template, count);
    if (wire_get_template(&reader, &answer) == WIRE_OK) {
        CK_RV rv = attributes_fill(&answer, template, count, CKR_OK);
        FUZZ_CHECK(rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL || rv == CKR_DEVICE_ERROR);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader input = wire_reader(data, size);
    bool answers = fuzz_number(&input, 1) % 2 != 0;
    CK_ULONG count;
    CK_ATTRIBUTE *template = read_array(&input, &count, 0);
    if (answers) {
        check_fill(&input, template, count);
    } else {
        check_put(template, count);
    }
    while (allocated_count > 0) {
        free(allocated[--allocated_count]);
    }
    return 0;
}
