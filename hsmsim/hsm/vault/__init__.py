"""The vault: SoftHSM2 tokens that make and keep the keys, one token per partition."""
