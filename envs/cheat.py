"""Cheats: ways to a high score that are not the task, as an environment's family lists them for its audit.

A cheat does in the agent's place whatever an agent could do; then the episode is graded as any other. It
has to score nothing. ``residue`` marks what no grader of the kind can refuse in principle: it is listed
apart, with its score.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from turnwise.envs.types import Action, FinishAction

Place = TypeVar("Place")
"""What the family's cheats need of a started episode: the environment, or what it is seen as."""


@dataclass(frozen=True, slots=True)
class Cheat(Generic[Place]):
    """One cheat; ``apply`` carries it out."""

    name: str
    group: str
    """The mechanism, as the family names it."""
    apply: Callable[[Place], Awaitable[None]]
    residue: bool = False
    ending: Action = field(default_factory=FinishAction)
    """The agent's last action, after which the episode is graded."""
