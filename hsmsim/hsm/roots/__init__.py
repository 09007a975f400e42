"""The manufacturer's, AWS's and the regions' roots: `devices` is what HSMs read of them, `authority` has the keys.

The keys live in a process of their own (`process`), which the fleet alone starts and talks to over its standard
streams: ids and images' seals go in, folders of new HSMs, certificates and seals come out.
"""

from typing import Final

AWS_ROOT: Final = "AWS_CloudHSM_Root-G1.crt"
MANUFACTURER_ROOT: Final = "liquid_security_certificate.crt"
"""The roots' certificates, named as AWS's guide names the files that customers download."""
