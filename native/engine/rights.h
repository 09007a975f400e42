/* Who may do what: clients, their sessions and logins, and the keys that the engine holds. Pushed by the firmware, read
 * by the hot path.
 *
 * One readers-writer lock guards all of it, but two flags of clients that only rise. The hot path takes it for reading while
 * it decides, takes a reference on the key, and lets go before it computes; every change takes it for writing. So when a
 * change has returned, no operation that the old state allowed starts, and a key that is dropped while in use lives until
 * its last operation ends. */
#ifndef HSMSIM_RIGHTS_H
#define HSMSIM_RIGHTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "crypto.h"

enum { COOKIE_SIZE = 16, STREAMS_MAX = 1024 };

struct stream_entry {
    uint64_t id;
    struct mac_stream *stream;
    bool busy;
};

struct client {
    struct client *next; /* in its bucket */
    uint64_t id;
    uint64_t partition;
    uint64_t user;
    uint32_t role;
    uint32_t connections;
    uint32_t references; /* connections and held requests; under the lock */
    _Atomic bool bound, kicked; /* once true they stay so, and are read without the lock */
    bool peer;
    uint8_t cookie[COOKIE_SIZE];
    uint64_t *sessions; /* sorted */
    size_t session_count, session_room;
    pthread_mutex_t streams_lock;
    struct stream_entry *streams;
    size_t stream_count, stream_room;
    uint64_t next_stream;
};

struct key_entry {
    struct key_entry *next;
    uint64_t handle, partition, client;
    uint32_t usage, flags;
    uint64_t object_class, key_type;
    uint64_t *users, *allowed; /* one allocation with the entry */
    size_t user_count, allowed_count;
    struct key_object *object;
    atomic_uint references;
    atomic_ullong used; /* tick of the last use, for eviction */
};

struct rights;
struct rights *rights_new(uint32_t max_keys);
/* FIPS mode: rights_key_use refuses what the mechanism table forbids there. */
void rights_fips(struct rights *rights, bool fips);

/* Clients. find_cookie and add give a reference that client_release returns. */
struct client *rights_client_add(struct rights *rights);
struct client *rights_client_join(struct rights *rights, const uint8_t *cookie, size_t len);
struct client *rights_client_hold(struct rights *rights, uint64_t id);
void rights_client_release(struct rights *rights, struct client *client);
/* A connection less; true if it was the last one of a bound client. */
bool rights_client_left(struct rights *rights, struct client *client);
uint64_t rights_client_bind(struct rights *rights, uint64_t id, uint64_t partition);
uint64_t rights_client_user(struct rights *rights, uint64_t id, uint64_t user, uint32_t role);
uint64_t rights_client_peer(struct rights *rights, uint64_t id);
uint64_t rights_client_cookie(struct rights *rights, uint64_t id, uint8_t out[COOKIE_SIZE]);
uint64_t rights_client_kick(struct rights *rights, uint64_t id);
uint64_t rights_sessions_open(struct rights *rights, uint64_t id, const uint64_t *ids, size_t count);
uint64_t rights_sessions_close(struct rights *rights, uint64_t id, const uint64_t *ids, size_t count);

/* Whether a request of this access (enum wire_access) may go on: CKR_OK or why not. */
uint64_t rights_access(struct rights *rights, const struct client *client, uint8_t access);
bool rights_large_frames(struct rights *rights, const struct client *client);
bool rights_kicked(const struct client *client);

/* Keys. */
uint64_t rights_key_load(struct rights *rights, const he_key *key, struct key_object *object); /* takes the object */
void rights_key_drop(struct rights *rights, uint64_t handle);
void rights_keys_clear(struct rights *rights);
/* Drops the least recently used key; false: there is none. */
bool rights_key_evict(struct rights *rights);

/* The key for an operation of this client in this session, with a reference; *rv says why not. Returns NULL with *rv
 * CKR_OK where the engine does not hold the key: the firmware is to be asked. */
struct key_entry *rights_key_use(struct rights *rights, const struct client *client, uint64_t session, uint64_t handle,
                                 uint32_t usage, uint64_t mechanism, uint64_t *rv);
void rights_key_done(struct key_entry *entry);
/* Session id check for operations without a key. */
uint64_t rights_session(struct rights *rights, const struct client *client, uint64_t session);

void rights_counts(struct rights *rights, he_counts *out);

#endif
