/* The OpenSSL 3 provider: names of keys become EVP_PKEYs whose private half stays in the HSM.
 *
 * uri.c reads names, token.c logs in and lends sessions, key.c finds a key and its public half; store.c and decoder.c are
 * OpenSSL's two ways in, keymgmt.c says what a key is, signature.c uses it. All of it speaks Cryptoki to the module,
 * which is linked in; what needs no private key is done by OpenSSL's default provider, which gets the public half. */
#ifndef HSMSIM_PROVIDER_H
#define HSMSIM_PROVIDER_H

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/evp.h>
#include <stdbool.h>

#include "pkcs11.h"
#include "uri.h"

struct provider {
    const OSSL_CORE_HANDLE *core;
    OSSL_LIB_CTX *library; /* of our own: public halves and digests never come back to this provider */
    OSSL_FUNC_core_new_error_fn *new_error;
    OSSL_FUNC_core_set_error_debug_fn *set_error_debug;
    OSSL_FUNC_core_vset_error_fn *vset_error;
    const char *pin_source; /* of openssl.cnf; NULL: not given */
};

/* Puts an error on OpenSSL's queue and a line into the module's log; returns 0, what a provider's function answers then. */
enum reason { REASON_HSM = 1, REASON_NAME, REASON_KEY, REASON_PIN, REASON_PARAMETER, REASON_MEMORY };
#define FAIL(provider, reason, ...) provider_fail(provider, reason, __FILE__, __LINE__, __func__, __VA_ARGS__)
int provider_fail(const struct provider *provider, enum reason reason, const char *file, int line, const char *function, const char *format,
                  ...) __attribute__((format(printf, 6, 7)));
/* The same for a Cryptoki call. */
#define FAIL_RV(provider, call, rv) FAIL(provider, REASON_HSM, "%s: 0x%lx (%s)", call, rv, token_advice(rv))

#define FUNCTION(id, function) {id, (void (*)(void))(function)}
#define NO_FUNCTION {0, NULL}

/* ---- pin.c ---------------------------------------------------------------------------------------------------------- */

/* user:password, in a page of its own that is locked and in no core. It is kept for the process's children: a server reads it
 * as root and its workers log in as somebody else. */
struct pin {
    size_t len;
    CK_UTF8CHAR text[384];
};
/* Of the name, else of openssl.cnf (pin-source), else HSMSIM_PIN. NULL: none, an error says so. */
struct pin *pin_get(const struct provider *provider, const struct uri *uri);
void pin_free(struct pin *pin);

/* ---- token.c -------------------------------------------------------------------------------------------------------- */

/* The slots that the name means, at most `room`; 0: an error says why. */
unsigned token_slots(const struct provider *provider, const struct uri *uri, CK_SLOT_ID *out, unsigned room);
/* The slot is logged in to. The PIN is the pool's from then on. */
bool token_login(const struct provider *provider, CK_SLOT_ID slot, const struct uri *uri);
/* A session that nobody else uses until it is given back. In a forked child: a new one, with the login brought along. */
bool token_lend(const struct provider *provider, CK_SLOT_ID slot, CK_SESSION_HANDLE *out);
void token_give_back(CK_SLOT_ID slot, CK_SESSION_HANDLE session);
/* After an answer that means that sessions or the login are gone; false: it means something else. */
bool token_lost(CK_SLOT_ID slot, CK_RV rv);
const char *token_advice(CK_RV rv);
extern CK_FUNCTION_LIST_PTR token_module;

/* ---- key.c ---------------------------------------------------------------------------------------------------------- */

enum key_kind { KEY_RSA, KEY_EC, KEY_ED25519, KEY_KINDS };
extern const char *const key_names[KEY_KINDS];

struct key {
    const struct provider *provider;
    _Atomic unsigned references;
    enum key_kind kind;
    bool private;
    CK_SLOT_ID slot;
    CK_OBJECT_HANDLE handle; /* the same in every process and on every HSM of the cluster */
    EVP_PKEY *public;
};
struct key *key_hold(struct key *key);
void key_free(struct key *key);

struct key_list {
    struct key *keys[64];
    unsigned count;
};
/* All keys of the name, private ones first. false: an error says why; finding none is an error, too. */
bool key_find(const struct provider *provider, const struct uri *uri, struct key_list *found);
/* Hands a key to OpenSSL, as store and decoder do. It is OpenSSL's afterwards, or gone. */
int key_pass(struct key *key, OSSL_CALLBACK *callback, void *argument);

/* C_SignInit and C_Sign, with a session that is lent for them. false: an error says why. */
bool key_sign(struct key *key, CK_MECHANISM *mechanism, const unsigned char *in, size_t in_len, unsigned char *out, size_t *out_len);

/* ---- hashes --------------------------------------------------------------------------------------------------------- */

struct hash {
    const char *name;
    int nid;
    unsigned size;
    CK_MECHANISM_TYPE mechanism;
    CK_RSA_PKCS_MGF_TYPE mgf;
    unsigned char prefix[19]; /* of DigestInfo (RFC 8017 9.2, note 1) */
    unsigned char prefix_len;
};
/* NULL: an error says so. */
const struct hash *hash_find(const struct provider *provider, const char *name);

/* ---- what OpenSSL asks for ------------------------------------------------------------------------------------------ */

extern const OSSL_DISPATCH keymgmt_rsa[], keymgmt_ec[], keymgmt_ed25519[];
extern const OSSL_DISPATCH signature_functions[], signature_ed25519[];
extern const OSSL_DISPATCH store_functions[];
extern const OSSL_DISPATCH decoder_pem[], decoder_rsa[], decoder_ec[], decoder_ed25519[];

#endif
