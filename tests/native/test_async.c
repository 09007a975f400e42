/* Paused calls (native/module/async.h) by the job's owner: what others may do with the session meanwhile, an owner that gives up,
 * an HSM that stays silent, C_Finalize and a fork. A thread for each connection plays the HSM; it holds signatures back. */
#include <openssl/async.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "async.h"
#include "check.h"
#include "messages.h"
#include "pkcs11.h"
#include "plain_answer.h"

#define SLOT_ID UINT64_C(0x2000000000000001)
enum { FLAGS = CKF_SERIAL_SESSION | CKF_RW_SESSION, SIGNATURE = 64, SECONDS = 60, TIMEOUT_MS = 2000, LIBP11 = 14, ALL = 32, JOBS_MAX = ALL + 1 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool holds; /* signatures */
} hsm = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void hold(bool holds)
{
    pthread_mutex_lock(&hsm.lock);
    hsm.holds = holds;
    pthread_cond_broadcast(&hsm.changed);
    pthread_mutex_unlock(&hsm.lock);
}

static size_t answer(const struct wire_header *request, uint8_t *frame)
{
    static const uint8_t signature[SIGNATURE] = {0x5A};
    const struct wire_key_facts_response facts = {.class = CKO_PRIVATE_KEY, .key_type = CKK_EC, .bits = 256, .usage = 1 << 2};
    const struct wire_sign_response signed_ = {wire_bytes(signature, SIGNATURE)};
    struct wire_writer writer = wire_writer(frame + WIRE_HEADER_SIZE, PLAIN_ANSWER_MAX - WIRE_HEADER_SIZE);
    if (request->op == WIRE_OP_KEY_FACTS) {
        CHECK(wire_put_key_facts_response(&writer, &facts) == WIRE_OK);
    } else if (request->op == WIRE_OP_SIGN) {
        pthread_mutex_lock(&hsm.lock);
        while (hsm.holds) {
            pthread_cond_wait(&hsm.changed, &hsm.lock);
        }
        pthread_mutex_unlock(&hsm.lock);
        CHECK(wire_put_sign_response(&writer, &signed_) == WIRE_OK);
    } else {
        return plain_answer(request, 1, frame);
    }
    const struct wire_header header = {
        .length = (uint32_t)writer.len, .op = (uint16_t)(request->op | WIRE_RESPONSE), .seq = request->seq, .epoch = 1};
    wire_set_header(frame, &header);
    return WIRE_HEADER_SIZE + writer.len;
}

static void *serve(void *argument)
{
    int fd = (int)(intptr_t)argument;
    uint8_t raw[WIRE_HEADER_SIZE], payload[4096], frame[PLAIN_ANSWER_MAX];
    struct wire_header request;
    while (recv(fd, raw, sizeof raw, MSG_WAITALL) == (ssize_t)sizeof raw) {
        CHECK(wire_get_header(raw, &request) == WIRE_OK && request.length <= sizeof payload);
        CHECK(request.length == 0 || recv(fd, payload, request.length, MSG_WAITALL) == (ssize_t)request.length);
        size_t len = answer(&request, frame);
        if (send(fd, frame, len, MSG_NOSIGNAL) < 0) {
            break;
        }
    }
    close(fd);
    return NULL;
}

static void *accept_all(void *listener)
{
    for (;;) {
        pthread_t thread;
        int fd = accept(*(int *)listener, NULL, NULL);
        CHECK(fd >= 0 && pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0);
        pthread_detach(thread);
    }
    return NULL;
}

/* ---- the application ------------------------------------------------------------------------------------------------- */

struct job {
    CK_SESSION_HANDLE session;
    ASYNC_JOB *job;
    ASYNC_WAIT_CTX *context;
    CK_RV rv;
    int state; /* what ASYNC_start_job said */
};

static CK_RV sign(CK_SESSION_HANDLE session)
{
    CK_MECHANISM mechanism = {CKM_ECDSA, NULL, 0};
    CK_BYTE digest[32] = {1}, out[SIGNATURE] = {0};
    CK_ULONG len = sizeof out;
    CK_RV rv = C_SignInit(session, &mechanism, 7);
    rv = rv == CKR_OK ? C_Sign(session, digest, sizeof digest, out, &len) : rv;
    CHECK(rv != CKR_OK || (len == SIGNATURE && out[0] == 0x5A));
    return rv;
}

static int run(void *argument)
{
    struct job *job = *(struct job **)argument;
    job->rv = sign(job->session);
    return 1;
}

static void resume(struct job *job)
{
    int ret;
    job->state = ASYNC_start_job(&job->job, job->context, &ret, run, &job, sizeof job);
    CHECK(job->state == ASYNC_PAUSE || job->state == ASYNC_FINISH);
}

static void start(struct job *job)
{
    *job = (struct job){.context = ASYNC_WAIT_CTX_new(), .rv = CKR_GENERAL_ERROR};
    CHECK(job->context != NULL);
    CHECK_EQ(C_OpenSession(SLOT_ID, FLAGS, NULL, NULL, &job->session), CKR_OK);
    resume(job);
}

static bool readable(const struct job *job, int wait_ms)
{
    OSSL_ASYNC_FD fd;
    size_t count = 1;
    CHECK(ASYNC_WAIT_CTX_get_all_fds(job->context, &fd, &count) == 1 && count == 1);
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, wait_ms) == 1;
}

static void finish(struct job *job, CK_RV expected)
{
    while (job->state == ASYNC_PAUSE) {
        CHECK(readable(job, SECONDS * 1000));
        resume(job);
    }
    CHECK_EQ(job->rv, expected);
    ASYNC_WAIT_CTX_free(job->context);
}

static void test_session_meanwhile(void)
{
    struct job job;
    CK_MECHANISM mechanism = {CKM_ECDSA, NULL, 0};
    CK_SESSION_INFO info;
    hold(true);
    start(&job);
    CHECK(job.state == ASYNC_PAUSE && !readable(&job, 0));
    CHECK_EQ(C_SignInit(job.session, &mechanism, 7), CKR_OPERATION_ACTIVE);
    CHECK_EQ(C_SignInit(job.session, NULL, 0), CKR_OPERATION_ACTIVE);
    CHECK_EQ(C_SignUpdate(job.session, NULL, 0), CKR_OPERATION_ACTIVE);
    CHECK_EQ(C_SessionCancel(job.session, CKF_SIGN), CKR_OPERATION_CANCEL_FAILED);
    CHECK_EQ(C_GetSessionInfo(job.session, &info), CKR_OK);
    resume(&job); /* for no reason: it pauses again */
    CHECK(job.state == ASYNC_PAUSE);
    CHECK_EQ(C_CloseSession(job.session), CKR_OK);
    hold(false);
    finish(&job, CKR_OK); /* what was asked for comes; the session is closed */
    CHECK_EQ(C_GetSessionInfo(job.session, &info), CKR_SESSION_HANDLE_INVALID);
}

/* More often than there are places. */
static void test_owner_gives_up(void)
{
    for (int i = 0; i < 20; i++) {
        struct job job;
        CK_SESSION_INFO info;
        hold(true);
        start(&job);
        CHECK(job.state == ASYNC_PAUSE);
        ASYNC_WAIT_CTX_free(job.context);
        CHECK_EQ(C_GetSessionInfo(job.session, &info), CKR_SESSION_HANDLE_INVALID);
        hold(false);
    }
}

static void *let_go(void *unused)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    (void)unused;
    nanosleep(&pause, NULL);
    hold(false);
    return NULL;
}

/* One more than may be paused waits in its thread. */
static void test_places(unsigned places)
{
    struct job jobs[JOBS_MAX];
    pthread_t thread;
    hold(true);
    for (unsigned i = 0; i < places; i++) {
        start(&jobs[i]);
        CHECK(jobs[i].state == ASYNC_PAUSE);
    }
    CHECK(pthread_create(&thread, NULL, let_go, NULL) == 0);
    start(&jobs[places]);
    CHECK(jobs[places].state == ASYNC_FINISH);
    CHECK(pthread_join(thread, NULL) == 0);
    for (unsigned i = 0; i <= places; i++) {
        finish(&jobs[i], CKR_OK);
    }
}

static void test_silent_hsm(void)
{
    struct job job;
    hold(true);
    start(&job);
    finish(&job, CKR_DEVICE_ERROR);
    hold(false);
}

static void test_fork(void)
{
    struct job job;
    hold(true);
    start(&job);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(SECONDS);
        resume(&job);
        _exit(job.state == ASYNC_FINISH && job.rv == CKR_CRYPTOKI_NOT_INITIALIZED && C_Initialize(NULL) == CKR_OK ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    hold(false);
    finish(&job, CKR_OK);
}

static void test_finalize(void)
{
    struct job job;
    hold(true);
    start(&job);
    CHECK_EQ(C_Finalize(NULL), CKR_OK);
    CHECK_EQ(C_Initialize(NULL), CKR_OK);
    resume(&job);
    CHECK(job.state == ASYNC_FINISH);
    CHECK_EQ(job.rv, CKR_CRYPTOKI_NOT_INITIALIZED);
    ASYNC_WAIT_CTX_free(job.context);
    hold(false);
    start(&job);
    finish(&job, CKR_OK);
}

static void begin(const char *folder, int *listener)
{
    char path[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/hsm.sock", folder);
    snprintf(path, sizeof path, "%s/pkcs11.cfg", folder);
    *listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(*listener >= 0 && bind(*listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(*listener, 64) == 0);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    fprintf(file, "{\"clusters\": [{\"cluster\": {\"servers\": [{\"socket\": \"%s\"}]}}], \"logging\": {\"log_file\": \"/dev/null\"}, "
                  "\"hsmsim\": {\"timeout_ms\": %d, \"transport\": \"socket\"}}\n", address.sun_path, TIMEOUT_MS);
    CHECK(fclose(file) == 0 && setenv("HSMSIM_PKCS11_CONFIG", path, 1) == 0);
    CHECK_EQ(C_Initialize(NULL), CKR_OK);
    unlink(path);
}

#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);
/* OpenSSL frees no job that was given up, nor do we what its stack points to. */
__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

int main(void)
{
#ifdef __SANITIZE_THREAD__
    return 77; /* it does not know OpenSSL's stacks */
#endif
    char folder[] = "/tmp/hsmsim-test-XXXXXX", path[64];
    static int listener;
    pthread_t thread;
    alarm(SECONDS);
    CHECK(mkdtemp(folder) != NULL);
    begin(folder, &listener);
    CHECK(pthread_create(&thread, NULL, accept_all, &listener) == 0);
    test_session_meanwhile();
    test_owner_gives_up();
    test_places(LIBP11);
    test_silent_hsm();
    test_fork();
    test_finalize();
    async_allow_all();
    test_places(ALL);
    snprintf(path, sizeof path, "%s/hsm.sock", folder);
    unlink(path);
    rmdir(folder);
    puts("asynchronous jobs: all as it should be");
    return 0;
}
