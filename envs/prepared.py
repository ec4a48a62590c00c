"""Snapshots that episodes start from: each is made once and restored for every episode of its key.

Who first asks for a key makes its snapshot, and whoever asks meanwhile waits for it. A failure is told to
all who waited and forgotten, so the next episode tries again. Snapshots stay until there are too many;
then the one that was used longest ago goes, unless somebody is just restoring it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from turnwise.sandbox.contract import MiB, Snapshot

MOST = 512
MOST_BYTES = 2048 * MiB
"""What snapshots may hold in memory altogether."""


@dataclass(slots=True)
class _Entry:
    done: asyncio.Event = field(default_factory=asyncio.Event)
    snapshot: Snapshot | None = None
    error: Exception | None = None
    users: int = 0


class Prepared:
    """Snapshots by key; ``drop`` is the backend's."""

    def __init__(
        self, drop: Callable[[Snapshot], Awaitable[None]], *, most: int = MOST, most_bytes: int = MOST_BYTES
    ) -> None:
        self._drop, self._most, self._most_bytes = drop, most, most_bytes
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def using(self, key: Hashable, make: Callable[[], Awaitable[Snapshot]]) -> AsyncIterator[Snapshot]:
        """The snapshot of a key, kept for the length of the block. Raises what ``make`` raises, which for
        one who waited may be what another's raised."""
        while (entry := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
            entry.users += 1
            try:
                await entry.done.wait()
                if entry.error is not None:
                    raise entry.error
                if entry.snapshot is not None:
                    yield entry.snapshot
                    return
            finally:
                await self._leave(entry)
        entry = self._entries[key] = _Entry(users=1)
        try:
            yield await self._made(key, entry, make)
        finally:
            await self._leave(entry)

    async def _made(self, key: Hashable, entry: _Entry, make: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
        try:
            entry.snapshot = await make()
        except BaseException as error:
            del self._entries[key]
            entry.error = error if isinstance(error, Exception) else None  # cancelled: another makes it
            raise
        finally:
            entry.done.set()
        return entry.snapshot

    async def _leave(self, entry: _Entry) -> None:
        """Use it no longer, and drop what is too much."""
        entry.users -= 1
        while (key := self._surplus()) is not None:
            snapshot = self._entries.pop(key).snapshot
            assert snapshot is not None
            await self._drop(snapshot)

    def _surplus(self) -> Hashable | None:
        """The one to be dropped next, if there is too much."""
        made = [(key, entry, entry.snapshot) for key, entry in self._entries.items() if entry.snapshot]
        if len(made) <= self._most and sum(snapshot.size for *_, snapshot in made) <= self._most_bytes:
            return None
        return next((key for key, entry, _ in made if not entry.users), None)
