"""What a server does for its callers, apart from how they reach it: who may do what, and how it is answered.

The trainer may do everything; the others what :mod:`turnwise.envs.serving.tokens` says. What an agent gets is
stripped of rewards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from turnwise.envs.env import describe
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.local import find_task
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.journal import Concluded, Restored, Snapped, WasReset, stepped, view_hash
from turnwise.envs.serving.listing import EnvInfo
from turnwise.envs.serving.logs import About
from turnwise.envs.serving.roster import Roster
from turnwise.envs.serving.served_session import Owner, Principal, ServedSession
from turnwise.envs.serving.tokens import MAY, Tokens
from turnwise.envs.serving.wire import (
    CloseReply,
    ConcludeReply,
    ConcludeRequest,
    ForkReply,
    OpenRequest,
    RecordsReply,
    Reply,
    Request,
    ResetReply,
    ResetRequest,
    RestoreReply,
    RestoreRequest,
    SessionReply,
    SnapshotReply,
    SnapshotRequest,
    StepReply,
    StepRequest,
    TaskByRef,
    TaskChoice,
    answer_seconds,
)
from turnwise.envs.session import FAILURES, EpisodeFailed, Session
from turnwise.envs.types import SPLITS, EpisodeLimits, Task
from turnwise.sandbox.contract import SandboxError

logger = logging.getLogger(__name__)


class Service:
    """The environments on offer and the sessions that are open."""

    def __init__(self, roster: Roster, specs: Sequence[EnvSpec], tokens: Tokens) -> None:
        self.roster, self.specs = roster, tuple(specs)
        self.counters = roster.counters
        self._tokens = tokens

    def principal(self, token: str | None) -> Principal:
        """Who bears a token. Without tokens at all whoever can reach the server is the trainer; a wrong one
        is nobody's all the same. Raises :class:`Refusal`."""
        if token is None:
            if not self._tokens.roles:
                return Principal("trainer")
            raise Refusal(Code.UNAUTHORIZED, "this server needs a token")
        role = self._tokens.role(token)
        if role is not None:
            return Principal(role)
        held = self.roster.of_agent(token)
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
        """Carry out a request, and count it. Raises :class:`Refusal`."""
        with About(request.session, request=request.id) as subject:
            try:
                reply = await self._classified(caller, request, owner, subject)
            except Refusal as refusal:
                env = None if subject.env is None else self.counters.env(subject.env)
                self.counters.refused(request.type, refusal.fault, request.session, env)
                raise
            self.counters.answered(request.type)
            return reply

    async def _classified(self, caller: Principal, request: Request, owner: Owner, subject: About) -> Reply:
        try:
            self._permit(caller, request)
            return await self._answer(caller, request, owner, subject)
        except Refusal:
            raise
        except EpisodeFailed as failure:
            raise Refusal(Code.EPISODE_FAILED, str(failure), end=failure.end) from failure
        except SandboxError as failure:
            raise Refusal(Code.SANDBOX, str(failure)) from failure
        except UsageError as mistake:
            raise Refusal(Code.USAGE, str(mistake)) from mistake
        except FAILURES as failure:
            logger.exception("A request %s failed", request.type)
            raise Refusal(Code.INTERNAL, "the server failed") from failure

    def _permit(self, caller: Principal, request: Request) -> None:
        """Raises :class:`Refusal` for what a caller may not do."""
        if caller.role == "trainer":
            return
        if request.type not in MAY[caller.role]:
            raise Refusal(Code.FORBIDDEN, f"the {caller.role} may not call {request.type}")
        own = caller.held
        if own is not None and request.session != own.name:
            raise Refusal(Code.FORBIDDEN, "an agent has no session but its own")
        if own is not None and own.closed:
            raise self.roster.gone(own.name)

    async def _answer(self, caller: Principal, request: Request, owner: Owner, subject: About) -> Reply:
        # By the tag, the commonest first: an isinstance that fails costs more with pydantic's models.
        if request.type == "step":
            return await self._step(caller, request, subject)
        if request.type == "open":
            held = await self._open(request, owner)
            return SessionReply(id=request.id, info=held.info(caller))
        if request.type == "close":
            closed = self.roster.dismiss if caller.role == "admin" else self.roster.close
            await closed(request.session)
            return CloseReply(id=request.id)
        held = self._find(caller, request, subject)
        if request.type == "attach":
            return SessionReply(id=request.id, info=held.info(caller))
        if request.type == "records":
            records, session = tuple(held.records), held.session
            return RecordsReply(id=request.id, records=records, end=session.end, score=session.score)
        seconds = self._seconds(held, request)
        if request.type == "fork":
            twins = await self.roster.fork(held, request.twins, owner, seconds)
            return ForkReply(id=request.id, twins=tuple(twin.info(caller) for twin in twins))
        async with held.alone(seconds) as session:
            if request.type == "reset":
                return await self._reset(held, session, request)
            if request.type == "conclude":
                return await self._conclude(held, session, request)
            if request.type == "snapshot":
                return await self._snapshot(held, session, request)
            return await self._restore(held, session, request)

    def _find(self, caller: Principal, request: Request, subject: About) -> ServedSession:
        held = self.roster.find(request.session)
        held.call(caller)
        subject.env = held.counters.name
        return held

    def _seconds(self, held: ServedSession, request: Request) -> float:
        return answer_seconds(request, held.session.limits, self.roster.patience)

    # -- opening

    async def _open(self, request: OpenRequest, owner: Owner) -> ServedSession:
        async def find() -> tuple[EnvSpec, Task]:
            spec = self._offered(request.env)
            return spec, await self.task(spec, request.task)

        seconds = answer_seconds(request, EpisodeLimits(), self.roster.patience)
        return await self.roster.open(request.session, owner, seconds, find, request.instead)

    def _offered(self, asked: EnvSpec) -> EnvSpec:
        """The environment that was asked for; one offered with options is offered with those alone."""
        for spec in self.specs:
            if spec.name == asked.name and (not spec.options or spec.make().options == asked.make().options):
                return asked
        raise unknown("environment on this server", str(asked), map(str, self.specs))

    async def task(self, spec: EnvSpec, choice: TaskChoice) -> Task:
        """The task that is meant. Raises ``UsageError`` where there is none."""
        env = spec.make()
        if not isinstance(choice, TaskByRef):
            return env.task_set(choice.split).nth(choice.seed)
        task = await find_task(env, choice.ref)
        if task.public.instruction != choice.public.instruction:
            raise UsageError(f"task {task.id!r} reads differently on the server: another version of {spec}?")
        return task.model_copy(update={"public": choice.public})

    # -- one call of one session, which has it to itself

    async def _step(self, caller: Principal, request: StepRequest, subject: About) -> StepReply:
        held = self._find(caller, request, subject)
        async with held.alone(self._seconds(held, request)) as session:
            held.check_going()
            step = await session.step(request.action)
            assert step.record is not None
            held.counters.stepped(step.record.seconds)
            held.view = step.view
            held.records.append(step.record)
            if held.log is not None:
                held.log.write(stepped(request.action, step))
        self._note_end(held, step.record.error)
        if caller.role == "agent":
            step = step.model_copy(update={"record": None})
        return StepReply(id=request.id, step=step)

    async def _reset(self, held: ServedSession, session: Session, request: ResetRequest) -> ResetReply:
        if held.view is not None or session.end is not None:
            raise Refusal(Code.WRONG_ORDER, "the session was reset before")
        held.view = await session.reset()
        if held.log is not None:
            held.log.write(WasReset(view=view_hash(held.view)))
        return ResetReply(id=request.id, view=held.view)

    async def _conclude(
        self, held: ServedSession, session: Session, request: ConcludeRequest
    ) -> ConcludeReply:
        held.check_going()
        error = await session.conclude(request.end, request.error)
        end, score = session.end, session.score
        assert end is not None
        self._note_end(held, error)
        if held.log is not None:
            asked = Concluded(asked=request.end, error=request.error, end=end, score=score)
            held.log.write(asked)
        return ConcludeReply(id=request.id, end=end, score=score, error=error)

    def _note_end(self, held: ServedSession, error: str) -> None:
        """Where the episode ended and it was not the agent's doing, that is an error."""
        end = held.session.end
        if end is not None and not end.trainable:
            self.counters.failed(end, end, error, held.name, held.counters)

    async def _snapshot(
        self, held: ServedSession, session: Session, request: SnapshotRequest
    ) -> SnapshotReply:
        held.check_going()
        await session.snapshot(request.name)
        held.save(request.name)
        if held.log is not None:
            held.log.write(Snapped(name=request.name))
        return SnapshotReply(id=request.id)

    async def _restore(self, held: ServedSession, session: Session, request: RestoreRequest) -> RestoreReply:
        await session.restore(request.name)
        held.go_back(request.name)
        if held.log is not None:
            held.log.write(Restored(name=request.name))
        return RestoreReply(id=request.id, turn=session.turn, reached=session.reached)
