/* What the engine does itself in SoftHSM2, so that PINs and the masking key never pass through Python. */
#ifndef HSMSIM_VAULT_H
#define HSMSIM_VAULT_H

#include "crypto.h"

struct vault;
struct vault *vault_new(struct masking *masking);
uint64_t vault_bind(struct vault *vault, const char *library_path);
uint64_t vault_init_token(struct vault *vault, uint64_t slot, uint64_t partition, const uint8_t label[32]);
uint64_t vault_unlock(struct vault *vault, uint64_t slot, uint64_t partition, uint64_t *masking);

#endif
