"""Clients that may come back: a client's sessions outlive its connection by a lease.

A client that is welcomed gets the key of its lease. When its connection drops, it has the lease's seconds to
return with the key; then what it had open goes on as if nothing had happened, and what it asks again is
not carried out twice (see :mod:`turnwise.envs.serving.ledger`). A client that says goodbye, and one that
stays away, gives up its sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from turnwise.envs.serving.background import Background
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.ledger import Ledger
from turnwise.envs.serving.roster import Roster
from turnwise.envs.serving.served_session import Owner, Principal

AGENTS = 8
"""Clients with one agent's token: what an agent does leaves room for others."""


class Line(Protocol):
    """A client's connection."""

    def abort(self) -> None:
        """Cut it."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class Lease(Owner):
    """A client, present or away."""

    caller: Principal
    key: str = field(repr=False)
    connection: Line | None = None
    pending: int = 0
    """Its requests that are running or waiting."""
    ledgers: dict[str, Ledger] = field(default_factory=dict, repr=False)
    """By session."""
    returned: asyncio.Event = field(default_factory=asyncio.Event)

    def ledger(self, session: str) -> Ledger:
        """That of a session's requests."""
        ledger = self.ledgers.get(session)
        if ledger is None:
            ledger = self.ledgers[session] = Ledger()
        return ledger


class Leases:
    """All clients of a server."""

    def __init__(self, roster: Roster, background: Background, *, seconds: float, clients: int) -> None:
        self.seconds = seconds
        self._clients = clients
        self._roster, self._background = roster, background
        self._leases: dict[bytes, Lease] = {}
        roster.on_close.append(self._forget)

    def check_room(self, caller: Principal, key: str | None) -> None:
        """Raises :class:`Refusal` where a client would be one too many, those that are away included."""
        if key is not None and _hash(key) in self._leases:
            return
        if len(self._leases) >= self._clients:
            raise Refusal(Code.BUSY, f"there are {len(self._leases)} clients")
        same = sum(lease.caller == caller for lease in self._leases.values())
        if caller.role == "agent" and same >= AGENTS:
            raise Refusal(Code.BUSY, f"the session has {same} clients with its agent's token")

    def attach(self, caller: Principal, key: str | None, connection: Line) -> Lease:
        """The lease of a key, where there is one and it is the caller's, or else a new one."""
        lease = None if key is None else self._leases.get(_hash(key))
        if lease is None or lease.caller != caller:
            lease = Lease(caller=caller, key=self._roster.place.secret())
            self._leases[_hash(lease.key)] = lease
        before, lease.connection = lease.connection, connection
        if before is not None:
            before.abort()  # it is dead, and only this side does not know yet
        lease.returned.set()
        return lease

    def detach(self, lease: Lease, connection: Line, *, for_good: bool) -> None:
        """A connection ended. Unless another took its place, the client is away."""
        if lease.connection is not connection:
            return
        lease.connection = None
        lease.returned.clear()
        self._background.start(self._wait(lease, 0.0 if for_good else self.seconds))

    async def _wait(self, lease: Lease, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await lease.returned.wait()
        except TimeoutError:
            if lease.connection is not None:
                return  # it came at the last moment
            del self._leases[_hash(lease.key)]
            await self._roster.leave(lease)

    def _forget(self, session: str) -> None:
        """A session is closed: nothing more is answered there."""
        for lease in self._leases.values():
            lease.ledgers.pop(session, None)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
