/* Slots, their tokens, and facts about keys. */
#include <assert.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"
#include "log.h"
#include "macros.h"
#include "slot.h"

struct slots slots;

static struct credentials *page_make(void)
{
    void *page = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return NULL;
    }
    mlock(page, (size_t)sysconf(_SC_PAGESIZE)); /* where the limit allows */
    madvise(page, (size_t)sysconf(_SC_PAGESIZE), MADV_DONTDUMP);
    madvise(page, (size_t)sysconf(_SC_PAGESIZE), MADV_WIPEONFORK);
    static_assert(sizeof(struct credentials) <= 4096, "one page");
    return page;
}

static struct slot *slot_new(const struct config_slot *config, CK_SLOT_ID id)
{
    struct slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL || (slot->credentials = page_make()) == NULL) {
        free(slot);
        return NULL;
    }
    slot->id = id;
    slot->config = config;
    pthread_mutex_init(&slot->lock, NULL);
    pthread_cond_init(&slot->link_free, NULL);
    for (unsigned i = 0; i < SLOT_POOL; i++) {
        slot->links[i] = (struct link){.slot = slot, .fd = -1, .ring.bell = -1, .next = slot->spare};
        slot->spare = &slot->links[i];
    }
    seats_begin(slot);
    return slot;
}

CK_RV slots_make(const struct config *config)
{
    slots.count = 0;
    for (unsigned i = 0; i < config->slot_count; i++) {
        slots.all[i] = slot_new(&config->slots[i], FIRST_SLOT_ID + i);
        CKR_REQUIRE(slots.all[i] != NULL, CKR_HOST_MEMORY);
        slots.count++;
    }
    return CKR_OK;
}

/* A busy link's memory stays under the thread that waits on it; the closed socket ends its wait. */
static void wipe_link(struct link *link, bool forked)
{
    if (forked) {
        link_ring_forget(link);
        link->tls = NULL;
        link->busy = false;
    }
    if (link->busy) {
        close(link->fd);
        link->fd = -1;
    } else {
        link_close(link);
    }
    if (link->out != NULL) {
        OPENSSL_cleanse(link->out, link->out_cap);
    }
    if (link->in != NULL) {
        OPENSSL_cleanse(link->in, link->in_cap);
    }
    link->out_cap = link->in_cap = 0;
}

/* Memory of sessions and slots stays: a thread of the application may be in a call (it gets CKR_CRYPTOKI_NOT_INITIALIZED
 * at its next one), and in a forked child the allocator's view of them is not ours to trust. */
void slots_close(bool wipe_only)
{
    for (unsigned i = 0; i < slots.count; i++) {
        struct slot *slot = slots.all[i];
        bool idle = true;
        for (unsigned j = 0; j < SLOT_POOL; j++) {
            idle = idle && !slot->links[j].busy;
            wipe_link(&slot->links[j], wipe_only);
        }
        if (!wipe_only && idle) {
            slot_tls_free(slot);
        }
        if (!wipe_only) {
            OPENSSL_cleanse(slot->credentials, sizeof *slot->credentials);
            munlock(slot->credentials, (size_t)sysconf(_SC_PAGESIZE));
        }
    }
    slots.count = 0;
}

CK_RV slot_find(CK_SLOT_ID id, struct slot **out)
{
    CKR_TRY(module_ready());
    CKR_REQUIRE(id >= FIRST_SLOT_ID && id - FIRST_SLOT_ID < slots.count, CKR_SLOT_ID_INVALID);
    *out = slots.all[id - FIRST_SLOT_ID];
    return CKR_OK;
}

unsigned slot_logins_ended(struct slot *slot)
{
    return atomic_load_explicit(&slot->logins_ended, memory_order_acquire);
}

/* ---- facts about keys; a slot's lock guards its cache -------------------------------------------------------------- */

void slot_forget_facts(struct slot *slot, bool session_keys_only)
{
    for (unsigned i = 0; i < FACTS_CACHED; i++) {
        bool session_key = (slot->facts[i].facts.flags & FACTS_TOKEN) == 0;
        slot->facts[i].stale = slot->facts[i].stale || session_key || !session_keys_only;
    }
}

void slot_epoch(struct slot *slot, struct seat *seat, uint64_t epoch)
{
    if (seat->epoch != epoch) {
        seat->epoch = epoch;
        slot_forget_facts(slot, false);
    }
}

/* An HSM that is not the home may get a new key a moment after the home has acknowledged it. */
static bool is_settled(struct cached_facts *entry)
{
    if (entry->young_until != 0 && ring_now_ns() >= entry->young_until) {
        entry->young_until = 0;
    }
    return entry->young_until == 0 && (entry->facts.flags & FACTS_TOKEN) != 0;
}

static struct cached_facts *place_of(struct slot *slot, uint64_t handle)
{
    return &slot->facts[(handle ^ handle >> 4) % FACTS_CACHED];
}

static bool cached(struct slot *slot, uint64_t handle, struct key_facts *out)
{
    pthread_mutex_lock(&slot->lock);
    struct cached_facts *entry = place_of(slot, handle);
    bool found = handle != 0 && entry->handle == handle && !entry->stale;
    if (found) {
        memcpy(out, &entry->facts, offsetof(struct key_facts, allowed) + entry->facts.allowed_count * sizeof(uint64_t));
        out->settled = is_settled(entry);
    }
    pthread_mutex_unlock(&slot->lock);
    return found;
}

static void keep(struct slot *slot, uint64_t handle, const struct key_facts *facts)
{
    enum { YOUNG_NS = 250000000 };
    pthread_mutex_lock(&slot->lock);
    struct cached_facts *entry = place_of(slot, handle);
    uint64_t young_until = entry->handle == handle ? entry->young_until : ring_now_ns() + YOUNG_NS;
    *entry = (struct cached_facts){.handle = handle, .young_until = young_until, .facts = *facts};
    pthread_mutex_unlock(&slot->lock);
}

static CK_RV read_facts(struct call *call, struct key_facts *out)
{
    struct wire_key_facts_response response;
    CKR_TRY(CKR_WIRE(wire_get_key_facts_response(&call->response, &response)));
    CKR_REQUIRE(response.allowed.count <= FACTS_ALLOWED, CKR_DEVICE_ERROR);
    *out = (struct key_facts){.object_class = response.class, .key_type = response.key_type, .bits = response.bits,
                              .usage = response.usage, .flags = response.flags, .allowed_count = response.allowed.count};
    for (uint32_t i = 0; i < response.allowed.count; i++) {
        out->allowed[i] = wire_list_at(&response.allowed, i);
    }
    return CKR_OK;
}

CK_RV key_facts(struct session *session, CK_OBJECT_HANDLE key, struct key_facts *out)
{
    struct slot *slot = session->slot;
    if (cached(slot, key, out)) {
        return CKR_OK;
    }
    struct call call;
    const struct wire_key_facts_request request = {key};
    CKR_TRY(call_begin(&call, slot, WIRE_OP_KEY_FACTS, session->id, 64));
    CK_RV rv = CKR_WIRE(wire_put_key_facts_request(&call.request, &request));
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? read_facts(&call, out) : rv;
    call_end(&call, false);
    if (rv == CKR_OK) {
        keep(slot, key, out);
    }
    return rv == CKR_OBJECT_HANDLE_INVALID ? CKR_KEY_HANDLE_INVALID : rv;
}

bool key_facts_known(struct session *session, CK_OBJECT_HANDLE key)
{
    struct key_facts facts;
    return cached(session->slot, key, &facts);
}

/* ---- C_GetSlotList and its kind ---------------------------------------------------------------------------------------- */

static void pad(CK_UTF8CHAR *out, size_t room, const void *text, size_t len)
{
    memset(out, ' ', room);
    memcpy(out, text, len < room ? len : room);
}
#define PAD(field, text) pad(field, sizeof(field), text, strlen(text))

CK_RV C_GetSlotList(CK_BBOOL tokenPresent, CK_SLOT_ID_PTR pSlotList, CK_ULONG_PTR pulCount)
{
    CK_SLOT_ID found[CONFIG_SLOTS];
    CK_ULONG count = 0;
    CKR_TRY(module_ready());
    CKR_REQUIRE(pulCount != NULL, CKR_ARGUMENTS_BAD);
    for (unsigned i = 0; i < slots.count; i++) {
        if (tokenPresent == CK_FALSE || slot_present(slots.all[i]) == CKR_OK) {
            found[count++] = slots.all[i]->id;
        }
    }
    CK_ULONG room = *pulCount;
    *pulCount = count;
    if (pSlotList == NULL) {
        return CKR_OK;
    }
    CKR_REQUIRE(room >= count, CKR_BUFFER_TOO_SMALL);
    memcpy(pSlotList, found, count * sizeof *found);
    return CKR_OK;
}

CK_RV C_GetSlotInfo(CK_SLOT_ID slotID, CK_SLOT_INFO_PTR pInfo)
{
    struct slot *slot;
    char text[sizeof pInfo->slotDescription + 1];
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE(pInfo != NULL, CKR_ARGUMENTS_BAD);
    memset(pInfo, 0, sizeof *pInfo);
    snprintf(text, sizeof text, "%.40s %.20s", slot->config->cluster, slot->config->partition);
    PAD(pInfo->slotDescription, text);
    PAD(pInfo->manufacturerID, "hsmsim");
    pInfo->flags = CKF_REMOVABLE_DEVICE | CKF_HW_SLOT | (slot_present(slot) == CKR_OK ? CKF_TOKEN_PRESENT : 0);
    pInfo->hardwareVersion.major = pInfo->firmwareVersion.major = 1;
    return CKR_OK;
}

static void put_text(CK_UTF8CHAR *out, size_t room, struct wire_bytes text)
{
    pad(out, room, text.data == NULL ? (const uint8_t *)"" : text.data, text.len);
}

static CK_RV read_token(const struct slot *slot, struct call *call, CK_TOKEN_INFO *out)
{
    struct wire_token_info_response response;
    CKR_TRY(CKR_WIRE(wire_get_token_info_response(&call->response, &response)));
    memset(out, 0, sizeof *out);
    PAD(out->label, slot->config->label);
    put_text(out->manufacturerID, sizeof out->manufacturerID, response.manufacturer);
    put_text(out->model, sizeof out->model, response.model);
    put_text(out->serialNumber, sizeof out->serialNumber, response.serial);
    put_text((CK_UTF8CHAR *)out->utcTime, sizeof out->utcTime, response.utc_time);
    out->flags = response.flags;
    out->ulMaxSessionCount = response.max_sessions;
    out->ulSessionCount = response.sessions;
    out->ulMaxRwSessionCount = response.max_rw_sessions;
    out->ulRwSessionCount = response.rw_sessions;
    out->ulMaxPinLen = response.max_pin;
    out->ulMinPinLen = response.min_pin;
    out->ulTotalPublicMemory = response.total_public;
    out->ulFreePublicMemory = response.free_public;
    out->ulTotalPrivateMemory = response.total_private;
    out->ulFreePrivateMemory = response.free_private;
    out->hardwareVersion = (CK_VERSION){response.hardware_major, response.hardware_minor};
    out->firmwareVersion = (CK_VERSION){response.firmware_major, response.firmware_minor};
    return CKR_OK;
}

CK_RV C_GetTokenInfo(CK_SLOT_ID slotID, CK_TOKEN_INFO_PTR pInfo)
{
    struct slot *slot;
    struct call call;
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE(pInfo != NULL, CKR_ARGUMENTS_BAD);
    CKR_TRY(call_begin(&call, slot, WIRE_OP_TOKEN_INFO, 0, 0));
    CK_RV rv = call_run(&call);
    rv = rv == CKR_OK ? read_token(slot, &call, pInfo) : rv;
    call_end(&call, false);
    return rv == CKR_DEVICE_REMOVED ? CKR_TOKEN_NOT_PRESENT : rv;
}

/* What the cluster's mode forbids is left out; with no HSM to ask, nothing is. */
static CK_FLAGS offered(const struct slot *slot, const struct mechanism_info *info)
{
    CK_FLAGS forbidden = slot->mode == MODE_FIPS ? info->fips_forbids : 0;
    if (module_cloudhsm()) {
        return info->cloudhsm ? info->aws & ~forbidden : 0;
    }
    return info->general ? info->functions & ~forbidden : 0;
}

/* offered() depends on it. */
static void know_mode(struct slot *slot)
{
    if (slot->mode == MODE_UNKNOWN) {
        (void)slot_present(slot);
    }
}

CK_RV C_GetMechanismList(CK_SLOT_ID slotID, CK_MECHANISM_TYPE_PTR pMechanismList, CK_ULONG_PTR pulCount)
{
    struct slot *slot;
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE(pulCount != NULL, CKR_ARGUMENTS_BAD);
    know_mode(slot);
    CK_ULONG count = 0, room = *pulCount;
    for (size_t i = 0; i < mechanism_count; i++) {
        if (offered(slot, &mechanism_table[i]) != 0) {
            if (pMechanismList != NULL && count < room) {
                pMechanismList[count] = mechanism_table[i].type;
            }
            count++;
        }
    }
    *pulCount = count;
    return pMechanismList != NULL && count > room ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

CK_RV C_GetMechanismInfo(CK_SLOT_ID slotID, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR pInfo)
{
    struct slot *slot;
    CKR_TRY(slot_find(slotID, &slot));
    CKR_REQUIRE(pInfo != NULL, CKR_ARGUMENTS_BAD);
    know_mode(slot);
    const struct mechanism_info *info = mechanism_find(type);
    CKR_REQUIRE(info != NULL && offered(slot, info) != 0, CKR_MECHANISM_INVALID);
    *pInfo = (CK_MECHANISM_INFO){.ulMinKeySize = info->min_key, .ulMaxKeySize = info->max_key,
                                 .flags = CKF_HW | offered(slot, info) | info->flags};
    return CKR_OK;
}

/* Events: the token of a slot comes (an HSM answers again) or goes (none does). */
static bool look_for_change(CK_SLOT_ID *found)
{
    for (unsigned i = 0; i < slots.count; i++) {
        struct slot *slot = slots.all[i];
        enum presence now = slot_present(slot) == CKR_OK ? PRESENT : ABSENT;
        pthread_mutex_lock(&slot->lock);
        bool changed = slot->told != now; /* the call above has told a slot that nobody had asked before */
        slot->told = now;
        pthread_mutex_unlock(&slot->lock);
        if (changed) {
            *found = slot->id;
            return true;
        }
    }
    return false;
}

CK_RV C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID_PTR pSlot, CK_VOID_PTR pReserved)
{
    enum { INTERVAL_MS = 250 };
    CKR_TRY(module_ready());
    CKR_REQUIRE(pSlot != NULL && pReserved == NULL, CKR_ARGUMENTS_BAD);
    return core_watch(look_for_change, (flags & CKF_DONT_BLOCK) == 0, INTERVAL_MS, pSlot);
}
