/* Sessions and logins. A handle is the slot's number and the session's id; ids are not used again soon. */
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "macros.h"
#include "slot.h"

enum { ID_BITS = 32 };

static void session_free(struct session *session)
{
    operations_free(session, false);
    pthread_mutex_destroy(&session->lock);
    if (session->wrapped != NULL) {
        OPENSSL_cleanse(session->wrapped, session->wrapped_len);
    }
    free(session->wrapped);
    free(session->found);
    free(session);
}

/* Gives a reference back; the slot's lock is not held. */
static void release(struct session *session)
{
    struct slot *slot = session->slot;
    pthread_mutex_lock(&slot->lock);
    bool last = --session->references == 0;
    pthread_mutex_unlock(&slot->lock);
    if (last) {
        session_free(session);
    }
}

static struct session **place_of(struct slot *slot, uint64_t id)
{
    return &slot->sessions[id % SLOT_SESSIONS];
}

CK_RV session_enter(CK_SESSION_HANDLE handle, struct session **out)
{
    CKR_TRY(module_ready());
    uint64_t number = handle >> ID_BITS, id = handle & UINT32_MAX;
    CKR_REQUIRE(number >= 1 && number <= slots.count, CKR_SESSION_HANDLE_INVALID);
    struct slot *slot = slots.all[number - 1];
    pthread_mutex_lock(&slot->lock);
    struct session *session = *place_of(slot, id);
    bool found = session != NULL && session->id == id;
    if (found) {
        session->references++;
    }
    pthread_mutex_unlock(&slot->lock);
    CKR_REQUIRE(found, CKR_SESSION_HANDLE_INVALID);
    pthread_mutex_lock(&session->lock);
    if (session->closed) {
        return session_leave(session, CKR_SESSION_HANDLE_INVALID);
    }
    *out = session;
    return CKR_OK;
}

CK_RV session_leave(struct session *session, CK_RV rv)
{
    pthread_mutex_unlock(&session->lock);
    release(session);
    return rv;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

static CK_RV tell_open(struct slot *slot, uint64_t id, CK_FLAGS flags, unsigned *generation)
{
    struct call call;
    uint8_t lists[2][8];
    struct wire_writer ids = wire_writer(lists[0], 8), all_flags = wire_writer(lists[1], 8);
    CKR_TRY(CKR_WIRE(wire_put_u64(&ids, id)));
    CKR_TRY(CKR_WIRE(wire_put_u64(&all_flags, flags)));
    const struct wire_open_sessions_request request = {{lists[0], 1}, {lists[1], 1}};
    CKR_TRY(call_begin(&call, slot, WIRE_OP_OPEN_SESSIONS, 0, 64));
    CK_RV rv = CKR_WIRE(wire_put_open_sessions_request(&call.request, &request));
    rv = rv == CKR_OK ? call_run(&call) : rv;
    *generation = call.link->generation;
    call_end(&call, false);
    return rv == CKR_DEVICE_REMOVED ? CKR_TOKEN_NOT_PRESENT : rv;
}

/* An id whose place is free; the slot's lock is held. */
static uint64_t free_id(struct slot *slot)
{
    for (unsigned i = 0; i < SLOT_SESSIONS; i++) {
        uint64_t id = ++slot->session_serial & UINT32_MAX;
        if (id != 0 && id != guest_session && *place_of(slot, id) == NULL) {
            return id;
        }
    }
    return 0;
}

static struct session *session_new(struct slot *slot, uint64_t id, CK_FLAGS flags)
{
    struct session *session = calloc(1, sizeof *session);
    if (session != NULL) {
        session->handle = (slot->id - FIRST_SLOT_ID + 1) << ID_BITS | id;
        session->id = id;
        session->flags = flags;
        session->slot = slot;
        session->references = 1; /* the table's */
        pthread_mutex_init(&session->lock, NULL);
    }
    return session;
}

static CK_RV open_session(struct slot *slot, CK_FLAGS flags, CK_SESSION_HANDLE *handle)
{
    pthread_mutex_lock(&slot->lock);
    bool full = slot->session_count == SLOT_SESSIONS;
    bool so = slot->logged_in && slot->user_type == CKU_SO && (flags & CKF_RW_SESSION) == 0;
    uint64_t id = full ? 0 : free_id(slot);
    pthread_mutex_unlock(&slot->lock);
    CKR_REQUIRE(!so, CKR_SESSION_READ_WRITE_SO_EXISTS);
    CKR_REQUIRE(id != 0, CKR_SESSION_COUNT);
    struct session *session = session_new(slot, id, flags);
    CKR_REQUIRE(session != NULL, CKR_HOST_MEMORY);
    unsigned generation;
    CK_RV rv = tell_open(slot, id, flags, &generation);
    if (rv != CKR_OK) {
        session_free(session);
        return rv;
    }
    pthread_mutex_lock(&slot->lock);
    bool taken = *place_of(slot, id) != NULL; /* another thread has gone round all ids meanwhile */
    if (!taken) {
        *place_of(slot, id) = session;
        slot->session_count++;
        slot->rw_count += (flags & CKF_RW_SESSION) != 0;
    }
    bool moved = slot->seats[slot->server].generation != generation;
    pthread_mutex_unlock(&slot->lock);
    if (taken) {
        session_free(session);
        return CKR_SESSION_COUNT;
    }
    *handle = session->handle;
    if (moved) { /* the failover that happened just now did not know of it */
        rv = tell_open(slot, id, flags, &generation);
    }
    return moved && rv != CKR_OK && rv != CKR_ARGUMENTS_BAD ? rv : CKR_OK;
}

CK_RV C_OpenSession(CK_SLOT_ID slotID, CK_FLAGS flags, CK_VOID_PTR pApplication, CK_NOTIFY Notify, CK_SESSION_HANDLE_PTR phSession)
{
    struct slot *slot;
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE(phSession != NULL, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE((flags & CKF_SERIAL_SESSION) != 0, CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    if (module_cloudhsm()) {
        CKR_REQUIRE(pApplication == NULL && Notify == NULL, CKR_ARGUMENTS_BAD);
        CKR_REQUIRE((flags & CKF_RW_SESSION) != 0, CKR_FUNCTION_FAILED);
    }
    return open_session(slot, flags & (CKF_SERIAL_SESSION | CKF_RW_SESSION), phSession);
}

/* ---- closing ---------------------------------------------------------------------------------------------------------------- */

static CK_RV tell_close(struct slot *slot, const uint64_t *id)
{
    struct call call;
    uint8_t list[8];
    struct wire_writer ids = wire_writer(list, sizeof list);
    CKR_TRY(id == NULL ? CKR_OK : CKR_WIRE(wire_put_u64(&ids, *id)));
    const struct wire_close_sessions_request request = {{list, id == NULL ? 0 : 1}};
    CKR_TRY(call_begin(&call, slot, WIRE_OP_CLOSE_SESSIONS, 0, 64));
    CK_RV rv = CKR_WIRE(wire_put_close_sessions_request(&call.request, &request));
    rv = rv == CKR_OK ? call_run(&call) : rv;
    call_end(&call, false);
    return rv;
}

/* Takes the session out of the table; true if it was the last. The slot's lock is held. */
static void take_out(struct slot *slot, struct session *session)
{
    *place_of(slot, session->id) = NULL;
    slot->session_count--;
    slot->rw_count -= (session->flags & CKF_RW_SESSION) != 0;
    if (slot->session_count == 0) {
        slot_forget_login(slot);
    }
}

CK_RV C_CloseSession(CK_SESSION_HANDLE hSession)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    struct slot *slot = session->slot;
    uint64_t id = session->id;
    operations_free(session, true);
    session->closed = true;
    pthread_mutex_lock(&slot->lock);
    take_out(slot, session);
    pthread_mutex_unlock(&slot->lock);
    session_leave(session, CKR_OK);
    release(session); /* the table's reference */
    CK_RV rv = tell_close(slot, &id);
    if (rv != CKR_OK) { /* the HSM is gone, and the session with it */
        log_line(LEVEL_INFO, "the HSM was not told of a closed session: %s", error_name(rv));
    }
    return CKR_OK;
}

CK_RV C_CloseAllSessions(CK_SLOT_ID slotID)
{
    struct slot *slot;
    CKR_TRY(slot_find(slotID, &slot));
    for (unsigned i = 0; i < SLOT_SESSIONS; i++) {
        pthread_mutex_lock(&slot->lock);
        CK_SESSION_HANDLE handle = slot->sessions[i] == NULL ? 0 : slot->sessions[i]->handle;
        pthread_mutex_unlock(&slot->lock);
        if (handle != 0) {
            CK_RV rv = C_CloseSession(handle);
            CKR_REQUIRE(rv == CKR_OK || rv == CKR_SESSION_HANDLE_INVALID, rv);
        }
    }
    return CKR_OK;
}

void session_abandon(struct session *session)
{
    struct slot *slot = session->slot;
    uint64_t id = session->id;
    pthread_mutex_lock(&session->lock);
    bool there = !session->closed;
    session->closed = true;
    pthread_mutex_unlock(&session->lock);
    if (there) {
        pthread_mutex_lock(&slot->lock);
        take_out(slot, session);
        pthread_mutex_unlock(&slot->lock);
        release(session); /* the table's reference */
        (void)tell_close(slot, &id); /* an HSM that is gone has forgotten it */
    }
}

static CK_STATE state_of(const struct slot *slot, CK_FLAGS flags)
{
    bool writing = (flags & CKF_RW_SESSION) != 0;
    if (!slot->logged_in) {
        return writing ? CKS_RW_PUBLIC_SESSION : CKS_RO_PUBLIC_SESSION;
    }
    if (slot->user_type == CKU_SO) {
        return CKS_RW_SO_FUNCTIONS;
    }
    return writing ? CKS_RW_USER_FUNCTIONS : CKS_RO_USER_FUNCTIONS;
}

CK_RV C_GetSessionInfo(CK_SESSION_HANDLE hSession, CK_SESSION_INFO_PTR pInfo)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    if (pInfo == NULL) {
        return session_leave(session, CKR_ARGUMENTS_BAD);
    }
    pthread_mutex_lock(&session->slot->lock);
    *pInfo = (CK_SESSION_INFO){.slotID = session->slot->id, .state = state_of(session->slot, session->flags), .flags = session->flags};
    pthread_mutex_unlock(&session->slot->lock);
    return session_leave(session, CKR_OK);
}

/* ---- login --------------------------------------------------------------------------------------------------------------------- */

void slot_forget_login(struct slot *slot)
{
    seats_leave(slot);
    slot->logged_in = false;
    slot->logins_ended++;
    OPENSSL_cleanse(slot->credentials, sizeof *slot->credentials);
}

static void remember(struct slot *slot, CK_USER_TYPE type, struct wire_bytes user, struct wire_bytes password, struct wire_bytes ticket)
{
    struct credentials *known = slot->credentials;
    pthread_mutex_lock(&slot->lock);
    slot->logged_in = true;
    slot->user_type = type;
    known->known = user.len <= PIN_USER && password.len <= PIN_PASSWORD && ticket.len <= TICKET_MAX;
    if (known->known) {
        known->user_type = type;
        known->user_len = user.len;
        known->password_len = password.len;
        known->ticket_len = ticket.len;
        wire_copy(known->user, user);
        wire_copy(known->password, password);
        wire_copy(known->ticket, ticket);
    }
    pthread_mutex_unlock(&slot->lock);
}

static CK_RV may_log_in(struct session *session, CK_USER_TYPE type)
{
    struct slot *slot = session->slot;
    /* no operation here asks for a login of its own: CKA_ALWAYS_AUTHENTICATE is always false */
    CKR_REQUIRE(type != CKU_CONTEXT_SPECIFIC, CKR_OPERATION_NOT_INITIALIZED);
    CKR_REQUIRE(type == CKU_USER || type == CKU_SO, CKR_USER_TYPE_INVALID);
    pthread_mutex_lock(&slot->lock);
    bool logged_in = slot->logged_in, same = slot->user_type == type, reading = slot->rw_count != slot->session_count;
    pthread_mutex_unlock(&slot->lock);
    CKR_REQUIRE(!logged_in, same ? CKR_USER_ALREADY_LOGGED_IN : CKR_USER_ANOTHER_ALREADY_LOGGED_IN);
    return type == CKU_SO && reading ? CKR_SESSION_READ_ONLY_EXISTS : CKR_OK;
}

static CK_RV log_in(struct session *session, CK_USER_TYPE type, struct wire_bytes user, struct wire_bytes password)
{
    struct slot *slot = session->slot;
    struct call call;
    struct wire_login_response response;
    const struct wire_login_request request = {type, user, password};
    CKR_TRY(call_begin(&call, slot, WIRE_OP_LOGIN, session->id, 64 + user.len + password.len));
    CK_RV rv = CKR_WIRE(wire_put_login_request(&call.request, &request));
    rv = rv == CKR_OK ? call_run(&call) : rv;
    if (rv == CKR_OK) {
        rv = CKR_WIRE(wire_get_login_response(&call.response, &response));
    }
    if (rv == CKR_OK) {
        remember(slot, type, user, password, response.ticket);
    }
    call_end(&call, true);
    return rv;
}

static CK_RV explain(const struct session *session, CK_RV rv)
{
    const char *advice = rv == CKR_PIN_INCORRECT ? "the PIN is user:password; five wrong ones lock the user"
                         : rv == CKR_PIN_LOCKED  ? "an admin unlocks the user: hsmsim user change-password"
                         : rv == CKR_USER_PIN_NOT_INITIALIZED ? "activate the cluster: hsmsim up"
                                                              : error_text(rv);
    if (rv != CKR_OK) {
        log_line(LEVEL_ERROR, "no login to %s: %s: %s", session->slot->config->cluster, error_name(rv), advice);
    }
    return rv;
}

static CK_RV with_pin(struct session *session, CK_USER_TYPE type, const CK_UTF8CHAR *pin, CK_ULONG len)
{
    CKR_REQUIRE(pin != NULL || len == 0, CKR_ARGUMENTS_BAD);
    CKR_TRY(may_log_in(session, type));
    const CK_UTF8CHAR *colon = len == 0 || len > PIN_USER + PIN_PASSWORD ? NULL : memchr(pin, ':', len);
    CKR_REQUIRE(colon != NULL, CKR_PIN_INCORRECT);
    size_t user = (size_t)(colon - pin);
    return log_in(session, type, wire_bytes(pin, (uint32_t)user), wire_bytes(colon + 1, (uint32_t)(len - user - 1)));
}

CK_RV C_Login(CK_SESSION_HANDLE hSession, CK_USER_TYPE userType, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, explain(session, with_pin(session, userType, pPin, ulPinLen)));
}

CK_RV C_LoginUser(CK_SESSION_HANDLE hSession, CK_USER_TYPE userType, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen, CK_UTF8CHAR_PTR pUsername,
                  CK_ULONG ulUsernameLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    if ((pPin == NULL && ulPinLen != 0) || (pUsername == NULL && ulUsernameLen != 0)) {
        return session_leave(session, CKR_ARGUMENTS_BAD);
    }
    if (ulUsernameLen == 0) {
        return session_leave(session, explain(session, with_pin(session, userType, pPin, ulPinLen)));
    }
    CK_RV rv = may_log_in(session, userType);
    rv = rv == CKR_OK && (ulPinLen > PIN_PASSWORD || ulUsernameLen > PIN_USER) ? CKR_PIN_INCORRECT : rv;
    rv = rv != CKR_OK ? rv
                   : log_in(session, userType, wire_bytes(pUsername, (uint32_t)ulUsernameLen), wire_bytes(pPin, (uint32_t)ulPinLen));
    return session_leave(session, explain(session, rv));
}

CK_RV C_Logout(CK_SESSION_HANDLE hSession)
{
    struct session *session;
    struct call call;
    CKR_TRY(session_enter(hSession, &session));
    struct slot *slot = session->slot;
    pthread_mutex_lock(&slot->lock);
    bool logged_in = slot->logged_in;
    if (logged_in) {
        slot_forget_login(slot); /* first: a failover from here on brings no login along */
        slot_forget_facts(slot, false);
    }
    pthread_mutex_unlock(&slot->lock);
    if (!logged_in) {
        return session_leave(session, CKR_USER_NOT_LOGGED_IN);
    }
    CK_RV rv = call_begin(&call, slot, WIRE_OP_LOGOUT, session->id, 0);
    if (rv == CKR_OK) {
        rv = call_run(&call);
        call_end(&call, false);
    }
    return session_leave(session, rv == CKR_USER_NOT_LOGGED_IN ? CKR_OK : rv);
}

/* The password alone, or user:password with the own name. */
static CK_RV password_of(const CK_UTF8CHAR *pin, CK_ULONG len, struct wire_bytes *out)
{
    CKR_REQUIRE(pin != NULL || len == 0, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(len <= PIN_USER + PIN_PASSWORD, CKR_PIN_LEN_RANGE);
    const CK_UTF8CHAR *colon = len == 0 ? NULL : memchr(pin, ':', len);
    size_t skip = colon == NULL ? 0 : (size_t)(colon - pin) + 1;
    *out = wire_bytes(pin == NULL ? NULL : pin + skip, (uint32_t)(len - skip));
    return CKR_OK;
}

CK_RV C_SetPIN(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pOldPin, CK_ULONG ulOldLen, CK_UTF8CHAR_PTR pNewPin, CK_ULONG ulNewLen)
{
    struct session *session;
    struct call call;
    struct wire_set_password_request request;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = password_of(pOldPin, ulOldLen, &request.old);
    rv = rv == CKR_OK ? password_of(pNewPin, ulNewLen, &request.new) : rv;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_SET_PASSWORD, session->id, 1024) : rv;
    if (rv == CKR_OK) {
        rv = CKR_WIRE(wire_put_set_password_request(&call.request, &request));
        rv = rv == CKR_OK ? call_run(&call) : rv;
        call_end(&call, true);
    }
    if (rv == CKR_OK) { /* a new password ends the user's logins, this one too */
        pthread_mutex_lock(&session->slot->lock);
        slot_forget_login(session->slot);
        pthread_mutex_unlock(&session->slot->lock);
    }
    return session_leave(session, rv);
}

CK_RV C_SessionCancel(CK_SESSION_HANDLE hSession, CK_FLAGS flags)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = operations_cancel(session, flags);
    if ((flags & CKF_FIND_OBJECTS) != 0) {
        session->finding = false;
    }
    return session_leave(session, rv);
}
