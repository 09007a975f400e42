/* signer.h's calls that are Cryptoki's own, with the arguments that Python has. */
#include "signer.h"

#include <string.h>

#include "core.h"
#include "macros.h"
#include "slot.h"

unsigned long signer_start(const char *config, char *error, size_t error_len)
{
    return core_start(config, error, error_len);
}

unsigned long signer_finish(void)
{
    return C_Finalize(NULL);
}

unsigned long signer_slot(const char *token, unsigned long *slot)
{
    CKR_TRY(module_ready());
    for (unsigned i = 0; i < slots.count; i++) {
        if (token == NULL || strcmp(slots.all[i]->config->label, token) == 0) {
            *slot = slots.all[i]->id;
            return CKR_OK;
        }
    }
    return CKR_TOKEN_NOT_PRESENT;
}

unsigned long signer_open(unsigned long slot, unsigned long *session)
{
    return C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
}

unsigned long signer_login(unsigned long session, const uint8_t *pin, size_t len)
{
    return C_Login(session, CKU_USER, (CK_UTF8CHAR_PTR)(uintptr_t)pin, len);
}

unsigned long signer_find(unsigned long session, const uint8_t *label, size_t label_len, const uint8_t *id, size_t id_len,
                          unsigned long *handles, size_t *count)
{
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template[3] = {{CKA_SIGN, &yes, sizeof yes}};
    CK_ULONG rows = 1;
    if (label != NULL) {
        template[rows++] = (CK_ATTRIBUTE){CKA_LABEL, (void *)(uintptr_t)label, label_len};
    }
    if (id != NULL) {
        template[rows++] = (CK_ATTRIBUTE){CKA_ID, (void *)(uintptr_t)id, id_len};
    }
    CK_ULONG found = 0;
    CKR_TRY(C_FindObjectsInit(session, template, rows));
    CK_RV rv = C_FindObjects(session, handles, *count, &found);
    CK_RV last = C_FindObjectsFinal(session);
    *count = found;
    return rv != CKR_OK ? rv : last;
}

unsigned long signer_key_type(unsigned long session, unsigned long key, unsigned long *type)
{
    CK_ATTRIBUTE row = {CKA_KEY_TYPE, type, sizeof *type};
    return C_GetAttributeValue(session, key, &row, 1);
}
