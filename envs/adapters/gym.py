"""Any environment as a ``gymnasium.Env``, of this process or of a server.

    import gymnasium
    import turnwise.envs.adapters.gym

    env = gymnasium.make("turnwise/Env-v0", env="tools/configdesk?level=2")

Observations and actions are text. An action is a tool call as JSON, ``{"name": …, "arguments": {…}}``, where
``finish`` ends the episode if no tool has that name; any other text is said. The reward is the score, on the
last step; milestones and every reward channel are in ``info``. Reaching a limit truncates, all else that the
agent does terminates. What the environment or the machine did wrong is an exception, no reward.
"""

from __future__ import annotations

import random
import string
import weakref
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

import gymnasium
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from pydantic import Field, ValidationError

from turnwise.envs.adapters.calls import act
from turnwise.envs.adapters.worker import Worker
from turnwise.envs.env import random_call
from turnwise.envs.errors import UsageError, invalid
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession, connect
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.tasks import check_split
from turnwise.envs.types import (
    Action,
    AgentView,
    EndReason,
    ImageBlock,
    InvalidAction,
    Model,
    Split,
    TextAction,
    ToolCall,
    ToolSpec,
)

OBSERVATION_CHARS = 1 << 20
ACTION_CHARS = 1 << 16
LIMITS = (EndReason.TURN_LIMIT, EndReason.TIME_LIMIT, EndReason.CONTEXT_LIMIT)


class Words(gymnasium.spaces.Text):
    """Text of any characters; samples are of printable ASCII."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        """Whether it is Unicode text and not too long."""
        return isinstance(x, str) and len(x) <= self.max_length and _is_unicode(x)


class Calls(Words):
    """Text for an environment with tools; samples are well-formed calls of the episode's tools."""

    tools: tuple[ToolSpec, ...] = ()

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A call as JSON; words where there are no tools, or a mask asks for certain characters."""
        if not self.tools or mask is not None or probability is not None:
            return super().sample(mask, probability)
        rng = random.Random(int(self.np_random.integers(1 << 63)))
        return random_call(self.tools, rng).calls[0].model_dump_json()


class ResetOptions(Model):
    """The ``options`` of ``reset``."""

    split: Split | None = None
    """None is the one that the environment was made with."""
    task: int | None = Field(default=None, ge=0)
    """The task's number in its split; None draws one from the seeded generator."""


class Episodes:
    """The episodes of one environment, of which one is open at a time."""

    def __init__(self, source: AbstractAsyncContextManager[LocalEnvs | RemoteEnvs], env: EnvSpec) -> None:
        self._source, self._env = source, env
        self._envs, self._episode = AsyncExitStack(), AsyncExitStack()

    async def begin(self, number: int, split: str) -> tuple[Session | RemoteSession, AgentView]:
        """Close the episode before and start another."""
        await self._episode.aclose()
        opening = self._opener.open(self._env, seed=number, split=split)
        session: Session | RemoteSession = await self._episode.enter_async_context(opening)
        return session, await session.reset()

    async def __aenter__(self) -> Self:
        self._opener = await self._envs.enter_async_context(self._source)
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._envs:
            await self._episode.aclose()


class TurnwiseEnv(gymnasium.Env[str, str]):
    """One environment, one episode at a time. ``close`` it, or use it as ``with``.

    ``url`` and ``token`` name a server; without them the environment runs here, in sandboxes of ``backend``.
    Raises ``UsageError`` for a name, option or split that does not exist.
    """

    observation_space: Words
    action_space: Calls

    def __init__(
        self,
        env: str,
        *,
        split: str = "train",
        backend: str | None = None,
        url: str | None = None,
        token: str | None = None,
    ) -> None:
        self._env, self._split = EnvSpec.parse(env), check_split(split)
        source: AbstractAsyncContextManager[LocalEnvs | RemoteEnvs]
        if url is None and token is not None:
            raise UsageError("token: is for a server; give its url too")
        if url is not None and backend is not None:
            raise UsageError("backend: is the server's to choose; leave it out where url is given")
        if url is None:
            self._env.make()
            source = LocalEnvs(backend=backend, capacity=1)
        else:
            source = connect(url, token=token)
        self.observation_space, self.action_space = Words(OBSERVATION_CHARS), Calls(ACTION_CHARS)
        self._worker = Worker(Episodes(source, self._env), f"gymnasium environment {env}")
        self._session: Session | RemoteSession | None = None
        self._over = True
        self._close = weakref.finalize(self, self._worker.close)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode: the same seed, the same task. Raises ``UsageError`` for wrong options,
        ``EpisodeFailed`` where it cannot start, and ``ClosedEnvironmentError`` after ``close``."""
        if not self._close.alive:
            raise ClosedEnvironmentError("the environment was closed: make another")
        super().reset(seed=seed)
        try:
            chosen = ResetOptions.model_validate(options or {})
        except ValidationError as error:
            raise invalid("options of reset", error, ResetOptions) from None
        number = int(self.np_random.integers(1 << 31)) if chosen.task is None else chosen.task
        split = chosen.split or self._split
        self._over = True
        session, view = self._worker.run(self._worker.resource.begin(number, split))
        self._over = False
        self._session, self.action_space.tools = session, view.tools
        ref = session.task.ref if isinstance(session, Session) else session.info.ref
        return view.text, {
            "task": "" if ref is None else ref.id,
            "split": split,
            "guide": session.guide,
            "limits": session.limits.model_dump(),
            "tools": [tool.model_dump() for tool in view.tools],
            "images": _images(view),
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out a turn. Raises ``ResetNeeded`` outside an episode, ``UsageError`` for what is no text,
        and ``EpisodeFailed`` or ``SandboxError`` for a failure that is not the agent's."""
        if self._session is None or self._over:
            raise ResetNeeded("there is no episode going on: reset the environment first")
        if not self.action_space.contains(action):
            raise UsageError(f"action {action!r:.80}: must be text of at most {ACTION_CHARS:,} characters")
        self._over = True  # until the step proves otherwise: what fails in the middle cannot go on
        step = self._worker.run(self._session.step(read_action(action, self.action_space.tools)))
        record = step.record
        assert record is not None, "a trainer's session has records"
        if record.end is not None and not record.end.trainable:
            raise EpisodeFailed(record.end, record.error)
        self._over = step.done
        info = {
            "turn": record.turn,
            "valid": record.valid,
            "milestones": list(record.milestones),
            "terms": [term.model_dump() for term in record.terms],
            "end": None if record.end is None else str(record.end),
            "error": record.error,
            "images": _images(step.view),
        }
        truncated = record.end in LIMITS
        return step.view.text, record.score or 0.0, step.done and not truncated, truncated, info

    def close(self) -> None:
        """End the episode, its sandbox and the thread. Closing twice is harmless."""
        self._over = True
        self._close()


def read_action(written: str, tools: tuple[ToolSpec, ...]) -> Action:
    """Text as an action; what begins as JSON and is no call is an invalid action, which the agent is told."""
    if not written.lstrip().startswith("{"):
        return TextAction(text=written)
    try:
        call = ToolCall.model_validate_json(written)
    except ValidationError as error:
        return InvalidAction(text=written, error=str(invalid("call", error, ToolCall)))
    return act(call, [tool.name for tool in tools])


def _images(view: AgentView) -> list[bytes]:
    return [block.data for block in view.content if isinstance(block, ImageBlock)]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


gymnasium.register("turnwise/Env-v0", entry_point="turnwise.envs.adapters.gym:TurnwiseEnv")
