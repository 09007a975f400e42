/* The module's log: one line an event, saying what to do. Opened at C_Initialize, before privileges drop. No secret. */
#ifndef HSMSIM_LOG_H
#define HSMSIM_LOG_H

#include <stdarg.h>

#include "config.h"

enum { LEVEL_ERROR, LEVEL_WARN, LEVEL_INFO, LEVEL_DEBUG, LEVEL_TRACE };

void log_open(const struct config *config);
void log_line(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_arguments(int level, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

#endif
