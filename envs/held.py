"""One session that a server holds: a call at a time, each within its deadline, and how it stands.

What runs in a session runs in a :class:`Scope`, a deadline that closing the session brings forward: its
sandbox goes back to the pool only when nothing uses it any more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from turnwise.envs.faults import Code, Refusal
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.types import AgentView
from turnwise.envs.wire import GRACE_SECONDS, SessionInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: the trainer, or the agent of one session."""

    role: Literal["trainer", "agent"]
    held: Held | None = None


@dataclass(slots=True)
class Owner:
    """Whoever opened sessions and closes them in the end: a connection."""

    names: set[str] = field(default_factory=set)
    gone: bool = False
    """It can own no more."""


class Scope:
    """A stretch of work that ends at its deadline, or before where someone calls it off."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._done = asyncio.Event()
        self._called_off = False

    async def call_off(self) -> None:
        """End it now. Returns when it has ended, or after a while where it does not."""
        self._called_off = True
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
            if self._called_off:
                raise Refusal(Code.CLOSED, "the session was closed meanwhile") from None
            raise Refusal(Code.DEADLINE, "the call took too long") from None
        finally:
            self._done.set()


class Held:
    """A session, and what its server keeps about it."""

    def __init__(self, name: str, spec: EnvSpec, session: Session, owner: Owner) -> None:
        self.name, self.spec, self.session, self.owner = name, spec, session, owner
        self.agent_token = secrets.token_urlsafe(32)
        self.view: AgentView | None = None
        """What the agent saw last."""
        self.closed = False
        self._scope: Scope | None = None
        self._overran = False

    @asynccontextmanager
    async def alone(self, seconds: float) -> AsyncIterator[Session]:
        """One call at a time; what ran over its deadline was cut off in the middle and ends them all."""
        if self._scope is not None:
            raise Refusal(Code.RUNNING, "another call of this session is running")
        if self._overran:
            raise Refusal(Code.DEADLINE, "an earlier call of this session took too long")
        self._scope = Scope(seconds)
        try:
            async with self._scope:
                yield self.session
        except Refusal as refusal:
            self._overran = refusal.fault.code is Code.DEADLINE
            raise
        finally:
            self._scope = None

    def check_going(self) -> None:
        """Raises :class:`Refusal` before the reset and after the end."""
        if self.session.end is not None:
            raise Refusal(Code.ENDED, f"the episode ended ({self.session.end})")
        if self.view is None:
            raise Refusal(Code.WRONG_ORDER, "the session was not reset")

    def info(self, caller: Principal) -> SessionInfo:
        """How it stands, as far as the caller may know."""
        trainer = caller.role == "trainer"
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
            ref=task.ref if trainer else None,
            agent_token=self.agent_token if trainer else None,
        )

    async def close(self) -> None:
        """End what runs in it, and it."""
        self.closed = True
        if self._scope is not None:
            await self._scope.call_off()
        async with Scope(GRACE_SECONDS):
            await self.session.close()
