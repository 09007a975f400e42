/* Masked material, for the engine's cryptographic files: AES-256-KWP (RFC 5649) under the masking key. */
#ifndef HSMSIM_MASKING_H
#define HSMSIM_MASKING_H

#include "crypto.h"

/* CKR_DEVICE_ERROR: no masking key yet. */
uint64_t mask(const struct masking *masking, const uint8_t *data, size_t data_len, uint8_t *out, size_t *len);
/* CKR_DEVICE_ERROR too: damaged, or another cluster's. */
uint64_t unmask(const struct masking *masking, const uint8_t *masked, size_t masked_len, struct secret *out);

#endif
