"""What acts: the interface every policy keeps, scripted or neural, local or served.

A policy opens one :class:`Actor` per episode; the actor is told what the environment showed and
decides. Opening is an async context manager, so whatever the actor holds (a slot of a key-value
cache, a connection) is given back however the episode ends.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from turnwise.agents.trajectory import Decision, Sampling
from turnwise.envs.types import Action, AgentView, EndReason, Step


@dataclass(frozen=True, slots=True)
class EpisodeKey:
    """Which episode: names its random stream and its group."""

    episode_id: str
    group_id: str
    seed: int
    """Seeds the sampling of this episode alone, whatever it is batched with."""
    order: int = 0
    """Its place in the deterministic order."""


class EpisodeSession(Protocol):
    """A session as the episode loop and policies use it, in this process or on a server."""

    @property
    def guide(self) -> str:
        """The environment's standing guide for agents."""
        ...

    @property
    def end(self) -> EndReason | None:
        """Why the episode ended; None while it goes on."""
        ...

    @property
    def score(self) -> float | None:
        """The grade, where the episode has one."""
        ...

    async def reset(self) -> AgentView:
        """Start; what the agent sees first. Raises ``EpisodeFailed``."""
        ...

    async def step(self, action: Action) -> Step:
        """One turn."""
        ...

    async def conclude(self, end: EndReason, error: str = "") -> str:
        """End the episode for a reason and grade it."""
        ...


class Actor(Protocol):
    """One policy in one episode."""

    async def act(self, view: AgentView) -> Decision:
        """Decide, having seen ``view`` since the last decision."""
        ...


class Policy(Protocol):
    """Something that can act in any number of episodes at once."""

    @property
    def name(self) -> str:
        """Who is acting; the author of the tokens it samples."""
        ...

    @property
    def sampling(self) -> Sampling | None:
        """How it samples; None for a policy without tokens."""
        ...

    def open(self, key: EpisodeKey, session: EpisodeSession) -> AbstractAsyncContextManager[Actor]:
        """An actor for one episode. Scripted policies may use the session (they are trusted)."""
        ...
