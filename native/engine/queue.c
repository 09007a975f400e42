#include "queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pkcs11.h"
#include "tables.h"

enum { BUCKETS = 256 };

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    struct held *first, **last;
    struct held *known[BUCKETS]; /* handed out, by id */
    uint64_t next_id;
    bool stopped;
};

struct queue *queue_new(void)
{
    struct queue *queue = calloc(1, sizeof *queue);
    if (queue != NULL) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_mutex_init(&queue->lock, NULL);
        pthread_cond_init(&queue->ready, &attributes);
        pthread_condattr_destroy(&attributes);
        queue->last = &queue->first;
    }
    return queue;
}

void queue_put(struct queue *queue, struct held *held)
{
    held->next = NULL;
    pthread_mutex_lock(&queue->lock);
    held->id = ++queue->next_id;
    *queue->last = held;
    queue->last = &held->next;
    pthread_cond_signal(&queue->ready);
    pthread_mutex_unlock(&queue->lock);
}

struct held *queue_next(struct queue *queue, int timeout_ms, bool *stopped)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&queue->lock);
    while (queue->first == NULL && !queue->stopped &&
           pthread_cond_timedwait(&queue->ready, &queue->lock, &until) != ETIMEDOUT) {
    }
    struct held *held = queue->stopped ? NULL : queue->first;
    *stopped = queue->stopped;
    if (held != NULL) {
        queue->first = held->next;
        if (queue->first == NULL) {
            queue->last = &queue->first;
        }
        held->next = queue->known[held->id % BUCKETS];
        queue->known[held->id % BUCKETS] = held;
    }
    pthread_mutex_unlock(&queue->lock);
    return held;
}

static struct held *look_up(struct queue *queue, uint64_t id, bool take)
{
    pthread_mutex_lock(&queue->lock);
    struct held **at = &queue->known[id % BUCKETS];
    while (*at != NULL && (*at)->id != id) {
        at = &(*at)->next;
    }
    struct held *held = *at;
    if (held != NULL && take) {
        *at = held->next;
    }
    pthread_mutex_unlock(&queue->lock);
    return held;
}

struct held *queue_find(struct queue *queue, uint64_t id)
{
    return look_up(queue, id, false);
}

struct held *queue_take(struct queue *queue, uint64_t id)
{
    return look_up(queue, id, true);
}

void queue_stop(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stopped = true;
    pthread_cond_broadcast(&queue->ready);
    pthread_mutex_unlock(&queue->lock);
}

void held_free(struct held *held)
{
    secret_free(&held->payload);
    if (held->redacted != NULL) {
        memory_wipe(held->redacted, held->len);
    }
    free(held->redacted);
    free(held);
}

/* ---- redaction --------------------------------------------------------------------------------------------------- */

static void zero(const uint8_t *payload, uint8_t *out, const uint8_t *from, size_t len)
{
    if (len != 0) {
        memset(out + (from - payload), 0, len);
    }
}

/* Only a template that says that it is no private or secret key may show its values. */
static bool shows_values(const struct wire_template *template)
{
    struct wire_reader reader = wire_reader(template->data, template->len);
    struct wire_attribute attribute;
    bool shows = false;
    while (wire_template_next(&reader, &attribute)) {
        if (attribute.type != CKA_CLASS) {
            continue;
        }
        uint64_t class;
        struct wire_reader value = wire_reader(attribute.value, attribute.len);
        bool known = attribute.len == sizeof class && wire_get_u64(&value, &class) == WIRE_OK;
        if (!known || (class != CKO_DATA && class != CKO_CERTIFICATE && class != CKO_PUBLIC_KEY)) {
            return false;
        }
        shows = true;
    }
    return shows;
}

static void redact_template(const uint8_t *payload, uint8_t *out, const struct wire_template *template)
{
    if (shows_values(template)) {
        return;
    }
    struct wire_reader reader = wire_reader(template->data, template->len);
    struct wire_attribute attribute;
    while (wire_template_next(&reader, &attribute)) {
        const struct attribute_info *info = attribute_find(attribute.type);
        if (info != NULL && info->secret && attribute.available) {
            zero(payload, out, attribute.value, attribute.len);
        }
    }
}

static enum wire_result redact_field(uint8_t field, struct wire_reader *reader, const uint8_t *payload, uint8_t *out)
{
    union {
        uint8_t u8;
        uint32_t u32;
        uint64_t u64;
        struct wire_bytes bytes;
        struct wire_mechanism mechanism;
        struct wire_template template;
        struct wire_list list;
        struct wire_strings strings;
    } value;
    switch ((enum wire_field)field) {
    case WIRE_FIELD_END: return WIRE_BAD;
    case WIRE_FIELD_U8: return wire_get_u8(reader, &value.u8);
    case WIRE_FIELD_U32: return wire_get_u32(reader, &value.u32);
    case WIRE_FIELD_U64: return wire_get_u64(reader, &value.u64);
    case WIRE_FIELD_BYTES: return wire_get_bytes(reader, &value.bytes);
    case WIRE_FIELD_SECRET:
        WIRE_TRY(wire_get_bytes(reader, &value.bytes));
        zero(payload, out, value.bytes.data, value.bytes.len);
        return WIRE_OK;
    case WIRE_FIELD_MECHANISM: return wire_get_mechanism(reader, &value.mechanism);
    case WIRE_FIELD_TEMPLATE:
        WIRE_TRY(wire_get_template(reader, &value.template));
        redact_template(payload, out, &value.template);
        return WIRE_OK;
    case WIRE_FIELD_TYPES:
    case WIRE_FIELD_HANDLES: return wire_get_list(reader, &value.list);
    case WIRE_FIELD_STRINGS: return wire_get_strings(reader, &value.strings);
    }
    return WIRE_BAD;
}

enum wire_result redact(const uint8_t *fields, const uint8_t *payload, size_t len, uint8_t *out)
{
    if (len != 0) {
        memcpy(out, payload, len);
    }
    struct wire_reader reader = wire_reader(payload, len);
    for (; *fields != WIRE_FIELD_END; fields++) {
        WIRE_TRY(redact_field(*fields, &reader, payload, out));
    }
    return wire_get_end(&reader);
}
