/* The dual functions (2.40 5.13): one part of a message through two operations of a session. Both must be active. An
 * error ends the operation that made it; sizes are checked before either has moved, so that CKR_BUFFER_TOO_SMALL and a
 * size query change nothing. */
#include "calls.h"
#include "cipher.h"
#include "macros.h"
#include "module.h"

/* Whether the encrypted part will fit; a size query is answered here (then *done). */
static CK_RV encryption_fits(struct session *session, const CK_BYTE *part, CK_ULONG len, const CK_BYTE *out,
                             CK_ULONG_PTR out_len, bool *done)
{
    struct operation *operation;
    size_t size;
    *done = out == NULL;
    CKR_REQUIRE(out_len != NULL && (part != NULL || len == 0), CKR_ARGUMENTS_BAD);
    CKR_TRY(operation_active(session, OPERATION_ENCRYPT, &operation));
    CK_RV rv = cipher_part_size(operation, true, len, &size);
    if (rv != CKR_OK) {
        return operation_done(session, operation, *done, rv);
    }
    bool fits = *done || *out_len >= size;
    if (*done || !fits) {
        *out_len = size;
    }
    return fits ? CKR_OK : CKR_BUFFER_TOO_SMALL;
}

static CK_RV with_encryption(struct session *session, enum operation_family other, const CK_BYTE *part, CK_ULONG len,
                             CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    bool done;
    CKR_TRY(operation_active(session, other, &operation));
    CKR_TRY(encryption_fits(session, part, len, out, out_len, &done));
    if (done) {
        return CKR_OK;
    }
    /* the ciphertext may be written over the plaintext: that is digested or signed first */
    CKR_TRY(other == OPERATION_DIGEST ? call_digest_part(session, part, len)
                                      : call_signature_part(session, false, part, len));
    return call_cipher_part(session, true, part, len, out, out_len);
}

static CK_RV with_decryption(struct session *session, enum operation_family other, const CK_BYTE *part, CK_ULONG len,
                             CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    struct operation *operation;
    CKR_TRY(operation_active(session, other, &operation));
    CKR_TRY(call_cipher_part(session, false, part, len, out, out_len));
    if (out == NULL) {
        return CKR_OK;
    }
    return other == OPERATION_DIGEST ? call_digest_part(session, out, *out_len)
                                     : call_signature_part(session, true, out, *out_len);
}

CK_RV C_DigestEncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen,
                            CK_BYTE_PTR pEncryptedPart, CK_ULONG_PTR pulEncryptedPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, with_encryption(session, OPERATION_DIGEST, pPart, ulPartLen, pEncryptedPart,
                                                  pulEncryptedPartLen));
}

CK_RV C_DecryptDigestUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen,
                            CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, with_decryption(session, OPERATION_DIGEST, pEncryptedPart, ulEncryptedPartLen, pPart,
                                                  pulPartLen));
}

CK_RV C_SignEncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen,
                          CK_BYTE_PTR pEncryptedPart, CK_ULONG_PTR pulEncryptedPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, with_encryption(session, OPERATION_SIGN, pPart, ulPartLen, pEncryptedPart,
                                                  pulEncryptedPartLen));
}

CK_RV C_DecryptVerifyUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen,
                            CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
    struct session *session;
    CKR_TRY(session_enter(hSession, &session));
    return session_leave(session, with_decryption(session, OPERATION_VERIFY, pEncryptedPart, ulEncryptedPartLen, pPart,
                                                  pulPartLen));
}
