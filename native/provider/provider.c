/* The provider itself: what it offers, its errors, its options in openssl.cnf. */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <string.h>

#include "log.h"
#include "provider.h"

#define OFFER(names, properties, functions) {names, "provider=hsmsim" properties, functions, NULL}
#define END {NULL, NULL, NULL, NULL}
#define RSA_NAMES "RSA:rsaEncryption:1.2.840.113549.1.1.1"
#define EC_NAMES "EC:id-ecPublicKey:1.2.840.10045.2.1"
#define ED25519_NAMES "ED25519:1.3.101.112"

static const OSSL_ALGORITHM keymgmts[] = {
    OFFER(RSA_NAMES, "", keymgmt_rsa), OFFER(EC_NAMES, "", keymgmt_ec), OFFER(ED25519_NAMES, "", keymgmt_ed25519), END};
static const OSSL_ALGORITHM signatures[] = {
    OFFER(RSA_NAMES, "", signature_functions), OFFER("ECDSA", "", signature_functions), OFFER(ED25519_NAMES, "", signature_ed25519), END};
static const OSSL_ALGORITHM stores[] = {OFFER("pkcs11", "", store_functions), END};
static const OSSL_ALGORITHM decoders[] = {
    OFFER("DER", ",input=pem", decoder_pem),
    OFFER(RSA_NAMES, ",input=der,structure=pk11-uri", decoder_rsa),
    OFFER(EC_NAMES, ",input=der,structure=pk11-uri", decoder_ec),
    OFFER(ED25519_NAMES, ",input=der,structure=pk11-uri", decoder_ed25519),
    END,
};

static const struct {
    int operation;
    const OSSL_ALGORITHM *algorithms;
} offers[] = {{OSSL_OP_KEYMGMT, keymgmts},
              {OSSL_OP_SIGNATURE, signatures},
              {OSSL_OP_STORE, stores},
              {OSSL_OP_DECODER, decoders}};

static const OSSL_ALGORITHM *query(void *context, int operation, int *no_cache)
{
    (void)context;
    *no_cache = 0;
    for (size_t i = 0; i < sizeof offers / sizeof *offers; i++) {
        if (offers[i].operation == operation) {
            return offers[i].algorithms;
        }
    }
    return NULL;
}

static const OSSL_ITEM *reasons(void *context)
{
    static const OSSL_ITEM all[] = {
        {REASON_HSM, (void *)(uintptr_t)"the HSM"},        {REASON_NAME, (void *)(uintptr_t)"key not found"},
        {REASON_KEY, (void *)(uintptr_t)"wrong key"},      {REASON_PIN, (void *)(uintptr_t)"no PIN"},
        {REASON_PARAMETER, (void *)(uintptr_t)"parameter"}, {REASON_MEMORY, (void *)(uintptr_t)"no memory"},
        {0, NULL},
    };
    (void)context;
    return all;
}

int provider_fail(const struct provider *provider, enum reason reason, const char *file, int line, const char *function, const char *format,
                  ...)
{
    va_list arguments;
    provider->new_error(provider->core);
    provider->set_error_debug(provider->core, file, line, function);
    va_start(arguments, format);
    provider->vset_error(provider->core, (uint32_t)reason, format, arguments);
    va_end(arguments);
    va_start(arguments, format);
    log_arguments(LEVEL_WARN, format, arguments); /* OpenSSL drops what a decoder says when no other one can read the file either */
    va_end(arguments);
    return 0;
}

static const OSSL_PARAM *gettable(void *context)
{
    static const OSSL_PARAM all[] = {
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_NAME, NULL, 0),
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_VERSION, NULL, 0),
        OSSL_PARAM_int(OSSL_PROV_PARAM_STATUS, NULL),
        OSSL_PARAM_END,
    };
    (void)context;
    return all;
}

static int get_params(void *context, OSSL_PARAM params[])
{
    OSSL_PARAM *name = OSSL_PARAM_locate(params, OSSL_PROV_PARAM_NAME), *version = OSSL_PARAM_locate(params, OSSL_PROV_PARAM_VERSION);
    OSSL_PARAM *status = OSSL_PARAM_locate(params, OSSL_PROV_PARAM_STATUS);
    (void)context;
    return (name == NULL || OSSL_PARAM_set_utf8_ptr(name, "hsmsim keys in an HSM")) &&
           (version == NULL || OSSL_PARAM_set_utf8_ptr(version, HSMSIM_VERSION)) && (status == NULL || OSSL_PARAM_set_int(status, 1));
}

static void teardown(void *context)
{
    struct provider *provider = context;
    OSSL_LIB_CTX_free(provider->library);
    OPENSSL_free(provider);
}

static const OSSL_DISPATCH functions[] = {
    FUNCTION(OSSL_FUNC_PROVIDER_TEARDOWN, teardown),
    FUNCTION(OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, gettable),
    FUNCTION(OSSL_FUNC_PROVIDER_GET_PARAMS, get_params),
    FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
    FUNCTION(OSSL_FUNC_PROVIDER_GET_REASON_STRINGS, reasons),
    NO_FUNCTION,
};

static void (*find(const OSSL_DISPATCH *in, int id))(void)
{
    while (in->function_id != 0 && in->function_id != id) {
        in++;
    }
    return in->function;
}

/* Called while OpenSSL reads its configuration: nothing here may look at an HSM or fetch an algorithm. */
__attribute__((visibility("default"))) int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                                                              const OSSL_DISPATCH **out, void **context)
{
    struct provider *provider = OPENSSL_zalloc(sizeof *provider);
    OSSL_FUNC_core_get_params_fn *core_params = (OSSL_FUNC_core_get_params_fn *)find(in, OSSL_FUNC_CORE_GET_PARAMS);
    if (provider == NULL) {
        return 0;
    }
    OSSL_PARAM options[] = {OSSL_PARAM_utf8_ptr("pin-source", (char **)(uintptr_t)&provider->pin_source, 0), OSSL_PARAM_END};
    provider->core = handle;
    provider->new_error = (OSSL_FUNC_core_new_error_fn *)find(in, OSSL_FUNC_CORE_NEW_ERROR);
    provider->set_error_debug = (OSSL_FUNC_core_set_error_debug_fn *)find(in, OSSL_FUNC_CORE_SET_ERROR_DEBUG);
    provider->vset_error = (OSSL_FUNC_core_vset_error_fn *)find(in, OSSL_FUNC_CORE_VSET_ERROR);
    provider->library = OSSL_LIB_CTX_new_from_dispatch(handle, in);
    if (provider->library == NULL || core_params == NULL || !core_params(handle, options)) {
        OSSL_LIB_CTX_free(provider->library);
        OPENSSL_free(provider);
        return 0;
    }
    *out = functions;
    *context = provider;
    return 1;
}
