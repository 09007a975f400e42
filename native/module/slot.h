/* A slot: one configured partition of one cluster, its connections and its login. For the core's own files. */
#ifndef HSMSIM_SLOT_H
#define HSMSIM_SLOT_H

#include <stdatomic.h>

#include "module.h"
#include "ring.h"

enum { PIN_USER = 64, PIN_PASSWORD = 256, TICKET_MAX = 256 };
/* SLOT_LINKS work at once; of the HSMs that they go to in turn each keeps its own. */
enum { SLOT_WINDOW = 8, SLOT_POOL = (SLOT_WINDOW + 1) * SLOT_LINKS };

/* A page of its own: locked, not in cores, zeros in a forked child. */
struct credentials {
    bool known;
    uint64_t user_type;
    size_t user_len, password_len, ticket_len;
    uint8_t user[PIN_USER], password[PIN_PASSWORD], ticket[TICKET_MAX];
};

/* Shared memory beside a link's socket; wire/ring.h has the protocol. One slot is enough: no two threads share a link. */
struct link_ring {
    bool asked;                   /* on this connection */
    bool submitted;               /* a request is in the slot, and nobody has waited for its answer yet */
    struct ring_segment *segment; /* NULL: there is none, the socket takes everything */
    const struct ring_board *board;
    struct ring_beds *beds;
    const _Atomic uint32_t *woken; /* in the beds */
    uint32_t bit;
    int bell;
    struct ring_spin spin;
};

struct link {
    struct slot *slot;
    int fd;
    struct ssl_st *tls; /* NULL: a unix socket */
    uint8_t alert; /* the last one that the HSM sent; 0 (close_notify): none to speak of */
    bool busy; /* a thread's, from call_begin to call_end; under the slot's lock */
    bool guest; /* what the seat was when this link was last made ready */
    struct link_ring ring;
    unsigned server;     /* whose connection it is, or is to be: index into config->servers and the seats */
    unsigned generation; /* of the seat's client that it joined */
    uint64_t seq;
    uint8_t *out; /* header and payload */
    size_t out_cap, out_len;
    uint8_t *in;
    size_t in_cap, in_len; /* in_len: of link_hear alone */
    struct link *next; /* idle */
};

/* One HSM of the cluster, and the client that it knows us as: at the slot's home with all that is the slot's, elsewhere as a
 * guest, with the login and one session. seats.c has the rules. */
enum seat_state { SEAT_AWAY, SEAT_KNOCKING, SEAT_TAKEN };
enum seat_step { STEP_HANDSHAKE, STEP_HELLO, STEP_SESSION, STEP_LOGIN };

struct seat {
    enum seat_state state;
    bool guest;
    unsigned generation;
    uint8_t cookie[64];
    uint32_t cookie_len;
    _Atomic uint64_t epoch; /* written under the lock, compared without it on the hot path */
    struct link *idle;
    unsigned busy; /* calls under way */
    /* CLOCK_MONOTONIC nanoseconds: when one that is away is knocked at, or one that is slow asked, again */
    uint64_t again_at, pause;
    /* of one that is knocked at */
    struct link *knocking;
    enum seat_step step;
    uint64_t give_up_at;
    bool with_pin; /* the ticket was not taken */
    /* how long an answer takes at least: in this visit and in the one before, with one key */
    uint64_t key, visit, fastest, former;
};

struct cached_facts {
    uint64_t handle; /* 0: empty */
    bool stale;
    uint64_t young_until; /* CLOCK_MONOTONIC nanoseconds; 0: long past */
    struct key_facts facts;
};

/* What the application knows of a token: what the first call found, then what C_WaitForSlotEvent told. */
enum presence { NOT_ASKED, ABSENT, PRESENT };

/* Known once an HSM has been reached. */
enum mode { MODE_UNKNOWN, MODE_FIPS, MODE_NON_FIPS };

struct slot {
    CK_SLOT_ID id;
    const struct config_slot *config;
    struct slot_tls *tls; /* NULL until a link needs it; link_tls.c */
    pthread_mutex_t lock;
    pthread_cond_t link_free;
    unsigned link_waiters, busy;
    struct link links[SLOT_POOL];
    struct link *spare; /* idle and nobody's */
    struct seat seats[CONFIG_SERVERS];
    unsigned server;  /* the home: index into config->servers and the seats */
    bool established; /* the client there is the slot's own, not a guest or none */
    unsigned generations;
    unsigned guests; /* seats that are taken by one */
    uint64_t seed, tended; /* of its own order of HSMs; the turn in which it was last looked after those that are away */
    atomic_bool ringless; /* an HSM ended the connection on which a ring was asked for: an older one */
    _Atomic enum mode mode; /* the cluster's, for ever */
    enum presence told;
    bool complained; /* since an HSM answered last: one line a trouble */
    /* login */
    bool logged_in;
    atomic_uint logins_ended; /* an operation with a key does not outlive the login that it began under */
    CK_USER_TYPE user_type;
    struct credentials *credentials;
    /* sessions */
    struct session *sessions[SLOT_SESSIONS];
    unsigned session_count, rw_count;
    uint64_t session_serial;
    struct cached_facts facts[FACTS_CACHED];
};

struct slots {
    struct slot *all[CONFIG_SLOTS];
    unsigned count;
};
extern struct slots slots;

CK_RV slots_make(const struct config *config);
void slots_close(bool wipe_only); /* wipe_only: in a forked child, where only descriptors are ours to close */

/* Whether an HSM answers; connects if need be. CKR_TOKEN_NOT_PRESENT. */
CK_RV slot_present(struct slot *slot);
/* The facts of another epoch of this HSM are dropped. The slot's lock is held. */
void slot_epoch(struct slot *slot, struct seat *seat, uint64_t epoch);
void slot_forget_facts(struct slot *slot, bool session_keys_only);

/* Nobody is logged in any more. The slot's lock is held. */
void slot_forget_login(struct slot *slot);
/* Logs why no HSM is reached, once until one is. The slot's lock is held. */
void slot_complain(struct slot *slot, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* establish.c: the client that an HSM is to know us as. The slot's lock is held. */

/* A home for the slot: a new client with its sessions and its login, on the first HSM that takes it. CKR_DEVICE_REMOVED: none does. */
CK_RV establish(struct link *link);
/* A busy link whose connection, if it has one, was to another HSM. */
void link_turn(struct link *link, unsigned server);
/* One more connection of the seat's client. */
CK_RV establish_join(struct link *link, unsigned patience);
/* Requests and answers of it, for who does not wait in between. */
bool hello_put(struct link *link, bool join, struct wire_writer *out);
CK_RV hello_take(struct link *link, struct wire_reader *from, struct wire_hello_response *response);
CK_RV ticket_put(const struct slot *slot, struct wire_writer *out);
CK_RV pin_put(const struct slot *slot, struct wire_writer *out);
void ticket_keep(struct slot *slot, struct wire_bytes ticket);

/* seats.c: which HSM is asked, and which are there to be asked. The slot's lock is held. */

enum { GUEST_PATIENCE_MS = 250 };
static const uint64_t guest_session = UINT32_MAX; /* the one that a guest has; the slot never gives it to a session */

/* Of a new slot: its first home. */
void seats_begin(struct slot *slot);
/* Where a request is to go. `spread`: it may be any HSM. *began: when the call began, 0 if it is not to be measured. */
unsigned seats_choose(struct slot *slot, bool spread, uint64_t *began);
/* A connection there that is idle, or one that is not connected: NULL, never. */
struct link *seats_take_link(struct slot *slot, unsigned server);
void seats_put_link(struct slot *slot, struct link *link);
/* What a call that was not interrupted took there. */
void seats_measure(struct slot *slot, unsigned server, uint64_t key, uint64_t began);
/* Others are asked first, for a moment. */
void seats_pass_over(struct slot *slot, unsigned server);
/* Somebody sits there; nobody does any more. */
void seats_taken(struct slot *slot, struct link *link, bool guest);
void seats_lost(struct slot *slot, unsigned server);
/* With the login: its guests leave. */
void seats_leave(struct slot *slot);
/* The next home, when the HSM there is lost. */
unsigned seats_next_home(const struct slot *slot);

/* link.c: one connection. */
/* LINK_DEAD: the caller was paused, and all that it had is gone: C_Finalize, a fork, its job given up. It touches nothing more. */
enum link_result { LINK_OK, LINK_REFUSED, LINK_LOST, LINK_DEAD };
/* The slot's lock is held. */
enum link_result link_open(struct link *link, const struct config_server *server, uid_t uid, unsigned timeout_ms);
void link_close(struct link *link);
/* Sends out[0..out_len), which begins with room for the header; the answer's payload is in[0..header->length). patience: ms.
 * *sent: any byte may have reached the HSM. `pausable`: NULL, or whose lock is let go while an asynchronous job waits. */
enum link_result link_exchange(struct link *link, uint16_t op, uint64_t session, unsigned patience, struct session *pausable,
                               struct wire_header *header, bool *sent);
/* Down the socket, with no wait for the answer; and the next answer, LINK_REFUSED: not there yet. In between nothing else. The
 * payload is in[WIRE_HEADER_SIZE..], until link_heard. */
bool link_say(struct link *link, uint16_t op);
enum link_result link_hear(struct link *link, uint16_t op, uint64_t seq, struct wire_header *header);
void link_heard(struct link *link, const struct wire_header *header);
/* The first half of link_exchange, where the ring takes the request; the same arguments are to follow. */
void link_submit(struct link *link, uint16_t op, uint64_t session);
void link_give_back(struct link *link);
bool link_room(struct link *link, size_t payload);

/* Engine threads answer these; nothing else goes by the ring. */
static inline bool op_hot(uint16_t op)
{
    return (op & 0x0F00) == 0x0100;
}

/* link_tls.c: the same over TCP. The slot's lock is held. */
enum link_result link_tls_open(struct link *link, const struct config_server *server, unsigned timeout_ms);
/* The same without waiting; link_tls_go_on: LINK_REFUSED: not done yet. */
enum link_result link_tls_begin(struct link *link, const struct config_server *server, unsigned timeout_ms);
enum link_result link_tls_go_on(struct link *link, const struct config_server *server);
void link_tls_close(struct link *link);
bool link_tls_send(struct link *link, int64_t deadline, bool *sent);
/* Why the HSM does not take our client certificate, or wants one; NULL: it has said nothing of that. */
const char *link_tls_refusal(const struct link *link);
/* At least one byte; 0: none before the deadline, or none any more. */
ssize_t link_tls_receive(struct link *link, uint8_t *out, size_t room, int64_t deadline);
/* No link of the slot has any TLS left. */
void slot_tls_free(struct slot *slot);

/* link_ring.c. open: once, on a connected link with nothing under way. Without shared memory (an HSM that has none to give,
 * a limit, a filter) LINK_OK all the same; LINK_LOST: the connection is of no more use. */
enum link_result link_ring_open(struct link *link, unsigned patience);
void link_ring_close(struct link *link);
/* In a forked child, which never had the memory. */
void link_ring_forget(struct link *link);
void link_ring_submit(struct link *link, const struct wire_header *request);
/* After link_ring_exchange was given up: the answer is there and goes unread. false: it is not, the connection is of no more use. */
bool link_ring_answered(struct link *link);
bool link_ring_leave(struct link *link);
/* As link_exchange, with the whole answer at link->in; submits first unless that is done. LINK_REFUSED: the socket is to take this one. */
enum link_result link_ring_exchange(struct link *link, const struct wire_header *request, unsigned patience, struct session *pausable,
                                    struct wire_header *header, bool *sent);

#endif
