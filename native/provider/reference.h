/* The DER in the reference PEM (ADR 11): SEQUENCE { VisibleString description, UTF8String URI } and nothing after it. */
#ifndef HSMSIM_REFERENCE_H
#define HSMSIM_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>

/* `name`: the URI, a part of `der`. false: something else. */
bool reference_parse(const unsigned char *der, size_t size, const char **name, size_t *name_len);

#endif
