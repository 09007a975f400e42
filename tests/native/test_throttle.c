/* The buckets of timing profiles, at times that the test chooses. */
#include <pthread.h>

#include "check.h"
#include "pkcs11.h"
#include "throttle.h"

#define MS UINT64_C(1000000)
#define START UINT64_C(1000000000000)

static uint32_t taken(struct throttle_bucket *bucket, uint64_t cost, uint64_t now, uint32_t tries)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < tries; i++) {
        count += throttle_take(bucket, cost, now);
    }
    return count;
}

static void a_full_bucket_gives_a_burst_and_no_more(void)
{
    struct throttle_bucket bucket = {.token_ns = MS};
    CHECK(taken(&bucket, MS, START, 1000) == 100);
    CHECK(taken(&bucket, MS, START, 1) == 0);
}

static void it_refills_at_its_rate(void)
{
    struct throttle_bucket bucket = {.token_ns = MS};
    CHECK(taken(&bucket, MS, START, 1000) == 100);
    CHECK(taken(&bucket, MS, START + MS - 1, 10) == 0);
    CHECK(taken(&bucket, MS, START + MS, 10) == 1);
    CHECK(taken(&bucket, MS, START + 8 * MS, 10) == 7);
    CHECK(taken(&bucket, MS, START + 1000 * MS, 1000) == 100); /* idle time is not kept */
}

static void over_a_second_the_rate_is_the_profile_s(void)
{
    struct throttle_bucket bucket = {.token_ns = 4 * MS};
    uint32_t count = 0;
    for (uint64_t now = START; now <= START + 1000 * MS; now += MS / 4) {
        count += throttle_take(&bucket, 4 * MS, now);
    }
    CHECK(count == 25 + 250);
}

/* A refusal takes nothing: who asks often gets as much as who asks seldom. */
static void a_dear_request_waits_for_its_whole_cost(void)
{
    struct throttle_bucket bucket = {.token_ns = MS};
    CHECK(taken(&bucket, 8 * MS, START, 100) == 12);
    CHECK(taken(&bucket, 8 * MS, START + 3 * MS, 100) == 0);
    CHECK(taken(&bucket, 8 * MS, START + 4 * MS, 100) == 1);
    CHECK(taken(&bucket, THROTTLE_BURST_NS, START + 1000 * MS, 2) == 1);
}

static void classes_and_keys(void)
{
    struct throttle throttle;
    throttle_init(&throttle, (const uint32_t[THROTTLE_CLASSES]){[THROTTLE_RSA] = 1, [THROTTLE_EC] = 0});
    CHECK(throttle_allows(NULL, CKO_PRIVATE_KEY, CKK_RSA, 2048));
    CHECK(throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_RSA, 4096)); /* dearer than a bucket holds: a full one is enough */
    CHECK(!throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_RSA, 2048));
    for (int i = 0; i < 10000; i++) {
        CHECK(throttle_allows(&throttle, CKO_PUBLIC_KEY, CKK_RSA, 2048));
        CHECK(throttle_allows(&throttle, CKO_SECRET_KEY, CKK_AES, 256));
        CHECK(throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_EC, 256)); /* no limit */
    }
    throttle_init(&throttle, (const uint32_t[THROTTLE_CLASSES]){[THROTTLE_RSA] = 0, [THROTTLE_EC] = 10});
    CHECK(throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_EC_EDWARDS, 255));
    CHECK(!throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_EC, 256));
    CHECK(throttle_allows(&throttle, CKO_PRIVATE_KEY, CKK_RSA, 2048));
}

/* A thousand tokens for threads that all want more: none is given twice. */
static struct throttle_bucket contested = {.token_ns = MS / 10};
static atomic_uint given;

static void *grab(void *unused)
{
    (void)unused;
    atomic_fetch_add(&given, taken(&contested, MS / 10, START, 1000));
    return NULL;
}

static void threads_share_a_bucket(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, grab, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(atomic_load(&given) == 1000);
}

int main(void)
{
    a_full_bucket_gives_a_burst_and_no_more();
    it_refills_at_its_rate();
    over_a_second_the_rate_is_the_profile_s();
    a_dear_request_waits_for_its_whole_cost();
    classes_and_keys();
    threads_share_a_bucket();
    return 0;
}
