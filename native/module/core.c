/* Initialised or not, and what a fork does to that.
 *
 * A forked child starts anew: its handler closes the parent's connections (its own descriptors of them), forgets sessions
 * and lets the configuration stand, since programs clear their environment for workers. Until C_Initialize every call
 * there is CKR_CRYPTOKI_NOT_INITIALIZED; C_Finalize first is fine, too. There is no thread of ours to lose. */
#include "core.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "async.h"
#include "log.h"
#include "slot.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* C_Initialize and C_Finalize */
static pthread_cond_t ended; /* with `lock`: waiters of C_WaitForSlotEvent */
static atomic_bool initialized;
static bool forked;      /* in a child that has called neither yet */
static bool configured;  /* `config` is read; once in a process and its children */
static bool prepared;    /* handlers and clock are set */
static unsigned life;    /* counts C_Initialize: a waiter of one life has nothing to do with the next */
static struct config config;

CK_RV module_ready(void)
{
    return atomic_load_explicit(&initialized, memory_order_acquire) ? CKR_OK : CKR_CRYPTOKI_NOT_INITIALIZED;
}

bool module_cloudhsm(void)
{
    return config.cloudhsm;
}

const struct config *module_config(void)
{
    return &config;
}

static void make_condition(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&ended, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void in_child(void)
{
    pthread_mutex_init(&lock, NULL); /* another thread of the parent may have held it */
    make_condition();
    if (atomic_exchange(&initialized, false)) {
        async_forget(true);
        slots_close(true);
        forked = true;
    }
}

static CK_RV check_arguments(const CK_C_INITIALIZE_ARGS *arguments)
{
    if (arguments == NULL) {
        return CKR_OK;
    }
    int given = (arguments->CreateMutex != NULL) + (arguments->DestroyMutex != NULL) + (arguments->LockMutex != NULL) +
                (arguments->UnlockMutex != NULL);
    if (arguments->pReserved != NULL || (given != 0 && given != 4)) {
        return CKR_ARGUMENTS_BAD;
    }
    /* mutexes of the application without leave to use the system's own: we use the system's, always */
    return given == 4 && (arguments->flags & CKF_OS_LOCKING_OK) == 0 ? CKR_CANT_LOCK : CKR_OK;
}

static CK_RV initialize(const char *path, char *error, size_t error_len)
{
    if ((!configured || path != NULL) && !config_load(&config, path, error, error_len)) {
        configured = false;
        return CKR_GENERAL_ERROR;
    }
    configured = path == NULL;
    log_open(&config);
    if (!prepared) {
        make_condition();
        if (pthread_atfork(NULL, NULL, in_child) != 0) {
            return CKR_HOST_MEMORY;
        }
        prepared = true;
    }
    CK_RV rv = slots_make(&config);
    if (rv == CKR_OK) {
        forked = false;
        life++;
        atomic_store_explicit(&initialized, true, memory_order_release);
    }
    return rv;
}

CK_RV core_start(const char *path, char *error, size_t error_len)
{
    *error = '\0';
    pthread_mutex_lock(&lock);
    CK_RV rv = atomic_load(&initialized) ? CKR_CRYPTOKI_ALREADY_INITIALIZED : initialize(path, error, error_len);
    pthread_mutex_unlock(&lock);
    return rv;
}

CK_RV C_Initialize(CK_VOID_PTR pInitArgs)
{
    char error[512];
    CK_RV rv = check_arguments(pInitArgs);
    if (rv != CKR_OK) {
        return rv;
    }
    rv = core_start(NULL, error, sizeof error);
    if (*error != '\0') {
        log_line(LEVEL_ERROR, "%s", error);
    }
    return rv;
}

CK_RV C_Finalize(CK_VOID_PTR pReserved)
{
    if (pReserved != NULL) {
        return CKR_ARGUMENTS_BAD;
    }
    pthread_mutex_lock(&lock);
    CK_RV rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    if (forked) {
        forked = false;
        rv = CKR_OK;
    } else if (atomic_exchange(&initialized, false)) {
        pthread_cond_broadcast(&ended);
        async_forget(false);
        slots_close(false);
        rv = CKR_OK;
    }
    pthread_mutex_unlock(&lock);
    return rv;
}

static void wait_a_while(unsigned milliseconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)milliseconds * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(&ended, &lock, &until);
}

CK_RV core_watch(bool (*look)(CK_SLOT_ID *found), bool block, unsigned interval_ms, CK_SLOT_ID *found)
{
    CK_RV rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    pthread_mutex_lock(&lock);
    for (unsigned mine = life; rv == CKR_CRYPTOKI_NOT_INITIALIZED && atomic_load(&initialized) && life == mine;) {
        if (look(found)) {
            rv = CKR_OK;
        } else if (!block) {
            rv = CKR_NO_EVENT;
        } else {
            wait_a_while(interval_ms);
        }
    }
    pthread_mutex_unlock(&lock);
    return rv;
}
