/* The client that an HSM knows us as: a HELLO, the slot's sessions, its login. Everywhere here the slot's lock is held. */
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "macros.h"
#include "slot.h"

enum { WIRE_VERSION = 1, PROFILE_CLOUDHSM = 1, PROFILE_CHECK_OFF = 2, HELLO_ROOM = 1024 };

/* One request on a link that no caller has yet. The payload is in link->out after the header. */
static CK_RV ask(struct link *link, uint16_t op, size_t payload, unsigned patience, struct wire_reader *response)
{
    struct wire_header header;
    bool sent = false;
    link->out_len = WIRE_HEADER_SIZE + payload;
    if (link_exchange(link, op, 0, patience, NULL, &header, &sent) != LINK_OK) {
        return CKR_DEVICE_REMOVED;
    }
    *response = wire_reader(link->in + WIRE_HEADER_SIZE, header.length);
    slot_epoch(link->slot, &link->slot->seats[link->server], header.epoch);
    return header.word;
}

static unsigned timeout_ms(void)
{
    return module_config()->timeout_ms;
}

static struct wire_writer fresh(struct link *link)
{
    return wire_writer(link->out + WIRE_HEADER_SIZE, link->out_cap - WIRE_HEADER_SIZE);
}

bool hello_put(struct link *link, bool join, struct wire_writer *out)
{
    const struct slot *slot = link->slot;
    const struct seat *seat = &slot->seats[link->server];
    if (!link_room(link, HELLO_ROOM)) {
        return false;
    }
    const struct wire_hello_request request = {
        .version = WIRE_VERSION,
        .profile = (uint8_t)((module_config()->cloudhsm ? PROFILE_CLOUDHSM : 0) | (slot->config->check_off ? PROFILE_CHECK_OFF : 0)),
        .partition = wire_bytes(slot->config->partition, (uint32_t)strlen(slot->config->partition)),
        .vantage = wire_bytes(slot->config->vantage, (uint32_t)strlen(slot->config->vantage)),
        .cookie = join ? wire_bytes(seat->cookie, seat->cookie_len) : wire_bytes(NULL, 0),
    };
    *out = fresh(link);
    return wire_put_hello_request(out, &request) == WIRE_OK;
}

CK_RV hello_take(struct link *link, struct wire_reader *from, struct wire_hello_response *response)
{
    struct slot *slot = link->slot;
    struct seat *seat = &slot->seats[link->server];
    CKR_TRY(CKR_WIRE(wire_get_hello_response(from, response)));
    CKR_REQUIRE(response->cookie.len <= sizeof seat->cookie, CKR_DEVICE_ERROR);
    wire_copy(seat->cookie, response->cookie);
    seat->cookie_len = response->cookie.len;
    slot->mode = response->fips != 0 ? MODE_FIPS : MODE_NON_FIPS;
    return CKR_OK;
}

static CK_RV say_hello(struct link *link, bool join, unsigned patience)
{
    struct wire_writer writer;
    struct wire_reader reader;
    struct wire_hello_response response;
    CKR_REQUIRE(hello_put(link, join, &writer), CKR_HOST_MEMORY);
    CKR_TRY(ask(link, WIRE_OP_HELLO, writer.len, patience, &reader));
    return hello_take(link, &reader, &response);
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
    rv = rv == CKR_OK ? ask(link, WIRE_OP_OPEN_SESSIONS, writer.len, timeout_ms(), &reader) : rv;
    free(lists);
    return rv;
}

void ticket_keep(struct slot *slot, struct wire_bytes ticket)
{
    if (ticket.len <= TICKET_MAX) {
        wire_copy(slot->credentials->ticket, ticket);
        slot->credentials->ticket_len = ticket.len;
    }
}

CK_RV ticket_put(const struct slot *slot, struct wire_writer *out)
{
    const struct wire_login_ticket_request request = {wire_bytes(slot->credentials->ticket, (uint32_t)slot->credentials->ticket_len)};
    return CKR_WIRE(wire_put_login_ticket_request(out, &request));
}

CK_RV pin_put(const struct slot *slot, struct wire_writer *out)
{
    const struct credentials *known = slot->credentials;
    const struct wire_login_request request = {known->user_type, wire_bytes(known->user, (uint32_t)known->user_len),
                                               wire_bytes(known->password, (uint32_t)known->password_len)};
    return CKR_WIRE(wire_put_login_request(out, &request));
}

static CK_RV show_ticket(struct link *link)
{
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    struct wire_login_ticket_response response;
    CKR_TRY(ticket_put(link->slot, &writer));
    CKR_TRY(ask(link, WIRE_OP_LOGIN_TICKET, writer.len, timeout_ms(), &reader));
    CKR_TRY(CKR_WIRE(wire_get_login_ticket_response(&reader, &response)));
    ticket_keep(link->slot, response.ticket);
    return CKR_OK;
}

static CK_RV show_pin(struct link *link)
{
    struct wire_writer writer = fresh(link);
    struct wire_reader reader;
    struct wire_login_response response;
    CKR_TRY(pin_put(link->slot, &writer));
    CK_RV rv = ask(link, WIRE_OP_LOGIN, writer.len, timeout_ms(), &reader);
    OPENSSL_cleanse(link->out, WIRE_HEADER_SIZE + writer.len);
    CKR_TRY(rv);
    CKR_TRY(CKR_WIRE(wire_get_login_response(&reader, &response)));
    ticket_keep(link->slot, response.ticket);
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
    CKR_TRY(ask(link, WIRE_OP_HSM_INFO, 0, timeout_ms(), &reader));
    CKR_TRY(CKR_WIRE(wire_get_hsm_info_response(&reader, &found)));
    if (found.cluster_id.len == strlen(config->cluster) && memcmp(found.cluster_id.data, config->cluster, found.cluster_id.len) == 0) {
        return CKR_OK;
    }
    slot_complain(link->slot, "no PIN goes to %s: it is an HSM of another cluster than %s", where->name, config->cluster);
    return CKR_DEVICE_REMOVED;
}

void link_turn(struct link *link, unsigned server)
{
    struct slot *slot = link->slot;
    link_close(link);
    slot->seats[link->server].busy--;
    link->server = server;
    slot->seats[link->server].busy++;
}

/* A new client on one server. CKR_DEVICE_REMOVED: try the next one. */
static CK_RV establish_on(struct link *link, unsigned server)
{
    struct slot *slot = link->slot;
    const struct config_server *where = &slot->config->servers[server];
    link_turn(link, server);
    seats_lost(slot, server); /* a guest makes room */
    CKR_REQUIRE(link_open(link, where, slot->config->uid, timeout_ms()) == LINK_OK, CKR_DEVICE_REMOVED);
    CK_RV rv = require_cluster(link, where);
    rv = rv == CKR_OK ? say_hello(link, false, timeout_ms()) : rv;
    rv = rv == CKR_OK ? bring_sessions(link) : rv;
    rv = rv == CKR_OK ? bring_login(link) : rv;
    if (rv == CKR_TOKEN_NOT_PRESENT) {
        slot_complain(slot, "cluster %s has no partition '%s': see `hsmsim partition list`", slot->config->cluster,
                      slot->config->partition);
    } else if (rv != CKR_OK && link_tls_refusal(link) != NULL) {
        slot_complain(slot, "%s does not take us in: %s", where->name, link_tls_refusal(link));
    } else if (rv != CKR_OK) {
        slot_complain(slot, "%s did not take us in: %s: %s", where->name, error_name(rv), error_text(rv));
    }
    if (rv != CKR_OK) {
        link_close(link);
        return rv == CKR_TOKEN_NOT_PRESENT ? rv : CKR_DEVICE_REMOVED;
    }
    slot->established = true;
    slot->server = server;
    slot_forget_facts(slot, false);
    seats_taken(slot, link, false);
    log_line(LEVEL_INFO, "%s serves slot 0x%lx", where->name, slot->id);
    return CKR_OK;
}

static void reached(struct slot *slot, bool present)
{
    slot->told = slot->told != NOT_ASKED ? slot->told : present ? PRESENT : ABSENT;
    slot->complained = slot->complained && !present;
}

CK_RV establish(struct link *link)
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

CK_RV establish_join(struct link *link, unsigned patience)
{
    struct slot *slot = link->slot;
    struct seat *seat = &slot->seats[link->server];
    CK_RV rv = link_open(link, &slot->config->servers[link->server], slot->config->uid, patience) == LINK_OK ? say_hello(link, true, patience)
                                                                                                            : CKR_DEVICE_REMOVED;
    if (rv != CKR_OK) {
        link_close(link);
        return rv;
    }
    link->generation = seat->generation;
    return CKR_OK;
}
