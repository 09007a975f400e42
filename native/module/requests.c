/* requests.h says the rules. */
#include "requests.h"

#include <string.h>

#include "macros.h"
#include "module.h"

/* Fields of fixed size, of the largest request with the largest mechanism. */
enum { REQUEST_FIXED = 160 };

/* Sends `request` and reads `response`; the views of the response live until call_end. */
#define EXCHANGE(rv, call, kind, request, response)                                       \
    do {                                                                                  \
        (rv) = CKR_WIRE(wire_put_##kind##_request(&(call).request, &(request)));          \
        (rv) = (rv) == CKR_OK ? call_run(&(call)) : (rv);                                 \
        if ((rv) == CKR_OK) {                                                             \
            (rv) = CKR_WIRE(wire_get_##kind##_response(&(call).response, &(response)));   \
        }                                                                                 \
    } while (0)

/* Of a stream, which is where the session is. */
static CK_RV begin(struct call *call, struct session *session, enum wire_op op, const struct operation *operation, size_t data)
{
    size_t room = REQUEST_FIXED + mechanism_bytes(&operation->mechanism) + data;
    return call_begin(call, session->slot, (uint16_t)op, session->id, room);
}

/* Of an operation that is whole in one request. */
static CK_RV begin_whole(struct call *call, struct session *session, enum wire_op op, const struct operation *operation,
                         const struct wire_mechanism *mechanism, size_t data)
{
    size_t room = REQUEST_FIXED + mechanism_bytes(mechanism) + data;
    return call_begin_spread(call, session, (uint16_t)op, operation, room, false);
}

static CK_RV copy_out(struct wire_bytes from, uint8_t *out, size_t *out_len)
{
    size_t room = *out_len;
    *out_len = from.len;
    CKR_REQUIRE(from.len <= room, CKR_BUFFER_TOO_SMALL);
    wire_copy(out, from);
    return CKR_OK;
}

CK_RV request_sign_begin(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data, bool more,
                         struct call *call)
{
    const struct wire_sign_request request = {operation->key, operation->mechanism, digested, data};
    size_t room = REQUEST_FIXED + mechanism_bytes(&operation->mechanism) + data.len;
    CKR_TRY(call_begin_spread(call, session, WIRE_OP_SIGN, operation, room, more));
    CKR_REQUIRE(call->link != NULL, CKR_OK);
    CK_RV rv = CKR_WIRE(wire_put_sign_request(&call->request, &request));
    if (rv != CKR_OK) {
        call_end(call, false);
        return rv;
    }
    call_submit(call);
    return CKR_OK;
}

CK_RV request_sign_end(struct call *call, uint8_t *out, size_t *out_len)
{
    struct wire_sign_response response;
    CK_RV rv = call_run(call);
    rv = rv == CKR_OK ? CKR_WIRE(wire_get_sign_response(&call->response, &response)) : rv;
    rv = rv == CKR_OK ? copy_out(response.signature, out, out_len) : rv;
    call_end(call, false);
    return rv;
}

CK_RV request_sign(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data,
                   uint8_t *out, size_t *out_len)
{
    const struct wire_sign_request request = {operation->key, operation->mechanism, digested, data};
    struct wire_sign_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_SIGN, operation, &operation->mechanism, data.len));
    call.pausable = session;
    EXCHANGE(rv, call, sign, request, response);
    rv = rv == CKR_OK ? copy_out(response.signature, out, out_len) : rv;
    call_end(&call, false);
    return rv;
}

CK_RV request_verify(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data,
                     struct wire_bytes signature)
{
    const struct wire_verify_request request = {operation->key, operation->mechanism, digested, data, signature};
    struct wire_verify_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_VERIFY, operation, &operation->mechanism, (size_t)data.len + signature.len));
    EXCHANGE(rv, call, verify, request, response);
    call_end(&call, false);
    return rv;
}

CK_RV request_sign_recover(struct session *session, const struct operation *operation, struct wire_bytes data,
                           uint8_t *out, size_t *out_len)
{
    const struct wire_sign_recover_request request = {operation->key, operation->mechanism, data};
    struct wire_sign_recover_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_SIGN_RECOVER, operation, &operation->mechanism, data.len));
    EXCHANGE(rv, call, sign_recover, request, response);
    rv = rv == CKR_OK ? copy_out(response.signature, out, out_len) : rv;
    call_end(&call, false);
    return rv;
}

CK_RV request_verify_recover(struct session *session, const struct operation *operation, struct wire_bytes signature,
                             uint8_t *out, size_t *out_len)
{
    const struct wire_verify_recover_request request = {operation->key, operation->mechanism, signature};
    struct wire_verify_recover_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_VERIFY_RECOVER, operation, &operation->mechanism, signature.len));
    EXCHANGE(rv, call, verify_recover, request, response);
    rv = rv == CKR_OK ? copy_out(response.data, out, out_len) : rv;
    call_end(&call, false);
    return rv;
}

/* The connection's buffers have seen plaintext: they are wiped. */
CK_RV request_encrypt(struct session *session, const struct operation *operation,
                      const struct wire_mechanism *mechanism, struct wire_bytes data, uint8_t *out, size_t *out_len,
                      uint8_t *iv)
{
    const struct wire_encrypt_request request = {operation->key, *mechanism, data};
    struct wire_encrypt_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_ENCRYPT, operation, mechanism, data.len));
    EXCHANGE(rv, call, encrypt, request, response);
    if (rv == CKR_OK && iv != NULL) {
        rv = response.iv.len == GCM_HSM_IV ? CKR_OK : CKR_DEVICE_ERROR;
    }
    rv = rv == CKR_OK ? copy_out(response.data, out, out_len) : rv;
    if (rv == CKR_OK && iv != NULL) {
        memcpy(iv, response.iv.data, GCM_HSM_IV);
    }
    call_end(&call, true);
    return rv;
}

CK_RV request_decrypt(struct session *session, const struct operation *operation,
                      const struct wire_mechanism *mechanism, struct wire_bytes data, uint8_t *out, size_t *out_len)
{
    const struct wire_decrypt_request request = {operation->key, *mechanism, data};
    struct wire_decrypt_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin_whole(&call, session, WIRE_OP_DECRYPT, operation, mechanism, data.len));
    EXCHANGE(rv, call, decrypt, request, response);
    rv = rv == CKR_OK ? copy_out(response.data, out, out_len) : rv;
    call_end(&call, true);
    return rv;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

/* The HSM that has the stream is gone, or has dropped it. */
static CK_RV stream_rv(CK_RV rv)
{
    return rv == CKR_OPERATION_NOT_INITIALIZED ? CKR_DEVICE_ERROR : rv;
}

CK_RV request_mac_begin(struct session *session, struct operation *operation, bool verify)
{
    const struct wire_mac_begin_request request = {operation->key, operation->mechanism, verify};
    struct wire_mac_begin_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin(&call, session, WIRE_OP_MAC_BEGIN, operation, 0));
    EXCHANGE(rv, call, mac_begin, request, response);
    if (rv == CKR_OK) {
        operation->stream = response.stream;
        rv = response.stream != 0 ? CKR_OK : CKR_DEVICE_ERROR;
    }
    call_end(&call, false);
    return rv;
}

CK_RV request_mac_update(struct session *session, const struct operation *operation, struct wire_bytes data)
{
    const struct wire_mac_update_request request = {operation->stream, data};
    struct wire_mac_update_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin(&call, session, WIRE_OP_MAC_UPDATE, operation, data.len));
    EXCHANGE(rv, call, mac_update, request, response);
    call_end(&call, false);
    return stream_rv(rv);
}

CK_RV request_mac_final(struct session *session, struct operation *operation, struct wire_bytes expected, uint8_t *out,
                        size_t *out_len)
{
    const struct wire_mac_final_request request = {operation->stream, expected};
    struct wire_mac_final_response response;
    struct call call;
    CK_RV rv;
    CKR_TRY(begin(&call, session, WIRE_OP_MAC_FINAL, operation, expected.len));
    call.pausable = out == NULL ? NULL : session; /* C_SignFinal's */
    EXCHANGE(rv, call, mac_final, request, response);
    operation->stream = 0; /* whatever the answer */
    rv = rv == CKR_OK ? copy_out(response.mac, out, out_len) : rv;
    call_end(&call, false);
    return stream_rv(rv);
}

void request_mac_cancel(struct session *session, struct operation *operation)
{
    const struct wire_mac_cancel_request request = {operation->stream};
    struct wire_mac_cancel_response response;
    struct call call;
    operation->stream = 0;
    CK_RV rv = begin(&call, session, WIRE_OP_MAC_CANCEL, operation, 0);
    if (rv == CKR_OK) {
        EXCHANGE(rv, call, mac_cancel, request, response); /* a stream that stays goes with the client */
        call_end(&call, false);
    }
}
