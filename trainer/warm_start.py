"""The warm start: imitation in rounds until the model succeeds often enough to learn from itself.

How well a model imitates says little; how often it *succeeds when it samples* decides whether
reinforcement has anything to reinforce. So the gate is sampled success on validation tasks, looked at
after every round, and a model that never passes it stops the run instead of training on nothing.

Where an environment has no oracle, the demonstrations are random actions, which teach how to act but not
what to do: there the gate is the share of sampled turns that are well formed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from turnwise.agents.evaluate import evaluate
from turnwise.agents.metrics import rates
from turnwise.trainer import checkpoint
from turnwise.trainer.imitation import Imitator

if TYPE_CHECKING:
    from turnwise.trainer.train import TrainingLoop


FORM_GATE = 0.8
"""Share of well-formed turns at which a warm start on random demonstrations is over."""


class GateMissed(Exception):
    """The warm start ended below its gate."""


async def warm_start(run: TrainingLoop) -> None:
    """Go through the rounds that are left; ends in phase ``train`` with a checkpoint.

    Raises :class:`GateMissed`, and what ends a run in training too.
    """
    settings, parts, progress = run.recipe.warm_start, run.parts, run.progress
    if settings is not None:
        imitator = Imitator(parts.model, parts.demonstrations, settings, run.recipe.seed)
        if parts.checkpoint is not None:
            checkpoint.load_optimizer(parts.checkpoint, imitator.optimizer)
        measure, gate = ("success", settings.gate) if parts.plan.env.has_oracle() else ("valid", FORM_GATE)
        while progress.gauge < gate:
            start = progress.round * settings.check_every
            if start >= settings.max_steps:
                raise GateMissed(
                    f"warm start: sampled {measure} is {progress.gauge:.1%} after {settings.max_steps} "
                    f"steps, the gate is {gate:.1%}; raise warm_start.max_steps or .demonstrations, or lower "
                    "the gate"
                )
            count = min(settings.check_every, settings.max_steps - start)
            loss = await asyncio.to_thread(_round, run, imitator, start, count)
            await parts.engine.refresh()
            sampled = await _sampled(run)
            progress.gauge = sampled[measure]
            progress.round += 1
            run.log("warm_start", {"round": progress.round, "loss": loss} | sampled)
            if progress.gauge < gate:
                await run.save(imitator.optimizer)
    progress.phase = "train"
    await run.save(parts.learner.optimizer)


def _round(run: TrainingLoop, imitator: Imitator, start: int, count: int) -> float:
    """Gradient steps ``start`` to ``start + count``; their mean loss."""
    total = 0.0
    for number in range(start, start + count):
        total += imitator.step(number)
        run.phase("warm start", number + 1, imitator.settings.max_steps)
    return total / count


async def _sampled(run: TrainingLoop) -> dict[str, float]:
    """Rates of episodes sampled on the first validation tasks."""
    result = await evaluate(
        run.recipe.env,
        run.parts.policy,
        split=run.recipe.evaluate.split,
        tasks=run.recipe.evaluate.tasks,
        seed=run.recipe.seed,
        envs=run.parts.envs,
        concurrency=run.parts.plan.concurrency,
    )
    run.watch.exclusions(result.episodes)
    return rates(result.episodes)
