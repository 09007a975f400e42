/* CK_MECHANISM parameters, nested pointers included. Input: u8 mechanism, u8 function and profile, the parameter's length and
 * bytes, then for each pointer in it how it is set. What converts must fit the room that callers reserve, and read back. */
#include <stddef.h>

#include "fuzz.h"
#include "mechanism.h"

enum { FIXED_MAX = 128 /* keys.c: MECHANISM_FIXED */, KEPT_MAX = 128, LARGE = MECHANISM_MAX_BYTES + 2 };

/* A pointer in a parameter and its length; `element`: it points to an array of structures with pointers of their own. */
struct pointer {
    size_t at, length;
    size_t element;
    const struct pointer *inside;
};
#define NO_LENGTH SIZE_MAX
#define POINTER(type, pointer, length) {offsetof(type, pointer), offsetof(type, length), 0, NULL}
#define LAST {0, 0, 0, NULL}
#define IS_LAST(p) ((p)->at == (p)->length)

static const struct pointer oaep[] = {POINTER(CK_RSA_PKCS_OAEP_PARAMS, pSourceData, ulSourceDataLen), LAST};
static const struct pointer segment[] = {POINTER(CK_PRF_DATA_PARAM, pValue, ulValueLen), LAST};
static const struct pointer *const pointers[] = {
    [WIRE_KIND_GCM] = (const struct pointer[]){POINTER(CK_GCM_PARAMS, pIv, ulIvLen),
                                               POINTER(CK_GCM_PARAMS, pAAD, ulAADLen), LAST},
    [WIRE_KIND_OAEP] = oaep,
    [WIRE_KIND_ECDH1] = (const struct pointer[]){POINTER(CK_ECDH1_DERIVE_PARAMS, pSharedData, ulSharedDataLen),
                                                 POINTER(CK_ECDH1_DERIVE_PARAMS, pPublicData, ulPublicDataLen), LAST},
    [WIRE_KIND_EDDSA] = (const struct pointer[]){POINTER(CK_EDDSA_PARAMS, pContextData, ulContextDataLen), LAST},
    [WIRE_KIND_HKDF] = (const struct pointer[]){POINTER(CK_HKDF_PARAMS, pSalt, ulSaltLen),
                                                POINTER(CK_HKDF_PARAMS, pInfo, ulInfoLen), LAST},
    [WIRE_KIND_SP800_108] = (const struct pointer[]){{offsetof(CK_SP800_108_KDF_PARAMS, pDataParams),
                                                      offsetof(CK_SP800_108_KDF_PARAMS, ulNumberOfDataParams),
                                                      sizeof(CK_PRF_DATA_PARAM), segment}, LAST},
    [WIRE_KIND_RSA_AES] = (const struct pointer[]){{offsetof(CK_RSA_AES_KEY_WRAP_PARAMS, pOAEPParams), NO_LENGTH,
                                                    sizeof(CK_RSA_PKCS_OAEP_PARAMS), oaep}, LAST},
    [WIRE_KIND_DATA] = (const struct pointer[]){POINTER(CK_KEY_DERIVATION_STRING_DATA, pData, ulLen), LAST},
};
enum { KINDS = sizeof pointers / sizeof *pointers };

static uint8_t *allocated[128];
static size_t allocated_count;

static uint8_t *keep(uint8_t *memory)
{
    FUZZ_CHECK(allocated_count < sizeof allocated / sizeof *allocated);
    return allocated[allocated_count++] = memory;
}

static void set_pointers(struct wire_reader *input, uint8_t *structure, size_t size, const struct pointer *list);

static void set_pointer(struct wire_reader *input, uint8_t *structure, const struct pointer *pointer)
{
    static uint8_t large[LARGE];
    enum { NOTHING, HOSTILE_NULL, HUGE_ONE, GIVEN }; /* more often than not: GIVEN */
    uint64_t how = fuzz_number(input, 1);
    void *to = NULL;
    CK_ULONG length = 0;
    if (how == HOSTILE_NULL) {
        length = fuzz_number(input, 8);
    } else if (how == HUGE_ONE && pointer->element == 0) {
        to = large;
        length = LARGE - fuzz_number(input, 1) % 4;
    } else if (how >= GIVEN && pointer->element == 0) {
        struct wire_bytes bytes = fuzz_bytes(input, how - GIVEN);
        to = keep(fuzz_copy(bytes));
        length = bytes.len;
    } else if (how >= GIVEN) {
        length = pointer->length == NO_LENGTH ? 1 : (how - GIVEN) % 40;
        uint8_t *array = keep(calloc(length + 1, pointer->element));
        for (CK_ULONG i = 0; i < length; i++) {
            struct wire_bytes fields = fuzz_bytes(input, pointer->element);
            wire_copy(array + i * pointer->element, fields);
            set_pointers(input, array + i * pointer->element, pointer->element, pointer->inside);
        }
        to = array;
    }
    memcpy(structure + pointer->at, &to, sizeof to);
    if (pointer->length != NO_LENGTH) {
        memcpy(structure + pointer->length, &length, sizeof length);
    }
}

static void set_pointers(struct wire_reader *input, uint8_t *structure, size_t size, const struct pointer *list)
{
    for (; list != NULL && !IS_LAST(list); list++) {
        bool whole = size >= list->at + sizeof(void *) && (list->length == NO_LENGTH || size >= list->length + sizeof(CK_ULONG));
        if (whole) {
            set_pointer(input, structure, list);
        }
    }
}

static size_t encode(const struct wire_mechanism *mechanism, uint8_t *out, size_t room)
{
    struct wire_writer writer = wire_writer(out, room);
    FUZZ_CHECK(wire_put_mechanism(&writer, mechanism) == WIRE_OK);
    return writer.len;
}

static void check_kept(const struct wire_mechanism *mechanism, const uint8_t *encoded, size_t len)
{
    struct wire_mechanism kept = *mechanism;
    size_t bytes = mechanism_bytes(mechanism);
    uint8_t *own = malloc(bytes + 1), *again = malloc(len);
    mechanism_keep(&kept, own);
    FUZZ_CHECK(encode(&kept, again, len) == len && memcmp(again, encoded, len) == 0);
    free(again);
    free(own);
}

static void check_converted(const CK_MECHANISM *in, CK_FLAGS function, bool cloudhsm, const struct wire_mechanism *out,
                            const struct mechanism_info *info, uint32_t bits)
{
    size_t room = mechanism_bytes(out) + FIXED_MAX;
    uint8_t *encoded = malloc(room);
    size_t len = encode(out, encoded, room);
    struct wire_reader reader = wire_reader(encoded, len);
    struct wire_mechanism back;
    FUZZ_CHECK(wire_get_mechanism(&reader, &back) == WIRE_OK && wire_get_end(&reader) == WIRE_OK && back.kind == out->kind);
    if (function != CKF_DERIVE) {
        check_kept(out, encoded, len);
    }
    free(encoded);
    CK_BYTE_PTR iv = mechanism_iv_out(in, out);
    if (iv != NULL) {
        memset(iv, 0, GCM_HSM_IV);
    }
    (void)mechanism_signature_size(info, out, bits);
    (void)mechanism_local_hash(info, out);
    (void)mechanism_single_part(info, out, cloudhsm);
    FUZZ_CHECK(mechanism_max_data(info, out, cloudhsm) <= MECHANISM_MAX_DATA);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader input = wire_reader(data, size);
    struct mechanism_room room;
    struct wire_mechanism out;
    const struct mechanism_info *info = &mechanism_table[fuzz_number(&input, 1) % mechanism_count];
    uint64_t choice = fuzz_number(&input, 1);
    CK_FLAGS function = (CK_FLAGS)CKF_ENCRYPT << choice % 16; /* all of CKF_ENCRYPT to CKF_DERIVE, and beyond */
    bool cloudhsm = (choice & 0x80) != 0;
    struct wire_bytes parameter = fuzz_bytes(&input, fuzz_number(&input, 1));
    CK_MECHANISM in = {info->type, keep(fuzz_copy(parameter)), parameter.len};
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        if ((info->kinds >> kind & 1) != 0) {
            set_pointers(&input, in.pParameter, parameter.len, pointers[kind]);
        }
    }
    if (mechanism_convert(&in, function, cloudhsm, &room, &out, &info) == CKR_OK) {
        check_converted(&in, function, cloudhsm, &out, info, (uint32_t)fuzz_number(&input, 4));
    }
    while (allocated_count > 0) {
        free(allocated[--allocated_count]);
    }
    return 0;
}
