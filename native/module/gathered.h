/* Bytes that an operation gathers: they may be plaintext, so they are wiped when they move and when they go. */
#ifndef HSMSIM_GATHERED_H
#define HSMSIM_GATHERED_H

#include <stddef.h>
#include <stdint.h>

#include "pkcs11.h"

struct gathered {
    uint8_t *data;
    size_t len;
    size_t cap;
};

CK_RV gathered_add(struct gathered *gathered, const uint8_t *data, size_t len); /* CKR_HOST_MEMORY */
CK_RV gathered_reserve(struct gathered *gathered, size_t cap);
void gathered_wipe(struct gathered *gathered);

#endif
