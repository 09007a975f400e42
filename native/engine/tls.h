/* TLS 1.3 (RFC 8446) on the HSM's TCP port, over OpenSSL; nothing here blocks. One thread at a time per channel. */
#ifndef HSMSIM_TLS_H
#define HSMSIM_TLS_H

#include <sys/types.h>

#include "clock.h"
#include "crypto.h"

struct tls; /* what the port shows, the cluster's certificate and its key, and what it asks of clients */
/* chain: PEM, the certificate first and then who issued it. CKR_ARGUMENTS_BAD: no certificate, or for another key. Clients'
 * certificates are judged by `clock`, which outlives it; none is asked for before tls_clients says so. */
uint64_t tls_new(struct masking *masking, const he_material *key, const uint8_t *chain, size_t chain_len, const struct clock *clock,
                 struct tls **out);
/* Asks this from now on; channels that are there are to be reviewed. On failure nothing has changed. */
uint64_t tls_clients(struct tls *tls, const he_clients *clients);
void tls_free(struct tls *tls);

struct channel; /* a connection's */
/* On an accepted socket, which stays the caller's. NULL: no memory. */
struct channel *channel_new(struct tls *tls, int fd);
/* Says good-bye where that is possible, and frees. */
void channel_free(struct channel *channel);

enum channel_result { CHANNEL_READY, CHANNEL_AGAIN, CHANNEL_BROKEN };
/* A step of the handshake; CHANNEL_READY ever after. */
enum channel_result channel_shake(struct channel *channel);
/* As send and recv without blocking: -1 with EAGAIN, or any other error for a channel that is of no more use. */
ssize_t channel_send(struct channel *channel, const uint8_t *data, size_t len);
ssize_t channel_recv(struct channel *channel, uint8_t *out, size_t room);
/* Whether the port would still let it in. One whose handshake is not over is reviewed at its end. */
bool channel_review(struct channel *channel);
/* It has shown a client certificate that is good. */
bool channel_certified(const struct channel *channel);
/* It was opened by an HSM, as it says: it is not asked for a certificate, and is good for what HSMs ask each other alone. */
bool channel_of_peer(const struct channel *channel);
bool channel_ready(const struct channel *channel);
/* Bytes have come that channel_recv has not given yet: the socket does not tell of them again. */
bool channel_pending(const struct channel *channel);
/* The step that was last refused waits for room to send, not for bytes. */
bool channel_wants_write(const struct channel *channel);

#endif
