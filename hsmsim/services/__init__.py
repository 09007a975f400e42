"""The AWS services, a package each. They do not import each other; `kernel` is what they share (DESIGN D9, D10)."""
