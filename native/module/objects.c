/* Objects: created, copied, destroyed, read, changed, found. Every decision is the HSM's. */
#include <stdlib.h>
#include <string.h>

#include "attributes.h"
#include "macros.h"
#include "module.h"

CK_RV C_CreateObject(CK_SESSION_HANDLE hSession, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount, CK_OBJECT_HANDLE_PTR phObject)
{
    struct session *session;
    struct call call = {0};
    struct wire_create_object_response response;
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phObject == NULL ? CKR_ARGUMENTS_BAD : attributes_room(pTemplate, ulCount, &room);
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_CREATE_OBJECT, session->id, room) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_create_object_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phObject = response.object;
    }
    call_end(&call, true);
    return session_leave(session, rv);
}

CK_RV C_CopyObject(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount,
                   CK_OBJECT_HANDLE_PTR phNewObject)
{
    struct session *session;
    struct call call = {0};
    struct wire_copy_object_response response;
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phNewObject == NULL ? CKR_ARGUMENTS_BAD : attributes_room(pTemplate, ulCount, &room);
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_COPY_OBJECT, session->id, 8 + room) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hObject)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_copy_object_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phNewObject = response.object;
    }
    call_end(&call, true);
    return session_leave(session, rv);
}

CK_RV C_DestroyObject(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject)
{
    struct session *session;
    struct call call = {0};
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = call_begin(&call, session->slot, WIRE_OP_DESTROY_OBJECT, session->id, 8);
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hObject)) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    call_end(&call, false);
    return session_leave(session, rv);
}

CK_RV C_GetObjectSize(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ULONG_PTR pulSize)
{
    struct session *session;
    struct call call = {0};
    struct wire_object_size_response response;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = pulSize == NULL ? CKR_ARGUMENTS_BAD : call_begin(&call, session->slot, WIRE_OP_OBJECT_SIZE, session->id, 8);
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hObject)) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_object_size_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *pulSize = response.size;
    }
    call_end(&call, false);
    return session_leave(session, rv);
}

static CK_RV put_types(struct wire_writer *writer, CK_OBJECT_HANDLE object, const CK_ATTRIBUTE *template, CK_ULONG count)
{
    CKR_TRY(CKR_WIRE(wire_put_u64(writer, object)));
    CKR_TRY(CKR_WIRE(wire_put_u32(writer, (uint32_t)count)));
    for (CK_ULONG i = 0; i < count; i++) {
        CKR_TRY(CKR_WIRE(wire_put_u64(writer, template[i].type)));
    }
    return CKR_OK;
}

static CK_RV fill(struct call *call, CK_ATTRIBUTE *template, CK_ULONG count, CK_RV rv)
{
    struct wire_get_attributes_response response;
    CKR_REQUIRE(rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID, rv);
    CKR_REQUIRE(wire_get_get_attributes_response(&call->response, &response) == WIRE_OK, CKR_DEVICE_ERROR);
    return attributes_fill(&response.template, template, count, rv);
}

CK_RV C_GetAttributeValue(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount)
{
    struct session *session;
    struct call call = {0};
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = pTemplate == NULL || ulCount == 0 || ulCount > WIRE_MAX_TEMPLATE ? CKR_ARGUMENTS_BAD : CKR_OK;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_GET_ATTRIBUTES, session->id, 16 + ulCount * 8) : rv;
    rv = rv == CKR_OK ? put_types(&call.request, hObject, pTemplate, ulCount) : rv;
    if (rv == CKR_OK) {
        rv = fill(&call, pTemplate, ulCount, call_run(&call));
    }
    call_end(&call, true);
    return session_leave(session, rv);
}

CK_RV C_SetAttributeValue(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE hObject, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount)
{
    struct session *session;
    struct call call = {0};
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = pTemplate == NULL || ulCount == 0 ? CKR_ARGUMENTS_BAD : attributes_room(pTemplate, ulCount, &room);
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_SET_ATTRIBUTES, session->id, 8 + room) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hObject)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    call_end(&call, true);
    return session_leave(session, rv);
}

/* ---- find: one frame brings all handles ------------------------------------------------------------------------------- */

static CK_RV keep_found(struct session *session, struct call *call)
{
    struct wire_find_response response;
    CKR_TRY(CKR_WIRE(wire_get_find_response(&call->response, &response)));
    uint64_t *found = malloc(((size_t)response.objects.count + 1) * sizeof *found);
    CKR_REQUIRE(found != NULL, CKR_HOST_MEMORY);
    for (uint32_t i = 0; i < response.objects.count; i++) {
        found[i] = wire_list_at(&response.objects, i);
    }
    free(session->found);
    session->found = found;
    session->found_count = response.objects.count;
    session->found_at = 0;
    session->finding = true;
    return CKR_OK;
}

CK_RV C_FindObjectsInit(CK_SESSION_HANDLE hSession, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount)
{
    struct session *session;
    struct call call = {0};
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = session->finding ? CKR_OPERATION_ACTIVE : attributes_room(pTemplate, ulCount, &room);
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_FIND, session->id, room) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? keep_found(session, &call) : rv;
    call_end(&call, false);
    return session_leave(session, rv);
}

CK_RV C_FindObjects(CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE_PTR phObject, CK_ULONG ulMaxObjectCount, CK_ULONG_PTR pulObjectCount)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    if ((phObject == NULL && ulMaxObjectCount != 0) || pulObjectCount == NULL) {
        return session_leave(session, CKR_ARGUMENTS_BAD);
    }
    if (!session->finding) {
        return session_leave(session, CKR_OPERATION_NOT_INITIALIZED);
    }
    CK_ULONG left = session->found_count - session->found_at, count = left < ulMaxObjectCount ? left : ulMaxObjectCount;
    for (CK_ULONG i = 0; i < count; i++) {
        phObject[i] = session->found[session->found_at++];
    }
    *pulObjectCount = count;
    return session_leave(session, CKR_OK);
}

CK_RV C_FindObjectsFinal(CK_SESSION_HANDLE hSession)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = session->finding ? CKR_OK : CKR_OPERATION_NOT_INITIALIZED;
    session->finding = false;
    free(session->found);
    session->found = NULL;
    return session_leave(session, rv);
}
