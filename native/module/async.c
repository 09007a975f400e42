#include "async.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <openssl/async.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* libp11 has 16 sessions a token and waits for one of them without end: some are left for those who are not paused. */
enum { PLACES = SLOT_LINKS - 2, LIBP11_PLACES = 14, VAIN = 2, VAIN_MS = 1 };
static_assert(PLACES >= LIBP11_PLACES, "and as many links");

/* Of an ASYNC_WAIT_CTX, which owns it. */
struct waiter {
    int epoll;
    unsigned place, serial; /* who is paused there */
};

static struct place {
    bool taken;
    unsigned serial; /* of its use: a pause whose serial is another has lost its place */
    struct session *session;
    struct link *link;
    struct waiter *waiter;
    ASYNC_WAIT_CTX *context;
    bool (*there)(struct link *link);
    int timer; /* 0: not made yet */
} places[PLACES];
static unsigned allowed = LIBP11_PLACES;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- OpenSSL, as the process has it ---------------------------------------------------------------------------------- */

static struct {
    ASYNC_JOB *(*current_job)(void);
    ASYNC_WAIT_CTX *(*wait_context)(ASYNC_JOB *job);
    int (*pause_job)(void);
    int (*get_fd)(ASYNC_WAIT_CTX *context, const void *key, OSSL_ASYNC_FD *fd, void **custom);
    int (*set_fd)(ASYNC_WAIT_CTX *context, const void *key, OSSL_ASYNC_FD fd, void *custom,
                  void (*cleanup)(ASYNC_WAIT_CTX *, const void *, OSSL_ASYNC_FD, void *));
} openssl;
static bool usable;

static void find_openssl(void)
{
    const struct {
        const char *name;
        void *to;
    } wanted[] = {{"ASYNC_get_current_job", &openssl.current_job},
                  {"ASYNC_get_wait_ctx", &openssl.wait_context},
                  {"ASYNC_pause_job", &openssl.pause_job},
                  {"ASYNC_WAIT_CTX_get_fd", &openssl.get_fd},
                  {"ASYNC_WAIT_CTX_set_wait_fd", &openssl.set_fd}};
    usable = true;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        *(void **)wanted[i].to = dlsym(RTLD_DEFAULT, wanted[i].name);
        usable = usable && *(void **)wanted[i].to != NULL;
    }
}

static ASYNC_JOB *current_job(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_openssl);
    return usable ? openssl.current_job() : NULL;
}

/* ---- places ---------------------------------------------------------------------------------------------------------- */

static struct place *take_place(struct session *session, struct link *link)
{
    struct place *taken = NULL;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < allowed && taken == NULL; i++) {
        taken = places[i].taken ? NULL : &places[i];
    }
    if (taken != NULL) {
        taken->taken = true;
        taken->serial++;
        taken->session = session;
        taken->link = link;
        taken->timer = taken->timer == 0 ? timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) : taken->timer;
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

/* false: somebody else has it, or nobody. */
static bool leave_place(unsigned place, unsigned serial, struct place *left)
{
    pthread_mutex_lock(&lock);
    bool ours = places[place].taken && places[place].serial == serial;
    if (ours) {
        *left = places[place];
        places[place].taken = false;
    }
    pthread_mutex_unlock(&lock);
    return ours;
}

void async_allow_all(void)
{
    pthread_mutex_lock(&lock);
    allowed = PLACES;
    pthread_mutex_unlock(&lock);
}

void async_forget(bool forked)
{
    if (forked) {
        pthread_mutex_init(&lock, NULL); /* another thread of the parent may have held it */
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; i < PLACES; i++) {
        places[i].taken = false;
        places[i].serial++;
        if (places[i].timer > 0) {
            close(places[i].timer);
            places[i].timer = 0;
        }
    }
    pthread_mutex_unlock(&lock);
}

/* ---- the owner's descriptor ------------------------------------------------------------------------------------------ */

static const char key; /* its address is ours among those of others */

static void unwatch(const struct place *place)
{
    if (place->waiter == NULL) {
        return;
    }
    epoll_ctl(place->waiter->epoll, EPOLL_CTL_DEL, place->timer, NULL);
    if (place->link->fd >= 0) {
        epoll_ctl(place->waiter->epoll, EPOLL_CTL_DEL, place->link->fd, NULL);
    }
}

/* The wait context ends, and with it, if it is paused, a job that nobody can resume any more. */
static void cleanup(ASYNC_WAIT_CTX *context, const void *unused, OSSL_ASYNC_FD fd, void *custom)
{
    struct waiter *waiter = custom;
    struct place left;
    (void)context;
    (void)unused;
    if (leave_place(waiter->place, waiter->serial, &left)) {
        unwatch(&left);
        if (left.there != link_ring_answered || !link_ring_leave(left.link)) {
            link_close(left.link);
        }
        link_give_back(left.link);
        session_abandon(left.session);
    }
    close(fd);
    free(waiter);
}

static struct waiter *find_waiter(ASYNC_WAIT_CTX *context)
{
    OSSL_ASYNC_FD fd;
    void *custom = NULL;
    return openssl.get_fd(context, &key, &fd, &custom) == 1 ? custom : NULL;
}

static struct waiter *make_waiter(void)
{
    struct waiter *waiter = malloc(sizeof *waiter);
    int epoll = waiter == NULL ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) {
        free(waiter);
        return NULL;
    }
    waiter->epoll = epoll;
    return waiter;
}

static void free_waiter(struct waiter *waiter)
{
    if (waiter != NULL) {
        close(waiter->epoll);
        free(waiter);
    }
}

static bool watch(const struct waiter *waiter, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    return fd >= 0 && epoll_ctl(waiter->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

bool pause_begin(struct pause *pause, struct session *session, struct link *link)
{
    ASYNC_JOB *job = session == NULL || module_config()->async_off ? NULL : current_job();
    struct place *place = job == NULL ? NULL : take_place(session, link);
    if (place == NULL) {
        return false;
    }
    place->context = openssl.wait_context(job);
    place->waiter = find_waiter(place->context);
    *pause = (struct pause){(unsigned)(place - places), place->serial, place->waiter != NULL};
    if (place->waiter == NULL) {
        place->waiter = make_waiter();
    }
    bool ready = place->waiter != NULL && watch(place->waiter, link->fd) && watch(place->waiter, place->timer);
    if (!ready) {
        pause_end(pause);
    }
    return ready;
}

void pause_end(struct pause *pause)
{
    struct place left;
    if (leave_place(pause->place, pause->serial, &left)) {
        unwatch(&left);
        if (!pause->shown) { /* answered before anybody had to wait */
            free_waiter(left.waiter);
        }
    }
}

/* ---- pausing --------------------------------------------------------------------------------------------------------- */

static bool show(struct pause *pause, const struct place *place)
{
    struct waiter *waiter = place->waiter;
    waiter->place = pause->place;
    waiter->serial = pause->serial;
    if (!pause->shown) {
        pause->shown = openssl.set_fd(place->context, &key, waiter->epoll, waiter, cleanup) == 1;
    }
    return pause->shown;
}

/* Once. false: the place is lost. */
static bool pause_once(struct pause *pause, struct place *place)
{
    struct session *session = place->session;
    session->away = true;
    pthread_mutex_unlock(&session->lock);
    openssl.pause_job(); /* or not: who calls looks */
    pthread_mutex_lock(&lock);
    bool ours = place->taken && place->serial == pause->serial;
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&session->lock);
    session->away = false;
    return ours;
}

static void set_timer(const struct place *place, uint64_t ms)
{
    const struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 + 1}};
    timerfd_settime(place->timer, 0, &when, NULL);
}

static bool hung_up(const struct link *link)
{
    uint8_t byte;
    ssize_t got = recv(link->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

static bool ready(const struct place *place, int wait_ms)
{
    struct pollfd one = {.fd = place->waiter->epoll, .events = POLLIN};
    return poll(&one, 1, wait_ms) > 0;
}

enum link_result pause_until(struct pause *pause, bool (*there)(struct link *link), unsigned patience)
{
    struct place *place = &places[pause->place];
    uint64_t give_up = ring_now_ns() + patience * UINT64_C(1000000);
    unsigned in_vain = 0;
    place->there = there;
    set_timer(place, patience);
    bool shown = show(pause, place);
    do {
        if (shown && !pause_once(pause, place)) {
            return LINK_DEAD;
        }
        /* ASYNC_block_pause, an owner that resumes whatever is not ready, or nothing to show: no spinning */
        if (!ready(place, !shown ? (int)patience : ++in_vain > VAIN ? VAIN_MS : 0)) {
            continue;
        }
        if (!there(place->link) && (hung_up(place->link) || ring_now_ns() >= give_up)) {
            return LINK_LOST;
        }
    } while (!there(place->link));
    return LINK_OK;
}
