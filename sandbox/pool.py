"""A pool of sandboxes of one spec: leased pristine, taken back dirty, renewed off the critical path.

An episode waits for a sandbox only when all ``size`` of them are in use, and then in fair order. What
it gives back is recycled in the background, so that the next lease is a hand-over. A sandbox that died
is never handed out: it is closed, and another takes its place.

The pool owns its sandboxes and the tasks that renew them, all children of one task; it does not own the
backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from turnwise.sandbox.contract import Backend, Sandbox, SandboxDied, SandboxError, SandboxSpec

logger = logging.getLogger(__name__)

RENEWAL_DEADLINE = 300.0
"""Seconds to create, recycle or close one sandbox; beyond them it counts as dead."""


class PoolTimeout(SandboxError):
    """No sandbox came free before the deadline: too many episodes at once, or too small a pool."""


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Sandboxes now (``in_use``, ``idle``) and since the pool was opened (the others)."""

    in_use: int
    idle: int
    created: int
    recycled: int
    died: int


class Pool:
    """At most ``size`` sandboxes of a spec; ``spares`` of them are kept ready. Use it as ``async with``."""

    def __init__(self, backend: Backend, spec: SandboxSpec, *, size: int, spares: int = 0) -> None:
        if not 0 <= spares <= size or size < 1:
            raise ValueError(f"size, spares: {size}, {spares}; needs size >= 1 and 0 <= spares <= size")
        self.backend, self.spec, self.size, self.spares = backend, spec, size, spares
        self._idle: deque[Sandbox] = deque()
        self._in_use: set[Sandbox] = set()
        self._renewing: set[Sandbox] = set()
        self._creating = 0
        self._waiters: deque[asyncio.Future[Sandbox]] = deque()
        self._created = self._recycled = self._died = 0
        self._maintainer: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def metrics(self) -> PoolMetrics:
        return PoolMetrics(len(self._in_use), len(self._idle), self._created, self._recycled, self._died)

    # -- leasing
    @contextlib.asynccontextmanager
    async def lease(self, *, deadline: float = 60.0) -> AsyncIterator[Sandbox]:
        """A pristine sandbox, for the length of a block. Raises what :meth:`acquire` does."""
        sandbox = await self.acquire(deadline=deadline)
        try:
            yield sandbox
        finally:
            await self.release(sandbox)

    async def acquire(self, *, deadline: float = 60.0) -> Sandbox:
        """A pristine sandbox, to be given back with :meth:`release`. Those who wait are served in order.

        Raises :class:`PoolTimeout` when there is none within ``deadline`` seconds, ``SandboxDied`` when
        the pool is closed, and what the backend raises when it cannot make one.
        """
        try:
            async with asyncio.timeout(deadline):
                return await self._next()
        except TimeoutError:
            raise PoolTimeout(f"all {self.size} sandboxes were in use for {deadline:g} s") from None

    async def release(self, sandbox: Sandbox) -> None:
        """Give a sandbox back, in whatever state; it is renewed in the background."""
        if self._tasks is None:
            return  # close() saw to it
        if sandbox not in self._in_use:
            raise ValueError(
                f"sandbox: {sandbox.id} was not acquired from this pool, or was given back before"
            )
        self._in_use.remove(sandbox)
        self._renewing.add(sandbox)
        self._tasks.create_task(self._renew(sandbox))

    async def _next(self) -> Sandbox:
        while self._idle:
            sandbox = self._idle.popleft()
            self._in_use.add(sandbox)
            if await self._answers(sandbox):
                self._grow()
                return sandbox
        if self._tasks is None:
            raise SandboxDied("the pool is closed")
        waiter: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._offer(waiter.result())  # it came as we were leaving
            raise

    async def _answers(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox that was idle still lives; if not, it is replaced."""
        try:
            await sandbox.stat("/workspace")
        except (SandboxError, FileNotFoundError) as error:
            self._bury(sandbox, error)
            return False
        except BaseException:
            self._offer(sandbox)
            raise
        return True

    # -- life
    async def open(self) -> None:
        """Begin to make the spares; a lease need not wait for them."""
        if self._maintainer is not None:
            raise RuntimeError("this pool was opened before")
        ready = asyncio.Event()
        self._maintainer = asyncio.create_task(self._maintain(ready), name="sandbox pool")
        await ready.wait()
        self._grow()

    async def close(self) -> None:
        """Close every sandbox, those in use too. Who still waits gets ``SandboxDied``."""
        if self._maintainer is None:
            return
        self._tasks = None
        self._maintainer.cancel()
        try:
            await asyncio.wait([self._maintainer])
        finally:
            sandboxes = [*self._idle, *self._in_use, *self._renewing]
            for group in (self._idle, self._in_use, self._renewing):
                group.clear()
            async with asyncio.TaskGroup() as tasks:
                for sandbox in sandboxes:
                    tasks.create_task(self._discard(sandbox))
        if not self._maintainer.cancelled():
            await self._maintainer  # it failed: say so

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _maintain(self, ready: asyncio.Event) -> None:
        """The parent of all background work."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                ready.set()
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(SandboxDied("the pool is closed"))
            self._waiters.clear()

    # -- background work
    def _grow(self) -> None:
        """Create what is missing for those who wait and for the spares, up to the size."""
        if self._tasks is None:
            return
        coming = len(self._idle) + len(self._renewing) + self._creating
        wanted = len(self._waiters) + self.spares - coming
        for _ in range(min(wanted, self.size - coming - len(self._in_use))):
            self._creating += 1
            self._tasks.create_task(self._create())

    async def _create(self) -> None:
        try:
            async with asyncio.timeout(RENEWAL_DEADLINE):
                sandbox = await self.backend.create(self.spec)
        except (SandboxError, OSError, ValueError) as error:
            self._creating -= 1
            self._disappoint(error)
        else:
            self._creating -= 1
            self._created += 1
            self._offer(sandbox)

    async def _renew(self, sandbox: Sandbox) -> None:
        try:
            async with asyncio.timeout(RENEWAL_DEADLINE):
                await sandbox.recycle()
        except (SandboxError, OSError) as error:
            self._bury(sandbox, error)
        else:
            self._renewing.remove(sandbox)
            self._recycled += 1
            self._offer(sandbox)

    def _offer(self, sandbox: Sandbox) -> None:
        """Hand a pristine sandbox to the first who waits, or keep it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._in_use.add(sandbox)
                waiter.set_result(sandbox)
                return
        self._in_use.discard(sandbox)
        self._idle.append(sandbox)

    def _disappoint(self, error: Exception) -> None:
        """Nothing could be created: the first who waits learns why."""
        logger.warning("A sandbox of backend %r could not be created: %s", self.backend.name, error)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                self._grow()
                return

    def _bury(self, sandbox: Sandbox, error: Exception) -> None:
        """Replace a sandbox that died."""
        if self._tasks is None:
            return  # close() discards them all
        logger.warning("Sandbox %s died: %s", sandbox.id, error)
        self._died += 1
        self._in_use.discard(sandbox)
        self._renewing.discard(sandbox)
        self._tasks.create_task(self._discard(sandbox))
        self._grow()

    async def _discard(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(SandboxError, OSError):
            async with asyncio.timeout(RENEWAL_DEADLINE):
                await sandbox.close()
