/* What the module makes of an HSM that answers wrongly: the CK_RV of each mistake, and that the next question is asked on a new
 * connection. A thread plays the HSM over a real socket: right answers but for the operation under test. */
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "messages.h"
#include "pkcs11.h"
#include "plain_answer.h"

#define SLOT_ID UINT64_C(0x2000000000000001)
enum { SESSION_FLAGS = CKF_SERIAL_SESSION | CKF_RW_SESSION, SECONDS = 100, DRIBBLE_US = 20000 };

enum mistake {
    WRONG_SEQ,
    EARLIER_SEQ, /* a late answer to an earlier question */
    WRONG_OP,
    OTHER_ANSWER, /* whole and well formed, to another question */
    NO_RESPONSE_FLAG,
    UNKNOWN_FLAG,
    OVERSIZED, /* a length above what the protocol allows */
    LENGTH_LIE, /* an allowed length that never comes */
    TRAILING,  /* bytes after the answer */
    TWICE,     /* the answer, and again at once */
    STALE,     /* the last answer once more, then the right one */
    CUT_HEADER,
    CUT_PAYLOAD,
    HANG_UP,
    NOISE,
    MISTAKES,
    BAD_PAYLOAD, /* a right frame whose payload does not parse */
    SILENT,
    DRIBBLE, /* a byte now and then, never enough */
};

static struct {
    pthread_mutex_t lock;
    enum mistake mistake;
    uint16_t op;    /* where it is made */
    unsigned times; /* how often it is made yet */
    unsigned asked, connections;
    int fd; /* the connection, -1: none */
} hsm = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static void plan(enum mistake mistake, uint16_t op, unsigned times)
{
    pthread_mutex_lock(&hsm.lock);
    hsm.mistake = mistake;
    hsm.op = op;
    hsm.times = times;
    hsm.asked = hsm.connections = 0;
    pthread_mutex_unlock(&hsm.lock);
}

static unsigned count(const unsigned *of)
{
    pthread_mutex_lock(&hsm.lock);
    unsigned value = *of;
    pthread_mutex_unlock(&hsm.lock);
    return value;
}

static void end_connection(void)
{
    pthread_mutex_lock(&hsm.lock);
    if (hsm.fd >= 0) {
        shutdown(hsm.fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&hsm.lock);
}

/* ---- the HSM ------------------------------------------------------------------------------------------------------- */

struct answer {
    uint8_t bytes[1024];
    size_t len;
    bool hang_up;
};

static void change_header(struct answer *answer, enum mistake mistake)
{
    struct wire_header header;
    CHECK(wire_get_header(answer->bytes, &header) == WIRE_OK);
    header.seq += mistake == WRONG_SEQ;
    header.seq -= mistake == EARLIER_SEQ;
    header.op = mistake == WRONG_OP ? WIRE_RESPONSE | WIRE_OP_DESTROY_OBJECT : header.op;
    header.op = mistake == NO_RESPONSE_FLAG ? header.op & (uint16_t)~WIRE_RESPONSE : header.op;
    header.flags = mistake == UNKNOWN_FLAG;
    header.length = mistake == OVERSIZED ? WIRE_MAX_FRAME_USER + 1 : mistake == LENGTH_LIE ? header.length + 100 : header.length;
    wire_set_header(answer->bytes, &header);
    answer->hang_up = mistake == LENGTH_LIE;
}

static void append(struct answer *answer, const uint8_t *bytes, size_t len)
{
    CHECK(answer->len + len <= sizeof answer->bytes);
    memcpy(answer->bytes + answer->len, bytes, len);
    answer->len += len;
}

static void spoil(struct answer *answer, enum mistake mistake, const struct wire_header *request, const struct answer *last)
{
    struct answer right = *answer;
    struct wire_header other = *request;
    switch (mistake) {
    case OTHER_ANSWER:
        other.op = WIRE_OP_OBJECT_SIZE;
        answer->len = plain_answer(&other, 1, answer->bytes);
        break;
    case TRAILING:
    case TWICE:
        append(answer, right.bytes, mistake == TWICE ? right.len : 1);
        break;
    case STALE:
        *answer = *last;
        append(answer, right.bytes, right.len);
        break;
    case CUT_HEADER:
    case CUT_PAYLOAD:
        answer->len = mistake == CUT_HEADER ? WIRE_HEADER_SIZE - 1 : right.len - 1;
        answer->hang_up = true;
        break;
    case HANG_UP:
        answer->len = 0;
        answer->hang_up = true;
        break;
    case NOISE:
        memset(answer->bytes, 0xA5, answer->len);
        break;
    case BAD_PAYLOAD: /* more objects than the frame holds */
        memset(answer->bytes + WIRE_HEADER_SIZE, 0xFF, answer->len - WIRE_HEADER_SIZE);
        break;
    default:
        change_header(answer, mistake);
        break;
    }
}

/* true: the answer is to be spoilt with *mistake. */
static bool make_mistake(uint16_t op, enum mistake *mistake)
{
    pthread_mutex_lock(&hsm.lock);
    hsm.asked += op == hsm.op;
    bool now = op == hsm.op && hsm.times > 0;
    hsm.times -= now;
    *mistake = hsm.mistake;
    pthread_mutex_unlock(&hsm.lock);
    return now;
}

/* Until the module loses its patience and hangs up. */
static void dribble(int fd, const struct answer *answer)
{
    struct answer longer = *answer;
    struct wire_header header;
    CHECK(wire_get_header(longer.bytes, &header) == WIRE_OK);
    header.length = WIRE_MAX_FRAME_USER;
    wire_set_header(longer.bytes, &header);
    for (size_t at = 0; send(fd, longer.bytes + (at < longer.len ? at : 0), 1, MSG_NOSIGNAL) == 1; at++) {
        usleep(DRIBBLE_US);
    }
}

static void serve(int fd)
{
    static uint8_t payload[1 << 16];
    uint8_t raw[WIRE_HEADER_SIZE];
    struct wire_header request;
    struct answer answer = {.len = 0}, last;
    while (recv(fd, raw, sizeof raw, MSG_WAITALL) == (ssize_t)sizeof raw) {
        enum mistake mistake;
        CHECK(wire_get_header(raw, &request) == WIRE_OK && request.length <= sizeof payload);
        CHECK(request.length == 0 || recv(fd, payload, request.length, MSG_WAITALL) == (ssize_t)request.length);
        last = answer;
        answer = (struct answer){.len = 0};
        answer.len = plain_answer(&request, 1, answer.bytes);
        if (make_mistake(request.op, &mistake)) {
            if (mistake == SILENT || mistake == DRIBBLE) {
                if (mistake == DRIBBLE) {
                    dribble(fd, &answer);
                }
                continue;
            }
            spoil(&answer, mistake, &request, &last);
        }
        if ((answer.len != 0 && send(fd, answer.bytes, answer.len, MSG_NOSIGNAL) < 0) || answer.hang_up) {
            return;
        }
    }
}

static void *serve_all(void *listener)
{
    for (;;) {
        int fd = accept(*(int *)listener, NULL, NULL);
        pthread_mutex_lock(&hsm.lock);
        hsm.connections++;
        hsm.fd = fd;
        pthread_mutex_unlock(&hsm.lock);
        serve(fd);
        pthread_mutex_lock(&hsm.lock);
        hsm.fd = -1;
        pthread_mutex_unlock(&hsm.lock);
        close(fd);
    }
    return NULL;
}

/* ---- the application ------------------------------------------------------------------------------------------------- */

static CK_SESSION_HANDLE session;

static CK_RV find(void)
{
    CK_RV rv = C_FindObjectsInit(session, NULL, 0);
    if (rv == CKR_OK) {
        CHECK_EQ(C_FindObjectsFinal(session), CKR_OK);
    }
    return rv;
}

static CK_RV generate(void)
{
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    CK_OBJECT_HANDLE key = 77;
    CK_RV rv = C_GenerateKey(session, &mechanism, NULL, 0, &key);
    CHECK(rv == CKR_OK || key == 77); /* no handle of a wrong answer */
    return rv;
}

static CK_RV seed(void)
{
    CK_BYTE bytes[4] = {0};
    return C_SeedRandom(session, bytes, sizeof bytes);
}

/* What may be asked twice is, on a new connection; the first answer is not believed. */
static void test_once(void)
{
    for (enum mistake mistake = 0; mistake < MISTAKES; mistake++) {
        CHECK_EQ(find(), CKR_OK);
        plan(mistake, WIRE_OP_FIND, 1);
        CHECK_EQ(find(), CKR_OK);
        CHECK_EQ(count(&hsm.asked), 2);
        CHECK_EQ(count(&hsm.connections), 1);
    }
}

static void test_always(void)
{
    for (enum mistake mistake = 0; mistake < MISTAKES; mistake++) {
        plan(mistake, WIRE_OP_FIND, 1000);
        CHECK_EQ(find(), CKR_DEVICE_ERROR);
        CHECK_EQ(count(&hsm.asked), 2); /* one HSM: once more, then never again */
        plan(mistake, WIRE_OP_FIND, 0);
        CHECK_EQ(find(), CKR_OK);
    }
}

/* A key may have been made: it is not made twice. */
static void test_not_repeatable(void)
{
    for (enum mistake mistake = 0; mistake < MISTAKES; mistake++) {
        CHECK_EQ(find(), CKR_OK);
        plan(mistake, WIRE_OP_GENERATE_KEY, 1);
        CHECK_EQ(generate(), CKR_DEVICE_ERROR);
        CHECK_EQ(count(&hsm.asked), 1);
        CHECK_EQ(generate(), CKR_OK);
    }
}

static void test_bad_payload(void)
{
    plan(BAD_PAYLOAD, WIRE_OP_FIND, 1);
    CHECK_EQ(find(), CKR_DEVICE_ERROR);
    CHECK_EQ(find(), CKR_OK);
    CHECK_EQ(count(&hsm.connections), 0); /* the frame was a frame */
}

/* The HSM makes GCM's IV (cloudhsm profile): a wrapped key without it could never be unwrapped. */
static void test_wrap_without_iv(void)
{
    CK_BYTE iv[12] = {0}, out[64];
    CK_GCM_PARAMS parameters = {iv, sizeof iv, 0, NULL, 0, 128};
    CK_MECHANISM mechanism = {CKM_AES_GCM, &parameters, sizeof parameters};
    CK_ULONG len = sizeof out;
    plan(BAD_PAYLOAD, WIRE_OP_WRAP_KEY, 0); /* the plain answer has no IV */
    CHECK_EQ(C_WrapKey(session, &mechanism, 1, 2, out, &len), CKR_DEVICE_ERROR);
}

/* Waiting has an end, also while bytes trickle in: the alarm is the failure. */
static void test_slow(void)
{
    plan(SILENT, WIRE_OP_SEED_RANDOM, 1000);
    CHECK_EQ(seed(), CKR_DEVICE_ERROR);
    plan(DRIBBLE, WIRE_OP_SEED_RANDOM, 1000);
    CHECK_EQ(seed(), CKR_DEVICE_ERROR);
    CHECK_EQ(count(&hsm.asked), 2);
    plan(SILENT, WIRE_OP_SEED_RANDOM, 1);
    CHECK_EQ(seed(), CKR_OK);
}

/* An HSM that does not know how to greet is none. */
static void test_hello(void)
{
    CK_SESSION_HANDLE other;
    for (enum mistake mistake = 0; mistake < MISTAKES; mistake++) {
        if (mistake != STALE) { /* nothing is answered before HELLO */
            plan(mistake, WIRE_OP_HELLO, 1000);
            end_connection();
            CHECK_EQ(C_OpenSession(SLOT_ID, SESSION_FLAGS, NULL, NULL, &other), CKR_TOKEN_NOT_PRESENT);
            plan(mistake, WIRE_OP_HELLO, 0);
            CHECK_EQ(find(), CKR_OK); /* the session lives on */
        }
    }
}

static void start(const char *folder, int *listener)
{
    char socket_path[100], config_path[100];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(socket_path, sizeof socket_path, "%s/hsm.sock", folder);
    snprintf(config_path, sizeof config_path, "%s/pkcs11.cfg", folder);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    *listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(*listener >= 0 && bind(*listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(*listener, 8) == 0);
    FILE *file = fopen(config_path, "w");
    CHECK(file != NULL);
    fprintf(file, "{\"clusters\": [{\"cluster\": {\"servers\": [{\"socket\": \"%s\"}]}}], "
                  "\"logging\": {\"log_file\": \"/dev/null\"}, \"hsmsim\": {\"timeout_ms\": 500, \"profile\": \"cloudhsm\"}}\n", socket_path);
    CHECK(fclose(file) == 0 && setenv("HSMSIM_PKCS11_CONFIG", config_path, 1) == 0);
    CHECK_EQ(C_Initialize(NULL), CKR_OK);
    unlink(config_path);
}

int main(void)
{
    char folder[] = "/tmp/hsmsim-test-XXXXXX", path[64];
    static int listener;
    pthread_t thread;
    alarm(SECONDS);
    CHECK(mkdtemp(folder) != NULL);
    start(folder, &listener);
    CHECK(pthread_create(&thread, NULL, serve_all, &listener) == 0);
    CHECK_EQ(C_OpenSession(SLOT_ID, SESSION_FLAGS, NULL, NULL, &session), CKR_OK);
    test_once();
    test_always();
    test_not_repeatable();
    test_bad_payload();
    test_wrap_without_iv();
    test_slow();
    test_hello();
    snprintf(path, sizeof path, "%s/hsm.sock", folder);
    unlink(path);
    rmdir(folder);
    puts("module answers: all as it should be");
    return 0;
}
