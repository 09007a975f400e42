/* The function lists. Each entry checks first whether the library is initialised (in this process), and whether the
 * profile has the function; C_GetFunctionList, C_GetInterfaceList and C_GetInterface are all that the library exports. */
#define CRYPTOKI_EXPORTS /* only the version script decides what is seen; see exports.map */
#include <stddef.h>
#include <string.h>

#include "macros.h"
#include "module.h"

/* The message-based functions of 3.0 are refused; so are they in the mechanisms' flags. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define MESSAGE_FUNCTION(name, parameters, arguments, in_cloudhsm) \
    CK_RV name parameters                                          \
    {                                                              \
        return CKR_FUNCTION_NOT_SUPPORTED;                         \
    }
CRYPTOKI_MESSAGE_FUNCTIONS(MESSAGE_FUNCTION)
#pragma GCC diagnostic pop

static CK_RV gate(bool in_cloudhsm)
{
    CKR_TRY(module_ready());
    return module_cloudhsm() && !in_cloudhsm ? CKR_FUNCTION_NOT_SUPPORTED : CKR_OK;
}

/* These work before C_Initialize, or check for themselves. */
static bool ungated(const char *name)
{
    static const char *const names[] = {"C_Initialize", "C_Finalize", "C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

#define ENTRY(name, parameters, arguments, in_cloudhsm)                 \
    static CK_RV entry_##name parameters                                \
    {                                                                   \
        if (!ungated(#name)) { /* constant: the compiler removes it */  \
            CKR_TRY(gate(in_cloudhsm));                                 \
        }                                                               \
        return name arguments;                                          \
    }
CRYPTOKI_FUNCTIONS_2_40(ENTRY)
CRYPTOKI_FUNCTIONS_3_0(ENTRY)

#define MEMBER(name, parameters, arguments, in_cloudhsm) .name = entry_##name,
static CK_FUNCTION_LIST list_2_40 = {.version = {2, 40}, CRYPTOKI_FUNCTIONS_2_40(MEMBER)};
static CK_FUNCTION_LIST_3_0 list_3_0 = {.version = {3, 0}, CRYPTOKI_FUNCTIONS_2_40(MEMBER) CRYPTOKI_FUNCTIONS_3_0(MEMBER)};

static char interface_name[] = "PKCS 11";
/* Not CKF_INTERFACE_FORK_SAFE: "each process will get its own copy of all session objects, session states, login states"
 * (3.0 3.6). A child of ours starts anew (core.c). */
static CK_INTERFACE interfaces[] = {
    {(CK_CHAR *)interface_name, &list_3_0, 0},
    {(CK_CHAR *)interface_name, &list_2_40, 0},
};
enum { INTERFACES = sizeof interfaces / sizeof *interfaces };

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR ppFunctionList)
{
    CKR_REQUIRE(ppFunctionList != NULL, CKR_ARGUMENTS_BAD);
    *ppFunctionList = &list_2_40;
    return CKR_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE_PTR pInterfacesList, CK_ULONG_PTR pulCount)
{
    CKR_REQUIRE(pulCount != NULL, CKR_ARGUMENTS_BAD);
    CK_ULONG room = *pulCount;
    *pulCount = INTERFACES;
    if (pInterfacesList == NULL) {
        return CKR_OK;
    }
    CKR_REQUIRE(room >= INTERFACES, CKR_BUFFER_TOO_SMALL);
    memcpy(pInterfacesList, interfaces, sizeof interfaces);
    return CKR_OK;
}

static bool answers(const CK_INTERFACE *interface, const CK_UTF8CHAR *name, const CK_VERSION *version, CK_FLAGS flags)
{
    const CK_VERSION *own = interface->pFunctionList; /* the lists begin with it */
    return (name == NULL || strcmp((const char *)name, (const char *)interface->pInterfaceName) == 0) &&
           (version == NULL || (own->major == version->major && own->minor == version->minor)) && (interface->flags & flags) == flags;
}

CK_RV C_GetInterface(CK_UTF8CHAR_PTR pInterfaceName, CK_VERSION_PTR pVersion, CK_INTERFACE_PTR_PTR ppInterface, CK_FLAGS flags)
{
    CKR_REQUIRE(ppInterface != NULL, CKR_ARGUMENTS_BAD);
    for (size_t i = 0; i < INTERFACES; i++) {
        if (answers(&interfaces[i], pInterfaceName, pVersion, flags)) {
            *ppInterface = &interfaces[i];
            return CKR_OK;
        }
    }
    return CKR_FUNCTION_FAILED;
}
