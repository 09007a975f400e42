/* The device's seed, what is derived from it, and the cluster's masking key. Neither leaves locked memory in clear.
 *
 *   seed (file, 32 bytes) -- HKDF-SHA256, info "hsmsim device x25519" --> X25519 key: the device's identity for seals
 *                         -- HKDF-SHA256, info "hsmsim hardware p256" | counter --> the hardware key (identity.c)
 *                         -- HKDF-SHA256, info "hsmsim softhsm pin" | partition | purpose --> SoftHSM2 PINs
 *   masking key (random)  -- HKDF-SHA256, info "hsmsim mac" | purpose --> HMAC keys
 *                         -- AES-KWP --> masked material
 * Every info is a sequence of length-prefixed parts, so that no two of them give the same bytes. */
#include "masking.h"

#include <endian.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evp.h"

enum { KEY = 32, NONCE = 12, TAG = 16, INFO_MAX = 1024, SEALED = KEY + NONCE + KEY + TAG };

struct masking {
    struct secret secrets; /* seed, masking key */
    atomic_int state[2];   /* of each: EMPTY, SETTING, SET */
    _Atomic(EVP_PKEY *) device;
};
enum { SEED, MASKING };
enum { EMPTY, SETTING, SET };

static uint8_t *secret_of(const struct masking *masking, int which)
{
    return masking->secrets.data + which * KEY;
}

static bool is_set(const struct masking *masking, int which)
{
    return atomic_load_explicit(&masking->state[which], memory_order_acquire) == SET;
}

/* Once: readers take no lock, so a value that was read never changes. */
static bool set_once(struct masking *masking, int which, const uint8_t value[KEY])
{
    int empty = EMPTY;
    if (!atomic_compare_exchange_strong(&masking->state[which], &empty, SETTING)) {
        return false;
    }
    memcpy(secret_of(masking, which), value, KEY);
    atomic_store_explicit(&masking->state[which], SET, memory_order_release);
    return true;
}

struct masking *masking_new(void)
{
    ERRORS_SCOPED;
    if (!evp_start()) {
        return NULL;
    }
    struct masking *masking = calloc(1, sizeof *masking);
    if (masking != NULL && !secret_alloc(&masking->secrets, 2 * KEY)) {
        free(masking);
        return NULL;
    }
    return masking;
}

void masking_free(struct masking *masking)
{
    if (masking != NULL) {
        EVP_PKEY_free(masking->device);
        secret_free(&masking->secrets);
        free(masking);
    }
}

/* ---- key derivation -------------------------------------------------------------------------------------------- */

struct info {
    uint8_t data[INFO_MAX];
    size_t len;
};

static bool info_add(struct info *info, const void *data, size_t len)
{
    uint32_t prefix = htole32((uint32_t)len);
    if (len > INFO_MAX || INFO_MAX - info->len < sizeof prefix + len) {
        return false;
    }
    memcpy(info->data + info->len, &prefix, sizeof prefix);
    if (len != 0) {
        memcpy(info->data + info->len + sizeof prefix, data, len);
    }
    info->len += sizeof prefix + len;
    return true;
}

static bool hkdf(const uint8_t *key, size_t key_len, const struct info *info, uint8_t *out, size_t len)
{
    const OSSL_PARAM params[] = {
        param_text(OSSL_KDF_PARAM_DIGEST, "SHA2-256"),
        param_octets(OSSL_KDF_PARAM_KEY, key, key_len),
        param_octets(OSSL_KDF_PARAM_INFO, info->data, info->len),
        OSSL_PARAM_construct_end(),
    };
    return evp_kdf("HKDF", params, out, len);
}

/* ---- the device -------------------------------------------------------------------------------------------------- */

static uint64_t read_seed(const char *path, uint8_t seed[KEY])
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    RV_REQUIRE(file >= 0, CKR_FUNCTION_FAILED);
    struct stat status;
    uint8_t beyond;
    bool ok = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
              (status.st_mode & 0777) == 0600 && read(file, seed, KEY) == KEY && read(file, &beyond, 1) == 0;
    (void)close(file);
    return ok ? CKR_OK : CKR_FUNCTION_FAILED;
}

static EVP_PKEY *derive_device(const uint8_t seed[KEY])
{
    struct info info = {.len = 0};
    SECRET_SCOPED private = {NULL, 0};
    if (!secret_alloc(&private, KEY) || !info_add(&info, "hsmsim device x25519", 20) ||
        !hkdf(seed, KEY, &info, private.data, KEY)) {
        return NULL;
    }
    return EVP_PKEY_new_raw_private_key_ex(evp_context(), "X25519", NULL, private.data, KEY);
}

uint64_t device_load(struct masking *masking, const char *path)
{
    ERRORS_SCOPED;
    SECRET_SCOPED seed = {NULL, 0};
    RV_REQUIRE(secret_alloc(&seed, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(read_seed(path, seed.data));
    EVP_PKEY *device = derive_device(seed.data);
    RV_REQUIRE(device != NULL, CKR_DEVICE_ERROR);
    if (!set_once(masking, SEED, seed.data)) {
        EVP_PKEY_free(device);
        return CKR_FUNCTION_REJECTED;
    }
    atomic_store(&masking->device, device);
    return CKR_OK;
}

uint64_t device_create(const char *path)
{
    SECRET_SCOPED seed = {NULL, 0};
    RV_REQUIRE(evp_start() && secret_alloc(&seed, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(random_bytes(seed.data, KEY));
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    RV_REQUIRE(file >= 0, CKR_FUNCTION_FAILED);
    bool ok = fchmod(file, 0600) == 0 && write(file, seed.data, KEY) == KEY && fsync(file) == 0;
    ok = close(file) == 0 && ok;
    if (!ok) {
        (void)unlink(path);
    }
    return ok ? CKR_OK : CKR_FUNCTION_FAILED;
}

uint64_t device_public(struct masking *masking, uint8_t out[32])
{
    ERRORS_SCOPED;
    EVP_PKEY *device = atomic_load(&masking->device);
    size_t len = KEY;
    RV_REQUIRE(device != NULL && EVP_PKEY_get_raw_public_key(device, out, &len) > 0, CKR_DEVICE_ERROR);
    return CKR_OK;
}

uint64_t device_derive(struct masking *masking, const char *label, uint8_t counter, uint8_t *out, size_t len)
{
    struct info info = {.len = 0};
    RV_REQUIRE(is_set(masking, SEED), CKR_DEVICE_ERROR);
    RV_REQUIRE(info_add(&info, label, strlen(label)) && info_add(&info, &counter, 1), CKR_ARGUMENTS_BAD);
    return hkdf(secret_of(masking, SEED), KEY, &info, out, len) ? CKR_OK : CKR_DEVICE_ERROR;
}

uint64_t device_pin(struct masking *masking, uint64_t partition, const char *purpose, char out[33])
{
    ERRORS_SCOPED;
    uint64_t little = htole64(partition);
    struct info info = {.len = 0};
    SECRET_SCOPED raw = {NULL, 0};
    RV_REQUIRE(is_set(masking, SEED), CKR_DEVICE_ERROR);
    RV_REQUIRE(secret_alloc(&raw, 16), CKR_DEVICE_MEMORY);
    RV_REQUIRE(info_add(&info, "hsmsim softhsm pin", 18) && info_add(&info, &little, sizeof little) &&
                   info_add(&info, purpose, strlen(purpose)),
               CKR_ARGUMENTS_BAD);
    RV_REQUIRE(hkdf(secret_of(masking, SEED), KEY, &info, raw.data, raw.len), CKR_DEVICE_ERROR);
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < raw.len; i++) {
        out[2 * i] = digits[raw.data[i] >> 4];
        out[2 * i + 1] = digits[raw.data[i] & 15];
    }
    out[32] = '\0';
    return CKR_OK;
}

/* ---- the masking key ------------------------------------------------------------------------------------------------ */

const uint8_t *masking_key(const struct masking *masking)
{
    return is_set(masking, MASKING) ? secret_of(masking, MASKING) : NULL;
}

uint64_t masking_create(struct masking *masking)
{
    SECRET_SCOPED key = {NULL, 0};
    RV_REQUIRE(secret_alloc(&key, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(random_bytes(key.data, KEY));
    return set_once(masking, MASKING, key.data) ? CKR_OK : CKR_FUNCTION_REJECTED;
}

/* AES-256-GCM of the masking key; `seal`: from `in` to `out` and tag, else back. */
static bool seal_crypt(bool seal, const uint8_t key[KEY], const uint8_t nonce[NONCE], const uint8_t *context,
                       size_t context_len, const uint8_t in[KEY], uint8_t out[KEY], uint8_t tag[TAG])
{
    SCOPED(EVP_CIPHER_CTX) cipher = EVP_CIPHER_CTX_new();
    int written;
    if (cipher == NULL || EVP_CipherInit_ex2(cipher, aes_cipher(AES_GCM, KEY), key, nonce, seal, NULL) <= 0 ||
        (context_len != 0 && EVP_CipherUpdate(cipher, NULL, &written, context, (int)context_len) <= 0) ||
        (!seal && EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, TAG, tag) <= 0) ||
        EVP_CipherUpdate(cipher, out, &written, in, KEY) <= 0 || EVP_CipherFinal_ex(cipher, out + written, &written) <= 0) {
        return false;
    }
    return !seal || EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TAG, tag) > 0;
}

/* HKDF over the shared secret, both public keys and the context. OpenSSL refuses an all-zero shared secret (RFC 7748 6.1). */
static uint64_t seal_key(EVP_PKEY *own, EVP_PKEY *peer, const uint8_t ephemeral[KEY], const uint8_t receiver[KEY],
                         const uint8_t *context, size_t context_len, uint8_t out[KEY])
{
    SCOPED(EVP_PKEY_CTX) derive = EVP_PKEY_CTX_new_from_pkey(evp_context(), own, NULL);
    SECRET_SCOPED shared = {NULL, 0};
    struct info info = {.len = 0};
    size_t len = KEY;
    RV_REQUIRE(secret_alloc(&shared, KEY), CKR_DEVICE_MEMORY);
    RV_REQUIRE(derive != NULL && EVP_PKEY_derive_init(derive) > 0 && EVP_PKEY_derive_set_peer(derive, peer) > 0 &&
                   EVP_PKEY_derive(derive, shared.data, &len) > 0 && len == KEY,
               CKR_ARGUMENTS_BAD);
    RV_REQUIRE(info_add(&info, "hsmsim seal", 11) && info_add(&info, ephemeral, KEY) && info_add(&info, receiver, KEY) &&
                   info_add(&info, context, context_len),
               CKR_ARGUMENTS_BAD);
    RV_REQUIRE(hkdf(shared.data, KEY, &info, out, KEY), CKR_DEVICE_ERROR);
    return CKR_OK;
}

static uint64_t seal(const uint8_t key[KEY], const uint8_t peer[32], const uint8_t *context, size_t context_len,
                     uint8_t out[92])
{
    SCOPED(EVP_PKEY) receiver = EVP_PKEY_new_raw_public_key_ex(evp_context(), "X25519", NULL, peer, KEY);
    SCOPED(EVP_PKEY) ephemeral = EVP_PKEY_Q_keygen(evp_context(), NULL, "X25519");
    SECRET_SCOPED wrapping = {NULL, 0};
    uint8_t *nonce = out + KEY, *sealed = nonce + NONCE;
    size_t len = KEY;
    RV_REQUIRE(receiver != NULL && ephemeral != NULL && secret_alloc(&wrapping, KEY), CKR_DEVICE_MEMORY);
    RV_REQUIRE(EVP_PKEY_get_raw_public_key(ephemeral, out, &len) > 0, CKR_DEVICE_ERROR);
    RV_TRY(seal_key(ephemeral, receiver, out, peer, context, context_len, wrapping.data));
    RV_TRY(random_bytes(nonce, NONCE));
    RV_REQUIRE(seal_crypt(true, wrapping.data, nonce, context, context_len, key, sealed, sealed + KEY), CKR_DEVICE_ERROR);
    return CKR_OK;
}

/* The key in `out`, locked memory of the caller's. */
static uint64_t unseal(struct masking *masking, const uint8_t sealed[92], const uint8_t *context, size_t context_len,
                       uint8_t out[KEY])
{
    uint8_t own[KEY], tag[TAG];
    EVP_PKEY *device = atomic_load(&masking->device);
    const uint8_t *nonce = sealed + KEY, *sealed_key = nonce + NONCE;
    RV_TRY(device_public(masking, own));
    SCOPED(EVP_PKEY) ephemeral = EVP_PKEY_new_raw_public_key_ex(evp_context(), "X25519", NULL, sealed, KEY);
    SECRET_SCOPED wrapping = {NULL, 0};
    RV_REQUIRE(ephemeral != NULL && secret_alloc(&wrapping, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(seal_key(device, ephemeral, sealed, own, context, context_len, wrapping.data));
    memcpy(tag, sealed_key + KEY, TAG);
    RV_REQUIRE(seal_crypt(false, wrapping.data, nonce, context, context_len, sealed_key, out, tag),
               CKR_ENCRYPTED_DATA_INVALID);
    return CKR_OK;
}

uint64_t masking_seal(struct masking *masking, const uint8_t peer[32], const uint8_t *context, size_t context_len,
                      uint8_t out[92])
{
    ERRORS_SCOPED;
    const uint8_t *key = masking_key(masking);
    RV_REQUIRE(key != NULL, CKR_DEVICE_ERROR);
    return seal(key, peer, context, context_len, out);
}

uint64_t masking_open(struct masking *masking, const uint8_t sealed[92], const uint8_t *context, size_t context_len)
{
    ERRORS_SCOPED;
    SECRET_SCOPED opened = {NULL, 0};
    RV_REQUIRE(secret_alloc(&opened, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(unseal(masking, sealed, context, context_len, opened.data));
    if (set_once(masking, MASKING, opened.data)) {
        return CKR_OK;
    }
    const uint8_t *current = masking_key(masking); /* opening the same key again is no error */
    return current != NULL && memory_equal(current, opened.data, KEY) ? CKR_OK : CKR_FUNCTION_REJECTED;
}

uint64_t masking_reseal(struct masking *masking, const uint8_t sealed[92], const uint8_t *context, size_t context_len,
                        const uint8_t peer[32], const uint8_t *new_context, size_t new_context_len, uint8_t out[92])
{
    ERRORS_SCOPED;
    SECRET_SCOPED opened = {NULL, 0};
    RV_REQUIRE(secret_alloc(&opened, KEY), CKR_DEVICE_MEMORY);
    RV_TRY(unseal(masking, sealed, context, context_len, opened.data));
    return seal(opened.data, peer, new_context, new_context_len, out);
}

uint64_t masking_mac(struct masking *masking, const char *purpose, const uint8_t *data, size_t len, uint8_t out[32])
{
    ERRORS_SCOPED;
    const uint8_t *key = masking_key(masking);
    struct info info = {.len = 0};
    SECRET_SCOPED derived = {NULL, 0};
    RV_REQUIRE(key != NULL, CKR_DEVICE_ERROR);
    RV_REQUIRE(secret_alloc(&derived, KEY), CKR_DEVICE_MEMORY);
    RV_REQUIRE(info_add(&info, "hsmsim mac", 10) && info_add(&info, purpose, strlen(purpose)), CKR_ARGUMENTS_BAD);
    RV_REQUIRE(hkdf(key, KEY, &info, derived.data, KEY), CKR_DEVICE_ERROR);
    const OSSL_PARAM params[] = {param_text(OSSL_MAC_PARAM_DIGEST, "SHA2-256"), OSSL_PARAM_construct_end()};
    SCOPED(EVP_MAC_CTX) mac = EVP_MAC_CTX_new(evp_hmac());
    size_t out_len = 0;
    RV_REQUIRE(mac != NULL && EVP_MAC_init(mac, derived.data, KEY, params) > 0 && EVP_MAC_update(mac, data, len) > 0 &&
                   EVP_MAC_final(mac, out, &out_len, 32) > 0 && out_len == 32,
               CKR_DEVICE_ERROR);
    return CKR_OK;
}

/* ---- material ---------------------------------------------------------------------------------------------------------- */

uint64_t mask(const struct masking *masking, const uint8_t *data, size_t data_len, uint8_t *out, size_t *len)
{
    const uint8_t *key = masking_key(masking);
    size_t room = *len, needed = (data_len + 7) / 8 * 8 + 8; /* RFC 5649 4.1 */
    RV_REQUIRE(key != NULL, CKR_DEVICE_ERROR);
    *len = needed;
    RV_REQUIRE(needed <= room, CKR_BUFFER_TOO_SMALL);
    SECRET_SCOPED wrapped = {NULL, 0}; /* OpenSSL wants more room than it uses */
    RV_REQUIRE(secret_alloc(&wrapped, data_len + 16), CKR_DEVICE_MEMORY);
    RV_REQUIRE(aes_wrap_run(AES_WRAP_PAD, true, key, KEY, NULL, data, data_len, wrapped.data, &wrapped.len) &&
                   wrapped.len == needed,
               CKR_DEVICE_ERROR);
    memcpy(out, wrapped.data, needed);
    return CKR_OK;
}

uint64_t unmask(const struct masking *masking, const uint8_t *masked, size_t masked_len, struct secret *out)
{
    const uint8_t *key = masking_key(masking);
    size_t len = 0;
    *out = (struct secret){NULL, 0};
    RV_REQUIRE(key != NULL && masked_len >= 16 && masked_len % 8 == 0 && masked_len <= WIRE_MAX_DATA, CKR_DEVICE_ERROR);
    RV_REQUIRE(secret_alloc(out, masked_len + 16), CKR_DEVICE_MEMORY);
    if (!aes_wrap_run(AES_WRAP_PAD, false, key, KEY, NULL, masked, masked_len, out->data, &len)) {
        secret_free(out);
        return CKR_DEVICE_ERROR;
    }
    secret_trim(out, len);
    return CKR_OK;
}
