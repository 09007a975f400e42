/* memory.h says the rules. */
#include "memory.h"

#include <openssl/crypto.h>
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define LEAK_ROOT(start, size) __lsan_register_root_region(start, size) /* the arena points to heap blocks */
#else
#define LEAK_ROOT(start, size) ((void)0)
#endif

enum { ARENA_MAX = 64 << 20, ARENA_MIN = 1 << 20, ARENA_BLOCK = 32, SPARE_LOCK = 256 << 10 };

/* Stands before every buffer: what to unmap, and that secret_trim may shorten. */
struct block {
    size_t size; /* with this header */
    bool mapped;
    uint8_t padding[7];
};
static_assert(sizeof(struct block) == 16, "buffers stay aligned");

static pthread_once_t arena_once = PTHREAD_ONCE_INIT;
static size_t arena_size; /* 0: there is none */
static bool arena_locked;

static void raise_memlock(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    }
}

/* The arena must not use up the limit: large requests lock mappings of their own. */
static bool can_lock_more(void)
{
    void *probe = mmap(NULL, SPARE_LOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == MAP_FAILED) {
        return false;
    }
    bool locked = mlock(probe, SPARE_LOCK) == 0;
    (void)munmap(probe, SPARE_LOCK);
    return locked;
}

/* A forked child has no use for keys. OpenSSL does not say where its arena is; the kernel's list of mappings does. */
static void advise_arena(const void *inside)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL) {
        return;
    }
    char line[512];
    while (fgets(line, sizeof line, maps) != NULL) {
        uintptr_t start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= (uintptr_t)inside && (uintptr_t)inside < end) {
            (void)madvise((void *)start, end - start, MADV_WIPEONFORK);
            (void)madvise((void *)start, end - start, MADV_DONTDUMP);
            LEAK_ROOT((void *)start, end - start);
            break;
        }
    }
    (void)fclose(maps);
}

static void make_arena(void)
{
    raise_memlock();
    if (CRYPTO_secure_malloc_initialized()) { /* somebody else's: whether it is locked cannot be known */
        arena_size = ARENA_MIN;
        return;
    }
    for (size_t size = ARENA_MAX; size >= ARENA_MIN && !arena_locked; size /= 2) {
        arena_locked = CRYPTO_secure_malloc_init(size, ARENA_BLOCK) == 1 && can_lock_more();
        arena_size = size;
        if (!arena_locked) {
            (void)CRYPTO_secure_malloc_done();
        }
    }
    if (!arena_locked) {
        arena_size = CRYPTO_secure_malloc_init(ARENA_MAX, ARENA_BLOCK) != 0 ? ARENA_MAX : 0;
    }
    void *inside = OPENSSL_secure_malloc(ARENA_BLOCK);
    if (inside != NULL && arena_size != 0) {
        advise_arena(inside);
    }
    OPENSSL_secure_free(inside);
}

bool memory_init(void)
{
    (void)pthread_once(&arena_once, make_arena);
    return arena_locked;
}

bool memory_low(void)
{
    /* CRYPTO_secure_used reads a lock that exists only with an arena. */
    return arena_size != 0 && CRYPTO_secure_used() > arena_size / 4 * 3;
}

static struct block *map_block(size_t size)
{
    struct block *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) {
        return NULL;
    }
    (void)mlock(block, size); /* best effort: one request may be larger than the limit */
    (void)madvise(block, size, MADV_DONTDUMP);
    (void)madvise(block, size, MADV_WIPEONFORK);
    return block;
}

bool secret_alloc(struct secret *out, size_t len)
{
    *out = (struct secret){NULL, 0};
    if (len > SIZE_MAX - sizeof(struct block)) {
        return false;
    }
    (void)memory_init();
    size_t size = len + sizeof(struct block);
    bool mapped = len > SECRET_ARENA_MAX;
    struct block *block = mapped ? map_block(size) : OPENSSL_secure_zalloc(size);
    if (block == NULL) {
        return false;
    }
    block->size = size;
    block->mapped = mapped;
    *out = (struct secret){(uint8_t *)(block + 1), len};
    return true;
}

void secret_free(struct secret *secret)
{
    if (secret->data != NULL) {
        struct block *block = (struct block *)(void *)secret->data - 1;
        size_t size = block->size;
        if (block->mapped) {
            OPENSSL_cleanse(block, size);
            (void)munmap(block, size);
        } else {
            OPENSSL_secure_clear_free(block, size);
        }
    }
    *secret = (struct secret){NULL, 0};
}

void secret_trim(struct secret *secret, size_t len)
{
    if (len < secret->len) {
        OPENSSL_cleanse(secret->data + len, secret->len - len);
        secret->len = len;
    }
}

void memory_wipe(void *data, size_t len)
{
    OPENSSL_cleanse(data, len);
}

bool memory_equal(const void *a, const void *b, size_t len)
{
    return len == 0 || CRYPTO_memcmp(a, b, len) == 0;
}
