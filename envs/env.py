"""The base class of every environment.

A subclass says what its tasks are, how an episode starts, which tools there are and how the end is
graded; it never sees transport, tokens, turns or limits, which are the
:class:`~turnwise.envs.session.Session`'s. One instance is one episode: attributes set in ``reset``
are the episode's state, and a fork copies them.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from turnwise.envs.cheat import Cheat
from turnwise.envs.source import Preparation, SandboxSource
from turnwise.envs.tasks import TaskSet
from turnwise.envs.tool import Interface
from turnwise.envs.types import (
    Action,
    AgentView,
    CallAction,
    EpisodeLimits,
    Grade,
    JsonSchema,
    Model,
    Task,
    ToolCall,
    ToolSpec,
)
from turnwise.sandbox.contract import Sandbox, SandboxSpec

OUTCOME = "outcome"
"""The channel of the grade, at level 0."""
VALIDITY = "validity"
"""The channel every environment has at level 1: 1 for a turn whose action was well formed and carried
out, else 0."""


class NoOptions(Model):
    """An environment without options."""


class Env:
    """Subclass it, decorate its tools and milestones, and ``register`` it."""

    name: ClassVar[str]
    """``family/name``, as in ``tools/configdesk``."""
    description: ClassVar[str] = ""
    """The standing guide an agent is given before its first task."""
    version: ClassVar[str] = "1"
    """Change it when the same seed no longer gives the same task."""
    limits: ClassVar[EpisodeLimits] = EpisodeLimits()
    """Used where a task brings no limits of its own."""
    sandbox_spec: ClassVar[SandboxSpec | None] = None
    """Set it and ``self.sandbox`` is there from ``reset`` to the end; see also :meth:`sandbox_for`."""
    needs_isolation: ClassVar[bool] = False
    """Its episodes refuse sandboxes of a backend that isolates nothing."""
    Options: ClassVar[type[Model]] = NoOptions
    """What can be chosen when the environment is opened, such as a level."""

    interface: ClassVar[Interface]
    sandbox: Sandbox
    """The episode's own, where it has one."""
    sandboxes: SandboxSource
    """Where to lease others, for work that the agent must not be near."""
    options: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.interface = Interface.of(cls)

    def __init__(self, options: Model | None = None) -> None:
        self.options = self.Options() if options is None else options

    # -- what a subclass writes

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split. Splits must not overlap."""
        raise TypeError(f"{type(self).__name__} must define tasks(split)")

    def sandbox_for(self, task: Task) -> SandboxSpec | None:
        """The sandbox that a task needs, where tasks differ in it."""
        return self.sandbox_spec

    def preparation(self, task: Task) -> str | None:
        """A name for the state that a task's sandbox starts in, where :meth:`prepare` is to bring it about;
        tasks of one name share it. Everything that ``prepare`` depends on goes into the name."""
        return None

    async def prepare(self, task: Task) -> None:
        """Bring ``self.sandbox`` from pristine to where episodes start. It is done once, on an instance of
        its own, and every episode starts from a snapshot of the result: files, and the shell's directory
        and exported variables. A failure is the episode's ``env_error``, and is tried again by the next."""
        raise TypeError(f"{type(self).__name__} must define prepare(task)")

    async def reset(self, task: Task) -> AgentView:
        """Start an episode of a task; what the agent sees first."""
        raise TypeError(f"{type(self).__name__} must define reset(task)")

    async def grade(self) -> float | Grade:
        """The score in [0, 1] of the state as it is; called once, after the last turn."""
        raise TypeError(f"{type(self).__name__} must define grade()")

    async def oracle(self) -> Action | None:
        """The best next action, from all the environment knows; None where it has no oracle."""
        return None

    def random_action(self, rng: random.Random) -> Action:
        """A well-formed action at random, for exploration and imperfect demonstrations."""
        return random_call(self.interface.specs, rng)

    async def said(self, words: str) -> str | AgentView | None:
        """The agent said something and called no tool. None makes it an invalid turn."""
        return None

    def assurance(self, task: Task) -> str:
        """How the grade of a task is protected, as its ``Grade`` will say; empty where all are alike."""
        return ""

    async def digest(self) -> str:
        """A hash of the whole state, where replay should detect drift; empty to do without."""
        return ""

    # -- what the runtime asks

    @classmethod
    def milestone_names(cls) -> tuple[str, ...]:
        """The milestones in order."""
        return tuple(m.name for m in cls.interface.milestones)

    @classmethod
    def channels(cls) -> dict[str, int]:
        """Reward channels with their levels."""
        return {OUTCOME: 0, VALIDITY: 1} | {r.name: r.level for r in cls.interface.rewards}

    @classmethod
    def cheats(cls) -> Sequence[Cheat[Any]]:
        """What the audit tries beside doing nothing; ``apply`` gets an environment whose episode began."""
        return ()

    @classmethod
    def has_oracle(cls) -> bool:
        """Whether the environment can demonstrate."""
        return cls.oracle is not Env.oracle

    def task_set(self, split: str) -> TaskSet:
        """The tasks of a split, bound to this environment's name, version and options."""
        version = f"{self.version} {self.options.model_dump_json()}"
        return self.tasks(split).bind(self.name, version)

    def beginning(self, task: Task) -> Preparation | None:
        """The preparation of a task's sandbox, if it has one."""
        key = self.preparation(task)
        if key is None:
            return None

        async def work(sandbox: Sandbox) -> None:
            maker = type(self)(self.options)
            maker.sandbox = sandbox
            await maker.prepare(task)

        return Preparation(f"{self.name} {self.version} {key}", work)

    def copy(self) -> Self:
        """An independent copy of the state, for a fork; the sandbox is forked apart from it."""
        shared = {"sandbox", "sandboxes", "options"}
        twin = copy.copy(self)
        state = {name: value for name, value in vars(self).items() if name not in shared}
        vars(twin).update(copy.deepcopy(state))
        return twin


Env.interface = Interface.of(Env)


def random_call(tools: Sequence[ToolSpec], rng: random.Random) -> CallAction:
    """A well-formed call of one of the tools, at random."""
    spec = rng.choice(tools)
    return CallAction(calls=(ToolCall(name=spec.name, arguments=random_arguments(spec.parameters, rng)),))


def random_arguments(schema: JsonSchema, rng: random.Random) -> dict[str, Any]:
    """Arguments that fit a tool's schema: small integers, the allowed values, or short words."""
    return {name: _random_value(entry, rng) for name, entry in schema.get("properties", {}).items()}


def _random_value(entry: JsonSchema, rng: random.Random) -> Any:
    if "enum" in entry:
        return rng.choice(entry["enum"])
    match entry.get("type"):
        case "integer":
            return rng.randint(int(entry.get("minimum", 0)), int(entry.get("maximum", 9)))
        case "number":
            return round(rng.uniform(float(entry.get("minimum", 0)), float(entry.get("maximum", 1))), 3)
        case "boolean":
            return rng.random() < 0.5
        case _:
            return rng.choice(("a", "b", "c"))


def describe(env: type[Env]) -> str:
    """The guide of an environment: its description, or its own docstring."""
    return env.description or inspect.cleandoc(env.__doc__ or "")
