/* KEYMGMT: what OpenSSL may know of a key. All of it is the public half's; the private half answers only that it is there. */
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <string.h>

#include "provider.h"

static void *keymgmt_load(const void *reference, size_t size)
{
    struct key **passed = (struct key **)(uintptr_t)reference; /* key_pass's: it sees that the key was taken */
    if (size != sizeof *passed) {
        return NULL;
    }
    struct key *key = *passed;
    *passed = NULL;
    return key;
}

static void *keymgmt_dup(const void *key, int selection)
{
    (void)selection;
    return key_hold((struct key *)(uintptr_t)key);
}

static int keymgmt_has(const void *data, int selection)
{
    const struct key *key = data;
    return key->private || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) == 0;
}

static int keymgmt_match(const void *one, const void *other, int selection)
{
    const struct key *a = one, *b = other;
    bool parameters_only = (selection & OSSL_KEYMGMT_SELECT_KEYPAIR) == 0;
    return parameters_only ? EVP_PKEY_parameters_eq(a->public, b->public) == 1 : EVP_PKEY_eq(a->public, b->public) == 1;
}

static int keymgmt_get_params(void *data, OSSL_PARAM params[])
{
    const struct key *key = data;
    static const char *const digests[KEY_KINDS] = {"SHA256", "SHA256", ""};
    OSSL_PARAM *hash = OSSL_PARAM_locate(params, key->kind == KEY_ED25519 ? OSSL_PKEY_PARAM_MANDATORY_DIGEST : OSSL_PKEY_PARAM_DEFAULT_DIGEST);
    return EVP_PKEY_get_params(key->public, params) == 1 && (hash == NULL || OSSL_PARAM_set_utf8_string(hash, digests[key->kind]));
}

#define NUMBER(name) OSSL_PARAM_int(name, NULL)
#define TEXT(name) OSSL_PARAM_utf8_string(name, NULL, 0)
#define OCTETS(name) OSSL_PARAM_octet_string(name, NULL, 0)
#define BIGNUM_(name) OSSL_PARAM_BN(name, NULL, 0)

static const OSSL_PARAM *keymgmt_gettable(void *provider)
{
    static const OSSL_PARAM all[] = {
        NUMBER(OSSL_PKEY_PARAM_BITS), NUMBER(OSSL_PKEY_PARAM_SECURITY_BITS), NUMBER(OSSL_PKEY_PARAM_MAX_SIZE),
        TEXT(OSSL_PKEY_PARAM_DEFAULT_DIGEST), TEXT(OSSL_PKEY_PARAM_MANDATORY_DIGEST), TEXT(OSSL_PKEY_PARAM_GROUP_NAME),
        OCTETS(OSSL_PKEY_PARAM_PUB_KEY), OCTETS(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), BIGNUM_(OSSL_PKEY_PARAM_RSA_N),
        BIGNUM_(OSSL_PKEY_PARAM_RSA_E), OSSL_PARAM_END,
    };
    (void)provider;
    return all;
}

/* Who asks for the private half as well is refused, and not given a public key in its place: so OpenSSL signs here. */
static int keymgmt_export(void *data, int selection, OSSL_CALLBACK *callback, void *argument)
{
    const struct key *key = data;
    OSSL_PARAM *params = NULL;
    if (key->private && (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0) {
        return 0;
    }
    int done = EVP_PKEY_todata(key->public, selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY ? EVP_PKEY_PUBLIC_KEY : EVP_PKEY_KEY_PARAMETERS,
                               &params) == 1 &&
               callback(params, argument);
    OSSL_PARAM_free(params);
    return done;
}

static const OSSL_PARAM *keymgmt_export_types(int selection)
{
    static const OSSL_PARAM all[] = {TEXT(OSSL_PKEY_PARAM_GROUP_NAME), OCTETS(OSSL_PKEY_PARAM_PUB_KEY), BIGNUM_(OSSL_PKEY_PARAM_RSA_N),
                                     BIGNUM_(OSSL_PKEY_PARAM_RSA_E), OSSL_PARAM_END};
    return (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 ? NULL : all;
}

static const char *ec_operation(int operation)
{
    return operation == OSSL_OP_SIGNATURE ? "ECDSA" : "EC";
}

#define KEYMGMT                                                                                                    \
    FUNCTION(OSSL_FUNC_KEYMGMT_LOAD, keymgmt_load), FUNCTION(OSSL_FUNC_KEYMGMT_FREE, key_free),                    \
        FUNCTION(OSSL_FUNC_KEYMGMT_DUP, keymgmt_dup), FUNCTION(OSSL_FUNC_KEYMGMT_HAS, keymgmt_has),                \
        FUNCTION(OSSL_FUNC_KEYMGMT_MATCH, keymgmt_match), FUNCTION(OSSL_FUNC_KEYMGMT_GET_PARAMS, keymgmt_get_params), \
        FUNCTION(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, keymgmt_gettable), FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT, keymgmt_export), \
        FUNCTION(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, keymgmt_export_types)
const OSSL_DISPATCH keymgmt_rsa[] = {KEYMGMT, NO_FUNCTION};
const OSSL_DISPATCH keymgmt_ed25519[] = {KEYMGMT, NO_FUNCTION};
const OSSL_DISPATCH keymgmt_ec[] = {KEYMGMT, FUNCTION(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, ec_operation), NO_FUNCTION};
