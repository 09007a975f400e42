/* Keys from outside: attribute templates and unwrapped PKCS#8. Nothing is masked before its parts are known to belong
 * together; RSA keys that come without primes or CRT numbers get them here, as the signing path needs all. */
#include <openssl/x509.h>
#include <string.h>

#include "object.h"

enum { PRIVATE_RSA_MIN = 2048, PRIVATE_RSA_MAX = 4096, PUBLIC_RSA_MIN = 1024, PUBLIC_RSA_MAX = 8192 };

/* ---- RSA numbers --------------------------------------------------------------------------------------------------- */

struct rsa_numbers {
    BIGNUM *part[RSA_PARTS];
    BN_CTX *context;
};

static void rsa_numbers_free(struct rsa_numbers *numbers)
{
    for (int i = 0; i < RSA_PARTS; i++) {
        BN_clear_free(numbers->part[i]);
    }
    BN_CTX_free(numbers->context);
}

static bool rsa_numbers_load(struct rsa_numbers *numbers, const struct key_parts *parts)
{
    bool ok = (numbers->context = BN_CTX_secure_new_ex(evp_context())) != NULL;
    for (int i = 0; i < RSA_PARTS; i++) {
        numbers->part[i] = BN_secure_new();
        ok = ok && numbers->part[i] != NULL &&
             BN_bin2bn(parts->part[i].data, (int)parts->part[i].len, numbers->part[i]) != NULL;
        if (ok && i >= RSA_D) {
            BN_set_flags(numbers->part[i], BN_FLG_CONSTTIME);
        }
    }
    return ok;
}

/* One round of SP 800-56B r2 C.1: from a random base to a factor of n with probability one half. */
static bool try_factor(struct rsa_numbers *numbers, const BIGNUM *odd, int twos, BIGNUM *x, BIGNUM *y)
{
    const BIGNUM *n = numbers->part[RSA_N];
    SCOPED(BIGNUM) minus_one = BN_dup(n);
    if (minus_one == NULL || !BN_sub_word(minus_one, 1) || !BN_priv_rand_range_ex(y, n, 0, numbers->context) ||
        !BN_mod_exp_mont_consttime(x, y, odd, n, numbers->context, NULL)) {
        return false;
    }
    for (int i = 0; i < twos && !BN_is_one(x) && BN_cmp(x, minus_one) != 0; i++) {
        if (!BN_mod_sqr(y, x, n, numbers->context)) {
            return false;
        }
        if (BN_is_one(y)) { /* x is a root of 1 that is neither 1 nor -1 */
            return BN_sub_word(x, 1) && BN_gcd(numbers->part[RSA_P], x, n, numbers->context);
        }
        BN_swap(x, y);
    }
    return false;
}

static bool factor(struct rsa_numbers *numbers)
{
    enum { ROUNDS = 100 };
    SCOPED(BIGNUM) odd = BN_secure_new();
    SCOPED(BIGNUM) x = BN_secure_new();
    SCOPED(BIGNUM) y = BN_secure_new();
    if (odd == NULL || x == NULL || y == NULL || !BN_mul(odd, numbers->part[RSA_D], numbers->part[RSA_E], numbers->context) ||
        !BN_sub_word(odd, 1) || BN_is_zero(odd) || BN_is_odd(odd)) {
        return false;
    }
    int twos = 0;
    while (!BN_is_bit_set(odd, twos)) {
        twos++;
    }
    if (!BN_rshift(odd, odd, twos)) {
        return false;
    }
    for (int i = 0; i < ROUNDS; i++) {
        if (try_factor(numbers, odd, twos, x, y)) {
            return true;
        }
    }
    return false;
}

static bool complete_primes(struct rsa_numbers *numbers)
{
    BIGNUM **part = numbers->part;
    SCOPED(BIGNUM) rest = BN_secure_new();
    if (rest == NULL) {
        return false;
    }
    if (BN_is_zero(part[RSA_P]) && !BN_is_zero(part[RSA_Q])) {
        BN_swap(part[RSA_P], part[RSA_Q]);
        BN_swap(part[RSA_DP], part[RSA_DQ]);
        BN_zero(part[RSA_QI]);
    }
    if (BN_is_zero(part[RSA_P]) && (BN_is_zero(part[RSA_E]) || !factor(numbers))) {
        return false;
    }
    return !BN_is_zero(part[RSA_Q]) ||
           (BN_div(part[RSA_Q], rest, part[RSA_N], part[RSA_P], numbers->context) && BN_is_zero(rest));
}

/* Without CKA_PUBLIC_EXPONENT: the inverse of d, or 65537 where there are no primes to find it with. */
static bool complete_exponent(struct rsa_numbers *numbers)
{
    BIGNUM **part = numbers->part;
    SCOPED(BIGNUM) order = BN_secure_new();
    SCOPED(BIGNUM) below = BN_secure_new();
    if (!BN_is_zero(part[RSA_E])) {
        return true;
    }
    if (BN_is_zero(part[RSA_P]) || BN_is_zero(part[RSA_Q])) {
        return BN_set_word(part[RSA_E], RSA_F4);
    }
    if (order == NULL || below == NULL || !BN_copy(order, part[RSA_P]) || !BN_sub_word(order, 1) ||
        !BN_copy(below, part[RSA_Q]) || !BN_sub_word(below, 1)) {
        return false;
    }
    SCOPED(BIGNUM) common = BN_secure_new(); /* lcm(p-1, q-1): d may have been reduced by either */
    return common != NULL && BN_gcd(common, order, below, numbers->context) &&
           BN_mul(order, order, below, numbers->context) && BN_div(order, NULL, order, common, numbers->context) &&
           BN_mod_inverse(part[RSA_E], part[RSA_D], order, numbers->context) != NULL;
}

static bool complete_crt(struct rsa_numbers *numbers)
{
    BIGNUM **part = numbers->part;
    SCOPED(BIGNUM) below = BN_secure_new();
    if (below == NULL) {
        return false;
    }
    for (int i = 0; i < 2; i++) { /* dp = d mod (p - 1) */
        if (BN_is_zero(part[RSA_DP + i]) && (!BN_copy(below, part[RSA_P + i]) || !BN_sub_word(below, 1) ||
                                             !BN_mod(part[RSA_DP + i], part[RSA_D], below, numbers->context))) {
            return false;
        }
    }
    return !BN_is_zero(part[RSA_QI]) ||
           BN_mod_inverse(part[RSA_QI], part[RSA_Q], part[RSA_P], numbers->context) != NULL;
}

/* All eight numbers from those that are there, into `room`. */
static bool rsa_complete(struct key_parts *parts, struct secret *room)
{
    __attribute__((cleanup(rsa_numbers_free))) struct rsa_numbers numbers = {{NULL}, NULL};
    if (!rsa_numbers_load(&numbers, parts) || BN_is_zero(numbers.part[RSA_N]) || BN_is_zero(numbers.part[RSA_D]) ||
        BN_num_bits(numbers.part[RSA_N]) > PUBLIC_RSA_MAX || !complete_exponent(&numbers) || !complete_primes(&numbers) ||
        !complete_crt(&numbers)) {
        return false;
    }
    size_t total = 0, used = 0;
    for (int i = 0; i < RSA_PARTS; i++) {
        total += (size_t)BN_num_bytes(numbers.part[i]);
    }
    if (!secret_alloc(room, total)) {
        return false;
    }
    for (int i = 0; i < RSA_PARTS; i++) {
        int len = BN_bn2bin(numbers.part[i], room->data + used);
        parts->part[i] = wire_bytes(room->data + used, (uint32_t)len);
        used += (size_t)len;
    }
    return true;
}

/* ---- do the parts belong together? ------------------------------------------------------------------------------------ */

static bool rsa_size_between(const EVP_PKEY *pkey, int min, int max)
{
    int bits = EVP_PKEY_get_bits(pkey);
    return bits >= min && bits <= max;
}

/* OpenSSL: RSA_check_key's tests (primes, n = p q, e d = 1, the CRT numbers); for EC range, curve and d G = Q. */
static bool pair_valid(EVP_PKEY *pkey)
{
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey(evp_context(), pkey, NULL);
    return context != NULL && EVP_PKEY_check(context) > 0;
}

/* RSA_check_key takes absent CRT numbers for right ones, and tests a "prime" of any length: ours are there, and not longer than
 * the largest modulus. */
static bool rsa_whole(const struct key_parts *parts)
{
    for (int i = 0; i < RSA_PARTS; i++) {
        if (parts->part[i].len == 0 || parts->part[i].len > PRIVATE_RSA_MAX / 8) {
            return false;
        }
    }
    return true;
}

static bool ed25519_public_matches(EVP_PKEY *pkey, const struct wire_bytes *public)
{
    uint8_t computed[32];
    size_t len = sizeof computed;
    return public->len == 0 || (EVP_PKEY_get_raw_public_key(pkey, computed, &len) > 0 && len == public->len &&
                                memcmp(computed, public->data, len) == 0);
}

bool private_parts_valid(const struct key_parts *parts)
{
    if (parts->key_type == CKK_RSA && !rsa_whole(parts)) {
        return false;
    }
    SCOPED(EVP_PKEY) pkey = parts_to_pkey(parts);
    if (pkey == NULL) {
        return false;
    }
    if (parts->key_type == CKK_RSA) {
        return rsa_size_between(pkey, PRIVATE_RSA_MIN, PRIVATE_RSA_MAX) && pair_valid(pkey);
    }
    return parts->key_type == CKK_EC ? pair_valid(pkey) : ed25519_public_matches(pkey, &parts->part[EC_Q]);
}

uint64_t private_mask(struct masking *masking, const struct key_parts *parts, uint8_t *out, size_t *len)
{
    struct key_parts whole = *parts;
    uint8_t point[133];
    size_t point_len = sizeof point;
    if (whole.key_type == CKK_EC) { /* canonical: always with an uncompressed public point */
        RV_REQUIRE(curve_multiply(whole.curve, whole.part[EC_D], point, &point_len), CKR_DEVICE_ERROR);
        whole.part[EC_Q] = wire_bytes(point, (uint32_t)point_len);
    }
    SECRET_SCOPED encoded = {NULL, 0};
    RV_TRY(parts_to_pkcs8(&whole, &encoded));
    return mask(masking, encoded.data, encoded.len, out, len);
}

/* ---- templates ------------------------------------------------------------------------------------------------------------ */

static struct wire_bytes attribute_of(const struct wire_template *attributes, uint64_t type)
{
    struct wire_reader reader = wire_reader(attributes->data, attributes->len);
    struct wire_attribute attribute;
    while (wire_template_next(&reader, &attribute)) {
        if (attribute.type == type && attribute.available) {
            return wire_bytes(attribute.value, attribute.len);
        }
    }
    return wire_bytes(NULL, 0);
}

static struct wire_bytes number_attribute(const struct wire_template *attributes, uint64_t type)
{
    struct wire_bytes value = attribute_of(attributes, type);
    while (value.len > 0 && *value.data == 0) {
        value.data++;
        value.len--;
    }
    return value.len != 0 ? value : wire_bytes(NULL, 0);
}

/* No number of an RSA key is longer than its largest modulus: arithmetic on longer ones takes time without bound. */
static uint64_t read_rsa_numbers(const struct wire_template *attributes, uint32_t modulus_max, struct key_parts *parts)
{
    static const uint64_t types[RSA_PARTS] = {
        [RSA_N] = CKA_MODULUS,      [RSA_E] = CKA_PUBLIC_EXPONENT, [RSA_D] = CKA_PRIVATE_EXPONENT, [RSA_P] = CKA_PRIME_1,
        [RSA_Q] = CKA_PRIME_2,      [RSA_DP] = CKA_EXPONENT_1,     [RSA_DQ] = CKA_EXPONENT_2,      [RSA_QI] = CKA_COEFFICIENT,
    };
    parts->key_type = CKK_RSA;
    for (int i = 0; i < RSA_PARTS; i++) {
        parts->part[i] = number_attribute(attributes, types[i]);
        RV_REQUIRE(parts->part[i].len <= modulus_max / 8, CKR_ATTRIBUTE_VALUE_INVALID);
    }
    return CKR_OK;
}

static uint64_t read_curve(const struct wire_template *attributes, uint64_t key_type, struct key_parts *parts)
{
    struct wire_bytes params = attribute_of(attributes, CKA_EC_PARAMS);
    RV_REQUIRE(params.len != 0, CKR_TEMPLATE_INCOMPLETE);
    parts->key_type = key_type;
    parts->curve = curve_of_params(params.data, params.len);
    RV_REQUIRE(parts->curve != NULL && (parts->curve->name == NULL) == (key_type == CKK_EC_EDWARDS), CKR_CURVE_NOT_SUPPORTED);
    return CKR_OK;
}

static uint64_t import_rsa(struct masking *masking, const struct wire_template *attributes, uint8_t *out, size_t *len)
{
    struct key_parts parts = {0};
    SECRET_SCOPED room = {NULL, 0};
    RV_TRY(read_rsa_numbers(attributes, PRIVATE_RSA_MAX, &parts));
    RV_REQUIRE(parts.part[RSA_N].len != 0 && parts.part[RSA_D].len != 0, CKR_TEMPLATE_INCOMPLETE);
    RV_REQUIRE(rsa_complete(&parts, &room) && private_parts_valid(&parts), CKR_ATTRIBUTE_VALUE_INVALID);
    return private_mask(masking, &parts, out, len);
}

static uint64_t import_curve(struct masking *masking, const struct wire_template *attributes, uint64_t key_type, uint8_t *out,
                             size_t *len)
{
    struct key_parts parts = {0};
    RV_TRY(read_curve(attributes, key_type, &parts));
    struct wire_bytes point = attribute_of(attributes, CKA_EC_POINT);
    parts.part[EC_D] = key_type == CKK_EC ? number_attribute(attributes, CKA_VALUE) : attribute_of(attributes, CKA_VALUE);
    RV_REQUIRE(parts.part[EC_D].len != 0, CKR_TEMPLATE_INCOMPLETE);
    RV_REQUIRE(key_type == CKK_EC ? parts.part[EC_D].len <= parts.curve->size : parts.part[EC_D].len == parts.curve->size,
               CKR_ATTRIBUTE_VALUE_INVALID);
    RV_REQUIRE(point.len == 0 || point_view(parts.curve, point, &parts.part[EC_Q]), CKR_ATTRIBUTE_VALUE_INVALID);
    RV_REQUIRE(private_parts_valid(&parts), CKR_ATTRIBUTE_VALUE_INVALID);
    return private_mask(masking, &parts, out, len);
}

static uint64_t import_secret(struct masking *masking, const struct wire_template *attributes, uint64_t key_type, uint8_t *out,
                              size_t *len)
{
    struct wire_bytes value = attribute_of(attributes, CKA_VALUE);
    RV_REQUIRE(value.len != 0, CKR_TEMPLATE_INCOMPLETE);
    RV_REQUIRE(secret_length_valid(key_type, value.len), CKR_ATTRIBUTE_VALUE_INVALID);
    return mask(masking, value.data, value.len, out, len);
}

static bool public_valid(EVP_PKEY *pkey)
{
    SCOPED(EVP_PKEY_CTX) context = EVP_PKEY_CTX_new_from_pkey(evp_context(), pkey, NULL);
    if (EVP_PKEY_is_a(pkey, "RSA") && !rsa_size_between(pkey, PUBLIC_RSA_MIN, PUBLIC_RSA_MAX)) {
        return false;
    }
    return context != NULL && EVP_PKEY_public_check(context) > 0;
}

static uint64_t import_public(const struct wire_template *attributes, uint64_t key_type, uint8_t *out, size_t *len)
{
    struct key_parts parts = {0};
    if (key_type == CKK_RSA) {
        RV_TRY(read_rsa_numbers(attributes, PUBLIC_RSA_MAX, &parts));
        memset(&parts.part[RSA_D], 0, sizeof parts.part - RSA_D * sizeof *parts.part);
        RV_REQUIRE(parts.part[RSA_N].len != 0 && parts.part[RSA_E].len != 0, CKR_TEMPLATE_INCOMPLETE);
    } else {
        RV_TRY(read_curve(attributes, key_type, &parts));
        struct wire_bytes point = attribute_of(attributes, CKA_EC_POINT);
        RV_REQUIRE(point.len != 0, CKR_TEMPLATE_INCOMPLETE);
        RV_REQUIRE(point_view(parts.curve, point, &parts.part[EC_Q]), CKR_ATTRIBUTE_VALUE_INVALID);
    }
    SCOPED(EVP_PKEY) pkey = parts_to_pkey(&parts);
    RV_REQUIRE(pkey != NULL && public_valid(pkey), CKR_ATTRIBUTE_VALUE_INVALID);
    uint8_t *encoded = NULL;
    int encoded_len = i2d_PUBKEY(pkey, &encoded);
    RV_REQUIRE(encoded_len > 0, CKR_DEVICE_ERROR);
    uint64_t rv = put_output(encoded, (size_t)encoded_len, out, len);
    OPENSSL_free(encoded);
    return rv;
}

uint64_t material_import(struct masking *masking, const struct wire_template *attributes, uint64_t object_class,
                         uint64_t key_type, uint8_t *out, size_t *len)
{
    ERRORS_SCOPED;
    if (object_class == CKO_SECRET_KEY) {
        RV_REQUIRE(secret_type_known(key_type), CKR_ATTRIBUTE_VALUE_INVALID);
        return import_secret(masking, attributes, key_type, out, len);
    }
    RV_REQUIRE(key_type == CKK_RSA || key_type == CKK_EC || key_type == CKK_EC_EDWARDS, CKR_ATTRIBUTE_VALUE_INVALID);
    if (object_class == CKO_PUBLIC_KEY) {
        return import_public(attributes, key_type, out, len);
    }
    RV_REQUIRE(object_class == CKO_PRIVATE_KEY, CKR_ATTRIBUTE_VALUE_INVALID);
    return key_type == CKK_RSA ? import_rsa(masking, attributes, out, len)
                               : import_curve(masking, attributes, key_type, out, len);
}
