"""Environments of a server, used like local ones.

    async with connect("http://localhost:8000", token=T) as envs, envs.open("demo/guess", seed=3) as env:
        view = await env.reset()
        step = await env.step(call("guess", n=4))

One connection to each of the server's processes carries all sessions there; one that drops is made anew,
and calls go on. That a process is away is logged once, and that it is back. Whatever goes wrong for good
with the server or on the way to it is a :class:`~turnwise.envs.serving.dialler.ServerFailed`, which is a
``SandboxError``: the machine's failure, never the agent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar
from uuid import uuid4

from turnwise.envs.errors import UsageError
from turnwise.envs.given import check_action, check_end, check_name, check_task, check_whole
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.dialler import Dialler, ServerFailed, dialling
from turnwise.envs.serving.faults import Code, Fault
from turnwise.envs.serving.link import Away, Link, linked
from turnwise.envs.serving.wire import (
    AttachRequest,
    CloseRequest,
    ConcludeReply,
    ConcludeRequest,
    FaultReply,
    ForkReply,
    ForkRequest,
    OpenRequest,
    RecordsReply,
    RecordsRequest,
    Reply,
    Request,
    ResetReply,
    ResetRequest,
    RestoreReply,
    RestoreRequest,
    SessionInfo,
    SessionReply,
    SnapshotReply,
    SnapshotRequest,
    StepReply,
    StepRequest,
    TaskByRef,
    TaskBySeed,
    TaskChoice,
    answer_seconds,
)
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.tasks import check_split
from turnwise.envs.types import Action, AgentView, EndReason, EpisodeLimits, Step, StepRecord, Task

MARGIN_SECONDS = 30.0
"""What a reply may be late beyond the server's own deadline."""

Answer = TypeVar("Answer", bound=Reply)


@asynccontextmanager
async def connect(
    url: str, *, token: str | None = None, ca: Path | str | None = None
) -> AsyncIterator[RemoteEnvs]:
    """The environments of a server, as :class:`~turnwise.envs.local.LocalEnvs` has those of this process.

    ``token`` is the trainer's, or another's for :meth:`RemoteEnvs.attach`; ``ca`` is a file of certificates
    to trust instead of the system's. Raises ``UsageError`` for a URL, token or file that is wrong, and
    :class:`~turnwise.envs.serving.dialler.ServerFailed` where no server answers.
    """
    async with AsyncExitStack() as stack:
        dialler = await stack.enter_async_context(dialling(url, token, ca))
        yield RemoteEnvs(dialler, await stack.enter_async_context(linked(dialler)), stack)


class RemoteEnvs:
    """Opens sessions on a server, spread over its workers. See :func:`connect`."""

    def __init__(self, dialler: Dialler, first: Link, stack: AsyncExitStack) -> None:
        self.url = dialler.url
        self._dialler, self._stack = dialler, stack
        self._welcome = first.welcome
        self._desks = {first.welcome.worker: Desk(first)}
        self._linking = asyncio.Lock()

    @asynccontextmanager
    async def open(
        self, env: str | EnvSpec, *, task: Task | None = None, seed: int = 0, split: str = "train"
    ) -> AsyncIterator[RemoteSession]:
        """A session of one task: the one given, or the split's task number ``seed``.

        Waits for a free place, and where no worker can be reached for the return of one that may yet come
        back. Raises :class:`ServerFailed` where none does, and ``UsageError`` for an environment, split or
        task that the server does not have.
        """
        choice: TaskChoice
        if task is None:
            choice = TaskBySeed(seed=check_whole("seed", seed), split=check_split(split))
        else:
            choice = TaskByRef(ref=check_task(task).ref, public=task.public)
        desk, info = await self._begin(EnvSpec.parse(env), choice)
        try:
            async with RemoteSession(desk, info) as session:
                yield session
        finally:
            desk.sessions -= 1

    async def _begin(self, env: EnvSpec, choice: TaskChoice) -> tuple[Desk, SessionInfo]:
        """Open a session at a worker, and count it. One that stops is passed over, while another is left.
        Where the connection drops meanwhile, whoever can be reached is asked, for a lease at most."""
        clock, end = asyncio.get_running_loop().time, None
        while True:
            desk, name = await self._least(), uuid4().hex
            desk.sessions += 1
            request = OpenRequest(id=desk.next_id(), session=name, env=env, task=choice)
            try:
                return desk, (await desk.begin(request, [name], EpisodeLimits(), SessionReply)).info
            except BaseException as failure:
                desk.sessions -= 1
                if isinstance(failure, Away):
                    end = end or clock() + self._welcome.lease_seconds
                    if clock() > end:
                        raise
                elif desk.stops or not (isinstance(failure, ServerFailed) and failure.code is Code.DRAINING):
                    raise
                else:
                    desk.stop()

    async def attach(self, session: str | None = None) -> RemoteSession:
        """A session that another client opened and closes, by its name; an agent's token has but one. Raises
        ``UsageError`` for a name that is none, and what :meth:`open` does.

        What is allowed there is up to the token: an agent may ``step``, and its steps have no record; a
        grader may ``conclude`` and ask for ``records``.
        """
        name = self._welcome.session if session is None else session
        if name is None:
            raise UsageError("attach(session): name the session; only an agent's token has one of its own")
        name = check_name("session", name)
        first, failures = self._welcome.worker, []
        away = [number for number, desk in self._desks.items() if not desk.link.up]
        for worker in sorted(range(self._welcome.workers), key=lambda n: (n in away, n != first)):
            try:
                desk = await self._desk(worker)
                await self._settled([desk])
                request = AttachRequest(id=desk.next_id(), session=name)
                info = (await desk.ask(request, EpisodeLimits(), SessionReply)).info
            except ServerFailed as failure:
                failures.append(failure)
            else:
                return RemoteSession(desk, info, own=False)
        # It may be where nobody answers.
        raise min(failures, key=lambda failure: failure.code is Code.UNKNOWN_SESSION)

    async def _least(self) -> Desk:
        """At the worker with the fewest sessions of this client. One that is away or stops is used where
        there is no other, and waited for."""
        while True:
            ready = [desk for desk in self._desks.values() if desk.ready]
            unknown = [
                n for n in range(self._welcome.workers) if n not in self._desks or self._desks[n].link.over
            ]
            if unknown and all(desk.sessions for desk in ready):
                await self._desk(random.choice(unknown))
            elif ready:
                return min(ready, key=lambda desk: desk.sessions)
            else:
                await self._settled(self._desks.values())
                return min(self._desks.values(), key=lambda d: (not d.ready, d.link.lost, d.sessions))

    async def _settled(self, desks: Collection[Desk]) -> None:
        """Wait while none is ready and one may yet be: within its lease, or at its next attempt. One that is
        under way now says nothing of who is back by its end."""
        attempts = {desk: desk.link.attempts for desk in desks}

        def may_return(desk: Desk) -> bool:
            tried = desk.link.lost and desk.link.failed > attempts[desk]
            return not (desk.link.up or desk.link.over or tried)

        while not any(desk.ready for desk in desks) and any(map(may_return, desks)):
            await self._dialler.changed.wait()

    async def _desk(self, worker: int) -> Desk:
        async with self._linking:
            if worker not in self._desks or self._desks[worker].link.over:
                like = self._welcome.model_copy(update={"worker": worker})
                self._desks[worker] = Desk(await self._stack.enter_async_context(linked(self._dialler, like)))
            return self._desks[worker]


class Desk:
    """What is asked of one worker of a server."""

    def __init__(self, link: Link) -> None:
        self.sessions = 0
        """How many of this client's are there."""
        self.link = link
        self._stopping: str | None = None
        """The lease during which it said that it opens no more."""

    @property
    def stops(self) -> bool:
        """Whether it has said that it opens no more, and was not started anew since."""
        return self._stopping == self.link.welcome.lease

    @property
    def ready(self) -> bool:
        """Whether what is asked for now can be opened now."""
        return self.link.up and not self.stops

    def stop(self) -> None:
        """It has said that it opens no more."""
        self._stopping = self.link.welcome.lease

    def next_id(self) -> int:
        """A request's number."""
        return self.link.next_id()

    async def ask(self, request: Request, limits: EpisodeLimits, answer: type[Answer]) -> Answer:
        """Send a request and wait for its reply.

        Raises :class:`ServerFailed` for a failure, ``UsageError`` for a wrong name or a call that the token
        does not allow, ``RuntimeError`` for one at the wrong time, and ``EpisodeFailed``.
        """
        reply = await self.link.ask(request, self._seconds(request, limits))
        if isinstance(reply, FaultReply):
            raise _error(reply.fault)
        if not isinstance(reply, answer):
            raise ServerFailed(f"{self.link.url} answered {request.type} with {reply.type}")
        return reply

    def _seconds(self, request: Request, limits: EpisodeLimits) -> float:
        return answer_seconds(request, limits, self.link.welcome.patience) + MARGIN_SECONDS

    async def begin(
        self, request: Request, names: Sequence[str], limits: EpisodeLimits, answer: type[Answer]
    ) -> Answer:
        """Ask for sessions. Where no answer is waited for, they are given up."""
        try:
            return await self.ask(request, limits, answer)
        except (asyncio.CancelledError, ServerFailed):
            for name in names:
                await self.close_session(name)
            raise

    async def close_session(self, name: str) -> None:
        """Close a session, be it open, opening or closed. What a lost server held ends with its lease."""
        request = CloseRequest(id=self.next_id(), session=name)
        with contextlib.suppress(ServerFailed):
            await self.link.tell(request, self._seconds(request, EpisodeLimits()))


class RemoteSession:
    """A session on a server, as :class:`~turnwise.envs.session.Session` is one here."""

    def __init__(self, desk: Desk, info: SessionInfo, *, own: bool = True) -> None:
        self.info = info
        """As it was when it was opened."""
        self.turn = info.turn
        self.end: EndReason | None = info.end
        self.score: float | None = None
        self.reached: dict[str, int] = {}
        """Milestones reached, with the turn."""
        self._desk, self._own, self._lease = desk, own, desk.link.welcome.lease

    @property
    def guide(self) -> str:
        """The environment's standing guide for agents."""
        return self.info.guide

    @property
    def limits(self) -> EpisodeLimits:
        """When the episode is ended for the agent."""
        return self.info.limits

    @property
    def agent_token(self) -> str | None:
        """For the agent's side: ``connect(url, token=…)`` and ``attach()``. None where this is that side."""
        return self.info.agent_token

    async def _ask(self, request: Request, answer: type[Answer]) -> Answer:
        try:
            return await self._desk.ask(request, self.limits, answer)
        except ServerFailed as failure:
            if failure.code is not Code.UNKNOWN_SESSION or self._desk.link.welcome.lease == self._lease:
                raise
            said = f"session {self.info.session!r} ended with its worker or its client's lease; open another"
            raise ServerFailed(said, Code.GONE) from None

    async def reset(self) -> AgentView:
        """Start; the episode's time begins now. Raises ``EpisodeFailed`` and what :meth:`step` does."""
        request = ResetRequest(id=self._desk.next_id(), session=self.info.session)
        return (await self._ask(request, ResetReply)).view

    async def step(self, action: Action) -> Step:
        """Carry out one turn. Raises ``RuntimeError`` before the reset, after the end and while another call
        runs, ``UsageError`` for what is no action, and :class:`ServerFailed`."""
        action = check_action(action)
        request = StepRequest(id=self._desk.next_id(), session=self.info.session, action=action)
        step = (await self._ask(request, StepReply)).step
        self.turn += 1
        self.end = step.end
        if step.record is not None:
            self.score = step.record.score
            self.reached.update(dict.fromkeys(step.record.milestones, self.turn - 1))
        return step

    async def conclude(self, end: EndReason, error: str = "") -> str:
        """End the episode for a reason and grade it; returns what went wrong, if anything did."""
        end = check_end(end)
        request = ConcludeRequest(id=self._desk.next_id(), session=self.info.session, end=end, error=error)
        reply = await self._ask(request, ConcludeReply)
        self.end, self.score = reply.end, reply.score
        return reply.error

    async def fork(self, count: int) -> list[RemoteSession]:
        """``count`` sessions that go on from here, independent of this one and of each other.

        The caller closes them; what it forgets ends with this client. Raises :class:`ServerFailed` where
        there are not as many places free.
        """
        names = [uuid4().hex for _ in range(check_whole("count", count, least=0))]
        request = ForkRequest(id=self._desk.next_id(), session=self.info.session, twins=tuple(names))
        reply = await self._desk.begin(request, names, self.limits, ForkReply)
        twins = [RemoteSession(self._desk, info) for info in reply.twins]
        for twin in twins:
            twin.reached = dict(self.reached)
        return twins

    async def snapshot(self, name: str) -> None:
        """Keep how the session stands under a name, until it is closed or the name is taken again.

        Processes in the sandbox end. Raises ``UsageError`` for one too many, and what :meth:`step` does.
        """
        name = check_name("snapshot", name)
        request = SnapshotRequest(id=self._desk.next_id(), session=self.info.session, name=name)
        await self._ask(request, SnapshotReply)

    async def restore(self, name: str) -> None:
        """Go back to a snapshot, also after the end. Raises ``UsageError`` for a name that has none."""
        name = check_name("snapshot", name)
        request = RestoreRequest(id=self._desk.next_id(), session=self.info.session, name=name)
        reply = await self._ask(request, RestoreReply)
        self.turn, self.reached, self.end, self.score = reply.turn, dict(reply.reached), None, None

    async def records(self) -> tuple[StepRecord, ...]:
        """What the turns so far were worth. Brings this up to date with what others did in the session: its
        agent at a connection of its own, or a grader."""
        request = RecordsRequest(id=self._desk.next_id(), session=self.info.session)
        reply = await self._ask(request, RecordsReply)
        self.turn, self.end, self.score = len(reply.records), reply.end, reply.score
        self.reached = {name: record.turn for record in reply.records for name in record.milestones}
        return reply.records

    async def close(self) -> None:
        """Give it up. Closing twice is harmless. Who only attached lets go: the session is another's."""
        if self._own:
            await self._desk.close_session(self.info.session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _error(fault: Fault) -> Exception:
    """A fault as the exception that the same mistake raises locally."""
    message = f"{fault.message}; {fault.remedy}"
    match fault.code:
        case Code.EPISODE_FAILED if fault.end is not None:
            return EpisodeFailed(fault.end, fault.message)
        case Code.USAGE:
            return UsageError(fault.message)
        case Code.FORBIDDEN | Code.UNAUTHORIZED | Code.INVALID_REQUEST | Code.TOO_LARGE:
            return UsageError(message)
        case Code.WRONG_ORDER | Code.RUNNING | Code.ENDED | Code.DUPLICATE_SESSION | Code.DUPLICATE_REQUEST:
            return RuntimeError(message)
        case _:
            return ServerFailed(message, fault.code, fault.retry_after)
