/* The PKCS#11 module as client of a hostile HSM, over a real socket. Input: u8 where in the sequence of calls to start (and
 * whether HELLO and login are answered honestly), then an answer for each request: u8 how, see answer().
 * When the input is over the HSM hangs up. Outputs have exactly the room that the module said it needs. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz.h"
#include "messages.h"
#include "pkcs11.h"
#include "plain_answer.h"

enum { FRAME_MAX = 1 << 17 };
#define SLOT_ID UINT64_C(0x2000000000000001)

static char folder[] = "/tmp/hsmsim-fuzz-XXXXXX", socket_path[64], config_path[64];

/* ---- the HSM: a thread ---------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* what follows */
static struct wire_reader input;
static bool honest, over = true;
static uint64_t epoch;

/* The lock is held. *hang_up: nothing more comes on this connection, so that nobody waits for the rest of a broken frame. */
static size_t answer(const struct wire_header *request, uint8_t *frame, bool *hang_up)
{
    enum { PLAIN, PAYLOAD, CODE, BROKEN_HEADER, SHORT, RAW, HOWS };
    static const CK_RV codes[] = {CKR_PIN_EXPIRED, CKR_USER_NOT_LOGGED_IN, CKR_DEVICE_ERROR, CKR_ATTRIBUTE_SENSITIVE,
                                  CKR_BUFFER_TOO_SMALL, CKR_TOKEN_NOT_PRESENT, CKR_OPERATION_NOT_INITIALIZED, ~(CK_RV)0};
    size_t len = plain_answer(request, epoch, frame);
    FUZZ_CHECK(len != 0 && request->epoch == 0); /* the module asks what it should */
    *hang_up = false;
    if (honest) {
        return len;
    }
    over = over || wire_left(&input) == 0;
    *hang_up = over;
    if (over) {
        return 0;
    }
    struct wire_header header;
    uint64_t choice = fuzz_number(&input, 1), how = choice % HOWS;
    struct wire_bytes bytes = how == PLAIN ? wire_bytes(NULL, 0) : fuzz_bytes(&input, fuzz_number(&input, 2));
    if (how == PAYLOAD || how == CODE) {
        wire_copy(frame + WIRE_HEADER_SIZE, bytes);
        FUZZ_CHECK(wire_get_header(frame, &header) == WIRE_OK);
        header.length = bytes.len;
        header.word = how == CODE ? codes[choice / HOWS % (sizeof codes / sizeof *codes)] : CKR_OK;
        wire_set_header(frame, &header);
        return WIRE_HEADER_SIZE + bytes.len;
    }
    *hang_up = how != PLAIN;
    if (how == BROKEN_HEADER) {
        for (uint32_t i = 0; i < bytes.len && i < WIRE_HEADER_SIZE; i++) {
            frame[i] ^= bytes.data[i];
        }
    } else if (how == SHORT) {
        len = bytes.len < len ? bytes.len : len;
    } else if (how == RAW) {
        wire_copy(frame, bytes);
        len = bytes.len;
    }
    return len;
}

static bool receive(int fd, uint8_t *out, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t some = recv(fd, out + at, len - at, MSG_WAITALL);
        if (some == 0 || (some < 0 && errno != EINTR)) {
            return false;
        }
        at += some > 0 ? (size_t)some : 0;
    }
    return true;
}

static void serve(int fd)
{
    static uint8_t frame[FRAME_MAX];
    static uint8_t request[FRAME_MAX];
    struct wire_header header;
    while (receive(fd, request, WIRE_HEADER_SIZE) && wire_get_header(request, &header) == WIRE_OK) {
        FUZZ_CHECK(header.length <= sizeof request && receive(fd, request, header.length));
        pthread_mutex_lock(&lock);
        bool hang_up;
        size_t len = answer(&header, frame, &hang_up);
        pthread_mutex_unlock(&lock);
        if ((len != 0 && send(fd, frame, len, MSG_NOSIGNAL) != (ssize_t)len) || hang_up) {
            return;
        }
    }
}

static void *hsm(void *listener)
{
    for (;;) {
        int fd = accept(*(int *)listener, NULL, NULL);
        if (fd >= 0) {
            serve(fd);
            close(fd);
        }
    }
    return NULL;
}

/* ---- the application ------------------------------------------------------------------------------------------------- */

static CK_SESSION_HANDLE session;
static CK_BYTE plain[100];
static CK_BYTE iv[16];
static CK_MECHANISM cbc_pad = {CKM_AES_CBC_PAD, iv, sizeof iv}, ecdsa = {CKM_ECDSA_SHA256, NULL, 0},
                    rsa = {CKM_RSA_PKCS, NULL, 0}, hmac = {CKM_SHA256_HMAC, NULL, 0}, aes_key = {CKM_AES_KEY_GEN, NULL, 0},
                    ec_pair = {CKM_EC_KEY_PAIR_GEN, NULL, 0}, kwp = {CKM_AES_KEY_WRAP_KWP, NULL, 0};
static CK_GCM_PARAMS gcm_parameters = {iv, 12, 96, NULL, 0, 128};
static CK_MECHANISM gcm = {CKM_AES_GCM, &gcm_parameters, sizeof gcm_parameters};
static CK_ULONG size_32 = 32;
static CK_ATTRIBUTE length = {CKA_VALUE_LEN, &size_32, sizeof size_32};
enum { KEY = 7 };

typedef CK_RV (*output_call)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);

/* The size query, then the call with that much room and not a byte more; huge sizes are the HSM's lies about its key. */
static void whole(output_call function)
{
    enum { BELIEVED = 1 << 20 };
    CK_ULONG len = 0;
    if (function(session, plain, sizeof plain, NULL, &len) == CKR_OK && len <= BELIEVED) {
        CK_BYTE *out = malloc(len + 1);
        CK_ULONG room = len;
        CK_RV rv = function(session, plain, sizeof plain, out, &len);
        FUZZ_CHECK(rv != CKR_OK || len <= room);
        free(out);
    }
}

static CK_RV sign_last(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG data_len, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
    (void)data;
    (void)data_len;
    return C_SignFinal(s, out, len);
}

static void find(void)
{
    CK_OBJECT_HANDLE found[4];
    CK_ULONG count = 1;
    if (C_FindObjectsInit(session, &length, 1) == CKR_OK) {
        while (count != 0 && C_FindObjects(session, found, 4, &count) == CKR_OK) {
            FUZZ_CHECK(count <= 4);
        }
        C_FindObjectsFinal(session);
    }
}

/* Twice, as applications do: lengths first; then values, and the lengths of nested ones. */
static void get_attributes(void)
{
    CK_ATTRIBUTE nested[8] = {{0}};
    CK_ATTRIBUTE wanted[] = {{CKA_LABEL, NULL, 0}, {CKA_MODULUS, NULL, 0}, {CKA_SENSITIVE, NULL, 0},
                             {CKA_ALLOWED_MECHANISMS, NULL, 0}, {CKA_WRAP_TEMPLATE, nested, sizeof nested}};
    enum { COUNT = sizeof wanted / sizeof *wanted, BELIEVED = 1 << 20 };
    void *values[COUNT + 8] = {0};
    C_GetAttributeValue(session, KEY, wanted, COUNT);
    for (size_t i = 0; i < COUNT + 8; i++) {
        CK_ATTRIBUTE *one = i < COUNT ? &wanted[i] : &nested[i - COUNT];
        if (one->pValue == NULL && one->ulValueLen <= BELIEVED) {
            one->pValue = values[i] = calloc(1, one->ulValueLen + 1);
        } else if (one->pValue == NULL) {
            one->ulValueLen = 0;
        }
    }
    wanted[COUNT - 1].ulValueLen = sizeof nested;
    C_GetAttributeValue(session, KEY, wanted, COUNT);
    for (size_t i = 0; i < COUNT + 8; i++) {
        free(values[i]);
    }
}

static void sign_ecdsa(void)
{
    if (C_SignInit(session, &ecdsa, KEY) == CKR_OK) {
        whole(C_Sign);
    }
}

static void sign_rsa(void)
{
    if (C_SignInit(session, &rsa, KEY + 1) == CKR_OK) {
        whole(C_Sign);
    }
}

static void sign_parts(void)
{
    static CK_BYTE large[70000]; /* more than a frame takes: a stream in the HSM */
    if (C_SignInit(session, &hmac, KEY + 2) == CKR_OK && C_SignUpdate(session, plain, 50) == CKR_OK &&
        C_SignUpdate(session, large, sizeof large) == CKR_OK) {
        whole(sign_last);
    }
}

static void verify(void)
{
    if (C_VerifyInit(session, &ecdsa, KEY) == CKR_OK) {
        C_Verify(session, plain, sizeof plain, plain, 64);
    }
}

static void encrypt(void)
{
    CK_BYTE *out = malloc(112);
    CK_ULONG len = 112;
    if (C_EncryptInit(session, &cbc_pad, KEY + 3) == CKR_OK) {
        whole(C_Encrypt);
    }
    if (C_EncryptInit(session, &cbc_pad, KEY + 3) == CKR_OK &&
        C_EncryptUpdate(session, plain, sizeof plain, out, &len) == CKR_OK) {
        FUZZ_CHECK(len <= 96);
        CK_ULONG rest = 112 - len;
        C_EncryptFinal(session, out + len, &rest);
    }
    free(out);
}

static void decrypt(void)
{
    CK_BYTE *out = malloc(96);
    CK_ULONG len = 96;
    if (C_DecryptInit(session, &gcm, KEY + 3) == CKR_OK) {
        whole(C_Decrypt);
    }
    if (C_DecryptInit(session, &cbc_pad, KEY + 3) == CKR_OK && C_DecryptUpdate(session, plain, 96, out, &len) == CKR_OK) {
        FUZZ_CHECK(len <= 96);
        CK_ULONG rest = 96 - len;
        C_DecryptFinal(session, out + len, &rest);
    }
    if (C_DecryptInit(session, &rsa, KEY + 1) == CKR_OK) {
        whole(C_Decrypt);
    }
    free(out);
}

static void make_keys(void)
{
    CK_OBJECT_HANDLE one, two;
    C_GenerateKey(session, &aes_key, &length, 1, &one);
    C_GenerateKeyPair(session, &ec_pair, NULL, 0, NULL, 0, &one, &two);
    C_CreateObject(session, &length, 1, &one);
    C_CopyObject(session, KEY, &length, 1, &two);
    C_UnwrapKey(session, &kwp, KEY, plain, 24, &length, 1, &one);
    C_SetAttributeValue(session, KEY, &length, 1);
    C_GetObjectSize(session, KEY, &size_32);
    size_32 = 32;
    C_DestroyObject(session, KEY);
}

static void wrap(void)
{
    CK_BYTE *out = malloc(40);
    CK_ULONG len = 0;
    C_WrapKey(session, &kwp, KEY, KEY + 1, NULL, &len);
    len = 40;
    C_WrapKey(session, &gcm, KEY, KEY + 1, out, &len);
    free(out);
}

static void token(void)
{
    CK_TOKEN_INFO info;
    CK_BYTE random[64];
    C_GetTokenInfo(SLOT_ID, &info);
    C_GenerateRandom(session, random, sizeof random);
    C_SeedRandom(session, random, sizeof random);
    C_SetPIN(session, plain, 4, plain, 4);
}

static void login(void)
{
    C_Logout(session);
    C_Login(session, CKU_USER, (CK_UTF8CHAR *)(uintptr_t)"alice:secret12", 14);
}

static void (*const steps[])(void) = {find,    get_attributes, sign_ecdsa, sign_rsa,  sign_parts, verify,
                                      encrypt, decrypt,        wrap,       make_keys, token,      login};
enum { STEPS = sizeof steps / sizeof *steps, START_HOSTILE = 0x80 };

/* ---- setting up ------------------------------------------------------------------------------------------------------ */

static void write_config(void)
{
    FILE *file = fopen(config_path, "w");
    FUZZ_CHECK(file != NULL);
    fprintf(file, "{\"clusters\": [{\"cluster\": {\"servers\": [{\"socket\": \"%s\"}]}}],"
                  " \"logging\": {\"log_file\": \"/dev/null\"}, \"hsmsim\": {\"timeout_ms\": 1000}}\n", socket_path);
    FUZZ_CHECK(fclose(file) == 0 && setenv("HSMSIM_PKCS11_CONFIG", config_path, 1) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static int listener;
    pthread_t thread;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)argc;
    (void)argv;
    FUZZ_CHECK(mkdtemp(folder) != NULL);
    snprintf(socket_path, sizeof socket_path, "%s/hsm.sock", folder);
    snprintf(config_path, sizeof config_path, "%s/pkcs11.cfg", folder);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    FUZZ_CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    FUZZ_CHECK(pthread_create(&thread, NULL, hsm, &listener) == 0);
    write_config();
    FUZZ_CHECK(C_Initialize(NULL) == CKR_OK);
    return 0;
}

__attribute__((destructor)) static void remove_folder(void)
{
    unlink(socket_path);
    unlink(config_path);
    rmdir(folder);
}

static void set_hsm(struct wire_reader answers, bool is_honest, bool is_over)
{
    pthread_mutex_lock(&lock);
    input = answers;
    honest = is_honest;
    over = is_over;
    epoch++; /* the module forgets what it knew about keys */
    pthread_mutex_unlock(&lock);
}

static bool is_over(void)
{
    pthread_mutex_lock(&lock);
    bool ended = over;
    pthread_mutex_unlock(&lock);
    return ended;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_reader answers = wire_reader(data, size);
    uint64_t start = fuzz_number(&answers, 1);
    set_hsm(answers, start < START_HOSTILE, false);
    if (C_OpenSession(SLOT_ID, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK) {
        login();
        if (start < START_HOSTILE) {
            set_hsm(answers, false, false);
        }
        for (size_t i = 0; i < STEPS && !is_over(); i++) {
            steps[(start + i) % STEPS]();
        }
    }
    set_hsm(answers, false, true);
    FUZZ_CHECK(C_CloseAllSessions(SLOT_ID) == CKR_OK);
    return 0;
}
