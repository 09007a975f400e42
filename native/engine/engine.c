/* engine.h, function by function: thin, so that who does what is seen in one place. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "clock.h"
#include "crypto.h"
#include "faults.h"
#include "lanes.h"
#include "pkcs11.h"
#include "queue.h"
#include "rights.h"
#include "server.h"
#include "throttle.h"
#include "vault.h"

struct he_engine {
    struct masking *masking;
    struct rights *rights;
    struct queue *queue;
    struct server *server;
    struct vault *vault;
    int locked;
    bool batches;
    struct throttle throttle;
    _Atomic uint64_t serve_until, epoch;
    _Atomic(const struct faults *) faults;
    struct clock clock;
};

/* No core, no debugger of the same user, no page to swap where the limit allows. */
static int harden(void)
{
    struct rlimit none = {0, 0}, lock;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &none);
    if (getrlimit(RLIMIT_MEMLOCK, &lock) != 0 || lock.rlim_cur != RLIM_INFINITY) {
        return 0; /* MCL_FUTURE under a limit makes later mappings fail; the arena of keys is locked by itself */
    }
    return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

/* Each connection is a file, and so are a ring's bell and all that the HSM opens by itself: without room for that, a stranger
 * who connects often enough keeps it from its database. */
static uint32_t connections_within_limit(uint32_t wanted)
{
    enum { DEFAULT_CONNECTIONS = 2048, OWN_FILES = 512 };
    struct rlimit files;
    wanted = wanted == 0 ? DEFAULT_CONNECTIONS : wanted;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return wanted;
    }
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max >= (rlim_t)wanted + OWN_FILES) {
        return wanted;
    }
    return (uint32_t)(files.rlim_max > 2 * OWN_FILES ? files.rlim_max - OWN_FILES : files.rlim_max / 2);
}

he_engine *he_create(const he_config *config, char *error, size_t error_len)
{
    he_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        snprintf(error, error_len, "out of memory");
        return NULL;
    }
    engine->locked = harden();
    atomic_init(&engine->serve_until, UINT64_MAX);
    atomic_init(&engine->epoch, config->boot << 32 | 1);
    engine->clock.faults = &engine->faults;
    engine->masking = masking_new();
    engine->rights = rights_new(config->max_keys);
    engine->queue = queue_new();
    engine->batches = config->unbatched == 0 && config->reference == 0 && lanes_there();
    const uint32_t rates[THROTTLE_CLASSES] = {[THROTTLE_RSA] = config->rsa_rate, [THROTTLE_EC] = config->ec_rate};
    throttle_init(&engine->throttle, rates);
    const struct server_parts parts = {
        .rights = engine->rights,
        .queue = engine->queue,
        .reference = config->reference != 0,
        .batches = engine->batches,
        .workers = config->workers,
        .max_connections = connections_within_limit(config->max_connections),
        .serve_until = &engine->serve_until,
        .faults = &engine->faults,
        .epoch = &engine->epoch,
        .throttle = config->rsa_rate + config->ec_rate == 0 ? NULL : &engine->throttle,
    };
    engine->server = server_new(&parts);
    engine->vault = engine->masking == NULL ? NULL : vault_new(engine->masking);
    if (engine->vault == NULL || engine->rights == NULL || engine->queue == NULL || engine->server == NULL) {
        snprintf(error, error_len, "the engine could not get its memory, its epoll set or OpenSSL's library context");
        return NULL; /* the process ends now */
    }
    return engine;
}

void he_stop(he_engine *engine)
{
    queue_stop(engine->queue);
    server_stop(engine->server);
    rights_keys_clear(engine->rights);
}

int he_memory_locked(he_engine *engine)
{
    return engine->locked;
}

uint64_t he_device_load(he_engine *engine, const char *path)
{
    return device_load(engine->masking, path);
}
uint64_t he_device_create(const char *path)
{
    return device_create(path);
}
uint64_t he_device_public(he_engine *engine, uint8_t out[32])
{
    return device_public(engine->masking, out);
}
uint64_t he_device_signer(he_engine *engine, uint8_t *out, size_t *len)
{
    return device_signer(engine->masking, out, len);
}
uint64_t he_device_sign(he_engine *engine, const uint8_t digest[32], uint8_t *out, size_t *len)
{
    return device_sign(engine->masking, digest, out, len);
}
uint64_t he_masking_create(he_engine *engine)
{
    return masking_create(engine->masking);
}
uint64_t he_masking_seal(he_engine *engine, const uint8_t peer[32], const uint8_t *context, size_t context_len, uint8_t out[92])
{
    return masking_seal(engine->masking, peer, context, context_len, out);
}
uint64_t he_masking_open(he_engine *engine, const uint8_t sealed[92], const uint8_t *context, size_t context_len)
{
    return masking_open(engine->masking, sealed, context, context_len);
}
uint64_t he_masking_reseal(he_engine *engine, const uint8_t sealed[92], const uint8_t *context, size_t context_len,
                           const uint8_t peer[32], const uint8_t *new_context, size_t new_context_len, uint8_t out[92])
{
    return masking_reseal(engine->masking, sealed, context, context_len, peer, new_context, new_context_len, out);
}
uint64_t he_mac(he_engine *engine, const char *purpose, const uint8_t *data, size_t len, uint8_t out[32])
{
    return masking_mac(engine->masking, purpose, data, len, out);
}

uint64_t he_vault_bind(he_engine *engine, const char *library_path)
{
    return vault_bind(engine->vault, library_path);
}
uint64_t he_vault_init_token(he_engine *engine, uint64_t slot, uint64_t partition, const uint8_t label[32])
{
    return vault_init_token(engine->vault, slot, partition, label);
}
uint64_t he_vault_unlock(he_engine *engine, uint64_t slot, uint64_t partition, uint64_t *masking)
{
    return vault_unlock(engine->vault, slot, partition, masking);
}

uint64_t he_listen(he_engine *engine, const char *path)
{
    return server_listen(engine->server, path);
}
uint64_t he_clock(he_engine *engine, const char *path)
{
    return clock_follow(&engine->clock, path) ? CKR_OK : CKR_FUNCTION_FAILED;
}
uint64_t he_tls_clients(he_engine *engine, const he_clients *clients)
{
    return server_clients(engine->server, clients);
}
uint64_t he_listen_tls(he_engine *engine, const char *address, uint16_t port, const uint8_t *chain, size_t chain_len,
                       const he_material *key, const he_clients *clients, char *error, size_t error_len)
{
    struct tls *tls = NULL;
    uint64_t rv = tls_new(engine->masking, key, chain, chain_len, &engine->clock, &tls);
    if (rv == CKR_OK && (rv = tls_clients(tls, clients)) != CKR_OK) {
        tls_free(tls);
    }
    if (rv != CKR_OK) {
        snprintf(error, error_len, "the certificate is not for the cluster's key, or it or a trust anchor is none that TLS can use");
        return rv;
    }
    struct listener *listener = listener_open(address, port, tls, error, error_len);
    return listener == NULL ? CKR_FUNCTION_FAILED : server_listen_tls(engine->server, listener);
}
uint64_t he_run(he_engine *engine)
{
    return server_run(engine->server);
}
void he_serve_until(he_engine *engine, uint64_t deadline)
{
    atomic_store(&engine->serve_until, deadline);
}
void he_fips(he_engine *engine, uint32_t fips)
{
    rights_fips(engine->rights, fips != 0);
}
uint64_t he_faults(he_engine *engine, const char *path)
{
    const struct faults *faults = faults_map(path);
    atomic_store(&engine->faults, faults);
    return faults == NULL ? CKR_FUNCTION_FAILED : CKR_OK;
}
uint64_t he_epoch(he_engine *engine)
{
    return atomic_load(&engine->epoch);
}
void he_epoch_bump(he_engine *engine)
{
    atomic_fetch_add(&engine->epoch, 1);
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

int he_next(he_engine *engine, he_request *out, int timeout_ms)
{
    bool stopped;
    struct held *held = queue_next(engine->queue, timeout_ms, &stopped);
    if (held == NULL) {
        return stopped ? -1 : 0;
    }
    *out = (he_request){
        .id = held->id,
        .client = held->client == NULL ? 0 : held->client->id,
        .session = held->header.word,
        .op = held->header.op,
        .pid = held->pid,
        .uid = held->uid,
        .party = held->party,
        .certified = held->certified,
        .miss = held->miss,
        .payload = held->redacted,
        .len = held->len,
    };
    if (held->header.op == HE_OP_CLIENT_GONE) {
        out->id = 0;
        server_answer(engine->server, queue_take(engine->queue, held->id), 0, NULL, 0);
    }
    return 1;
}

uint64_t he_reply(he_engine *engine, uint64_t id, uint64_t rv, const uint8_t *payload, size_t len)
{
    struct held *held = queue_take(engine->queue, id);
    if (held == NULL) {
        return CKR_ARGUMENTS_BAD;
    }
    server_answer(engine->server, held, rv, payload, len);
    return CKR_OK;
}

uint64_t he_retry(he_engine *engine, uint64_t id)
{
    struct held *held = queue_take(engine->queue, id);
    if (held == NULL) {
        return CKR_ARGUMENTS_BAD;
    }
    server_retry(engine->server, held);
    return CKR_OK;
}

static uint64_t splice(he_engine *engine, const uint8_t *payload, size_t len, const he_splice *splices, size_t count,
                       struct secret *out)
{
    struct wire_writer writer = wire_writer(out->data, out->len);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (splices[i].offset < at || splices[i].offset > len) {
            return CKR_ARGUMENTS_BAD;
        }
        SECRET_SCOPED value = {0};
        uint64_t rv = material_component(engine->masking, &splices[i].material, splices[i].attribute, &value);
        if (rv != CKR_OK) {
            return rv;
        }
        const struct wire_bytes bytes = wire_bytes(value.data, (uint32_t)value.len);
        if (wire_put_raw(&writer, payload + at, splices[i].offset - at) != WIRE_OK || wire_put_bytes(&writer, &bytes) != WIRE_OK) {
            return CKR_DEVICE_MEMORY;
        }
        at = splices[i].offset;
    }
    if (wire_put_raw(&writer, payload + at, len - at) != WIRE_OK) {
        return CKR_DEVICE_MEMORY;
    }
    out->len = writer.len;
    return CKR_OK;
}

uint64_t he_reply_spliced(he_engine *engine, uint64_t id, uint64_t rv, const uint8_t *payload, size_t len,
                          const he_splice *splices, size_t count)
{
    enum { VALUE_MAX = 8192 };
    SECRET_SCOPED whole = {0};
    if (!secret_alloc(&whole, len + count * VALUE_MAX)) {
        return CKR_DEVICE_MEMORY;
    }
    uint64_t made = splice(engine, payload, len, splices, count, &whole);
    struct held *held = made == CKR_OK ? queue_take(engine->queue, id) : NULL;
    if (held != NULL) {
        server_answer(engine->server, held, rv, whole.data, whole.len);
    }
    return made != CKR_OK ? made : held == NULL ? CKR_ARGUMENTS_BAD : CKR_OK;
}

/* The bytes of a held request that Python saw as zeros; NULL: no such request or out of bounds. */
static const uint8_t *secret_of(he_engine *engine, uint64_t request, size_t offset, size_t len)
{
    const struct held *held = queue_find(engine->queue, request);
    bool inside = held != NULL && offset <= held->len && len <= held->len - offset;
    return inside ? held->payload.data + offset : NULL;
}

uint64_t he_password_hash(he_engine *engine, uint64_t request, size_t offset, size_t len, const uint8_t salt[16], uint8_t out[32])
{
    const uint8_t *password = secret_of(engine, request, offset, len);
    return password == NULL ? CKR_ARGUMENTS_BAD : password_hash(password, len, salt, out);
}

uint64_t he_secret_contains(he_engine *engine, uint64_t request, size_t offset, size_t len, uint8_t byte, int *found)
{
    const uint8_t *secret = secret_of(engine, request, offset, len);
    *found = secret != NULL && len != 0 && memchr(secret, byte, len) != NULL;
    return secret == NULL ? CKR_ARGUMENTS_BAD : CKR_OK;
}

uint64_t he_import(he_engine *engine, uint64_t request, size_t offset, uint64_t object_class, uint64_t key_type, uint8_t *out, size_t *len)
{
    const struct held *held = queue_find(engine->queue, request);
    if (held == NULL || offset > held->len) {
        return CKR_ARGUMENTS_BAD;
    }
    struct wire_reader reader = wire_reader(held->payload.data + offset, held->len - offset);
    struct wire_template template;
    if (wire_get_template(&reader, &template) != WIRE_OK) {
        return CKR_ARGUMENTS_BAD;
    }
    return material_import(engine->masking, &template, object_class, key_type, out, len);
}

/* ---- clients and keys -------------------------------------------------------------------------------------------------- */

uint64_t he_client_bind(he_engine *engine, uint64_t client, uint64_t partition)
{
    return rights_client_bind(engine->rights, client, partition);
}
uint64_t he_client_cookie(he_engine *engine, uint64_t client, uint8_t out[16])
{
    return rights_client_cookie(engine->rights, client, out);
}
uint64_t he_client_user(he_engine *engine, uint64_t client, uint64_t user, uint32_t role)
{
    return rights_client_user(engine->rights, client, user, role);
}
uint64_t he_client_peer(he_engine *engine, uint64_t client)
{
    return rights_client_peer(engine->rights, client);
}
uint64_t he_client_open_sessions(he_engine *engine, uint64_t client, const uint64_t *ids, size_t count)
{
    return rights_sessions_open(engine->rights, client, ids, count);
}
uint64_t he_client_close_sessions(he_engine *engine, uint64_t client, const uint64_t *ids, size_t count)
{
    return rights_sessions_close(engine->rights, client, ids, count);
}
uint64_t he_client_kick(he_engine *engine, uint64_t client)
{
    server_kick(engine->server, client);
    return CKR_OK;
}

uint64_t he_key_load(he_engine *engine, const he_key *key)
{
    struct key_object *object = NULL;
    uint64_t rv = key_object_open(engine->masking, &key->material, &object);
    while (rv == CKR_DEVICE_MEMORY && rights_key_evict(engine->rights)) {
        rv = key_object_open(engine->masking, &key->material, &object);
    }
    if (rv == CKR_OK && engine->batches) {
        key_object_widen(object);
    }
    return rv == CKR_OK ? rights_key_load(engine->rights, key, object) : rv;
}
uint64_t he_key_drop(he_engine *engine, uint64_t handle)
{
    rights_key_drop(engine->rights, handle);
    return CKR_OK;
}
uint64_t he_keys_clear(he_engine *engine)
{
    rights_keys_clear(engine->rights);
    return CKR_OK;
}

uint64_t he_generate(he_engine *engine, uint64_t key_type, const uint8_t *parameters, size_t parameters_len, uint8_t *out, size_t *len)
{
    return material_generate(engine->masking, key_type, parameters, parameters_len, out, len);
}
uint64_t he_public(he_engine *engine, const he_material *material, uint8_t *out, size_t *len)
{
    return material_public(engine->masking, material, out, len);
}
uint64_t he_sign(he_engine *engine, const he_material *material, uint64_t mechanism, const uint8_t *data, size_t data_len, uint8_t *out, size_t *len)
{
    return material_sign(engine->masking, material, mechanism, data, data_len, out, len);
}
uint64_t he_inspect(he_engine *engine, const he_material *material, uint32_t *bits, uint8_t check[3], size_t *check_len)
{
    return material_inspect(engine->masking, material, bits, check, check_len);
}
uint64_t he_wrap(he_engine *engine, const he_material *wrapping, const uint8_t *mechanism, size_t mechanism_len,
                 const he_material *key, uint8_t *out, size_t *len, uint8_t iv[16], size_t *iv_len)
{
    return material_wrap(engine->masking, wrapping, mechanism, mechanism_len, key, out, len, iv, iv_len);
}
uint64_t he_unwrap(he_engine *engine, const he_material *unwrapping, const uint8_t *mechanism, size_t mechanism_len,
                   const uint8_t *wrapped, size_t wrapped_len, uint64_t object_class, uint64_t key_type, uint8_t *out, size_t *len)
{
    return material_unwrap(engine->masking, unwrapping, mechanism, mechanism_len, wrapped, wrapped_len, object_class, key_type, out, len);
}
uint64_t he_derive(he_engine *engine, const he_material *base, const uint8_t *mechanism, size_t mechanism_len,
                   const he_material *salt, uint64_t key_type, size_t value_len, uint8_t *out, size_t *len)
{
    return material_derive(engine->masking, base, mechanism, mechanism_len, salt, key_type, value_len, out, len);
}

void he_counters(he_engine *engine, he_counts *out)
{
    memset(out, 0, sizeof *out);
    rights_counts(engine->rights, out);
    server_counts(engine->server, out);
}
