"""The sessions of a server, apart from how they are reached: who may do what to which, and no more of them
than there are places.

The trainer may do everything. An agent's token names one session, for as long as that is open, and lets
its bearer attach to it and step; what it gets is stripped of rewards.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from turnwise.envs.env import describe
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.faults import Code, Refusal
from turnwise.envs.held import Held, Owner, Principal, Scope
from turnwise.envs.local import LocalEnvs, find_task
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.types import SPLITS, AgentView, EpisodeLimits, Task
from turnwise.envs.wire import (
    AttachRequest,
    CloseReply,
    CloseRequest,
    ConcludeReply,
    ConcludeRequest,
    EnvInfo,
    ForkReply,
    ForkRequest,
    OpenRequest,
    Reply,
    Request,
    ResetReply,
    ResetRequest,
    SessionReply,
    StepReply,
    StepRequest,
    TaskByRef,
    answer_seconds,
)
from turnwise.sandbox.contract import SandboxError

logger = logging.getLogger(__name__)


class Service:
    """The environments on offer and the sessions that are open."""

    def __init__(
        self, envs: LocalEnvs, specs: Sequence[EnvSpec], *, token: str | None, sessions: int, patience: float
    ) -> None:
        self.specs = tuple(specs)
        self.patience = patience
        """Seconds that an ``open`` waits for a free place."""
        self._envs = envs
        self._token = token
        self._places = asyncio.Semaphore(sessions)
        self._held: dict[str, Held] = {}
        self._coming: dict[str, Scope] = {}
        """Names that are being opened."""
        self._agents: dict[bytes, Held] = {}
        """The open sessions by the hashes of their agents' tokens."""

    def principal(self, token: str | None) -> Principal:
        """Who bears a token. Without tokens at all whoever can reach the server is the trainer; a wrong one
        is nobody's all the same. Raises :class:`Refusal`."""
        if token is None:
            if self._token is None:
                return Principal("trainer")
            raise Refusal(Code.UNAUTHORIZED, "this server needs a token")
        if self._token is not None and hmac.compare_digest(_bytes(token), self._token.encode()):
            return Principal("trainer")
        held = self._agents.get(_hash(token))
        if held is None:
            raise Refusal(Code.UNAUTHORIZED, "the token is not valid, or its session is closed")
        return Principal("agent", held)

    def describe(self, spec: EnvSpec) -> EnvInfo:
        """What one of the environments is like."""
        env = spec.make()
        return EnvInfo(
            name=str(spec),
            guide=describe(type(env)),
            tools=env.interface.specs,
            milestones=env.milestone_names(),
            channels=env.channels(),
            options=env.Options.model_json_schema(),
            splits={split: len(env.task_set(split)) for split in SPLITS},
        )

    async def answer(self, caller: Principal, request: Request, owner: Owner) -> Reply:
        """Carry out a request. Raises :class:`Refusal`."""
        if caller.held is not None:
            _permit(caller.held, request)
        try:
            return await self._answer(caller, request, owner)
        except EpisodeFailed as failure:
            raise Refusal(Code.EPISODE_FAILED, str(failure), end=failure.end) from failure
        except SandboxError as failure:
            raise Refusal(Code.SANDBOX, str(failure)) from failure
        except UsageError as mistake:
            raise Refusal(Code.USAGE, str(mistake)) from mistake

    async def _answer(self, caller: Principal, request: Request, owner: Owner) -> Reply:
        match request:
            case OpenRequest():
                held = await self._open(request, owner)
                return SessionReply(id=request.id, info=held.info(caller))
            case CloseRequest():
                await self.close(request.session)
                return CloseReply(id=request.id)
        held = self._find(request.session)
        seconds = answer_seconds(request, held.session.limits, self.patience)
        match request:
            case AttachRequest():
                return SessionReply(id=request.id, info=held.info(caller))
            case ForkRequest():
                twins = await self._fork(held, request, seconds, owner)
                return ForkReply(id=request.id, twins=tuple(twin.info(caller) for twin in twins))
            case ResetRequest():
                return ResetReply(id=request.id, view=await self._reset(held, seconds))
        async with held.alone(seconds) as session:
            held.check_going()
            if isinstance(request, ConcludeRequest):
                error = await session.conclude(request.end, request.error)
                assert session.end is not None
                return ConcludeReply(id=request.id, end=session.end, score=session.score, error=error)
            step = await session.step(request.action)
        held.view = step.view
        if caller.role == "agent":
            step = step.model_copy(update={"record": None})
        return StepReply(id=request.id, step=step)

    async def _reset(self, held: Held, seconds: float) -> AgentView:
        async with held.alone(seconds) as session:
            if held.view is not None or session.end is not None:
                raise Refusal(Code.WRONG_ORDER, "the session was reset before")
            held.view = await session.reset()
        return held.view

    # -- opening and closing

    async def _open(self, request: OpenRequest, owner: Owner) -> Held:
        scope = Scope(answer_seconds(request, EpisodeLimits(), self.patience))
        with self._reserve([request.session], scope, owner):
            async with scope:
                spec = self._offered(request.env)
                task = await self._task(spec, request)
                await self._wait_for_place()
            try:
                session = self._envs.session(spec, task=task)
            except BaseException:
                self._places.release()
                raise
            return self._hold(Held(request.session, spec, session, owner))

    def _offered(self, asked: EnvSpec) -> EnvSpec:
        """The environment that was asked for; one offered with options is offered with those alone."""
        for spec in self.specs:
            if spec.name == asked.name and (not spec.options or spec.make().options == asked.make().options):
                return asked
        raise unknown("environment on this server", str(asked), map(str, self.specs))

    async def _task(self, spec: EnvSpec, request: OpenRequest) -> Task:
        env, choice = spec.make(), request.task
        if not isinstance(choice, TaskByRef):
            return env.task_set(choice.split).nth(choice.seed)
        task = await find_task(env, choice.ref)
        if task.public.instruction != choice.public.instruction:
            raise UsageError(f"task {task.id!r} reads differently on the server: another version of {spec}?")
        return task.model_copy(update={"public": choice.public})

    async def _wait_for_place(self) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await self._places.acquire()
        except TimeoutError:
            raise Refusal(Code.BUSY, f"no place came free within {self.patience:g} s") from None

    async def _fork(self, held: Held, request: ForkRequest, seconds: float, owner: Owner) -> list[Held]:
        scope = Scope(seconds)
        with self._reserve(request.twins, scope, owner):
            async with held.alone(seconds) as session, scope:
                held.check_going()
                async with self._free_places(len(request.twins)):
                    sessions = await session.fork(len(request.twins))
            twins = [
                Held(name, held.spec, twin, owner) for name, twin in zip(request.twins, sessions, strict=True)
            ]
            for twin in twins:
                twin.view = held.view
                self._hold(twin)
        return twins

    @asynccontextmanager
    async def _free_places(self, count: int) -> AsyncIterator[None]:
        """Places for forks, at once or not at all: two that hold some and wait for more wait forever."""
        taken = 0
        try:
            while taken < count:
                if self._places.locked():
                    raise Refusal(Code.BUSY, f"{count} places are needed, {taken} are free")
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
        if owner.gone:
            raise Refusal(Code.CLOSED, "the connection is closed")
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

    def _hold(self, held: Held) -> Held:
        self._held[held.name] = held
        self._agents[_hash(held.agent_token)] = held
        return held

    def _find(self, name: str) -> Held:
        if name not in self._held:
            raise Refusal(Code.UNKNOWN_SESSION, f"there is no session {name!r}")
        return self._held[name]

    async def close(self, name: str) -> None:
        """Close a session, whatever it is doing. Closing twice is harmless."""
        if name in self._coming:
            await self._coming[name].call_off()
        held = self._held.pop(name, None)
        if held is None:
            return
        held.owner.names.discard(name)
        del self._agents[_hash(held.agent_token)]
        try:
            await held.close()
        finally:
            self._places.release()

    async def leave(self, owner: Owner) -> None:
        """Close what a connection opened or is opening."""
        owner.gone = True
        async with asyncio.TaskGroup() as tasks:
            for name in tuple(owner.names):
                tasks.create_task(self._abandon(name))

    async def _abandon(self, name: str) -> None:
        """Close a session; one that cannot be closed does not keep the others."""
        try:
            await self.close(name)
        except (Refusal, SandboxError, OSError):
            logger.exception("A session could not be closed")


def _permit(own: Held, request: Request) -> None:
    """Raises :class:`Refusal` for what an agent may not do."""
    if not isinstance(request, AttachRequest | StepRequest):
        raise Refusal(Code.FORBIDDEN, f"an agent may not {request.type}")
    if request.session != own.name:
        raise Refusal(Code.FORBIDDEN, "an agent has no session but its own")
    if own.closed:
        raise Refusal(Code.UNKNOWN_SESSION, "the session was closed")


def _bytes(token: str) -> bytes:
    return token.encode(errors="surrogateescape")  # as a header that is no UTF-8 was read


def _hash(token: str) -> bytes:
    return hashlib.sha256(_bytes(token)).digest()
