"""The sessions that are open, by name, and no more of them than there are places.

A session is opened for an owner and ends with it, at a bound such as its greatest age, when it is closed, or
when the server has drained. Names are taken from the moment a session is asked for, so that closing calls off
what is still coming.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.background import Background
from turnwise.envs.serving.counters import Counters
from turnwise.envs.serving.faults import Code, Fault, Refusal
from turnwise.envs.serving.journal import Branch, Forked, Journal, SessionLog
from turnwise.envs.serving.logs import About
from turnwise.envs.serving.losses import Losses
from turnwise.envs.serving.routing import Place
from turnwise.envs.serving.served_session import Owner, Scope, ServedSession
from turnwise.envs.session import Session
from turnwise.envs.types import Task
from turnwise.sandbox.contract import SandboxError

logger = logging.getLogger(__name__)

KEPT_EXPELLED = 1024
"""Sessions of which it is known why they were ended."""


class Roster:
    """Opens, finds and closes sessions."""

    def __init__(
        self,
        envs: LocalEnvs,
        background: Background,
        *,
        sessions: int,
        patience: float,
        max_age: float | None,
        journal: Journal | None,
        place: Place,
        counters: Counters,
    ) -> None:
        self.sessions, self.patience, self.place, self.counters = sessions, patience, place, counters
        self.draining = False
        """No session is opened any more."""
        self.on_close: list[Callable[[str], None]] = []
        """Called with the name of each session that is closed."""
        self.losses = Losses()
        """What dies with this worker."""
        self._envs, self._background = envs, background
        self._max_age, self._journal = max_age, journal
        self._places = asyncio.Semaphore(sessions)
        self._held: dict[str, ServedSession] = {}
        self._coming: dict[str, Scope] = {}
        """Names that are being opened."""
        self._expelled: dict[str, Fault] = {}
        """Why sessions were ended, by name; the last of them."""
        self._agents: dict[bytes, ServedSession] = {}
        """The open sessions by the hashes of their agents' tokens."""
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def held(self) -> Sequence[ServedSession]:
        """The open sessions."""
        return tuple(self._held.values())

    @property
    def full(self) -> bool:
        """Whether a session that is opened has to wait for a place."""
        return self._places.locked()

    def find(self, name: str) -> ServedSession:
        """An open session. Raises :class:`Refusal`."""
        held = self._held.get(name)
        if held is None:
            raise self.gone(name)
        return held

    def gone(self, name: str) -> Refusal:
        """What is told to who asks for a session that is not open."""
        fault = self._expelled.get(name)
        if fault is not None:
            return Refusal.of(fault)
        return Refusal(Code.UNKNOWN_SESSION, f"there is no session {name!r}")

    def knows(self, name: str) -> bool:
        """Whether a session of that name is open or being opened."""
        return name in self._held or name in self._coming

    def of_agent(self, token: str) -> ServedSession | None:
        """The open session of an agent's token."""
        return self._agents.get(_hash(token))

    # -- opening

    async def open(
        self,
        name: str,
        owner: Owner,
        seconds: float,
        find: Callable[[], Awaitable[tuple[EnvSpec, Task]]],
        instead: str | None = None,
    ) -> ServedSession:
        """Open a session of the task that is found, once a place is free, or in that of a session, which is
        closed. Raises :class:`Refusal`."""
        scope = Scope(seconds)
        with self._reserve([name], scope, owner):
            async with scope:
                spec, task = await find()
                last = None if instead is None else self.find(instead)
                if last is None:
                    await self._wait_for_place()
            try:
                session = self._envs.session(spec, task=task)
                log = None
                if self._journal is not None:
                    log = self._journal.begin(name, spec, task.ref, task.public)
            except BaseException:
                if last is None:
                    self._places.release()
                raise
            token, counters = self.place.secret(), self.counters.env(spec.name)
            held = self._hold(ServedSession(name, spec, session, owner, token, counters, log))
        if last is not None:
            await self._part_with(last)
        return held

    async def _part_with(self, held: ServedSession) -> None:
        """Close a session whose place is another's now, which is not kept by one that cannot be closed."""
        try:
            await self._end(held, Refusal(Code.CLOSED, "another session took its place"))
        except (Refusal, SandboxError, OSError):
            logger.exception("Session %s could not be closed", held.name)

    async def _wait_for_place(self) -> None:
        try:
            async with asyncio.timeout(self.patience):
                with self.counters.queued():
                    await self._places.acquire()
        except TimeoutError:
            raise Refusal(Code.BUSY, f"no place came free within {self.patience:g} s") from None

    async def fork(
        self, held: ServedSession, names: Sequence[str], owner: Owner, seconds: float
    ) -> list[ServedSession]:
        """Open sessions that go on from another's state. Raises :class:`Refusal`."""
        scope = Scope(seconds)
        with self._reserve(names, scope, owner):
            async with held.alone(seconds) as session, scope:
                held.check_going()
                async with self._free_places(len(names)):
                    sessions = await session.fork(len(names))
                    try:
                        logs = self._branch(held, names)
                    except BaseException:
                        for twin in sessions:
                            await twin.close()
                        raise
            return [
                self._hold(self._twin(held, name, session, owner, log))
                for name, session, log in zip(names, sessions, logs, strict=True)
            ]

    def _twin(
        self, held: ServedSession, name: str, session: Session, owner: Owner, log: SessionLog | None
    ) -> ServedSession:
        twin = ServedSession(name, held.spec, session, owner, self.place.secret(), held.counters, log)
        twin.view, twin.records = held.view, list(held.records)
        return twin

    def _branch(self, held: ServedSession, names: Sequence[str]) -> Sequence[SessionLog | None]:
        """The journals of forks, which begin where the parent's is now."""
        if held.log is None or self._journal is None:
            return [None] * len(names)
        held.log.write(Forked(twins=tuple(names)))
        branch, task = Branch(session=held.name, entries=held.log.entries), held.session.task
        with ExitStack() as stack:
            logs = []
            for name in names:
                logs.append(self._journal.begin(name, held.spec, task.ref, task.public, branch))
                stack.callback(logs[-1].close)
            stack.pop_all()
        return logs

    @asynccontextmanager
    async def _free_places(self, count: int) -> AsyncIterator[None]:
        """Places for forks, at once or not at all: two that hold some and wait for more wait forever."""
        taken = 0
        try:
            while taken < count:
                if self._places.locked():
                    where = " in the worker of the session" if self.place.workers > 1 else ""
                    raise Refusal(Code.BUSY, f"{count} places are needed, {taken} are free{where}")
                await self._places.acquire()
                taken += 1
            yield
        except BaseException:
            for _ in range(taken):
                self._places.release()
            raise

    @contextmanager
    def _reserve(self, names: Sequence[str], scope: Scope, owner: Owner) -> Iterator[None]:
        """Names of sessions to come, which closing one of them calls off."""
        if self.draining:
            raise stopping()
        if owner.gone:
            raise Refusal(Code.CLOSED, "the client is gone")
        taken = self._held.keys() | self._coming.keys()
        if len(set(names)) < len(names) or not taken.isdisjoint(names):
            raise Refusal(Code.DUPLICATE_SESSION, f"there is a session of that name: {', '.join(names)}")
        self._coming.update(dict.fromkeys(names, scope))
        owner.names.update(names)
        try:
            yield
        finally:
            for name in names:
                del self._coming[name]
                if name not in self._held:
                    owner.names.discard(name)

    def _hold(self, held: ServedSession) -> ServedSession:
        self._held[held.name] = held
        self._expelled.pop(held.name, None)
        self._agents[_hash(held.agent_token)] = held
        self._empty.clear()
        self.losses.now_open(len(self._held))
        held.counters.opened += 1
        with About(held.name, held.counters.name):
            logger.info("session opened")
        if self._max_age is not None:
            loop = asyncio.get_running_loop()
            held.expiry = loop.call_later(self._max_age, self._expire, held)
        return held

    # -- closing

    async def close(self, name: str, reason: Refusal | None = None) -> None:
        """Close a session. What it is doing is refused for the reason. Closing twice is harmless."""
        reason = reason or Refusal(Code.CLOSED, "its client closed it")
        if name in self._coming:
            await self._coming[name].call_off(reason)
        held = self._held.get(name)
        if held is None:
            return
        try:
            await self._end(held, reason)
        finally:
            self._places.release()
            if not self._held:
                self._empty.set()

    async def _end(self, held: ServedSession, reason: Refusal) -> None:
        """Close a session; its place stays taken."""
        del self._held[held.name]
        self.losses.now_open(len(self._held))
        held.owner.names.discard(held.name)
        del self._agents[_hash(held.agent_token)]
        with About(held.name, held.counters.name):
            try:
                await held.close(reason)
            finally:
                for tell in self.on_close:
                    tell(held.name)
                fault = reason.fault
                if fault.end is not None:
                    self.counters.failed(fault.code, fault.end, fault.message, held.name, held.counters)
                held.counters.closed[held.session.end or "none"] += 1
                said = held.session.end or reason
                logger.info("session closed after %d turns: %s", held.session.turn, said)

    async def leave(self, owner: Owner) -> None:
        """Close what an owner opened or is opening."""
        owner.gone = True
        await self._abandon(tuple(owner.names), Refusal(Code.CLOSED, "its client is gone"))

    async def drain(self, seconds: float) -> None:
        """Open nothing more, and let what is open come to its end, within that time."""
        self.draining = True
        await self._abandon(tuple(self._coming), stopping())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    async def stop(self) -> None:
        """Close all there is, and open nothing more."""
        self.draining = True
        await self._abandon((*self._coming, *self._held), stopping())

    def _expire(self, held: ServedSession) -> None:
        self.expel(held, Refusal(Code.CLOSED, f"the session reached its greatest age of {self._max_age:g} s"))

    def expel(self, held: ServedSession, reason: Refusal) -> None:
        """Close a session that went beyond a bound, if it is open yet. Who asks for it later is told why."""
        if self._held.get(held.name) is not held:
            return
        self._remember(held.name, reason)
        self._background.start(self._abandon((held.name,), reason))

    async def dismiss(self, name: str) -> bool:
        """Close a session for an operator, and say whether there was one. Who asks for it then is told so."""
        known, reason = self.knows(name), Refusal(Code.CLOSED, "the session was closed by an operator")
        if known:
            self._remember(name, reason)
        await self.close(name, reason)
        return known

    def _remember(self, name: str, reason: Refusal) -> None:
        self._expelled[name] = reason.fault
        if len(self._expelled) > KEPT_EXPELLED:
            del self._expelled[next(iter(self._expelled))]

    async def _abandon(self, names: Sequence[str], reason: Refusal) -> None:
        """Close sessions; one that cannot be closed does not keep the others."""

        async def one(name: str) -> None:
            try:
                await self.close(name, reason)
            except (Refusal, SandboxError, OSError):
                logger.exception("Session %s could not be closed", name)

        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(one(name))


def stopping() -> Refusal:
    """What is told to who wants in while the server stops."""
    return Refusal(Code.DRAINING, "the server stops and takes in nothing new")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
