/* A TLS client that does the least that a server takes for a full handshake: one group (X25519, the same share again and
 * again), AES-128-GCM with SHA-256, no look at the certificate or its signature. The server's Finished is checked, so keys and
 * transcript agree. For measuring servers: OpenSSL's own client spends more time on a handshake than the server does. */
#pragma once

#include <stdbool.h>

struct lean; /* one per thread */

/* version: TLS1_2_VERSION or TLS1_3_VERSION of OpenSSL. NULL: no memory, or no such algorithm. */
struct lean *lean_new(int version);
void lean_free(struct lean *lean);

/* A full handshake on a connected socket, which the caller closes. With TLS 1.3 it returns when the server has closed, in answer
 * to a close_notify behind the client's Finished: then it has seen both. */
bool lean_shake(struct lean *lean, int fd);
