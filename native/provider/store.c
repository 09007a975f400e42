/* OSSL_STORE: pkcs11: URIs. */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>
#include <openssl/store.h>
#include <string.h>

#include "provider.h"

struct store {
    const struct provider *provider;
    struct uri uri;
    bool searched;
    struct key_list found;
    unsigned next;
};

static void *store_open(void *provider, const char *name)
{
    const char *why;
    struct store *store = OPENSSL_zalloc(sizeof *store);
    if (store == NULL) {
        return NULL;
    }
    store->provider = provider;
    if (!uri_parse(name, strlen(name), &store->uri, &why)) {
        FAIL(store->provider, REASON_NAME, "the key's name: %s", why);
        OPENSSL_free(store);
        return NULL;
    }
    return store;
}

static const OSSL_PARAM *store_settable(void *provider)
{
    static const OSSL_PARAM all[] = {OSSL_PARAM_int(OSSL_STORE_PARAM_EXPECT, NULL), OSSL_PARAM_END};
    (void)provider;
    return all;
}

/* What the caller is after narrows a name without a type. */
static int store_set_params(void *data, const OSSL_PARAM params[])
{
    struct store *store = data;
    int expected = 0;
    const OSSL_PARAM *param = OSSL_PARAM_locate_const(params, OSSL_STORE_PARAM_EXPECT);
    if (param != NULL && !OSSL_PARAM_get_int(param, &expected)) {
        return 0;
    }
    if (!store->uri.type.given && (expected == OSSL_STORE_INFO_PKEY || expected == OSSL_STORE_INFO_PUBKEY)) {
        store->uri.object_class = expected == OSSL_STORE_INFO_PKEY ? CKO_PRIVATE_KEY : CKO_PUBLIC_KEY;
    }
    return 1;
}

static int store_load(void *data, OSSL_CALLBACK *callback, void *argument, OSSL_PASSPHRASE_CALLBACK *ask, void *ask_argument)
{
    struct store *store = data;
    (void)ask;
    (void)ask_argument;
    if (!store->searched) {
        store->searched = true;
        if (!key_find(store->provider, &store->uri, &store->found)) {
            return 0;
        }
    }
    return store->next < store->found.count && key_pass(store->found.keys[store->next++], callback, argument);
}

static int store_eof(void *data)
{
    const struct store *store = data;
    return store->searched && store->next == store->found.count;
}

static int store_close(void *data)
{
    struct store *store = data;
    while (store->next < store->found.count) {
        key_free(store->found.keys[store->next++]);
    }
    uri_wipe(&store->uri);
    OPENSSL_free(store);
    return 1;
}

const OSSL_DISPATCH store_functions[] = {
    FUNCTION(OSSL_FUNC_STORE_OPEN, store_open),
    FUNCTION(OSSL_FUNC_STORE_SETTABLE_CTX_PARAMS, store_settable),
    FUNCTION(OSSL_FUNC_STORE_SET_CTX_PARAMS, store_set_params),
    FUNCTION(OSSL_FUNC_STORE_LOAD, store_load),
    FUNCTION(OSSL_FUNC_STORE_EOF, store_eof),
    FUNCTION(OSSL_FUNC_STORE_CLOSE, store_close),
    NO_FUNCTION,
};
