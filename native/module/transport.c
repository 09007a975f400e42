/* Calls to the HSMs of a slot: a connection of its own for each call under way, failover to another HSM. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "macros.h"
#include "slot.h"

enum { SLOW_PATIENCE = 24 };
enum { LEASE_PAUSE_MS = 20, LEASE_PATIENCE_MS = 2000, BUSY_PAUSE_US = 1000, BUSY_PAUSE_MAX_US = 128000, BUSY_PATIENCE_US = 1000000 };

/* Once their bytes were sent, these are not sent again to another HSM: they may have happened. */
static bool repeatable(uint16_t op)
{
    static const uint16_t once[] = {WIRE_OP_CREATE_OBJECT, WIRE_OP_COPY_OBJECT, WIRE_OP_DESTROY_OBJECT, WIRE_OP_SET_ATTRIBUTES,
                                    WIRE_OP_GENERATE_KEY, WIRE_OP_GENERATE_KEY_PAIR, WIRE_OP_UNWRAP_KEY, WIRE_OP_DERIVE_KEY,
                                    WIRE_OP_LOGIN, WIRE_OP_LOGOUT, WIRE_OP_SET_PASSWORD, WIRE_OP_MAC_UPDATE, WIRE_OP_MAC_FINAL};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
        if (once[i] == op) {
            return false;
        }
    }
    return true;
}

/* An HSM that is not the slot's home may not know yet what its home knows: a key that was just made, a login. There nothing was done,
 * and the home has the last word. */
static bool guest_is_behind(CK_RV rv)
{
    return rv == CKR_KEY_HANDLE_INVALID || rv == CKR_USER_NOT_LOGGED_IN || rv == CKR_SESSION_HANDLE_INVALID;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Milliseconds. Who is a guest does not wait for long where others are there to be asked. */
static unsigned patience_of(const struct call *call, size_t len)
{
    unsigned timeout = module_config()->timeout_ms;
    bool quick = call->link->guest && len < RING_FRAME;
    return !op_hot(call->op) ? SLOW_PATIENCE * timeout : quick ? least(timeout, GUEST_PATIENCE_MS) : timeout;
}

/* ---- the seat of a call; the slot's lock is held ------------------------------------------------------------------------ */

static bool usable(const struct call *call, const struct seat *seat)
{
    return seat->state == SEAT_TAKEN && (call->spread || !seat->guest);
}

static bool is_ready(const struct call *call)
{
    struct link *link = call->link;
    const struct seat *seat = &call->slot->seats[link->server];
    link->guest = seat->guest;
    return usable(call, seat) && link->fd >= 0 && link->generation == seat->generation;
}

/* Nobody knows us there any more. */
static void lose(struct slot *slot, unsigned server)
{
    if (slot->established && server == slot->server) {
        slot->established = false;
        slot_forget_facts(slot, true);
    }
    seats_lost(slot, server);
}

/* The link is connected as a client that this call may use. */
static CK_RV make_ready(struct call *call)
{
    struct link *link = call->link;
    struct slot *slot = call->slot;
    uint64_t unmeasured;
    for (;;) {
        if (!usable(call, &slot->seats[link->server])) {
            link_turn(link, seats_choose(slot, call->spread, &unmeasured));
        }
        if (!usable(call, &slot->seats[link->server])) {
            return establish(link);
        }
        if (is_ready(call)) {
            return CKR_OK;
        }
        if (establish_join(link, link->guest ? GUEST_PATIENCE_MS : module_config()->timeout_ms) != CKR_OK) {
            lose(slot, link->server);
        }
    }
}

/* This client's HSM failed: another one's turn, unless another thread has seen to that. */
static void give_up(struct link *link)
{
    struct slot *slot = link->slot;
    pthread_mutex_lock(&slot->lock);
    if (link->generation == slot->seats[link->server].generation) {
        log_line(LEVEL_WARN, "%s does not answer, or may not serve; going on with another HSM", slot->config->servers[link->server].name);
        lose(slot, link->server);
        slot->server = link->guest ? slot->server : seats_next_home(slot);
    }
    pthread_mutex_unlock(&slot->lock);
    link_close(link);
}

/* ---- calls --------------------------------------------------------------------------------------------------------------- */

/* `wait`: for another thread's connection, if need be. The slot's lock is held. */
static void take_link(struct call *call, bool wait)
{
    struct slot *slot = call->slot;
    while (wait && slot->busy >= SLOT_LINKS) {
        slot->link_waiters++;
        pthread_cond_wait(&slot->link_free, &slot->lock);
        slot->link_waiters--;
    }
    if (slot->busy < SLOT_LINKS && (wait || slot->link_waiters == 0)) {
        call->link = seats_take_link(slot, seats_choose(slot, call->spread, &call->began));
        call->link->busy = true;
        slot->busy++;
    }
}

static CK_RV begin(struct call *call, size_t room, bool more)
{
    CKR_REQUIRE(room <= WIRE_MAX_FRAME_USER, CKR_DATA_LEN_RANGE);
    pthread_mutex_lock(&call->slot->lock);
    take_link(call, !more);
    pthread_mutex_unlock(&call->slot->lock);
    struct link *link = call->link;
    if (link != NULL && !link_room(link, room)) {
        call_end(call, false);
        return CKR_HOST_MEMORY;
    }
    if (link != NULL) {
        call->request = wire_writer(link->out + WIRE_HEADER_SIZE, link->out_cap - WIRE_HEADER_SIZE);
    }
    return CKR_OK;
}

CK_RV call_begin(struct call *call, struct slot *slot, uint16_t op, uint64_t session, size_t room)
{
    *call = (struct call){.slot = slot, .op = op, .session = session};
    return begin(call, room, false);
}

CK_RV call_begin_spread(struct call *call, struct session *session, uint16_t op, const struct operation *operation, size_t room, bool more)
{
    *call = (struct call){.slot = session->slot, .op = op, .session = session->id, .spread = operation->settled, .key = operation->key};
    return begin(call, room, more);
}

/* To connect takes the link's buffer: the request stays safe in a copy meanwhile. */
static CK_RV connect_with_request(struct call *call, size_t len)
{
    struct link *link = call->link;
    uint8_t *kept = malloc(len + 1);
    CKR_REQUIRE(kept != NULL, CKR_HOST_MEMORY);
    memcpy(kept, link->out + WIRE_HEADER_SIZE, len);
    pthread_mutex_lock(&call->slot->lock);
    CK_RV rv = make_ready(call);
    is_ready(call);
    pthread_mutex_unlock(&call->slot->lock);
    if (rv == CKR_OK && !link_room(link, len)) {
        rv = CKR_HOST_MEMORY;
    }
    if (rv == CKR_OK) {
        memcpy(link->out + WIRE_HEADER_SIZE, kept, len);
    }
    OPENSSL_cleanse(kept, len);
    free(kept);
    return rv;
}

static CK_RV ready_with_request(struct call *call, size_t len)
{
    pthread_mutex_lock(&call->slot->lock);
    bool ready = is_ready(call);
    pthread_mutex_unlock(&call->slot->lock);
    if (ready) {
        return CKR_OK;
    }
    call->began = 0;
    return connect_with_request(call, len);
}

static void logged_out_there(struct slot *slot, CK_RV rv)
{
    if (rv != CKR_USER_NOT_LOGGED_IN) {
        return;
    }
    pthread_mutex_lock(&slot->lock);
    if (slot->logged_in && slot->user_type == CKU_USER) {
        log_line(LEVEL_WARN, "the HSM has ended the login (a new password, or a deleted user): log in again");
        slot_forget_login(slot);
    }
    pthread_mutex_unlock(&slot->lock);
}

static uint64_t session_there(const struct call *call)
{
    return call->link->guest ? guest_session : call->session;
}

static void note_epoch(struct slot *slot, struct seat *seat, uint64_t epoch)
{
    if (epoch != atomic_load_explicit(&seat->epoch, memory_order_relaxed)) {
        pthread_mutex_lock(&slot->lock);
        slot_epoch(slot, seat, epoch);
        pthread_mutex_unlock(&slot->lock);
    }
}

static struct link *take_another(struct call *call, bool refused)
{
    struct slot *slot = call->slot;
    pthread_mutex_lock(&slot->lock);
    if (refused) {
        seats_pass_over(slot, call->link->server);
    }
    struct link *other = seats_take_link(slot, seats_choose(slot, call->spread, &call->began));
    other->busy = true;
    slot->busy++; /* for a moment one more than SLOT_LINKS */
    pthread_mutex_unlock(&slot->lock);
    return other;
}

/* Nothing is wrong with the link, or the client that it is of: they stay for others. */
static CK_RV go_elsewhere(struct call *call, size_t len, bool refused)
{
    struct link *link = call->link, *other = take_another(call, refused);
    bool room = link_room(other, len);
    if (room) {
        memcpy(other->out + WIRE_HEADER_SIZE, link->out + WIRE_HEADER_SIZE, len);
    }
    link_give_back(link);
    call->link = other;
    return room ? CKR_OK : CKR_HOST_MEMORY;
}

/* Each HSM is asked in turn. *again: one of them answered that it may not serve now, and nothing was done. */
static CK_RV ask_in_turn(struct call *call, bool *again)
{
    struct slot *slot = call->slot;
    size_t len = call->request.len;
    unsigned most = (call->spread ? 2 : 1) * slot->config->server_count; /* as a guest, and at home */
    *again = false;
    for (unsigned attempt = 0; attempt <= most; attempt++) {
        CKR_TRY(ready_with_request(call, len));
        struct link *link = call->link;
        struct wire_header header;
        bool sent = false;
        link->out_len = WIRE_HEADER_SIZE + len;
        enum link_result result =
            link_exchange(link, call->op, session_there(call), patience_of(call, len), call->pausable, &header, &sent);
        if (result == LINK_DEAD) {
            call->link = NULL;
            return CKR_CRYPTOKI_NOT_INITIALIZED;
        }
        bool lost = result != LINK_OK, refused = !lost && header.word == CKR_DEVICE_ERROR && repeatable(call->op);
        bool behind = !lost && link->guest && guest_is_behind(header.word);
        if (!lost && !refused && !behind) {
            note_epoch(slot, &slot->seats[link->server], header.epoch);
            call->response = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
            logged_out_there(slot, header.word);
            *again = false;
            return header.word;
        }
        bool well = call->spread && (refused || (behind && header.word == CKR_KEY_HANDLE_INVALID));
        *again = *again || refused;
        call->spread = call->spread && !behind;
        if (well) {
            CKR_TRY(go_elsewhere(call, len, refused));
        } else {
            give_up(link);
        }
        call->began = 0;
        if (lost && sent && !repeatable(call->op)) {
            log_line(LEVEL_ERROR, "the HSM was lost while it worked on operation 0x%x: it may or may not have happened", call->op);
            *again = false;
            return CKR_DEVICE_ERROR;
        }
    }
    return CKR_DEVICE_ERROR;
}

void call_submit(struct call *call)
{
    struct link *link = call->link;
    if (ready_with_request(call, call->request.len) == CKR_OK) {
        link->out_len = WIRE_HEADER_SIZE + call->request.len;
        link_submit(link, call->op, session_there(call));
    }
    call->began = 0; /* until it is waited for others are */
}

/* An HSM whose neighbour died, or whose machine is busy, may have to renew its lease in the database first (DESIGN D6). */
static CK_RV run_in_lease(struct call *call)
{
    const struct timespec pause = {.tv_nsec = LEASE_PAUSE_MS * 1000000L};
    bool again;
    CK_RV rv = ask_in_turn(call, &again);
    for (unsigned waited = 0; again && waited < LEASE_PATIENCE_MS; waited += LEASE_PAUSE_MS) {
        nanosleep(&pause, NULL);
        rv = ask_in_turn(call, &again);
    }
    return rv;
}

/* Ever longer, and not all callers at once. */
static unsigned busy_pause(unsigned longest)
{
    unsigned us = longest / 2 + (unsigned)(ring_now_ns() / 1000 % (longest / 2));
    const struct timespec pause = {.tv_nsec = (long)us * 1000};
    nanosleep(&pause, NULL);
    return us;
}

/* A throttled HSM has queued nothing: the client tries again, as AWS's does in its standard retry mode. */
CK_RV call_run(struct call *call)
{
    CK_RV rv = run_in_lease(call);
    unsigned longest = BUSY_PAUSE_US;
    for (unsigned waited = 0; rv == WIRE_HSM_BUSY && !module_config()->retry_off && waited < BUSY_PATIENCE_US;) {
        waited += busy_pause(longest);
        longest = longest < BUSY_PAUSE_MAX_US ? longest * 2 : longest;
        rv = run_in_lease(call);
    }
    if (rv == WIRE_HSM_BUSY) {
        log_line(LEVEL_WARN, "the HSM could not queue the request (response code 187): its timing profile allows no more");
        rv = CKR_FUNCTION_FAILED;
    }
    return rv;
}

static void give_back(struct link *link, const struct call *measured)
{
    struct slot *slot = link->slot;
    pthread_mutex_lock(&slot->lock);
    if (measured != NULL) {
        seats_measure(slot, link->server, measured->key, measured->began);
    }
    link->busy = false;
    slot->busy--;
    slot->seats[link->server].busy--;
    seats_put_link(slot, link);
    pthread_cond_signal(&slot->link_free);
    pthread_mutex_unlock(&slot->lock);
}

void link_give_back(struct link *link)
{
    give_back(link, NULL);
}

void call_end(struct call *call, bool secret)
{
    struct link *link = call->link;
    if (link == NULL) {
        return;
    }
    if (secret) {
        OPENSSL_cleanse(link->out, link->out_cap);
        OPENSSL_cleanse(link->in, link->in_cap);
    }
    give_back(link, call->began != 0 ? call : NULL);
    call->link = NULL;
}

CK_RV slot_present(struct slot *slot)
{
    struct call call;
    CKR_TRY(call_begin(&call, slot, WIRE_OP_PING, 0, 0));
    CK_RV rv = call_run(&call);
    call_end(&call, false);
    return rv == CKR_OK ? CKR_OK : CKR_TOKEN_NOT_PRESENT;
}
