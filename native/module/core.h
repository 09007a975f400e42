/* What the entry points ask the core. */
#ifndef HSMSIM_CORE_H
#define HSMSIM_CORE_H

#include <stdbool.h>

#include "pkcs11.h"

/* Counts waits in C_WaitForSlotEvent; C_Finalize ends them. true: go on waiting. */
bool core_wait(unsigned milliseconds);

#endif
