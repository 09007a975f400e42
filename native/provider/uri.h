/* PKCS#11 URIs (RFC 7512): which token, which key, where the PIN is. */
#ifndef HSMSIM_URI_H
#define HSMSIM_URI_H

#include <stdbool.h>
#include <stddef.h>

#include "pkcs11.h"

struct uri_text {
    bool given;
    size_t len;
    unsigned char data[256];
};

struct uri {
    struct uri_text token, manufacturer, model, serial; /* of the token */
    struct uri_text object, id, type;                   /* of the key */
    struct uri_text pin_value, pin_source;
    CK_OBJECT_CLASS object_class; /* of `type`; CK_UNAVAILABLE_INFORMATION: either half */
};

/* false: `why` is what is wrong. An attribute that is not known here is refused: the name may mean another key. */
bool uri_parse(const char *text, size_t len, struct uri *out, const char **why);
void uri_wipe(struct uri *uri);

#endif
