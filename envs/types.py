"""What crosses the boundary between an environment, an agent and a trainer.

Everything here is a frozen pydantic model: it is validated when it is made, unknown fields are
refused, and NaN is no number. The agent's side and the trainer's side are different types, so that
what the agent must not see (gold answers, rewards) cannot reach it by accident: an agent gets an
:class:`AgentView`, the trainer a :class:`StepRecord`; a task's public half travels, its secret half
stays with the environment.
"""

from __future__ import annotations

import hashlib
import random
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Model(BaseModel):
    """Base of every boundary type: frozen, closed, and without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------- content, tools, actions


class TextBlock(Model):
    """A piece of text shown to the agent."""

    kind: Literal["text"] = "text"
    text: str

    @field_validator("text")
    @classmethod
    def _is_unicode(cls, value: str) -> str:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "text holds half a surrogate pair; decode bytes with errors='replace'"
                ) from None
        return value


class ImageBlock(Model):
    """An image shown to the agent, base64 in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    kind: Literal["image"] = "image"
    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    data: bytes


Block: TypeAlias = Annotated[TextBlock | ImageBlock, Field(discriminator="kind")]


class ToolSpec(Model):
    """A tool as the agent sees it."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    """JSON Schema of the arguments, an object; the order of its properties is the positional order."""


class ToolCall(Model):
    """One call of one tool."""

    name: str
    arguments: dict[str, JsonValue] = {}


class TextAction(Model):
    """The agent said something and called nothing."""

    kind: Literal["text"] = "text"
    text: str


class CallAction(Model):
    """The agent called one or more tools, carried out in order."""

    kind: Literal["calls"] = "calls"
    calls: tuple[ToolCall, ...] = Field(min_length=1)


class FinishAction(Model):
    """The agent declared itself done; ends the episode as submitted."""

    kind: Literal["finish"] = "finish"
    answer: str = ""


class InvalidAction(Model):
    """What the policy wrote could not be read as an action: recorded, shown back, never dropped."""

    kind: Literal["invalid"] = "invalid"
    text: str
    error: str


Action: TypeAlias = Annotated[
    TextAction | CallAction | FinishAction | InvalidAction, Field(discriminator="kind")
]


class AgentView(Model):
    """All that the agent sees after a reset or a step."""

    content: tuple[Block, ...]
    tools: tuple[ToolSpec, ...] = ()

    @cached_property
    def text(self) -> str:
        """The text blocks, one after another."""
        return "\n".join(block.text for block in self.content if isinstance(block, TextBlock))


def text(content: str) -> AgentView:
    """A view of one piece of text."""
    return AgentView(content=(TextBlock(text=content),))


def call(name: str, /, **arguments: JsonValue) -> CallAction:
    """An action that calls one tool: ``call("guess", n=4)``."""
    return CallAction(calls=(ToolCall(name=name, arguments=arguments),))


# ---------------------------------------------------------------- tasks


class EpisodeLimits(Model):
    """When an episode is ended for the agent."""

    turns: int = Field(default=12, ge=1)
    seconds: float = Field(default=600.0, gt=0)
    """Wall time of the whole episode."""
    tool_seconds: float = Field(default=60.0, gt=0)
    """Wall time of one tool call."""
    observation_chars: int = Field(default=16_000, ge=16)
    """Longer observations are cut in the middle, with a marker."""


class TaskRef(Model):
    """The name of a task: enough to make it again, anywhere, byte for byte."""

    env: str
    id: str
    seed: int


class TaskPublic(Model):
    """The half of a task that may travel to the agent."""

    instruction: str = ""
    limits: EpisodeLimits = EpisodeLimits()


class TaskSecret(Model):
    """The half that never leaves the environment's side: gold, hidden tests, what milestones check."""

    data: dict[str, JsonValue] = {}


class Task(Model):
    """One task of an environment."""

    ref: TaskRef
    public: TaskPublic = TaskPublic()
    secret: TaskSecret = Field(default=TaskSecret(), repr=False)

    @property
    def id(self) -> str:
        """The task's identifier, unique in its environment."""
        return self.ref.id

    @cached_property
    def rng(self) -> random.Random:
        """The task's own stream of randomness, the same on every machine; consumed as it is used."""
        name = f"{self.ref.env}\0{self.ref.id}\0{self.ref.seed}".encode()
        return random.Random(int.from_bytes(hashlib.sha256(name).digest()[:8], "big"))


# ---------------------------------------------------------------- steps, rewards, ends


class RewardTerm(Model):
    """One reward of one turn.

    ``level`` orders channels by priority: 0 is the outcome, higher numbers rank lower (G-RA,
    arXiv 2508.10548). ``value`` None means not scored, which is not 0.
    """

    channel: str
    level: int = Field(ge=0)
    value: float | None


class EndReason(StrEnum):
    """Why an episode ended."""

    SUBMITTED = "submitted"
    TURN_LIMIT = "turn_limit"
    CONTEXT_LIMIT = "context_limit"
    TIME_LIMIT = "time_limit"
    AGENT_FAULT = "agent_fault"
    ENV_ERROR = "env_error"
    INFRA_ERROR = "infra_error"

    @property
    def trainable(self) -> bool:
        """False for the two ends that say nothing about the agent; such episodes are excluded."""
        return self not in (EndReason.ENV_ERROR, EndReason.INFRA_ERROR)


class Grade(Model):
    """A score, with what the environment can say of how it was come to."""

    score: float
    """In [0, 1]."""
    reason: str = ""
    """All that the agent learns of it; empty to tell it nothing."""
    assurance: str = ""
    """How well the score is protected against forgery, where the family has more ways than one."""
    notes: tuple[str, ...] = ()
    """For the trainer's side only."""
    agent_fault: bool = False
    """The agent overstepped: the episode ends as that, and scores 0."""


class StepRecord(Model):
    """What the trainer gets beside the agent's view."""

    turn: int = Field(ge=0)
    """Counted from 0; the reset has none."""
    terms: tuple[RewardTerm, ...] = ()
    milestones: tuple[str, ...] = ()
    """Milestones reached for the first time in this turn."""
    valid: bool = True
    """The action was well formed and every call in it was carried out."""
    digest: str = ""
    """Hash of the environment's state after the turn, where the environment offers one."""
    seconds: float = 0.0
    """Wall time of the environment's part of the turn."""
    end: EndReason | None = None
    score: float | None = None
    """The grade in [0, 1], on the last turn only; None where the episode could not be graded."""
    grade: Grade | None = None
    """More about the score, where the environment says more."""
    error: str = ""
    """What went wrong, for ``agent_fault``, ``env_error`` and ``infra_error``."""


class Step(Model):
    """What one step returns. ``record`` is None for a caller that is only an agent."""

    view: AgentView
    record: StepRecord | None
    end: EndReason | None = None

    @property
    def done(self) -> bool:
        """The episode is over."""
        return self.end is not None


class SandboxRecord(Model):
    """What episodes ran in, as results keep it."""

    backend: str
    image: str | None = None
    """The names of the image they stood on, or the path of a root that is none of the store's."""
    digest: str | None = None
    """Of what was in that image."""
    network: tuple[str, ...] = ()
    """Hosts they could reach."""


JsonSchema: TypeAlias = dict[str, Any]
