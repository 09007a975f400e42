/* Signatures with RSA and ECDSA, their verification and recovery. The key's type chooses the algorithm: mechanism_check has
 * made sure that the mechanism takes such a key.
 * Every RSA result is checked with the public exponent, by OpenSSL (see rsa.c); ECDSA's nonces are OpenSSL's, from the
 * private generator mixed with key and message (BN_generate_dsa_nonce). */
#include <string.h>

#include "signing.h"

enum { DER_SIGNATURE_MAX = 160 };

uint64_t digest_of(struct crypto_worker *worker, const struct hash *hash, bool digested, const struct wire_bytes *data,
                   uint8_t room[EVP_MAX_MD_SIZE], struct wire_bytes *out)
{
    if (digested) {
        RV_REQUIRE(data->len == hash->size, CKR_DATA_LEN_RANGE);
        *out = *data;
        return CKR_OK;
    }
    unsigned len = 0;
    RV_REQUIRE(EVP_DigestInit_ex2(worker->digest, hash->md, NULL) > 0 &&
                   EVP_DigestUpdate(worker->digest, data->data, data->len) > 0 &&
                   EVP_DigestFinal_ex(worker->digest, room, &len) > 0,
               CKR_DEVICE_ERROR);
    *out = wire_bytes(room, len);
    return CKR_OK;
}

/* ---- contexts ---------------------------------------------------------------------------------------------------- */

/* RFC 8017 9.1.1: emLen >= hLen + sLen + 2, emBits = modBits - 1. */
static bool salt_fits(const struct key_object *key, const struct hash *hash, uint64_t salt)
{
    uint64_t encoded = (key->bits - 1 + 7) / 8;
    return salt <= encoded && encoded >= hash->size + salt + 2;
}

static bool set_pss(EVP_PKEY_CTX *context, const struct recipe *recipe)
{
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) > 0 &&
           EVP_PKEY_CTX_set_signature_md(context, hash_find(recipe->hash)->md) > 0 &&
           EVP_PKEY_CTX_set_rsa_mgf1_md(context, hash_of_mgf(recipe->mgf)->md) > 0 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(context, (int)recipe->salt) > 0;
}

static bool set_rsa(EVP_PKEY_CTX *context, const struct recipe *recipe)
{
    if (recipe->mgf != 0) {
        return set_pss(context, recipe);
    }
    int padding = recipe->mechanism == CKM_RSA_X_509 ? RSA_NO_PADDING : RSA_PKCS1_PADDING;
    return EVP_PKEY_CTX_set_rsa_padding(context, padding) > 0 &&
           (recipe->hash == 0 || EVP_PKEY_CTX_set_signature_md(context, hash_find(recipe->hash)->md) > 0);
}

static bool start_context(const struct key_object *key, struct prepared *prepared)
{
    static int (*const starters[])(EVP_PKEY_CTX *) = {
        [SIGN] = EVP_PKEY_sign_init, [VERIFY] = EVP_PKEY_verify_init, [RECOVER] = EVP_PKEY_verify_recover_init};
    prepared->pkey = EVP_PKEY_CTX_new_from_pkey(evp_context(), key->pkey, NULL);
    return prepared->pkey != NULL && starters[prepared->recipe.verify](prepared->pkey) > 0 &&
           (key->key_type != CKK_RSA || set_rsa(prepared->pkey, &prepared->recipe));
}

/* "EVP_PKEY_sign() can be called more than once on the same context" (EVP_PKEY_sign(3)); verify likewise. */
static struct prepared *context_for(const struct crypto_worker *worker, const struct key_object *key,
                                    const struct recipe *recipe)
{
    struct prepared *prepared = prepared_take(key, worker->index, recipe);
    if (prepared != NULL) {
        return prepared;
    }
    prepared = prepared_new(recipe);
    if (prepared != NULL && !start_context(key, prepared)) {
        prepared_free(prepared);
        return NULL;
    }
    return prepared;
}

/* ---- what is signed ------------------------------------------------------------------------------------------------- */

static uint64_t plan_pss(struct job *job, const struct hash **hash)
{
    const struct wire_params_pss *pss = &job->mechanism->as.pss;
    *hash = hash_find(pss->hash);
    RV_REQUIRE(job->mechanism->kind == WIRE_KIND_PSS && *hash != NULL && hash_of_mgf(pss->mgf) != NULL &&
                   (job->info->hash == 0 || job->info->hash == pss->hash) && salt_fits(job->key, *hash, pss->salt_length),
               CKR_MECHANISM_PARAM_INVALID);
    job->recipe.hash = pss->hash;
    job->recipe.mgf = pss->mgf;
    job->recipe.salt = pss->salt_length;
    return CKR_OK;
}

static uint64_t pad_raw(struct job *job)
{
    size_t size = job->key->size;
    RV_REQUIRE(job->data.len <= size && job->data.len != 0, CKR_DATA_LEN_RANGE);
    memset(job->worker->block, 0, size - job->data.len);
    memcpy(job->worker->block + size - job->data.len, job->data.data, job->data.len);
    job->input = wire_bytes(job->worker->block, (uint32_t)size);
    return CKR_OK;
}

/* RSA: everything but CKM_RSA_PKCS and CKM_RSA_X_509 signs a digest. */
static uint64_t plan_rsa(struct job *job)
{
    const struct hash *hash = hash_find(job->info->hash);
    job->recipe.hash = job->info->hash;
    if ((job->info->kinds >> WIRE_KIND_PSS & 1) != 0) {
        RV_TRY(plan_pss(job, &hash));
    }
    if (hash != NULL) { /* CKM_RSA_PKCS_PSS gets a digest, the hashed ones data or a digest */
        bool digested = job->digested || job->info->hash == 0;
        return digest_of(job->worker, hash, digested, &job->data, job->digest, &job->input);
    }
    RV_REQUIRE(!job->digested, CKR_ARGUMENTS_BAD);
    if (job->mechanism->type == CKM_RSA_X_509) {
        return pad_raw(job);
    }
    RV_REQUIRE(job->data.len + 11 <= job->key->size, CKR_DATA_LEN_RANGE); /* RFC 8017 9.2 */
    job->input = job->data;
    return CKR_OK;
}

static uint64_t plan_ecdsa(struct job *job)
{
    const struct hash *hash = hash_find(job->info->hash);
    if (hash != NULL) {
        return digest_of(job->worker, hash, job->digested, &job->data, job->digest, &job->input);
    }
    RV_REQUIRE(!job->digested, CKR_ARGUMENTS_BAD);
    RV_REQUIRE(job->data.len != 0, CKR_DATA_LEN_RANGE);
    job->input = job->data; /* OpenSSL takes the leftmost bits of what is longer than the order (FIPS 186-4 6.4) */
    return CKR_OK;
}

uint64_t sign_plan(struct job *job)
{
    job->recipe = (struct recipe){.mechanism = job->mechanism->type, .verify = job->purpose};
    return job->key->key_type == CKK_RSA ? plan_rsa(job) : plan_ecdsa(job);
}

/* ---- ECDSA signatures: DER in OpenSSL, r and s of the order's width in PKCS #11 (2.3.1) -------------------------------- */

static bool raw_of_der(const uint8_t *in, size_t len, uint8_t *out, size_t width)
{
    struct der whole = der(in, len), body, number;
    if (!der_take(&whole, DER_SEQUENCE, &body)) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        if (!der_integer(&body, &number) || der_left(&number) > width) {
            return false;
        }
        size_t zeros = width - der_left(&number);
        memset(out, 0, zeros);
        memcpy(out + zeros, number.at, der_left(&number));
        out += width;
    }
    return true;
}

static struct wire_bytes der_of_raw(const struct wire_bytes *raw, uint8_t room[DER_SIGNATURE_MAX])
{
    struct der_writer writer = der_writer(room, DER_SIGNATURE_MAX);
    size_t half = raw->len / 2;
    der_put_integer(&writer, raw->data + half, half);
    der_put_integer(&writer, raw->data, half);
    der_close(&writer, DER_SEQUENCE, writer.end);
    return wire_bytes(writer.at, (uint32_t)(writer.end - writer.at));
}

static uint64_t sign_ecdsa(EVP_PKEY_CTX *context, const struct job *job, struct wire_writer *out)
{
    uint8_t encoded[DER_SIGNATURE_MAX];
    size_t len = sizeof encoded, width = job->key->size;
    uint8_t *field = field_begin(out, 2 * width);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    RV_REQUIRE(EVP_PKEY_sign(context, encoded, &len, job->input.data, job->input.len) > 0 &&
                   raw_of_der(encoded, len, field, width),
               CKR_DEVICE_ERROR);
    field_done(out, 2 * width);
    return CKR_OK;
}

static uint64_t sign_rsa(EVP_PKEY_CTX *context, const struct job *job, struct wire_writer *out)
{
    size_t len = job->key->size;
    uint8_t *field = field_begin(out, len);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    /* With the lengths checked, only a raw block that is not below the modulus is refused. */
    RV_REQUIRE(EVP_PKEY_sign(context, field, &len, job->input.data, job->input.len) > 0,
               job->mechanism->type == CKM_RSA_X_509 ? CKR_DATA_INVALID : CKR_DEVICE_ERROR);
    field_done(out, len);
    return CKR_OK;
}

static uint64_t sign_asymmetric(struct job *job, struct wire_writer *out)
{
    RV_REQUIRE(job->key->object_class == CKO_PRIVATE_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_TRY(sign_plan(job));
    struct prepared *prepared = context_for(job->worker, job->key, &job->recipe);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    uint64_t rv = job->key->key_type == CKK_RSA ? sign_rsa(prepared->pkey, job, out) : sign_ecdsa(prepared->pkey, job, out);
    if (rv == CKR_OK) {
        prepared_give(job->key, job->worker->index, prepared);
    } else {
        prepared_free(prepared); /* a context that has failed starts anew */
    }
    return rv;
}

static uint64_t sign_mac(struct crypto_worker *worker, const struct key_object *key, const struct wire_mechanism *mechanism,
                         const struct wire_bytes *data, struct wire_writer *out)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    size_t len;
    RV_TRY(mac_compute(key, worker->index, mechanism, data->data, data->len, mac, &len));
    struct wire_bytes view = wire_bytes(mac, (uint32_t)len);
    return wire_put_bytes(out, &view) == WIRE_OK ? CKR_OK : CKR_DEVICE_MEMORY;
}

uint64_t op_sign(struct crypto_worker *worker, const struct key_object *key, const struct wire_sign_request *request,
                 struct wire_writer *out)
{
    ERRORS_SCOPED;
    struct job job = {.worker = worker, .key = key, .mechanism = &request->mechanism, .purpose = SIGN,
                      .digested = request->digested != 0, .data = request->data};
    RV_TRY(mechanism_check(key, job.mechanism, CKF_SIGN, &job.info));
    if (key->object_class == CKO_SECRET_KEY) {
        RV_REQUIRE(!job.digested, CKR_ARGUMENTS_BAD);
        return sign_mac(worker, key, job.mechanism, &job.data, out);
    }
    return key->key_type == CKK_EC_EDWARDS ? eddsa_sign(worker, key, request, out) : sign_asymmetric(&job, out);
}

/* ---- verification ------------------------------------------------------------------------------------------------------ */

static uint64_t verify_asymmetric(struct job *job, const struct wire_bytes *signature)
{
    uint8_t encoded[DER_SIGNATURE_MAX];
    struct wire_bytes view = *signature;
    RV_REQUIRE(job->key->object_class == CKO_PUBLIC_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_TRY(sign_plan(job));
    if (job->key->key_type == CKK_RSA) {
        RV_REQUIRE(signature->len == job->key->size, CKR_SIGNATURE_LEN_RANGE);
    } else { /* 2.3.1: "may have a shorter length but MUST be composed as specified" */
        RV_REQUIRE(signature->len >= 2 && signature->len % 2 == 0 && signature->len <= 2 * job->key->size,
                   CKR_SIGNATURE_LEN_RANGE);
        view = der_of_raw(signature, encoded);
    }
    struct prepared *prepared = context_for(job->worker, job->key, &job->recipe);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    bool valid = EVP_PKEY_verify(prepared->pkey, view.data, view.len, job->input.data, job->input.len) == 1;
    prepared_give(job->key, job->worker->index, prepared);
    return valid ? CKR_OK : CKR_SIGNATURE_INVALID;
}

static uint64_t verify_mac(struct crypto_worker *worker, const struct key_object *key, const struct wire_mechanism *mechanism,
                           const struct wire_bytes *data, const struct wire_bytes *signature)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    size_t len;
    RV_TRY(mac_compute(key, worker->index, mechanism, data->data, data->len, mac, &len));
    RV_REQUIRE(signature->len == len, CKR_SIGNATURE_LEN_RANGE);
    return memory_equal(mac, signature->data, len) ? CKR_OK : CKR_SIGNATURE_INVALID;
}

uint64_t op_verify(struct crypto_worker *worker, const struct key_object *key, const struct wire_verify_request *request,
                   struct wire_writer *out)
{
    ERRORS_SCOPED;
    (void)out; /* an empty response */
    struct job job = {.worker = worker, .key = key, .mechanism = &request->mechanism, .purpose = VERIFY,
                      .digested = request->digested != 0, .data = request->data};
    RV_TRY(mechanism_check(key, job.mechanism, CKF_VERIFY, &job.info));
    if (key->object_class == CKO_SECRET_KEY) {
        RV_REQUIRE(!job.digested, CKR_ARGUMENTS_BAD);
        return verify_mac(worker, key, job.mechanism, &job.data, &request->signature);
    }
    return key->key_type == CKK_EC_EDWARDS ? eddsa_verify(worker, key, request)
                                           : verify_asymmetric(&job, &request->signature);
}

/* ---- recovery: CKM_RSA_PKCS and CKM_RSA_X_509 ---------------------------------------------------------------------------- */

uint64_t op_sign_recover(struct crypto_worker *worker, const struct key_object *key,
                         const struct wire_sign_recover_request *request, struct wire_writer *out)
{
    ERRORS_SCOPED;
    struct job job = {.worker = worker, .key = key, .mechanism = &request->mechanism, .purpose = SIGN,
                      .data = request->data};
    RV_TRY(mechanism_check(key, job.mechanism, CKF_SIGN_RECOVER, &job.info));
    return sign_asymmetric(&job, out);
}

uint64_t op_verify_recover(struct crypto_worker *worker, const struct key_object *key,
                           const struct wire_verify_recover_request *request, struct wire_writer *out)
{
    ERRORS_SCOPED;
    const struct mechanism_info *info;
    const struct recipe recipe = {.mechanism = request->mechanism.type, .verify = RECOVER};
    RV_TRY(mechanism_check(key, &request->mechanism, CKF_VERIFY_RECOVER, &info));
    RV_REQUIRE(key->object_class == CKO_PUBLIC_KEY, CKR_KEY_TYPE_INCONSISTENT);
    RV_REQUIRE(request->signature.len == key->size, CKR_SIGNATURE_LEN_RANGE);
    size_t len = key->size;
    uint8_t *field = field_begin(out, len);
    RV_REQUIRE(field != NULL, CKR_DEVICE_MEMORY);
    struct prepared *prepared = context_for(worker, key, &recipe);
    RV_REQUIRE(prepared != NULL, CKR_DEVICE_ERROR);
    bool valid = EVP_PKEY_verify_recover(prepared->pkey, field, &len, request->signature.data, request->signature.len) > 0;
    prepared_give(key, worker->index, prepared);
    RV_REQUIRE(valid, CKR_SIGNATURE_INVALID);
    field_done(out, len);
    return CKR_OK;
}
