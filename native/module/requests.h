/* The hot requests of an operation, each one round trip: written into the connection's buffer, the answer copied from
 * it. Outputs: *out_len is the room on entry and the length on return; CKR_BUFFER_TOO_SMALL sets it too. A response
 * that does not parse: CKR_DEVICE_ERROR. */
#ifndef HSMSIM_REQUESTS_H
#define HSMSIM_REQUESTS_H

#include "module.h"
#include "operation.h"

CK_RV request_sign(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data,
                   uint8_t *out, size_t *out_len);
/* In two halves, for who keeps several under way (module.h). `more`: the caller holds others; call->link is
 * NULL, and no end is to follow, where there is no connection for this one or with an error. */
CK_RV request_sign_begin(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data, bool more,
                         struct call *call);
CK_RV request_sign_end(struct call *call, uint8_t *out, size_t *out_len);
CK_RV request_verify(struct session *session, const struct operation *operation, bool digested, struct wire_bytes data,
                     struct wire_bytes signature);
CK_RV request_sign_recover(struct session *session, const struct operation *operation, struct wire_bytes data,
                           uint8_t *out, size_t *out_len);
CK_RV request_verify_recover(struct session *session, const struct operation *operation, struct wire_bytes signature,
                             uint8_t *out, size_t *out_len);

/* `mechanism` stands in for the operation's own: its chaining block changes from frame to frame. iv: what the HSM made,
 * GCM_HSM_IV bytes; NULL if the caller chose the IV. */
CK_RV request_encrypt(struct session *session, const struct operation *operation,
                      const struct wire_mechanism *mechanism, struct wire_bytes data, uint8_t *out, size_t *out_len,
                      uint8_t *iv);
CK_RV request_decrypt(struct session *session, const struct operation *operation,
                      const struct wire_mechanism *mechanism, struct wire_bytes data, uint8_t *out, size_t *out_len);

/* MAC streams. After a failover the new HSM does not know the stream: CKR_DEVICE_ERROR. */
CK_RV request_mac_begin(struct session *session, struct operation *operation, bool verify);
CK_RV request_mac_update(struct session *session, const struct operation *operation, struct wire_bytes data);
CK_RV request_mac_final(struct session *session, struct operation *operation, struct wire_bytes expected, uint8_t *out,
                        size_t *out_len);
void request_mac_cancel(struct session *session, struct operation *operation);

#endif
