/* The HSM's TCP port: a listening socket, and who is at the other end of what it accepts. */
#ifndef HSMSIM_LISTENER_H
#define HSMSIM_LISTENER_H

#include <stdint.h>

#include "tls.h"

struct listener {
    int fd;
    struct tls *tls;
};

/* Nobody's: no user of this machine is at the other end of a TCP connection. */
enum { TCP_PID = 0 };
#define TCP_UID UINT32_MAX

/* A numeric address. NULL with a sentence in `error`. Takes `tls` over. */
struct listener *listener_open(const char *address, uint16_t port, struct tls *tls, char *error, size_t error_len);
void listener_close(struct listener *listener);
/* Whom a connection counts for: an IPv4 address, or the /64 of an IPv6 one, as a number that is no user's. false: unknown. */
bool listener_peer(int fd, uint64_t *owner);

#endif
