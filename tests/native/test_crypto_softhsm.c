/* Real SoftHSM2 and the engine exchange keys: what SoftHSM2 wraps under the masking key (CKM_AES_KEY_WRAP_PAD) is material that the
 * engine opens, and what the engine masks SoftHSM2 unwraps; signatures by either side hold at the other. Skipped (77) without it. */
#include <dlfcn.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto_fixture.h"
#include "crypto_vectors_asymmetric.h"
#include "pkcs11.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char library_path[] = "/usr/lib/softhsm/libsofthsm2.so";
static char folder[] = "/tmp/hsmsim-softhsm-XXXXXX";
static CK_FUNCTION_LIST_PTR softhsm;
static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE wrapping;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

/* ---- a token with the masking key, as he_vault_unlock makes it ---------------------------------------------------------- */

static bool load_library(void)
{
    char path[128], tokens[128];
    CK_C_GetFunctionList get;
    CHECK(mkdtemp(folder) != NULL);
    snprintf(tokens, sizeof tokens, "%s/tokens", folder);
    snprintf(path, sizeof path, "%s/softhsm2.conf", folder);
    CHECK(mkdir(tokens, 0700) == 0);
    FILE *config = fopen(path, "w");
    CHECK(config != NULL && fprintf(config, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens) > 0);
    CHECK(fclose(config) == 0 && setenv("SOFTHSM2_CONF", path, 1) == 0);
    void *library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return false;
    }
    void *symbol = dlsym(library, "C_GetFunctionList");
    CHECK(symbol != NULL);
    memcpy(&get, &symbol, sizeof get);
    CHECK_EQ(get(&softhsm), CKR_OK);
    return true;
}

static void make_token(void)
{
    CK_SLOT_ID slots[4];
    CK_ULONG count = COUNT(slots);
    CK_OBJECT_CLASS secret = CKO_SECRET_KEY;
    CK_KEY_TYPE aes = CKK_AES;
    CK_UTF8CHAR label[33] = "hsmsim                          ", pin[] = "0123456789abcdef";
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &secret, sizeof secret},   {CKA_KEY_TYPE, &aes, sizeof aes},
        {CKA_TOKEN, &no, sizeof no},           {CKA_PRIVATE, &no, sizeof no},
        {CKA_TRUSTED, &yes, sizeof yes},       {CKA_WRAP, &yes, sizeof yes},
        {CKA_UNWRAP, &yes, sizeof yes},        {CKA_VALUE, (void *)(uintptr_t)masking_key(masking), 32},
    };
    CHECK_EQ(softhsm->C_Initialize(NULL), CKR_OK);
    CHECK_EQ(softhsm->C_GetSlotList(CK_FALSE, slots, &count), CKR_OK);
    CHECK_EQ(softhsm->C_InitToken(slots[0], pin, 16, label), CKR_OK);
    count = COUNT(slots);
    CHECK_EQ(softhsm->C_GetSlotList(CK_TRUE, slots, &count), CKR_OK); /* the initialised one is listed under its new id */
    CHECK(count >= 1);
    CHECK_EQ(softhsm->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), CKR_OK);
    CHECK_EQ(softhsm->C_Login(session, CKU_SO, pin, 16), CKR_OK);
    CHECK_EQ(softhsm->C_InitPIN(session, pin, 16), CKR_OK);
    CHECK_EQ(softhsm->C_CreateObject(session, template, COUNT(template), &wrapping), CKR_OK);
    CHECK_EQ(softhsm->C_Logout(session), CKR_OK);
    CHECK_EQ(softhsm->C_Login(session, CKU_USER, pin, 16), CKR_OK);
}

/* ---- SoftHSM2's keys in the engine --------------------------------------------------------------------------------------- */

static struct owned_material wrap_in_softhsm(CK_OBJECT_HANDLE key, uint64_t object_class, uint64_t key_type)
{
    CK_MECHANISM mechanism = {CKM_AES_KEY_WRAP_PAD, NULL, 0};
    struct owned_material out = {.material = {object_class, key_type, NULL, 0}};
    CK_ULONG len = BYTES_MAX;
    CHECK_EQ(softhsm->C_WrapKey(session, &mechanism, wrapping, key, out.bytes.data, &len), CKR_OK);
    out.bytes.len = len;
    return out;
}

static void generate_pair(CK_MECHANISM_TYPE type, const struct bytes *params, CK_ULONG bits, CK_OBJECT_HANDLE *public,
                          CK_OBJECT_HANDLE *private)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_BYTE exponent[] = {1, 0, 1};
    CK_ATTRIBUTE rsa[] = {{CKA_VERIFY, &yes, sizeof yes}, {CKA_TOKEN, &no, sizeof no}, {CKA_MODULUS_BITS, &bits, sizeof bits},
                          {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent}};
    CK_ATTRIBUTE ec[] = {{CKA_VERIFY, &yes, sizeof yes}, {CKA_TOKEN, &no, sizeof no},
                         {CKA_EC_PARAMS, (void *)(uintptr_t)params->data, params->len}};
    CK_ATTRIBUTE secret[] = {{CKA_SIGN, &yes, sizeof yes},        {CKA_TOKEN, &no, sizeof no},
                             {CKA_SENSITIVE, &yes, sizeof yes},   {CKA_EXTRACTABLE, &yes, sizeof yes},
                             {CKA_PRIVATE, &yes, sizeof yes},     {CKA_WRAP_WITH_TRUSTED, &yes, sizeof yes}};
    CHECK_EQ(softhsm->C_GenerateKeyPair(session, &mechanism, params->len != 0 ? ec : rsa, params->len != 0 ? COUNT(ec) : COUNT(rsa),
                                        secret, COUNT(secret), public, private),
             CKR_OK);
}

static uint64_t verify_in_softhsm(CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE type, const struct bytes *data,
                                  const struct bytes *signature)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CHECK_EQ(softhsm->C_VerifyInit(session, &mechanism, key), CKR_OK);
    return softhsm->C_Verify(session, (CK_BYTE_PTR)(uintptr_t)data->data, data->len, (CK_BYTE_PTR)(uintptr_t)signature->data,
                             signature->len);
}

/* ---- the engine's keys in SoftHSM2 ----------------------------------------------------------------------------------------- */

static CK_RV unwrap_in_softhsm(const struct owned_material *material, CK_OBJECT_HANDLE *out)
{
    CK_MECHANISM mechanism = {CKM_AES_KEY_WRAP_PAD, NULL, 0};
    CK_OBJECT_CLASS object_class = material->material.object_class;
    CK_KEY_TYPE key_type = material->material.key_type;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &object_class, sizeof object_class}, {CKA_KEY_TYPE, &key_type, sizeof key_type},
        {CKA_TOKEN, &no, sizeof no},                     {CKA_SIGN, &yes, sizeof yes},
        {CKA_SENSITIVE, &yes, sizeof yes},               {CKA_EXTRACTABLE, &yes, sizeof yes},
        {CKA_PRIVATE, &yes, sizeof yes},
    };
    return softhsm->C_UnwrapKey(session, &mechanism, wrapping, (CK_BYTE_PTR)(uintptr_t)material->bytes.data, material->bytes.len,
                                template, COUNT(template), out);
}

static CK_RV sign_in_softhsm(CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE type, const struct bytes *data, struct bytes *out)
{
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_ULONG len = BYTES_MAX;
    CHECK_EQ(softhsm->C_SignInit(session, &mechanism, key), CKR_OK);
    CK_RV rv = softhsm->C_Sign(session, (CK_BYTE_PTR)(uintptr_t)data->data, data->len, out->data, &len);
    out->len = len;
    return rv;
}

/* ---- both ways ---------------------------------------------------------------------------------------------------------------- */

static const struct kind {
    const char *name;
    CK_MECHANISM_TYPE generate;
    const char *params; /* as SoftHSM2 takes them */
    CK_ULONG bits;
    uint64_t key_type;
    CK_MECHANISM_TYPE sign;
    size_t data;
} kinds[] = {
    {"RSA-2048", CKM_RSA_PKCS_KEY_PAIR_GEN, "", 2048, CKK_RSA, CKM_SHA256_RSA_PKCS, 40},
    {"RSA-4096", CKM_RSA_PKCS_KEY_PAIR_GEN, "", 4096, CKK_RSA, CKM_SHA256_RSA_PKCS, 40},
    {"P-224", CKM_EC_KEY_PAIR_GEN, CURVE_P224, 0, CKK_EC, CKM_ECDSA, 28},
    {"P-256", CKM_EC_KEY_PAIR_GEN, CURVE_P256, 0, CKK_EC, CKM_ECDSA, 32},
    {"P-384", CKM_EC_KEY_PAIR_GEN, CURVE_P384, 0, CKK_EC, CKM_ECDSA, 48},
    {"P-521", CKM_EC_KEY_PAIR_GEN, CURVE_P521, 0, CKK_EC, CKM_ECDSA, 64},
    {"secp256k1", CKM_EC_KEY_PAIR_GEN, CURVE_K256, 0, CKK_EC, CKM_ECDSA, 32},
};

static void exchange(const struct kind *kind)
{
    struct bytes params = unhex(kind->params), data = {.len = kind->data}, signature;
    struct wire_mechanism mechanism = {.type = kind->sign, .kind = WIRE_KIND_NONE};
    CK_OBJECT_HANDLE public, private, back;
    fprintf(stderr, "%s\n", kind->name);
    memset(data.data, 0x42, data.len);
    generate_pair(kind->generate, &params, kind->bits, &public, &private);
    struct owned_material material = wrap_in_softhsm(private, CKO_PRIVATE_KEY, kind->key_type);
    struct key_object *key = open_key(&material);
    CHECK_EQ(do_sign(key, &mechanism, false, &data, &signature), CKR_OK);
    CHECK_EQ(verify_in_softhsm(public, kind->sign, &data, &signature), CKR_OK);
    /* and out again: the engine's own encoding of a key of its own */
    struct owned_material made = kind->key_type == CKK_RSA
                                     ? generate_rsa((uint32_t)kind->bits)
                                     : generate(kind->key_type, params.data, params.len);
    struct owned_material made_public = public_of(&made);
    struct key_object *verifier = open_key(&made_public);
    CHECK_EQ(unwrap_in_softhsm(&made, &back), CKR_OK);
    CHECK_EQ(sign_in_softhsm(back, kind->sign, &data, &signature), CKR_OK);
    CHECK_EQ(do_verify(verifier, &mechanism, false, &data, &signature), CKR_OK);
    struct owned_material again = wrap_in_softhsm(back, CKO_PRIVATE_KEY, kind->key_type);
    struct key_object *reopened = open_key(&again);
    CHECK_EQ(do_sign(reopened, &mechanism, false, &data, &signature), CKR_OK);
    CHECK_EQ(do_verify(verifier, &mechanism, false, &data, &signature), CKR_OK);
    key_object_free(key);
    key_object_free(verifier);
    key_object_free(reopened);
}

/* SoftHSM2 2.6.1 has Ed25519 keys, but wraps and unwraps none: those are the engine's to make, and never in the vault. */
static void edwards_does_not_travel(void)
{
    struct bytes name = unhex("130c656477617264733235353139"), out; /* "edwards25519" */
    CK_MECHANISM mechanism = {CKM_AES_KEY_WRAP_PAD, NULL, 0};
    CK_OBJECT_HANDLE public, private, back;
    CK_ULONG len = BYTES_MAX;
    generate_pair(CKM_EC_EDWARDS_KEY_PAIR_GEN, &name, 0, &public, &private);
    CHECK_EQ(softhsm->C_WrapKey(session, &mechanism, wrapping, private, out.data, &len), CKR_KEY_NOT_WRAPPABLE);
    struct owned_material made = generate(CKK_EC_EDWARDS, name.data, name.len);
    CHECK_EQ(unwrap_in_softhsm(&made, &back), CKR_FUNCTION_FAILED);
}

static void exchange_secret(uint64_t key_type, CK_MECHANISM_TYPE generate_type, const char *parameters, CK_ULONG len)
{
    struct bytes encoded = unhex(parameters), data = {.len = 32}, mac;
    struct wire_mechanism mechanism = {.type = key_type == CKK_AES ? CKM_AES_CMAC : CKM_SHA256_HMAC, .kind = WIRE_KIND_NONE};
    CK_MECHANISM making = {generate_type, NULL, 0};
    CK_OBJECT_HANDLE own, back;
    CK_ATTRIBUTE template[] = {{CKA_VALUE_LEN, &len, sizeof len},      {CKA_TOKEN, &no, sizeof no},
                               {CKA_SIGN, &yes, sizeof yes},           {CKA_VERIFY, &yes, sizeof yes},
                               {CKA_SENSITIVE, &yes, sizeof yes},      {CKA_EXTRACTABLE, &yes, sizeof yes}};
    fprintf(stderr, "secret of %lu bytes\n", len);
    CHECK_EQ(softhsm->C_GenerateKey(session, &making, template, COUNT(template), &own), CKR_OK);
    struct owned_material material = wrap_in_softhsm(own, CKO_SECRET_KEY, key_type);
    struct key_object *key = open_key(&material);
    CHECK_EQ(key->bits, (len + 7) / 8 * 64); /* SoftHSM2 2.6.1 fills up with zeros and wraps them as content */
    CHECK_EQ(do_sign(key, &mechanism, false, &data, &mac), CKR_OK);
    CHECK_EQ(verify_in_softhsm(own, mechanism.type, &data, &mac), CKR_OK);
    struct owned_material made = generate(key_type, encoded.data, encoded.len);
    struct key_object *made_key = open_key(&made);
    CHECK_EQ(unwrap_in_softhsm(&made, &back), CKR_OK);
    CHECK_EQ(sign_in_softhsm(back, mechanism.type, &data, &mac), CKR_OK);
    CHECK_EQ(do_verify(made_key, &mechanism, false, &data, &mac), CKR_OK);
    key_object_free(key);
    key_object_free(made_key);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

int main(void)
{
    fixture_start();
    bool there = load_library();
    if (there) {
        make_token();
        for (size_t i = 0; i < COUNT(kinds); i++) {
            exchange(&kinds[i]);
        }
        edwards_does_not_travel();
        exchange_secret(CKK_AES, CKM_AES_KEY_GEN, "10000000", 16);
        exchange_secret(CKK_AES, CKM_AES_KEY_GEN, "20000000", 32);
        exchange_secret(CKK_GENERIC_SECRET, CKM_GENERIC_SECRET_KEY_GEN, "20000000", 32);
        exchange_secret(CKK_GENERIC_SECRET, CKM_GENERIC_SECRET_KEY_GEN, "25000000", 37);
    }
    (void)nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    _exit(there ? 0 : 77); /* SoftHSM2's destructors crash */
}
