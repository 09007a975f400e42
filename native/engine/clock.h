/* Simulated time (DESIGN D12) as hsmsim/clock.py has it: real time, and what others say that it is ahead by. */
#ifndef HSMSIM_CLOCK_H
#define HSMSIM_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "faults.h"

struct clock {
    _Atomic(const _Atomic int64_t *) ahead; /* of all; NULL: nobody says so */
    _Atomic(const struct faults *) *faults; /* of this HSM alone */
};

/* Follows this file, from now on. */
bool clock_follow(struct clock *clock, const char *path);
time_t clock_time(const struct clock *clock);

#endif
