#include "tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { PROBES = 3, MS = 1000 };

static bool set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

bool tcp_options(int fd, unsigned gone_ms)
{
    int interval = (int)(gone_ms / MS / (PROBES + 1));
    interval = interval < 1 ? 1 : interval;
    return set(fd, IPPROTO_TCP, TCP_NODELAY, 1) && set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) && set(fd, IPPROTO_TCP, TCP_KEEPIDLE, interval) &&
           set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval) && set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES) &&
           set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)gone_ms);
}

static int descriptor(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static bool again(ssize_t result)
{
    return result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *written)
{
    ssize_t sent = send(descriptor(bio), data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    BIO_clear_retry_flags(bio);
    if (sent <= 0) {
        if (again(sent)) {
            BIO_set_retry_write(bio);
        }
        return 0;
    }
    *written = (size_t)sent;
    return 1;
}

static int bio_read(BIO *bio, char *data, size_t len, size_t *got)
{
    ssize_t received = recv(descriptor(bio), data, len, MSG_DONTWAIT);
    BIO_clear_retry_flags(bio);
    if (received <= 0) {
        if (again(received)) {
            BIO_set_retry_read(bio);
        }
        return 0;
    }
    *got = (size_t)received;
    return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; /* there is nothing held back */
}

static BIO_METHOD *make_method(void)
{
    BIO_METHOD *made = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "hsmsim tcp");
    if (made != NULL && (!BIO_meth_set_write_ex(made, bio_write) || !BIO_meth_set_read_ex(made, bio_read) ||
                         !BIO_meth_set_ctrl(made, bio_control))) {
        BIO_meth_free(made);
        return NULL;
    }
    return made;
}

/* Made once, without a lock that a forked child could find taken. */
static const BIO_METHOD *method(void)
{
    static _Atomic(BIO_METHOD *) shared;
    BIO_METHOD *known = atomic_load(&shared);
    if (known == NULL) {
        BIO_METHOD *made = make_method();
        if (atomic_compare_exchange_strong(&shared, &known, made)) {
            known = made;
        } else {
            BIO_meth_free(made);
        }
    }
    return known;
}

BIO *tcp_bio(int fd)
{
    const BIO_METHOD *kind = method();
    BIO *bio = kind == NULL ? NULL : BIO_new(kind);
    if (bio != NULL) {
        BIO_set_data(bio, (void *)(intptr_t)fd);
        BIO_set_init(bio, 1);
    }
    return bio;
}
