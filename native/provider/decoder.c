/* DECODER: the reference PEM, a key's name in the place of a key. The PEM is taken off first, as OpenSSL's own decoders do it,
 * so that readers which look at DER alone (OSSL_STORE's file:) get there, too. ADR 11 has the form. */
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <string.h>

#include "provider.h"
#include "reference.h"

static const char label[] = "PKCS#11 PROVIDER URI";

enum { REFERENCE_MAX = 2048 };

static void *decoder_new(void *provider)
{
    return provider;
}

static void decoder_free(void *context)
{
    (void)context;
}

/* "Empty-handed" is a success: the next decoder has its turn. */
enum { EMPTY_HANDED = 1 };

static int pem_decode(void *context, OSSL_CORE_BIO *core, int selection, OSSL_CALLBACK *callback, void *argument,
                      OSSL_PASSPHRASE_CALLBACK *ask, void *ask_argument)
{
    const struct provider *provider = context;
    char *name = NULL, *header = NULL;
    unsigned char *der = NULL;
    long len = 0;
    int done = EMPTY_HANDED;
    (void)selection;
    (void)ask;
    (void)ask_argument;
    BIO *bio = BIO_new_from_core_bio(provider->library, core);
    if (bio != NULL && PEM_read_bio(bio, &name, &header, &der, &len) == 1 && strcmp(name, label) == 0) {
        const OSSL_PARAM object[] = {OSSL_PARAM_octet_string(OSSL_OBJECT_PARAM_DATA, der, (size_t)len), OSSL_PARAM_END};
        done = callback(object, argument);
    }
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(der);
    BIO_free(bio);
    return done;
}

static int pass_named(const struct provider *provider, enum key_kind kind, const char *name, size_t len, OSSL_CALLBACK *callback,
                      void *argument)
{
    struct uri uri;
    struct key_list found;
    const char *why;
    struct key *chosen = NULL;
    if (!uri_parse(name, len, &uri, &why)) {
        return FAIL(provider, REASON_NAME, "the key's name in the PEM: %s", why);
    }
    if (!uri.type.given) {
        uri.object_class = CKO_PRIVATE_KEY;
    }
    bool fine = key_find(provider, &uri, &found);
    uri_wipe(&uri);
    if (!fine) {
        return 0;
    }
    if (found.count > 1) {
        FAIL(provider, REASON_NAME, "%u keys have the name in the PEM; name one by its id: hsmsim key generate-file --id", found.count);
    } else if (found.keys[0]->kind == kind) {
        chosen = key_hold(found.keys[0]);
    }
    bool several = found.count > 1;
    while (found.count > 0) {
        key_free(found.keys[--found.count]);
    }
    return chosen == NULL ? !several : key_pass(chosen, callback, argument);
}

static int decode(const struct provider *provider, enum key_kind kind, OSSL_CORE_BIO *core, OSSL_CALLBACK *callback, void *argument)
{
    unsigned char der[REFERENCE_MAX];
    const char *name;
    size_t len = 0, name_len;
    BIO *bio = BIO_new_from_core_bio(provider->library, core);
    bool read = bio != NULL && BIO_read_ex(bio, der, sizeof der, &len) == 1;
    BIO_free(bio);
    return read && reference_parse(der, len, &name, &name_len) ? pass_named(provider, kind, name, name_len, callback, argument) : EMPTY_HANDED;
}

#define DECODER(lower, kind)                                                                                            \
    static int lower##_decode(void *context, OSSL_CORE_BIO *core, int selection, OSSL_CALLBACK *callback, void *argument, \
                              OSSL_PASSPHRASE_CALLBACK *ask, void *ask_argument)                                        \
    {                                                                                                                   \
        (void)selection;                                                                                                \
        (void)ask;                                                                                                      \
        (void)ask_argument;                                                                                             \
        return decode(context, kind, core, callback, argument);                                                         \
    }                                                                                                                   \
    const OSSL_DISPATCH decoder_##lower[] = {                                                                           \
        FUNCTION(OSSL_FUNC_DECODER_NEWCTX, decoder_new),                                                                \
        FUNCTION(OSSL_FUNC_DECODER_FREECTX, decoder_free),                                                              \
        FUNCTION(OSSL_FUNC_DECODER_DECODE, lower##_decode),                                                             \
        NO_FUNCTION,                                                                                                    \
    }
DECODER(rsa, KEY_RSA);
DECODER(ec, KEY_EC);
DECODER(ed25519, KEY_ED25519);

const OSSL_DISPATCH decoder_pem[] = {
    FUNCTION(OSSL_FUNC_DECODER_NEWCTX, decoder_new),
    FUNCTION(OSSL_FUNC_DECODER_FREECTX, decoder_free),
    FUNCTION(OSSL_FUNC_DECODER_DECODE, pem_decode),
    NO_FUNCTION,
};
