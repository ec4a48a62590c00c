"""Groups of episodes, many at once: what a training step and an evaluation are fed from.

A group is several episodes of one task; comparing them is what most credit methods do. All episodes
of a batch run concurrently in one task group; ``concurrency`` bounds how many are open, in order, so
that a batch larger than the pool of sandboxes waits instead of failing. A policy's error cancels the
batch; a failure of an environment stays with its episode.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnwise.agents.loop import Envs, run_with_retries
from turnwise.agents.policy import EpisodeKey, Policy
from turnwise.agents.trajectory import Episode
from turnwise.envs.registry import EnvSpec
from turnwise.envs.types import Task

Listener = Callable[[Episode], None]


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What to run."""

    tasks: Sequence[Task]
    group_size: int
    seed: int
    """Names every episode's random stream, with ``label`` and the episode's place."""
    label: str
    """Starts the episodes' names, as in ``train-12``."""
    concurrency: int = 128
    retries: int = 1


def episode_keys(plan: RolloutPlan) -> list[tuple[Task, EpisodeKey]]:
    """The episodes of a plan, group by group; names and seeds depend on the plan alone."""
    keys: list[tuple[Task, EpisodeKey]] = []
    for g, task in enumerate(plan.tasks):
        for i in range(plan.group_size):
            name = f"{plan.label}/{g}-{i}"
            digest = hashlib.sha256(f"{plan.seed}\0{name}\0{task.id}".encode()).digest()
            seed = int.from_bytes(digest[:8], "big") >> 1
            keys.append((task, EpisodeKey(name, f"{plan.label}/{g}", seed, order=len(keys))))
    return keys


async def rollout(
    envs: Envs, env: EnvSpec, policy: Policy, plan: RolloutPlan, listener: Listener | None = None
) -> list[Episode]:
    """Run a plan; episodes come back in the plan's order. ``listener`` hears of each as it ends."""
    keys = episode_keys(plan)
    episodes: list[Episode | None] = [None] * len(keys)
    room = asyncio.Semaphore(plan.concurrency)

    async def one(place: int, task: Task, key: EpisodeKey) -> None:
        async with room:
            episode = await run_with_retries(envs, env, task, policy, key, retries=plan.retries)
        episodes[place] = episode
        if listener is not None:
            listener(episode)

    async with asyncio.TaskGroup() as group:
        for place, (task, key) in enumerate(keys):
            group.create_task(one(place, task, key))
    return [episode for episode in episodes if episode is not None]
