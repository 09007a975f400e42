/* Full TLS handshakes a second against a server on loopback: a lean client, no resumption.
 *
 *   hsmsim-handshakes --port P --seconds S [--connections N] [--tls 1.2|1.3]
 *
 * N threads each connect, shake hands, close, again. The lean client does not look at the server's signature; the first
 * handshake of each thread, which must succeed, and one of 64 after it are OpenSSL's, which does. Prints one line of JSON:
 * handshakes (the first ones among them), failures, per second (without those), latency percentiles in microseconds, and the
 * client's own share of a processor. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lean_tls.h"

enum { CONNECTIONS = 64, SAMPLES = 1 << 16, CHECKED = 64 };

struct worker {
    pthread_t thread;
    SSL_CTX *context;
    struct lean *lean;
    int port;
    double seconds;
    pthread_barrier_t *barrier;
    double started;
    unsigned first, count, failures;
    float samples[SAMPLES]; /* microseconds */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int connected(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    struct timeval patience = {.tv_sec = 5}; /* a server that does not answer is a failure, not the end of the run */
    /* a reset instead of TIME_WAIT: thousands of connections a second would use up the ports */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool shake(struct worker *w, bool checked)
{
    int fd = connected(w->port);
    if (fd < 0) {
        return false;
    }
    bool fine;
    if (checked) {
        SSL *ssl = SSL_new(w->context);
        fine = ssl != NULL && SSL_set_fd(ssl, fd) == 1 && SSL_connect(ssl) == 1 && !SSL_session_reused(ssl);
        SSL_free(ssl);
    } else {
        fine = lean_shake(w->lean, fd);
    }
    close(fd);
    return fine;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    w->first = shake(w, true);
    w->failures = !w->first;
    pthread_barrier_wait(w->barrier);
    double start = now(), before = start, after = start;
    w->started = start;
    for (unsigned number = 1; after - start < w->seconds; before = after, number++) {
        bool fine = shake(w, number % CHECKED == 0);
        after = now();
        if (!fine) {
            w->failures++;
            continue;
        }
        if (w->count < SAMPLES) {
            w->samples[w->count] = (float)((after - before) * 1e6);
        }
        w->count++;
    }
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int port = 0, connections = 8, version = TLS1_3_VERSION;
    double seconds = 2;
    static const struct option longs[] = {
        {"port", 1, 0, 'p'}, {"seconds", 1, 0, 's'}, {"connections", 1, 0, 'c'}, {"tls", 1, 0, 't'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'p': port = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 't': version = strcmp(optarg, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION; break;
        default: return 2;
        }
    }
    if (port < 1 || port > 65535 || connections < 1 || connections > CONNECTIONS || seconds <= 0) {
        fprintf(stderr, "hsmsim-handshakes: needs --port; --connections 1 to %d\n", CONNECTIONS);
        return 2;
    }
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, version) || !SSL_CTX_set_max_proto_version(context, version)) {
        return 1;
    }
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    struct worker *workers = calloc((size_t)connections, sizeof *workers);
    if (workers == NULL) {
        return 1;
    }
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)connections);
    for (int i = 0; i < connections; i++) {
        workers[i] = (struct worker){.context = context, .lean = lean_new(version), .port = port, .seconds = seconds, .barrier = &barrier};
        if (workers[i].lean == NULL || pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            return 1;
        }
    }
    unsigned first = 0, count = 0, failures = 0;
    double start = now();
    size_t sampled = 0;
    float *all = malloc((size_t)connections * sizeof workers->samples);
    for (int i = 0; i < connections; i++) {
        pthread_join(workers[i].thread, NULL);
        size_t some = workers[i].count < SAMPLES ? workers[i].count : SAMPLES;
        if (all != NULL) {
            memcpy(all + sampled, workers[i].samples, some * sizeof *all);
        }
        sampled += some;
        start = workers[i].started < start ? workers[i].started : start;
        first += workers[i].first;
        count += workers[i].count;
        failures += workers[i].failures;
        lean_free(workers[i].lean);
    }
    double elapsed = now() - start;
    if (first == 0 || count == 0 || all == NULL) {
        fprintf(stderr, "hsmsim-handshakes: no handshake succeeded (%u failed) on port %d\n", failures, port);
        return 1;
    }
    qsort(all, sampled, sizeof *all, ascending);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"handshakes\": %u, \"failures\": %u, \"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"client_cpu\": %.3f}\n",
           first + count, failures, count / elapsed, (double)all[sampled / 2], (double)all[sampled * 99 / 100], cpu / elapsed);
    free(all);
    free(workers);
    SSL_CTX_free(context);
    return 0;
}
