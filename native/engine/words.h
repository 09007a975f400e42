/* Numbers in a small file that other processes write and this one maps (hsmsim/words.py). */
#ifndef HSMSIM_WORDS_H
#define HSMSIM_WORDS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Maps a file of `count` words, for life. NULL: it is not there, or not what it should be. */
const _Atomic int64_t *words_map(const char *path, size_t count);

#endif
