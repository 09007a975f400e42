#define OPENSSL_SUPPRESS_DEPRECATED /* SHA256_*: a context that is copied by assignment, and no fetching */
#include "lean_tls.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HASH = 32, KEY = 16, IV = 12, SALT = 4, TAG = 16, SHARE = 32, RANDOM = 32, HEADER = 5, MESSAGE_HEADER = 4, RECORD_MAX = (1 << 14) + 256 };
enum { CHANGE_CIPHER_SPEC = 20, ALERT = 21, HANDSHAKE = 22, APPLICATION = 23 };
enum { SERVER_HELLO = 2, SERVER_KEY_EXCHANGE = 12, SERVER_HELLO_DONE = 14, CLIENT_KEY_EXCHANGE = 16, FINISHED = 20 };
enum { X25519_GROUP = 0x001d, KEY_SHARE = 0x0033, NAMED_CURVE = 3, TLS_1_2_FINISHED = 12, MASTER = 48 };

struct direction {
    uint8_t iv[IV]; /* TLS 1.2: the first SALT bytes of it */
    uint64_t sequence;
    bool on;
    EVP_CIPHER_CTX *cipher;
};

struct message {
    uint8_t type;
    const uint8_t *whole, *body; /* with and without its header */
    size_t whole_len, len;
};

struct lean {
    int version;
    EVP_PKEY *own;
    EVP_CIPHER *gcm;
    SHA256_CTX transcript;
    uint8_t share[SHARE], client_random[RANDOM], server_random[RANDOM], shared[SHARE];
    struct direction in, out;
    size_t filled, used;                     /* of `records` */
    size_t gathered, taken;                  /* of `messages` */
    uint8_t records[HEADER + RECORD_MAX];    /* as they come from the socket */
    uint8_t messages[2 * (RECORD_MAX + 64)]; /* the plaintext of handshake records, one after the other */
};

#define TRY(condition)    \
    do {                  \
        if (!(condition)) \
            return false; \
    } while (0)

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put64(uint8_t *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8) {
        at[i] = (uint8_t)value;
    }
}

/* ---- hashes and keys ----------------------------------------------------------------------------------------------------- */

/* RFC 2104 with SHA-256; keys here are at most 48 bytes. */
static void hmac(const void *key, size_t key_len, const void *text, size_t len, uint8_t out[HASH])
{
    uint8_t pad[SHA256_CBLOCK] = {0};
    SHA256_CTX context;
    memcpy(pad, key, key_len);
    for (size_t i = 0; i < sizeof pad; i++) {
        pad[i] ^= 0x36;
    }
    SHA256_Init(&context);
    SHA256_Update(&context, pad, sizeof pad);
    SHA256_Update(&context, text, len);
    SHA256_Final(out, &context);
    for (size_t i = 0; i < sizeof pad; i++) {
        pad[i] ^= 0x36 ^ 0x5c;
    }
    SHA256_Init(&context);
    SHA256_Update(&context, pad, sizeof pad);
    SHA256_Update(&context, out, HASH);
    SHA256_Final(out, &context);
}

static void hash_so_far(const struct lean *lean, uint8_t out[HASH])
{
    SHA256_CTX context = lean->transcript;
    SHA256_Final(out, &context);
}

/* RFC 8446, 7.1: HKDF-Expand-Label, of at most one block. */
static void expand(const uint8_t secret[HASH], const char *label, const void *context, size_t context_len, uint8_t *out, size_t len)
{
    uint8_t info[2 + 1 + 6 + 32 + 1 + HASH + 1], block[HASH];
    size_t label_len = strlen(label), at = 3;
    put16(info, len);
    info[2] = (uint8_t)(6 + label_len);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, label_len);
    at += 6 + label_len;
    info[at++] = (uint8_t)context_len;
    memcpy(info + at, context, context_len);
    at += context_len;
    info[at++] = 1;
    hmac(secret, HASH, info, at, block);
    memcpy(out, block, len);
}

static void derive_secret(const struct lean *lean, const uint8_t secret[HASH], const char *label, uint8_t out[HASH])
{
    uint8_t hash[HASH];
    hash_so_far(lean, hash);
    expand(secret, label, hash, HASH, out, HASH);
}

/* RFC 5246, 5: P_SHA256. */
static void prf(const uint8_t *secret, size_t secret_len, const char *label, const void *seed, size_t seed_len, uint8_t *out, size_t len)
{
    uint8_t text[HASH + 32 + 2 * RANDOM], block[HASH];
    size_t label_len = strlen(label), tail = label_len + seed_len;
    memcpy(text + HASH, label, label_len);
    memcpy(text + HASH + label_len, seed, seed_len);
    hmac(secret, secret_len, text + HASH, tail, text);
    for (size_t done = 0; done < len; done += HASH) {
        hmac(secret, secret_len, text, HASH + tail, block);
        memcpy(out + done, block, len - done < HASH ? len - done : HASH);
        hmac(secret, secret_len, text, HASH, block);
        memcpy(text, block, HASH);
    }
}

static bool agree(struct lean *lean, const uint8_t *theirs)
{
    size_t len = SHARE;
    EVP_PKEY *peer = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, theirs, SHARE);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(lean->own, NULL);
    bool fine = peer != NULL && context != NULL && EVP_PKEY_derive_init(context) == 1 && EVP_PKEY_derive_set_peer_ex(context, peer, 0) == 1 &&
                EVP_PKEY_derive(context, lean->shared, &len) == 1;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    return fine;
}

/* ---- records ------------------------------------------------------------------------------------------------------------- */

static bool start(struct direction *direction, const struct lean *lean, const uint8_t key[KEY], const uint8_t *iv, size_t iv_len, bool seals)
{
    memcpy(direction->iv, iv, iv_len);
    direction->sequence = 0;
    direction->on = true;
    return EVP_CipherInit_ex2(direction->cipher, lean->gcm, key, NULL, seals, NULL) == 1;
}

static bool start_1_3(struct direction *direction, const struct lean *lean, const uint8_t secret[HASH], bool seals)
{
    uint8_t key[KEY], iv[IV];
    expand(secret, "key", "", 0, key, KEY);
    expand(secret, "iv", "", 0, iv, IV);
    return start(direction, lean, key, iv, IV, seals);
}

/* The nonce, and with TLS 1.2 the associated data, of the next record. */
static size_t nonce_and_data(const struct lean *lean, struct direction *direction, const uint8_t header[HEADER], size_t plain, uint8_t nonce[IV],
                             uint8_t data[13])
{
    uint8_t sequence[8];
    put64(sequence, direction->sequence++);
    memcpy(nonce, direction->iv, IV);
    if (lean->version == TLS1_3_VERSION) {
        for (int i = 0; i < 8; i++) {
            nonce[IV - 8 + i] ^= sequence[i];
        }
        memcpy(data, header, HEADER);
        return HEADER;
    }
    memcpy(nonce + SALT, sequence, 8);
    memcpy(data, sequence, 8);
    memcpy(data + 8, header, 3);
    put16(data + 11, plain);
    return 13;
}

/* Append a protected record; TLS 1.3 wants the type behind the text. Returns its length, 0 on failure. */
static size_t seal(const struct lean *lean, struct direction *direction, uint8_t type, const uint8_t *text, size_t len, uint8_t *out)
{
    bool newer = lean->version == TLS1_3_VERSION;
    uint8_t nonce[IV], data[13], inner[64];
    size_t explicit = newer ? 0 : 8, plain = len + newer;
    int done = 0, rest = 0;
    memcpy(inner, text, len);
    inner[len] = type;
    out[0] = newer ? APPLICATION : type;
    put16(out + 1, TLS1_2_VERSION);
    put16(out + 3, explicit + plain + TAG);
    put64(out + HEADER, direction->sequence); /* TLS 1.3 overwrites it */
    size_t data_len = nonce_and_data(lean, direction, out, plain, nonce, data);
    uint8_t *body = out + HEADER + explicit;
    bool fine = EVP_CipherInit_ex2(direction->cipher, NULL, NULL, nonce, 1, NULL) == 1 &&
                EVP_CipherUpdate(direction->cipher, NULL, &done, data, (int)data_len) == 1 &&
                EVP_CipherUpdate(direction->cipher, body, &done, inner, (int)plain) == 1 &&
                EVP_CipherFinal_ex(direction->cipher, body + done, &rest) == 1 &&
                EVP_CIPHER_CTX_ctrl(direction->cipher, EVP_CTRL_AEAD_GET_TAG, TAG, body + plain) == 1;
    return fine ? HEADER + explicit + plain + TAG : 0;
}

/* Take the protection off in place. */
static bool unseal(struct lean *lean, uint8_t *record, uint8_t *type, uint8_t **text, size_t *len)
{
    bool newer = lean->version == TLS1_3_VERSION;
    uint8_t nonce[IV], data[13];
    size_t explicit = newer ? 0 : 8;
    int done = 0, rest = 0;
    TRY(*len >= explicit + TAG);
    size_t plain = *len - explicit - TAG;
    size_t data_len = nonce_and_data(lean, &lean->in, record, plain, nonce, data);
    uint8_t *body = record + HEADER + explicit;
    if (!newer) {
        memcpy(nonce + SALT, record + HEADER, 8);
    }
    TRY(EVP_CipherInit_ex2(lean->in.cipher, NULL, NULL, nonce, 0, NULL) == 1 &&
        EVP_CIPHER_CTX_ctrl(lean->in.cipher, EVP_CTRL_AEAD_SET_TAG, TAG, body + plain) == 1 &&
        EVP_CipherUpdate(lean->in.cipher, NULL, &done, data, (int)data_len) == 1 &&
        EVP_CipherUpdate(lean->in.cipher, body, &done, body, (int)plain) == 1 && EVP_CipherFinal_ex(lean->in.cipher, body + done, &rest) == 1);
    *text = body;
    if (newer) {
        while (plain > 0 && body[plain - 1] == 0) {
            plain--;
        }
        TRY(plain > 0);
        *type = body[--plain];
    }
    *len = plain;
    return true;
}

static bool fill(struct lean *lean, int fd, size_t wanted)
{
    if (lean->used + wanted > sizeof lean->records) {
        memmove(lean->records, lean->records + lean->used, lean->filled - lean->used);
        lean->filled -= lean->used;
        lean->used = 0;
    }
    while (lean->filled - lean->used < wanted) {
        ssize_t got = recv(fd, lean->records + lean->filled, sizeof lean->records - lean->filled, 0);
        TRY(got > 0);
        lean->filled += (size_t)got;
    }
    return true;
}

/* The next record's type and text, valid until the next call. */
static bool next_record(struct lean *lean, int fd, uint8_t *type, uint8_t **text, size_t *len)
{
    TRY(fill(lean, fd, HEADER));
    *len = get16(lean->records + lean->used + 3);
    TRY(*len <= RECORD_MAX && fill(lean, fd, HEADER + *len));
    uint8_t *record = lean->records + lean->used;
    lean->used += HEADER + *len;
    *type = record[0];
    *text = record + HEADER;
    return !lean->in.on || *type == CHANGE_CIPHER_SPEC || unseal(lean, record, type, text, len);
}

/* The next handshake message; messages may share a record or be spread over several. Not yet in the transcript. */
static bool next_message(struct lean *lean, int fd, struct message *message)
{
    for (;;) {
        const uint8_t *at = lean->messages + lean->taken;
        size_t there = lean->gathered - lean->taken;
        size_t len = there < MESSAGE_HEADER ? 0 : (size_t)at[1] << 16 | get16(at + 2);
        if (there >= MESSAGE_HEADER && there >= MESSAGE_HEADER + len) {
            *message = (struct message){at[0], at, at + MESSAGE_HEADER, MESSAGE_HEADER + len, len};
            lean->taken += message->whole_len;
            return true;
        }
        uint8_t type, *text;
        TRY(next_record(lean, fd, &type, &text, &len));
        if (type == CHANGE_CIPHER_SPEC) {
            lean->in.on = true; /* TLS 1.2; nobody sends it with TLS 1.3 to a client without a session id */
            continue;
        }
        TRY(type == HANDSHAKE && len <= sizeof lean->messages - lean->gathered);
        memcpy(lean->messages + lean->gathered, text, len);
        lean->gathered += len;
    }
}

static void absorb(struct lean *lean, const void *text, size_t len)
{
    SHA256_Update(&lean->transcript, text, len);
}

static bool send_all(int fd, const uint8_t *text, size_t len)
{
    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len; /* less than a socket's buffer */
}

/* ---- handshakes ---------------------------------------------------------------------------------------------------------- */

static const uint8_t extensions_1_2[] = {
    0x00, 0x0a, 0, 6, 0, 4, 0x00, 0x1d, 0x00, 0x17,                   /* supported_groups: x25519; P-256 for certificates alone */
    0x00, 0x0b, 0, 2, 1, 0,                                           /* ec_point_formats: uncompressed */
    0x00, 0x0d, 0, 8, 0, 6, 0x04, 0x03, 0x08, 0x04, 0x04, 0x01,       /* signature_algorithms: ECDSA, PSS, PKCS#1 with SHA-256 */
    0xff, 0x01, 0, 1, 0,                                              /* renegotiation_info */
};
static const uint8_t extensions_1_3[] = {
    0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x1d,
    0x00, 0x0d, 0, 8, 0, 6, 0x04, 0x03, 0x08, 0x04, 0x04, 0x01,
    0x00, 0x2b, 0, 3, 2, 0x03, 0x04,                                  /* supported_versions */
    0x00, 0x33, 0, 38, 0, 36, 0x00, 0x1d, 0, 32,                      /* key_share: x25519, the share follows */
};
static const uint8_t suites_1_2[] = {0xc0, 0x2b, 0xc0, 0x2f}; /* ECDHE with ECDSA or RSA, AES-128-GCM, SHA-256 */
static const uint8_t suites_1_3[] = {0x13, 0x01};             /* AES-128-GCM, SHA-256 */

static bool send_hello(struct lean *lean, int fd)
{
    bool newer = lean->version == TLS1_3_VERSION;
    const uint8_t *suites = newer ? suites_1_3 : suites_1_2, *extensions = newer ? extensions_1_3 : extensions_1_2;
    size_t suites_len = newer ? sizeof suites_1_3 : sizeof suites_1_2, extensions_len = newer ? sizeof extensions_1_3 : sizeof extensions_1_2;
    uint8_t out[256] = {HANDSHAKE, 3, 1}, *hello = out + HEADER, *at = hello + MESSAGE_HEADER;
    hello[0] = 1;
    put16(at, TLS1_2_VERSION);
    memcpy(at + 2, lean->client_random, RANDOM);
    at += 2 + RANDOM;
    *at++ = 0; /* no session to resume */
    put16(at, suites_len);
    memcpy(at + 2, suites, suites_len);
    at += 2 + suites_len;
    *at++ = 1; /* one compression method: none */
    *at++ = 0;
    put16(at, extensions_len + (newer ? SHARE : 0));
    memcpy(at + 2, extensions, extensions_len);
    at += 2 + extensions_len;
    if (newer) {
        memcpy(at, lean->share, SHARE);
        at += SHARE;
    }
    size_t len = (size_t)(at - hello);
    put16(hello + 2, len - MESSAGE_HEADER);
    put16(out + 3, len);
    absorb(lean, hello, len);
    return send_all(fd, out, HEADER + len);
}

/* The extension's content in a ServerHello's list; NULL without. */
static const uint8_t *find_extension(const uint8_t *at, size_t len, uint16_t wanted, size_t size)
{
    while (len >= 4 && len >= 4u + get16(at + 2)) {
        size_t whole = 4u + get16(at + 2);
        if (get16(at) == wanted) {
            return whole == 4 + size ? at + 4 : NULL;
        }
        at += whole;
        len -= whole;
    }
    return NULL;
}

/* Reads the server's random and, with TLS 1.3, its key share. */
static bool read_hello(struct lean *lean, int fd)
{
    struct message message;
    TRY(next_message(lean, fd, &message) && message.type == SERVER_HELLO && message.len >= 2 + RANDOM + 1);
    absorb(lean, message.whole, message.whole_len);
    memcpy(lean->server_random, message.body + 2, RANDOM);
    size_t at = 2 + RANDOM + 1 + message.body[2 + RANDOM] + 3; /* behind session id, suite and compression */
    if (lean->version != TLS1_3_VERSION) {
        return true;
    }
    TRY(message.len >= at + 2 && message.len == at + 2 + get16(message.body + at));
    const uint8_t *share = find_extension(message.body + at + 2, message.len - at - 2, KEY_SHARE, 4 + SHARE);
    return share != NULL && get16(share) == X25519_GROUP && agree(lean, share + 4);
}

static void finished_1_3(const struct lean *lean, const uint8_t secret[HASH], uint8_t out[HASH])
{
    uint8_t key[HASH], hash[HASH];
    expand(secret, "finished", "", 0, key, HASH);
    hash_so_far(lean, hash);
    hmac(key, HASH, hash, HASH, out);
}

/* RFC 8446, 7.1: the secret that follows `secret`, with new input. */
static void advance(const uint8_t secret[HASH], const uint8_t input[HASH], uint8_t out[HASH])
{
    uint8_t empty[HASH], salt[HASH];
    SHA256((const uint8_t *)"", 0, empty);
    expand(secret, "derived", empty, HASH, salt, HASH);
    hmac(salt, HASH, input, HASH, out);
}

static bool shake_1_3(struct lean *lean, int fd)
{
    static const uint8_t zero[HASH] = {0}, close_notify[] = {1, 0};
    uint8_t early[HASH], secret[HASH], ours[HASH], theirs[HASH], application[HASH], expected[HASH];
    struct message message;
    TRY(read_hello(lean, fd));
    hmac(zero, HASH, zero, HASH, early);
    advance(early, lean->shared, secret);
    derive_secret(lean, secret, "c hs traffic", ours);
    derive_secret(lean, secret, "s hs traffic", theirs);
    TRY(start_1_3(&lean->in, lean, theirs, false));
    for (;;) {
        TRY(next_message(lean, fd, &message));
        if (message.type == FINISHED) {
            break;
        }
        absorb(lean, message.whole, message.whole_len);
    }
    finished_1_3(lean, theirs, expected);
    TRY(message.len == HASH && CRYPTO_memcmp(message.body, expected, HASH) == 0);
    absorb(lean, message.whole, message.whole_len);
    advance(secret, zero, secret);
    derive_secret(lean, secret, "c ap traffic", application);

    uint8_t finished[MESSAGE_HEADER + HASH] = {FINISHED, 0, 0, HASH}, out[256];
    finished_1_3(lean, ours, finished + MESSAGE_HEADER);
    TRY(start_1_3(&lean->out, lean, ours, true));
    size_t len = seal(lean, &lean->out, HANDSHAKE, finished, sizeof finished, out);
    TRY(len > 0 && start_1_3(&lean->out, lean, application, true));
    size_t more = seal(lean, &lean->out, ALERT, close_notify, sizeof close_notify, out + len);
    TRY(more > 0 && send_all(fd, out, len + more));
    ssize_t got;
    do {
        got = recv(fd, lean->records, sizeof lean->records, 0); /* tickets, its own close_notify */
    } while (got > 0);
    return got == 0;
}

static void finished_1_2(const struct lean *lean, const uint8_t master[MASTER], const char *label, uint8_t out[TLS_1_2_FINISHED])
{
    uint8_t hash[HASH];
    hash_so_far(lean, hash);
    prf(master, MASTER, label, hash, HASH, out, TLS_1_2_FINISHED);
}

/* Everything up to ServerHelloDone; agrees on the key. */
static bool read_flight_1_2(struct lean *lean, int fd)
{
    struct message message;
    bool agreed = false;
    TRY(read_hello(lean, fd));
    do {
        TRY(next_message(lean, fd, &message));
        absorb(lean, message.whole, message.whole_len);
        if (message.type == SERVER_KEY_EXCHANGE) {
            const uint8_t *at = message.body;
            TRY(message.len >= 4 + SHARE && at[0] == NAMED_CURVE && get16(at + 1) == X25519_GROUP && at[3] == SHARE);
            agreed = agree(lean, at + 4);
        }
    } while (message.type != SERVER_HELLO_DONE);
    return agreed;
}

static bool shake_1_2(struct lean *lean, int fd)
{
    uint8_t randoms[2 * RANDOM], master[MASTER], keys[2 * KEY + 2 * SALT], expected[TLS_1_2_FINISHED];
    uint8_t out[256] = {HANDSHAKE, 3, 3, 0, MESSAGE_HEADER + 1 + SHARE, CLIENT_KEY_EXCHANGE, 0, 0, 1 + SHARE, SHARE};
    static const uint8_t change[] = {CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1};
    uint8_t finished[MESSAGE_HEADER + TLS_1_2_FINISHED] = {FINISHED, 0, 0, TLS_1_2_FINISHED};
    struct message message;
    TRY(read_flight_1_2(lean, fd));
    size_t len = HEADER + MESSAGE_HEADER + 1;
    memcpy(out + len, lean->share, SHARE);
    len += SHARE;
    absorb(lean, out + HEADER, len - HEADER);
    memcpy(randoms, lean->client_random, RANDOM);
    memcpy(randoms + RANDOM, lean->server_random, RANDOM);
    prf(lean->shared, SHARE, "master secret", randoms, sizeof randoms, master, MASTER);
    memcpy(randoms, lean->server_random, RANDOM);
    memcpy(randoms + RANDOM, lean->client_random, RANDOM);
    prf(master, MASTER, "key expansion", randoms, sizeof randoms, keys, sizeof keys);
    TRY(start(&lean->out, lean, keys, keys + 2 * KEY, SALT, true) && start(&lean->in, lean, keys + KEY, keys + 2 * KEY + SALT, SALT, false));
    lean->in.on = false; /* until its ChangeCipherSpec */
    finished_1_2(lean, master, "client finished", finished + MESSAGE_HEADER);
    absorb(lean, finished, sizeof finished);
    memcpy(out + len, change, sizeof change);
    len += sizeof change;
    size_t more = seal(lean, &lean->out, HANDSHAKE, finished, sizeof finished, out + len);
    TRY(more > 0 && send_all(fd, out, len + more));
    finished_1_2(lean, master, "server finished", expected);
    TRY(next_message(lean, fd, &message) && message.type == FINISHED && message.len == TLS_1_2_FINISHED && lean->in.on);
    return CRYPTO_memcmp(message.body, expected, TLS_1_2_FINISHED) == 0;
}

bool lean_shake(struct lean *lean, int fd)
{
    lean->filled = lean->used = lean->gathered = lean->taken = 0;
    lean->in.on = lean->out.on = false;
    SHA256_Init(&lean->transcript);
    for (size_t i = 0; i < RANDOM && ++lean->client_random[i] == 0; i++) {
    }
    TRY(send_hello(lean, fd));
    return lean->version == TLS1_3_VERSION ? shake_1_3(lean, fd) : shake_1_2(lean, fd);
}

struct lean *lean_new(int version)
{
    struct lean *lean = calloc(1, sizeof *lean);
    size_t len = SHARE;
    if (lean == NULL) {
        return NULL;
    }
    lean->version = version;
    lean->own = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
    lean->gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    lean->in.cipher = EVP_CIPHER_CTX_new();
    lean->out.cipher = EVP_CIPHER_CTX_new();
    if (lean->own == NULL || lean->gcm == NULL || lean->in.cipher == NULL || lean->out.cipher == NULL ||
        EVP_PKEY_get_raw_public_key(lean->own, lean->share, &len) != 1 || RAND_bytes(lean->client_random, RANDOM) != 1) {
        lean_free(lean);
        return NULL;
    }
    return lean;
}

void lean_free(struct lean *lean)
{
    if (lean != NULL) {
        EVP_PKEY_free(lean->own);
        EVP_CIPHER_free(lean->gcm);
        EVP_CIPHER_CTX_free(lean->in.cipher);
        EVP_CIPHER_CTX_free(lean->out.cipher);
        free(lean);
    }
}
