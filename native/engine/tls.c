#include "tls.h"

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <pthread.h>
#include <stdlib.h>

#include "object.h"
#include "tcp.h"

enum { CHAIN_MAX = 5, ANCHORS_MAX = 2, CLIENT_CHAIN_BYTES = 16384 };

/* A context is never changed once channels are made of it: another one takes its place, and they keep theirs. */
struct tls {
    pthread_mutex_t lock;
    SSL_CTX *context;
    const struct clock *clock;
};

struct channel {
    struct tls *tls;
    SSL *ssl;
    bool ready, broken, wants_write;
    bool certified, of_peer;
};

DEFINE_SCOPED(BIO, BIO_free_all)
DEFINE_SCOPED(X509, X509_free)
DEFINE_SCOPED(SSL_CTX, SSL_CTX_free)
DEFINE_SCOPED(X509_STORE_CTX, X509_STORE_CTX_free)
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

/* Other HSMs of the cluster, which prove themselves by other means than a certificate (ALPN, RFC 7301). */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *offered,
                           unsigned offered_len, void *unused)
{
    static const unsigned char peer[] = "\x0bhsmsim-peer";
    (void)unused;
    if (SSL_select_next_proto((unsigned char **)(uintptr_t)out, out_len, peer, sizeof peer - 1, offered, offered_len) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_NOACK; /* a client's own idea */
    }
    SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL);
    return SSL_TLSEXT_ERR_OK;
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
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    return context;
}

uint64_t tls_new(struct masking *masking, const he_material *key, const uint8_t *chain, size_t chain_len, const struct clock *clock,
                 struct tls **out)
{
    ERRORS_SCOPED;
    KEY_SCOPED *opened = NULL;
    RV_TRY(key_object_open(masking, key, &opened));
    RV_REQUIRE(opened->pkey != NULL, CKR_ARGUMENTS_BAD);
    struct tls *tls = calloc(1, sizeof *tls);
    RV_REQUIRE(tls != NULL, CKR_DEVICE_MEMORY);
    pthread_mutex_init(&tls->lock, NULL);
    tls->clock = clock;
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
        pthread_mutex_destroy(&tls->lock);
        free(tls);
    }
}

/* ---- what it asks of clients -------------------------------------------------------------------------------------------- */

/* An anchor is trusted as it is, whether self-signed or not. Its name goes to clients that choose among certificates. */
static uint64_t trust(SSL_CTX *context, const uint8_t *anchors, size_t len)
{
    RV_REQUIRE(len <= WIRE_MAX_DATA, CKR_ARGUMENTS_BAD);
    SCOPED(BIO) pem = BIO_new_mem_buf(anchors, (int)len);
    RV_REQUIRE(pem != NULL, CKR_DEVICE_MEMORY);
    for (int count = 0;; count++) {
        SCOPED(X509) anchor = next_certificate(pem);
        if (anchor == NULL) {
            return count != 0 ? CKR_OK : CKR_ARGUMENTS_BAD;
        }
        RV_REQUIRE(count < ANCHORS_MAX, CKR_ARGUMENTS_BAD);
        RV_REQUIRE(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), anchor) == 1 && SSL_CTX_add_client_CA(context, anchor) == 1,
                   CKR_DEVICE_MEMORY);
    }
}

static uint64_t ask(SSL_CTX *context, const he_clients *clients)
{
    if (clients->anchors_len != 0) {
        RV_TRY(trust(context, clients->anchors, clients->anchors_len));
    }
    int wanted = clients->anchors_len != 0 ? SSL_VERIFY_PEER : SSL_VERIFY_NONE;
    if (clients->enforced != 0) {
        wanted = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    SSL_CTX_set_verify(context, wanted, NULL);
    SSL_CTX_set_verify_depth(context, CHAIN_MAX);
    SSL_CTX_set_max_cert_list(context, CLIENT_CHAIN_BYTES);
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    return CKR_OK;
}

static SSL_CTX *context_of(struct tls *tls)
{
    pthread_mutex_lock(&tls->lock);
    SSL_CTX *context = tls->context;
    SSL_CTX_up_ref(context);
    pthread_mutex_unlock(&tls->lock);
    return context;
}

static bool show_the_same(SSL_CTX *context, SSL_CTX *former)
{
    STACK_OF(X509) *issuers = NULL;
    return SSL_CTX_get0_chain_certs(former, &issuers) == 1 &&
           SSL_CTX_use_cert_and_key(context, SSL_CTX_get0_certificate(former), SSL_CTX_get0_privatekey(former), issuers, 1) == 1;
}

uint64_t tls_clients(struct tls *tls, const he_clients *clients)
{
    ERRORS_SCOPED;
    SCOPED(SSL_CTX) former = context_of(tls);
    SCOPED(SSL_CTX) next = make_context();
    RV_REQUIRE(next != NULL && show_the_same(next, former), CKR_DEVICE_MEMORY);
    RV_TRY(ask(next, clients));
    pthread_mutex_lock(&tls->lock);
    SSL_CTX *replaced = tls->context;
    tls->context = next;
    next = replaced;
    pthread_mutex_unlock(&tls->lock);
    return CKR_OK;
}

/* As OpenSSL does it in a handshake, with the anchors and the time of now. */
static bool is_good(const struct channel *channel, SSL_CTX *context)
{
    SCOPED(X509_STORE_CTX) check = X509_STORE_CTX_new_ex(evp_context(), NULL);
    if (check == NULL || X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(context), SSL_get0_peer_certificate(channel->ssl),
                                             SSL_get_peer_cert_chain(channel->ssl)) != 1 ||
        X509_STORE_CTX_set_default(check, "ssl_client") != 1) {
        return false;
    }
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(check);
    X509_VERIFY_PARAM_set_auth_level(param, SSL_get_security_level(channel->ssl));
    X509_VERIFY_PARAM_set_depth(param, CHAIN_MAX);
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
    X509_VERIFY_PARAM_set_time(param, clock_time(channel->tls->clock));
    return X509_verify_cert(check) == 1;
}

bool channel_review(struct channel *channel)
{
    ERRORS_SCOPED;
    if (!channel->ready || channel->of_peer) {
        return true;
    }
    SCOPED(SSL_CTX) context = context_of(channel->tls);
    channel->certified = SSL_get0_peer_certificate(channel->ssl) != NULL;
    if (!channel->certified) {
        return (SSL_CTX_get_verify_mode(context) & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) == 0;
    }
    channel->certified = is_good(channel, context);
    return channel->certified;
}

bool channel_certified(const struct channel *channel)
{
    return channel->certified;
}

bool channel_of_peer(const struct channel *channel)
{
    return channel->of_peer;
}

/* ---- a connection ------------------------------------------------------------------------------------------------------- */

struct channel *channel_new(struct tls *tls, int fd)
{
    ERRORS_SCOPED;
    SCOPED(SSL_CTX) context = context_of(tls);
    struct channel *channel = calloc(1, sizeof *channel);
    BIO *bio = channel == NULL ? NULL : tcp_bio(fd);
    if (bio == NULL || (channel->ssl = SSL_new(context)) == NULL) {
        BIO_free(bio);
        free(channel);
        return NULL;
    }
    channel->tls = tls;
    X509_VERIFY_PARAM_set_time(SSL_get0_param(channel->ssl), clock_time(tls->clock));
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

/* What the port asks may have changed since this handshake began. */
static bool take_in(struct channel *channel)
{
    const unsigned char *protocol;
    unsigned len;
    SSL_get0_alpn_selected(channel->ssl, &protocol, &len);
    channel->of_peer = len != 0;
    channel->certified = SSL_get0_peer_certificate(channel->ssl) != NULL;
    SCOPED(SSL_CTX) context = context_of(channel->tls);
    return context == SSL_get_SSL_CTX(channel->ssl) || channel_review(channel);
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
        channel->broken = !take_in(channel);
        return channel->broken ? CHANNEL_BROKEN : CHANNEL_READY;
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
