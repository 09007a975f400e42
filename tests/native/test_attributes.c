/* Answers of an HSM in the caller's CK_ATTRIBUTE arrays, where the HSM means no good. */
#include "attributes.h"
#include "check.h"

struct encoded {
    uint8_t bytes[256];
    size_t len;
};

static struct encoded template_of(CK_ATTRIBUTE_TYPE type, const void *value, size_t len)
{
    struct encoded out;
    struct wire_writer writer = wire_writer(out.bytes, sizeof out.bytes);
    const struct wire_bytes bytes = wire_bytes(value, (uint32_t)len);
    CHECK(wire_put_u32(&writer, 1) == WIRE_OK && wire_put_u64(&writer, type) == WIRE_OK && wire_put_bytes(&writer, &bytes) == WIRE_OK);
    out.len = writer.len;
    return out;
}

static CK_RV fill(const struct encoded *answer, CK_ATTRIBUTE *template)
{
    struct wire_reader reader = wire_reader(answer->bytes, answer->len);
    struct wire_template view;
    CHECK(wire_get_template(&reader, &view) == WIRE_OK);
    return attributes_fill(&view, template, 1, CKR_OK);
}

/* The caller has a buffer for a label. The HSM now says that a template stands there: the buffer's bytes are no CK_ATTRIBUTE
 * whose pValue may be written through. */
static void test_buffer_is_no_array(void)
{
    const struct encoded label = template_of(CKA_LABEL, "attack", 6);
    const struct encoded inner = template_of(CKA_UNWRAP_TEMPLATE, label.bytes, label.len);
    const struct encoded answer = template_of(CKA_WRAP_TEMPLATE, inner.bytes, inner.len);
    char victim[8] = "victim";
    CK_ATTRIBUTE buffer = {CKA_LABEL, victim, sizeof victim}; /* what happens to stand in it */
    CK_ATTRIBUTE nested = {CKA_LABEL, &buffer, sizeof buffer};
    CK_ATTRIBUTE wanted = {CKA_WRAP_TEMPLATE, &nested, sizeof nested};
    CHECK_EQ(fill(&answer, &wanted), CKR_DEVICE_ERROR);
    CHECK(strcmp(victim, "victim") == 0);
}

/* An array that the caller did make for a nested template is filled. */
static void test_nested_array(void)
{
    const struct encoded label = template_of(CKA_LABEL, "inside", 6);
    const struct encoded inner = template_of(CKA_UNWRAP_TEMPLATE, label.bytes, label.len);
    const struct encoded answer = template_of(CKA_WRAP_TEMPLATE, inner.bytes, inner.len);
    char text[8] = "";
    CK_ATTRIBUTE innermost = {CKA_LABEL, text, sizeof text};
    CK_ATTRIBUTE nested = {CKA_UNWRAP_TEMPLATE, &innermost, sizeof innermost};
    CK_ATTRIBUTE wanted = {CKA_WRAP_TEMPLATE, &nested, sizeof nested};
    CHECK_EQ(fill(&answer, &wanted), CKR_OK);
    CHECK(innermost.ulValueLen == 6 && memcmp(text, "inside", 6) == 0);
}

int main(void)
{
    test_buffer_is_no_array();
    test_nested_array();
    puts("attributes: all as it should be");
    return 0;
}
