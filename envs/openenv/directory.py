"""The sessions that OpenEnv's clients made over HTTP: named, attached to by one socket at a time, and ended
when nobody wants them any more, for their makers may be gone without a word.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from turnwise.envs.openenv.offer import Offer
from turnwise.envs.openenv.player import Player
from turnwise.envs.serving.faults import Refusal
from turnwise.envs.serving.served_session import Owner, Principal
from turnwise.envs.serving.service import Service
from turnwise.sandbox.contract import SandboxError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1800.0
"""A session that no socket is attached to ends when it was not called for so long."""
LOOK_SECONDS = 30.0


class Entry:
    """A session with what keeps it alive."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.attached = False
        self.closing = False
        """It ends when its socket lets go."""
        self.used = time.monotonic()


class Directory:
    """Sessions by their ids. Use :meth:`run` as long as it is in use."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._owner = Owner()
        self._entries: dict[str, Entry] = {}

    async def create(self, caller: Principal, offer: Offer) -> Player:
        """Open a session. Raises :class:`Refusal`."""
        player = await Player.open(self._service, caller, offer, self._owner)
        self._entries[player.id] = Entry(player)
        return player

    def find(self, name: object, offer: Offer) -> Player | None:
        """The session of that id and environment, which counts as wanted now."""
        entry = self._entry(name)
        if entry is None or entry.player.offer is not offer:
            return None
        entry.used = time.monotonic()
        return entry.player

    @asynccontextmanager
    async def attach(self, name: str, offer: Offer) -> AsyncIterator[Player]:
        """The session, for one socket. Raises ``ValueError`` where there is none or it has a socket."""
        entry = self._entry(name)
        if entry is None or entry.player.offer is not offer:
            raise ValueError(f"Unknown session_id: {name}")
        if entry.attached:
            raise ValueError(f"Session {name} already has an attached WebSocket")
        entry.attached = True
        try:
            yield entry.player
        finally:
            entry.attached, entry.used = False, time.monotonic()
            if entry.closing:
                await self._end(entry)

    async def close(self, name: object) -> bool | None:
        """Close a session, or have it closed when its socket lets go: then False. None: there is none."""
        entry = self._entry(name)
        if entry is None:
            return None
        if entry.attached:
            entry.closing = True
            return False
        await self._end(entry)
        return True

    async def run(self) -> None:
        """End what is idle, until it is cancelled; then end all."""
        try:
            while True:
                await asyncio.sleep(min(LOOK_SECONDS, IDLE_SECONDS))
                old = time.monotonic() - IDLE_SECONDS
                for entry in list(self._entries.values()):
                    if not entry.attached and entry.used < old:
                        await self._end(entry)
        finally:
            await self._service.roster.leave(self._owner)

    def _entry(self, name: object) -> Entry | None:
        return self._entries.get(name) if isinstance(name, str) else None

    async def _end(self, entry: Entry) -> None:
        self._entries.pop(entry.player.id, None)
        try:
            await entry.player.close()
        except (Refusal, SandboxError, OSError):
            logger.exception("A session could not be closed")
