"""One episode of one environment: turns, limits, milestones, rewards, ends and grades.

The session stands between an environment and whoever acts in it. It is also the boundary where
failures are classified, once: what the agent did wrong is shown to it and counts against it; what the
environment's code or the machine did wrong ends the episode as ``env_error`` or ``infra_error``,
without a score.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from turnwise.envs.env import OUTCOME, VALIDITY, Env, describe
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.given import check_action, check_end, check_name, check_whole
from turnwise.envs.source import SandboxSource
from turnwise.envs.tool import ToolError
from turnwise.envs.types import (
    Action,
    AgentView,
    CallAction,
    EndReason,
    EpisodeLimits,
    FinishAction,
    Grade,
    InvalidAction,
    RewardTerm,
    Step,
    StepRecord,
    Task,
    TextAction,
    ToolCall,
    text,
)
from turnwise.envs.views import cut, joined, with_reason
from turnwise.envs.within import Overdue, within
from turnwise.sandbox.contract import LimitExceeded, Sandbox, SandboxError, Snapshot
from turnwise.sandbox.ending import to_the_end

Result = TypeVar("Result")

VALID = RewardTerm(channel=VALIDITY, level=1, value=1.0)
INVALID = RewardTerm(channel=VALIDITY, level=1, value=0.0)
SNAPSHOTS = 16
"""What one session may keep at once."""
FAILURES = (Exception, SystemExit)
"""What an environment's code may raise. ``sys.exit()`` in it ends its own episode, not the whole process."""


class EpisodeFailed(Exception):
    """The episode could not start; ``end`` says whose failure it was."""

    def __init__(self, end: EndReason, message: str) -> None:
        super().__init__(message)
        self.end = end


class OutOfTime(Exception):
    """What an environment did for the agent took too long."""

    def __init__(self, seconds: float, *, over: bool) -> None:
        super().__init__(f"took longer than {seconds:g} s")
        self.over = over
        """It was the whole episode's time that ran out."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A session as it stood once."""

    env: Env
    files: Snapshot | None
    """Those of its sandbox, where it has one."""
    turn: int
    reached: dict[str, int]


def classify(error: Exception | SystemExit) -> EndReason:
    """Whose failure an exception is: the agent's, the machine's or the environment's code's."""
    if isinstance(error, LimitExceeded):
        return EndReason.AGENT_FAULT
    if isinstance(error, SandboxError):
        return EndReason.INFRA_ERROR
    return EndReason.ENV_ERROR


class Session:
    """``reset`` once, ``step`` until ``Step.done``. Use it as ``async with``."""

    def __init__(self, env: Env, task: Task, sandboxes: SandboxSource | None = None) -> None:
        self.env = env
        self.task = task
        self.turn = 0
        self.end: EndReason | None = None
        self.score: float | None = None
        self.grade: Grade | None = None
        """What the environment said of the score, beyond the number."""
        self.reached: dict[str, int] = {}
        """Milestones reached, with the turn."""
        self._sandboxes = sandboxes
        self._snapshots: dict[str, Saved] = {}
        self._deadline: float | None = None
        self._was_reset = False
        self._running = False
        self._work: Coroutine[Any, Any, Any] | None = None
        own = task.public.limits
        self.limits: EpisodeLimits = env.limits if own == EpisodeLimits() else own

    @property
    def guide(self) -> str:
        """The environment's standing guide for agents."""
        return describe(type(self.env))

    def held(self) -> list[object]:
        """What holds its state: its environment, those of its snapshots, and the tool that runs."""
        return [self.env, *(saved.env for saved in self._snapshots.values()), self._work]

    async def reset(self) -> AgentView:
        """Start; the episode's time begins now. Raises :class:`EpisodeFailed`."""
        if self._was_reset:
            raise RuntimeError("this session was already reset; open another for another episode")
        self._was_reset = True
        try:
            spec = self.env.sandbox_for(self.task)
            if spec is not None:
                if self._sandboxes is None:
                    raise SandboxError(f"{self.env.name} needs a sandbox and none was offered")
                self.env.sandboxes = self._sandboxes
                self.env.sandbox = await self._sandboxes.acquire(spec, self.env.beginning(self.task))
            async with asyncio.timeout(self.limits.seconds):
                view = await self.env.reset(self.task)
        except FAILURES as error:  # the boundary where failures are classified
            end = classify(error)
            # The agent has not acted yet: it is the environment that does not fit its own limits.
            self.end = EndReason.ENV_ERROR if end is EndReason.AGENT_FAULT else end
            raise EpisodeFailed(self.end, f"{type(error).__name__}: {error}") from error
        self._deadline = time.monotonic() + self.limits.seconds
        return AgentView(
            content=cut(view, self.limits.observation_chars).content, tools=self.env.interface.specs
        )

    async def step(self, action: Action) -> Step:
        """Carry out one turn. Raises ``RuntimeError`` before the reset, after the end, and while another
        step runs, and ``UsageError`` for what is no action."""
        action = check_action(action)
        with self._alone():
            started = time.perf_counter()
            try:
                view, valid, end, error = await self._act(action)
                reached, terms, digest = await within(self.limits.tool_seconds, self._observe(valid))
            except FAILURES as failure:  # the boundary where failures are classified
                view, valid, reached, terms, digest = text(""), False, (), (), ""
                end, error = classify(failure), f"{type(failure).__name__}: {failure}"
            self.turn += 1
            if end is None and self.turn >= self.limits.turns:
                end = EndReason.TURN_LIMIT
            if end is not None:
                error = await self.conclude(end, error)
                view = with_reason(view, self.grade)
                terms = (RewardTerm(channel=OUTCOME, level=0, value=self.score), *terms)
            record = StepRecord(
                turn=self.turn - 1,
                terms=terms,
                milestones=reached,
                valid=valid,
                digest=digest,
                seconds=time.perf_counter() - started,
                end=self.end,
                score=self.score,
                grade=self.grade,
                error=error,
            )
        return Step(view=cut(view, self.limits.observation_chars), record=record, end=self.end)

    async def conclude(self, end: EndReason, error: str = "") -> str:
        """End the episode for a reason and grade it; returns what went wrong, if anything did.

        Raises ``RuntimeError`` when it has ended already: an episode is graded once; and ``UsageError`` for
        a reason that is none.
        """
        end = check_end(end)
        if self.end is not None:
            raise RuntimeError(f"the episode ended already ({self.end})")
        if not end.trainable:
            self.end = end
            return error
        try:
            if end is EndReason.AGENT_FAULT:
                score = 0.0
            else:
                async with asyncio.timeout(self.limits.tool_seconds):
                    found = await self.env.grade()
                self.grade = found if isinstance(found, Grade) else None
                score = float(found.score if isinstance(found, Grade) else found)
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"{self.env.name}.grade() returned {score}, not within [0, 1]")
            if self.grade is not None and self.grade.agent_fault:
                end, score, error = EndReason.AGENT_FAULT, 0.0, "; ".join(self.grade.notes)
        except FAILURES as failure:  # the boundary where failures are classified
            self.end = classify(failure)
            self.score = 0.0 if self.end is EndReason.AGENT_FAULT else None
            return f"{type(failure).__name__}: {failure}"
        self.end, self.score = end, score
        return error

    async def fork(self, count: int) -> list[Session]:
        """``count`` sessions that go on from here, independent of this one and of each other.

        The caller closes them. Raises ``RuntimeError`` while a step runs and after the end, and
        ``UsageError`` for a count that is none.
        """
        count = check_whole("count", count, least=0)
        with self._alone():
            twins = [self._twin() for _ in range(count)]
            if "sandbox" in vars(self.env) and self._sandboxes is not None:
                boxes = await self._sandboxes.fork(self.env.sandbox, count)
                for twin, box in zip(twins, boxes, strict=True):
                    twin.env.sandbox = box
        return twins

    def _twin(self) -> Session:
        twin = Session(self.env.copy(), self.task, self._sandboxes)
        twin.turn, twin.reached = self.turn, dict(self.reached)
        twin._was_reset, twin._deadline = True, self._deadline
        return twin

    async def snapshot(self, name: str) -> None:
        """Keep how the session stands, to go back to; what had the name before is dropped.

        Processes in the sandbox end. The session keeps up to :data:`SNAPSHOTS`, until it is closed; its
        forks begin without. Raises ``UsageError`` for one too many or a name that is none, and
        ``RuntimeError`` as :meth:`fork` does.
        """
        name = check_name("snapshot", name)
        if name not in self._snapshots and len(self._snapshots) >= SNAPSHOTS:
            raise UsageError(f"snapshot {name!r}: the session has {SNAPSHOTS} already; take the name of one")
        with self._alone():
            env, boxed = self.env.copy(), "sandbox" in vars(self.env)
            files = await self.env.sandbox.snapshot() if boxed else None
            before = self._snapshots.pop(name, None)
            self._snapshots[name] = Saved(env, files, self.turn, dict(self.reached))
            await self._drop(before)

    async def restore(self, name: str) -> None:
        """Go back to a snapshot, also after the end; the episode's time goes on.

        Raises ``UsageError`` for a name that has none and ``RuntimeError`` while a step runs; where it
        fails otherwise, the episode ends as ``infra_error``.
        """
        if check_name("snapshot", name) not in self._snapshots:
            raise unknown("snapshot", name, self._snapshots)
        ended = self.end, self.score, self.grade
        self.end = self.score = self.grade = None
        try:
            with self._alone():
                await self._go_back(self._snapshots[name])
        except RuntimeError:
            self.end, self.score, self.grade = ended
            raise

    async def _go_back(self, saved: Saved) -> None:
        env = saved.env.copy()
        if saved.files is not None:
            self.end = EndReason.INFRA_ERROR  # unless all of it succeeds
            await self.env.sandbox.restore(saved.files)
        self.env, self.turn, self.reached, self.end = env, saved.turn, dict(saved.reached), None

    async def _drop(self, saved: Saved | None) -> None:
        if saved is not None and saved.files is not None and self._sandboxes is not None:
            await self._sandboxes.drop(saved.files)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time, between the reset and the end."""
        if not self._was_reset:
            raise RuntimeError("reset the session before its first step")
        if self.end is not None:
            raise RuntimeError(f"the episode ended ({self.end}); no step is possible")
        if self._running or self._deadline is None:
            raise RuntimeError("a step is already running in this session")
        self._running = True
        try:
            yield
        finally:
            self._running = False

    async def close(self) -> None:
        """Give the sandbox back. Closing twice is harmless."""
        sandbox = self.env.__dict__.pop("sandbox", None)
        await to_the_end(self._give_back(sandbox))

    async def _give_back(self, sandbox: Sandbox | None) -> None:
        snapshots, self._snapshots = self._snapshots, {}
        try:
            for saved in snapshots.values():
                await self._drop(saved)
        finally:
            if sandbox is not None and self._sandboxes is not None:
                await self._sandboxes.release(sandbox)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- one turn

    async def _act(self, action: Action) -> tuple[AgentView, bool, EndReason | None, str]:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return text("error: out of time"), False, EndReason.TIME_LIMIT, ""
        match action:
            case CallAction():
                return await self._calls(action.calls)
            case FinishAction():
                return text(""), True, EndReason.SUBMITTED, ""
            case InvalidAction():
                return text(f"error: {action.error}"), False, None, ""
            case TextAction():
                return await self._said(action.text)

    async def _said(self, words: str) -> tuple[AgentView, bool, EndReason | None, str]:
        try:
            answer = await self._bounded(self.env.said(words))
        except OutOfTime as late:
            return text(f"error: the answer {late}"), False, EndReason.TIME_LIMIT if late.over else None, ""
        if answer is None:
            return text("error: call a tool"), False, None, ""
        return (text(answer) if isinstance(answer, str) else answer), True, None, ""

    async def _calls(self, calls: tuple[ToolCall, ...]) -> tuple[AgentView, bool, EndReason | None, str]:
        views, valid = [], True
        for one in calls:
            tool = self.env.interface.tools.get(one.name)
            try:
                if tool is None:
                    raise ToolError(f"unknown tool {one.name}")
                result = await self._bounded(tool(self.env, one.arguments))
                views.append(text(result) if isinstance(result, str) else result)
            except ToolError as mistake:
                views.append(text(f"error: {mistake}"))
                valid = False
            except OutOfTime as late:
                views.append(text(f"error: {one.name} {late}"))
                valid = False
                if late.over:
                    return joined(views), valid, EndReason.TIME_LIMIT, ""
            else:
                if tool.submits:
                    return joined(views), valid, EndReason.SUBMITTED, ""
        return joined(views), valid, None, ""

    async def _bounded(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do it within a tool's time and what is left of the episode's. Raises :class:`OutOfTime`."""
        assert self._deadline is not None
        left = max(self._deadline - time.monotonic(), 0.0)
        seconds = min(self.limits.tool_seconds, left)
        self._work = work
        try:
            return await within(seconds, work)
        except Overdue:
            raise OutOfTime(seconds, over=seconds == left) from None
        finally:
            self._work = None

    async def _observe(self, valid: bool) -> tuple[tuple[str, ...], tuple[RewardTerm, ...], str]:
        """Milestones, rewards and digest of the state as the turn left it."""
        interface, reached = self.env.interface, []
        terms = [VALID if valid else INVALID]
        for milestone in interface.milestones:
            if milestone.name not in self.reached and await milestone(self.env):
                self.reached[milestone.name] = self.turn
                reached.append(milestone.name)
        for reward in interface.rewards:
            value = await reward(self.env)
            terms.append(RewardTerm(channel=reward.name, level=reward.level, value=value))
        return tuple(reached), tuple(terms), await self.env.digest()
