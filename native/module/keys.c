/* Keys: generate, wrap, unwrap, derive. */
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"
#include "macros.h"
#include "module.h"

enum { MECHANISM_FIXED = 128 };

/* A mechanism and its encoded size, ready to be put. */
struct prepared_mechanism {
    struct wire_mechanism wire;
    struct mechanism_room room;
    size_t size;
};

static CK_RV prepare(const CK_MECHANISM *mechanism, CK_FLAGS function, struct prepared_mechanism *out)
{
    CKR_REQUIRE(mechanism != NULL, CKR_ARGUMENTS_BAD);
    CKR_TRY(mechanism_convert(mechanism, function, module_cloudhsm(), &out->room, &out->wire, NULL));
    out->size = MECHANISM_FIXED + mechanism_bytes(&out->wire);
    return CKR_OK;
}

CK_RV C_GenerateKey(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulCount,
                    CK_OBJECT_HANDLE_PTR phKey)
{
    struct session *session;
    struct call call = {0};
    struct prepared_mechanism mechanism;
    struct wire_generate_key_response response;
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phKey == NULL ? CKR_ARGUMENTS_BAD : prepare(pMechanism, CKF_GENERATE, &mechanism);
    rv = rv == CKR_OK ? attributes_room(pTemplate, ulCount, &room) : rv;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_GENERATE_KEY, session->id, mechanism.size + room) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_mechanism(&call.request, &mechanism.wire)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_generate_key_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phKey = response.key;
    }
    call_end(&call, false);
    return session_leave(session, rv);
}

CK_RV C_GenerateKeyPair(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_ATTRIBUTE_PTR pPublicKeyTemplate,
                        CK_ULONG ulPublicKeyAttributeCount, CK_ATTRIBUTE_PTR pPrivateKeyTemplate, CK_ULONG ulPrivateKeyAttributeCount,
                        CK_OBJECT_HANDLE_PTR phPublicKey, CK_OBJECT_HANDLE_PTR phPrivateKey)
{
    struct session *session;
    struct call call = {0};
    struct prepared_mechanism mechanism;
    struct wire_generate_key_pair_response response;
    size_t room[2];
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phPublicKey == NULL || phPrivateKey == NULL ? CKR_ARGUMENTS_BAD : prepare(pMechanism, CKF_GENERATE_KEY_PAIR, &mechanism);
    rv = rv == CKR_OK ? attributes_room(pPublicKeyTemplate, ulPublicKeyAttributeCount, &room[0]) : rv;
    rv = rv == CKR_OK ? attributes_room(pPrivateKeyTemplate, ulPrivateKeyAttributeCount, &room[1]) : rv;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_GENERATE_KEY_PAIR, session->id, mechanism.size + room[0] + room[1]) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_mechanism(&call.request, &mechanism.wire)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pPublicKeyTemplate, ulPublicKeyAttributeCount) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pPrivateKeyTemplate, ulPrivateKeyAttributeCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_generate_key_pair_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phPublicKey = response.public_key;
        *phPrivateKey = response.private_key;
    }
    call_end(&call, false);
    return session_leave(session, rv);
}

/* ---- wrap: how long the result is only the HSM knows, so a size query wraps, and the call that follows gets that result - */

static void forget_wrapped(struct session *session)
{
    if (session->wrapped != NULL) {
        OPENSSL_cleanse(session->wrapped, session->wrapped_len);
    }
    free(session->wrapped);
    session->wrapped = NULL;
}

static CK_RV keep_wrapped(struct session *session, struct wire_bytes wrapped, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key)
{
    session->wrapped = malloc((size_t)wrapped.len + 1);
    CKR_REQUIRE(session->wrapped != NULL, CKR_HOST_MEMORY);
    wire_copy(session->wrapped, wrapped);
    session->wrapped_len = wrapped.len;
    session->wrapped_of[0] = wrapping;
    session->wrapped_of[1] = key;
    return CKR_OK;
}

static CK_RV wrap(struct session *session, const CK_MECHANISM *in, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key)
{
    struct call call = {0};
    struct prepared_mechanism mechanism;
    struct wire_wrap_key_response response;
    CKR_TRY(prepare(in, CKF_WRAP, &mechanism));
    CK_BYTE_PTR iv_out = mechanism_iv_out(in, &mechanism.wire);
    CKR_TRY(call_begin(&call, session->slot, WIRE_OP_WRAP_KEY, session->id, mechanism.size + 16));
    CK_RV rv = CKR_WIRE(wire_put_mechanism(&call.request, &mechanism.wire));
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, wrapping)) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, key)) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_wrap_key_response(&call.response, &response)) : rv;
    if (rv == CKR_OK && iv_out != NULL) { /* without its IV a wrapped key is lost */
        rv = response.iv.len == GCM_HSM_IV ? CKR_OK : CKR_DEVICE_ERROR;
    }
    rv = rv == CKR_OK ? keep_wrapped(session, response.wrapped, wrapping, key) : rv;
    if (rv == CKR_OK && iv_out != NULL) {
        memcpy(iv_out, response.iv.data, GCM_HSM_IV);
    }
    call_end(&call, false);
    return rv;
}

static CK_RV hand_out(struct session *session, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CK_ULONG room = *out_len;
    *out_len = session->wrapped_len;
    if (out == NULL) {
        return CKR_OK;
    }
    CKR_REQUIRE(room >= session->wrapped_len, CKR_BUFFER_TOO_SMALL);
    memcpy(out, session->wrapped, session->wrapped_len);
    forget_wrapped(session);
    return CKR_OK;
}

CK_RV C_WrapKey(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hWrappingKey, CK_OBJECT_HANDLE hKey,
                CK_BYTE_PTR pWrappedKey, CK_ULONG_PTR pulWrappedKeyLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = pulWrappedKeyLen == NULL ? CKR_ARGUMENTS_BAD : CKR_OK;
    forget_wrapped(session); /* parameters and rights may be others by now: each call asks the HSM */
    rv = rv == CKR_OK ? wrap(session, pMechanism, hWrappingKey, hKey) : rv;
    rv = rv == CKR_OK ? hand_out(session, pWrappedKey, pulWrappedKeyLen) : rv;
    forget_wrapped(session);
    return session_leave(session, rv);
}

CK_RV C_UnwrapKey(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hUnwrappingKey, CK_BYTE_PTR pWrappedKey,
                  CK_ULONG ulWrappedKeyLen, CK_ATTRIBUTE_PTR pTemplate, CK_ULONG ulAttributeCount, CK_OBJECT_HANDLE_PTR phKey)
{
    enum { WRAPPED_MAX = 65536 };
    struct session *session;
    struct call call = {0};
    struct prepared_mechanism mechanism;
    struct wire_unwrap_key_response response;
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phKey == NULL || (pWrappedKey == NULL && ulWrappedKeyLen != 0) ? CKR_ARGUMENTS_BAD : CKR_OK;
    rv = rv == CKR_OK && ulWrappedKeyLen > WRAPPED_MAX ? CKR_WRAPPED_KEY_LEN_RANGE : rv;
    rv = rv == CKR_OK ? prepare(pMechanism, CKF_UNWRAP, &mechanism) : rv;
    rv = rv == CKR_OK ? attributes_room(pTemplate, ulAttributeCount, &room) : rv;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_UNWRAP_KEY, session->id, mechanism.size + 16 + ulWrappedKeyLen + room) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_mechanism(&call.request, &mechanism.wire)) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hUnwrappingKey)) : rv;
    const struct wire_bytes wrapped = wire_bytes(pWrappedKey, (uint32_t)ulWrappedKeyLen);
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_bytes(&call.request, &wrapped)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulAttributeCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_unwrap_key_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phKey = response.key;
    }
    call_end(&call, false);
    return session_leave(session, rv);
}

CK_RV C_DeriveKey(CK_SESSION_HANDLE hSession, CK_MECHANISM_PTR pMechanism, CK_OBJECT_HANDLE hBaseKey, CK_ATTRIBUTE_PTR pTemplate,
                  CK_ULONG ulAttributeCount, CK_OBJECT_HANDLE_PTR phKey)
{
    struct session *session;
    struct call call = {0};
    struct prepared_mechanism mechanism;
    struct wire_derive_key_response response;
    size_t room;
    CKR_TRY(session_enter(hSession, &session));
    CK_RV rv = phKey == NULL ? CKR_ARGUMENTS_BAD : prepare(pMechanism, CKF_DERIVE, &mechanism);
    rv = rv == CKR_OK ? attributes_room(pTemplate, ulAttributeCount, &room) : rv;
    rv = rv == CKR_OK ? call_begin(&call, session->slot, WIRE_OP_DERIVE_KEY, session->id, mechanism.size + 8 + room) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_mechanism(&call.request, &mechanism.wire)) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_put_u64(&call.request, hBaseKey)) : rv;
    rv = rv == CKR_OK ? attributes_put(&call.request, pTemplate, ulAttributeCount) : rv;
    rv = rv == CKR_OK ? call_run(&call) : rv;
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_derive_key_response(&call.response, &response)) : rv;
    if (rv == CKR_OK) {
        *phKey = response.key;
    }
    call_end(&call, false);
    return session_leave(session, rv);
}
