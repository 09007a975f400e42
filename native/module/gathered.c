#include "gathered.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 1024 };

/* realloc would leave a copy behind. */
CK_RV gathered_reserve(struct gathered *gathered, size_t cap)
{
    if (cap <= gathered->cap) {
        return CKR_OK;
    }
    uint8_t *data = malloc(cap);
    if (data == NULL) {
        return CKR_HOST_MEMORY;
    }
    if (gathered->data != NULL) {
        memcpy(data, gathered->data, gathered->len);
        OPENSSL_cleanse(gathered->data, gathered->cap);
        free(gathered->data);
    }
    gathered->data = data;
    gathered->cap = cap;
    return CKR_OK;
}

CK_RV gathered_add(struct gathered *gathered, const uint8_t *data, size_t len)
{
    size_t need = gathered->len + len;
    if (need > gathered->cap) {
        size_t cap = gathered->cap < FIRST_CAPACITY ? FIRST_CAPACITY : gathered->cap * 2;
        CK_RV rv = gathered_reserve(gathered, cap < need ? need : cap);
        if (rv != CKR_OK) {
            return rv;
        }
    }
    if (len > 0) {
        memcpy(gathered->data + gathered->len, data, len);
        gathered->len = need;
    }
    return CKR_OK;
}

void gathered_wipe(struct gathered *gathered)
{
    if (gathered->data != NULL) {
        OPENSSL_cleanse(gathered->data, gathered->cap);
        free(gathered->data);
    }
    *gathered = (struct gathered){0};
}
