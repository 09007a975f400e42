/* Ed25519 (RFC 8032 5.1). Pure signatures are OpenSSL's. OpenSSL 3.0 has no Ed25519ph and no Ed25519ctx (3.2 has), so these two are
 * put together here from its primitives: SHA-512, its constant-time ladder for secret scalars (EC_POINT_mul with the generator
 * alone) on the Weierstrass form of the curve, and its numbers.
 *
 * Edwards (x, y) <-> Montgomery (u, v) <-> Weierstrass (X, Y), RFC 7748 4.1:
 *   u = (1 + y) / (1 - y), v = c * u / x, X = u + A / 3, Y = v   with c^2 = -486664, A = 486662 */
#include <pthread.h>
#include <string.h>

#include "object.h"

enum { WIDTH = 32, SIGNATURE = 64, HASH = 64 };

/* ---- pure ---------------------------------------------------------------------------------------------------------- */

static uint64_t sign_pure(struct crypto_worker *worker, const struct key_object *key, const struct wire_bytes *data,
                          uint8_t out[SIGNATURE])
{
    size_t len = SIGNATURE;
    RV_REQUIRE(EVP_DigestSignInit_ex(worker->digest, NULL, NULL, evp_context(), NULL, key->pkey, NULL) > 0, CKR_DEVICE_ERROR);
    bool ok = EVP_DigestSign(worker->digest, out, &len, data->data, data->len) > 0 && len == SIGNATURE;
    EVP_MD_CTX_reset(worker->digest); /* it holds a reference to the key */
    return ok ? CKR_OK : CKR_DEVICE_ERROR;
}

static bool verify_pure(struct crypto_worker *worker, const struct key_object *key, const struct wire_bytes *data,
                        const uint8_t signature[SIGNATURE])
{
    bool valid = EVP_DigestVerifyInit_ex(worker->digest, NULL, NULL, evp_context(), NULL, key->pkey, NULL) > 0 &&
                 EVP_DigestVerify(worker->digest, signature, SIGNATURE, data->data, data->len) == 1;
    EVP_MD_CTX_reset(worker->digest);
    return valid;
}

/* ---- the curve, made once --------------------------------------------------------------------------------------------- */

static struct {
    pthread_once_t once;
    EC_GROUP *group;
    BIGNUM *p, *d, *c, *third, *order; /* third: A / 3 */
} curve = {.once = PTHREAD_ONCE_INIT};

static BIGNUM *number(const char *hex)
{
    BIGNUM *value = NULL;
    return BN_hex2bn(&value, hex) != 0 ? value : NULL;
}

static bool set_generator(BN_CTX *context)
{
    SCOPED(EC_POINT) base = EC_POINT_new(curve.group);
    SCOPED(BIGNUM) x = number("2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD245A");
    SCOPED(BIGNUM) y = number("20AE19A1B8A086B4E01EDD2C7748D14C923D4D7E6D7C61B229E9C5A27ECED3D9");
    SCOPED(BIGNUM) cofactor = number("8");
    return base != NULL && x != NULL && y != NULL && cofactor != NULL &&
           EC_POINT_set_affine_coordinates(curve.group, base, x, y, context) == 1 &&
           EC_GROUP_set_generator(curve.group, base, curve.order, cofactor) == 1;
}

static void make_curve(void)
{
    SCOPED(BN_CTX) context = BN_CTX_new_ex(evp_context());
    SCOPED(BIGNUM) a = number("2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA984914A144");
    SCOPED(BIGNUM) b = number("7B425ED097B425ED097B425ED097B425ED097B425ED097B4260B5E9C7710C864");
    curve.p = number("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFED");
    curve.d = number("52036CEE2B6FFE738CC740797779E89800700A4D4141D8AB75EB4DCA135978A3");
    curve.c = number("70D9120B9F5FF9442D84F723FC03B0813A5E2C2EB482E57D3391FB5500BA81E7");
    curve.third = number("2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD2451");
    curve.order = number("1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED");
    if (context == NULL || a == NULL || b == NULL || curve.p == NULL || curve.d == NULL || curve.c == NULL ||
        curve.third == NULL || curve.order == NULL) {
        return;
    }
    curve.group = EC_GROUP_new_curve_GFp(curve.p, a, b, context);
    if (curve.group != NULL && !set_generator(context)) {
        EC_GROUP_free(curve.group);
        curve.group = NULL;
    }
}

/* What one signature or verification works with. */
struct work {
    BN_CTX *context;
    EC_POINT *point;
    BIGNUM *r, *s, *k, *x, *y, *t, *w; /* r, s: secret */
};

static void work_free(struct work *work)
{
    BIGNUM *numbers[] = {work->r, work->s, work->k, work->x, work->y, work->t, work->w};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        BN_clear_free(numbers[i]);
    }
    EC_POINT_clear_free(work->point);
    BN_CTX_free(work->context);
}

static bool work_start(struct work *work)
{
    (void)pthread_once(&curve.once, make_curve);
    *work = (struct work){0};
    if (curve.group == NULL) {
        return false;
    }
    *work = (struct work){BN_CTX_secure_new_ex(evp_context()), EC_POINT_new(curve.group), BN_secure_new(), BN_secure_new(),
                          BN_new(), BN_new(), BN_new(), BN_new(), BN_new()};
    if (work->context == NULL || work->point == NULL || work->r == NULL || work->s == NULL || work->k == NULL ||
        work->x == NULL || work->y == NULL || work->t == NULL || work->w == NULL) {
        return false;
    }
    BN_set_flags(work->r, BN_FLG_CONSTTIME);
    BN_set_flags(work->s, BN_FLG_CONSTTIME);
    return true;
}

/* ---- points (RFC 8032 5.1.2, 5.1.3) ---------------------------------------------------------------------------------------- */

/* out = a / b mod p; false: b is zero. */
static bool divide(struct work *w, BIGNUM *out, const BIGNUM *a, const BIGNUM *b)
{
    return BN_mod_inverse(w->t, b, curve.p, w->context) != NULL && BN_mod_mul(out, a, w->t, curve.p, w->context);
}

/* work->point, which is public, as 32 bytes. */
static bool encode_point(struct work *w, uint8_t out[WIDTH])
{
    BIGNUM *u = w->w;
    if (EC_POINT_is_at_infinity(curve.group, w->point) ||
        !EC_POINT_get_affine_coordinates(curve.group, w->point, w->x, w->y, w->context) ||
        !BN_mod_sub(u, w->x, curve.third, curve.p, w->context) || !divide(w, w->x, u, w->y) ||
        !BN_mod_mul(w->x, w->x, curve.c, curve.p, w->context) || !BN_copy(w->y, u) || !BN_sub_word(w->y, 1) ||
        !BN_add_word(u, 1) || !BN_nnmod(w->y, w->y, curve.p, w->context) || !divide(w, w->y, w->y, u) ||
        BN_bn2lebinpad(w->y, out, WIDTH) != WIDTH) {
        return false;
    }
    out[WIDTH - 1] |= (uint8_t)(BN_is_odd(w->x) << 7);
    return true;
}

/* x from y: x^2 = (y^2 - 1) / (d y^2 + 1), with the sign asked for. */
static bool recover_x(struct work *w, bool odd)
{
    BIGNUM *square = w->w;
    if (!BN_mod_sqr(square, w->y, curve.p, w->context) || !BN_mod_mul(w->x, square, curve.d, curve.p, w->context) ||
        !BN_add_word(w->x, 1) || !BN_sub_word(square, 1) || !BN_nnmod(square, square, curve.p, w->context) ||
        !BN_nnmod(w->x, w->x, curve.p, w->context) || !divide(w, square, square, w->x) ||
        BN_mod_sqrt(w->x, square, curve.p, w->context) == NULL || BN_is_zero(w->x)) {
        return false; /* x = 0: the points of order 1 and 2 are nobody's public key */
    }
    return BN_is_odd(w->x) == odd || BN_sub(w->x, curve.p, w->x);
}

static bool decode_point(struct work *w, const uint8_t in[WIDTH])
{
    uint8_t y[WIDTH];
    memcpy(y, in, WIDTH);
    y[WIDTH - 1] &= 0x7F;
    if (BN_lebin2bn(y, WIDTH, w->y) == NULL || BN_cmp(w->y, curve.p) >= 0 || !recover_x(w, in[WIDTH - 1] >> 7)) {
        return false;
    }
    BIGNUM *u = w->w, *below = w->k;
    if (!BN_one(below) || !BN_mod_sub(below, below, w->y, curve.p, w->context) || !BN_add_word(w->y, 1) ||
        !divide(w, u, w->y, below) || !divide(w, w->y, u, w->x) || !BN_mod_mul(w->y, w->y, curve.c, curve.p, w->context) ||
        !BN_mod_add(w->x, u, curve.third, curve.p, w->context)) {
        return false;
    }
    return EC_POINT_set_affine_coordinates(curve.group, w->point, w->x, w->y, w->context) == 1;
}

/* ---- the scheme (RFC 8032 5.1.6, 5.1.7) ------------------------------------------------------------------------------------ */

struct variant {
    uint8_t ph;
    struct wire_bytes context;
};

static bool add_dom2(EVP_MD_CTX *digest, const struct variant *variant)
{
    static const char prefix[] = "SigEd25519 no Ed25519 collisions";
    const uint8_t flags[2] = {variant->ph, (uint8_t)variant->context.len};
    return EVP_DigestUpdate(digest, prefix, sizeof prefix - 1) > 0 && EVP_DigestUpdate(digest, flags, sizeof flags) > 0 &&
           EVP_DigestUpdate(digest, variant->context.data, variant->context.len) > 0;
}

/* SHA-512(dom2 | a | b | data) mod L. */
static bool hash_number(struct work *w, const struct variant *variant, const uint8_t a[WIDTH], const uint8_t *b,
                        const struct wire_bytes *data, BIGNUM *out)
{
    SCOPED(EVP_MD_CTX) digest = EVP_MD_CTX_new();
    SECRET_SCOPED hash = {NULL, 0};
    return digest != NULL && secret_alloc(&hash, HASH) && EVP_DigestInit_ex2(digest, hash_find(CKM_SHA512)->md, NULL) > 0 &&
           add_dom2(digest, variant) && EVP_DigestUpdate(digest, a, WIDTH) > 0 &&
           (b == NULL || EVP_DigestUpdate(digest, b, WIDTH) > 0) && EVP_DigestUpdate(digest, data->data, data->len) > 0 &&
           EVP_DigestFinal_ex(digest, hash.data, NULL) > 0 && BN_lebin2bn(hash.data, HASH, out) != NULL &&
           BN_nnmod(out, out, curve.order, w->context);
}

/* The scalar s into w->s, the prefix into expanded[32..63]. */
static bool expand_seed(struct work *w, const struct key_object *key, uint8_t expanded[HASH])
{
    SECRET_SCOPED seed = {NULL, 0};
    SCOPED(EVP_MD_CTX) digest = EVP_MD_CTX_new();
    size_t len = WIDTH;
    if (digest == NULL || !secret_alloc(&seed, WIDTH) || EVP_PKEY_get_raw_private_key(key->pkey, seed.data, &len) <= 0 ||
        EVP_DigestInit_ex2(digest, hash_find(CKM_SHA512)->md, NULL) <= 0 ||
        EVP_DigestUpdate(digest, seed.data, len) <= 0 || EVP_DigestFinal_ex(digest, expanded, NULL) <= 0) {
        return false;
    }
    expanded[0] &= 0xF8;
    expanded[31] = (uint8_t)((expanded[31] & 0x7F) | 0x40);
    return BN_lebin2bn(expanded, WIDTH, w->s) != NULL;
}

static bool sign_variant(struct work *w, const struct key_object *key, const struct variant *variant,
                         const struct wire_bytes *data, uint8_t out[SIGNATURE])
{
    SECRET_SCOPED expanded = {NULL, 0};
    uint8_t public[WIDTH];
    size_t len = WIDTH;
    if (!secret_alloc(&expanded, HASH) || !expand_seed(w, key, expanded.data) ||
        EVP_PKEY_get_raw_public_key(key->pkey, public, &len) <= 0 ||
        !hash_number(w, variant, expanded.data + WIDTH, NULL, data, w->r) ||
        EC_POINT_mul(curve.group, w->point, w->r, NULL, NULL, w->context) != 1 || !encode_point(w, out) ||
        !hash_number(w, variant, out, public, data, w->k)) {
        return false;
    }
    return BN_mod_mul(w->s, w->k, w->s, curve.order, w->context) && BN_mod_add(w->s, w->s, w->r, curve.order, w->context) &&
           BN_bn2lebinpad(w->s, out + WIDTH, WIDTH) == WIDTH;
}

/* "check the group equation": S B - k A encodes to R, as OpenSSL does for pure signatures. */
static bool verify_variant(struct work *w, const struct key_object *key, const struct variant *variant,
                           const struct wire_bytes *data, const uint8_t signature[SIGNATURE])
{
    uint8_t public[WIDTH], point[WIDTH];
    size_t len = WIDTH;
    SCOPED(EC_POINT) result = EC_POINT_new(curve.group);
    if (result == NULL || EVP_PKEY_get_raw_public_key(key->pkey, public, &len) <= 0 || !decode_point(w, public) ||
        BN_lebin2bn(signature + WIDTH, WIDTH, w->s) == NULL || BN_cmp(w->s, curve.order) >= 0 ||
        !hash_number(w, variant, signature, public, data, w->k) || !EC_POINT_invert(curve.group, w->point, w->context) ||
        EC_POINT_mul(curve.group, result, w->s, w->point, w->k, w->context) != 1 || !EC_POINT_copy(w->point, result)) {
        return false;
    }
    return encode_point(w, point) && memcmp(point, signature, WIDTH) == 0;
}

/* ---- requests ------------------------------------------------------------------------------------------------------------- */

bool eddsa_is_pure(const struct wire_mechanism *mechanism)
{
    return mechanism->kind != WIRE_KIND_EDDSA || (mechanism->as.eddsa.ph == 0 && mechanism->as.eddsa.context.len == 0);
}

/* What the variant signs: PH(M) is SHA-512 for Ed25519ph (RFC 8032 5.1). */
static uint64_t plan_variant(struct crypto_worker *worker, const struct wire_mechanism *mechanism, bool digested,
                             struct variant *variant, struct wire_bytes *data, uint8_t room[EVP_MAX_MD_SIZE])
{
    *variant = (struct variant){mechanism->as.eddsa.ph, mechanism->as.eddsa.context};
    RV_REQUIRE(variant->ph <= 1 && variant->context.len <= 255, CKR_MECHANISM_PARAM_INVALID);
    RV_REQUIRE(variant->ph == 1 || !digested, CKR_ARGUMENTS_BAD);
    struct wire_bytes message = *data;
    return variant->ph == 1 ? digest_of(worker, hash_find(CKM_SHA512), digested, &message, room, data) : CKR_OK;
}

uint64_t eddsa_sign(struct crypto_worker *worker, const struct key_object *key, const struct wire_sign_request *request,
                    struct wire_writer *out)
{
    RV_REQUIRE(key->object_class == CKO_PRIVATE_KEY, CKR_KEY_TYPE_INCONSISTENT);
    uint8_t *field = field_begin(out, SIGNATURE), digest[EVP_MAX_MD_SIZE];
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    if (eddsa_is_pure(&request->mechanism)) {
        RV_REQUIRE(request->digested == 0, CKR_ARGUMENTS_BAD);
        RV_TRY(sign_pure(worker, key, &request->data, field));
    } else {
        struct wire_bytes data = request->data;
        struct variant variant;
        RV_TRY(plan_variant(worker, &request->mechanism, request->digested != 0, &variant, &data, digest));
        __attribute__((cleanup(work_free))) struct work work;
        RV_REQUIRE(work_start(&work) && sign_variant(&work, key, &variant, &data, field), CKR_DEVICE_ERROR);
    }
    field_done(out, SIGNATURE);
    return CKR_OK;
}

uint64_t eddsa_verify(struct crypto_worker *worker, const struct key_object *key, const struct wire_verify_request *request)
{
    const uint8_t *signature = request->signature.data;
    uint8_t digest[EVP_MAX_MD_SIZE];
    RV_REQUIRE(key->object_class == CKO_PUBLIC_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_REQUIRE(request->signature.len == SIGNATURE, CKR_SIGNATURE_LEN_RANGE);
    if (eddsa_is_pure(&request->mechanism)) {
        RV_REQUIRE(request->digested == 0, CKR_ARGUMENTS_BAD);
        return verify_pure(worker, key, &request->data, signature) ? CKR_OK : CKR_SIGNATURE_INVALID;
    }
    struct wire_bytes data = request->data;
    struct variant variant;
    RV_TRY(plan_variant(worker, &request->mechanism, request->digested != 0, &variant, &data, digest));
    __attribute__((cleanup(work_free))) struct work work;
    RV_REQUIRE(work_start(&work), CKR_DEVICE_ERROR);
    return verify_variant(&work, key, &variant, &data, signature) ? CKR_OK : CKR_SIGNATURE_INVALID;
}
