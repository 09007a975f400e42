/* Faults that a person asked for: words in a file that others write and this process maps (hsmsim/faults.py). */
#ifndef HSMSIM_FAULTS_H
#define HSMSIM_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct faults;

/* Maps the file, for life. NULL: it is not there, or not what it should be. */
const struct faults *faults_map(const char *path);
/* Seconds by which this HSM's clock is ahead of the others'. */
int64_t faults_clock_s(const struct faults *faults);
/* Waits if requests are to be slow; true: this one is lost on its way. NULL has no faults. */
bool faults_strike(const struct faults *faults, uint16_t op, const uint8_t *payload, size_t len);

#endif
