#include "listener.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int bind_first(const struct addrinfo *found)
{
    const int one = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ||
                    listen(fd, SOMAXCONN) != 0)) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

struct listener *listener_open(const char *address, uint16_t port, struct tls *tls, char *error, size_t error_len)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    struct listener *listener = malloc(sizeof *listener);
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    int failed = getaddrinfo(address, service, &hints, &found);
    int fd = failed != 0 || listener == NULL ? -1 : bind_first(found);
    if (fd < 0) {
        snprintf(error, error_len, "%s: %s", address, failed != 0 ? gai_strerror(failed) : strerror(errno));
        tls_free(tls);
        free(listener);
        listener = NULL;
    } else {
        *listener = (struct listener){fd, tls};
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    return listener;
}

void listener_close(struct listener *listener)
{
    close(listener->fd);
    tls_free(listener->tls);
    free(listener);
}

bool listener_peer(int fd, uint64_t *owner)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer;
    socklen_t len = sizeof peer;
    uint64_t network;
    if (getpeername(fd, &peer.any, &len) != 0) {
        return false;
    }
    if (peer.any.sa_family == AF_INET) {
        *owner = UINT64_C(1) << 32 | ntohl(peer.v4.sin_addr.s_addr);
        return true;
    }
    if (peer.any.sa_family != AF_INET6) {
        return false;
    }
    if (IN6_IS_ADDR_V4MAPPED(&peer.v6.sin6_addr)) {
        uint32_t mapped;
        memcpy(&mapped, peer.v6.sin6_addr.s6_addr + 12, sizeof mapped);
        *owner = UINT64_C(1) << 32 | ntohl(mapped);
        return true;
    }
    memcpy(&network, peer.v6.sin6_addr.s6_addr, sizeof network);
    *owner = UINT64_C(1) << 63 | be64toh(network);
    return true;
}
