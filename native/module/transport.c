/* Calls to a slot's HSM: a connection of its own for each call under way, failover to the next HSM, login and sessions
 * brought along. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "macros.h"
#include "slot.h"

enum { WIRE_VERSION = 1, SLOW_PATIENCE = 24, PROFILE_CLOUDHSM = 1, PROFILE_CHECK_OFF = 2, HELLO_ROOM = 1024 };
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

/* ---- establishing; the slot's lock is held ---------------------------------------------------------------------------- */

/* One request on a link that no caller has yet. The payload is in link->out after the header. */
static CK_RV ask(struct link *link, uint16_t op, size_t payload, struct wire_reader *response)
{
    struct wire_header header;
    bool sent = false;
    link->out_len = WIRE_HEADER_SIZE + payload;
    if (link_exchange(link, op, 0, 1, NULL, &header, &sent) != LINK_OK) {
        return CKR_DEVICE_REMOVED;
    }
    *response = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
    slot_epoch(link->slot, header.epoch);
    return header.word;
}

static struct wire_writer fresh(struct link *link)
{
    return wire_writer(link->out + WIRE_HEADER_SIZE, link->out_cap - WIRE_HEADER_SIZE);
}

static CK_RV say_hello(struct link *link, bool join)
{
    struct slot *slot = link->slot;
    const struct config *config = module_config();
    if (!link_room(link, HELLO_ROOM)) {
        return CKR_HOST_MEMORY;
    }
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    struct wire_hello_response response;
    const struct wire_hello_request request = {
        .version = WIRE_VERSION,
        .profile = (uint8_t)((config->cloudhsm ? PROFILE_CLOUDHSM : 0) | (slot->config->check_off ? PROFILE_CHECK_OFF : 0)),
        .partition = wire_bytes(slot->config->partition, (uint32_t)strlen(slot->config->partition)),
        .vantage = wire_bytes(slot->config->vantage, (uint32_t)strlen(slot->config->vantage)),
        .cookie = join ? wire_bytes(slot->cookie, slot->cookie_len) : wire_bytes(NULL, 0),
    };
    CKR_TRY(CKR_WIRE(wire_put_hello_request(&writer, &request)));
    CKR_TRY(ask(link, WIRE_OP_HELLO, writer.len, &reader));
    CKR_TRY(CKR_WIRE(wire_get_hello_response(&reader, &response)));
    CKR_REQUIRE(response.cookie.len <= sizeof slot->cookie, CKR_DEVICE_ERROR);
    wire_copy(slot->cookie, response.cookie);
    slot->cookie_len = response.cookie.len;
    slot->mode = response.fips != 0 ? MODE_FIPS : MODE_NON_FIPS;
    return CKR_OK;
}

static CK_RV bring_sessions(struct link *link)
{
    struct slot *slot = link->slot;
    uint32_t count = 0;
    if (slot->session_count == 0) {
        return CKR_OK;
    }
    size_t room = 2 * (4 + (size_t)slot->session_count * 8);
    uint8_t *lists = link_room(link, room) ? malloc(room) : NULL;
    CKR_REQUIRE(lists != NULL, CKR_HOST_MEMORY);
    struct wire_writer ids = wire_writer(lists, room / 2), flags = wire_writer(lists + room / 2, room / 2);
    enum wire_result result = WIRE_OK;
    for (unsigned i = 0; i < SLOT_SESSIONS && result == WIRE_OK; i++) {
        if (slot->sessions[i] != NULL) {
            result = wire_put_u64(&ids, slot->sessions[i]->id);
            result = result == WIRE_OK ? wire_put_u64(&flags, slot->sessions[i]->flags) : result;
            count++;
        }
    }
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    const struct wire_open_sessions_request request = {{ids.data, count}, {flags.data, count}};
    CK_RV rv = CKR_WIRE(result == WIRE_OK ? wire_put_open_sessions_request(&writer, &request) : result);
    rv = rv == CKR_OK ? ask(link, WIRE_OP_OPEN_SESSIONS, writer.len, &reader) : rv;
    free(lists);
    return rv;
}

static void keep_ticket(struct slot *slot, struct wire_bytes ticket)
{
    if (ticket.len <= TICKET_MAX) {
        wire_copy(slot->credentials->ticket, ticket);
        slot->credentials->ticket_len = ticket.len;
    }
}

static CK_RV show_ticket(struct link *link)
{
    struct slot *slot = link->slot;
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    struct wire_login_ticket_response response;
    const struct wire_login_ticket_request request = {wire_bytes(slot->credentials->ticket, (uint32_t)slot->credentials->ticket_len)};
    CKR_TRY(CKR_WIRE(wire_put_login_ticket_request(&writer, &request)));
    CKR_TRY(ask(link, WIRE_OP_LOGIN_TICKET, writer.len, &reader));
    CKR_TRY(CKR_WIRE(wire_get_login_ticket_response(&reader, &response)));
    keep_ticket(slot, response.ticket);
    return CKR_OK;
}

static CK_RV show_pin(struct link *link)
{
    const struct credentials *known = link->slot->credentials;
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    struct wire_login_response response;
    const struct wire_login_request request = {known->user_type, wire_bytes(known->user, (uint32_t)known->user_len),
                                               wire_bytes(known->password, (uint32_t)known->password_len)};
    CKR_TRY(CKR_WIRE(wire_put_login_request(&writer, &request)));
    CK_RV rv = ask(link, WIRE_OP_LOGIN, writer.len, &reader);
    OPENSSL_cleanse(link->out, WIRE_HEADER_SIZE + writer.len);
    CKR_TRY(rv);
    CKR_TRY(CKR_WIRE(wire_get_login_response(&reader, &response)));
    keep_ticket(link->slot, response.ticket);
    return CKR_OK;
}

static CK_RV bring_login(struct link *link)
{
    struct slot *slot = link->slot;
    if (!slot->logged_in || !slot->credentials->known) {
        return CKR_OK;
    }
    CKR_REQUIRE(link_room(link, HELLO_ROOM), CKR_HOST_MEMORY);
    CK_RV rv = slot->credentials->ticket_len != 0 ? show_ticket(link) : CKR_PIN_EXPIRED;
    if (rv == CKR_PIN_EXPIRED) {
        rv = show_pin(link);
    }
    if (rv != CKR_OK && rv != CKR_DEVICE_REMOVED) {
        log_line(LEVEL_ERROR, "the login did not survive the failover (%s): log in again", error_name(rv));
        slot_forget_login(slot);
        rv = CKR_OK;
    }
    return rv;
}

void slot_complain(struct slot *slot, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_arguments(slot->complained ? LEVEL_DEBUG : LEVEL_ERROR, format, arguments);
    va_end(arguments);
    slot->complained = true;
}

/* By TCP an address does not say whose HSM it is, and the customer's CA may stand behind several clusters. */
static CK_RV require_cluster(struct link *link, const struct config_server *where)
{
    const struct config_slot *config = link->slot->config;
    struct wire_reader reader;
    struct wire_hsm_info_response found;
    if (link->tls == NULL || config->cluster[0] == '\0') {
        return CKR_OK;
    }
    CKR_REQUIRE(link_room(link, HELLO_ROOM), CKR_HOST_MEMORY);
    CKR_TRY(ask(link, WIRE_OP_HSM_INFO, 0, &reader));
    CKR_TRY(CKR_WIRE(wire_get_hsm_info_response(&reader, &found)));
    if (found.cluster_id.len == strlen(config->cluster) && memcmp(found.cluster_id.data, config->cluster, found.cluster_id.len) == 0) {
        return CKR_OK;
    }
    slot_complain(link->slot, "no PIN goes to %s: it is an HSM of another cluster than %s", where->name, config->cluster);
    return CKR_DEVICE_REMOVED;
}

/* A new client on one server. CKR_DEVICE_REMOVED: try the next one. */
static CK_RV establish_on(struct link *link, unsigned server)
{
    struct slot *slot = link->slot;
    const struct config_server *where = &slot->config->servers[server];
    CKR_REQUIRE(link_open(link, where, slot->config->uid, module_config()->timeout_ms) == LINK_OK, CKR_DEVICE_REMOVED);
    CK_RV rv = require_cluster(link, where);
    rv = rv == CKR_OK ? say_hello(link, false) : rv;
    rv = rv == CKR_OK ? bring_sessions(link) : rv;
    rv = rv == CKR_OK ? bring_login(link) : rv;
    if (rv == CKR_TOKEN_NOT_PRESENT) {
        slot_complain(slot, "cluster %s has no partition '%s': see `hsmsim partition list`", slot->config->cluster,
                      slot->config->partition);
    } else if (rv != CKR_OK) {
        slot_complain(slot, "%s did not take us in: %s: %s", where->name, error_name(rv), error_text(rv));
    }
    if (rv != CKR_OK) {
        link_close(link);
        return rv == CKR_TOKEN_NOT_PRESENT ? rv : CKR_DEVICE_REMOVED;
    }
    slot->established = true;
    slot->server = server;
    slot->generation++;
    link->generation = slot->generation;
    log_line(LEVEL_INFO, "%s serves slot 0x%lx", where->name, slot->id);
    return CKR_OK;
}

static void reached(struct slot *slot, bool present)
{
    slot->told = slot->told != NOT_ASKED ? slot->told : present ? PRESENT : ABSENT;
    slot->complained = slot->complained && !present;
}

static CK_RV establish(struct link *link)
{
    struct slot *slot = link->slot;
    for (unsigned i = 0; i < slot->config->server_count; i++) {
        CK_RV rv = establish_on(link, (slot->server + i) % slot->config->server_count);
        if (rv != CKR_DEVICE_REMOVED) {
            reached(slot, rv == CKR_OK);
            return rv;
        }
    }
    slot_complain(slot, "no HSM of %s answers; start them: hsmsim up --detach, or hsmsim hsm start", slot->config->cluster);
    reached(slot, false);
    return CKR_DEVICE_REMOVED;
}

/* The link is connected as the slot's client. */
static CK_RV make_ready(struct link *link)
{
    struct slot *slot = link->slot;
    CK_RV rv = CKR_OK;
    pthread_mutex_lock(&slot->lock);
    if (slot->established && (link->fd < 0 || link->generation != slot->generation)) {
        rv = link_open(link, &slot->config->servers[slot->server], slot->config->uid, module_config()->timeout_ms) == LINK_OK
                 ? say_hello(link, true)
                 : CKR_DEVICE_REMOVED;
        if (rv == CKR_OK) {
            link->generation = slot->generation;
        } else {
            link_close(link);
            slot->established = false; /* the HSM does not know us any more */
        }
    }
    if (!slot->established) {
        rv = establish(link);
    }
    pthread_mutex_unlock(&slot->lock);
    return rv;
}

/* This generation's HSM failed: the next one's turn, unless another thread has seen to that. */
static void give_up(struct link *link)
{
    struct slot *slot = link->slot;
    pthread_mutex_lock(&slot->lock);
    if (slot->established && slot->generation == link->generation) {
        log_line(LEVEL_WARN, "%s does not answer; going on with the next HSM", slot->config->servers[slot->server].name);
        slot->established = false;
        slot->server = (slot->server + 1) % slot->config->server_count;
    }
    pthread_mutex_unlock(&slot->lock);
    link_close(link);
}

/* ---- calls --------------------------------------------------------------------------------------------------------------- */

/* The slot's lock is held. NULL: all are others'. */
static struct link *take_link(struct slot *slot)
{
    struct link *link = slot->idle;
    if (link != NULL) {
        slot->idle = link->next;
        link->busy = true;
    }
    return link;
}

static CK_RV begin(struct call *call, size_t room)
{
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
    CKR_REQUIRE(room <= WIRE_MAX_FRAME_USER, CKR_DATA_LEN_RANGE);
    pthread_mutex_lock(&slot->lock);
    while ((call->link = take_link(slot)) == NULL) {
        slot->link_waiters++;
        pthread_cond_wait(&slot->link_free, &slot->lock);
        slot->link_waiters--;
    }
    pthread_mutex_unlock(&slot->lock);
    return begin(call, room);
}

CK_RV call_begin_more(struct call *call, struct slot *slot, uint16_t op, uint64_t session, size_t room)
{
    *call = (struct call){.slot = slot, .op = op, .session = session};
    CKR_REQUIRE(room <= WIRE_MAX_FRAME_USER, CKR_DATA_LEN_RANGE);
    pthread_mutex_lock(&slot->lock);
    call->link = slot->link_waiters == 0 ? take_link(slot) : NULL;
    pthread_mutex_unlock(&slot->lock);
    return begin(call, room);
}

/* establish and join use the link's buffer: the request stays safe in a copy while they run. */
static CK_RV ready_with_request(struct link *link, size_t len)
{
    struct slot *slot = link->slot;
    pthread_mutex_lock(&slot->lock);
    bool ready = slot->established && link->fd >= 0 && link->generation == slot->generation;
    pthread_mutex_unlock(&slot->lock);
    if (ready) {
        return CKR_OK;
    }
    uint8_t *kept = malloc(len + 1);
    CKR_REQUIRE(kept != NULL, CKR_HOST_MEMORY);
    memcpy(kept, link->out + WIRE_HEADER_SIZE, len);
    CK_RV rv = make_ready(link);
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

/* Each HSM is asked in turn. *again: one of them answered that it may not serve now, and nothing was done. */
static CK_RV ask_in_turn(struct call *call, bool *again)
{
    struct link *link = call->link;
    struct slot *slot = call->slot;
    size_t len = call->request.len;
    unsigned patience = op_hot(call->op) ? 1 : SLOW_PATIENCE;
    *again = false;
    for (unsigned attempt = 0; attempt <= slot->config->server_count; attempt++) {
        CKR_TRY(ready_with_request(link, len));
        struct wire_header header;
        bool sent = false;
        link->out_len = WIRE_HEADER_SIZE + len;
        enum link_result result = link_exchange(link, call->op, call->session, patience, call->pausable, &header, &sent);
        if (result == LINK_DEAD) {
            call->link = NULL;
            return CKR_CRYPTOKI_NOT_INITIALIZED;
        }
        bool lost = result != LINK_OK, refused = !lost && header.word == CKR_DEVICE_ERROR && repeatable(call->op);
        if (!lost && !refused) {
            if (header.epoch != atomic_load_explicit(&slot->epoch, memory_order_relaxed)) {
                pthread_mutex_lock(&slot->lock);
                slot_epoch(slot, header.epoch);
                pthread_mutex_unlock(&slot->lock);
            }
            call->response = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
            logged_out_there(slot, header.word);
            *again = false;
            return header.word;
        }
        give_up(link);
        *again = *again || refused;
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
    if (ready_with_request(link, call->request.len) == CKR_OK) {
        link->out_len = WIRE_HEADER_SIZE + call->request.len;
        link_submit(link, call->op, call->session);
    }
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

void link_give_back(struct link *link)
{
    struct slot *slot = link->slot;
    pthread_mutex_lock(&slot->lock);
    link->busy = false;
    link->next = slot->idle;
    slot->idle = link;
    pthread_cond_signal(&slot->link_free);
    pthread_mutex_unlock(&slot->lock);
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
    link_give_back(link);
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
