"""CloudTrail's event history: what every call left behind, and LookupEvents over it."""
