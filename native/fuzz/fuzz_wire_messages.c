/* Every message decoder: a payload that decodes encodes to the same bytes, and redaction accepts exactly what the decoder
 * accepts (the firmware parses what the engine redacted). Input: u16 message, payload. */
#include "../engine/queue.h"
#include "fuzz.h"
#include "messages.h"

/* true: the payload is a message of this kind. */
#define ROUND_TRIP(name)                                                                       \
    static bool round_trip_##name(const uint8_t *payload, size_t len)                          \
    {                                                                                          \
        struct wire_##name first, second;                                                      \
        struct wire_reader reader = wire_reader(payload, len);                                 \
        if (wire_get_##name(&reader, &first) != WIRE_OK) {                                     \
            return false;                                                                      \
        }                                                                                      \
        uint8_t *encoded = malloc(len + 1);                                                    \
        struct wire_writer writer = wire_writer(encoded, len);                                 \
        FUZZ_CHECK(wire_put_##name(&writer, &first) == WIRE_OK && writer.len == len);          \
        FUZZ_CHECK(len == 0 || memcmp(encoded, payload, len) == 0);                            \
        struct wire_reader again = wire_reader(encoded, len);                                  \
        FUZZ_CHECK(wire_get_##name(&again, &second) == WIRE_OK);                               \
        if (len != 0) { /* a put that has no room writes nothing */                            \
            struct wire_writer tight = wire_writer(encoded, len - 1);                          \
            FUZZ_CHECK(wire_put_##name(&tight, &first) == WIRE_SHORT && tight.len == 0);       \
        }                                                                                      \
        free(encoded);                                                                         \
        return true;                                                                           \
    }
#define BOTH(code, name) ROUND_TRIP(name##_request) ROUND_TRIP(name##_response)
WIRE_MESSAGES(BOTH)

static const struct {
    uint16_t code;
    bool (*request)(const uint8_t *payload, size_t len);
    bool (*response)(const uint8_t *payload, size_t len);
} messages[] = {
#define ROW(code, name) {WIRE_OP_##code, round_trip_##name##_request, round_trip_##name##_response},
    WIRE_MESSAGES(ROW)
};

static void check_redaction(const uint8_t *fields, const uint8_t *payload, size_t len, bool decodes)
{
    uint8_t *redacted = malloc(len + 1);
    FUZZ_CHECK((redact(fields, payload, len, redacted) == WIRE_OK) == decodes);
    free(redacted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader input = wire_reader(data, size);
    uint64_t number = fuzz_number(&input, 2);
    size_t index = number / 2 % wire_op_count, len = wire_left(&input);
    bool response = number % 2 != 0;
    uint8_t *payload = fuzz_copy(fuzz_bytes(&input, len));
    bool decodes = (response ? messages[index].response : messages[index].request)(payload, len);
    FUZZ_CHECK(messages[index].code == wire_ops[index].code);
    check_redaction(response ? wire_ops[index].response_fields : wire_ops[index].request_fields, payload, len, decodes);
    free(payload);
    return 0;
}
