"""Exact tokens: what an episode is made of, on the agent's side.

A sequence is a chain of spans. Each span says who wrote its tokens; only what the learner itself
sampled is trainable, and what was sampled carries the log-probabilities of the distribution it was
really drawn from. Text is never encoded again: the ids here are the ids the policy saw and produced,
so the trainer's forward pass runs over the very tokens of the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from turnwise.envs.types import Action, AgentView, EndReason, StepRecord, TaskRef

Source = Literal["policy", "env", "forced", "demo"]
"""Who wrote a span: sampled by a policy; the environment and the template around it; tokens put into
the policy's mouth; a demonstration."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution tokens are drawn from. Training applies the same or refuses."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    max_tokens: int = 64
    """Per turn; a longer turn is cut and recorded as truncated."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(
                f"sampling {self}: temperature must be >= 0, top_p in (0, 1], top_k >= 0, max_tokens >= 1"
            )

    @property
    def trainable(self) -> bool:
        """Whether the trainer can compute the log-probabilities of this distribution."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens with one writer."""

    ids: tuple[int, ...]
    source: Source
    author: str = ""
    """Which policy wrote it: a learner, an opponent, a teacher."""
    logprobs: tuple[float, ...] | None = None
    """Natural log, one per token, for sampled spans: of the distribution sampled from."""
    versions: tuple[int, ...] | None = None
    """Weight version each token was sampled under; a completion may span an update."""

    def __post_init__(self) -> None:
        if self.source == "policy" and (self.logprobs is None or self.versions is None):
            raise ValueError("a sampled span needs its log-probabilities and weight versions")
        for name, column in (("logprobs", self.logprobs), ("versions", self.versions)):
            if column is not None and len(column) != len(self.ids):
                raise ValueError(f"{name} has {len(column)} entries for {len(self.ids)} tokens")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy did when asked to act: the action, and the exact tokens where it has any."""

    action: Action
    spans: tuple[Span, ...] = ()
    """In order: what was fed since the last decision, then what was written."""
    text: str = ""
    """The completion as text, for people."""
    context_full: bool = False
    """The context had no room left; the episode ends as ``context_limit``."""
    truncated: bool = False
    """The completion hit ``max_tokens``."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one episode. Turns form a tree over ``parent_id``: an environment fork shares its
    first turns between several episodes, and such a turn keeps one ``turn_id``."""

    turn_id: str
    parent_id: str | None
    episode_id: str
    group_id: str
    index: int
    """Position in the episode, from 0."""
    spans: tuple[Span, ...]
    action: Action
    record: StepRecord
    observation: AgentView
    """What the environment answered."""
    text: str = ""
    thread_id: str = "main"
    """Which agent of the episode: a sub-agent is another thread."""
    seconds: float = 0.0
    """Wall time of the policy's part."""


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode."""

    episode_id: str
    group_id: str
    task: TaskRef
    policy: str
    opening: AgentView
    turns: tuple[Turn, ...]
    end: EndReason
    score: float | None
    sampling: Sampling | None = None
    """None for policies without tokens."""
    error: str = ""
    retries: int = 0
    """How often its environment failed and it was started anew."""
    seconds: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.end.trainable and self.score is None:
            raise ValueError(f"episode {self.episode_id} ended as {self.end} without a score")

    @property
    def milestones(self) -> tuple[str, ...]:
        """Milestones reached, in order."""
        return tuple(name for turn in self.turns for name in turn.record.milestones)

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the policy wrote."""
        return sum(len(s.ids) for t in self.turns for s in t.spans if s.source == "policy")
