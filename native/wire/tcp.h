/* TCP as both ends use it: options of a connection, and what OpenSSL reads and writes by. */
#ifndef HSMSIM_TCP_H
#define HSMSIM_TCP_H

#include <openssl/bio.h>
#include <stdbool.h>

/* Small frames leave at once; a peer that is gone is noticed after at most `gone_ms`, also while nothing is sent. */
bool tcp_options(int fd, unsigned gone_ms);
/* A BIO on a socket that never blocks and raises no SIGPIPE, which OpenSSL's own would. The descriptor stays the caller's.
 * NULL: no memory. */
BIO *tcp_bio(int fd);

#endif
