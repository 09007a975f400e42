/* What the fuzz targets share: a cursor over the input that gives zeros when it runs dry, and checks that count as findings. */
#ifndef HSMSIM_FUZZ_H
#define HSMSIM_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define FUZZ_CHECK(condition)                                                       \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

static inline uint64_t fuzz_number(struct wire_reader *input, size_t bytes)
{
    uint64_t number = 0;
    size_t len = wire_left(input) < bytes ? wire_left(input) : bytes;
    for (size_t i = 0; i < len; i++) {
        number |= (uint64_t)input->at[i] << 8 * i;
    }
    input->at += len;
    return number;
}

static inline struct wire_bytes fuzz_bytes(struct wire_reader *input, size_t len)
{
    len = wire_left(input) < len ? wire_left(input) : len;
    struct wire_bytes out = wire_bytes(len == 0 ? NULL : input->at, (uint32_t)len);
    input->at += len;
    return out;
}

/* OpenSSL's secure heap is a mapping of its own, where LeakSanitizer does not look for pointers by itself. */
__attribute__((weak)) void __lsan_register_root_region(const void *begin, size_t size);
static inline void fuzz_scan_mapping_of(const void *inside)
{
    char line[512];
    FILE *maps = __lsan_register_root_region == NULL ? NULL : fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        uintptr_t begin, end;
        if (sscanf(line, "%lx-%lx", &begin, &end) == 2 && begin <= (uintptr_t)inside && (uintptr_t)inside < end) {
            __lsan_register_root_region((const void *)begin, end - begin);
        }
    }
    if (maps != NULL) {
        fclose(maps);
    }
}

/* An allocation of exactly this size, for AddressSanitizer to guard both ends of. */
static inline uint8_t *fuzz_copy(struct wire_bytes bytes)
{
    uint8_t *copy = malloc(bytes.len == 0 ? 1 : bytes.len);
    FUZZ_CHECK(copy != NULL);
    wire_copy(copy, bytes);
    return copy;
}

#endif
