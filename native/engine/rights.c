#include "rights.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "pkcs11.h"
#include "tables.h"

enum { CLIENT_BUCKETS = 256, KEY_BUCKETS = 8192, DEFAULT_KEYS = 16384, ROLE_ADMIN = 1 };

struct rights {
    pthread_rwlock_t lock;
    struct client *clients[CLIENT_BUCKETS];
    struct key_entry *keys[KEY_BUCKETS];
    uint64_t next_client;
    uint32_t client_count, key_count, max_keys;
    atomic_ullong tick;
    atomic_bool fips;
};

struct rights *rights_new(uint32_t max_keys)
{
    struct rights *rights = calloc(1, sizeof *rights);
    if (rights == NULL) {
        return NULL;
    }
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    /* a revocation must not wait for ever behind readers */
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&rights->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    rights->max_keys = max_keys == 0 ? DEFAULT_KEYS : max_keys;
    return rights;
}

void rights_fips(struct rights *rights, bool fips)
{
    atomic_store(&rights->fips, fips);
}

static void lock_read(struct rights *rights)
{
    pthread_rwlock_rdlock(&rights->lock);
}
static void lock_write(struct rights *rights)
{
    pthread_rwlock_wrlock(&rights->lock);
}
static void unlock(struct rights *rights)
{
    pthread_rwlock_unlock(&rights->lock);
}

/* ---- clients -------------------------------------------------------------------------------------------------- */

static struct client *find_client(struct rights *rights, uint64_t id)
{
    struct client *client = rights->clients[id % CLIENT_BUCKETS];
    while (client != NULL && client->id != id) {
        client = client->next;
    }
    return client;
}

struct client *rights_client_add(struct rights *rights)
{
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL || RAND_bytes(client->cookie, COOKIE_SIZE) != 1) {
        free(client);
        return NULL;
    }
    pthread_mutex_init(&client->streams_lock, NULL);
    client->connections = client->references = 1;
    lock_write(rights);
    client->id = ++rights->next_client;
    client->next = rights->clients[client->id % CLIENT_BUCKETS];
    rights->clients[client->id % CLIENT_BUCKETS] = client;
    rights->client_count++;
    unlock(rights);
    return client;
}

struct client *rights_client_join(struct rights *rights, const uint8_t *cookie, size_t len)
{
    struct client *found = NULL;
    lock_write(rights);
    for (size_t i = 0; i < CLIENT_BUCKETS && len == COOKIE_SIZE; i++) {
        for (struct client *client = rights->clients[i]; client != NULL; client = client->next) {
            bool same = CRYPTO_memcmp(client->cookie, cookie, COOKIE_SIZE) == 0;
            if (same && client->bound && client->connections > 0 && client->connections < WIRE_MAX_CONNECTIONS) {
                found = client;
            }
        }
    }
    if (found != NULL) {
        found->connections++;
        found->references++;
    }
    unlock(rights);
    return found;
}

struct client *rights_client_hold(struct rights *rights, uint64_t id)
{
    lock_write(rights);
    struct client *client = find_client(rights, id);
    if (client != NULL) {
        client->references++;
    }
    unlock(rights);
    return client;
}

static void client_free(struct client *client)
{
    for (size_t i = 0; i < client->stream_count; i++) {
        mac_free(client->streams[i].stream);
    }
    pthread_mutex_destroy(&client->streams_lock);
    OPENSSL_cleanse(client->cookie, COOKIE_SIZE);
    free(client->streams);
    free(client->sessions);
    free(client);
}

void rights_client_release(struct rights *rights, struct client *client)
{
    lock_write(rights);
    bool last = --client->references == 0;
    if (last) {
        struct client **at = &rights->clients[client->id % CLIENT_BUCKETS];
        while (*at != client) {
            at = &(*at)->next;
        }
        *at = client->next;
        rights->client_count--;
    }
    unlock(rights);
    if (last) {
        client_free(client);
    }
}

bool rights_client_left(struct rights *rights, struct client *client)
{
    lock_write(rights);
    bool gone = --client->connections == 0 && client->bound;
    if (gone) {
        client->user = 0;
        client->role = 0;
        client->session_count = 0;
    }
    unlock(rights);
    return gone;
}

/* The change of one client under the lock; CKR_ARGUMENTS_BAD: it is gone. */
#define CHANGE_CLIENT(rights, id, statement)                   \
    do {                                                       \
        lock_write(rights);                                    \
        struct client *client = find_client(rights, id);       \
        if (client != NULL) {                                  \
            statement;                                         \
        }                                                      \
        unlock(rights);                                        \
        return client == NULL ? CKR_ARGUMENTS_BAD : CKR_OK;    \
    } while (0)

uint64_t rights_client_bind(struct rights *rights, uint64_t id, uint64_t partition)
{
    lock_write(rights);
    struct client *client = find_client(rights, id);
    bool there = client != NULL && client->connections != 0; /* else nobody would tell of its end */
    if (there) {
        client->bound = true;
        client->partition = partition;
    }
    unlock(rights);
    return there ? CKR_OK : CKR_ARGUMENTS_BAD;
}

uint64_t rights_client_user(struct rights *rights, uint64_t id, uint64_t user, uint32_t role)
{
    CHANGE_CLIENT(rights, id, (client->user = user, client->role = user == 0 ? 0 : role));
}

uint64_t rights_client_peer(struct rights *rights, uint64_t id)
{
    CHANGE_CLIENT(rights, id, client->peer = true);
}

uint64_t rights_client_kick(struct rights *rights, uint64_t id)
{
    CHANGE_CLIENT(rights, id, client->kicked = true);
}

uint64_t rights_client_cookie(struct rights *rights, uint64_t id, uint8_t out[COOKIE_SIZE])
{
    CHANGE_CLIENT(rights, id, memcpy(out, client->cookie, COOKIE_SIZE));
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool has_session(const struct client *client, uint64_t id)
{
    return client->session_count != 0 &&
           bsearch(&id, client->sessions, client->session_count, sizeof id, compare_ids) != NULL;
}

uint64_t rights_sessions_open(struct rights *rights, uint64_t id, const uint64_t *ids, size_t count)
{
    uint64_t rv = CKR_OK;
    lock_write(rights);
    struct client *client = find_client(rights, id);
    size_t total = client == NULL ? 0 : client->session_count + count;
    if (client == NULL) {
        rv = CKR_ARGUMENTS_BAD;
    } else if (total > WIRE_MAX_SESSIONS) {
        rv = CKR_SESSION_COUNT;
    } else if (total > client->session_room) {
        uint64_t *larger = realloc(client->sessions, total * 2 * sizeof *larger);
        rv = larger == NULL ? CKR_HOST_MEMORY : CKR_OK;
        if (larger != NULL) {
            client->sessions = larger;
            client->session_room = total * 2;
        }
    }
    if (rv == CKR_OK && count != 0) {
        memcpy(client->sessions + client->session_count, ids, count * sizeof *ids);
        client->session_count = total;
        qsort(client->sessions, total, sizeof *ids, compare_ids);
    }
    unlock(rights);
    return rv;
}

uint64_t rights_sessions_close(struct rights *rights, uint64_t id, const uint64_t *ids, size_t count)
{
    lock_write(rights);
    struct client *client = find_client(rights, id);
    if (client != NULL && count == 0) {
        client->session_count = 0;
    }
    for (size_t i = 0; client != NULL && i < count; i++) {
        size_t kept = 0;
        for (size_t j = 0; j < client->session_count; j++) {
            if (client->sessions[j] != ids[i]) {
                client->sessions[kept++] = client->sessions[j];
            }
        }
        client->session_count = kept;
    }
    unlock(rights);
    return client == NULL ? CKR_ARGUMENTS_BAD : CKR_OK;
}

static bool is_user(struct rights *rights, const struct client *client)
{
    lock_read(rights);
    bool user = atomic_load(&client->bound) && client->user != 0;
    unlock(rights);
    return user;
}

static bool is_peer(struct rights *rights, const struct client *client)
{
    lock_read(rights);
    bool peer = client->peer;
    unlock(rights);
    return peer;
}

uint64_t rights_access(struct rights *rights, const struct client *client, uint8_t access)
{
    switch ((enum wire_access)access) {
    case WIRE_ACCESS_NONE: break;
    case WIRE_ACCESS_SESSION:
    case WIRE_ACCESS_OPEN: return atomic_load(&client->bound) ? CKR_OK : CKR_CRYPTOKI_NOT_INITIALIZED;
    case WIRE_ACCESS_USER: return is_user(rights, client) ? CKR_OK : CKR_USER_NOT_LOGGED_IN;
    case WIRE_ACCESS_PEER: return is_peer(rights, client) ? CKR_OK : CKR_ACTION_PROHIBITED;
    }
    return CKR_OK;
}

bool rights_large_frames(struct rights *rights, const struct client *client)
{
    lock_read(rights);
    bool large = client->user != 0 || client->peer;
    unlock(rights);
    return large;
}

bool rights_kicked(const struct client *client)
{
    return atomic_load(&client->kicked);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

static struct key_entry **key_slot(struct rights *rights, uint64_t handle)
{
    struct key_entry **at = &rights->keys[(handle ^ (handle >> 13)) % KEY_BUCKETS];
    while (*at != NULL && (*at)->handle != handle) {
        at = &(*at)->next;
    }
    return at;
}

void rights_key_done(struct key_entry *entry)
{
    if (atomic_fetch_sub(&entry->references, 1) == 1) {
        key_object_free(entry->object);
        free(entry);
    }
}

static void remove_key(struct rights *rights, struct key_entry **at)
{
    struct key_entry *entry = *at;
    *at = entry->next;
    rights->key_count--;
    rights_key_done(entry);
}

/* The least recently used of a sample of buckets: near enough to LRU, and bounded work. */
static void evict(struct rights *rights, uint64_t from)
{
    struct key_entry **oldest = NULL;
    size_t seen = 0;
    for (size_t i = 0; i < KEY_BUCKETS && seen < 16; i++) {
        for (struct key_entry **at = &rights->keys[(from + i) % KEY_BUCKETS]; *at != NULL; at = &(*at)->next, seen++) {
            if (oldest == NULL || atomic_load(&(*at)->used) < atomic_load(&(*oldest)->used)) {
                oldest = at;
            }
        }
    }
    if (oldest != NULL) {
        remove_key(rights, oldest);
    }
}

static struct key_entry *entry_new(const he_key *key, struct key_object *object)
{
    size_t numbers = key->user_count + key->allowed_count;
    struct key_entry *entry = calloc(1, sizeof *entry + numbers * sizeof(uint64_t));
    if (entry == NULL) {
        return NULL;
    }
    entry->handle = key->handle;
    entry->partition = key->partition;
    entry->client = key->client;
    entry->usage = key->usage;
    entry->flags = key->flags;
    entry->object_class = key->material.object_class;
    entry->key_type = key->material.key_type;
    entry->users = (uint64_t *)(entry + 1);
    entry->user_count = key->user_count;
    entry->allowed = entry->users + key->user_count;
    entry->allowed_count = key->allowed_count;
    if (key->user_count != 0) {
        memcpy(entry->users, key->users, key->user_count * sizeof(uint64_t));
    }
    if (key->allowed_count != 0) {
        memcpy(entry->allowed, key->allowed, key->allowed_count * sizeof(uint64_t));
    }
    entry->object = object;
    atomic_init(&entry->references, 1);
    return entry;
}

uint64_t rights_key_load(struct rights *rights, const he_key *key, struct key_object *object)
{
    struct key_entry *entry = entry_new(key, object);
    if (entry == NULL) {
        key_object_free(object);
        return CKR_HOST_MEMORY;
    }
    atomic_init(&entry->used, atomic_fetch_add(&rights->tick, 1));
    lock_write(rights);
    struct key_entry **at = key_slot(rights, key->handle);
    if (*at != NULL) {
        remove_key(rights, at);
    }
    if (rights->key_count >= rights->max_keys) {
        evict(rights, key->handle % KEY_BUCKETS + 1);
    }
    at = key_slot(rights, key->handle);
    entry->next = *at;
    *at = entry;
    rights->key_count++;
    unlock(rights);
    return CKR_OK;
}

void rights_key_drop(struct rights *rights, uint64_t handle)
{
    lock_write(rights);
    struct key_entry **at = key_slot(rights, handle);
    if (*at != NULL) {
        remove_key(rights, at);
    }
    unlock(rights);
}

void rights_keys_clear(struct rights *rights)
{
    lock_write(rights);
    for (size_t i = 0; i < KEY_BUCKETS; i++) {
        while (rights->keys[i] != NULL) {
            remove_key(rights, &rights->keys[i]);
        }
    }
    unlock(rights);
}

bool rights_key_evict(struct rights *rights)
{
    lock_write(rights);
    bool some = rights->key_count != 0;
    evict(rights, atomic_load(&rights->tick) % KEY_BUCKETS);
    unlock(rights);
    return some;
}

static bool contains(const uint64_t *list, size_t count, uint64_t value)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == value) {
            return true;
        }
    }
    return false;
}

/* Another partition's, client's or user's key does not exist for this client. */
static bool visible(const struct client *client, const struct key_entry *entry)
{
    if (entry->partition != client->partition || (entry->client != 0 && entry->client != client->id)) {
        return false;
    }
    return (entry->flags & HE_KEY_PRIVATE) == 0 ||
           (client->user != 0 && contains(entry->users, entry->user_count, client->user));
}

/* usage: one bit of KEY_FACTS. */
static bool forbidden(const struct rights *rights, uint64_t mechanism, uint32_t usage)
{
    static const uint32_t functions[] = {CKF_ENCRYPT, CKF_DECRYPT, CKF_SIGN, CKF_VERIFY, CKF_SIGN_RECOVER, CKF_VERIFY_RECOVER};
    if (!atomic_load_explicit(&rights->fips, memory_order_relaxed)) {
        return false;
    }
    const struct mechanism_info *info = mechanism_find(mechanism);
    for (size_t i = 0; info != NULL && i < sizeof functions / sizeof *functions; i++) {
        if ((usage >> i & 1) != 0 && (info->fips_forbids & functions[i]) != 0) {
            return true;
        }
    }
    return false;
}

struct key_entry *rights_key_use(struct rights *rights, const struct client *client, uint64_t session, uint64_t handle,
                                 uint32_t usage, uint64_t mechanism, uint64_t *rv)
{
    lock_read(rights);
    struct key_entry *entry = NULL;
    *rv = has_session(client, session) ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
    if (*rv == CKR_OK) {
        entry = *key_slot(rights, handle);
    }
    if (entry != NULL) {
        if (!visible(client, entry)) {
            *rv = CKR_KEY_HANDLE_INVALID;
        } else if (client->role == ROLE_ADMIN || (entry->usage & usage) == 0) {
            *rv = CKR_KEY_FUNCTION_NOT_PERMITTED;
        } else if (entry->allowed_count != 0 && !contains(entry->allowed, entry->allowed_count, mechanism)) {
            *rv = CKR_MECHANISM_INVALID;
        } else if (forbidden(rights, mechanism, usage)) {
            *rv = CKR_MECHANISM_INVALID;
        }
        if (*rv == CKR_OK) {
            atomic_fetch_add(&entry->references, 1);
            atomic_store_explicit(&entry->used, atomic_fetch_add(&rights->tick, 1), memory_order_relaxed);
        } else {
            entry = NULL;
        }
    }
    unlock(rights);
    return entry;
}

uint64_t rights_session(struct rights *rights, const struct client *client, uint64_t session)
{
    lock_read(rights);
    uint64_t rv = has_session(client, session) ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
    unlock(rights);
    return rv;
}

void rights_counts(struct rights *rights, he_counts *out)
{
    lock_read(rights);
    out->clients = rights->client_count;
    out->keys = rights->key_count;
    unlock(rights);
}
