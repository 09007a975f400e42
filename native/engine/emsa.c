/* RSA's encodings for signatures (RFC 8017 9), for the lanes, which take whole blocks. What is encoded is public. */
#include <string.h>

#include "signing.h"

enum { TRAILER = 0xBC };

/* DigestInfo up to the digest (RFC 8017 9.2, note 1). */
static const struct prefix {
    uint64_t hash;
    uint8_t len, bytes[19];
} prefixes[] = {
    {CKM_SHA_1, 15, {0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2B, 0x0E, 0x03, 0x02, 0x1A, 0x05, 0x00, 0x04, 0x14}},
    {CKM_SHA224, 19, {0x30, 0x2D, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 4, 5, 0, 4, 28}},
    {CKM_SHA256, 19, {0x30, 0x31, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 1, 5, 0, 4, 32}},
    {CKM_SHA384, 19, {0x30, 0x41, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 2, 5, 0, 4, 48}},
    {CKM_SHA512, 19, {0x30, 0x51, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 3, 5, 0, 4, 64}},
};

/* 9.2: 00 01 FF ... FF 00 T; T is the data itself where no hash is named (CKM_RSA_PKCS). */
static bool encode_pkcs1(const struct job *job, uint8_t *block)
{
    const struct prefix *prefix = NULL;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes && job->recipe.hash != 0; i++) {
        prefix = prefixes[i].hash == job->recipe.hash ? &prefixes[i] : prefix;
    }
    size_t size = job->key->size, before = prefix == NULL ? 0 : prefix->len, data = before + job->input.len;
    if ((job->recipe.hash != 0) != (prefix != NULL) || data + 11 > size) {
        return false;
    }
    uint8_t *at = block + size - data;
    memset(block, 0xFF, size - data);
    block[0] = 0;
    block[1] = 1;
    at[-1] = 0;
    if (before != 0) {
        memcpy(at, prefix->bytes, before);
    }
    if (job->input.len != 0) {
        memcpy(at + before, job->input.data, job->input.len);
    }
    return true;
}

static bool hash_parts(EVP_MD_CTX *context, const struct hash *hash, const struct wire_bytes parts[3], uint8_t *out)
{
    bool fine = EVP_DigestInit_ex2(context, hash->md, NULL) > 0;
    for (int i = 0; i < 3 && fine; i++) {
        fine = EVP_DigestUpdate(context, parts[i].data, parts[i].len) > 0;
    }
    return fine && EVP_DigestFinal_ex(context, out, NULL) > 0;
}

/* B.2.1: `out` is masked with what the seed generates. */
static bool mask_mgf1(EVP_MD_CTX *context, const struct hash *hash, struct wire_bytes seed, uint8_t *out, size_t len)
{
    uint8_t mask[EVP_MAX_MD_SIZE], counter[4] = {0};
    for (size_t at = 0; at < len; at += hash->size) {
        const struct wire_bytes parts[3] = {seed, {counter, sizeof counter}, {NULL, 0}};
        if (!hash_parts(context, hash, parts, mask)) {
            return false;
        }
        for (size_t i = 0; i < hash->size && at + i < len; i++) {
            out[at + i] ^= mask[i];
        }
        counter[3]++; /* at most 512 / 20 turns */
    }
    return true;
}

/* 9.1.1 with emBits = modBits - 1; moduli here have whole bytes, so that one bit is cleared. */
static bool encode_pss(const struct job *job, uint8_t *block)
{
    static const uint8_t zeros[8];
    const struct hash *hash = hash_find(job->recipe.hash), *mask = hash_of_mgf(job->recipe.mgf);
    size_t size = job->key->size, salt_len = (size_t)job->recipe.salt;
    if (hash == NULL || mask == NULL || job->key->bits % 8 != 0 || salt_len > size || size < hash->size + salt_len + 2) {
        return false;
    }
    size_t masked = size - hash->size - 1;
    uint8_t *salt = block + masked - salt_len, *digest = block + masked;
    memset(block, 0, masked);
    salt[-1] = 1;
    if (salt_len != 0 && random_bytes(salt, salt_len) != CKR_OK) {
        return false;
    }
    const struct wire_bytes parts[3] = {{zeros, sizeof zeros}, job->input, {salt, (uint32_t)salt_len}};
    if (!hash_parts(job->worker->digest, hash, parts, digest) ||
        !mask_mgf1(job->worker->digest, mask, wire_bytes(digest, hash->size), block, masked)) {
        return false;
    }
    block[0] &= 0x7F;
    block[size - 1] = TRAILER;
    return true;
}

bool emsa_encode(const struct job *job, uint8_t *block)
{
    if (job->recipe.mgf != 0) {
        return encode_pss(job, block);
    }
    if (job->recipe.mechanism == CKM_RSA_X_509) {
        memcpy(block, job->input.data, job->key->size);
        return true;
    }
    return encode_pkcs1(job, block);
}
