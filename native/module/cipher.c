/* cipher.h says the rules. AES-ECB, CBC and CTR of any length are a chain of frames: the HSM sees each as a message of
 * its own, with the chaining block that the frame before left (SP 800-38A 6.1, 6.2, 6.5). */
#include "cipher.h"

#include <string.h>

#include "macros.h"
#include "requests.h"

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool is_pad(const struct operation *operation)
{
    return operation->info->type == CKM_AES_CBC_PAD;
}

static CK_RV bad_length(bool encrypt)
{
    return encrypt ? CKR_DATA_LEN_RANGE : CKR_ENCRYPTED_DATA_LEN_RANGE;
}

static CK_RV room_for(size_t size, size_t *out_len)
{
    size_t room = *out_len;
    *out_len = size;
    return room < size ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

/* ---- sizes ----------------------------------------------------------------------------------------------------- */

static CK_RV gcm_size(const struct operation *operation, bool encrypt, size_t len, size_t *size)
{
    size_t extra = (size_t)operation->mechanism.as.gcm.tag_bits / 8;
    extra += operation->info->type == CKM_CLOUDHSM_AES_GCM ? GCM_HSM_IV : 0;
    if (!encrypt && len < extra) {
        return CKR_ENCRYPTED_DATA_LEN_RANGE;
    }
    *size = encrypt ? len + extra : len - extra;
    return CKR_OK;
}

/* The most that a block of RSA holds. */
static size_t rsa_capacity(const struct operation *operation)
{
    size_t modulus = ((size_t)operation->bits + 7) / 8;
    size_t overhead = 0;
    if (operation->info->type == CKM_RSA_PKCS) {
        overhead = 11;
    } else if (operation->mechanism.kind == WIRE_KIND_OAEP) {
        overhead = 2 * hash_size(operation->mechanism.as.oaep.hash) + 2;
    }
    return modulus > overhead ? modulus - overhead : 0;
}

CK_RV cipher_size(const struct operation *operation, bool encrypt, size_t len, size_t *size)
{
    if (len > mechanism_max_data(operation->info, &operation->mechanism, operation->cloudhsm)) {
        return bad_length(encrypt);
    }
    if (operation->info->key_types[0] == CKK_RSA) {
        *size = encrypt ? ((size_t)operation->bits + 7) / 8 : rsa_capacity(operation);
        return CKR_OK;
    }
    if (operation->mechanism.kind == WIRE_KIND_GCM) {
        return gcm_size(operation, encrypt, len, size);
    }
    *size = is_pad(operation) && encrypt ? (len / AES_BLOCK + 1) * AES_BLOCK : len;
    return CKR_OK;
}

/* Whole blocks that the next frames may take; decryption with padding keeps the last one for the end. */
static size_t ready_blocks(const struct operation *operation, bool encrypt, size_t len)
{
    size_t total = operation->held_len + len;
    size_t ready = total - total % AES_BLOCK;
    return is_pad(operation) && !encrypt && ready > 0 && ready == total ? ready - AES_BLOCK : ready;
}

CK_RV cipher_part_size(const struct operation *operation, bool encrypt, size_t len, size_t *size)
{
    if (len > mechanism_max_data(operation->info, &operation->mechanism, operation->cloudhsm)) {
        return bad_length(encrypt);
    }
    switch (operation->way) {
    case WAY_CHAIN:
        *size = operation->mechanism.kind == WIRE_KIND_CTR ? len : ready_blocks(operation, encrypt, len);
        return CKR_OK;
    case WAY_WHOLE:
        *size = 0;
        return CKR_OK;
    case WAY_SINGLE:
    case WAY_DIGEST:
    case WAY_STREAM:
        break;
    }
    return operation_no_parts(operation);
}

CK_RV cipher_last_size(const struct operation *operation, bool encrypt, size_t *size)
{
    switch (operation->way) {
    case WAY_CHAIN:
        *size = is_pad(operation) ? AES_BLOCK : 0;
        return CKR_OK;
    case WAY_WHOLE:
        return cipher_size(operation, encrypt, operation->gathered.len, size);
    case WAY_SINGLE:
    case WAY_DIGEST:
    case WAY_STREAM:
        break;
    }
    return operation_no_parts(operation);
}

/* ---- one frame ------------------------------------------------------------------------------------------------- */

/* CKM_CLOUDHSM_AES_GCM: the IV stands before the ciphertext. */
static CK_RV gcm_with_prefix(struct session *session, struct operation *operation, bool encrypt, struct wire_bytes data,
                             uint8_t *out, size_t *out_len)
{
    struct wire_mechanism mechanism = operation->mechanism;
    if (encrypt) {
        uint8_t iv[GCM_HSM_IV];
        size_t len = *out_len - sizeof iv; /* cipher_whole has checked the room */
        CKR_TRY(request_encrypt(session, operation, &mechanism, data, out + sizeof iv, &len, iv));
        memcpy(out, iv, sizeof iv);
        *out_len = len + sizeof iv;
        return CKR_OK;
    }
    mechanism.as.gcm.iv = wire_bytes(data.data, GCM_HSM_IV);
    mechanism.as.gcm.iv_bits = GCM_HSM_IV * 8;
    return request_decrypt(session, operation, &mechanism,
                           wire_bytes(data.data + GCM_HSM_IV, data.len - GCM_HSM_IV), out, out_len);
}

static CK_RV one_frame(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in,
                       size_t len, uint8_t *out, size_t *out_len)
{
    if (len + mechanism_bytes(&operation->mechanism) > WIRE_MAX_DATA) {
        return bad_length(encrypt);
    }
    struct wire_bytes data = wire_bytes(len > 0 ? in : NULL, (uint32_t)len);
    if (operation->info->type == CKM_CLOUDHSM_AES_GCM) {
        return gcm_with_prefix(session, operation, encrypt, data, out, out_len);
    }
    return encrypt ? request_encrypt(session, operation, &operation->mechanism, data, out, out_len, operation->iv_out)
                   : request_decrypt(session, operation, &operation->mechanism, data, out, out_len);
}

/* ---- chains ---------------------------------------------------------------------------------------------------- */

/* The chaining block in the place where the mechanism keeps its own; type: CKM_AES_CBC for all but the last frame of
 * CBC_PAD. */
static struct wire_mechanism chained(const struct operation *operation, CK_MECHANISM_TYPE type)
{
    struct wire_mechanism mechanism = operation->mechanism;
    mechanism.type = type;
    if (mechanism.kind == WIRE_KIND_IV) {
        mechanism.as.iv.iv = wire_bytes(operation->chain, AES_BLOCK);
    } else if (mechanism.kind == WIRE_KIND_CTR) {
        mechanism.as.ctr.counter_block = wire_bytes(operation->chain, AES_BLOCK);
    }
    return mechanism;
}

/* The counter is the low counter_bits of the block, big-endian. True when it has come round: no blocks are left, unless
 * the whole block counts, as then the start is arbitrary. */
static bool count_blocks(uint8_t block[AES_BLOCK], uint64_t counter_bits, size_t blocks)
{
    bool all = counter_bits == 8 * AES_BLOCK;
    size_t carry = blocks;
    for (size_t i = AES_BLOCK; i-- > 0 && counter_bits > 0;) {
        unsigned width = counter_bits < 8 ? (unsigned)counter_bits : 8;
        size_t mask = ((size_t)1 << width) - 1;
        size_t sum = (block[i] & mask) + carry;
        block[i] = (uint8_t)((block[i] & ~mask) | (sum & mask));
        carry = sum >> width;
        counter_bits -= width;
    }
    return carry != 0 && !all;
}

/* `len` is a multiple of the block. The next chaining block is taken from the ciphertext: before the call for
 * decryption, whose output may lie over it. */
static CK_RV chain_frame(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in,
                         size_t len, uint8_t *out)
{
    struct wire_mechanism mechanism =
        chained(operation, is_pad(operation) ? CKM_AES_CBC : operation->info->type);
    struct wire_bytes data = wire_bytes(in, (uint32_t)len);
    uint8_t next[AES_BLOCK];
    size_t out_len = len;
    memcpy(next, in + len - AES_BLOCK, AES_BLOCK);
    if (operation->spent) {
        return bad_length(encrypt);
    }
    CKR_TRY(encrypt ? request_encrypt(session, operation, &mechanism, data, out, &out_len, NULL)
                    : request_decrypt(session, operation, &mechanism, data, out, &out_len));
    if (out_len != len) {
        return CKR_DEVICE_ERROR;
    }
    if (mechanism.kind == WIRE_KIND_IV) {
        memcpy(operation->chain, encrypt ? out + len - AES_BLOCK : next, AES_BLOCK);
    } else if (mechanism.kind == WIRE_KIND_CTR) {
        operation->spent = count_blocks(operation->chain, mechanism.as.ctr.counter_bits, len / AES_BLOCK);
    }
    return CKR_OK;
}

/* A stream: what a frame's last block leaves of its key stream waits in `held` (at its end) for the next part. */
static CK_RV ctr_part(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in, size_t len,
                      uint8_t *out)
{
    for (; len > 0 && operation->held_len > 0; len--) {
        *out++ = *in++ ^ operation->held[AES_BLOCK - operation->held_len--];
    }
    while (len >= AES_BLOCK) {
        size_t frame = least(len - len % AES_BLOCK, OPERATION_CHUNK);
        CKR_TRY(chain_frame(session, operation, encrypt, in, frame, out));
        in += frame;
        out += frame;
        len -= frame;
    }
    if (len > 0) {
        uint8_t block[AES_BLOCK] = {0};
        memcpy(block, in, len);
        CKR_TRY(chain_frame(session, operation, encrypt, block, sizeof block, operation->held));
        memcpy(out, operation->held, len);
        operation->held_len = (uint8_t)(AES_BLOCK - len);
    }
    return CKR_OK;
}

/* ECB and CBC. Output runs ahead of input by what was held, so the next bytes are read before each frame's output. */
static CK_RV block_part(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in,
                        size_t len, uint8_t *out)
{
    size_t ready = ready_blocks(operation, encrypt, len);
    if (ready == 0) {
        memcpy(operation->held + operation->held_len, in, len);
        operation->held_len = (uint8_t)(operation->held_len + len);
        return CKR_OK;
    }
    CKR_TRY(gathered_reserve(&operation->gathered, OPERATION_CHUNK)); /* as scratch memory */
    uint8_t *frame = operation->gathered.data;
    while (ready > 0) {
        size_t size = least(ready, OPERATION_CHUNK);
        size_t fresh = size - operation->held_len;
        memcpy(frame, operation->held, operation->held_len);
        memcpy(frame + operation->held_len, in, fresh);
        in += fresh;
        len -= fresh;
        operation->held_len = (uint8_t)least(len, AES_BLOCK);
        memcpy(operation->held, in, operation->held_len);
        in += operation->held_len;
        len -= operation->held_len;
        CKR_TRY(chain_frame(session, operation, encrypt, frame, size, out));
        out += size;
        ready -= size;
    }
    return CKR_OK;
}

static CK_RV chain_part(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in,
                        size_t len, uint8_t *out)
{
    if (len == 0) {
        return CKR_OK;
    }
    return operation->mechanism.kind == WIRE_KIND_CTR ? ctr_part(session, operation, encrypt, in, len, out)
                                                      : block_part(session, operation, encrypt, in, len, out);
}

/* The padding is the HSM's to add and to check: what is held goes as a last CBC_PAD frame, again if the room was too
 * small. */
static CK_RV chain_last(struct session *session, struct operation *operation, bool encrypt, uint8_t *out,
                        size_t *out_len)
{
    bool whole_block = operation->held_len == AES_BLOCK;
    if (operation->mechanism.kind == WIRE_KIND_CTR || (!is_pad(operation) && operation->held_len == 0)) {
        *out_len = 0;
        return CKR_OK;
    }
    if (!is_pad(operation) || (!encrypt && !whole_block)) {
        return bad_length(encrypt);
    }
    struct wire_mechanism mechanism = chained(operation, CKM_AES_CBC_PAD);
    struct wire_bytes data = wire_bytes(operation->held, operation->held_len);
    return encrypt ? request_encrypt(session, operation, &mechanism, data, out, out_len, NULL)
                   : request_decrypt(session, operation, &mechanism, data, out, out_len);
}

/* A message in one call that is too long for one frame. */
static CK_RV chain_whole(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in,
                         size_t len, uint8_t *out, size_t *out_len)
{
    size_t part;
    size_t room = *out_len;
    if (operation->mechanism.kind != WIRE_KIND_CTR && !(is_pad(operation) && encrypt) && len % AES_BLOCK != 0) {
        return bad_length(encrypt);
    }
    CKR_TRY(cipher_part_size(operation, encrypt, len, &part));
    if (room < part) {
        *out_len = len;
        return CKR_BUFFER_TOO_SMALL;
    }
    CKR_TRY(chain_part(session, operation, encrypt, in, len, out));
    *out_len = room - part;
    CK_RV rv = chain_last(session, operation, encrypt, out + part, out_len);
    *out_len += part;
    if (rv == CKR_BUFFER_TOO_SMALL) { /* the caller comes again with the same message */
        memcpy(operation->chain, operation->mechanism.as.iv.iv.data, AES_BLOCK);
        operation->held_len = 0;
    }
    return rv;
}

/* ---- whole messages, parts, ends ------------------------------------------------------------------------------- */

CK_RV cipher_whole(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in, size_t len,
                   uint8_t *out, size_t *out_len)
{
    size_t size;
    CKR_TRY(cipher_size(operation, encrypt, len, &size));
    bool exact = encrypt || (operation->info->key_types[0] != CKK_RSA && !is_pad(operation));
    if (exact && *out_len < size) {
        return room_for(size, out_len);
    }
    if (operation->way == WAY_CHAIN && len > OPERATION_CHUNK) {
        return chain_whole(session, operation, encrypt, in, len, out, out_len);
    }
    return one_frame(session, operation, encrypt, in, len, out, out_len);
}

static CK_RV gather(struct operation *operation, bool encrypt, const uint8_t *in, size_t len)
{
    size_t limit = WIRE_MAX_DATA - mechanism_bytes(&operation->mechanism);
    if (len > limit - operation->gathered.len) {
        return bad_length(encrypt);
    }
    return gathered_add(&operation->gathered, in, len);
}

CK_RV cipher_part(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in, size_t len,
                  uint8_t *out, size_t *out_len)
{
    size_t size;
    CKR_TRY(cipher_part_size(operation, encrypt, len, &size));
    CKR_TRY(room_for(size, out_len));
    return operation->way == WAY_WHOLE ? gather(operation, encrypt, in, len)
                                       : chain_part(session, operation, encrypt, in, len, out);
}

CK_RV cipher_last(struct session *session, struct operation *operation, bool encrypt, uint8_t *out, size_t *out_len)
{
    size_t size;
    CKR_TRY(cipher_last_size(operation, encrypt, &size));
    if (operation->way == WAY_CHAIN) {
        return chain_last(session, operation, encrypt, out, out_len);
    }
    /* gathered CBC_PAD that is decrypted: the HSM says the length */
    if ((encrypt || !is_pad(operation)) && *out_len < size) {
        return room_for(size, out_len);
    }
    return one_frame(session, operation, encrypt, operation->gathered.data, operation->gathered.len, out, out_len);
}
