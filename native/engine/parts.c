/* parts.h says the rules. RFC 5958 (PKCS#8), RFC 8017 A.1.2 (RSAPrivateKey), RFC 5915 (ECPrivateKey), RFC 8410 (Ed25519). */
#include "parts.h"

#include <string.h>

static const struct curve curves[] = {
    {"secp224r1", {6, 5, 0x2B, 0x81, 0x04, 0x00, 0x21}, 7, 224, 28},
    {"prime256v1", {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}, 10, 256, 32},
    {"secp384r1", {6, 5, 0x2B, 0x81, 0x04, 0x00, 0x22}, 7, 384, 48},
    {"secp521r1", {6, 5, 0x2B, 0x81, 0x04, 0x00, 0x23}, 7, 521, 66},
    {"secp256k1", {6, 5, 0x2B, 0x81, 0x04, 0x00, 0x0A}, 7, 256, 32},
};
const struct curve curve_ed25519 = {NULL, {6, 3, 0x2B, 0x65, 0x70}, 5, 256, 32};

static const uint8_t oid_rsa[] = {0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01};
static const uint8_t oid_ec[] = {0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01};
static const uint8_t oid_ed25519[] = {0x2B, 0x65, 0x70};

const struct curve *curve_of_name(const char *name)
{
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) {
        if (strcmp(curves[i].name, name) == 0) {
            return &curves[i];
        }
    }
    return NULL;
}

/* CKA_EC_PARAMS of Edwards keys: the OID of RFC 8410, or the curve's name (PKCS #11 3.0 2.3.5 allows both), or GnuPG's OID. */
static bool is_ed25519(const uint8_t *der, size_t len)
{
    static const uint8_t name[] = {0x13, 12, 'e', 'd', 'w', 'a', 'r', 'd', 's', '2', '5', '5', '1', '9'};
    static const uint8_t gnupg[] = {6, 9, 0x2B, 6, 1, 4, 1, 0xDA, 0x47, 0x0F, 1};
    const struct der in = {der, der + len};
    return der_equals(&in, curve_ed25519.params, curve_ed25519.params_len) || der_equals(&in, name, sizeof name) ||
           der_equals(&in, gnupg, sizeof gnupg);
}

const struct curve *curve_of_params(const uint8_t *der, size_t len)
{
    if (len == 0) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) {
        if (curves[i].params_len == len && memcmp(curves[i].params, der, len) == 0) {
            return &curves[i];
        }
    }
    return is_ed25519(der, len) ? &curve_ed25519 : NULL;
}

static struct wire_bytes view_of(const struct der *in)
{
    return wire_bytes(in->at, (uint32_t)der_left(in));
}

/* ---- reading PKCS#8 ---------------------------------------------------------------------------------------------- */

static bool read_rsa(struct der *algorithm, struct der *key, struct key_parts *out)
{
    struct der none, body, number;
    uint8_t version;
    if (der_is(algorithm, DER_NULL) && !(der_take(algorithm, DER_NULL, &none) && der_left(&none) == 0)) {
        return false;
    }
    /* version 1 has more than two primes */
    if (!der_take(key, DER_SEQUENCE, &body) || !der_small(&body, &version) || version != 0) {
        return false;
    }
    for (int i = 0; i < RSA_PARTS; i++) {
        if (!der_integer(&body, &number)) {
            return false;
        }
        out->part[i] = view_of(&number);
    }
    out->key_type = CKK_RSA;
    return der_left(&body) == 0 && der_left(algorithm) == 0;
}

static bool read_ec_public(struct der *body, struct key_parts *out)
{
    struct der tagged, bits;
    if (!der_is(body, DER_CONTEXT_1)) {
        return true;
    }
    if (!der_take(body, DER_CONTEXT_1, &tagged) || !der_take(&tagged, DER_BIT_STRING, &bits) || der_left(&tagged) != 0 ||
        der_left(&bits) < 2 || *bits.at++ != 0) {
        return false;
    }
    out->part[EC_Q] = view_of(&bits);
    return true;
}

static bool read_ec(struct der *algorithm, struct der *key, struct key_parts *out)
{
    struct der body, scalar, params;
    uint8_t version;
    out->key_type = CKK_EC;
    out->curve = curve_of_params(algorithm->at, der_left(algorithm));
    if (out->curve == NULL || out->curve->name == NULL || !der_take(key, DER_SEQUENCE, &body) ||
        !der_small(&body, &version) || version != 1 || !der_take(&body, DER_OCTETS, &scalar)) {
        return false;
    }
    if (der_is(&body, DER_CONTEXT_0) && !(der_take(&body, DER_CONTEXT_0, &params) &&
                                          der_equals(&params, out->curve->params, out->curve->params_len))) {
        return false;
    }
    while (der_left(&scalar) > out->curve->size && *scalar.at == 0) {
        scalar.at++;
    }
    out->part[EC_D] = view_of(&scalar);
    return der_left(&scalar) != 0 && der_left(&scalar) <= out->curve->size && read_ec_public(&body, out) &&
           der_left(&body) == 0;
}

static bool read_ed25519(const struct der *algorithm, struct der *key, struct key_parts *out)
{
    struct der seed;
    out->key_type = CKK_EC_EDWARDS;
    out->curve = &curve_ed25519;
    if (!der_take(key, DER_OCTETS, &seed) || der_left(&seed) != curve_ed25519.size) {
        return false;
    }
    out->part[EC_D] = view_of(&seed);
    return der_left(algorithm) == 0;
}

static bool read_key(const struct der *oid, struct der *algorithm, struct der *key, struct key_parts *out)
{
    if (der_equals(oid, oid_rsa, sizeof oid_rsa)) {
        return read_rsa(algorithm, key, out);
    }
    if (der_equals(oid, oid_ec, sizeof oid_ec)) {
        return read_ec(algorithm, key, out);
    }
    return der_equals(oid, oid_ed25519, sizeof oid_ed25519) && read_ed25519(algorithm, key, out);
}

/* SoftHSM2 2.6.1 fills up to a multiple of 8 with zeros itself before AES-KWP, and counts them as content. */
static bool only_padding(const struct der *rest)
{
    bool zeros = der_left(rest) < 8;
    for (const uint8_t *at = rest->at; at < rest->end && zeros; at++) {
        zeros = *at == 0;
    }
    return zeros;
}

bool parts_of_pkcs8(const uint8_t *data, size_t len, struct key_parts *out)
{
    struct der in = der(data, len), info, algorithm, oid, key, ignored;
    uint8_t version;
    *out = (struct key_parts){0};
    if (!der_take(&in, DER_SEQUENCE, &info) || !only_padding(&in) || !der_small(&info, &version) || version > 1 ||
        !der_take(&info, DER_SEQUENCE, &algorithm) || !der_take(&algorithm, DER_OID, &oid) ||
        !der_take(&info, DER_OCTETS, &key) || !read_key(&oid, &algorithm, &key, out) || der_left(&key) != 0) {
        return false;
    }
    if (der_is(&info, DER_CONTEXT_0) && !der_take(&info, DER_CONTEXT_0, &ignored)) {
        return false;
    }
    if (version == 1 && der_is(&info, DER_IMPLICIT_1) && !der_take(&info, DER_IMPLICIT_1, &ignored)) {
        return false;
    }
    return der_left(&info) == 0;
}

/* ---- writing PKCS#8 ---------------------------------------------------------------------------------------------- */

static void write_rsa(struct der_writer *out, const struct key_parts *parts)
{
    const uint8_t *end = out->at;
    for (int i = RSA_PARTS - 1; i >= 0; i--) {
        der_put_integer(out, parts->part[i].data, parts->part[i].len);
    }
    der_put_integer(out, NULL, 0);
    der_close(out, DER_SEQUENCE, end);
}

static void write_ec(struct der_writer *out, const struct key_parts *parts)
{
    static const uint8_t zeros[66], version = 1;
    const uint8_t *end = out->at;
    der_put(out, parts->part[EC_Q].data, parts->part[EC_Q].len);
    der_put(out, zeros, 1);
    der_close(out, DER_BIT_STRING, end);
    der_close(out, DER_CONTEXT_1, end);
    const uint8_t *scalar_end = out->at;
    der_put(out, parts->part[EC_D].data, parts->part[EC_D].len);
    der_put(out, zeros, parts->curve->size - parts->part[EC_D].len); /* RFC 5915 3: ceiling (log2(n)/8) octets */
    der_close(out, DER_OCTETS, scalar_end);
    der_put_integer(out, &version, 1);
    der_close(out, DER_SEQUENCE, end);
}

static void write_algorithm(struct der_writer *out, const struct key_parts *parts)
{
    const uint8_t *end = out->at;
    if (parts->key_type == CKK_EC_EDWARDS) {
        der_put(out, parts->curve->params, parts->curve->params_len);
    } else if (parts->key_type == CKK_EC) {
        der_put(out, parts->curve->params, parts->curve->params_len);
        const uint8_t *oid_end = out->at;
        der_put(out, oid_ec, sizeof oid_ec);
        der_close(out, DER_OID, oid_end);
    } else {
        der_close(out, DER_NULL, end);
        const uint8_t *oid_end = out->at;
        der_put(out, oid_rsa, sizeof oid_rsa);
        der_close(out, DER_OID, oid_end);
    }
    der_close(out, DER_SEQUENCE, end);
}

uint64_t parts_to_pkcs8(const struct key_parts *parts, struct secret *out)
{
    size_t room = 256;
    for (int i = 0; i < RSA_PARTS; i++) {
        room += parts->part[i].len + 8;
    }
    SECRET_SCOPED buffer = {NULL, 0};
    RV_REQUIRE(secret_alloc(&buffer, room), CKR_DEVICE_MEMORY);
    struct der_writer writer = der_writer(buffer.data, room);
    if (parts->key_type == CKK_RSA) {
        write_rsa(&writer, parts);
    } else if (parts->key_type == CKK_EC) {
        write_ec(&writer, parts);
    } else {
        der_put(&writer, parts->part[EC_D].data, parts->part[EC_D].len);
        der_close(&writer, DER_OCTETS, writer.end);
    }
    der_close(&writer, DER_OCTETS, writer.end);
    write_algorithm(&writer, parts);
    der_put_integer(&writer, NULL, 0);
    der_close(&writer, DER_SEQUENCE, writer.end);
    RV_REQUIRE(!writer.full, CKR_DEVICE_ERROR);
    RV_REQUIRE(secret_alloc(out, (size_t)(writer.end - writer.at)), CKR_DEVICE_MEMORY);
    memcpy(out->data, writer.at, out->len);
    return CKR_OK;
}

/* ---- OpenSSL's keys ------------------------------------------------------------------------------------------------ */

static const char *const rsa_names[RSA_PARTS] = {
    [RSA_N] = OSSL_PKEY_PARAM_RSA_N,          [RSA_E] = OSSL_PKEY_PARAM_RSA_E,
    [RSA_D] = OSSL_PKEY_PARAM_RSA_D,          [RSA_P] = OSSL_PKEY_PARAM_RSA_FACTOR1,
    [RSA_Q] = OSSL_PKEY_PARAM_RSA_FACTOR2,    [RSA_DP] = OSSL_PKEY_PARAM_RSA_EXPONENT1,
    [RSA_DQ] = OSSL_PKEY_PARAM_RSA_EXPONENT2, [RSA_QI] = OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
};

static EVP_PKEY *pkey_of_params(const char *type, int selection, OSSL_PARAM *params)
{
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_name(evp_context(), type, NULL);
    EVP_PKEY *pkey = NULL;
    if (context == NULL || EVP_PKEY_fromdata_init(context) <= 0 || EVP_PKEY_fromdata(context, &pkey, selection, params) <= 0) {
        return NULL;
    }
    return pkey;
}

/* An OSSL_PARAM integer is in native byte order: `room` gets the reversed bytes. */
static OSSL_PARAM integer_param(const char *name, struct wire_bytes value, uint8_t *room)
{
    for (size_t i = 0; i < value.len; i++) {
        room[i] = value.data[value.len - 1 - i];
    }
    return OSSL_PARAM_construct_BN(name, room, value.len);
}

static EVP_PKEY *rsa_to_pkey(const struct key_parts *parts)
{
    bool private = parts->part[RSA_D].len != 0;
    OSSL_PARAM params[RSA_PARTS + 1];
    size_t count = 0, used = 0, total = 0;
    for (int i = 0; i < RSA_PARTS; i++) {
        total += parts->part[i].len;
    }
    SECRET_SCOPED room = {NULL, 0};
    if (!secret_alloc(&room, total)) {
        return NULL;
    }
    for (int i = 0; i < RSA_PARTS; i++) {
        if (parts->part[i].len == 0) {
            continue;
        }
        params[count++] = integer_param(rsa_names[i], parts->part[i], room.data + used);
        used += parts->part[i].len;
    }
    params[count] = OSSL_PARAM_construct_end();
    return pkey_of_params("RSA", private ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params);
}

bool curve_multiply(const struct curve *curve, struct wire_bytes scalar, uint8_t *out, size_t *len)
{
    SCOPED(EC_GROUP) group = EC_GROUP_new_by_curve_name_ex(evp_context(), NULL, OBJ_sn2nid(curve->name));
    SCOPED(BN_CTX) context = BN_CTX_secure_new_ex(evp_context());
    SCOPED(BIGNUM) number = BN_secure_new();
    if (group == NULL || context == NULL || number == NULL || BN_bin2bn(scalar.data, (int)scalar.len, number) == NULL ||
        BN_is_zero(number) || BN_cmp(number, EC_GROUP_get0_order(group)) >= 0) {
        return false;
    }
    BN_set_flags(number, BN_FLG_CONSTTIME);
    SCOPED(EC_POINT) point = EC_POINT_new(group);
    if (point == NULL || EC_POINT_mul(group, point, number, NULL, NULL, context) != 1) {
        return false;
    }
    *len = EC_POINT_point2oct(group, point, POINT_CONVERSION_UNCOMPRESSED, out, *len, context);
    return *len != 0;
}

static EVP_PKEY *ec_to_pkey(const struct key_parts *parts)
{
    struct wire_bytes scalar = parts->part[EC_D], point = parts->part[EC_Q];
    uint8_t computed[133];
    size_t computed_len = sizeof computed;
    SECRET_SCOPED room = {NULL, 0};
    OSSL_PARAM params[4];
    size_t count = 0;
    if (point.len == 0) {
        if (!curve_multiply(parts->curve, scalar, computed, &computed_len)) {
            return NULL;
        }
        point = wire_bytes(computed, (uint32_t)computed_len);
    }
    params[count++] = param_text(OSSL_PKEY_PARAM_GROUP_NAME, parts->curve->name);
    params[count++] = param_octets(OSSL_PKEY_PARAM_PUB_KEY, point.data, point.len);
    if (scalar.len != 0) {
        if (!secret_alloc(&room, scalar.len)) {
            return NULL;
        }
        params[count++] = integer_param(OSSL_PKEY_PARAM_PRIV_KEY, scalar, room.data);
    }
    params[count] = OSSL_PARAM_construct_end();
    return pkey_of_params("EC", scalar.len != 0 ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params);
}

EVP_PKEY *parts_to_pkey(const struct key_parts *parts)
{
    if (parts->key_type == CKK_RSA) {
        return rsa_to_pkey(parts);
    }
    if (parts->key_type == CKK_EC) {
        return ec_to_pkey(parts);
    }
    const struct wire_bytes *seed = &parts->part[EC_D], *public = &parts->part[EC_Q];
    return seed->len != 0 ? EVP_PKEY_new_raw_private_key_ex(evp_context(), "ED25519", NULL, seed->data, seed->len)
                          : EVP_PKEY_new_raw_public_key_ex(evp_context(), "ED25519", NULL, public->data, public->len);
}

/* ---- the numbers of an OpenSSL key ----------------------------------------------------------------------------------- */

static bool number_of(EVP_PKEY *pkey, const char *name, int width, struct secret *room, size_t *used, struct wire_bytes *out)
{
    SCOPED(BIGNUM) number = BN_secure_new(); /* a number that is handed in keeps its secure flag */
    if (number == NULL || !EVP_PKEY_get_bn_param(pkey, name, &number)) {
        return false;
    }
    int len = width != 0 ? width : BN_num_bytes(number);
    if (len < 0 || room->len - *used < (size_t)len || BN_bn2binpad(number, room->data + *used, len) != len) {
        return false;
    }
    *out = wire_bytes(room->data + *used, (uint32_t)len);
    *used += (size_t)len;
    return true;
}

static bool rsa_of_pkey(EVP_PKEY *pkey, bool private, struct secret *room, struct key_parts *out)
{
    size_t used = 0;
    for (int i = 0; i < (private ? RSA_PARTS : RSA_D); i++) {
        if (!number_of(pkey, rsa_names[i], 0, room, &used, &out->part[i])) {
            return false;
        }
    }
    out->key_type = CKK_RSA;
    return true;
}

static bool ec_of_pkey(EVP_PKEY *pkey, bool private, struct secret *room, struct key_parts *out)
{
    char name[32];
    size_t used = 0, len = 0;
    if (!EVP_PKEY_get_utf8_string_param(pkey, OSSL_PKEY_PARAM_GROUP_NAME, name, sizeof name, NULL)) {
        return false;
    }
    out->key_type = CKK_EC;
    out->curve = curve_of_name(name);
    if (out->curve == NULL ||
        (private && !number_of(pkey, OSSL_PKEY_PARAM_PRIV_KEY, out->curve->size, room, &used, &out->part[EC_D]))) {
        return false;
    }
    SCOPED(BIGNUM) x = NULL;
    SCOPED(BIGNUM) y = NULL;
    uint8_t *point = room->data + used;
    len = 1 + 2 * (size_t)out->curve->size;
    if (room->len - used < len || !EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_EC_PUB_X, &x) ||
        !EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, &y)) {
        return false;
    }
    point[0] = 4; /* SEC 1 2.3.3: uncompressed, whatever form the key came in */
    out->part[EC_Q] = wire_bytes(point, (uint32_t)len);
    return BN_bn2binpad(x, point + 1, out->curve->size) >= 0 &&
           BN_bn2binpad(y, point + 1 + out->curve->size, out->curve->size) >= 0;
}

static bool ed25519_of_pkey(EVP_PKEY *pkey, bool private, struct secret *room, struct key_parts *out)
{
    size_t len = curve_ed25519.size;
    uint8_t *seed = room->data, *public = seed + len;
    out->key_type = CKK_EC_EDWARDS;
    out->curve = &curve_ed25519;
    if (private && EVP_PKEY_get_raw_private_key(pkey, seed, &len) <= 0) {
        return false;
    }
    out->part[EC_D] = private ? wire_bytes(seed, (uint32_t)len) : wire_bytes(NULL, 0);
    out->part[EC_Q] = wire_bytes(public, (uint32_t)len);
    return EVP_PKEY_get_raw_public_key(pkey, public, &len) > 0;
}

uint64_t parts_of_pkey(EVP_PKEY *pkey, bool private, struct secret *room, struct key_parts *out)
{
    enum { RSA_ROOM = 16384 / 8 * 6 };
    *out = (struct key_parts){0};
    RV_REQUIRE(secret_alloc(room, RSA_ROOM), CKR_DEVICE_MEMORY);
    bool ok = EVP_PKEY_is_a(pkey, "RSA")       ? rsa_of_pkey(pkey, private, room, out)
              : EVP_PKEY_is_a(pkey, "EC")      ? ec_of_pkey(pkey, private, room, out)
              : EVP_PKEY_is_a(pkey, "ED25519") ? ed25519_of_pkey(pkey, private, room, out)
                                               : false;
    return ok ? CKR_OK : CKR_KEY_TYPE_INCONSISTENT;
}

bool point_view(const struct curve *curve, struct wire_bytes in, struct wire_bytes *out)
{
    size_t whole = curve->name == NULL ? curve->size : 1 + 2 * (size_t)curve->size, compressed = 1 + (size_t)curve->size;
    *out = in;
    if (in.len == 0) {
        return false;
    }
    if (in.len == whole || (curve->name != NULL && in.len == compressed)) {
        return true;
    }
    struct der outer = der(in.data, in.len), inner;
    if (!der_take(&outer, DER_OCTETS, &inner) || der_left(&outer) != 0) {
        return false;
    }
    *out = view_of(&inner);
    return out->len == whole || (curve->name != NULL && out->len == compressed);
}
