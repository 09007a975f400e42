/* Encryption and decryption, whole and in parts; encrypt.c and decrypt.c are their entry points.
 *
 * Lengths: *out_len is the room on entry, the length on return. Size functions never talk to the HSM. Input and output
 * may be the same memory (PKCS #11 2.40 5.8): no byte of input is read after its place in the output was written. */
#ifndef HSMSIM_CIPHER_H
#define HSMSIM_CIPHER_H

#include "operation.h"

/* The bytes that `len` bytes of input give; exact but for RSA and CBC_PAD decryption, where it is the most. */
CK_RV cipher_size(const struct operation *operation, bool encrypt, size_t len, size_t *size);
CK_RV cipher_whole(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in, size_t len,
                   uint8_t *out, size_t *out_len);

/* What C_EncryptUpdate gives for a part: exact. operation_no_parts if the mechanism takes none. */
CK_RV cipher_part_size(const struct operation *operation, bool encrypt, size_t len, size_t *size);
CK_RV cipher_part(struct session *session, struct operation *operation, bool encrypt, const uint8_t *in, size_t len,
                  uint8_t *out, size_t *out_len);
CK_RV cipher_last_size(const struct operation *operation, bool encrypt, size_t *size);
CK_RV cipher_last(struct session *session, struct operation *operation, bool encrypt, uint8_t *out, size_t *out_len);

#endif
