/* The module's client side for Python (hsmsim.native): sessions, keys, and many signatures in one call.
 *
 * Everything is the module's own: configuration, transport, failover, login, mechanism rules. Functions return a CK_RV. Safe from
 * any thread; in a forked child all but signer_start is CKR_CRYPTOKI_NOT_INITIALIZED (core.c). signer_finish must find no call
 * under way. cffi reads what stands between the two markers. */
#ifndef HSMSIM_SIGNER_H
#define HSMSIM_SIGNER_H

#include <stddef.h>
#include <stdint.h>

/* cffi reads from here */
/* A key with a mechanism, as in C_SignInit. */
typedef struct {
    unsigned long key, mechanism;
    const uint8_t *parameter;
    size_t parameter_len;
    int digested; /* the data is the digest that the mechanism would make of it */
} signer_kind;

/* Requests and their answers, column by column. */
typedef struct {
    const signer_kind *kinds;
    size_t count;
    const uint32_t *kind; /* of each request: an index into kinds, which the caller has checked */
    const uint8_t *data;
    const uint64_t *end; /* request i is data[end[i - 1]..end[i]) */
    uint8_t *signatures; /* answer i begins at i * room */
    size_t room;
    uint32_t *lengths;
    uint64_t *rvs; /* CK_RV of each */
} signer_batch;

/* config: a path, or NULL for what C_Initialize finds. error: why a configuration was refused. */
unsigned long signer_start(const char *config, char *error, size_t error_len);
unsigned long signer_finish(void);
/* token: a label, or NULL for the first slot's. CKR_TOKEN_NOT_PRESENT: the configuration names no such token. */
unsigned long signer_slot(const char *token, unsigned long *slot);
unsigned long signer_open(unsigned long slot, unsigned long *session);
unsigned long signer_login(unsigned long session, const uint8_t *pin, size_t len);
/* Keys that may sign; NULL: whatever it is. *count: room on entry, found on return. */
unsigned long signer_find(unsigned long session, const uint8_t *label, size_t label_len, const uint8_t *id, size_t id_len,
                          unsigned long *handles, size_t *count);
unsigned long signer_key_type(unsigned long session, unsigned long key, unsigned long *type);
/* Bytes of a signature. */
unsigned long signer_size(unsigned long session, const signer_kind *kind, size_t *size);
/* The requests in order, up to sixteen of them under way at once. Each ends with a CK_RV of its own; when no HSM is left, those
 * that have not been sent are not. The result is the session's: CKR_SESSION_HANDLE_INVALID and its kind. */
unsigned long signer_sign(unsigned long session, const signer_batch *batch);
/* cffi reads to here */

#endif
