/* What the provider reads of a key's name: a PEM file, the DER in it, and the PKCS#11 URI in that. Input: a PEM file, a DER
 * reference or a URI; each is tried. What was accepted is written anew, and must be read as the same. */
#include <openssl/bio.h>
#include <openssl/pem.h>

#include "fuzz.h"
#include "reference.h"
#include "uri.h"

enum { URI_MAX = 16384 };

struct text {
    char data[URI_MAX];
    size_t len;
};

static void put(struct text *out, const char *text)
{
    size_t len = strlen(text);
    FUZZ_CHECK(out->len + len < sizeof out->data);
    memcpy(out->data + out->len, text, len + 1);
    out->len += len;
}

static void put_attribute(struct text *out, const char *name, const struct uri_text *value, const char *separator)
{
    char byte[4];
    if (!value->given) {
        return;
    }
    FUZZ_CHECK(value->len <= sizeof value->data);
    put(out, separator);
    put(out, name);
    put(out, "=");
    for (size_t i = 0; i < value->len; i++) {
        snprintf(byte, sizeof byte, "%%%02x", value->data[i]);
        put(out, byte);
    }
}

/* Every octet as %xx, in the order of RFC 7512. */
static void write_uri(const struct uri *uri, struct text *out)
{
    const struct {
        const char *name;
        const struct uri_text *value;
    } path[] = {{"token", &uri->token}, {"manufacturer", &uri->manufacturer}, {"serial", &uri->serial}, {"model", &uri->model},
                {"object", &uri->object}, {"type", &uri->type}, {"id", &uri->id}};
    out->len = 0;
    put(out, "pkcs11:");
    size_t first = out->len;
    for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
        put_attribute(out, path[i].name, path[i].value, first == out->len ? "" : ";");
    }
    put_attribute(out, "pin-source", &uri->pin_source, "?");
    put_attribute(out, "pin-value", &uri->pin_value, uri->pin_source.given ? "&" : "?");
}

static void try_uri(const char *text, size_t len)
{
    static struct uri uri, again;
    static const struct uri nothing;
    static struct text written;
    const char *why = NULL;
    if (!uri_parse(text, len, &uri, &why)) {
        FUZZ_CHECK(why != NULL && memcmp(&uri, &nothing, sizeof uri) == 0);
        return;
    }
    FUZZ_CHECK(why == NULL);
    write_uri(&uri, &written);
    FUZZ_CHECK(uri_parse(written.data, written.len, &again, &why) && memcmp(&uri, &again, sizeof uri) == 0);
    uri_wipe(&uri);
    uri_wipe(&again);
}

static void try_reference(const unsigned char *der, size_t size)
{
    const char *name;
    size_t len;
    if (reference_parse(der, size, &name, &len)) {
        FUZZ_CHECK((const unsigned char *)name > der && (const unsigned char *)name + len == der + size);
        try_uri(name, len);
    }
}

static void try_pem(const uint8_t *data, size_t size)
{
    char *name = NULL, *header = NULL;
    unsigned char *der = NULL;
    long len = 0;
    BIO *bio = BIO_new_mem_buf(data, (int)size);
    FUZZ_CHECK(bio != NULL);
    if (PEM_read_bio(bio, &name, &header, &der, &len) == 1) {
        try_reference(der, (size_t)len);
    }
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(der);
    BIO_free(bio);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *input = fuzz_copy(wire_bytes(data, (uint32_t)size));
    try_uri((const char *)input, size);
    try_reference(input, size);
    try_pem(input, size);
    free(input);
    return 0;
}
