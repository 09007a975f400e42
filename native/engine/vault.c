#include "vault.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "pkcs11.h"

enum { PIN_SIZE = 33, PIN_DIGITS = 32, MASKING_KEY_SIZE = 32 };

struct vault {
    struct masking *masking;
    CK_FUNCTION_LIST_PTR p11;
};

struct vault *vault_new(struct masking *masking)
{
    struct vault *vault = calloc(1, sizeof *vault);
    if (vault != NULL) {
        vault->masking = masking;
    }
    return vault;
}

uint64_t vault_bind(struct vault *vault, const char *library_path)
{
    /* loaded and initialised by python-pkcs11: the same handle, the same state; never closed */
    void *library = dlopen(library_path, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL) {
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    }
    CK_C_GetFunctionList get;
    *(void **)&get = dlsym(library, "C_GetFunctionList");
    return get == NULL ? CKR_FUNCTION_NOT_SUPPORTED : get(&vault->p11);
}

#define TRY(call)              \
    do {                       \
        CK_RV rv_ = (call);    \
        if (rv_ != CKR_OK) {   \
            return rv_;        \
        }                      \
    } while (0)

static uint64_t log_in(struct vault *vault, CK_SESSION_HANDLE session, CK_USER_TYPE type, uint64_t partition)
{
    SECRET_SCOPED pin = {0};
    if (!secret_alloc(&pin, PIN_SIZE)) {
        return CKR_HOST_MEMORY;
    }
    TRY(device_pin(vault->masking, partition, type == CKU_SO ? "so" : "user", (char *)pin.data));
    return vault->p11->C_Login(session, type, pin.data, PIN_DIGITS);
}

uint64_t vault_init_token(struct vault *vault, uint64_t slot, uint64_t partition, const uint8_t label[32])
{
    SECRET_SCOPED pin = {0};
    uint8_t own[32];
    if (vault->p11 == NULL) {
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    }
    if (!secret_alloc(&pin, PIN_SIZE)) {
        return CKR_HOST_MEMORY;
    }
    memcpy(own, label, sizeof own);
    TRY(device_pin(vault->masking, partition, "so", (char *)pin.data));
    TRY(vault->p11->C_InitToken(slot, pin.data, PIN_DIGITS, own));
    CK_SESSION_HANDLE session;
    TRY(vault->p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    CK_RV rv = vault->p11->C_Login(session, CKU_SO, pin.data, PIN_DIGITS);
    if (rv == CKR_OK) {
        rv = device_pin(vault->masking, partition, "user", (char *)pin.data);
    }
    if (rv == CKR_OK) {
        rv = vault->p11->C_InitPIN(session, pin.data, PIN_DIGITS);
    }
    CK_RV closed = vault->p11->C_CloseSession(session); /* logs out with it */
    return rv == CKR_OK ? closed : rv;
}

/* Only the SO may set TRUSTED and only on public objects; the session object outlives the logout. */
static uint64_t put_masking_key(struct vault *vault, CK_SESSION_HANDLE session, uint64_t *masking)
{
    const uint8_t *key = masking_key(vault->masking);
    if (key == NULL) {
        return CKR_KEY_NEEDED;
    }
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    char label[] = "masking";
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type},   {CKA_TOKEN, &no, sizeof no},
        {CKA_PRIVATE, &no, sizeof no},     {CKA_TRUSTED, &yes, sizeof yes},      {CKA_WRAP, &yes, sizeof yes},
        {CKA_UNWRAP, &yes, sizeof yes},    {CKA_LABEL, label, sizeof label - 1}, {CKA_VALUE, (void *)(uintptr_t)key, MASKING_KEY_SIZE},
    };
    CK_OBJECT_HANDLE handle;
    TRY(vault->p11->C_CreateObject(session, template, sizeof template / sizeof *template, &handle));
    *masking = handle;
    return CKR_OK;
}

uint64_t vault_unlock(struct vault *vault, uint64_t slot, uint64_t partition, uint64_t *masking)
{
    if (vault->p11 == NULL) {
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    }
    CK_SESSION_HANDLE session; /* stays open for life: the masking key and the login go with it */
    TRY(vault->p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    CK_RV rv = log_in(vault, session, CKU_SO, partition);
    if (rv == CKR_OK) {
        rv = put_masking_key(vault, session, masking);
        CK_RV out = vault->p11->C_Logout(session);
        rv = rv == CKR_OK ? out : rv;
    }
    if (rv == CKR_OK) {
        rv = log_in(vault, session, CKU_USER, partition);
    }
    if (rv != CKR_OK) {
        CK_RV closed = vault->p11->C_CloseSession(session);
        return closed == CKR_OK || rv != CKR_OK ? rv : closed;
    }
    return CKR_OK;
}
