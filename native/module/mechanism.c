/* mechanism.h says the rules. One converter per kind of parameter; structures are read with memcpy, as nothing says
 * that a caller's pParameter is aligned. */
#include "mechanism.h"

#include <string.h>

#include "macros.h"

struct conversion {
    const CK_MECHANISM *in;
    const struct mechanism_info *info;
    CK_FLAGS function;
    bool cloudhsm;
    struct mechanism_room *room;
    struct wire_mechanism *out;
};

static const struct {
    CK_RSA_PKCS_MGF_TYPE mgf;
    CK_MECHANISM_TYPE hash;
} mgfs[] = {
    {CKG_MGF1_SHA1, CKM_SHA_1},    {CKG_MGF1_SHA224, CKM_SHA224}, {CKG_MGF1_SHA256, CKM_SHA256},
    {CKG_MGF1_SHA384, CKM_SHA384}, {CKG_MGF1_SHA512, CKM_SHA512},
};

static CK_MECHANISM_TYPE mgf_hash(CK_RSA_PKCS_MGF_TYPE mgf)
{
    for (size_t i = 0; i < sizeof mgfs / sizeof *mgfs; i++) {
        if (mgfs[i].mgf == mgf) {
            return mgfs[i].hash;
        }
    }
    return 0;
}

/* A byte string inside a parameter. */
static CK_RV view(const void *data, CK_ULONG len, struct wire_bytes *out)
{
    CKR_REQUIRE(len <= MECHANISM_MAX_BYTES, CKR_MECHANISM_PARAM_INVALID);
    CKR_REQUIRE(data != NULL || len == 0, CKR_ARGUMENTS_BAD);
    *out = wire_bytes(len > 0 ? data : NULL, (uint32_t)len);
    return CKR_OK;
}

static CK_RV read_struct(const struct conversion *c, void *out, size_t size)
{
    CKR_REQUIRE(c->in->ulParameterLen == size, CKR_MECHANISM_PARAM_INVALID);
    memcpy(out, c->in->pParameter, size);
    return CKR_OK;
}

#define PARAM_REQUIRE(condition) CKR_REQUIRE(condition, CKR_MECHANISM_PARAM_INVALID)

/* AES-CBC; the key wraps take the integrity check values of RFC 3394 2.2.3 and RFC 5649 3, or the caller's own. */
static CK_RV convert_iv(struct conversion *c)
{
    static const uint8_t rfc3394[8] = {0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6};
    CKR_TRY(view(c->in->pParameter, c->in->ulParameterLen, &c->out->as.iv.iv));
    size_t len = c->out->as.iv.iv.len;
    switch (c->info->type) {
    case CKM_AES_KEY_WRAP:
        PARAM_REQUIRE(len == 8);
        break;
    case CKM_AES_KEY_WRAP_PAD:
    case CKM_AES_KEY_WRAP_KWP:
        PARAM_REQUIRE(len == 4);
        break;
    case CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD:
    case CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD: /* AWS: none, or exactly the default */
        PARAM_REQUIRE(len == sizeof rfc3394 && memcmp(c->out->as.iv.iv.data, rfc3394, sizeof rfc3394) == 0);
        break;
    default:
        PARAM_REQUIRE(len == 16);
        break;
    }
    return CKR_OK;
}

static CK_RV convert_gcm(struct conversion *c)
{
    CK_GCM_PARAMS params;
    struct wire_params_gcm *gcm = &c->out->as.gcm;
    CKR_TRY(read_struct(c, &params, sizeof params));
    CKR_TRY(view(params.pAAD, params.ulAADLen, &gcm->aad));
    /* SP 800-38D 5.2.1.2 */
    PARAM_REQUIRE((params.ulTagBits >= 96 && params.ulTagBits <= 128 && params.ulTagBits % 8 == 0) ||
                  params.ulTagBits == 64 || params.ulTagBits == 32);
    gcm->tag_bits = params.ulTagBits;
    if (c->info->type == CKM_CLOUDHSM_AES_GCM) { /* AWS: pIv must be NULL, the IV stands before the ciphertext */
        PARAM_REQUIRE(params.pIv == NULL && params.ulIvLen == 0);
        gcm->iv = wire_bytes(NULL, 0);
    } else if (c->cloudhsm && (c->function & (CKF_ENCRYPT | CKF_WRAP)) != 0) { /* AWS: the HSM makes it, pIv gets it */
        PARAM_REQUIRE(params.pIv != NULL && params.ulIvLen == GCM_HSM_IV);
        gcm->iv = wire_bytes(NULL, 0);
    } else {
        PARAM_REQUIRE(params.ulIvLen >= 1 && params.ulIvLen <= GCM_IV_MAX);
        CKR_TRY(view(params.pIv, params.ulIvLen, &gcm->iv));
    }
    gcm->iv_bits = (uint64_t)gcm->iv.len * 8; /* ulIvBits is 0 or wrong in too many callers, ulIvLen says the same */
    return CKR_OK;
}

static CK_RV convert_ctr(struct conversion *c)
{
    CK_AES_CTR_PARAMS params;
    CKR_TRY(read_struct(c, &params, sizeof params));
    PARAM_REQUIRE(params.ulCounterBits >= 1 && params.ulCounterBits <= 128);
    c->out->as.ctr.counter_bits = params.ulCounterBits;
    const uint8_t *block = (const uint8_t *)c->in->pParameter + offsetof(CK_AES_CTR_PARAMS, cb);
    c->out->as.ctr.counter_block = wire_bytes(block, sizeof params.cb);
    return CKR_OK;
}

static CK_RV convert_pss(struct conversion *c)
{
    CK_RSA_PKCS_PSS_PARAMS params;
    CKR_TRY(read_struct(c, &params, sizeof params));
    PARAM_REQUIRE(hash_size(params.hashAlg) != 0 && mgf_hash(params.mgf) != 0);
    PARAM_REQUIRE(c->info->hash == 0 || params.hashAlg == c->info->hash);
    PARAM_REQUIRE(params.sLen <= 512); /* whether it fits the key is the HSM's to say */
    c->out->as.pss = (struct wire_params_pss){params.hashAlg, params.mgf, params.sLen};
    return CKR_OK;
}

static CK_RV check_oaep(const struct conversion *c, const CK_RSA_PKCS_OAEP_PARAMS *params, struct wire_bytes *label)
{
    PARAM_REQUIRE(hash_size(params->hashAlg) != 0 && mgf_hash(params->mgf) != 0);
    PARAM_REQUIRE(!c->cloudhsm || mgf_hash(params->mgf) == params->hashAlg);
    PARAM_REQUIRE(params->source == CKZ_DATA_SPECIFIED || (params->source == 0 && params->ulSourceDataLen == 0));
    return view(params->pSourceData, params->ulSourceDataLen, label);
}

static CK_RV convert_oaep(struct conversion *c)
{
    CK_RSA_PKCS_OAEP_PARAMS params;
    struct wire_params_oaep *out = &c->out->as.oaep;
    CKR_TRY(read_struct(c, &params, sizeof params));
    CKR_TRY(check_oaep(c, &params, &out->label));
    out->hash = params.hashAlg;
    out->mgf = params.mgf;
    out->source = params.source;
    return CKR_OK;
}

static CK_RV convert_rsa_aes(struct conversion *c)
{
    CK_RSA_AES_KEY_WRAP_PARAMS params;
    CK_RSA_PKCS_OAEP_PARAMS oaep;
    struct wire_params_rsa_aes *out = &c->out->as.rsa_aes;
    CKR_TRY(read_struct(c, &params, sizeof params));
    PARAM_REQUIRE(params.ulAESKeyBits == 128 || params.ulAESKeyBits == 192 || params.ulAESKeyBits == 256);
    CKR_REQUIRE(params.pOAEPParams != NULL, CKR_ARGUMENTS_BAD);
    memcpy(&oaep, (const void *)params.pOAEPParams, sizeof oaep);
    CKR_TRY(check_oaep(c, &oaep, &out->label));
    out->aes_bits = params.ulAESKeyBits;
    out->hash = oaep.hashAlg;
    out->mgf = oaep.mgf;
    out->source = oaep.source;
    return CKR_OK;
}

/* AWS's numbers for the X9.63 functions become the standard ones: the HSM knows one numbering. */
static CK_RV standard_kdf(CK_EC_KDF_TYPE kdf, uint64_t *out)
{
    static const struct {
        CK_EC_KDF_TYPE from, to;
    } kdfs[] = {
        {CKD_NULL, CKD_NULL},
        {CKD_SHA1_KDF, CKD_SHA1_KDF},
        {CKD_SHA224_KDF, CKD_SHA224_KDF},
        {CKD_SHA256_KDF, CKD_SHA256_KDF},
        {CKD_SHA384_KDF, CKD_SHA384_KDF},
        {CKD_SHA512_KDF, CKD_SHA512_KDF},
        {CKD_CLOUDHSM_X963_SHA1_KDF, CKD_SHA1_KDF},
        {CKD_CLOUDHSM_X963_SHA224_KDF, CKD_SHA224_KDF},
        {CKD_CLOUDHSM_X963_SHA256_KDF, CKD_SHA256_KDF},
        {CKD_CLOUDHSM_X963_SHA384_KDF, CKD_SHA384_KDF},
        {CKD_CLOUDHSM_X963_SHA512_KDF, CKD_SHA512_KDF},
    };
    for (size_t i = 0; i < sizeof kdfs / sizeof *kdfs; i++) {
        if (kdfs[i].from == kdf) {
            *out = kdfs[i].to;
            return CKR_OK;
        }
    }
    return CKR_MECHANISM_PARAM_INVALID;
}

static CK_RV convert_ecdh1(struct conversion *c)
{
    CK_ECDH1_DERIVE_PARAMS params;
    struct wire_params_ecdh1 *out = &c->out->as.ecdh1;
    CKR_TRY(read_struct(c, &params, sizeof params));
    CKR_TRY(standard_kdf(params.kdf, &out->kdf));
    CKR_TRY(view(params.pSharedData, params.ulSharedDataLen, &out->shared_data));
    CKR_TRY(view(params.pPublicData, params.ulPublicDataLen, &out->public_data));
    PARAM_REQUIRE(params.kdf != CKD_NULL || out->shared_data.len == 0);
    PARAM_REQUIRE(out->public_data.len >= 1 && out->public_data.len <= 256);
    return CKR_OK;
}

static CK_RV convert_eddsa(struct conversion *c)
{
    CK_EDDSA_PARAMS params;
    struct wire_params_eddsa *out = &c->out->as.eddsa;
    CKR_TRY(read_struct(c, &params, sizeof params));
    PARAM_REQUIRE(params.phFlag == CK_FALSE || params.phFlag == CK_TRUE);
    PARAM_REQUIRE(params.ulContextDataLen <= 255); /* RFC 8032 2 */
    if (c->info->type == CKM_CLOUDHSM_EDDSA) {     /* AWS: a parameter means Ed25519ph without a context */
        PARAM_REQUIRE(params.phFlag == CK_TRUE && params.ulContextDataLen == 0);
    }
    out->ph = params.phFlag;
    return view(params.pContextData, params.ulContextDataLen, &out->context);
}

static CK_RV convert_hkdf(struct conversion *c)
{
    CK_HKDF_PARAMS params;
    struct wire_params_hkdf *out = &c->out->as.hkdf;
    CKR_TRY(read_struct(c, &params, sizeof params));
    PARAM_REQUIRE(params.bExtract <= CK_TRUE && params.bExpand <= CK_TRUE && (params.bExtract || params.bExpand));
    PARAM_REQUIRE(hash_size(params.prfHashMechanism) != 0);
    out->extract = params.bExtract;
    out->expand = params.bExpand;
    out->prf = params.prfHashMechanism;
    out->salt_type = params.ulSaltType;
    out->salt = wire_bytes(NULL, 0);
    out->salt_key = 0;
    switch (params.ulSaltType) {
    case CKF_HKDF_SALT_DATA:
        CKR_TRY(view(params.pSalt, params.ulSaltLen, &out->salt));
        break;
    case CKF_HKDF_SALT_KEY:
        out->salt_key = params.hSaltKey;
        break;
    case CKF_HKDF_SALT_NULL:
        break;
    default: /* expand alone uses no salt and may leave the type out */
        PARAM_REQUIRE(params.ulSaltType == 0 && !params.bExtract);
        out->salt_type = CKF_HKDF_SALT_NULL;
        break;
    }
    return view(params.pInfo, params.ulInfoLen, &out->info);
}

static CK_RV convert_mac_general(struct conversion *c)
{
    CK_MAC_GENERAL_PARAMS length;
    CKR_TRY(read_struct(c, &length, sizeof length));
    PARAM_REQUIRE(length >= 1 && length <= c->info->mac);
    c->out->as.mac_general.length = length;
    return CKR_OK;
}

static CK_RV convert_data(struct conversion *c)
{
    CK_KEY_DERIVATION_STRING_DATA params;
    CKR_TRY(read_struct(c, &params, sizeof params));
    return view(params.pData, params.ulLen, &c->out->as.data.data);
}

/* ---- SP 800-108: the structures of 3.0 and AWS's without the byte order; segments leave in 3.0's numbering ------- */

enum { SP800_MAX_SEGMENTS = 32 };

/* The read of one CK_PRF_DATA_PARAM, in 3.0's numbering. */
struct segment {
    CK_PRF_DATA_TYPE type;
    CK_ULONG method;
    CK_ULONG width;
    CK_BBOOL little_endian;
    struct wire_bytes raw;
};

static CK_RV read_counter(const CK_PRF_DATA_PARAM *param, struct segment *out)
{
    CK_SP800_108_COUNTER_FORMAT format = {0};
    if (param->ulValueLen == sizeof format) {
        memcpy(&format, param->pValue, sizeof format);
    } else {
        PARAM_REQUIRE(param->ulValueLen == sizeof format.ulWidthInBits);
        memcpy(&format.ulWidthInBits, param->pValue, sizeof format.ulWidthInBits);
    }
    PARAM_REQUIRE(format.ulWidthInBits >= 8 && format.ulWidthInBits <= 32 && format.ulWidthInBits % 8 == 0);
    out->type = CK_SP800_108_ITERATION_VARIABLE;
    out->width = format.ulWidthInBits;
    out->little_endian = format.bLittleEndian;
    return CKR_OK;
}

static CK_RV read_dkm_length(const CK_PRF_DATA_PARAM *param, struct segment *out)
{
    CK_SP800_108_DKM_LENGTH_FORMAT format = {0};
    if (param->ulValueLen == sizeof format) {
        memcpy(&format, param->pValue, sizeof format);
    } else {
        CK_ULONG aws[2]; /* method, width */
        PARAM_REQUIRE(param->ulValueLen == sizeof aws);
        memcpy(aws, param->pValue, sizeof aws);
        format.dkmLengthMethod = aws[0];
        format.ulWidthInBits = aws[1];
    }
    PARAM_REQUIRE(format.dkmLengthMethod == CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS ||
                  format.dkmLengthMethod == CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS);
    PARAM_REQUIRE(format.ulWidthInBits >= 8 && format.ulWidthInBits <= 64 && format.ulWidthInBits % 8 == 0);
    out->type = CK_SP800_108_DKM_LENGTH;
    out->method = format.dkmLengthMethod;
    out->width = format.ulWidthInBits;
    out->little_endian = format.bLittleEndian;
    return CKR_OK;
}

static CK_RV read_segment(const CK_PRF_DATA_PARAM *param, bool standard, struct segment *out)
{
    *out = (struct segment){0};
    CKR_TRY(view(param->pValue, param->ulValueLen, &out->raw));
    if (standard ? param->type == CK_SP800_108_ITERATION_VARIABLE
                 : param->type == CK_CLOUDHSM_SP800_108_COUNTER_FORMAT_TYPE) {
        return read_counter(param, out);
    }
    if (standard ? param->type == CK_SP800_108_DKM_LENGTH : param->type == CK_CLOUDHSM_SP800_108_DKM_FORMAT) {
        return read_dkm_length(param, out);
    }
    PARAM_REQUIRE(standard ? param->type == CK_SP800_108_BYTE_ARRAY
                           : (param->type == CK_CLOUDHSM_SP800_108_PRF_LABEL ||
                              param->type == CK_CLOUDHSM_SP800_108_PRF_CONTEXT ||
                              param->type == CK_CLOUDHSM_SP800_108_BYTE_ARRAY));
    out->type = CK_SP800_108_BYTE_ARRAY;
    return CKR_OK;
}

static enum wire_result put_segment(struct wire_writer *writer, const struct segment *segment)
{
    size_t where;
    WIRE_TRY(wire_reserve_u32(writer, &where));
    size_t start = writer->len;
    WIRE_TRY(wire_put_u64(writer, segment->type));
    if (segment->type == CK_SP800_108_BYTE_ARRAY) {
        WIRE_TRY(wire_put_raw(writer, segment->raw.data, segment->raw.len));
    } else {
        if (segment->type == CK_SP800_108_DKM_LENGTH) {
            WIRE_TRY(wire_put_u64(writer, segment->method));
        }
        WIRE_TRY(wire_put_u64(writer, segment->width));
        WIRE_TRY(wire_put_u8(writer, segment->little_endian != CK_FALSE));
    }
    wire_set_u32(writer, where, (uint32_t)(writer->len - start));
    return WIRE_OK;
}

/* AWS names label and context; SP 800-108r1 4.1 puts a zero byte between them, which 3.0 leaves to the caller. */
static bool needs_separator(bool standard, const CK_PRF_DATA_PARAM *param, CK_PRF_DATA_TYPE before)
{
    return !standard && param->type == CK_CLOUDHSM_SP800_108_PRF_CONTEXT && before == CK_CLOUDHSM_SP800_108_PRF_LABEL;
}

static CK_RV put_segments(struct conversion *c, const uint8_t *params, CK_ULONG count, bool standard)
{
    static const uint8_t zero[1] = {0};
    static const struct segment separator = {.type = CK_SP800_108_BYTE_ARRAY, .raw = {zero, sizeof zero}};
    struct wire_writer writer = wire_writer(c->room->bytes, sizeof c->room->bytes);
    struct wire_strings *out = &c->out->as.sp800_108.segments;
    CK_PRF_DATA_TYPE before = 0;
    out->count = 0;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_PRF_DATA_PARAM param;
        struct segment segment;
        memcpy(&param, params + i * sizeof param, sizeof param);
        CKR_TRY(read_segment(&param, standard, &segment));
        if (needs_separator(standard, &param, before)) {
            PARAM_REQUIRE(put_segment(&writer, &separator) == WIRE_OK);
            out->count++;
        }
        PARAM_REQUIRE(put_segment(&writer, &segment) == WIRE_OK);
        out->count++;
        before = param.type;
    }
    out->data = c->room->bytes;
    out->len = (uint32_t)writer.len;
    return CKR_OK;
}

/* Programs send 3.0's names with AWS's mechanism too: only that numbering has 1 and 3. */
static bool is_standard(const uint8_t *params, CK_ULONG count)
{
    for (CK_ULONG i = 0; i < count; i++) {
        CK_PRF_DATA_PARAM param;
        memcpy(&param, params + i * sizeof param, sizeof param);
        if (param.type == CK_SP800_108_ITERATION_VARIABLE || param.type == CK_SP800_108_DKM_LENGTH) {
            return true;
        }
    }
    return false;
}

static CK_RV convert_sp800_108(struct conversion *c)
{
    CK_SP800_108_KDF_PARAMS params = {0};
    size_t aws_size = offsetof(CK_SP800_108_KDF_PARAMS, ulAdditionalDerivedKeys);
    bool aws = c->info->type != CKM_SP800_108_COUNTER_KDF && c->in->ulParameterLen == aws_size;
    PARAM_REQUIRE(aws || c->in->ulParameterLen == sizeof params);
    memcpy(&params, c->in->pParameter, c->in->ulParameterLen);
    PARAM_REQUIRE(params.ulAdditionalDerivedKeys == 0);
    PARAM_REQUIRE(params.ulNumberOfDataParams >= 1 && params.ulNumberOfDataParams <= SP800_MAX_SEGMENTS);
    const struct mechanism_info *prf = mechanism_find(params.prfType);
    PARAM_REQUIRE(prf != NULL && prf->mac != 0 && (prf->kinds & (UINT32_C(1) << WIRE_KIND_NONE)) != 0);
    const uint8_t *segments = (const uint8_t *)params.pDataParams;
    CKR_REQUIRE(segments != NULL && c->room != NULL, CKR_ARGUMENTS_BAD);
    c->out->as.sp800_108.prf = params.prfType;
    bool standard = c->info->type == CKM_SP800_108_COUNTER_KDF || is_standard(segments, params.ulNumberOfDataParams);
    return put_segments(c, segments, params.ulNumberOfDataParams, standard);
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static CK_RV (*const converters[])(struct conversion *) = {
    [WIRE_KIND_IV] = convert_iv,
    [WIRE_KIND_GCM] = convert_gcm,
    [WIRE_KIND_CTR] = convert_ctr,
    [WIRE_KIND_PSS] = convert_pss,
    [WIRE_KIND_OAEP] = convert_oaep,
    [WIRE_KIND_ECDH1] = convert_ecdh1,
    [WIRE_KIND_EDDSA] = convert_eddsa,
    [WIRE_KIND_HKDF] = convert_hkdf,
    [WIRE_KIND_SP800_108] = convert_sp800_108,
    [WIRE_KIND_RSA_AES] = convert_rsa_aes,
    [WIRE_KIND_MAC_GENERAL] = convert_mac_general,
    [WIRE_KIND_DATA] = convert_data,
};
enum { KIND_COUNT = sizeof converters / sizeof *converters };

const struct mechanism_info *mechanism_offered(CK_MECHANISM_TYPE type, CK_FLAGS function, bool cloudhsm)
{
    const struct mechanism_info *info = mechanism_find(type);
    if (info == NULL || !(cloudhsm ? info->cloudhsm : info->general)) {
        return NULL;
    }
    return ((cloudhsm ? info->aws : info->functions) & function) != 0 ? info : NULL;
}

static uint32_t kind_with_parameter(const struct mechanism_info *info)
{
    for (uint32_t kind = WIRE_KIND_NONE + 1; kind < KIND_COUNT; kind++) {
        if ((info->kinds >> kind & 1) != 0) {
            return kind;
        }
    }
    return WIRE_KIND_NONE;
}

CK_RV mechanism_convert(const CK_MECHANISM *in, CK_FLAGS function, bool cloudhsm, struct mechanism_room *room,
                        struct wire_mechanism *out, const struct mechanism_info **info)
{
    CKR_REQUIRE(in != NULL, CKR_ARGUMENTS_BAD);
    struct conversion c = {in, mechanism_offered(in->mechanism, function, cloudhsm), function, cloudhsm, room, out};
    CKR_REQUIRE(c.info != NULL, CKR_MECHANISM_INVALID);
    if (info != NULL) {
        *info = c.info;
    }
    out->type = in->mechanism;
    out->kind = WIRE_KIND_NONE;
    if (in->ulParameterLen == 0) {
        PARAM_REQUIRE((c.info->kinds >> WIRE_KIND_NONE & 1) != 0);
        return CKR_OK;
    }
    CKR_REQUIRE(in->pParameter != NULL, CKR_ARGUMENTS_BAD);
    out->kind = kind_with_parameter(c.info);
    PARAM_REQUIRE(out->kind != WIRE_KIND_NONE);
    return converters[out->kind](&c);
}

CK_BYTE_PTR mechanism_iv_out(const CK_MECHANISM *in, const struct wire_mechanism *converted)
{
    CK_GCM_PARAMS params;
    if (converted->kind != WIRE_KIND_GCM || converted->as.gcm.iv.len != 0 || in->ulParameterLen != sizeof params) {
        return NULL;
    }
    memcpy(&params, in->pParameter, sizeof params);
    return params.pIv;
}
