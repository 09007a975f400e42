/* A key of the HSM: found by its name, with its public half, and what is done with its private one. */
#include <openssl/core_names.h>
#include <openssl/core_object.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <string.h>

#include "provider.h"

const char *const key_names[KEY_KINDS] = {[KEY_RSA] = "RSA", [KEY_EC] = "EC", [KEY_ED25519] = "ED25519"};

struct key *key_hold(struct key *key)
{
    key->references++;
    return key;
}

void key_free(struct key *key)
{
    if (key != NULL && --key->references == 0) {
        EVP_PKEY_free(key->public);
        OPENSSL_free(key);
    }
}

/* ---- finding -------------------------------------------------------------------------------------------------------- */

/* NULL: not a key that we serve (AES, another curve). */
static struct key *key_make(const struct provider *provider, CK_SLOT_ID slot, CK_SESSION_HANDLE session, CK_OBJECT_HANDLE handle,
                            CK_OBJECT_CLASS object_class)
{
    unsigned char info[1024];
    const unsigned char *at = info;
    CK_ATTRIBUTE attribute = {CKA_PUBLIC_KEY_INFO, info, sizeof info};
    if (token_module->C_GetAttributeValue(session, handle, &attribute, 1) != CKR_OK) {
        return NULL;
    }
    EVP_PKEY *public = d2i_PUBKEY_ex(NULL, &at, (long)attribute.ulValueLen, provider->library, NULL);
    struct key *key = public == NULL ? NULL : OPENSSL_zalloc(sizeof *key);
    for (int kind = 0; key != NULL && kind < KEY_KINDS; kind++) {
        if (EVP_PKEY_is_a(public, key_names[kind])) {
            *key = (struct key){provider, 1, (enum key_kind)kind, object_class == CKO_PRIVATE_KEY, slot, handle, public};
            return key;
        }
    }
    EVP_PKEY_free(public);
    OPENSSL_free(key);
    return NULL;
}

static bool search(const struct provider *provider, CK_SLOT_ID slot, CK_SESSION_HANDLE session, const struct uri *uri,
                   CK_OBJECT_CLASS object_class, struct key_list *found)
{
    enum { ROOM = sizeof found->keys / sizeof *found->keys };
    CK_OBJECT_HANDLE handles[ROOM];
    CK_ULONG count = 0, given = 1;
    CK_ATTRIBUTE wanted[3] = {{CKA_CLASS, &object_class, sizeof object_class}};
    if (uri->object.given) {
        wanted[given++] = (CK_ATTRIBUTE){CKA_LABEL, (void *)(uintptr_t)uri->object.data, uri->object.len};
    }
    if (uri->id.given) {
        wanted[given++] = (CK_ATTRIBUTE){CKA_ID, (void *)(uintptr_t)uri->id.data, uri->id.len};
    }
    CK_RV rv = token_module->C_FindObjectsInit(session, wanted, given);
    if (rv == CKR_OK) {
        rv = token_module->C_FindObjects(session, handles, ROOM, &count);
        token_module->C_FindObjectsFinal(session);
    }
    if (rv != CKR_OK) {
        return FAIL_RV(provider, "C_FindObjects", rv) != 0;
    }
    for (CK_ULONG i = 0; i < count && found->count < ROOM; i++) {
        struct key *key = key_make(provider, slot, session, handles[i], object_class);
        found->keys[found->count] = key;
        found->count += key != NULL;
    }
    return true;
}

static bool search_slot(const struct provider *provider, CK_SLOT_ID slot, const struct uri *uri, struct key_list *found)
{
    static const CK_OBJECT_CLASS classes[] = {CKO_PRIVATE_KEY, CKO_PUBLIC_KEY};
    CK_SESSION_HANDLE session;
    bool fine = token_login(provider, slot, uri) && token_lend(provider, slot, &session);
    if (!fine) {
        return false;
    }
    for (int i = 0; fine && i < 2; i++) {
        if (uri->object_class == classes[i] || uri->object_class == CK_UNAVAILABLE_INFORMATION) {
            fine = search(provider, slot, session, uri, classes[i], found);
        }
    }
    token_give_back(slot, session);
    return fine;
}

bool key_find(const struct provider *provider, const struct uri *uri, struct key_list *found)
{
    CK_SLOT_ID slots[16];
    unsigned count = token_slots(provider, uri, slots, sizeof slots / sizeof *slots);
    bool fine = count != 0;
    found->count = 0;
    for (unsigned i = 0; fine && i < count; i++) {
        fine = search_slot(provider, slots[i], uri, found);
    }
    if (fine && found->count == 0) {
        fine = FAIL(provider, REASON_NAME, "no key of that name that this user may use; hsmsim key list shows them") != 0;
    }
    while (!fine && found->count > 0) {
        key_free(found->keys[--found->count]);
    }
    return fine;
}

int key_pass(struct key *key, OSSL_CALLBACK *callback, void *argument)
{
    int type = OSSL_OBJECT_PKEY;
    struct key *reference = key;
    const OSSL_PARAM object[] = {
        OSSL_PARAM_int(OSSL_OBJECT_PARAM_TYPE, &type),
        OSSL_PARAM_utf8_string(OSSL_OBJECT_PARAM_DATA_TYPE, (char *)(uintptr_t)key_names[key->kind], strlen(key_names[key->kind])),
        OSSL_PARAM_octet_string(OSSL_OBJECT_PARAM_REFERENCE, &reference, sizeof reference),
        OSSL_PARAM_END,
    };
    int done = callback(object, argument);
    key_free(reference); /* NULL once it was taken */
    return done;
}

/* ---- using ---------------------------------------------------------------------------------------------------------- */

static CK_RV run(CK_SESSION_HANDLE session, const struct key *key, CK_MECHANISM *mechanism, const unsigned char *in, size_t in_len,
                 unsigned char *out, size_t *out_len)
{
    CK_RV rv = token_module->C_SignInit(session, mechanism, key->handle);
    return rv == CKR_OK ? token_module->C_Sign(session, (CK_BYTE *)(uintptr_t)in, in_len, out, out_len) : rv;
}

bool key_sign(struct key *key, CK_MECHANISM *mechanism, const unsigned char *in, size_t in_len, unsigned char *out, size_t *out_len)
{
    CK_SESSION_HANDLE session;
    CK_RV rv = CKR_OK;
    size_t room = *out_len;
    bool lost = true;
    for (int attempt = 0; lost && attempt < 2; attempt++) { /* the second one after a fork, or when the login has ended */
        if (!token_lend(key->provider, key->slot, &session)) {
            return false;
        }
        *out_len = room;
        rv = run(session, key, mechanism, in, in_len, out, out_len);
        lost = token_lost(key->slot, rv);
    }
    if (!lost) {
        token_give_back(key->slot, session);
    }
    return rv == CKR_OK || FAIL_RV(key->provider, "C_Sign", rv) != 0;
}
