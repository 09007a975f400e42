#include "tls.h"

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>

#include "object.h"
#include "tcp.h"

enum { CHAIN_MAX = 5 };

struct tls {
    SSL_CTX *context;
};

struct channel {
    SSL *ssl;
    bool ready, broken, wants_write;
};

DEFINE_SCOPED(BIO, BIO_free_all)
DEFINE_SCOPED(X509, X509_free)
static inline void scoped_chain_release(STACK_OF(X509) **held)
{
    sk_X509_pop_free(*held, X509_free);
}
#define CHAIN_SCOPED __attribute__((cleanup(scoped_chain_release))) STACK_OF(X509)

/* ---- what the port shows ---------------------------------------------------------------------------------------------- */

static X509 *next_certificate(BIO *pem)
{
    X509 *certificate = X509_new_ex(evp_context(), NULL);
    if (certificate != NULL && PEM_read_bio_X509(pem, &certificate, NULL, NULL) == NULL) {
        X509_free(certificate);
        return NULL;
    }
    return certificate;
}

static uint64_t show(SSL_CTX *context, EVP_PKEY *key, const uint8_t *chain, size_t chain_len)
{
    RV_REQUIRE(chain_len <= WIRE_MAX_DATA, CKR_ARGUMENTS_BAD);
    SCOPED(BIO) pem = BIO_new_mem_buf(chain, (int)chain_len);
    CHAIN_SCOPED *issuers = sk_X509_new_null();
    RV_REQUIRE(pem != NULL && issuers != NULL, CKR_DEVICE_MEMORY);
    SCOPED(X509) own = next_certificate(pem);
    RV_REQUIRE(own != NULL, CKR_ARGUMENTS_BAD);
    for (X509 *issuer; (issuer = next_certificate(pem)) != NULL;) {
        if (sk_X509_num(issuers) == CHAIN_MAX || sk_X509_push(issuers, issuer) <= 0) {
            X509_free(issuer);
            return CKR_ARGUMENTS_BAD;
        }
    }
    return SSL_CTX_use_cert_and_key(context, own, key, issuers, 1) == 1 ? CKR_OK : CKR_ARGUMENTS_BAD;
}

/* No tickets: a connection lives as long as its client, and a resumed one would spare little. */
static SSL_CTX *make_context(void)
{
    SSL_CTX *context = SSL_CTX_new_ex(evp_context(), NULL, TLS_server_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 || SSL_CTX_set_num_tickets(context, 0) != 1) {
        SSL_CTX_free(context);
        return NULL;
    }
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(context, 1); /* a record in one recv */
    return context;
}

uint64_t tls_new(struct masking *masking, const he_material *key, const uint8_t *chain, size_t chain_len, struct tls **out)
{
    ERRORS_SCOPED;
    KEY_SCOPED *opened = NULL;
    RV_TRY(key_object_open(masking, key, &opened));
    RV_REQUIRE(opened->pkey != NULL, CKR_ARGUMENTS_BAD);
    struct tls *tls = calloc(1, sizeof *tls);
    RV_REQUIRE(tls != NULL, CKR_DEVICE_MEMORY);
    tls->context = make_context();
    uint64_t rv = tls->context == NULL ? CKR_DEVICE_MEMORY : show(tls->context, opened->pkey, chain, chain_len);
    if (rv != CKR_OK) {
        tls_free(tls);
        return rv;
    }
    *out = tls;
    return CKR_OK;
}

void tls_free(struct tls *tls)
{
    if (tls != NULL) {
        SSL_CTX_free(tls->context);
        free(tls);
    }
}

/* ---- a connection ------------------------------------------------------------------------------------------------------- */

struct channel *channel_new(const struct tls *tls, int fd)
{
    ERRORS_SCOPED;
    struct channel *channel = calloc(1, sizeof *channel);
    BIO *bio = channel == NULL ? NULL : tcp_bio(fd);
    if (bio == NULL || (channel->ssl = SSL_new(tls->context)) == NULL) {
        BIO_free(bio);
        free(channel);
        return NULL;
    }
    SSL_set_bio(channel->ssl, bio, bio);
    SSL_set_accept_state(channel->ssl);
    return channel;
}

void channel_free(struct channel *channel)
{
    ERRORS_SCOPED;
    if (channel == NULL) {
        return;
    }
    if (channel->ready && !channel->broken) {
        (void)SSL_shutdown(channel->ssl);
    }
    SSL_free(channel->ssl);
    free(channel);
}

/* SSL_get_error would take what others left in this thread's error queue for ours; the states say it all. */
static bool may_go_on(struct channel *channel)
{
    bool read = SSL_want_read(channel->ssl) && BIO_should_read(SSL_get_rbio(channel->ssl));
    channel->wants_write = SSL_want_write(channel->ssl) && BIO_should_write(SSL_get_wbio(channel->ssl));
    channel->broken = !read && !channel->wants_write;
    return !channel->broken;
}

enum channel_result channel_shake(struct channel *channel)
{
    ERRORS_SCOPED;
    if (channel->ready) {
        return CHANNEL_READY;
    }
    channel->ready = SSL_do_handshake(channel->ssl) == 1;
    if (channel->ready) {
        channel->wants_write = false;
        return CHANNEL_READY;
    }
    return may_go_on(channel) ? CHANNEL_AGAIN : CHANNEL_BROKEN;
}

static ssize_t moved(struct channel *channel, int result, size_t count)
{
    channel->wants_write = false;
    if (result == 1) {
        return (ssize_t)count;
    }
    errno = may_go_on(channel) ? EAGAIN : ECONNRESET;
    return -1;
}

ssize_t channel_send(struct channel *channel, const uint8_t *data, size_t len)
{
    ERRORS_SCOPED;
    size_t count = 0;
    int result = SSL_write_ex(channel->ssl, data, len, &count);
    return moved(channel, result, count);
}

ssize_t channel_recv(struct channel *channel, uint8_t *out, size_t room)
{
    ERRORS_SCOPED;
    size_t count = 0;
    int result = SSL_read_ex(channel->ssl, out, room, &count);
    return moved(channel, result, count);
}

bool channel_ready(const struct channel *channel)
{
    return channel->ready;
}

bool channel_pending(const struct channel *channel)
{
    return SSL_has_pending(channel->ssl) == 1;
}

bool channel_wants_write(const struct channel *channel)
{
    return channel->wants_write;
}
