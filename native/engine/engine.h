/* The HSM process's C half, as its Python half sees it (bound by cffi; DESIGN: Python decides, C computes).
 *
 * The engine owns: sockets, connections, clients, frames, the hot operations, every plaintext key, password, PIN and the
 * masking key. Python gets requests whose `secret` bytes are zeroed, answers them, and pushes who may do what.
 *
 * Every function is safe from any thread and returns a CK_RV (0 = CKR_OK) unless said otherwise. Inputs are copied.
 * `masked` material = AES-KWP (RFC 5649) under the cluster's masking key of: PKCS#8 DER (private keys), the raw value
 * (secret keys). Public keys are SubjectPublicKeyInfo DER in clear. A `mechanism` argument is one encoded as on the
 * wire (u64 type, u32 kind, fields; native/tables/wire.toml).
 * Variable outputs: (uint8_t *out, size_t *len): *len is the room on entry and the length on return; too little room
 * gives CKR_BUFFER_TOO_SMALL with *len set. */
#ifndef HSMSIM_ENGINE_H
#define HSMSIM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* cffi reads from here */

typedef struct he_engine he_engine;

typedef struct {
    uint64_t object_class; /* CKO_SECRET_KEY, CKO_PRIVATE_KEY: data is masked; CKO_PUBLIC_KEY: SPKI */
    uint64_t key_type;
    const uint8_t *data;
    size_t len;
} he_material;

typedef struct {
    uint32_t workers;         /* hot threads; 0 = as many as online processors */
    uint32_t max_connections; /* 0 = 2048; fewer where RLIMIT_NOFILE leaves no room for them */
    uint32_t max_keys;        /* keys kept unwrapped; 0 = 16384; least recently used goes first */
    uint32_t reference;       /* 1: keyed hot operations go up to Python, which runs them in SoftHSM2 */
    uint32_t unbatched;       /* 1: each operation alone, even where the processor could do eight at a time */
    uint32_t rsa_rate;        /* operations a second with private RSA-2048 keys; 0 = no limit (throttle.h) */
    uint32_t ec_rate;         /* the same with P-256 */
    uint64_t boot;            /* random; upper half of the epoch */
} he_config;

/* Process hardening (not dumpable, memory locked where the limit allows, no core), then an empty engine.
 * NULL on failure with a sentence in `error`. */
he_engine *he_create(const he_config *config, char *error, size_t error_len);
/* Stops threads, closes sockets, wipes keys. he_next returns -1 from then on. Never frees while Python may call. */
void he_stop(he_engine *engine);
/* 1: all memory is locked; 0: only the arena is (RLIMIT_MEMLOCK too small): secret and EC keys, seed, masking key, passwords,
 * but not the RSA numbers and intermediate values in OpenSSL's heap. */
int he_memory_locked(he_engine *engine);

/* ---- device identity and masking key ------------------------------------------------------------------------- */

/* Reads the device's 32-byte seed file (0600, owned by us or CKR_FUNCTION_FAILED) into locked memory. */
uint64_t he_device_load(he_engine *engine, const char *path);
/* Writes a new seed file with O_EXCL, mode 0600, fsynced. */
uint64_t he_device_create(const char *path);
/* The device's X25519 public key, derived from the seed by HKDF-SHA256. */
uint64_t he_device_public(he_engine *engine, uint8_t out[32]);
/* The hardware key, P-256, derived from the seed: its SubjectPublicKeyInfo, and its ECDSA signature (DER) of a SHA-256. */
uint64_t he_device_signer(he_engine *engine, uint8_t *out, size_t *len);
uint64_t he_device_sign(he_engine *engine, const uint8_t digest[32], uint8_t *out, size_t *len);
uint64_t he_masking_create(he_engine *engine);
/* Ephemeral X25519, HKDF-SHA256 over both public keys and `context`, AES-256-GCM: 32 + 12 + 32 + 16 bytes. */
uint64_t he_masking_seal(he_engine *engine, const uint8_t peer[32], const uint8_t *context, size_t context_len, uint8_t out[92]);
uint64_t he_masking_open(he_engine *engine, const uint8_t sealed[92], const uint8_t *context, size_t context_len);
/* Another cluster's masking key, sealed to this device: sealed anew to another one, never kept here. A region's backup
 * root is such a device. */
uint64_t he_masking_reseal(he_engine *engine, const uint8_t sealed[92], const uint8_t *context, size_t context_len,
                           const uint8_t peer[32], const uint8_t *new_context, size_t new_context_len, uint8_t out[92]);
/* HMAC-SHA256 under HKDF(masking key, purpose): rows, tickets, peers, audit. */
uint64_t he_mac(he_engine *engine, const char *purpose, const uint8_t *data, size_t len, uint8_t out[32]);

/* ---- SoftHSM2: PINs and the masking key go from here into the library, never through Python ------------------ */

/* The library that python-pkcs11 has already loaded and initialised (same path: same handle). */
uint64_t he_vault_bind(he_engine *engine, const char *library_path);
/* C_InitToken + SO login + C_InitPIN with PINs derived from the seed and `partition`; label: 32 bytes, blank padded. */
uint64_t he_vault_init_token(he_engine *engine, uint64_t slot, uint64_t partition, const uint8_t label[32]);
/* A session that stays open for life: SO login, C_CreateObject of the masking key as a TRUSTED public session object
 * (AES, WRAP, UNWRAP, label "masking"), SO logout, user login. Its handle in *masking. */
uint64_t he_vault_unlock(he_engine *engine, uint64_t slot, uint64_t partition, uint64_t *masking);

/* ---- server --------------------------------------------------------------------------------------------------- */

/* Listens on a unix socket (unlinks a stale one), mode 0666; threads start with he_run. */
uint64_t he_listen(he_engine *engine, const char *path);
/* Simulated time is ahead by what this file says (hsmsim/clock.py), from now on: by it clients' certificates are judged. */
uint64_t he_clock(he_engine *engine, const char *path);

typedef struct {
    const uint8_t *anchors; /* PEM: whose client certificates are good, at most two; none: no client is asked for one */
    size_t anchors_len;
    uint32_t enforced; /* 1: none is let in without one; 0: whoever shows one, it has to be good */
} he_clients;

/* Listens on a TCP port, too: TLS 1.3 with this certificate (PEM, then those of its issuers but the root) and its masked key.
 * Before or after he_run, once. address: numeric; no user of this machine is at the other end (he_request). On failure a
 * sentence in `error`. */
uint64_t he_listen_tls(he_engine *engine, const char *address, uint16_t port, const uint8_t *chain, size_t chain_len,
                       const he_material *key, const he_clients *clients, char *error, size_t error_len);
/* From now on the TCP port, if there is one, asks this of its clients. When it returns, connections that would not be let in any
 * more are closed, or closed as soon as the request that they wait for is answered. */
uint64_t he_tls_clients(he_engine *engine, const he_clients *clients);
uint64_t he_run(he_engine *engine);
/* CLOCK_MONOTONIC nanoseconds until which hot operations are answered; after it CKR_DEVICE_ERROR. UINT64_MAX: ever. */
void he_serve_until(he_engine *engine, uint64_t deadline);
/* 1: FIPS mode, the hot path refuses what the mechanism table forbids there (CKR_MECHANISM_INVALID). */
void he_fips(he_engine *engine, uint32_t fips);
/* Suffers what this file says, from now on (hsmsim/faults.py). */
uint64_t he_faults(he_engine *engine, const char *path);
uint64_t he_epoch(he_engine *engine);
void he_epoch_bump(he_engine *engine);

enum { HE_OP_CLIENT_GONE = 0xFFFF }; /* a request without reply: the client's last connection closed */

typedef struct {
    uint64_t id;      /* for he_reply, he_retry and the functions that read secrets; 0 for HE_OP_CLIENT_GONE */
    uint64_t client;
    uint64_t session; /* the header's word */
    uint32_t op;
    int32_t pid;      /* SO_PEERCRED of the connection; by TCP 0 */
    uint32_t uid;     /* by TCP UINT32_MAX, which is nobody's */
    uint64_t party;   /* whose turn it is: the uid, or by TCP a number of the address that is no uid */
    uint32_t certified; /* 1: by TCP, with a client certificate that is good */
    uint32_t miss;    /* 1: a hot operation whose key the engine does not hold, or any in reference mode */
    const uint8_t *payload; /* valid until the reply; secrets zeroed */
    size_t len;
} he_request;

/* Waits at most timeout_ms: 1 a request, 0 none, -1 stopped. Access (table column) and syntax are already checked.
 * A client's requests on one connection come one at a time. */
int he_next(he_engine *engine, he_request *out, int timeout_ms);
uint64_t he_reply(he_engine *engine, uint64_t id, uint64_t rv, const uint8_t *payload, size_t len);
/* A key was loaded: run the hot operation again in the engine. */
uint64_t he_retry(he_engine *engine, uint64_t id);

/* GET_ATTRIBUTES of a key that is neither SENSITIVE nor unextractable: at `offset` of the payload the engine inserts
 * u32 length and the value of `attribute` (CKA_VALUE, CKA_PRIVATE_EXPONENT, ...) of `material`. Offsets ascending. */
typedef struct {
    size_t offset;
    uint64_t attribute;
    he_material material;
} he_splice;
uint64_t he_reply_spliced(he_engine *engine, uint64_t id, uint64_t rv, const uint8_t *payload, size_t len,
                          const he_splice *splices, size_t count);

/* ---- clients: one per PKCS#11 application (process), any number of connections -------------------------------- */

uint64_t he_client_bind(he_engine *engine, uint64_t client, uint64_t partition); /* HELLO accepted: `open` access */
uint64_t he_client_cookie(he_engine *engine, uint64_t client, uint8_t out[16]);
/* user 0 logs out. When it returns, no operation under the former user starts. role: 0 none, 1 admin, 2 crypto user. */
uint64_t he_client_user(he_engine *engine, uint64_t client, uint64_t user, uint32_t role);
uint64_t he_client_peer(he_engine *engine, uint64_t client); /* proven peer: `peer` access, large frames */
uint64_t he_client_open_sessions(he_engine *engine, uint64_t client, const uint64_t *ids, size_t count);
uint64_t he_client_close_sessions(he_engine *engine, uint64_t client, const uint64_t *ids, size_t count); /* 0: all */
uint64_t he_client_kick(he_engine *engine, uint64_t client); /* closes its connections */

/* ---- keys ------------------------------------------------------------------------------------------------------ */

enum { HE_KEY_PRIVATE = 1, HE_KEY_TOKEN = 2 };

typedef struct {
    uint64_t handle;
    uint64_t partition;
    uint64_t client;  /* a session object's client; 0 for token objects */
    uint32_t usage;   /* bits as in KEY_FACTS */
    uint32_t flags;   /* HE_KEY_PRIVATE: only clients logged in as one of `users` (owner and sharees) may use it */
    const uint64_t *users;
    size_t user_count;
    const uint64_t *allowed; /* CKA_ALLOWED_MECHANISMS; count 0: any */
    size_t allowed_count;
    he_material material;
} he_key;

uint64_t he_key_load(he_engine *engine, const he_key *key); /* replaces an older entry of the handle */
/* Forgets the key; when it returns no operation with it starts. Unknown handles are ignored. */
uint64_t he_key_drop(he_engine *engine, uint64_t handle);
uint64_t he_keys_clear(he_engine *engine);

/* ---- what Python decides and the engine executes ---------------------------------------------------------------- */

/* Scrypt (N = 2^14, r = 8, p = 1) of the secret field at `offset` of a held request. */
uint64_t he_password_hash(he_engine *engine, uint64_t request, size_t offset, size_t len, const uint8_t salt[16], uint8_t out[32]);
/* *found = 1 if the secret field contains the byte. */
uint64_t he_secret_contains(he_engine *engine, uint64_t request, size_t offset, size_t len, uint8_t byte, int *found);

/* C_CreateObject of a key: the template at `offset` of the held request (its u32 count) -> masked material, after a check
 * that the parts belong together (CKR_ATTRIBUTE_VALUE_INVALID, CKR_TEMPLATE_INCOMPLETE). */
uint64_t he_import(he_engine *engine, uint64_t request, size_t offset, uint64_t object_class, uint64_t key_type, uint8_t *out, size_t *len);
/* A key pair or secret of a kind that SoftHSM2 cannot make or wrap. parameters: DER EC_PARAMS for EC and EC_EDWARDS, u32
 * little-endian bits + public exponent (big-endian) for RSA, u32 byte count for AES and GENERIC_SECRET. */
uint64_t he_generate(he_engine *engine, uint64_t key_type, const uint8_t *parameters, size_t parameters_len, uint8_t *out, size_t *len);
/* SPKI DER of a private key. */
uint64_t he_public(he_engine *engine, const he_material *material, uint8_t *out, size_t *len);
/* Signs with a key of the cluster's own; mechanism: a CKM_ without parameters. */
uint64_t he_sign(he_engine *engine, const he_material *material, uint64_t mechanism, const uint8_t *data, size_t data_len, uint8_t *out, size_t *len);
/* Checks that the material opens: bits as in KEY_FACTS, CKA_CHECK_VALUE (3 bytes, secret keys only; *check_len 0 or 3). */
uint64_t he_inspect(he_engine *engine, const he_material *material, uint32_t *bits, uint8_t check[3], size_t *check_len);
uint64_t he_wrap(he_engine *engine, const he_material *wrapping, const uint8_t *mechanism, size_t mechanism_len,
                 const he_material *key, uint8_t *out, size_t *len, uint8_t iv[16], size_t *iv_len);
/* -> masked material of the class and type asked for; wrong type or damaged: CKR_WRAPPED_KEY_INVALID / _LEN_RANGE. */
uint64_t he_unwrap(he_engine *engine, const he_material *unwrapping, const uint8_t *mechanism, size_t mechanism_len,
                   const uint8_t *wrapped, size_t wrapped_len, uint64_t object_class, uint64_t key_type, uint8_t *out, size_t *len);
/* ECDH1, HKDF, SP800-108 (and AES ECB/CBC_ENCRYPT_DATA): value_len bytes (0: the mechanism's natural length) -> masked
 * secret key. salt: HKDF's salt key or NULL. */
uint64_t he_derive(he_engine *engine, const he_material *base, const uint8_t *mechanism, size_t mechanism_len,
                   const he_material *salt, uint64_t key_type, size_t value_len, uint8_t *out, size_t *len);

typedef struct {
    uint64_t connections, clients, keys, rings, hot_operations, misses, refused_frames;
} he_counts;
void he_counters(he_engine *engine, he_counts *out);

/* cffi reads to here */

#endif
