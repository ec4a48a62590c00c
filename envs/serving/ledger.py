"""What a caller's last requests of one session were answered, so that none is carried out twice.

Who asks again with the same id gets the reply of the first time; while the first still runs, the second
waits for it. Ids grow: one below those whose replies are no longer kept is refused, not carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from turnwise.envs.serving.faults import Code, Refusal

KEPT = 4
"""Replies kept. A session carries out one call at a time, so a client seldom waits for more than one."""


@dataclass(slots=True)
class Entry:
    """A request that was begun."""

    mark: int
    """Tells whether a request of this id is the same."""
    reply: bytes | None = None
    waiting: asyncio.Future[bytes] | None = None
    """What those wait for who asked again before there was a reply."""


class Ledger:
    """The requests of one caller and one session."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._forgotten = -1
        """The highest id whose reply is no longer kept."""

    async def once(self, number: int, mark: int, carry_out: Callable[[], Awaitable[bytes]]) -> bytes:
        """The reply to a request, which is carried out unless it was before. Raises :class:`Refusal` for an
        id that was another request's, or is older than what is kept."""
        entry = self._entries.get(number)
        if entry is not None:
            if entry.mark != mark:
                raise Refusal(Code.DUPLICATE_REQUEST, f"request {number} of this session was another one")
            return entry.reply if entry.reply is not None else await self._wait(entry)
        if number <= self._forgotten:
            raise Refusal(Code.DUPLICATE_REQUEST, f"the reply to request {number} is no longer kept")
        entry = self._entries[number] = Entry(mark)
        try:
            entry.reply = await carry_out()
        except BaseException:
            del self._entries[number]
            if entry.waiting is not None:
                entry.waiting.cancel()  # whoever waits for it ends with the server
            raise
        if entry.waiting is not None:
            entry.waiting.set_result(entry.reply)
        self._forget()
        return entry.reply

    async def _wait(self, entry: Entry) -> bytes:
        if entry.waiting is None:
            entry.waiting = asyncio.get_running_loop().create_future()
        return await asyncio.shield(entry.waiting)

    def _forget(self) -> None:
        while len(self._entries) > KEPT:
            number = next(iter(self._entries))
            if self._entries[number].reply is None:
                return
            del self._entries[number]
            self._forgotten = max(self._forgotten, number)
