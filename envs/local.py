"""Environments of this process: opens sessions and owns the sandboxes they run in.

The sandbox backend starts when the first environment that needs one is opened, and there is one
pool per kind of sandbox, and one more for what environments do beside their episodes. A prepared sandbox
is one of the pool's that was restored to a snapshot in place. Everything ends with the ``async with`` block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Self

from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.given import check_task, check_whole
from turnwise.envs.prepared import Prepared
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.source import Preparation
from turnwise.envs.tasks import check_split
from turnwise.envs.types import SPLITS, SandboxRecord, Task, TaskRef
from turnwise.sandbox.backends import backend, load
from turnwise.sandbox.contract import Backend, Sandbox, SandboxSpec, Snapshot
from turnwise.sandbox.images import Store
from turnwise.sandbox.pool import Pool, PoolMetrics

PATIENCE = 600.0
"""Seconds a session waits for a sandbox: what the episodes before it may take."""
PREPARATION_SECONDS = 600.0
"""What preparing a sandbox may take."""


async def find_task(env: Env, ref: TaskRef) -> Task:
    """The task of a reference: first where its name says, then anywhere. Raises ``UsageError``."""
    number = ref.id.rpartition("/")[2]
    sets = [env.task_set(split) for split in SPLITS]
    if number.isdecimal() and len(number) < 10:
        likely = [tasks[int(number)] for tasks in sets if int(number) < len(tasks)]
        for task in likely:
            if task.ref == ref:
                return task
    for place, task in enumerate(chain.from_iterable(sets)):
        if task.ref == ref:
            return task
        if place % 256 == 0:  # a long search lets others go on
            await asyncio.sleep(0)
    raise UsageError(f"task {ref.id!r} (seed {ref.seed}) is in no split of {env.name}; was it changed since?")


class LocalEnvs:
    """``async with LocalEnvs() as envs, envs.open("tools/configdesk", seed=3) as env: …``"""

    def __init__(self, *, backend: str | None = None, capacity: int = 128) -> None:
        """``backend`` None is the best this machine has. Raises ``UsageError`` for an unknown one, and for a
        capacity that is none."""
        try:
            self._backend_name = None if backend is None else load(backend).name
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.capacity = check_whole("capacity", capacity, least=1)
        """Sandboxes of one kind alive at once; more sessions wait their turn."""
        self._backend: Backend | None = None
        self._pools: dict[tuple[SandboxSpec, bool], Pool] = {}
        self._homes: dict[Sandbox, Pool] = {}
        """The pools of sandboxes in use."""
        self._prepared = Prepared(self.drop)
        self._forks: set[Sandbox] = set()
        self._stack = AsyncExitStack()
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def open(
        self, env: str | EnvSpec, *, task: Task | None = None, seed: int = 0, split: str = "train"
    ) -> AsyncIterator[Session]:
        """A session of one task: the one given, or the split's task number ``seed``."""
        async with self.session(env, task=task, seed=seed, split=split) as session:
            yield session

    def session(
        self, env: str | EnvSpec, *, task: Task | None = None, seed: int = 0, split: str = "train"
    ) -> Session:
        """What :meth:`open` opens, for a caller that closes it itself. Raises ``UsageError`` for an
        environment, task, seed or split that is none."""
        instance = EnvSpec.parse(env).make()
        if task is None:
            task = instance.task_set(check_split(split)).nth(check_whole("seed", seed))
        check_task(task)
        own = Task(ref=task.ref, public=task.public, secret=task.secret)  # with a fresh stream of randomness
        return Session(instance, own, self)

    def record(self, spec: SandboxSpec | None) -> SandboxRecord | None:
        """What sandboxes of a spec ran in here; None where none did."""
        if spec is None or self._backend is None:
            return None
        record = SandboxRecord(backend=self._backend.name, network=spec.network)
        if spec.root is None:
            return record
        names = Store().names_of(spec.root)
        if names is None:
            return record.model_copy(update={"image": str(spec.root)})
        return record.model_copy(update={"image": ", ".join(names), "digest": spec.root.name})

    @property
    def pools(self) -> Sequence[PoolMetrics]:
        """How the pools of sandboxes are doing."""
        return [pool.metrics for pool in self._pools.values()]

    # -- SandboxSource

    async def acquire(self, spec: SandboxSpec, preparation: Preparation | None = None) -> Sandbox:
        """A sandbox of a kind, from its pool. Raises what the preparation raises, and ``TimeoutError`` where
        that takes too long."""
        return await self._take(await self._pool(spec), preparation)

    @asynccontextmanager
    async def lease(
        self, spec: SandboxSpec, preparation: Preparation | None = None
    ) -> AsyncIterator[Sandbox]:
        """A sandbox of a kind, from the pool beside. Raises what :meth:`acquire` raises."""
        sandbox = await self._take(await self._pool(spec, beside=True), preparation)
        try:
            yield sandbox
        finally:
            await self.release(sandbox)

    async def _take(self, pool: Pool, preparation: Preparation | None) -> Sandbox:
        sandbox = await pool.acquire(deadline=PATIENCE)
        try:
            if preparation is not None:
                await self._begin(sandbox, preparation)
        except BaseException:
            await pool.release(sandbox)
            raise
        self._homes[sandbox] = pool
        return sandbox

    async def _begin(self, sandbox: Sandbox, preparation: Preparation) -> None:
        """Bring a pristine sandbox to where a preparation leads; the first one does the work."""

        async def make() -> Snapshot:
            try:
                async with asyncio.timeout(PREPARATION_SECONDS) as clock:
                    await preparation.work(sandbox)
            except TimeoutError:
                if not clock.expired():
                    raise
                raise TimeoutError(f"the preparation took longer than {PREPARATION_SECONDS:g} s") from None
            return await sandbox.snapshot()

        async with self._prepared.using((sandbox.spec, preparation.key), make) as snapshot:
            await sandbox.restore(snapshot)

    async def fork(self, sandbox: Sandbox, count: int) -> list[Sandbox]:
        """Copies of a sandbox; each is closed when it is released."""
        await self._pool(sandbox.spec)
        assert self._backend is not None
        snapshot = await sandbox.snapshot()
        forks: list[Sandbox] = []
        try:
            for _ in range(count):
                forks.append(await self._backend.fork(snapshot))
        except BaseException:
            for fork in forks:
                await fork.close()
            raise
        finally:
            await self._backend.drop(snapshot)
        self._forks.update(forks)
        return forks

    async def release(self, sandbox: Sandbox) -> None:
        """Back to its pool, or closed if it was a fork."""
        if sandbox in self._forks:
            self._forks.discard(sandbox)
            await sandbox.close()
        else:
            await self._homes.pop(sandbox).release(sandbox)

    async def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot of one of the sandboxes."""
        assert self._backend is not None
        await self._backend.drop(snapshot)

    async def backend(self) -> Backend:
        """The backend of all these sandboxes, running."""
        async with self._starting:
            return await self._running()

    async def _running(self) -> Backend:
        if self._backend is None:
            chosen = await asyncio.to_thread(backend, self._backend_name)
            self._backend = await self._stack.enter_async_context(chosen.running())
        return self._backend

    async def _pool(self, spec: SandboxSpec, *, beside: bool = False) -> Pool:
        async with self._starting:
            kind = (spec, beside)
            if kind not in self._pools:
                pool = Pool(await self._running(), spec, size=self.capacity)
                self._pools[kind] = await self._stack.enter_async_context(pool)
            return self._pools[kind]
