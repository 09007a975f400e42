/* The cryptographic operations of a session, one of each family at a time (PKCS #11 2.40 5.1.1, 5.8 to 5.12).
 *
 * State: Init makes an operation READY, the first Update makes it PARTS, the end makes it NONE. It ends with every
 * answer but three: a size query (NULL output), whatever its answer is; CKR_BUFFER_TOO_SMALL; an Update that succeeds.
 * An Init that fails leaves what was there. A single-part call in state PARTS: CKR_OPERATION_ACTIVE, and it ends. A
 * logout ends the operations with keys, digests go on.
 *
 * Everything of an operation is guarded by its session's lock; nothing here is shared between sessions. */
#ifndef HSMSIM_OPERATION_H
#define HSMSIM_OPERATION_H

#include <openssl/types.h>

#include "gathered.h"
#include "mechanism.h"

struct session;

enum operation_family {
    OPERATION_DIGEST,
    OPERATION_ENCRYPT,
    OPERATION_DECRYPT,
    OPERATION_SIGN,
    OPERATION_VERIFY,
    OPERATION_SIGN_RECOVER,
    OPERATION_VERIFY_RECOVER,
    OPERATION_FAMILIES
};

enum operation_phase { OPERATION_NONE, OPERATION_READY, OPERATION_PARTS };

/* How the parts of a message reach the HSM. */
enum operation_way {
    WAY_SINGLE, /* not at all: one call with the whole message */
    WAY_DIGEST, /* digested here, the digest goes when the message ends */
    WAY_STREAM, /* a MAC: gathered here, from OPERATION_CHUNK bytes on a stream in the HSM */
    WAY_CHAIN,  /* AES-ECB, CBC, CTR: a frame for each, the chaining block is kept here */
    WAY_WHOLE,  /* gathered here, one frame at the end (GCM) */
};

enum {
    /* Longer messages of MACs and of WAY_CHAIN travel in frames of this size, which fit the limit that clients without
     * a login have too (WIRE_MAX_FRAME_OPEN); a multiple of the block. */
    OPERATION_CHUNK = 61440,
    OPERATION_PARAMETERS = 96, /* IV, counter block, short label or additional data: kept without an allocation */
    AES_BLOCK = 16,
};

struct operation {
    enum operation_phase phase;
    enum operation_way way;
    const struct mechanism_info *info;
    struct wire_mechanism mechanism; /* views into parameters */
    uint64_t key;
    unsigned login; /* slot_logins_ended when it began */
    uint32_t bits;
    bool settled; /* any HSM may be asked: key_facts */
    bool cloudhsm;
    CK_MECHANISM_TYPE hash;
    EVP_MD_CTX *digest; /* kept for the session's next operation */
    struct gathered gathered;
    uint64_t stream;           /* of the HSM; 0: none */
    CK_BYTE_PTR iv_out;        /* the caller's: gets the IV that the HSM makes */
    uint8_t chain[AES_BLOCK];  /* IV or counter block of the next frame */
    uint8_t held[AES_BLOCK];   /* input that waits for its block to fill, or for the end */
    uint8_t held_len;
    uint8_t offset;            /* CTR: bytes of the counter block that are used up */
    bool spent;                /* CTR: the counter has come round */
    uint8_t own[OPERATION_PARAMETERS];
    uint8_t *parameters;       /* own, or allocated */
};

struct operations {
    struct operation of[OPERATION_FAMILIES];
};

/* Init of every family but digests. A NULL mechanism ends the active operation (3.0 5.13). */
CK_RV operation_init(struct session *session, enum operation_family family, const CK_MECHANISM *mechanism,
                     CK_OBJECT_HANDLE key);
/* CKR_OPERATION_NOT_INITIALIZED; CKR_OPERATION_ACTIVE while a paused call has it, and for a call with a whole message after an
 * Update. */
CK_RV operation_active(struct session *session, enum operation_family family, struct operation **out);
CK_RV operation_whole(struct session *session, enum operation_family family, bool size_query, struct operation **out);
/* What an Update or a Final of WAY_SINGLE answers: AWS's code in its profile, else the one that tools take for what it
 * is (pkcs11-tool --test). */
CK_RV operation_no_parts(const struct operation *operation);
/* After the call: ends the operation unless it goes on. Returns rv. */
CK_RV operation_done(struct session *session, struct operation *operation, bool size_query, CK_RV rv);
CK_RV operation_part_done(struct session *session, struct operation *operation, bool size_query, CK_RV rv);
void operation_end(struct session *session, struct operation *operation);

/* C_CloseSession: ends all operations and frees what they kept. tell_hsm: cancel streams too (false after a fork). */
void operations_free(struct session *session, bool tell_hsm);
/* C_SessionCancel: flags CKF_SIGN and its kind; others and inactive ones are ignored. CKR_OPERATION_CANCEL_FAILED: a paused
 * call has one of them. */
CK_RV operations_cancel(struct session *session, CK_FLAGS flags);

#endif
