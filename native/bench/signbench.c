/* How many signatures or encryptions a second, and how long one takes: a PKCS#11 module, in-process OpenSSL or bare crypto_mb, the same
 * loop for all.
 *
 *   hsmsim-signbench --module PATH --token LABEL --pin-env NAME --key LABEL --kind rsa2048|p256|...|aes256gcm [--bytes N]
 *                    --processes N [--threads N] --seconds S [--warmup S]
 *   hsmsim-signbench --openssl|--crypto-mb --kind p256 --processes N --seconds S
 *
 * Each process is a client of its own: it loads the module after the fork, logs in, finds the key by label, waits for the
 * others, and then does C_SignInit + C_Sign (or EVP_PKEY_sign) until the time is over; with aes256gcm C_EncryptInit + C_Encrypt of
 * 4 KiB or --bytes, with a new IV each time. With --threads, each thread of a process does, in a session of its own. crypto_mb does eight
 * a call. Prints one line of JSON: operations, seconds, per second, latency percentiles in
 * microseconds, of a call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <getopt.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "signbench.h"

enum { WORKERS = 64, SAMPLES = 1 << 17, INPUT_MAX = 1 << 16, OUTPUT_MAX = INPUT_MAX + SIGNATURE_MAX, LABEL_SIZE = 32, TAG = 16 };

static const struct kind kinds[] = {
    {"rsa2048", CKM_RSA_PKCS, 2048, NULL, 51}, {"rsa3072", CKM_RSA_PKCS, 3072, NULL, 51}, {"rsa4096", CKM_RSA_PKCS, 4096, NULL, 51},
    {"p256", CKM_ECDSA, 256, "P-256", 32},     {"p384", CKM_ECDSA, 384, "P-384", 48},     {"p521", CKM_ECDSA, 521, "P-521", 64},
    {"ed25519", CKM_EDDSA, 256, "ED25519", 32}, {"aes256gcm", CKM_AES_GCM, 256, NULL, PLAINTEXT},
};
static const uint8_t sha256_info[19] = {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                        0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};

struct shared {
    atomic_int turn, ready, go, failed; /* turn: who may open; SoftHSM2 2.6.1 fails when several log in at once */
    uint64_t operations[WORKERS];
    double seconds[WORKERS];
    uint32_t sampled[WORKERS];
    float samples[WORKERS][SAMPLES]; /* microseconds; the first SAMPLES of each worker */
};

struct options {
    const char *module, *token, *pin_env, *key;
    const struct kind *kind;
    int processes, threads; /* threads of each process */
    size_t bytes;
    double seconds, warmup;
    bool openssl, crypto_mb;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool fail(const char *what, unsigned long code)
{
    fprintf(stderr, "hsmsim-signbench: %s: 0x%lx\n", what, code);
    return false;
}

#define P11_UNLESS(fine, call)                \
    do {                                      \
        CK_RV rv_ = (call);                   \
        if (rv_ != CKR_OK && rv_ != (fine)) { \
            return fail(#call, rv_);          \
        }                                     \
    } while (0)
#define P11(call) P11_UNLESS(CKR_OK, call)

static bool sign_p11(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    CK_ULONG size = SIGNATURE_MAX;
    P11(s->p11->C_SignInit(s->session, &s->mechanism, s->key));
    P11(s->p11->C_Sign(s->session, (CK_BYTE_PTR)data, len, out, &size));
    *out_len = size;
    return true;
}

static bool sign_openssl(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    *out_len = SIGNATURE_MAX;
    return EVP_PKEY_sign(s->context, out, out_len, data, len) == 1 || fail("EVP_PKEY_sign", 0);
}

/* Whole messages have another function in OpenSSL. */
static bool sign_message(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    *out_len = SIGNATURE_MAX;
    return (EVP_DigestSignInit_ex(s->message, NULL, NULL, NULL, NULL, s->pkey, NULL) == 1 &&
            EVP_DigestSign(s->message, out, out_len, data, len) == 1) ||
           fail("EVP_DigestSign", 0);
}

static void next_iv(struct signer *s)
{
    for (size_t i = 0; i < sizeof s->iv && ++s->iv[i] == 0; i++) {
    }
}

static bool encrypt_p11(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    CK_ULONG size = OUTPUT_MAX;
    next_iv(s);
    P11(s->p11->C_EncryptInit(s->session, &s->mechanism, s->key));
    P11(s->p11->C_Encrypt(s->session, (CK_BYTE_PTR)data, len, out, &size));
    *out_len = size;
    return true;
}

static bool encrypt_openssl(struct signer *s, const uint8_t *data, size_t len, uint8_t *out, size_t *out_len)
{
    int written = 0, last = 0;
    next_iv(s);
    *out_len = len + TAG;
    return (EVP_EncryptInit_ex2(s->cipher, NULL, NULL, s->iv, NULL) == 1 &&
            EVP_EncryptUpdate(s->cipher, out, &written, data, (int)len) == 1 && EVP_EncryptFinal_ex(s->cipher, out + written, &last) == 1 &&
            EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_GET_TAG, TAG, out + len) == 1) ||
           fail("EVP_Encrypt", 0);
}

static bool find_slot(CK_FUNCTION_LIST_PTR p11, const char *token, CK_SLOT_ID *slot)
{
    CK_SLOT_ID slots[32];
    CK_ULONG count = 32;
    P11(p11->C_GetSlotList(CK_TRUE, slots, &count));
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        char label[LABEL_SIZE + 1];
        P11(p11->C_GetTokenInfo(slots[i], &info));
        snprintf(label, sizeof label, "%-32s", token);
        if (memcmp(label, info.label, LABEL_SIZE) == 0) {
            *slot = slots[i];
            return true;
        }
    }
    return fail("no token has that label", count);
}

static bool open_p11(const struct options *o, struct signer *s)
{
    void *library = dlopen(o->module, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "hsmsim-signbench: %s\n", dlerror());
        return false;
    }
    CK_C_GetFunctionList get;
    *(void **)&get = dlsym(library, "C_GetFunctionList");
    if (get == NULL) {
        return fail("no C_GetFunctionList in the module", 0);
    }
    P11(get(&s->p11));
    CK_C_INITIALIZE_ARGS locking = {.flags = CKF_OS_LOCKING_OK};
    P11_UNLESS(CKR_CRYPTOKI_ALREADY_INITIALIZED, s->p11->C_Initialize(&locking));
    CK_SLOT_ID slot;
    if (!find_slot(s->p11, o->token, &slot)) {
        return false;
    }
    P11(s->p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s->session));
    const char *pin = getenv(o->pin_env);
    if (pin == NULL) {
        return fail("the PIN's variable is not set", 0);
    }
    P11_UNLESS(CKR_USER_ALREADY_LOGGED_IN, s->p11->C_Login(s->session, CKU_USER, (CK_UTF8CHAR_PTR)pin, strlen(pin)));
    bool gcm = o->kind->mechanism == CKM_AES_GCM;
    CK_OBJECT_CLASS class = gcm ? CKO_SECRET_KEY : CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)o->key, strlen(o->key)}};
    CK_ULONG found = 0;
    P11(s->p11->C_FindObjectsInit(s->session, template, 2));
    P11(s->p11->C_FindObjects(s->session, &s->key, 1, &found));
    P11(s->p11->C_FindObjectsFinal(s->session));
    if (found != 1) {
        return fail("no private or secret key has that label", found);
    }
    s->mechanism.mechanism = o->kind->mechanism;
    s->sign = gcm ? encrypt_p11 : sign_p11;
    if (gcm) {
        s->gcm = (CK_GCM_PARAMS){.pIv = s->iv, .ulIvLen = sizeof s->iv, .ulIvBits = 8 * sizeof s->iv, .ulTagBits = 8 * TAG};
        s->mechanism.pParameter = &s->gcm;
        s->mechanism.ulParameterLen = sizeof s->gcm;
    }
    return true;
}

static bool open_cipher(struct signer *s)
{
    static const uint8_t key[32] = {1};
    s->cipher = EVP_CIPHER_CTX_new();
    s->sign = encrypt_openssl;
    return (s->cipher != NULL && EVP_EncryptInit_ex2(s->cipher, EVP_aes_256_gcm(), key, s->iv, NULL) == 1) || fail("EVP_EncryptInit_ex2", 0);
}

static bool open_openssl(const struct options *o, struct signer *s)
{
    bool rsa = o->kind->mechanism == CKM_RSA_PKCS;
    if (o->kind->mechanism == CKM_AES_GCM) {
        return open_cipher(s);
    }
    if (o->kind->mechanism == CKM_EDDSA) {
        s->pkey = EVP_PKEY_Q_keygen(NULL, NULL, o->kind->curve);
        s->message = EVP_MD_CTX_new();
        s->sign = sign_message;
        return (s->pkey != NULL && s->message != NULL) || fail("EVP_PKEY_Q_keygen", 0);
    }
    EVP_PKEY *key = rsa ? EVP_RSA_gen((unsigned)o->kind->bits) : EVP_EC_gen(o->kind->curve);
    s->context = EVP_PKEY_CTX_new(key, NULL);
    if (s->context == NULL || EVP_PKEY_sign_init(s->context) != 1) {
        return fail("EVP_PKEY_sign_init", 0);
    }
    if (rsa && EVP_PKEY_CTX_set_rsa_padding(s->context, RSA_PKCS1_PADDING) != 1) {
        return fail("EVP_PKEY_CTX_set_rsa_padding", 0);
    }
    s->sign = sign_openssl;
    return true;
}

static bool run(const struct options *o, struct shared *shared, int index)
{
    struct signer signer = {.each = 1};
    uint8_t input[INPUT_MAX] = {0}, out[OUTPUT_MAX];
    size_t len = 0, size = o->bytes != 0 ? o->bytes : o->kind->input, changing = size > 20 ? 20 : 0;
    memcpy(input, sha256_info, sizeof sha256_info);
    input[size - 1] = (uint8_t)index;
    while (atomic_load(&shared->turn) < index && !atomic_load(&shared->failed)) {
        usleep(200);
    }
    bool opened = o->crypto_mb ? open_crypto_mb(o->kind, &signer) : o->openssl ? open_openssl(o, &signer) : open_p11(o, &signer);
    atomic_fetch_add(&shared->turn, 1);
    if (!opened || !signer.sign(&signer, input, size, out, &len)) {
        return false;
    }
    atomic_fetch_add(&shared->ready, 1);
    while (!atomic_load(&shared->go)) {
        usleep(200);
    }
    for (double end = now() + o->warmup; now() < end;) {
        if (!signer.sign(&signer, input, size, out, &len)) {
            return false;
        }
    }
    double start = now(), before = start, after = start;
    uint64_t count = 0;
    for (; after - start < o->seconds; before = after, count++) {
        input[changing] = (uint8_t)count;
        if (!signer.sign(&signer, input, size, out, &len)) {
            return false;
        }
        after = now();
        if (count < SAMPLES) {
            shared->samples[index][count] = (float)((after - before) * 1e6);
        }
    }
    shared->operations[index] = count * signer.each;
    shared->seconds[index] = after - start;
    shared->sampled[index] = (uint32_t)(count < SAMPLES ? count : SAMPLES);
    return true;
}

struct worker {
    pthread_t thread;
    const struct options *o;
    struct shared *shared;
    int index;
    bool fine;
};

static void *work(void *argument)
{
    struct worker *w = argument;
    w->fine = run(w->o, w->shared, w->index);
    if (!w->fine) {
        atomic_store(&w->shared->failed, 1);
    }
    return NULL;
}

/* One client process: its threads have the places from `process` * threads on. */
static bool run_threads(const struct options *o, struct shared *shared, int process)
{
    struct worker workers[WORKERS];
    for (int i = 0; i < o->threads; i++) {
        workers[i] = (struct worker){.o = o, .shared = shared, .index = process * o->threads + i};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            perror("pthread_create");
            atomic_store(&shared->failed, 1);
            return false; /* the process ends, and with it the threads that there are */
        }
    }
    bool fine = true;
    for (int i = 0; i < o->threads; i++) {
        pthread_join(workers[i].thread, NULL);
        fine = workers[i].fine && fine;
    }
    return fine;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(const struct options *o, const struct shared *shared)
{
    uint64_t operations = 0;
    double rate = 0;
    size_t count = 0;
    int workers = o->processes * o->threads;
    float *all = malloc((size_t)workers * sizeof shared->samples[0]);
    if (all == NULL) {
        exit(1);
    }
    for (int i = 0; i < workers; i++) {
        operations += shared->operations[i];
        rate += (double)shared->operations[i] / shared->seconds[i];
        memcpy(all + count, shared->samples[i], shared->sampled[i] * sizeof *all);
        count += shared->sampled[i];
    }
    qsort(all, count, sizeof *all, ascending);
    printf("{\"kind\": \"%s\", \"processes\": %d, \"threads\": %d, \"operations\": %llu, \"per_second\": %.1f, \"p50_us\": %.2f, "
           "\"p90_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}\n",
           o->kind->name, o->processes, o->threads, (unsigned long long)operations, rate, (double)all[count / 2],
           (double)all[count * 9 / 10], (double)all[count * 99 / 100], (double)all[count - 1]);
    free(all);
}

static const struct kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    fail("unknown --kind", 0);
    exit(2);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {.kind = &kinds[3], .processes = 1, .threads = 1, .seconds = 2, .warmup = 0.2, .pin_env = "HSMSIM_PIN"};
    static const struct option longs[] = {
        {"module", 1, 0, 'm'},  {"token", 1, 0, 't'},     {"pin-env", 1, 0, 'p'}, {"key", 1, 0, 'k'},
        {"kind", 1, 0, 'K'},    {"processes", 1, 0, 'n'}, {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'},
        {"openssl", 0, 0, 'o'}, {"crypto-mb", 0, 0, 'c'}, {"threads", 1, 0, 'T'}, {"bytes", 1, 0, 'b'},
        {0, 0, 0, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'm': o.module = optarg; break;
        case 't': o.token = optarg; break;
        case 'p': o.pin_env = optarg; break;
        case 'k': o.key = optarg; break;
        case 'K': o.kind = find_kind(optarg); break;
        case 'n': o.processes = atoi(optarg); break;
        case 'T': o.threads = atoi(optarg); break;
        case 'b': o.bytes = (size_t)strtoul(optarg, NULL, 10); break;
        case 's': o.seconds = atof(optarg); break;
        case 'w': o.warmup = atof(optarg); break;
        case 'o': o.openssl = true; break;
        case 'c': o.crypto_mb = true; break;
        default: exit(2);
        }
    }
    bool complete = o.openssl || o.crypto_mb || (o.module != NULL && o.token != NULL && o.key != NULL);
    bool crowd = o.processes >= 1 && o.threads >= 1 && o.processes <= WORKERS / o.threads;
    bool bytes = o.bytes == 0 || (o.kind->mechanism == CKM_AES_GCM && o.bytes <= INPUT_MAX);
    if (!complete || !crowd || !bytes || o.seconds <= 0) {
        fail("needs --openssl, --crypto-mb, or --module, --token and --key; --processes times --threads 1 to 64; --bytes of aes256gcm 1 to 65536", 0);
        exit(2);
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    for (int i = 0; i < o.processes; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            perror("fork");
            return 1;
        }
        if (pid == 0) {
            _exit(run_threads(&o, shared, i) ? 0 : 1);
        }
    }
    while (atomic_load(&shared->ready) < o.processes * o.threads && !atomic_load(&shared->failed)) {
        usleep(1000);
    }
    atomic_store(&shared->go, 1);
    bool fine = true;
    for (int i = 0; i < o.processes; i++) {
        int status;
        fine = wait(&status) > 0 && status == 0 && fine;
    }
    if (!fine) {
        return 1;
    }
    report(&o, shared);
    return 0;
}
