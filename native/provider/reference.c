#include "reference.h"

#include <openssl/asn1.h>
#include <string.h>

static const char description[] = "PKCS#11 Provider URI v1.0";

/* One string of a DER sequence. */
static bool take_string(const unsigned char **at, const unsigned char *end, int tag, size_t *text)
{
    long len;
    int found, class;
    int form = *at >= end ? 0x80 : ASN1_get_object(at, &len, &found, &class, end - *at);
    if ((form & 0x80) != 0 || class != V_ASN1_UNIVERSAL || found != tag) {
        return false;
    }
    *text = (size_t)len;
    return true;
}

bool reference_parse(const unsigned char *der, size_t size, const char **name, size_t *name_len)
{
    const unsigned char *at = der, *end = der + size;
    size_t text;
    long len;
    int tag, class;
    int form = ASN1_get_object(&at, &len, &tag, &class, (long)size);
    if ((form & 0x80) != 0 || tag != V_ASN1_SEQUENCE || class != V_ASN1_UNIVERSAL || at + len != end ||
        !take_string(&at, end, V_ASN1_VISIBLESTRING, &text) || text != sizeof description - 1 ||
        memcmp(at, description, text) != 0) {
        return false;
    }
    at += text;
    if (!take_string(&at, end, V_ASN1_UTF8STRING, &text) || at + text != end) {
        return false;
    }
    *name = (const char *)at;
    *name_len = text;
    return true;
}
