/* OpenSSL's asynchronous jobs (DESIGN D5): a call that waits for the HSM inside a job pauses it, so that its thread goes on with
 * others. OpenSSL is found in the process that has jobs; without it, or outside of a job, calls wait as they always do.
 *
 * A job's owner learns by a descriptor that it is to be resumed: an epoll set, made once for each ASYNC_WAIT_CTX and closed with
 * it, in which the link's socket and a timer are while a call is paused. No lock is held over a pause; the session is marked `away`.
 * A wait context that ends while its job is paused takes the job's link and session with it. */
#ifndef HSMSIM_ASYNC_H
#define HSMSIM_ASYNC_H

#include "slot.h"

struct pause {
    unsigned place, serial;
    bool shown; /* the owner has the descriptor */
};

/* As many places as there are links for: a caller whose sessions do not run out, as libp11's do, may have all of them. */
void async_allow_all(void);

/* Takes one of the places of a process, of which there are 14. false: no job, no place, no session to let go of, or `async` is off: wait as usual. */
bool pause_begin(struct pause *pause, struct session *session, struct link *link);
/* Pauses until `there`, at least once if the owner is shown a new descriptor. LINK_LOST: the time is up or the HSM is gone.
 * LINK_DEAD: see slot.h; the pause has ended. patience: ms. */
enum link_result pause_until(struct pause *pause, bool (*there)(struct link *link), unsigned patience);
void pause_end(struct pause *pause);

/* C_Finalize, or a forked child: who is paused finds nothing of ours again. */
void async_forget(bool forked);

#endif
