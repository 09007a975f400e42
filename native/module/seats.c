/* Which HSM is asked, and which are there to be asked (ADR 17).
 *
 * A slot has a home: the HSM where its sessions, their objects and its streams are, and which answers whatever is not a whole
 * operation with a token key. Beside it, once it is logged in and has worked for a turn, it is a guest at others: a client with
 * the login, by ticket, and one session. A request that any of them can answer goes to the one whose turn it is by the clock.
 *
 * HSMs that are reached by sockets share this machine's processors, and are fastest where requests come together in batches:
 * all processes go to the same one in the same turn. By TCP an HSM is a machine: each process goes through them in an order
 * of its own, and first to those where fewest of its calls are under way.
 *
 * An HSM much slower than the others is left out for a multiple of what it took; one that may not serve just now, for want of
 * its lease, for a turn. One that is gone or cut off is away: nothing goes there. It is knocked at now and then, without
 * anybody waiting: whoever comes by later looks whether the answer is there. */
#include <openssl/crypto.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "macros.h"
#include "slot.h"

#define MS UINT64_C(1000000)
#define TURN_NS (50 * MS)
#define KNOCK_NS (750 * MS)      /* how long an answer to a knock may take */
#define PAUSE_MIN_NS (50 * MS)   /* between two knocks, doubled up to */
#define PAUSE_MAX_NS (400 * MS)
#define SLOW_MIN_NS MS           /* by how much, at least, and how many times an HSM is slower that is left out */
#define SLOW_PAUSE_MAX_NS (2000 * MS)
enum { SLOW_TIMES = 4, SLOW_PAUSE = 32, TOGETHER = 0 /* a slot's seed */ };

/* How many HSMs the slot spreads over, and one of them: those that follow its home, where there are more than it can. */
static unsigned window(const struct slot *slot)
{
    return slot->config->server_count < SLOT_WINDOW ? slot->config->server_count : SLOT_WINDOW;
}

static unsigned in_window(const struct slot *slot, unsigned place)
{
    unsigned count = slot->config->server_count, first = count > SLOT_WINDOW ? slot->server : 0;
    return (first + place % window(slot)) % count;
}

/* ---- coming and going ------------------------------------------------------------------------------------------------- */

static void make_spare(struct slot *slot, struct link *link)
{
    link_close(link);
    link->next = slot->spare;
    slot->spare = link;
}

static void end_knock(struct slot *slot, struct seat *seat)
{
    if (seat->knocking != NULL) {
        make_spare(slot, seat->knocking);
        seat->knocking = NULL;
    }
}

static void empty(struct slot *slot, struct seat *seat)
{
    end_knock(slot, seat);
    slot->guests -= seat->state == SEAT_TAKEN && seat->guest;
    seat->state = SEAT_AWAY;
    seat->generation = ++slot->generations; /* calls under way find that they have no client there any more */
    while (seat->idle != NULL) {
        struct link *link = seat->idle;
        seat->idle = link->next;
        make_spare(slot, link);
    }
}

void seats_lost(struct slot *slot, unsigned server)
{
    struct seat *seat = &slot->seats[server];
    if (seat->state == SEAT_AWAY) {
        return;
    }
    empty(slot, seat);
    seat->pause = seat->pause == 0 ? PAUSE_MIN_NS : seat->pause < PAUSE_MAX_NS ? 2 * seat->pause : seat->pause;
    seat->again_at = ring_now_ns() + seat->pause;
}

void seats_leave(struct slot *slot)
{
    for (unsigned i = 0; i < slot->config->server_count; i++) {
        struct seat *seat = &slot->seats[i];
        if (seat->state == SEAT_KNOCKING || (seat->state == SEAT_TAKEN && seat->guest)) {
            empty(slot, seat);
            seat->with_pin = false;
        }
    }
}

void seats_taken(struct slot *slot, struct link *link, bool guest)
{
    struct seat *seat = &slot->seats[link->server];
    seat->state = SEAT_TAKEN;
    seat->guest = guest;
    seat->generation = link->generation = ++slot->generations;
    seat->pause = seat->again_at = seat->key = 0;
    seat->with_pin = false;
    slot->guests += guest;
}

unsigned seats_next_home(const struct slot *slot)
{
    unsigned count = slot->config->server_count;
    for (unsigned i = 1; i < count; i++) {
        if (slot->seats[(slot->server + i) % count].state == SEAT_TAKEN) {
            return (slot->server + i) % count;
        }
    }
    return (slot->server + 1) % count;
}

/* ---- knocking --------------------------------------------------------------------------------------------------------- */

static bool say(struct link *link, uint16_t op, bool put, const struct wire_writer *written)
{
    link->out_len = WIRE_HEADER_SIZE + (put ? written->len : 0);
    return put && link_say(link, op);
}

static struct wire_writer writer_of(struct link *link)
{
    return wire_writer(link->out + WIRE_HEADER_SIZE, link->out_cap - WIRE_HEADER_SIZE);
}

static bool say_hello(struct link *link)
{
    struct wire_writer writer;
    bool put = hello_put(link, false, &writer);
    return say(link, WIRE_OP_HELLO, put, &writer);
}

/* Both at once: they are answered one after the other. */
static bool say_session_and_login(struct link *link, bool with_pin)
{
    uint8_t lists[2][8];
    struct wire_writer id = wire_writer(lists[0], 8), flags = wire_writer(lists[1], 8), writer = writer_of(link);
    bool put = wire_put_u64(&id, guest_session) == WIRE_OK && wire_put_u64(&flags, CKF_SERIAL_SESSION | CKF_RW_SESSION) == WIRE_OK;
    const struct wire_open_sessions_request request = {{lists[0], 1}, {lists[1], 1}};
    put = put && wire_put_open_sessions_request(&writer, &request) == WIRE_OK;
    if (!say(link, WIRE_OP_OPEN_SESSIONS, put, &writer)) {
        return false;
    }
    writer = writer_of(link);
    put = (with_pin ? pin_put : ticket_put)(link->slot, &writer) == CKR_OK;
    bool said = say(link, with_pin ? WIRE_OP_LOGIN : WIRE_OP_LOGIN_TICKET, put, &writer);
    OPENSSL_cleanse(link->out, link->out_cap);
    return said;
}

/* By TCP an address does not say whose HSM it is. */
static bool of_our_cluster(const struct link *link, const struct wire_hello_response *hello)
{
    const char *ours = link->slot->config->cluster;
    return link->tls == NULL || *ours == '\0' ||
           (hello->cluster_id.len == strlen(ours) && memcmp(hello->cluster_id.data, ours, hello->cluster_id.len) == 0);
}

static enum link_result hear_hello(struct link *link, struct seat *seat)
{
    struct wire_header header;
    struct wire_hello_response hello;
    enum link_result result = link_hear(link, WIRE_OP_HELLO, link->seq, &header);
    if (result != LINK_OK) {
        return result;
    }
    struct wire_reader reader = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
    if (header.word != CKR_OK || hello_take(link, &reader, &hello) != CKR_OK || !of_our_cluster(link, &hello)) {
        return LINK_LOST;
    }
    link_heard(link, &header);
    atomic_store(&seat->epoch, header.epoch);
    return say_session_and_login(link, seat->with_pin) ? LINK_OK : LINK_LOST;
}

static enum link_result hear_session(struct link *link)
{
    struct wire_header header;
    enum link_result result = link_hear(link, WIRE_OP_OPEN_SESSIONS, link->seq - 1, &header);
    if (result == LINK_OK) {
        link_heard(link, &header);
        result = header.word == CKR_OK ? LINK_OK : LINK_LOST;
    }
    return result;
}

static enum link_result hear_login(struct link *link, struct seat *seat)
{
    struct wire_header header;
    struct wire_login_ticket_response login; /* LOGIN's has the same fields */
    enum link_result result = link_hear(link, seat->with_pin ? WIRE_OP_LOGIN : WIRE_OP_LOGIN_TICKET, link->seq, &header);
    if (result != LINK_OK) {
        return result;
    }
    struct wire_reader reader = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
    seat->with_pin = header.word == CKR_PIN_EXPIRED;
    if (header.word != CKR_OK || wire_get_login_ticket_response(&reader, &login) != WIRE_OK) {
        return LINK_LOST;
    }
    ticket_keep(link->slot, login.ticket);
    link_heard(link, &header);
    return LINK_OK;
}

/* One step further; LINK_REFUSED: not yet. */
static enum link_result step(struct slot *slot, struct seat *seat)
{
    struct link *link = seat->knocking;
    enum link_result result = LINK_LOST;
    switch (seat->step) {
    case STEP_HANDSHAKE:
        result = link->tls == NULL ? LINK_OK : link_tls_go_on(link, &slot->config->servers[link->server]);
        return result == LINK_OK && !say_hello(link) ? LINK_LOST : result;
    case STEP_HELLO: return hear_hello(link, seat);
    case STEP_SESSION: return hear_session(link);
    case STEP_LOGIN: return hear_login(link, seat);
    }
    return result;
}

static void go_on(struct slot *slot, struct seat *seat, uint64_t now)
{
    enum link_result result;
    while ((result = step(slot, seat)) == LINK_OK && seat->step != STEP_LOGIN) {
        seat->step++;
    }
    if (result == LINK_OK) {
        struct link *link = seat->knocking;
        seat->knocking = NULL;
        seats_taken(slot, link, true);
        seats_put_link(slot, link);
        log_line(LEVEL_INFO, "%s serves slot 0x%lx, too", slot->config->servers[link->server].name, slot->id);
    } else if (result == LINK_LOST || now > seat->give_up_at) {
        seats_lost(slot, seat->knocking->server);
    }
}

static void knock(struct slot *slot, unsigned server, uint64_t now)
{
    const struct config_server *where = &slot->config->servers[server];
    struct seat *seat = &slot->seats[server];
    struct link *link = slot->spare;
    if (link == NULL) {
        return;
    }
    slot->spare = link->next;
    link->server = server;
    seat->state = SEAT_KNOCKING;
    seat->knocking = link;
    seat->step = STEP_HANDSHAKE;
    seat->give_up_at = now + KNOCK_NS;
    enum link_result opened = where->port != 0 ? link_tls_begin(link, where, module_config()->timeout_ms)
                                               : link_open(link, where, slot->config->uid, GUEST_PATIENCE_MS);
    if (opened != LINK_OK) {
        seats_lost(slot, server);
        return;
    }
    go_on(slot, seat, now);
}

static void tend(struct slot *slot, uint64_t now)
{
    for (unsigned i = 0; i < window(slot); i++) {
        unsigned server = in_window(slot, i);
        struct seat *seat = &slot->seats[server];
        if (seat->state == SEAT_KNOCKING) {
            go_on(slot, seat, now);
        } else if (seat->state == SEAT_AWAY && now >= seat->again_at) {
            knock(slot, server, now);
        }
    }
}

/* ---- choosing --------------------------------------------------------------------------------------------------------- */

static uint64_t mixed(uint64_t value) /* splitmix64, by Sebastiano Vigna */
{
    value += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

void seats_begin(struct slot *slot)
{
    if (!module_config()->spread_off) {
        uint64_t own = mixed((uint64_t)getpid());
        slot->server = (unsigned)(own % slot->config->server_count);
        slot->seed = slot->config->servers[0].port == 0 ? TOGETHER : own;
    }
}

/* Only a crypto user's login is taken along: an admin's work is the home's. */
static bool spreads(const struct slot *slot)
{
    return slot->config->server_count > 1 && slot->logged_in && slot->user_type == CKU_USER && slot->credentials->ticket_len != 0 &&
           !module_config()->spread_off;
}

static unsigned who_is_there(const struct slot *slot, uint64_t now, unsigned there[SLOT_WINDOW])
{
    unsigned count = 0;
    for (unsigned i = 0; i < window(slot); i++) {
        unsigned server = in_window(slot, i);
        if (slot->seats[server].state == SEAT_TAKEN && now >= slot->seats[server].again_at) {
            there[count++] = server;
        }
    }
    return count;
}

/* Each has one turn in as many turns as there are HSMs. */
static unsigned in_turn(const struct slot *slot, uint64_t turn, const unsigned *there, unsigned count)
{
    unsigned first = (unsigned)((turn + mixed(slot->seed + turn / count)) % count), best = there[first];
    for (unsigned i = 1; i < count && slot->seed != TOGETHER; i++) {
        unsigned other = there[(first + i) % count];
        best = slot->seats[other].busy < slot->seats[best].busy ? other : best;
    }
    return best;
}

unsigned seats_choose(struct slot *slot, bool spread, uint64_t *began)
{
    *began = 0;
    if (!spread || !spreads(slot)) {
        return slot->server;
    }
    uint64_t now = ring_now_ns(), turn = now / TURN_NS;
    if (slot->tended != turn) {
        if (slot->tended != 0) { /* a process that ends at once is nobody's guest */
            tend(slot, now);
        }
        slot->tended = turn;
    }
    if (slot->guests == 0) {
        return slot->server;
    }
    unsigned there[SLOT_WINDOW], count = who_is_there(slot, now, there);
    *began = now;
    return count == 0 ? slot->server : in_turn(slot, turn, there, count);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Of the others, with the same key; UINT64_MAX: not known. */
static uint64_t fastest_other(const struct slot *slot, const struct seat *but)
{
    uint64_t found = UINT64_MAX;
    for (unsigned i = 0; i < window(slot); i++) {
        const struct seat *seat = &slot->seats[in_window(slot, i)];
        if (seat != but && seat->state == SEAT_TAKEN && seat->key == but->key) {
            found = least(found, least(seat->fastest, seat->former));
        }
    }
    return found;
}

/* The fastest answer and not their mean: it is longer when the HSM is slow, and not when this machine is busy now and then. */
void seats_measure(struct slot *slot, unsigned server, uint64_t key, uint64_t began)
{
    struct seat *seat = &slot->seats[server];
    uint64_t now = ring_now_ns(), took = now - began, visit = began / TURN_NS;
    if (seat->key != key) {
        seat->key = key;
        seat->fastest = seat->former = took;
    } else if (seat->visit != visit) {
        seat->former = seat->fastest;
        seat->fastest = took;
    } else {
        seat->fastest = least(seat->fastest, took);
    }
    seat->visit = visit;
    uint64_t ours = least(seat->fastest, seat->former), others = fastest_other(slot, seat);
    bool slow = others != UINT64_MAX && ours > others + SLOW_MIN_NS && ours / SLOW_TIMES > others;
    seat->again_at = slow ? now + least(SLOW_PAUSE * ours, SLOW_PAUSE_MAX_NS) : 0;
}

void seats_pass_over(struct slot *slot, unsigned server)
{
    slot->seats[server].again_at = ring_now_ns() + TURN_NS;
}

/* ---- links ------------------------------------------------------------------------------------------------------------ */

static struct link *pop(struct link **list)
{
    struct link *link = *list;
    if (link != NULL) {
        *list = link->next;
    }
    return link;
}

/* A guest's. There is one, for the home keeps no more than SLOT_LINKS. */
static struct link *take_from_another(struct slot *slot)
{
    struct link *link = NULL;
    for (unsigned i = 0; i < slot->config->server_count && link == NULL; i++) {
        link = i == slot->server ? NULL : pop(&slot->seats[i].idle);
    }
    if (link != NULL) {
        link_close(link);
    }
    return link;
}

struct link *seats_take_link(struct slot *slot, unsigned server)
{
    struct link *link = pop(&slot->seats[server].idle);
    link = link == NULL ? pop(&slot->spare) : link;
    link = link == NULL ? take_from_another(slot) : link;
    link->server = server;
    slot->seats[server].busy++;
    return link;
}

void seats_put_link(struct slot *slot, struct link *link)
{
    struct seat *seat = &slot->seats[link->server];
    if (link->fd < 0 || link->generation != seat->generation) {
        make_spare(slot, link);
        return;
    }
    link->next = seat->idle;
    seat->idle = link;
}
