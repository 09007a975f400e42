"""The errors of hsmsim. A message says what failed, why, and what to do about it; each edge maps them in one place."""

from __future__ import annotations


class HsmsimError(Exception):
    """Something that hsmsim can explain. Everything it raises on purpose is one of these."""


class CkrError(HsmsimError):
    """A failure that a PKCS#11 caller sees as the CK_RV `rv`."""

    def __init__(self, rv: int, message: str = "") -> None:
        super().__init__(message or f"CK_RV 0x{rv:08X}")
        self.rv = int(rv)


class StorageError(HsmsimError):
    """The database cannot be used now: down, locked for too long, or not at the revision that this code needs."""


class AwsError(HsmsimError):
    """A failure that an AWS client sees: its code as the service's model or AWS's common errors spell it.

    `members`: members of the exception's shape beside the message.
    """

    def __init__(self, code: str, message: str, status: int = 400, **members: object) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.members = members
