"""Who a command runs as: the agent, or another user whom only the sandbox's owner can name.

The agent is root of its files and has no capability. The owner may run a command as any user of the
sandbox's ``/etc/passwd``, and as a root that has those over users and their files: enough to add a user, to
give a file away or to read what another closed. They count in the sandbox's user namespace alone, so they
reach nothing but its own ids. Names are looked up without the C library, whose name services the agent's
files could be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from turnwise.sandbox.namespaces import syscalls

AGENT_ID = 0
RESIDENT_ID = 65000
"""The resident's uid inside, where there is more than one; nobody else's."""
ROOT_CAPABILITIES = frozenset(
    {
        syscalls.CAP_CHOWN,
        syscalls.CAP_DAC_OVERRIDE,
        syscalls.CAP_FOWNER,
        syscalls.CAP_FSETID,
        syscalls.CAP_KILL,
        syscalls.CAP_SETGID,
        syscalls.CAP_SETUID,
    }
)
_MOST = 1 << 20
"""Bytes that are read of a file which the agent may have written."""


class Account(NamedTuple):
    uid: int
    gid: int
    home: str | None = None
    """None leaves the variable as it is."""
    groups: tuple[int, ...] = ()
    capabilities: frozenset[int] = frozenset()


def find(user: str) -> Account:
    """The account of a name, or of a number that may have none. Raises ``LookupError``."""
    account = _account(user)
    if account.uid == RESIDENT_ID:
        raise LookupError(f"user {user!r}: {RESIDENT_ID} is the sandbox's own id")
    if user in ("root", "0"):  # not whom the agent made one
        return account._replace(capabilities=ROOT_CAPABILITIES)
    return account


def _account(user: str) -> Account:
    for name, _, uid, gid, _, home, *_ in _entries("/etc/passwd", 7):
        if user in (name, uid):
            return Account(int(uid), int(gid), home or "/", tuple(_groups(name)))
    if user.isdecimal() and int(user) < 1 << 16:
        return Account(int(user), 0, "/")
    raise LookupError(
        f"user {user!r} is neither in this sandbox's /etc/passwd nor a number below {1 << 16:,}"
    )


def _groups(name: str) -> Iterator[int]:
    for _, _, number, names, *_ in _entries("/etc/group", 4):
        if name in names.split(","):
            yield int(number)


def _entries(path: str, fields: int) -> Iterator[list[str]]:
    with open(path, errors="surrogateescape") as file:
        for line in file.read(_MOST).splitlines():
            entry = line.split(":")
            if len(entry) >= fields and entry[2].isdecimal():
                yield entry
