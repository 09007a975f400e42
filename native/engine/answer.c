#include "answer.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "connection.h"
#include "pkcs11.h"
#include "rings.h"

static bool still_there(const struct sink *sink)
{
    return sink->connection != NULL && sink->connection->fd >= 0 && sink->connection->generation == sink->generation;
}

static void finish(struct dispatch *dispatch, struct held *held)
{
    if (held->client != NULL) {
        rights_client_release(dispatch->rights, held->client);
    }
    if (held->sink.ring != NULL) {
        ring_release(held->sink.ring);
    }
    held_free(held);
}

static void deliver(const struct sink *sink, const uint8_t *frame, size_t len)
{
    if (sink->ring != NULL) {
        struct ring_wakes wakes = {0};
        ring_answer(sink->ring, sink->slot, frame, len, &wakes);
        ring_wake_all(&wakes);
        return;
    }
    struct connection *connection = sink->connection;
    pthread_mutex_lock(&connection->lock);
    if (still_there(sink)) {
        connection->waiting = false;
        if (connection_queue(connection, frame, len) && connection_flush(connection)) {
            connection->drained = false; /* look again: more frames may be buffered */
            connection_arm(connection);
        } else {
            connection_drop(connection);
        }
    }
    pthread_mutex_unlock(&connection->lock);
}

void answer_held(struct dispatch *dispatch, struct held *held, uint64_t rv, const uint8_t *payload, size_t len)
{
    const struct sink *sink = &held->sink;
    bool event = sink->ring == NULL && sink->connection == NULL;
    uint8_t *frame = event ? NULL : malloc(WIRE_HEADER_SIZE + len);
    if (frame != NULL) {
        if (len != 0) {
            memcpy(frame + WIRE_HEADER_SIZE, payload, len);
        }
        size_t room = sink->ring != NULL ? RING_FRAME : WIRE_HEADER_SIZE + len;
        deliver(sink, frame, dispatch_seal(dispatch, &held->header, rv, frame, len, room));
        OPENSSL_cleanse(frame, WIRE_HEADER_SIZE + len);
        free(frame);
    }
    finish(dispatch, held);
}

void answer_again(struct dispatch *dispatch, struct held *held)
{
    struct executor executor;
    size_t len = 0;
    bool miss = false;
    uint64_t rv = executor_init(&executor) ? dispatch_again(dispatch, &executor, held, &len, &miss) : CKR_DEVICE_MEMORY;
    if (miss) { /* evicted or dropped since: the firmware decides again */
        queue_put(dispatch->queue, held);
    } else {
        answer_held(dispatch, held, rv, len == 0 ? NULL : executor.frame + WIRE_HEADER_SIZE, len);
    }
    executor_free(&executor);
}
