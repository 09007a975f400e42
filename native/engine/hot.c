#include "hot.h"

#include <stdlib.h>
#include <string.h>

#include "pkcs11.h"

enum { /* usage bits of KEY_FACTS */
    USE_ENCRYPT = 1 << 0,
    USE_DECRYPT = 1 << 1,
    USE_SIGN = 1 << 2,
    USE_VERIFY = 1 << 3,
    USE_SIGN_RECOVER = 1 << 4,
    USE_VERIFY_RECOVER = 1 << 5,
};

struct call {
    struct rights *rights;
    struct crypto_worker *worker;
    struct client *client;
    uint64_t session;
    struct wire_reader reader;
    struct gathering *gathering;
    struct throttle *throttle;
    struct wire_writer *out;
    enum hot_outcome outcome;
};

static struct key_entry *use(struct call *call, uint64_t handle, uint32_t usage, uint64_t mechanism, uint64_t *rv)
{
    struct key_entry *entry = rights_key_use(call->rights, call->client, call->session, handle, usage, mechanism, rv);
    if (entry == NULL && *rv == CKR_OK) {
        call->outcome = HOT_MISS;
    }
    if (entry != NULL && !throttle_allows(call->throttle, entry->object_class, entry->key_type, key_object_bits(entry->object))) {
        rights_key_done(entry);
        *rv = WIRE_HSM_BUSY;
        return NULL;
    }
    return entry;
}

/* What has no lanes. */
#define ALONE(batch, place, key, request) false

/* One keyed operation: parse, find the key, run or gather, give the key back. */
#define KEYED(name, usage, gather)                                                                           \
    static uint64_t run_##name(struct call *call)                                                            \
    {                                                                                                        \
        struct wire_##name##_request request;                                                                \
        struct gathering *gathering = call->gathering;                                                       \
        if (wire_get_##name##_request(&call->reader, &request) != WIRE_OK) {                                 \
            call->outcome = HOT_MALFORMED;                                                                   \
            return CKR_DATA_INVALID;                                                                         \
        }                                                                                                    \
        uint64_t rv;                                                                                         \
        struct key_entry *entry = use(call, request.key, usage, request.mechanism.type, &rv);                \
        if (entry == NULL) {                                                                                 \
            return rv;                                                                                       \
        }                                                                                                    \
        if (gathering != NULL && gather(gathering->batch, gathering->place, entry->object, &request)) {      \
            gathering->keys[gathering->place] = entry;                                                       \
            call->outcome = HOT_LATER;                                                                       \
            return CKR_OK;                                                                                   \
        }                                                                                                    \
        rv = op_##name(call->worker, entry->object, &request, call->out);                                    \
        rights_key_done(entry);                                                                              \
        return rv;                                                                                           \
    }

KEYED(sign, USE_SIGN, batch_add_sign)
KEYED(verify, USE_VERIFY, ALONE)
KEYED(encrypt, USE_ENCRYPT, ALONE)
KEYED(decrypt, USE_DECRYPT, batch_add_decrypt)
KEYED(sign_recover, USE_SIGN_RECOVER, ALONE)
KEYED(verify_recover, USE_VERIFY_RECOVER, ALONE)

uint64_t hot_finish(struct gathering *gathering, unsigned place, struct wire_writer *out)
{
    uint64_t rv = batch_finish(gathering->batch, place, out);
    rights_key_done(gathering->keys[place]);
    gathering->keys[place] = NULL;
    return rv;
}

#define PARSE(name, request)                                                     \
    do {                                                                         \
        if (wire_get_##name##_request(&call->reader, request) != WIRE_OK) {      \
            call->outcome = HOT_MALFORMED;                                            \
            return CKR_DATA_INVALID;                                             \
        }                                                                        \
    } while (0)

static uint64_t run_random(struct call *call)
{
    struct wire_random_request request;
    PARSE(random, &request);
    return op_random(call->worker, &request, call->out);
}

static uint64_t run_seed_random(struct call *call)
{
    struct wire_seed_random_request request;
    PARSE(seed_random, &request);
    return op_seed_random(call->worker, &request, call->out);
}

static uint64_t run_ping(struct call *call)
{
    struct wire_ping_request request;
    PARSE(ping, &request);
    return CKR_OK;
}

/* ---- MAC streams: a client's, used by one connection at a time ----------------------------------------------------- */

static uint64_t keep_stream(struct client *client, struct mac_stream *stream, uint64_t *id)
{
    uint64_t rv = CKR_OK;
    pthread_mutex_lock(&client->streams_lock);
    if (client->stream_count == STREAMS_MAX) {
        rv = CKR_DEVICE_MEMORY;
    } else if (client->stream_count == client->stream_room) {
        size_t room = client->stream_room == 0 ? 8 : client->stream_room * 2;
        struct stream_entry *larger = realloc(client->streams, room * sizeof *larger);
        rv = larger == NULL ? CKR_HOST_MEMORY : CKR_OK;
        if (larger != NULL) {
            client->streams = larger;
            client->stream_room = room;
        }
    }
    if (rv == CKR_OK) {
        *id = ++client->next_stream;
        client->streams[client->stream_count++] = (struct stream_entry){.id = *id, .stream = stream};
    }
    pthread_mutex_unlock(&client->streams_lock);
    return rv;
}

/* Takes the stream out; the caller puts it back or frees it. NULL: no such stream, or in use. */
static struct mac_stream *take_stream(struct client *client, uint64_t id)
{
    struct mac_stream *stream = NULL;
    pthread_mutex_lock(&client->streams_lock);
    for (size_t i = 0; i < client->stream_count; i++) {
        if (client->streams[i].id == id) {
            stream = client->streams[i].stream;
            client->streams[i] = client->streams[--client->stream_count];
            break;
        }
    }
    pthread_mutex_unlock(&client->streams_lock);
    return stream;
}

static uint64_t put_back(struct client *client, struct mac_stream *stream, uint64_t id)
{
    pthread_mutex_lock(&client->streams_lock);
    bool room = client->stream_count < client->stream_room;
    if (room) {
        client->streams[client->stream_count++] = (struct stream_entry){.id = id, .stream = stream};
    }
    pthread_mutex_unlock(&client->streams_lock);
    if (!room) {
        mac_free(stream);
    }
    return room ? CKR_OK : CKR_DEVICE_MEMORY;
}

static uint64_t run_mac_begin(struct call *call)
{
    struct wire_mac_begin_request request;
    PARSE(mac_begin, &request);
    uint64_t rv;
    struct key_entry *entry = use(call, request.key, request.verify ? USE_VERIFY : USE_SIGN, request.mechanism.type, &rv);
    if (entry == NULL) {
        return rv;
    }
    struct mac_stream *stream = NULL;
    struct wire_mac_begin_response response;
    rv = mac_begin(entry->object, &request.mechanism, request.verify != 0, &stream);
    rights_key_done(entry);
    if (rv != CKR_OK) {
        return rv;
    }
    rv = keep_stream(call->client, stream, &response.stream);
    if (rv != CKR_OK) {
        mac_free(stream);
        return rv;
    }
    return wire_put_mac_begin_response(call->out, &response) == WIRE_OK ? CKR_OK : CKR_DEVICE_MEMORY;
}

static uint64_t run_mac_update(struct call *call)
{
    struct wire_mac_update_request request;
    PARSE(mac_update, &request);
    struct mac_stream *stream = take_stream(call->client, request.stream);
    if (stream == NULL) {
        return CKR_OPERATION_NOT_INITIALIZED;
    }
    uint64_t rv = mac_update(stream, request.data.data, request.data.len);
    uint64_t kept = put_back(call->client, stream, request.stream);
    return rv == CKR_OK ? kept : rv;
}

static uint64_t run_mac_final(struct call *call)
{
    struct wire_mac_final_request request;
    PARSE(mac_final, &request);
    struct mac_stream *stream = take_stream(call->client, request.stream);
    if (stream == NULL) {
        return CKR_OPERATION_NOT_INITIALIZED;
    }
    uint64_t rv = mac_final(stream, request.expected, call->out);
    mac_free(stream);
    return rv;
}

static uint64_t run_mac_cancel(struct call *call)
{
    struct wire_mac_cancel_request request;
    PARSE(mac_cancel, &request);
    mac_free(take_stream(call->client, request.stream));
    return CKR_OK;
}

static const struct {
    uint16_t op;
    bool keyed, session;
    uint64_t (*run)(struct call *);
} calls[] = {
    {WIRE_OP_SIGN, true, true, run_sign},
    {WIRE_OP_VERIFY, true, true, run_verify},
    {WIRE_OP_ENCRYPT, true, true, run_encrypt},
    {WIRE_OP_DECRYPT, true, true, run_decrypt},
    {WIRE_OP_SIGN_RECOVER, true, true, run_sign_recover},
    {WIRE_OP_VERIFY_RECOVER, true, true, run_verify_recover},
    {WIRE_OP_MAC_BEGIN, true, true, run_mac_begin},
    {WIRE_OP_MAC_UPDATE, false, true, run_mac_update},
    {WIRE_OP_MAC_FINAL, false, true, run_mac_final},
    {WIRE_OP_MAC_CANCEL, false, false, run_mac_cancel},
    {WIRE_OP_RANDOM, false, true, run_random},
    {WIRE_OP_SEED_RANDOM, false, true, run_seed_random},
    {WIRE_OP_PING, false, false, run_ping},
};
enum { CALLS = sizeof calls / sizeof *calls };

bool hot_keyed(uint16_t op)
{
    for (size_t i = 0; i < CALLS; i++) {
        if (calls[i].op == op) {
            return calls[i].keyed;
        }
    }
    return false;
}

uint64_t hot_run(struct rights *rights, struct crypto_worker *worker, const struct hot_request *request,
                 struct gathering *gathering, struct wire_writer *out, enum hot_outcome *outcome)
{
    struct call call = {rights, worker, request->client, request->session, wire_reader(request->payload, request->len),
                        gathering, request->throttle, out, HOT_DONE};
    for (size_t i = 0; i < CALLS; i++) {
        if (calls[i].op != request->op) {
            continue;
        }
        uint64_t rv = calls[i].session && !calls[i].keyed ? rights_session(rights, request->client, request->session) : CKR_OK;
        rv = rv == CKR_OK ? calls[i].run(&call) : rv;
        *outcome = call.outcome;
        return rv;
    }
    *outcome = HOT_MALFORMED;
    return CKR_FUNCTION_NOT_SUPPORTED;
}
