/* signature.h says the rules. Hashed mechanisms send their digest (D4: one message per signature), raw ones the data;
 * MACs gather short messages for one frame and stream long ones. */
#include "signature.h"

#include "gathered.h"
#include "macros.h"
#include "requests.h"

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t signature_size(const struct operation *operation)
{
    return mechanism_signature_size(operation->info, &operation->mechanism, operation->bits);
}

CK_RV signature_data(const struct operation *operation, const void *data, CK_ULONG len, struct wire_bytes *out)
{
    CKR_REQUIRE(data != NULL || len == 0, CKR_ARGUMENTS_BAD);
    CKR_REQUIRE(len <= mechanism_max_data(operation->info, &operation->mechanism, operation->cloudhsm),
                CKR_DATA_LEN_RANGE);
    *out = wire_bytes(len > 0 ? data : NULL, (uint32_t)len);
    return CKR_OK;
}

static CK_RV room_for(const struct operation *operation, size_t *out_len)
{
    size_t room = *out_len;
    *out_len = signature_size(operation);
    return room < *out_len ? CKR_BUFFER_TOO_SMALL : CKR_OK;
}

static CK_RV right_length(const struct operation *operation, struct wire_bytes signature)
{
    return signature.len == signature_size(operation) ? CKR_OK : CKR_SIGNATURE_LEN_RANGE;
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

static CK_RV stream_add(struct session *session, struct operation *operation, const uint8_t *data, size_t len)
{
    while (len > 0) {
        size_t size = least(len, OPERATION_CHUNK);
        CKR_TRY(request_mac_update(session, operation, wire_bytes(data, (uint32_t)size)));
        data += size;
        len -= size;
    }
    return CKR_OK;
}

static CK_RV stream_part(struct session *session, struct operation *operation, bool verify, const uint8_t *data,
                         size_t len)
{
    struct gathered *gathered = &operation->gathered;
    if (operation->stream == 0) {
        if (len <= OPERATION_CHUNK - gathered->len) {
            return gathered_add(gathered, data, len);
        }
        CKR_TRY(request_mac_begin(session, operation, verify));
        CKR_TRY(stream_add(session, operation, gathered->data, gathered->len));
        gathered_wipe(gathered);
    }
    return stream_add(session, operation, data, len);
}

/* ---- whole messages -------------------------------------------------------------------------------------------- */

CK_RV signature_digest(struct operation *operation, struct wire_bytes data, uint8_t digest[DIGEST_MAX], struct wire_bytes *out)
{
    CKR_TRY(digest_begin(&operation->digest, operation->hash));
    CKR_TRY(digest_update(operation->digest, data.data, data.len));
    CKR_TRY(digest_end(operation->digest, digest));
    *out = wire_bytes(digest, (uint32_t)hash_size(operation->hash));
    return CKR_OK;
}

static bool too_long_for_a_frame(const struct operation *operation, struct wire_bytes data)
{
    return operation->way == WAY_STREAM && data.len > OPERATION_CHUNK;
}

CK_RV signature_make(struct session *session, struct operation *operation, struct wire_bytes data, uint8_t *out,
                     size_t *out_len)
{
    uint8_t digest[DIGEST_MAX];
    size_t room = *out_len;
    CKR_TRY(room_for(operation, out_len));
    *out_len = room;
    if (operation->hash != 0) {
        CKR_TRY(signature_digest(operation, data, digest, &data));
    } else if (too_long_for_a_frame(operation, data)) {
        CKR_TRY(stream_part(session, operation, false, data.data, data.len));
        return request_mac_final(session, operation, wire_bytes(NULL, 0), out, out_len);
    }
    CKR_REQUIRE(data.len <= WIRE_MAX_DATA, CKR_DATA_LEN_RANGE);
    return request_sign(session, operation, operation->hash != 0, data, out, out_len);
}

CK_RV signature_check(struct session *session, struct operation *operation, struct wire_bytes data,
                      struct wire_bytes signature)
{
    uint8_t digest[DIGEST_MAX];
    CKR_TRY(right_length(operation, signature));
    if (operation->hash != 0) {
        CKR_TRY(signature_digest(operation, data, digest, &data));
    } else if (too_long_for_a_frame(operation, data)) {
        size_t none = 0;
        CKR_TRY(stream_part(session, operation, true, data.data, data.len));
        return request_mac_final(session, operation, signature, NULL, &none);
    }
    CKR_REQUIRE(data.len <= WIRE_MAX_DATA, CKR_DATA_LEN_RANGE);
    return request_verify(session, operation, operation->hash != 0, data, signature);
}

/* ---- parts ----------------------------------------------------------------------------------------------------- */

static CK_RV digest_started(struct operation *operation)
{
    return operation->phase == OPERATION_READY ? digest_begin(&operation->digest, operation->hash) : CKR_OK;
}

CK_RV signature_part(struct session *session, struct operation *operation, bool verify, const uint8_t *data,
                     size_t len)
{
    switch (operation->way) {
    case WAY_DIGEST:
        CKR_TRY(digest_started(operation));
        return digest_update(operation->digest, data, len);
    case WAY_STREAM:
        return stream_part(session, operation, verify, data, len);
    case WAY_SINGLE:
    case WAY_CHAIN:
    case WAY_WHOLE:
        break;
    }
    return operation_no_parts(operation);
}

/* What to send when the message ends without a stream: the digest, or what was gathered. */
static CK_RV message_end(struct operation *operation, uint8_t digest[DIGEST_MAX], struct wire_bytes *out)
{
    switch (operation->way) {
    case WAY_DIGEST:
        CKR_TRY(digest_started(operation));
        CKR_TRY(digest_end(operation->digest, digest));
        *out = wire_bytes(digest, (uint32_t)hash_size(operation->hash));
        return CKR_OK;
    case WAY_STREAM:
        *out = wire_bytes(operation->gathered.data, (uint32_t)operation->gathered.len);
        return CKR_OK;
    case WAY_SINGLE:
    case WAY_CHAIN:
    case WAY_WHOLE:
        break;
    }
    return operation_no_parts(operation);
}

CK_RV signature_make_last(struct session *session, struct operation *operation, uint8_t *out, size_t *out_len)
{
    uint8_t digest[DIGEST_MAX];
    struct wire_bytes data;
    size_t room = *out_len;
    CKR_REQUIRE(operation->way != WAY_SINGLE, operation_no_parts(operation));
    CKR_TRY(room_for(operation, out_len));
    *out_len = room;
    if (operation->stream != 0) {
        return request_mac_final(session, operation, wire_bytes(NULL, 0), out, out_len);
    }
    CKR_TRY(message_end(operation, digest, &data));
    return request_sign(session, operation, operation->hash != 0, data, out, out_len);
}

CK_RV signature_check_last(struct session *session, struct operation *operation, struct wire_bytes signature)
{
    uint8_t digest[DIGEST_MAX];
    struct wire_bytes data;
    size_t none = 0;
    CKR_REQUIRE(operation->way != WAY_SINGLE, operation_no_parts(operation));
    CKR_TRY(right_length(operation, signature));
    if (operation->stream != 0) {
        return request_mac_final(session, operation, signature, NULL, &none);
    }
    CKR_TRY(message_end(operation, digest, &data));
    return request_verify(session, operation, operation->hash != 0, data, signature);
}
