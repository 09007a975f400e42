/* The engine's TCP port: TLS 1.3 only, the same frames and limits, strangers who send anything at all. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <time.h>

#include "engine_fixture.h"

static uint16_t port;
static SSL_CTX *context; /* of clients that trust the authority below */

/* ---- a certificate for a key that is in the engine ---------------------------------------------------------------------- */

static X509 *certify(EVP_PKEY *public, EVP_PKEY *authority, const char *issuer, const char *name)
{
    X509 *made = X509_new();
    X509_NAME *subject = X509_NAME_new(), *by = X509_NAME_new();
    CHECK(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) == 1);
    CHECK(X509_NAME_add_entry_by_txt(by, "CN", MBSTRING_ASC, (const unsigned char *)issuer, -1, -1, 0) == 1);
    CHECK(X509_set_subject_name(made, subject) == 1 && X509_set_issuer_name(made, by) == 1 && X509_set_pubkey(made, public) == 1);
    CHECK(ASN1_INTEGER_set(X509_get_serialNumber(made), 7) == 1);
    CHECK(X509_gmtime_adj(X509_getm_notBefore(made), -3600) != NULL && X509_gmtime_adj(X509_getm_notAfter(made), 3600) != NULL);
    CHECK(X509_sign(made, authority, EVP_sha256()) > 0);
    X509_NAME_free(subject);
    X509_NAME_free(by);
    return made;
}

static size_t pem_of(X509 *certificate, uint8_t *out, size_t room)
{
    BIO *memory = BIO_new(BIO_s_mem());
    CHECK(memory != NULL && PEM_write_bio_X509(memory, certificate) == 1);
    int len = BIO_read(memory, out, (int)room);
    CHECK(len > 0);
    BIO_free(memory);
    return (size_t)len;
}

static void make_client(X509 *root)
{
    context = SSL_CTX_new(TLS_client_method());
    CHECK(context != NULL && X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root) == 1);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
}

static void free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    port = ntohs(address.sin_port);
    close(fd);
}

/* While the threads run already, as after InitializeCluster. */
static void listen_tls(void)
{
    static const uint8_t p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    uint8_t masked[512], spki[256], pem[4096];
    size_t masked_len = sizeof masked, spki_len = sizeof spki;
    const he_clients anyone = {0};
    char error[256] = "";
    CHECK(he_generate(engine, CKK_EC, p256, sizeof p256, masked, &masked_len) == CKR_OK);
    const he_material key = {CKO_PRIVATE_KEY, CKK_EC, masked, masked_len};
    CHECK(he_public(engine, &key, spki, &spki_len) == CKR_OK);
    const uint8_t *at = spki;
    EVP_PKEY *public = d2i_PUBKEY(NULL, &at, (long)spki_len), *authority = EVP_EC_gen("P-256");
    CHECK(public != NULL && authority != NULL);
    X509 *root = certify(authority, authority, "root", "root"), *own = certify(public, authority, "root", "HSM:1");
    size_t pem_len = pem_of(root, pem, sizeof pem);
    free_port();
    /* another key's certificate, no certificate, no address */
    CHECK(he_listen_tls(engine, "127.0.0.1", port, pem, pem_len, &key, &anyone, error, sizeof error) == CKR_ARGUMENTS_BAD && error[0] != '\0');
    CHECK(he_listen_tls(engine, "127.0.0.1", port, (const uint8_t *)"none", 4, &key, &anyone, error, sizeof error) == CKR_ARGUMENTS_BAD);
    pem_len = pem_of(own, pem, sizeof pem);
    CHECK(he_listen_tls(engine, "localhost", port, pem, pem_len, &key, &anyone, error, sizeof error) == CKR_FUNCTION_FAILED);
    CHECK(he_listen_tls(engine, "127.0.0.1", port, pem, pem_len, &key, &anyone, error, sizeof error) == CKR_OK);
    CHECK(he_listen_tls(engine, "127.0.0.1", port, pem, pem_len, &key, &anyone, error, sizeof error) != CKR_OK); /* once */
    make_client(root);
    X509_free(root);
    X509_free(own);
    EVP_PKEY_free(public);
    EVP_PKEY_free(authority);
}

/* ---- clients -------------------------------------------------------------------------------------------------------------- */

static int open_tcp(void)
{
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    const struct timeval patience = {.tv_sec = 30};
    const int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    return fd;
}

static SSL *shake(int fd)
{
    SSL *tls = SSL_new(context);
    CHECK(tls != NULL && SSL_set_fd(tls, fd) == 1 && SSL_connect(tls) == 1);
    return tls;
}

static void end(SSL *tls)
{
    int fd = SSL_get_fd(tls);
    SSL_free(tls);
    close(fd);
}

static void put(SSL *tls, uint16_t op, uint64_t session, uint64_t seq, const uint8_t *payload, size_t len)
{
    static __thread uint8_t frame[ROOM];
    size_t written;
    const struct wire_header header = {.length = (uint32_t)len, .op = op, .seq = seq, .word = session};
    wire_set_header(frame, &header);
    if (len != 0) {
        memcpy(frame + WIRE_HEADER_SIZE, payload, len);
    }
    CHECK(SSL_write_ex(tls, frame, WIRE_HEADER_SIZE + len, &written) == 1 && written == WIRE_HEADER_SIZE + len);
}

static bool take(SSL *tls, uint8_t *out, size_t len)
{
    for (size_t at = 0, some; at < len; at += some) {
        if (SSL_read_ex(tls, out + at, len - at, &some) != 1) {
            return false;
        }
    }
    return true;
}

static void get(SSL *tls, uint64_t seq, struct wire_header *header, uint8_t *payload)
{
    uint8_t raw[WIRE_HEADER_SIZE];
    CHECK(take(tls, raw, sizeof raw) && wire_get_header(raw, header) == WIRE_OK && header->length <= ROOM);
    CHECK(take(tls, payload, header->length) && header->seq == seq);
}

static uint64_t ask(SSL *tls, uint16_t op, uint64_t session, const uint8_t *payload, size_t len)
{
    static __thread uint8_t answer_room[ROOM];
    static __thread uint64_t seq;
    struct wire_header header;
    put(tls, op, session, ++seq, payload, len);
    get(tls, seq, &header, answer_room);
    return header.word;
}

static void enter(SSL *tls)
{
    uint8_t payload[128], one[8];
    const uint64_t id = htole64(1);
    const struct wire_hello_request hello_request = {.version = 1};
    const struct wire_login_request login = {CKU_USER, wire_bytes("alice", 5), wire_bytes("secret12", 8)};
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    CHECK(wire_put_hello_request(&writer, &hello_request) == WIRE_OK);
    CHECK(ask(tls, WIRE_OP_HELLO, 0, payload, writer.len) == CKR_OK);
    writer = wire_writer(payload, sizeof payload);
    CHECK(wire_put_login_request(&writer, &login) == WIRE_OK);
    CHECK(ask(tls, WIRE_OP_LOGIN, 0, payload, writer.len) == CKR_OK);
    memcpy(one, &id, sizeof one);
    const struct wire_open_sessions_request sessions = {{one, 1}, {one, 1}};
    writer = wire_writer(payload, sizeof payload);
    CHECK(wire_put_open_sessions_request(&writer, &sessions) == WIRE_OK);
    CHECK(ask(tls, WIRE_OP_OPEN_SESSIONS, 0, payload, writer.len) == CKR_OK);
}

static uint64_t sign(SSL *tls, uint32_t size)
{
    static __thread uint8_t data[1 << 17], payload[ROOM];
    struct wire_writer writer = wire_writer(payload, sizeof payload);
    const struct wire_sign_request request = {.key = 100, .mechanism = {.type = CKM_SHA256_HMAC}, .data = wire_bytes(data, size)};
    CHECK(wire_put_sign_request(&writer, &request) == WIRE_OK);
    return ask(tls, WIRE_OP_SIGN, 1, payload, writer.len);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------ */

static void test_the_same_frames(void)
{
    uint8_t out[ROOM], size[4] = {1, 0, 0, 0};
    SSL *tls = shake(open_tcp());
    CHECK(SSL_version(tls) == TLS1_3_VERSION);
    enter(tls);
    CHECK(sign(tls, 20) == CKR_OK && sign(tls, 100000) == CKR_OK); /* several records */
    CHECK(ask(tls, WIRE_OP_RING, 0, size, sizeof size) == CKR_FUNCTION_NOT_SUPPORTED);
    CHECK(sign(tls, 20) == CKR_OK);
    enum { AT_ONCE = 50 };
    for (uint64_t i = 0; i < AT_ONCE; i++) { /* frames that wait behind one that is Python's are in OpenSSL's buffer */
        put(tls, i % 3 == 0 ? WIRE_OP_USER_LIST : WIRE_OP_PING, 0, i, NULL, 0);
    }
    for (uint64_t i = 0; i < AT_ONCE; i++) {
        struct wire_header header;
        get(tls, i, &header, out);
        CHECK(header.word == (i % 3 == 0 ? CKR_FUNCTION_FAILED : CKR_OK));
    }
    CHECK(SSL_key_update(tls, SSL_KEY_UPDATE_REQUESTED) == 1 && sign(tls, 20) == CKR_OK && sign(tls, 20) == CKR_OK);
    end(tls);
}

static void test_older_versions(void)
{
    int fd = open_tcp();
    SSL *tls = SSL_new(context);
    CHECK(tls != NULL && SSL_set_max_proto_version(tls, TLS1_2_VERSION) == 1 && SSL_set_fd(tls, fd) == 1 && SSL_connect(tls) != 1);
    end(tls);
    ERR_clear_error();
}

/* false: the port did not close it. */
static bool closes(int fd)
{
    uint8_t rest[4096];
    ssize_t got;
    while ((got = recv(fd, rest, sizeof rest, 0)) > 0) {
    }
    return got == 0 || errno == ECONNRESET;
}

static void test_strangers(void)
{
    unsigned seed = 20261125;
    uint8_t junk[700];
    for (int round = 0; round < 200; round++) {
        int fd = open_tcp();
        size_t len = 1 + (size_t)rand_r(&seed) % sizeof junk;
        for (size_t i = 0; i < len; i++) {
            junk[i] = (uint8_t)rand_r(&seed);
        }
        if (round % 2 == 0) { /* a record's head, so that OpenSSL reads on */
            const uint8_t head[] = {0x16, 3, 1, 1, (uint8_t)rand_r(&seed), 1, 0, 0};
            memcpy(junk, head, sizeof head);
        }
        CHECK(send(fd, junk, len, MSG_NOSIGNAL) > 0);
        close(fd);
    }
    for (int round = 0; round < 50; round++) { /* after the handshake: no record, or no frame */
        int fd = open_tcp();
        SSL *tls = shake(fd);
        for (size_t i = 0; i < sizeof junk; i++) {
            junk[i] = (uint8_t)rand_r(&seed);
        }
        if (round % 2 == 0) {
            CHECK(send(fd, junk, 100, MSG_NOSIGNAL) > 0);
        } else {
            size_t written;
            memset(junk, 0xff, WIRE_HEADER_SIZE);
            CHECK(SSL_write_ex(tls, junk, sizeof junk, &written) == 1);
        }
        CHECK(closes(fd));
        end(tls);
    }
    ERR_clear_error();
}

/* Half of the connections are the address's own, whatever it does with them; the socket's users have the others. */
static void test_limits(void)
{
    enum { TRIED = 64 };
    int fds[TRIED];
    uint8_t cookie[16];
    time_t begun = time(NULL);
    for (int i = 0; i < TRIED; i++) {
        fds[i] = open_tcp();
    }
    int own = open_socket();
    CHECK(hello(own, wire_bytes(NULL, 0), cookie) == CKR_OK);
    log_in(own);
    he_counts counts;
    he_counters(engine, &counts);
    CHECK(counts.connections >= 2 && counts.connections <= TRIED / 2 + 1);
    for (int i = 0; i < TRIED; i++) {
        CHECK(closes(fds[i])); /* at once, or when the time for a handshake is over */
        close(fds[i]);
    }
    CHECK(time(NULL) - begun >= 4);
    close(own);
}

static void *come_and_go(void *unused)
{
    for (int round = 0; round < 3; round++) {
        SSL *tls = shake(open_tcp());
        enter(tls);
        for (int i = 0; i < 5; i++) {
            CHECK(sign(tls, 20) == CKR_OK);
        }
        end(tls);
    }
    return unused;
}

static void test_many_at_once(void)
{
    enum { CLIENTS = 4 };
    pthread_t threads[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        CHECK(pthread_create(&threads[i], NULL, come_and_go, NULL) == 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* ---- client certificates ------------------------------------------------------------------------------------------------ */

static void want(const uint8_t *anchors, size_t len, uint32_t enforced)
{
    const he_clients clients = {anchors, len, enforced};
    CHECK(he_tls_clients(engine, &clients) == CKR_OK);
}

static bool served(SSL *tls)
{
    uint8_t header[WIRE_HEADER_SIZE];
    put(tls, WIRE_OP_PING, 0, 1, NULL, 0);
    bool answered = take(tls, header, sizeof header);
    ERR_clear_error();
    return answered;
}

/* What is asked changes while clients come and go whose certificate is good all the time: none of them is harmed. */
static void test_client_certificates(void)
{
    enum { CLIENTS = 3, CHANGES = 60 };
    uint8_t anchors[4096];
    EVP_PKEY *authority = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256");
    CHECK(authority != NULL && other != NULL && key != NULL);
    X509 *first = certify(authority, authority, "first", "first"), *second = certify(other, other, "second", "second");
    X509 *own = certify(key, authority, "first", "client");
    size_t one = pem_of(first, anchors, sizeof anchors), two = one + pem_of(second, anchors + one, sizeof anchors - one);
    SSL *bare = shake(open_tcp());
    CHECK(served(bare));
    CHECK(SSL_CTX_use_certificate(context, own) == 1 && SSL_CTX_use_PrivateKey(context, key) == 1);
    want(anchors, one, 0);
    pthread_t threads[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        CHECK(pthread_create(&threads[i], NULL, come_and_go, NULL) == 0);
    }
    for (uint32_t i = 0; i < CHANGES; i++) {
        want(anchors, i % 3 == 0 ? two : one, i % 2);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
    }
    uint8_t byte;
    CHECK(!take(bare, &byte, 1)); /* closed by the first change that wanted a certificate */
    end(bare);
    SSL *good = shake(open_tcp());
    CHECK(served(good));
    const he_clients unreadable = {(const uint8_t *)"none", 4, 1};
    CHECK(he_tls_clients(engine, &unreadable) == CKR_ARGUMENTS_BAD && served(good));
    want(anchors + one, two - one, 0); /* its authority is gone */
    CHECK(!take(good, &byte, 1));
    end(good);
    good = shake(open_tcp());
    CHECK(!served(good));
    end(good);
    want(NULL, 0, 0);
    good = shake(open_tcp());
    CHECK(served(good));
    end(good);
    ERR_clear_error();
    X509_free(first);
    X509_free(second);
    X509_free(own);
    EVP_PKEY_free(authority);
    EVP_PKEY_free(other);
    EVP_PKEY_free(key);
}

int main(void)
{
    start_engine();
    listen_tls();
    load(100, 7);
    test_the_same_frames();
    test_older_versions();
    test_strangers();
    wait_empty();
    test_many_at_once();
    wait_empty();
    test_client_certificates();
    wait_empty();
    test_limits();
    wait_empty();
    end_engine();
    SSL_CTX_free(context);
    return 0;
}
