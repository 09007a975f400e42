/* What the tests of the engine's cryptography share: a masking key, keys made from templates as C_CreateObject sends them, and
 * the operations with buffers around them. */
#ifndef HSMSIM_TEST_CRYPTO_FIXTURE_H
#define HSMSIM_TEST_CRYPTO_FIXTURE_H

#include "check.h"
#include "object.h"

enum { BYTES_MAX = 20000 };

struct bytes {
    uint8_t data[BYTES_MAX];
    size_t len;
};

static struct masking *masking;
static struct crypto_worker *worker;

static inline void fixture_start(void)
{
    masking = masking_new();
    worker = crypto_worker_new();
    CHECK(masking != NULL && worker != NULL);
    CHECK_EQ(masking_create(masking), CKR_OK);
}

static inline void fixture_stop(void)
{
    crypto_worker_free(worker);
    masking_free(masking);
}

static inline struct bytes unhex(const char *text)
{
    struct bytes out = {.len = strlen(text) / 2};
    CHECK(strlen(text) % 2 == 0 && out.len <= BYTES_MAX);
    for (size_t i = 0; i < out.len; i++) {
        unsigned value;
        CHECK(sscanf(text + 2 * i, "%2x", &value) == 1);
        out.data[i] = (uint8_t)value;
    }
    return out;
}

static inline struct wire_bytes view(const struct bytes *bytes)
{
    return wire_bytes(bytes->len != 0 ? bytes->data : NULL, (uint32_t)bytes->len);
}

/* ---- templates and material ------------------------------------------------------------------------------------------ */

struct attributes {
    struct bytes encoded;
    uint32_t count;
};

static inline void add_attribute(struct attributes *to, uint64_t type, const void *data, size_t len)
{
    struct wire_writer writer = wire_writer(to->encoded.data + to->encoded.len, BYTES_MAX - to->encoded.len);
    struct wire_bytes value = wire_bytes(data, (uint32_t)len);
    CHECK(wire_put_u64(&writer, type) == WIRE_OK && wire_put_bytes(&writer, &value) == WIRE_OK);
    to->encoded.len += writer.len;
    to->count++;
}

static inline void add_hex(struct attributes *to, uint64_t type, const char *text)
{
    struct bytes value = unhex(text);
    add_attribute(to, type, value.data, value.len);
}

struct owned_material {
    struct bytes bytes;
    he_material material; /* material.data is set when it is used: the struct may move */
};

static inline he_material *material_of(struct owned_material *owned)
{
    owned->material.data = owned->bytes.data;
    owned->material.len = owned->bytes.len;
    return &owned->material;
}

static inline uint64_t try_import(const struct attributes *attributes, uint64_t object_class, uint64_t key_type,
                                  struct owned_material *out)
{
    const struct wire_template template = {attributes->encoded.data, (uint32_t)attributes->encoded.len, attributes->count};
    *out = (struct owned_material){.bytes = {.len = BYTES_MAX}, .material = {object_class, key_type, NULL, 0}};
    return material_import(masking, &template, object_class, key_type, out->bytes.data, &out->bytes.len);
}

static inline struct owned_material import_material(const struct attributes *attributes, uint64_t object_class,
                                                    uint64_t key_type)
{
    struct owned_material out;
    CHECK_EQ(try_import(attributes, object_class, key_type, &out), CKR_OK);
    return out;
}

static inline struct owned_material secret_material(uint64_t key_type, const char *value)
{
    struct attributes attributes = {0};
    add_hex(&attributes, CKA_VALUE, value);
    return import_material(&attributes, CKO_SECRET_KEY, key_type);
}

static inline struct owned_material generate(uint64_t key_type, const void *parameters, size_t len)
{
    struct owned_material out = {.bytes = {.len = BYTES_MAX}};
    out.material.object_class = key_type == CKK_AES || key_type == CKK_GENERIC_SECRET ? CKO_SECRET_KEY : CKO_PRIVATE_KEY;
    out.material.key_type = key_type;
    CHECK_EQ(material_generate(masking, key_type, parameters, len, out.bytes.data, &out.bytes.len), CKR_OK);
    return out;
}

static inline struct owned_material generate_rsa(uint32_t bits)
{
    const uint8_t parameters[] = {(uint8_t)bits, (uint8_t)(bits >> 8), 0, 0, 1, 0, 1};
    return generate(CKK_RSA, parameters, sizeof parameters);
}

static inline struct owned_material public_of(struct owned_material *private)
{
    struct owned_material out = {.bytes = {.len = BYTES_MAX}, .material = {CKO_PUBLIC_KEY, private->material.key_type, NULL, 0}};
    CHECK_EQ(material_public(masking, material_of(private), out.bytes.data, &out.bytes.len), CKR_OK);
    return out;
}

static inline struct key_object *open_key(struct owned_material *material)
{
    struct key_object *key;
    CHECK_EQ(key_object_open(masking, material_of(material), &key), CKR_OK);
    return key;
}

static inline struct key_object *secret_key(uint64_t key_type, const char *value)
{
    struct owned_material material = secret_material(key_type, value);
    return open_key(&material);
}

/* ---- operations ------------------------------------------------------------------------------------------------------- */

static inline uint64_t read_field(const struct wire_writer *writer, size_t start, struct bytes *out, struct bytes *second)
{
    struct wire_reader reader = wire_reader(writer->data + start, writer->len - start);
    struct wire_bytes field;
    CHECK(wire_get_bytes(&reader, &field) == WIRE_OK);
    out->len = field.len;
    memcpy(out->data, field.data != NULL ? field.data : out->data, field.len);
    if (second != NULL) {
        CHECK(wire_get_bytes(&reader, &field) == WIRE_OK);
        second->len = field.len;
        memcpy(second->data, field.data != NULL ? field.data : second->data, field.len);
    }
    CHECK(wire_get_end(&reader) == WIRE_OK);
    return CKR_OK;
}

/* Something stands before the payload, as a header does; an operation that fails leaves the writer as it was. */
enum { BEFORE = 32 };
#define RUN_OPERATION(call, out, second)                                                 \
    do {                                                                                 \
        static uint8_t room_[BYTES_MAX];                                                 \
        struct wire_writer writer_ = wire_writer(room_, sizeof room_), *writer = &writer_; \
        writer_.len = BEFORE;                                                            \
        uint64_t rv_ = (call);                                                           \
        if (rv_ != CKR_OK) {                                                             \
            CHECK_EQ(writer_.len, BEFORE);                                               \
            return rv_;                                                                  \
        }                                                                                \
        return read_field(&writer_, BEFORE, out, second);                                \
    } while (0)

static inline uint64_t do_sign(const struct key_object *key, const struct wire_mechanism *mechanism, bool digested,
                               const struct bytes *data, struct bytes *out)
{
    const struct wire_sign_request request = {.mechanism = *mechanism, .digested = digested, .data = view(data)};
    RUN_OPERATION(op_sign(worker, key, &request, writer), out, NULL);
}

static inline uint64_t do_verify(const struct key_object *key, const struct wire_mechanism *mechanism, bool digested,
                                 const struct bytes *data, const struct bytes *signature)
{
    const struct wire_verify_request request = {
        .mechanism = *mechanism, .digested = digested, .data = view(data), .signature = view(signature)};
    uint8_t room[8];
    struct wire_writer writer = wire_writer(room, sizeof room);
    uint64_t rv = op_verify(worker, key, &request, &writer);
    CHECK_EQ(writer.len, 0);
    return rv;
}

static inline uint64_t do_encrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const struct bytes *data,
                                  struct bytes *out, struct bytes *iv)
{
    const struct wire_encrypt_request request = {.mechanism = *mechanism, .data = view(data)};
    RUN_OPERATION(op_encrypt(worker, key, &request, writer), out, iv);
}

static inline uint64_t do_decrypt(const struct key_object *key, const struct wire_mechanism *mechanism, const struct bytes *data,
                                  struct bytes *out)
{
    const struct wire_decrypt_request request = {.mechanism = *mechanism, .data = view(data)};
    RUN_OPERATION(op_decrypt(worker, key, &request, writer), out, NULL);
}

static inline uint64_t do_sign_recover(const struct key_object *key, const struct wire_mechanism *mechanism,
                                       const struct bytes *data, struct bytes *out)
{
    const struct wire_sign_recover_request request = {.mechanism = *mechanism, .data = view(data)};
    RUN_OPERATION(op_sign_recover(worker, key, &request, writer), out, NULL);
}

static inline uint64_t do_verify_recover(const struct key_object *key, const struct wire_mechanism *mechanism,
                                         const struct bytes *signature, struct bytes *out)
{
    const struct wire_verify_recover_request request = {.mechanism = *mechanism, .signature = view(signature)};
    RUN_OPERATION(op_verify_recover(worker, key, &request, writer), out, NULL);
}

static inline struct bytes encode_mechanism(const struct wire_mechanism *mechanism)
{
    struct bytes out = {0};
    struct wire_writer writer = wire_writer(out.data, BYTES_MAX);
    CHECK(wire_put_mechanism(&writer, mechanism) == WIRE_OK);
    out.len = writer.len;
    return out;
}

static inline uint64_t do_wrap(struct owned_material *wrapping, const struct wire_mechanism *mechanism,
                               struct owned_material *key, struct bytes *out, struct bytes *iv)
{
    struct bytes encoded = encode_mechanism(mechanism);
    out->len = BYTES_MAX;
    return material_wrap(masking, material_of(wrapping), encoded.data, encoded.len, material_of(key), out->data, &out->len,
                         iv->data, &iv->len);
}

static inline uint64_t do_unwrap(struct owned_material *unwrapping, const struct wire_mechanism *mechanism,
                                 const struct bytes *wrapped, uint64_t object_class, uint64_t key_type,
                                 struct owned_material *out)
{
    struct bytes encoded = encode_mechanism(mechanism);
    *out = (struct owned_material){.bytes = {.len = BYTES_MAX}, .material = {object_class, key_type, NULL, 0}};
    return material_unwrap(masking, material_of(unwrapping), encoded.data, encoded.len, wrapped->data, wrapped->len,
                           object_class, key_type, out->bytes.data, &out->bytes.len);
}

static inline uint64_t do_derive(struct owned_material *base, const struct wire_mechanism *mechanism,
                                 struct owned_material *salt, uint64_t key_type, size_t len, struct owned_material *out)
{
    struct bytes encoded = encode_mechanism(mechanism);
    *out = (struct owned_material){.bytes = {.len = BYTES_MAX}, .material = {CKO_SECRET_KEY, key_type, NULL, 0}};
    return material_derive(masking, material_of(base), encoded.data, encoded.len, salt != NULL ? material_of(salt) : NULL,
                           key_type, len, out->bytes.data, &out->bytes.len);
}

static inline struct bytes component(struct owned_material *material, uint64_t attribute)
{
    struct bytes out = {0};
    struct secret value;
    CHECK_EQ(material_component(masking, material_of(material), attribute, &value), CKR_OK);
    CHECK(value.len <= BYTES_MAX);
    out.len = value.len;
    memcpy(out.data, value.data, value.len);
    secret_free(&value);
    return out;
}

static inline void check_value(struct owned_material *material, const char *expected)
{
    struct bytes actual = component(material, CKA_VALUE), wanted = unhex(expected);
    CHECK_EQ_MEM(actual.data, actual.len, wanted.data, wanted.len);
}

#define MECHANISM(...) (&(const struct wire_mechanism){__VA_ARGS__})

#endif
