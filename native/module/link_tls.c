/* A link over TCP: TLS 1.3 to an HSM whose certificate the customer's CA has issued. The name in it is the hardware's, so no host
 * name is looked for; that the HSM is of the right cluster is asked of it afterwards (transport.c).
 *
 * OpenSSL in a library context of the slot's own: neither the application's configuration nor a provider that stands on this
 * module has a say in it. A forked child leaves all of it alone, for another thread of the parent may have been inside. */
#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "slot.h"
#include "tcp.h"

struct slot_tls {
    OSSL_LIB_CTX *library;
    SSL_CTX *context;
};

/* The application's error queue stays as it was. */
#define ERRORS_SCOPED __attribute__((cleanup(errors_release), unused)) int errors_marked_ = ERR_set_mark()
static void errors_release(const int *marked)
{
    if (*marked != 0) {
        (void)ERR_pop_to_mark();
    } else {
        ERR_clear_error(); /* a mark needs an entry to stand on: the queue was empty */
    }
}

enum { NO_WAIT = -1 };

static int64_t now_ms(void)
{
    return (int64_t)(ring_now_ns() / 1000000);
}

/* ---- whom to trust ---------------------------------------------------------------------------------------------------- */

static X509 *next_certificate(BIO *pem, OSSL_LIB_CTX *library)
{
    X509 *certificate = pem == NULL ? NULL : X509_new_ex(library, NULL);
    if (certificate != NULL && PEM_read_bio_X509(pem, &certificate, NULL, NULL) == NULL) {
        X509_free(certificate);
        return NULL;
    }
    return certificate;
}

/* The number of certificates. */
static int trust(SSL_CTX *context, OSSL_LIB_CTX *library, const struct config_slot *config)
{
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    BIO *pem = BIO_new_mem_buf(config->ca.text, (int)config->ca.len);
    int count = 0;
    for (X509 *certificate; (certificate = next_certificate(pem, library)) != NULL;) {
        count += X509_STORE_add_cert(store, certificate) == 1;
        X509_free(certificate);
    }
    BIO_free(pem);
    return count;
}

/* ---- who we are, where the cluster wants to know ---------------------------------------------------------------------- */

static int no_passphrase(char *out, int room, int encrypting, void *unused)
{
    (void)out;
    (void)room;
    (void)encrypting;
    (void)unused;
    return -1; /* there is nobody to ask */
}

static bool use_client(SSL_CTX *context, X509 *own, EVP_PKEY *key, BIO *pem, OSSL_LIB_CTX *library)
{
    STACK_OF(X509) *above = sk_X509_new_null();
    bool fine = above != NULL;
    for (X509 *certificate; fine && (certificate = next_certificate(pem, library)) != NULL;) {
        fine = sk_X509_push(above, certificate) > 0;
    }
    fine = fine && SSL_CTX_use_cert_and_key(context, own, key, above, 1) == 1;
    sk_X509_pop_free(above, X509_free);
    return fine;
}

/* NULL: done, or there is no client certificate; else what is wrong. */
static const char *introduce(SSL_CTX *context, OSSL_LIB_CTX *library, const struct config_slot *config)
{
    if (config->client_cert.text == NULL) {
        return NULL;
    }
    BIO *certificates = BIO_new_mem_buf(config->client_cert.text, (int)config->client_cert.len);
    BIO *secret = BIO_new_mem_buf(config->client_key.text, (int)config->client_key.len);
    X509 *own = next_certificate(certificates, library);
    EVP_PKEY *key = secret == NULL ? NULL : PEM_read_bio_PrivateKey_ex(secret, NULL, no_passphrase, NULL, library, NULL);
    const char *fault = NULL;
    if (own == NULL) {
        fault = "client_cert_hsm_tls_path has no certificate in PEM";
    } else if (key == NULL) {
        fault = "client_key_hsm_tls_path has no key in PEM, or one with a passphrase";
    } else if (!use_client(context, own, key, certificates, library)) {
        fault = "client_key_hsm_tls_path is not the key of the certificate in client_cert_hsm_tls_path";
    }
    EVP_PKEY_free(key);
    X509_free(own);
    BIO_free(secret);
    BIO_free(certificates);
    return fault;
}

/* An HSM that does not like our certificate says so after the handshake, which is over for us by then (RFC 8446, 4.4.2.4). What
 * the error queue says may be the application's. */
static void hear_alert(const SSL *tls, int where, int alert)
{
    struct link *link = SSL_get_app_data(tls);
    if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT) {
        link->alert = (uint8_t)alert; /* below its level */
    }
}

const char *link_tls_refusal(const struct link *link)
{
    switch (link->alert) {
    case SSL_AD_CERTIFICATE_REQUIRED:
        return "it lets nobody in without a client certificate: `hsmsim configure-pkcs11` has --client-cert-hsm-tls-file and "
               "--client-key-hsm-tls-file";
    case SSL_AD_UNKNOWN_CA:
        return "the certificate in client_cert_hsm_tls_path comes from none of the cluster's trust anchors: see `cloudhsm-cli cluster "
               "mtls list-trust-anchors`";
    case SSL_AD_CERTIFICATE_EXPIRED:
        return "the certificate in client_cert_hsm_tls_path, or one above it, has expired by the simulated clock: see `hsmsim clock`";
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_DECRYPT_ERROR:
        return "the certificate in client_cert_hsm_tls_path is not good: not valid yet by the simulated clock, not for clients, or damaged";
    default: return NULL;
    }
}

static SSL_CTX *make_context(OSSL_LIB_CTX *library)
{
    SSL_CTX *context = library == NULL ? NULL : SSL_CTX_new_ex(library, NULL, TLS_client_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1) {
        SSL_CTX_free(context);
        return NULL;
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_info_callback(context, hear_alert);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_CLEANSE_PLAINTEXT);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1); /* a record in one recv */
    return context;
}

void slot_tls_free(struct slot *slot)
{
    if (slot->tls != NULL) {
        SSL_CTX_free(slot->tls->context);
        OSSL_LIB_CTX_free(slot->tls->library);
        free(slot->tls);
        slot->tls = NULL;
    }
}

/* Made when it is first needed. The slot's lock is held. */
static SSL_CTX *context_of(struct slot *slot)
{
    if (slot->tls != NULL) {
        return slot->tls->context;
    }
    slot->tls = calloc(1, sizeof *slot->tls);
    if (slot->tls == NULL) {
        return NULL;
    }
    slot->tls->library = OSSL_LIB_CTX_new();
    SSL_CTX *context = slot->tls->context = make_context(slot->tls->library);
    const char *fault = context == NULL ? NULL : introduce(context, slot->tls->library, slot->config);
    if (context == NULL) {
        slot_complain(slot, "OpenSSL does not start: no TLS, so no HSM is reached by TCP");
    } else if (trust(context, slot->tls->library, slot->config) == 0) {
        slot_complain(slot, "%s has no certificate in PEM: it is to be the customer's CA that signed the cluster's CSR", slot->config->ca.path);
    } else if (fault != NULL) {
        slot_complain(slot, "no HSM is reached by TCP: %s", fault);
    } else {
        return context;
    }
    slot_tls_free(slot);
    return NULL;
}

/* ---- waiting ---------------------------------------------------------------------------------------------------------- */

static bool wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd one = {.fd = fd, .events = events};
    for (;;) {
        int64_t left = deadline - now_ms();
        int ready = poll(&one, 1, left < 0 ? 0 : (int)left);
        if (ready > 0 || ready == 0 || errno != EINTR) {
            return ready > 0;
        }
    }
}

static bool would_wait(SSL *tls)
{
    return (SSL_want_read(tls) && BIO_should_read(SSL_get_rbio(tls))) || (SSL_want_write(tls) && BIO_should_write(SSL_get_wbio(tls)));
}

/* What the call that has just failed waits for; false: it failed for good, or the time is over. SSL_get_error would take what
 * the application left in this thread's error queue for ours. */
static bool wait_again(SSL *tls, int fd, int64_t deadline)
{
    if (SSL_want_read(tls) && BIO_should_read(SSL_get_rbio(tls))) {
        return wait_for(fd, POLLIN, deadline);
    }
    return SSL_want_write(tls) && BIO_should_write(SSL_get_wbio(tls)) && wait_for(fd, POLLOUT, deadline);
}

/* ---- connecting ------------------------------------------------------------------------------------------------------- */

static int socket_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 ? error : errno;
}

static int connect_one(const struct addrinfo *found, int64_t deadline)
{
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    int why = connect(fd, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
    if (why == EINPROGRESS) {
        why = deadline == NO_WAIT ? 0 : wait_for(fd, POLLOUT, deadline) ? socket_error(fd) : ETIMEDOUT;
    }
    if (why != 0) {
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

/* Each address of the name in turn; with NO_WAIT the first that is not refused at once. */
static int connect_to(const struct config_server *server, int64_t deadline)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char service[8];
    int fd = -1;
    snprintf(service, sizeof service, "%u", (unsigned)server->port);
    int failed = getaddrinfo(server->host, service, &hints, &found);
    if (failed != 0) {
        log_line(LEVEL_WARN, "%s is no address and no name that is known: %s", server->host, gai_strerror(failed));
        return -1;
    }
    for (const struct addrinfo *one = found; one != NULL && fd < 0; one = one->ai_next) {
        fd = connect_one(one, deadline);
    }
    if (fd < 0) {
        log_line(LEVEL_DEBUG, "%s: %s", server->name, strerror(errno));
    }
    freeaddrinfo(found);
    return fd;
}

/* ---- the handshake ---------------------------------------------------------------------------------------------------- */

static const char *certificate_fault(long result)
{
    switch (result) {
    case X509_V_OK: return NULL;
    case X509_V_ERR_CERT_HAS_EXPIRED: return "its certificate, or the CA's, has expired: see `openssl x509 -enddate`";
    case X509_V_ERR_CERT_NOT_YET_VALID: return "its certificate is not valid yet: is this machine's clock right?";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE: return "its certificate was not issued by the CA in hsm_ca_file";
    default: return X509_verify_cert_error_string(result);
    }
}

static const char *handshake_fault(SSL *tls, bool late)
{
    const char *fault = certificate_fault(SSL_get_verify_result(tls));
    unsigned long error = ERR_peek_last_error();
    if (fault != NULL) {
        return fault;
    }
    if (late) {
        return "it did not answer the TLS handshake in time";
    }
    if (ERR_GET_LIB(error) != ERR_LIB_SSL) {
        return "it ended the connection in the TLS handshake";
    }
    switch (ERR_GET_REASON(error)) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG: return "it does not speak TLS";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: return "it does not speak TLS 1.3";
    default: return ERR_reason_error_string(error) == NULL ? "the TLS handshake failed" : ERR_reason_error_string(error);
    }
}

/* The CA may have issued certificates for other things: the subject of an HSM's begins as the CSR that it made of itself. */
static bool is_hsm(SSL *tls)
{
    static const char hsm[] = "HSM:";
    char name[256] = "";
    X509 *certificate = SSL_get1_peer_certificate(tls);
    bool named = certificate != NULL && X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name) > 0;
    X509_free(certificate);
    return named && strncmp(name, hsm, sizeof hsm - 1) == 0;
}

#define NO_HSM "its certificate is no HSM's: the common name does not begin with HSM:"

/* NULL: done; else why not. */
static const char *shake(SSL *tls, int fd, int64_t deadline)
{
    int result;
    while ((result = SSL_connect(tls)) != 1 && wait_again(tls, fd, deadline)) {
    }
    if (result != 1) {
        return handshake_fault(tls, now_ms() >= deadline);
    }
    return is_hsm(tls) ? NULL : NO_HSM;
}

static SSL *make_tls(SSL_CTX *context, int fd, struct link *link)
{
    BIO *bio = tcp_bio(fd);
    SSL *tls = bio == NULL ? NULL : SSL_new(context);
    if (tls == NULL) {
        BIO_free(bio);
        return NULL;
    }
    SSL_set_bio(tls, bio, bio);
    SSL_set_app_data(tls, link);
    link->alert = 0;
    return tls;
}

static enum link_result take_over(struct link *link, const struct config_server *server, int fd, SSL *tls, const char *fault)
{
    if (fault != NULL) {
        slot_complain(link->slot, "no PIN goes to %s: %s", server->name, fault);
        SSL_free(tls);
        close(fd);
        return LINK_REFUSED;
    }
    link->fd = fd;
    link->tls = tls;
    link->ring.asked = true; /* memory is shared with this machine only */
    return LINK_OK;
}

enum link_result link_tls_open(struct link *link, const struct config_server *server, unsigned timeout_ms)
{
    ERRORS_SCOPED;
    int64_t deadline = now_ms() + timeout_ms;
    SSL_CTX *context = context_of(link->slot);
    int fd = context == NULL ? -1 : connect_to(server, deadline);
    if (fd < 0) {
        return LINK_REFUSED;
    }
    SSL *tls = tcp_options(fd, timeout_ms) ? make_tls(context, fd, link) : NULL;
    const char *fault = tls == NULL ? "no memory for a TLS connection" : shake(tls, fd, deadline);
    return take_over(link, server, fd, tls, fault);
}

/* The kernel connects; until it has, OpenSSL finds that it cannot write yet. */
enum link_result link_tls_begin(struct link *link, const struct config_server *server, unsigned timeout_ms)
{
    ERRORS_SCOPED;
    link_close(link);
    SSL_CTX *context = context_of(link->slot);
    int fd = context == NULL ? -1 : connect_to(server, NO_WAIT);
    if (fd < 0) {
        return LINK_REFUSED;
    }
    SSL *tls = tcp_options(fd, timeout_ms) ? make_tls(context, fd, link) : NULL;
    return take_over(link, server, fd, tls, tls == NULL ? "no memory for a TLS connection" : NULL);
}

enum link_result link_tls_go_on(struct link *link, const struct config_server *server)
{
    ERRORS_SCOPED;
    int error = socket_error(link->fd);
    if (error != 0) {
        log_line(LEVEL_DEBUG, "%s: %s", server->name, strerror(error));
        return LINK_LOST;
    }
    if (SSL_is_init_finished(link->tls)) {
        return LINK_OK;
    }
    const char *fault = NULL;
    if (SSL_connect(link->tls) == 1) {
        fault = is_hsm(link->tls) ? NULL : NO_HSM;
    } else if (would_wait(link->tls)) {
        return LINK_REFUSED;
    } else {
        fault = handshake_fault(link->tls, false);
    }
    if (fault == NULL) {
        return LINK_OK;
    }
    slot_complain(link->slot, "no PIN goes to %s: %s", server->name, fault);
    return LINK_LOST;
}

void link_tls_close(struct link *link)
{
    ERRORS_SCOPED;
    if (link->tls != NULL) {
        (void)SSL_shutdown(link->tls);
        SSL_free(link->tls);
        link->tls = NULL;
    }
}

/* ---- an exchange ------------------------------------------------------------------------------------------------------ */

bool link_tls_send(struct link *link, int64_t deadline, bool *sent)
{
    ERRORS_SCOPED;
    for (size_t at = 0; at < link->out_len;) {
        size_t some = 0;
        if (SSL_write_ex(link->tls, link->out + at, link->out_len - at, &some) == 1) {
            *sent = true;
            at += some;
        } else if (!wait_again(link->tls, link->fd, deadline)) {
            uint8_t none; /* the alert that came before the connection ended */
            (void)SSL_read_ex(link->tls, &none, sizeof none, &some);
            return false;
        }
    }
    return true;
}

ssize_t link_tls_receive(struct link *link, uint8_t *out, size_t room, int64_t deadline)
{
    ERRORS_SCOPED;
    size_t some = 0;
    while (SSL_read_ex(link->tls, out, room, &some) != 1) {
        if (!wait_again(link->tls, link->fd, deadline)) {
            return 0;
        }
    }
    return (ssize_t)some;
}
