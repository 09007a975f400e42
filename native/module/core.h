/* What the entry points ask the core. */
#ifndef HSMSIM_CORE_H
#define HSMSIM_CORE_H

#include <stdbool.h>

#include "pkcs11.h"

/* C_WaitForSlotEvent: looks until it finds something, once if not `block`. CKR_NO_EVENT, or CKR_CRYPTOKI_NOT_INITIALIZED
 * when C_Finalize comes meanwhile, which waits for a look that is under way. */
CK_RV core_watch(bool (*look)(CK_SLOT_ID *found), bool block, unsigned interval_ms, CK_SLOT_ID *found);

#endif
