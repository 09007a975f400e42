/* The core of the module: slots, sessions, and calls to the HSM.
 *
 * Locks, in this order: a session's lock (held from session_enter to session_leave), then its slot's lock (inside the
 * functions here, never across a call to the HSM but while a connection is established). Safe from any thread whatever
 * C_Initialize's arguments say. After a fork nothing here is touched until C_Initialize or C_Finalize in the child. */
#ifndef HSMSIM_MODULE_H
#define HSMSIM_MODULE_H

#include <pthread.h>

#include "config.h"
#include "messages.h"
#include "operation.h"
#include "pkcs11.h"

enum { SLOT_LINKS = 34, SLOT_SESSIONS = WIRE_MAX_SESSIONS, FACTS_CACHED = 64, FACTS_ALLOWED = 32 };
enum { FACTS_TOKEN = 1 << 1, FACTS_FIPS = 1 << 3 }; /* of KEY_FACTS: a token key; the HSM is in FIPS mode */
#define FIRST_SLOT_ID UINT64_C(0x2000000000000001)

struct slot;

/* One at a time per session, but for what the application does wrong: the lock decides. */
struct session {
    CK_SESSION_HANDLE handle;
    uint64_t id; /* for the HSM */
    CK_FLAGS flags;
    struct slot *slot;
    pthread_mutex_t lock;
    unsigned references; /* under the slot's lock */
    bool closed;
    bool away; /* its C_Sign is paused without the lock (async.h): the signing operation is that call's */
    struct operations operations;
    bool finding;
    uint64_t *found;
    uint32_t found_count, found_at;
    uint8_t *wrapped; /* a size query's result, for the call that follows */
    size_t wrapped_len;
    uint64_t wrapped_of[2];
};

/* ---- core.c: initialised, forked ---------------------------------------------------------------------------------- */

CK_RV module_ready(void); /* CKR_CRYPTOKI_NOT_INITIALIZED */
bool module_cloudhsm(void);
const struct config *module_config(void);

/* ---- sessions.c ------------------------------------------------------------------------------------------------------ */

/* The session with its lock held: CKR_SESSION_HANDLE_INVALID, CKR_CRYPTOKI_NOT_INITIALIZED. */
CK_RV session_enter(CK_SESSION_HANDLE handle, struct session **out);
CK_RV session_leave(struct session *session, CK_RV rv); /* returns rv */
/* A call in it never comes back: it is closed. The call's reference stays, so that its stack points to no freed memory. */
void session_abandon(struct session *session);

/* ---- slots.c --------------------------------------------------------------------------------------------------------------- */

CK_RV slot_find(CK_SLOT_ID id, struct slot **out); /* CKR_SLOT_ID_INVALID */
unsigned slot_logins_ended(struct slot *slot);      /* changes with every logout */

/* ---- transport.c: a call to the slot's HSM ------------------------------------------------------------------------------------ */

/* call_begin borrows a connection with `room` bytes for the payload; write it through `request`; call_run sends, waits and
 * leaves the answer's payload in `response` (also with an error, where the HSM sent one); call_end gives the connection
 * back and wipes what was secret. An HSM that is gone is replaced by the next one.
 *
 * call_begin asks the slot's home, where its sessions and their objects are. call_begin_spread may ask any HSM (seats.c): for a
 * request that needs nothing but the login and `key`, an operation's key; where that is a session object it is the home, too.
 *
 * Several at once: who holds a call begins another with `more`, which waits for no other thread's connection:
 * call->link is NULL where none is idle, or somebody waits for one. call_submit sends without waiting, where the ring takes
 * the request; call_run, which must follow, then waits for that answer, or asks again if it does not come. */
struct link;
struct call {
    struct slot *slot;
    uint16_t op;
    uint64_t session;
    struct link *link;
    bool spread;
    uint64_t key, began; /* of a call that is to be measured; began: CLOCK_MONOTONIC nanoseconds, 0: it is not */
    struct session *pausable; /* whose lock the caller holds; NULL: the call is not paused */
    struct wire_writer request;
    struct wire_reader response;
};
CK_RV call_begin(struct call *call, struct slot *slot, uint16_t op, uint64_t session, size_t room);
CK_RV call_begin_spread(struct call *call, struct session *session, uint16_t op, const struct operation *operation, size_t room, bool more);
void call_submit(struct call *call);
CK_RV call_run(struct call *call);
void call_end(struct call *call, bool secret);

/* What the wire's result means to a caller: a message that does not fit or parse. */
#define CKR_WIRE(expression) ((expression) == WIRE_OK ? CKR_OK : CKR_DEVICE_ERROR)

/* ---- facts.c -------------------------------------------------------------------------------------------------------------------- */

struct key_facts {
    uint64_t object_class, key_type;
    uint32_t bits, usage, flags;
    bool settled; /* a token key, known here for so long that every HSM has it */
    uint32_t allowed_count;
    uint64_t allowed[FACTS_ALLOWED];
};
CK_RV key_facts(struct session *session, CK_OBJECT_HANDLE key, struct key_facts *out); /* CKR_KEY_HANDLE_INVALID */
bool key_facts_known(struct session *session, CK_OBJECT_HANDLE key);                   /* without asking the HSM */

#endif
