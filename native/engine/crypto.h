/* All cryptography of the engine, over OpenSSL 3 (EVP, a library context of our own without a configuration file).
 * Who may use a key for what is the caller's check; here are types, mechanisms, parameters and lengths.
 *
 * Functions return a CK_RV (0 = CKR_OK) and are safe from any thread unless said otherwise. What engine.h says about the
 * he_ function of the same name holds here too. `uint8_t *out, size_t *len`: *len is room and then length;
 * CKR_BUFFER_TOO_SMALL sets it. */
#ifndef HSMSIM_CRYPTO_H
#define HSMSIM_CRYPTO_H

#include "engine.h"
#include "memory.h"
#include "messages.h"

/* ---- masking.c: device seed and masking key, in locked memory ---------------------------------------------------- */

struct masking;
/* Also calls memory_init. NULL: no memory or OpenSSL does not start. */
struct masking *masking_new(void);
void masking_free(struct masking *masking);

uint64_t device_load(struct masking *masking, const char *path);
uint64_t device_create(const char *path);
uint64_t device_public(struct masking *masking, uint8_t out[32]);
/* CKR_FUNCTION_REJECTED: there is a masking key already. */
uint64_t masking_create(struct masking *masking);
uint64_t masking_seal(struct masking *masking, const uint8_t peer[32], const uint8_t *context, size_t context_len,
                      uint8_t out[92]);
uint64_t masking_open(struct masking *masking, const uint8_t sealed[92], const uint8_t *context, size_t context_len);
uint64_t masking_mac(struct masking *masking, const char *purpose, const uint8_t *data, size_t len, uint8_t out[32]);

/* Opens what was sealed to this device and seals it to another; the key is not kept. */
uint64_t masking_reseal(struct masking *masking, const uint8_t sealed[92], const uint8_t *context, size_t context_len,
                        const uint8_t peer[32], const uint8_t *new_context, size_t new_context_len, uint8_t out[92]);

/* ---- identity.c: what the HSM signs as itself -------------------------------------------------------------------------- */

uint64_t device_signer(struct masking *masking, uint8_t *out, size_t *len);
uint64_t device_sign(struct masking *masking, const uint8_t digest[32], uint8_t *out, size_t *len);
uint64_t material_sign(struct masking *masking, const he_material *material, uint64_t mechanism, const uint8_t *data,
                       size_t data_len, uint8_t *out, size_t *len);

/* For identity.c alone: HKDF-SHA256(seed, label, counter); `out` in locked memory. */
uint64_t device_derive(struct masking *masking, const char *label, uint8_t counter, uint8_t *out, size_t len);
/* For vault.c alone. */
/* 32 lower case hex digits and a NUL from HKDF-SHA256(seed, partition, purpose); `out` in locked memory. */
uint64_t device_pin(struct masking *masking, uint64_t partition, const char *purpose, char out[33]);
/* 32 bytes that live as long as `masking` and never change once set; NULL: there is no masking key yet. */
const uint8_t *masking_key(const struct masking *masking);

/* ---- object.c: opened keys ------------------------------------------------------------------------------------------ */

struct key_object; /* immutable for its users, any number of threads at once */
/* CKR_DEVICE_MEMORY: memory_low(), drop some keys and try again; CKR_DEVICE_ERROR: the material is damaged. */
uint64_t key_object_open(struct masking *masking, const he_material *material, struct key_object **out);
/* Makes it ready for batches where the machine and the key can: before its first operation. */
void key_object_widen(struct key_object *key);
/* No operation may be running with it. */
void key_object_free(struct key_object *key);
uint64_t key_object_class(const struct key_object *key);
uint64_t key_object_type(const struct key_object *key);
uint32_t key_object_bits(const struct key_object *key);

/* ---- hot operations: each writes the payload of its response ---------------------------------------------------------- */

struct crypto_worker; /* one per thread */
struct crypto_worker *crypto_worker_new(void);
void crypto_worker_free(struct crypto_worker *worker);

/* On an error the writer is as it was. CKR_DEVICE_MEMORY: no room in the writer (a signature needs at most 1 KiB, a
 * ciphertext the data's length + 64, bytes and lists 4 more each). */
uint64_t op_sign(struct crypto_worker *worker, const struct key_object *key, const struct wire_sign_request *request,
                 struct wire_writer *out);
uint64_t op_verify(struct crypto_worker *worker, const struct key_object *key, const struct wire_verify_request *request,
                   struct wire_writer *out);
uint64_t op_encrypt(struct crypto_worker *worker, const struct key_object *key, const struct wire_encrypt_request *request,
                    struct wire_writer *out);
uint64_t op_decrypt(struct crypto_worker *worker, const struct key_object *key, const struct wire_decrypt_request *request,
                    struct wire_writer *out);
uint64_t op_sign_recover(struct crypto_worker *worker, const struct key_object *key,
                         const struct wire_sign_recover_request *request, struct wire_writer *out);
uint64_t op_verify_recover(struct crypto_worker *worker, const struct key_object *key,
                           const struct wire_verify_recover_request *request, struct wire_writer *out);
uint64_t op_random(struct crypto_worker *worker, const struct wire_random_request *request, struct wire_writer *out);
uint64_t op_seed_random(struct crypto_worker *worker, const struct wire_seed_random_request *request, struct wire_writer *out);
uint64_t random_bytes(uint8_t *out, size_t len);

/* ---- mac.c: streams; one thread at a time per stream. The key may be freed while a stream runs. -------------------------- */

struct mac_stream;
uint64_t mac_begin(const struct key_object *key, const struct wire_mechanism *mechanism, bool verify, struct mac_stream **out);
uint64_t mac_update(struct mac_stream *stream, const uint8_t *data, size_t len);
/* Writes a MAC_FINAL response; the stream is to be freed afterwards whatever it returned. */
uint64_t mac_final(struct mac_stream *stream, struct wire_bytes expected, struct wire_writer *out);
void mac_free(struct mac_stream *stream);

/* ---- behind the he_ functions that Python decides ------------------------------------------------------------------------- */

uint64_t password_hash(const uint8_t *data, size_t len, const uint8_t salt[16], uint8_t out[32]);

/* `attributes`: of the unredacted request. */
uint64_t material_import(struct masking *masking, const struct wire_template *attributes, uint64_t object_class,
                         uint64_t key_type, uint8_t *out, size_t *len);
uint64_t material_generate(struct masking *masking, uint64_t key_type, const uint8_t *parameters, size_t parameters_len,
                           uint8_t *out, size_t *len);
uint64_t material_public(struct masking *masking, const he_material *material, uint8_t *out, size_t *len);
uint64_t material_inspect(struct masking *masking, const he_material *material, uint32_t *bits, uint8_t check[3],
                          size_t *check_len);
/* The raw value of one attribute (CKA_VALUE, CKA_MODULUS, CKA_PRIVATE_EXPONENT, CKA_EC_POINT, ...), for splices.
 * CKR_ATTRIBUTE_TYPE_INVALID: the key has none of that name. */
uint64_t material_component(struct masking *masking, const he_material *material, uint64_t attribute, struct secret *out);
uint64_t material_wrap(struct masking *masking, const he_material *wrapping, const uint8_t *mechanism, size_t mechanism_len,
                       const he_material *key, uint8_t *out, size_t *len, uint8_t iv[16], size_t *iv_len);
uint64_t material_unwrap(struct masking *masking, const he_material *unwrapping, const uint8_t *mechanism,
                         size_t mechanism_len, const uint8_t *wrapped, size_t wrapped_len, uint64_t object_class,
                         uint64_t key_type, uint8_t *out, size_t *len);
uint64_t material_derive(struct masking *masking, const he_material *base, const uint8_t *mechanism, size_t mechanism_len,
                         const he_material *salt, uint64_t key_type, size_t value_len, uint8_t *out, size_t *len);

#endif
