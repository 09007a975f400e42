/* Assertions of the native tests: the first that fails ends the program with status 1 and says where. */
#ifndef HSMSIM_TEST_CHECK_H
#define HSMSIM_TEST_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

/* Two CK_RVs or other integers; shows both. */
#define CHECK_EQ(actual, expected)                                                                                       \
    do {                                                                                                                 \
        unsigned long long check_actual_ = (unsigned long long)(actual), check_expected_ = (unsigned long long)(expected); \
        if (check_actual_ != check_expected_) {                                                                          \
            fprintf(stderr, "%s:%d: %s is 0x%llx, not 0x%llx\n", __FILE__, __LINE__, #actual, check_actual_,             \
                    check_expected_);                                                                                    \
            exit(1);                                                                                                     \
        }                                                                                                                \
    } while (0)

static inline void check_dump(const char *name, const uint8_t *data, size_t len)
{
    fprintf(stderr, "  %s (%zu):", name, len);
    for (size_t i = 0; i < len; i++) {
        fprintf(stderr, "%02x", data[i]);
    }
    fprintf(stderr, "\n");
}

#define CHECK_EQ_MEM(actual, actual_len, expected, expected_len)                                           \
    do {                                                                                                   \
        const uint8_t *check_a_ = (const uint8_t *)(actual), *check_e_ = (const uint8_t *)(expected);      \
        size_t check_a_len_ = (actual_len), check_e_len_ = (expected_len);                                 \
        if (check_a_len_ != check_e_len_ || (check_e_len_ != 0 && memcmp(check_a_, check_e_, check_e_len_) != 0)) { \
            fprintf(stderr, "%s:%d: %s differs\n", __FILE__, __LINE__, #actual);                           \
            check_dump("actual", check_a_, check_a_len_);                                                  \
            check_dump("expected", check_e_, check_e_len_);                                                \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

#endif
