/* What the module knows of a mechanism without the HSM: what an operation keeps of it, whether it fits a key, sizes. */
#include "mechanism.h"

#include <string.h>

/* ---- what an operation keeps ----------------------------------------------------------------------------------- */

static size_t views_of(struct wire_mechanism *mechanism, struct wire_bytes *views[2])
{
    size_t count = 0;
    switch ((enum wire_kind)mechanism->kind) {
    case WIRE_KIND_IV:
        views[count++] = &mechanism->as.iv.iv;
        break;
    case WIRE_KIND_GCM:
        views[count++] = &mechanism->as.gcm.iv;
        views[count++] = &mechanism->as.gcm.aad;
        break;
    case WIRE_KIND_CTR:
        views[count++] = &mechanism->as.ctr.counter_block;
        break;
    case WIRE_KIND_OAEP:
        views[count++] = &mechanism->as.oaep.label;
        break;
    case WIRE_KIND_RSA_AES:
        views[count++] = &mechanism->as.rsa_aes.label;
        break;
    case WIRE_KIND_ECDH1:
        views[count++] = &mechanism->as.ecdh1.shared_data;
        views[count++] = &mechanism->as.ecdh1.public_data;
        break;
    case WIRE_KIND_EDDSA:
        views[count++] = &mechanism->as.eddsa.context;
        break;
    case WIRE_KIND_HKDF:
        views[count++] = &mechanism->as.hkdf.salt;
        views[count++] = &mechanism->as.hkdf.info;
        break;
    case WIRE_KIND_DATA:
        views[count++] = &mechanism->as.data.data;
        break;
    case WIRE_KIND_NONE:
    case WIRE_KIND_PSS:
    case WIRE_KIND_SP800_108: /* a list: see mechanism_bytes */
    case WIRE_KIND_MAC_GENERAL:
        break;
    }
    return count;
}

size_t mechanism_bytes(const struct wire_mechanism *mechanism)
{
    struct wire_mechanism copy = *mechanism;
    struct wire_bytes *views[2];
    size_t count = views_of(&copy, views);
    size_t total = mechanism->kind == WIRE_KIND_SP800_108 ? mechanism->as.sp800_108.segments.len : 0;
    for (size_t i = 0; i < count; i++) {
        total += views[i]->len;
    }
    return total;
}

void mechanism_keep(struct wire_mechanism *mechanism, uint8_t *bytes)
{
    struct wire_bytes *views[2];
    size_t count = views_of(mechanism, views);
    for (size_t i = 0; i < count; i++) {
        if (views[i]->len > 0) {
            memcpy(bytes, views[i]->data, views[i]->len);
            views[i]->data = bytes;
            bytes += views[i]->len;
        }
    }
}

/* ---- facts that the module answers by itself ------------------------------------------------------------------- */

static bool counts_bits(uint64_t key_type)
{
    return key_type == CKK_RSA || key_type == CKK_EC;
}

CK_RV mechanism_fits_key(const struct mechanism_info *info, const struct mechanism_key *key, uint32_t usage)
{
    bool known = false;
    for (size_t i = 0; i < info->key_type_count; i++) {
        known = known || info->key_types[i] == key->key_type;
    }
    if (!known) {
        return CKR_KEY_TYPE_INCONSISTENT;
    }
    if ((key->usage & usage) == 0) {
        return CKR_KEY_FUNCTION_NOT_PERMITTED;
    }
    bool allowed = key->allowed_count == 0;
    for (uint32_t i = 0; i < key->allowed_count && !allowed; i++) {
        allowed = key->allowed[i] == info->type;
    }
    if (!allowed) {
        return CKR_MECHANISM_INVALID;
    }
    if (key->key_type == CKK_EC_EDWARDS) { /* one curve, whose size people count as 255 or 256 */
        return CKR_OK;
    }
    uint32_t size = counts_bits(key->key_type) ? key->bits : key->bits / 8;
    return size < info->min_key || size > info->max_key ? CKR_KEY_SIZE_RANGE : CKR_OK;
}

size_t mechanism_signature_size(const struct mechanism_info *info, const struct wire_mechanism *mechanism,
                                uint32_t bits)
{
    if (mechanism->kind == WIRE_KIND_MAC_GENERAL) {
        return (size_t)mechanism->as.mac_general.length;
    }
    if (info->mac != 0) {
        return info->mac;
    }
    size_t field = ((size_t)bits + 7) / 8;
    switch (info->key_types[0]) {
    case CKK_EC: /* r and s, each as long as the field */
        return 2 * field;
    case CKK_EC_EDWARDS:
        return 64;
    default:
        return field;
    }
}

CK_MECHANISM_TYPE mechanism_local_hash(const struct mechanism_info *info, const struct wire_mechanism *mechanism)
{
    if (mechanism->kind == WIRE_KIND_EDDSA) {
        return mechanism->as.eddsa.ph ? CKM_SHA512 : 0;
    }
    return info->mac == 0 ? info->hash : 0;
}

bool mechanism_single_part(const struct mechanism_info *info, const struct wire_mechanism *mechanism, bool cloudhsm)
{
    if (info->key_types[0] == CKK_EC_EDWARDS) { /* only Ed25519ph is one pass over the data */
        return mechanism_local_hash(info, mechanism) == 0;
    }
    return info->single_part || (cloudhsm && info->aws_single_part);
}

/* AWS's table "maximum data size"; it counts for what one call takes. */
size_t mechanism_max_data(const struct mechanism_info *info, const struct wire_mechanism *mechanism, bool cloudhsm)
{
    static const struct {
        CK_MECHANISM_TYPE type;
        size_t max;
    } aws[] = {
        {CKM_SHA_1_HMAC, 16288},  {CKM_SHA224_HMAC, 16256}, {CKM_SHA256_HMAC, 16288}, {CKM_SHA384_HMAC, 16224},
        {CKM_SHA512_HMAC, 16224}, {CKM_AES_CBC, 16272},     {CKM_AES_GCM, 16224},     {CKM_CLOUDHSM_AES_GCM, 16224},
    };
    for (size_t i = 0; cloudhsm && i < sizeof aws / sizeof *aws; i++) {
        if (aws[i].type == info->type) {
            return aws[i].max;
        }
    }
    bool pure_eddsa = info->key_types[0] == CKK_EC_EDWARDS && mechanism_local_hash(info, mechanism) == 0;
    return cloudhsm && pure_eddsa ? 16000 : MECHANISM_MAX_DATA;
}

static const struct {
    CK_MECHANISM_TYPE hash;
    size_t size;
} hashes[] = {
    {CKM_SHA_1, 20}, {CKM_SHA224, 28}, {CKM_SHA256, 32}, {CKM_SHA384, 48}, {CKM_SHA512, 64},
};

size_t hash_size(CK_MECHANISM_TYPE hash)
{
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
        if (hashes[i].hash == hash) {
            return hashes[i].size;
        }
    }
    return 0;
}
