/* What the entry points ask the core. */
#ifndef HSMSIM_CORE_H
#define HSMSIM_CORE_H

#include <stdbool.h>

#include "pkcs11.h"

/* C_Initialize with another configuration than the environment's: the file at `path`, read anew; NULL: what C_Initialize reads, once.
 * A refusal of the file is a sentence in `error`. CKR_CRYPTOKI_ALREADY_INITIALIZED. */
CK_RV core_start(const char *path, char *error, size_t error_len);

/* C_WaitForSlotEvent: looks until it finds something, once if not `block`. CKR_NO_EVENT, or CKR_CRYPTOKI_NOT_INITIALIZED
 * when C_Finalize comes meanwhile, which waits for a look that is under way. */
CK_RV core_watch(bool (*look)(CK_SLOT_ID *found), bool block, unsigned interval_ms, CK_SLOT_ID *found);

#endif
