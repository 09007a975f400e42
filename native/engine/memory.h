/* Locked memory for secrets: OpenSSL's secure heap (mlocked on fault, guard pages, not in cores) plus MADV_WIPEONFORK, so that
 * the numbers inside OpenSSL's private keys and our own buffers live in one arena. Wiped on free.
 * Buffers above SECRET_ARENA_MAX get a mapping of their own with the same advice.
 * Whoever locks the whole process has to use MCL_ONFAULT: the arena is mapped large and touched little. */
#ifndef HSMSIM_MEMORY_H
#define HSMSIM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SECRET_ARENA_MAX = 32768 };

struct secret {
    uint8_t *data; /* NULL: nothing */
    size_t len;
};

/* Raises RLIMIT_MEMLOCK's soft limit to the hard one and makes the arena; once, later calls do nothing. Call it before
 * other OpenSSL work. false: the arena exists but is not locked, or could not be made (secrets are in plain heap). */
bool memory_init(void);
/* The arena is three quarters full: drop keys before opening more (OpenSSL fails when it cannot get secure memory). */
bool memory_low(void);

/* false: out of memory; then *out is {NULL, 0}. A length of 0 gives a valid pointer. Contents are zero. */
bool secret_alloc(struct secret *out, size_t len);
/* Wipes and frees; *secret becomes {NULL, 0}. Idempotent. */
void secret_free(struct secret *secret);
/* Shortens: the rest is wiped. The block keeps its size. */
void secret_trim(struct secret *secret, size_t len);
#define SECRET_SCOPED __attribute__((cleanup(secret_free))) struct secret

void memory_wipe(void *data, size_t len); /* the compiler does not remove it */
bool memory_equal(const void *a, const void *b, size_t len); /* constant time */

#endif
