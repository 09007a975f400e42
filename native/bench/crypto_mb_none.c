/* Where crypto_mb is not built in. */
#include "signbench.h"

bool open_crypto_mb(const struct kind *kind, struct signer *signer)
{
    (void)kind;
    (void)signer;
    return fail("--crypto-mb: this build has no crypto_mb", 0);
}
