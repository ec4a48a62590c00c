"""One session that a server holds: a call at a time, each within its deadline, and how it stands.

What runs in a session runs in a :class:`Scope`, a deadline that closing the session brings forward: its
sandbox goes back to the pool only when nothing uses it any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.counters import EnvCounters
from turnwise.envs.serving.faults import Code, Fault, Refusal
from turnwise.envs.serving.journal import SessionLog
from turnwise.envs.serving.listing import SessionLine
from turnwise.envs.serving.wire import GRACE_SECONDS, Role, SessionInfo
from turnwise.envs.session import Session
from turnwise.envs.types import AgentView, StepRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling."""

    role: Role
    held: ServedSession | None = None
    """The agent's session."""


@dataclass(slots=True, eq=False, kw_only=True)
class Owner:
    """Whoever opened sessions and closes them in the end: a client."""

    names: set[str] = field(default_factory=set)
    gone: bool = False
    """It can own no more."""


class Scope:
    """A stretch of work that ends at its deadline, or before where someone calls it off."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._over = False
        self._done: asyncio.Event | None = None
        """Set when it is over, for whoever calls it off."""
        self._reason: Fault | None = None

    async def call_off(self, reason: Refusal) -> None:
        """End it now. Returns when it has ended, or after a while where it does not."""
        if self._over:
            return
        self._reason, self._done = reason.fault, self._done or asyncio.Event()
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._done.wait()
        except TimeoutError:
            logger.warning("Work in a session goes on %g s after it was called off", GRACE_SECONDS)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises :class:`Refusal` where the work did not end by itself."""
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._reason is not None:
                raise Refusal.of(self._reason) from None
            raise Refusal(Code.DEADLINE, "the call took too long") from None
        finally:
            self._over = True
            if self._done is not None:
                self._done.set()


class ServedSession:
    """A session, and what its server keeps about it."""

    def __init__(
        self,
        name: str,
        spec: EnvSpec,
        session: Session,
        owner: Owner,
        agent_token: str,
        counters: EnvCounters,
        log: SessionLog | None = None,
    ) -> None:
        self.name, self.spec, self.session, self.owner, self.log = name, spec, session, owner, log
        self.agent_token, self.counters = agent_token, counters
        self.view: AgentView | None = None
        """What the agent saw last."""
        self.records: list[StepRecord] = []
        """One for each turn."""
        self.opened = self.called = time.monotonic()
        self.caller: Role = "trainer"
        """Who made the last call, at ``called``."""
        self.expiry: asyncio.TimerHandle | None = None
        """Closes it at its age."""
        self.memory: int | None = None
        """Bytes that its environment held when it was weighed last."""
        self.closed = False
        self._snapshots: dict[str, tuple[AgentView | None, tuple[StepRecord, ...]]] = {}
        self.scope: Scope | None = None
        """Of the call that runs in it."""
        self.spoiled: Refusal | None = None
        """Why nothing more can run in it."""

    def alone(self, seconds: float) -> Alone:
        """``async with`` gives the session for one call of at most so long.

        One call at a time. One that ran over its deadline was cut off in the middle, and one that could
        not be journalled must not be gone on from: either ends them all.
        """
        return Alone(self, seconds)

    def check_going(self) -> None:
        """Raises :class:`Refusal` before the reset and after the end."""
        if self.session.end is not None:
            raise Refusal(Code.ENDED, f"the episode ended ({self.session.end})")
        if self.view is None:
            raise Refusal(Code.WRONG_ORDER, "the session was not reset")

    def save(self, name: str) -> None:
        """Its session took a snapshot."""
        self._snapshots[name] = (self.view, tuple(self.records))

    def go_back(self, name: str) -> None:
        """Its session was restored."""
        self.view, records = self._snapshots[name]
        self.records = list(records)

    def call(self, caller: Principal) -> None:
        """Somebody asks something of it."""
        self.called, self.caller = time.monotonic(), caller.role

    def used_since(self, moment: float) -> bool:
        """Whether a call began after that moment, or runs."""
        return self.scope is not None or self.called > moment

    def info(self, caller: Principal) -> SessionInfo:
        """How it stands, as far as the caller may know."""
        agent, trainer = caller.role == "agent", caller.role == "trainer"
        task, view = self.session.task, self.view
        return SessionInfo(
            session=self.name,
            env=str(self.spec),
            guide=self.session.guide,
            instruction=task.public.instruction,
            limits=self.session.limits,
            turn=self.session.turn,
            end=self.session.end,
            view=view and AgentView(content=view.content, tools=self.session.env.interface.specs),
            ref=None if agent else task.ref,
            agent_token=self.agent_token if trainer else None,
        )

    def line(self, worker: int) -> SessionLine:
        """How it stands in that worker process, for an operator."""
        now, session = time.monotonic(), self.session
        state: Literal["new", "running", "waiting", "ended"] = "waiting"
        if self.scope is not None:
            state = "running"
        elif session.end is not None:
            state = "ended"
        elif self.view is None:
            state = "new"
        return SessionLine(
            session=self.name,
            env=str(self.spec),
            worker=worker,
            turn=session.turn,
            state=state,
            end=session.end,
            age=now - self.opened,
            idle=now - self.called,
            caller=self.caller,
            memory=self.memory,
        )

    async def close(self, reason: Refusal) -> None:
        """End what runs in it, which is refused for that reason, and it."""
        self.closed = True
        if self.expiry is not None:
            self.expiry.cancel()
        try:
            if self.scope is not None:
                await self.scope.call_off(reason)
            if reason.fault.end is not None and self.session.end is None:
                await self.session.conclude(reason.fault.end)
            async with Scope(GRACE_SECONDS):
                await self.session.close()
        finally:
            if self.log is not None:
                self.log.close()


class Alone:
    """See :meth:`ServedSession.alone`. A class, for it is entered at every step."""

    __slots__ = ("_held", "_scope", "_seconds")

    def __init__(self, held: ServedSession, seconds: float) -> None:
        self._held, self._seconds = held, seconds

    async def __aenter__(self) -> Session:
        held = self._held
        if held.scope is not None:
            raise Refusal(Code.RUNNING, "another call of this session is running")
        if held.spoiled is not None:
            fault = held.spoiled.fault
            raise Refusal(fault.code, f"an earlier call of this session failed: {fault.message}")
        self._scope = held.scope = Scope(self._seconds)
        await self._scope.__aenter__()
        return held.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._held
        held.scope = None
        if isinstance(error, Refusal) and error.fault.code is Code.JOURNAL:
            held.spoiled = error
        try:
            await self._scope.__aexit__(kind, error, trace)
        except Refusal as refusal:
            if refusal.fault.code is Code.DEADLINE:
                held.spoiled = refusal
            raise
