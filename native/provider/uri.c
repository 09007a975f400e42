#include "uri.h"

#include <openssl/crypto.h>
#include <string.h>

static const struct attribute {
    const char *name;
    size_t at;
    bool query;
} attributes[] = {
    {"token", offsetof(struct uri, token), false},
    {"manufacturer", offsetof(struct uri, manufacturer), false},
    {"model", offsetof(struct uri, model), false},
    {"serial", offsetof(struct uri, serial), false},
    {"object", offsetof(struct uri, object), false},
    {"id", offsetof(struct uri, id), false},
    {"type", offsetof(struct uri, type), false},
    {"pin-value", offsetof(struct uri, pin_value), true},
    {"pin-source", offsetof(struct uri, pin_source), true},
};

static const struct {
    const char *name;
    CK_OBJECT_CLASS object_class;
} types[] = {{"private", CKO_PRIVATE_KEY}, {"public", CKO_PUBLIC_KEY}};

/* A piece of text that ends where the next one begins. */
struct span {
    const char *at, *end;
};

static struct span cut(struct span *rest, char separator)
{
    const char *found = memchr(rest->at, separator, (size_t)(rest->end - rest->at));
    struct span piece = {rest->at, found == NULL ? rest->end : found};
    rest->at = found == NULL ? rest->end : found + 1;
    return piece;
}

static bool is(struct span span, const char *text)
{
    size_t len = strlen(text);
    return (size_t)(span.end - span.at) == len && memcmp(span.at, text, len) == 0;
}

static int digit(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *found = c == '\0' ? NULL : strchr(digits, c);
    return found == NULL ? -1 : (int)((found - digits) % 16);
}

/* RFC 7512 2.3: octets outside of the unreserved set come as %xx. */
static bool decode(struct span span, struct uri_text *out)
{
    out->given = true;
    for (const char *at = span.at; at < span.end; at++) {
        int byte = (unsigned char)*at;
        if (*at == '%') {
            int high = span.end - at > 2 ? digit(at[1]) : -1, low = span.end - at > 2 ? digit(at[2]) : -1;
            if (high < 0 || low < 0) {
                return false;
            }
            byte = high << 4 | low;
            at += 2;
        }
        if (out->len == sizeof out->data) {
            return false;
        }
        out->data[out->len++] = (unsigned char)byte;
    }
    return true;
}

static const char *take(struct span piece, bool query, struct uri *out)
{
    struct span value = piece, name = cut(&value, '=');
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        if (attributes[i].query == query && is(name, attributes[i].name)) {
            struct uri_text *text = (struct uri_text *)(void *)((unsigned char *)out + attributes[i].at);
            if (text->given) {
                return "an attribute stands twice";
            }
            return name.end == piece.end || !decode(value, text) ? "an attribute has no value, a bad %xx or more than 256 bytes" : NULL;
        }
    }
    return query ? "after ? only pin-value and pin-source are known here"
                 : "of a key only token, manufacturer, model, serial, object, id and type are known here";
}

static const char *take_all(struct span all, char separator, bool query, struct uri *out)
{
    const char *why = NULL;
    while (why == NULL && all.at < all.end) {
        why = take(cut(&all, separator), query, out);
    }
    return why;
}

static const char *read_type(struct uri *out)
{
    const struct span type = {(const char *)out->type.data, (const char *)out->type.data + out->type.len};
    out->object_class = CK_UNAVAILABLE_INFORMATION;
    for (size_t i = 0; out->type.given && i < sizeof types / sizeof *types; i++) {
        if (is(type, types[i].name)) {
            out->object_class = types[i].object_class;
        }
    }
    return out->type.given && out->object_class == CK_UNAVAILABLE_INFORMATION ? "type is private or public" : NULL;
}

bool uri_parse(const char *text, size_t len, struct uri *out, const char **why)
{
    static const char scheme[] = "pkcs11:";
    struct span rest = {text, text + len};
    memset(out, 0, sizeof *out);
    if (len < sizeof scheme - 1 || memcmp(text, scheme, sizeof scheme - 1) != 0) {
        *why = "it does not begin with pkcs11:";
        return false;
    }
    rest.at += sizeof scheme - 1;
    struct span path = cut(&rest, '?');
    *why = take_all(path, ';', false, out);
    *why = *why == NULL ? take_all(rest, '&', true, out) : *why;
    *why = *why == NULL ? read_type(out) : *why;
    if (*why != NULL) {
        uri_wipe(out);
    }
    return *why == NULL;
}

void uri_wipe(struct uri *uri)
{
    OPENSSL_cleanse(uri, sizeof *uri);
}
