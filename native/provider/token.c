/* Tokens: found by name, logged in to once a process, their sessions lent to one operation at a time.
 *
 * The lock guards the pools and is held across no call to an HSM; one thread at a time logs in. A fork empties the pools of the child, whose module starts
 * anew; what stays is which slots had which PIN. */
#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

#include "async.h"
#include "provider.h"

enum { SLOTS = 16, IDLE = 64, FLAGS = CKF_SERIAL_SESSION | CKF_RW_SESSION /* a cluster takes no other: AWS's profile */ };

CK_FUNCTION_LIST_PTR token_module;

static struct pool {
    CK_SLOT_ID slot; /* 0: free */
    _Atomic bool logged_in;
    bool refused; /* the PIN: five wrong ones lock a user, so it is not shown again */
    struct pin *pin;
    CK_SESSION_HANDLE idle[IDLE];
    unsigned count;
} pools[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t logins = PTHREAD_MUTEX_INITIALIZER; /* and the PINs; before `lock` */

static void empty(struct pool *pool)
{
    pool->count = 0;
    pool->logged_in = false;
}

static void in_child(void)
{
    pthread_mutex_init(&lock, NULL); /* another thread of the parent may have held them */
    pthread_mutex_init(&logins, NULL);
    for (int i = 0; i < SLOTS; i++) {
        empty(&pools[i]);
    }
}

static void prepare(void)
{
    C_GetFunctionList(&token_module);
    async_allow_all(); /* a session for each operation */
    pthread_atfork(NULL, NULL, in_child);
}

static bool ready(const struct provider *provider)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
    CK_RV rv = token_module->C_Initialize(NULL);
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED) {
        return FAIL(provider, REASON_HSM, "the module's configuration cannot be read; its log has the reason: start the simulator "
                    "(scripts/up) and run `eval \"$(hsmsim env)\"`, or set HSMSIM_PKCS11_CONFIG") != 0;
    }
    return true;
}

/* The lock is held. */
static struct pool *pool_of(CK_SLOT_ID slot)
{
    struct pool *pool = pools;
    while (pool < pools + SLOTS - 1 && pool->slot != slot && pool->slot != 0) {
        pool++;
    }
    pool->slot = slot;
    return pool;
}

const char *token_advice(CK_RV rv)
{
    static const struct {
        CK_RV rv;
        const char *text;
    } known[] = {
        {CKR_PIN_INCORRECT, "the PIN is user:password; five wrong ones lock the user"},
        {CKR_PIN_LOCKED, "an admin unlocks the user: hsmsim user change-password"},
        {CKR_TOKEN_NOT_PRESENT, "no HSM answers: hsmsim up --detach, or hsmsim hsm start"},
        {CKR_DEVICE_REMOVED, "no HSM answers: hsmsim up --detach, or hsmsim hsm start"},
        {CKR_DEVICE_ERROR, "the HSM was lost while it worked"},
        {CKR_KEY_HANDLE_INVALID, "the key was deleted, or is no longer shared with this user"},
        {CKR_KEY_FUNCTION_NOT_PERMITTED, "the key may not be used for that"},
        {CKR_MECHANISM_INVALID, "the HSM's mode or the key's allowed mechanisms forbid that"},
        {CKR_KEY_TYPE_INCONSISTENT, "the key is not of that type"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].rv == rv) {
            return known[i].text;
        }
    }
    return "docs/reference/functions.md has the codes";
}

/* ---- finding -------------------------------------------------------------------------------------------------------- */

static bool field_is(const struct uri_text *wanted, const CK_UTF8CHAR *field, size_t size)
{
    while (size > 0 && field[size - 1] == ' ') {
        size--;
    }
    return !wanted->given || (wanted->len == size && memcmp(wanted->data, field, size) == 0);
}

unsigned token_slots(const struct provider *provider, const struct uri *uri, CK_SLOT_ID *out, unsigned room)
{
    CK_SLOT_ID all[SLOTS];
    CK_ULONG count = SLOTS;
    unsigned found = 0;
    if (!ready(provider)) {
        return 0;
    }
    CK_RV rv = token_module->C_GetSlotList(CK_TRUE, all, &count);
    for (CK_ULONG i = 0; rv == CKR_OK && i < count && found < room; i++) {
        CK_TOKEN_INFO info;
        if (token_module->C_GetTokenInfo(all[i], &info) == CKR_OK && field_is(&uri->token, info.label, sizeof info.label) &&
            field_is(&uri->manufacturer, info.manufacturerID, sizeof info.manufacturerID) &&
            field_is(&uri->model, info.model, sizeof info.model) && field_is(&uri->serial, info.serialNumber, sizeof info.serialNumber)) {
            out[found++] = all[i];
        }
    }
    if (found == 0) {
        FAIL(provider, REASON_NAME, rv == CKR_OK && count != 0 ? "no token of that name; the simulator's is in HSMSIM_TOKEN (`hsmsim env`)"
                                                               : "no HSM answers: hsmsim up --detach, or hsmsim hsm start");
    }
    return found;
}

/* ---- sessions ------------------------------------------------------------------------------------------------------- */

static CK_RV log_in(struct pool *pool, CK_SESSION_HANDLE session)
{
    CK_RV rv = CKR_OK;
    pthread_mutex_lock(&logins);
    if (!pool->logged_in) {
        rv = pool->pin == NULL || pool->refused ? CKR_PIN_INCORRECT
                                                : token_module->C_Login(session, CKU_USER, pool->pin->text, pool->pin->len);
        rv = rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
        pool->logged_in = rv == CKR_OK;
        pool->refused = rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LOCKED;
    }
    pthread_mutex_unlock(&logins);
    return rv;
}

bool token_lend(const struct provider *provider, CK_SLOT_ID slot, CK_SESSION_HANDLE *out)
{
    pthread_mutex_lock(&lock);
    struct pool *pool = pool_of(slot);
    bool kept = pool->count != 0;
    if (kept) {
        *out = pool->idle[--pool->count];
    }
    pthread_mutex_unlock(&lock);
    if (kept) {
        return true;
    }
    if (!ready(provider)) {
        return false;
    }
    CK_RV rv = token_module->C_OpenSession(slot, FLAGS, NULL, NULL, out);
    if (rv != CKR_OK) {
        return FAIL_RV(provider, "C_OpenSession", rv) != 0;
    }
    rv = log_in(pool, *out);
    if (rv != CKR_OK) {
        token_module->C_CloseSession(*out);
        return FAIL_RV(provider, "C_Login", rv) != 0;
    }
    return true;
}

void token_give_back(CK_SLOT_ID slot, CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    struct pool *pool = pool_of(slot);
    bool room = pool->count < IDLE;
    if (room) {
        pool->idle[pool->count++] = session;
    }
    pthread_mutex_unlock(&lock);
    if (!room) {
        token_module->C_CloseSession(session);
    }
}

bool token_lost(CK_SLOT_ID slot, CK_RV rv)
{
    bool lost = rv == CKR_CRYPTOKI_NOT_INITIALIZED || rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_USER_NOT_LOGGED_IN;
    if (lost) {
        pthread_mutex_lock(&lock);
        empty(pool_of(slot));
        pthread_mutex_unlock(&lock);
    }
    return lost;
}

/* A slot has one login a process: the PIN of the first name that worked. */
static bool know_pin(const struct provider *provider, struct pool *pool, const struct uri *uri)
{
    pthread_mutex_lock(&logins);
    if (pool->pin == NULL || pool->refused) {
        pin_free(pool->pin);
        pool->pin = pin_get(provider, uri);
        pool->refused = false;
    }
    bool known = pool->pin != NULL;
    pthread_mutex_unlock(&logins);
    return known;
}

bool token_login(const struct provider *provider, CK_SLOT_ID slot, const struct uri *uri)
{
    CK_SESSION_HANDLE session;
    pthread_mutex_lock(&lock);
    struct pool *pool = pool_of(slot);
    pthread_mutex_unlock(&lock);
    if (!know_pin(provider, pool, uri) || !token_lend(provider, slot, &session)) {
        return false;
    }
    token_give_back(slot, session);
    return true;
}
