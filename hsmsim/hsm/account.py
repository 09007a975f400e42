"""A process that was started by root and goes on as another user."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger("hsmsim")


def become(user: str) -> None:
    """Give up root for good. Memory may be locked without limit from here on, where root may say so."""
    entry = pwd.getpwnam(user)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        _LOG.info("Root here may not raise RLIMIT_MEMLOCK.")  # a container without CAP_SYS_RESOURCE
    os.setgroups([group.gr_gid for group in grp.getgrall() if user in group.gr_mem])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


@contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Be another user for a while: files that are made belong to that one from the first moment."""
    entry, group, own = pwd.getpwnam(user), os.getegid(), os.geteuid()
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(own)
        os.setegid(group)
