/* Inside of key_object, for the engine's cryptographic files. */
#ifndef HSMSIM_OBJECT_H
#define HSMSIM_OBJECT_H

#include <stdatomic.h>

#include "lanes.h"
#include "masking.h"
#include "parts.h"

/* An operation's context that is ready to run again on the same key: making one costs about 5 us, a tenth of that per
 * algorithm fetch. It belongs to one thread between take and give, and lives and dies with its key. */
struct recipe {
    uint64_t mechanism;
    uint64_t verify; /* ciphers: 1 encrypts */
    uint64_t hash, mgf, salt; /* what the context was set to; 0 where not used */
};
struct prepared {
    struct recipe recipe;
    EVP_PKEY_CTX *pkey; /* one of the three */
    EVP_MAC_CTX *mac;
    EVP_CIPHER_CTX *cipher;
};
enum { IDLE_CONTEXTS = 8 };
struct idle_pool {
    _Atomic(struct prepared *) slots[IDLE_CONTEXTS];
};

struct key_object {
    uint64_t object_class;
    uint64_t key_type;
    uint32_t bits;             /* as in KEY_FACTS */
    uint32_t size;             /* bytes of the modulus, of a coordinate, of the value */
    const struct curve *curve; /* EC, EC_EDWARDS */
    EVP_PKEY *pkey;
    struct secret value;   /* secret keys */
    struct lane_key lanes; /* what batches compute with; LANE_NONE unless key_object_widen was called */
    struct idle_pool *idle;
};

struct crypto_worker {
    unsigned index;
    EVP_MD_CTX *digest;
    uint8_t block[16384 / 8]; /* a padded RSA block */
};

/* The material's bytes: PKCS#8, the raw value, or SPKI. */
uint64_t material_bytes(const struct masking *masking, const he_material *material, struct secret *out);
/* Object of bytes as above; takes nothing over. */
uint64_t key_object_make(uint64_t object_class, uint64_t key_type, const uint8_t *data, size_t len, struct key_object **out);

/* NULL: none idle with this recipe; prepared_new makes one without a context. `index` spreads threads over the slots. */
struct prepared *prepared_take(const struct key_object *key, unsigned index, const struct recipe *recipe);
struct prepared *prepared_new(const struct recipe *recipe);
void prepared_give(const struct key_object *key, unsigned index, struct prepared *prepared);
void prepared_free(struct prepared *prepared);

static inline void scoped_key_object_release(struct key_object **held)
{
    key_object_free(*held);
}
#define KEY_SCOPED __attribute__((cleanup(scoped_key_object_release))) struct key_object

static inline bool key_is(const struct key_object *key, uint64_t object_class, uint64_t key_type)
{
    return key->object_class == object_class && key->key_type == key_type;
}

/* The table's row if it has any of these functions (CKF_) and takes this kind of parameter and key. */
uint64_t mechanism_check(const struct key_object *key, const struct wire_mechanism *mechanism, uint32_t functions,
                         const struct mechanism_info **out);

/* Lengths that a secret key of this type may have. */
bool secret_length_valid(uint64_t key_type, size_t len);
bool secret_type_known(uint64_t key_type);

/* sign.c: the digest that `info` makes of data, or data itself if it is that digest already. */
uint64_t digest_of(struct crypto_worker *worker, const struct hash *hash, bool digested, const struct wire_bytes *data,
                   uint8_t room[EVP_MAX_MD_SIZE], struct wire_bytes *out);

/* eddsa.c */
uint64_t eddsa_sign(struct crypto_worker *worker, const struct key_object *key, const struct wire_sign_request *request,
                    struct wire_writer *out);
uint64_t eddsa_verify(struct crypto_worker *worker, const struct key_object *key, const struct wire_verify_request *request);
bool eddsa_is_pure(const struct wire_mechanism *mechanism);

/* mac.c: one call; CKR_MECHANISM_INVALID: not a MAC. */
uint64_t mac_compute(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data,
                     size_t len, uint8_t out[EVP_MAX_MD_SIZE], size_t *out_len);

/* rsa.c: one block. `out` has room for the modulus. */
uint64_t rsa_padding(EVP_PKEY_CTX *context, const struct wire_mechanism *mechanism);
uint64_t rsa_encrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                     uint8_t *out, size_t *out_len);
uint64_t rsa_decrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                     uint8_t *out, size_t *out_len);
/* The message of a block that the private operation has made. */
bool rsa_unpads(const struct wire_mechanism *mechanism); /* false: rsa_decrypt alone does it */
uint64_t rsa_unpad(const struct key_object *key, const struct wire_mechanism *mechanism, const uint8_t *block, uint8_t *out,
                   size_t *out_len);
uint64_t oaep_set(EVP_PKEY_CTX *context, uint64_t hash, uint64_t mgf, uint64_t source, const struct wire_bytes *label);

/* cipher.c: a whole encryption or decryption of any mechanism; `out` has room for cipher_room. iv: what the HSM made. */
enum { CIPHER_EXTRA = 64, MADE_IV = 12 };
size_t cipher_room(const struct key_object *key, size_t len);
uint64_t cipher_encrypt(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                        uint8_t *out, size_t *out_len, uint8_t iv[16], size_t *iv_len);
uint64_t cipher_decrypt(const struct key_object *key, unsigned index, const struct wire_mechanism *mechanism, const uint8_t *data, size_t len,
                        uint8_t *out, size_t *out_len);

/* import.c: checks that the parts belong together, fills in what RSA lacks, and masks. */
uint64_t private_mask(struct masking *masking, const struct key_parts *parts, uint8_t *out, size_t *len);
bool private_parts_valid(const struct key_parts *parts);

#endif
