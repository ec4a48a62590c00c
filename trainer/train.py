"""The training loop: roll out groups, give credit, update, evaluate, checkpoint; again.

Everything a run is goes into its folder, and every step ends in a checkpoint, so that whatever ends the
process costs at most the step it was in. A run warms up in rounds, each ended by a look at the gate
(:mod:`turnwise.trainer.warm_start`), trains step by step, and is evaluated on held-out tasks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from turnwise.agents.evaluate import evaluate
from turnwise.agents.metrics import Evaluation, assurances, failure_classes, milestone_rates, rates
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.store import episode_path, write_episodes
from turnwise.agents.trajectory import Episode
from turnwise.envs.tasks import Sampler
from turnwise.trainer import checkpoint, run_folder
from turnwise.trainer.learner import DivergedError, UpdateStats
from turnwise.trainer.pipeline import Credit
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import Run, Summary
from turnwise.trainer.scorers.scorer import Scorer, load_scorers, open_scorers
from turnwise.trainer.setup import Parts, open_parts, prepare
from turnwise.trainer.table import TurnTable
from turnwise.trainer.tracker import JsonLines, Tracker, Trackers, Watcher, truncate
from turnwise.trainer.warm_start import GateMissed, warm_start
from turnwise.trainer.watch import RunStopped, Watch


async def train(
    recipe: Recipe,
    *,
    env: str | None = None,
    run: str | Path,
    resume: bool = False,
    trackers: Sequence[Tracker] = (),
    watcher: Watcher | None = None,
) -> Run:
    """Train a recipe into a folder.

    ``env`` replaces the recipe's environment. With ``resume`` an existing folder's own recipe is gone on
    with from its newest checkpoint; one that is finished is returned as it is. The trackers are closed at
    the end. Raises ``UsageError`` for whatever can be known to be wrong before work starts, and
    ``OSError`` naming the file where one cannot be written.
    """
    folder = Path(run)
    resume = resume and run_folder.begun(folder)
    if resume:
        recipe = run_folder.stored_recipe(folder)
        done = run_folder.finished(folder, recipe.steps)
        if done is not None:
            Trackers(trackers).close()
            return done
    elif env is not None:
        recipe = recipe.override(env=env)
    plan = prepare(recipe)
    if not resume:
        run_folder.create(folder, recipe)
    with run_folder.locked(folder):
        run_folder.sweep(folder)
        async with open_parts(plan, folder, watcher) as parts:
            return await TrainingLoop(parts, trackers, watcher).run()


class TrainingLoop:
    """One run in progress."""

    def __init__(self, parts: Parts, trackers: Sequence[Tracker], watcher: Watcher | None) -> None:
        self.parts = parts
        self.recipe = parts.plan.recipe
        self.progress = parts.progress
        self.sampler = Sampler(parts.plan.tasks("train"), self.recipe.seed, self.progress.cursor)
        self.watch = Watch(self.recipe.guards, self.progress.watch)
        self.scorers: dict[str, Scorer] = {}
        self._watcher = watcher
        metrics = parts.folder / "metrics.jsonl"
        event: Literal["start", "resume"] = "start"
        if metrics.exists():
            truncate(metrics, self.progress.step, self.progress.round)
            event = "resume"
        self._tracker = Trackers([JsonLines(metrics), *trackers])
        self._event = event

    async def run(self, *, reinforce: bool = True) -> Run:
        """All that is left to do, then the held-out evaluation; without ``reinforce`` the warm start."""
        with closing(self._tracker):
            self.log(self._event, {"phase": self.progress.phase})
            stopped = await self._go_on(reinforce)
            result = await self.evaluate("final", "test")
            summary = self._summary(result, stopped)
            run_folder.write_summary(self.parts.folder, summary)
        return Run(self.parts.folder, summary)

    async def _go_on(self, reinforce: bool) -> str:
        """Warm start and training, as far as they are not done; why it ended."""
        try:
            if self.progress.phase == "warm_start":
                await warm_start(self)
            if self.progress.step == 0:
                await self.evaluate("eval", self.recipe.evaluate.split)
            if reinforce:
                self.scorers = await asyncio.to_thread(self._open_scorers)
            while reinforce and self.progress.step < self.recipe.steps and not self.progress.satisfied:
                await self.step()
        except (RunStopped, DivergedError, GateMissed) as reason:
            self.log("stop", {"reason": str(reason)})
            return str(reason)
        return "finished"

    async def step(self) -> None:
        """One training step, from tasks to a checkpoint."""
        number, recipe, parts = self.progress.step + 1, self.recipe, self.parts
        started = time.perf_counter()
        episodes = await self._roll_out(number)
        rolled = time.perf_counter()
        row: dict[str, Any] = rates(episodes)
        warnings = self.watch.step(row, episodes)
        credit, scores = await asyncio.to_thread(self._credit, episodes, number)
        credited = time.perf_counter()
        self.phase("update", 0, 1)
        stats = await asyncio.to_thread(
            parts.learner.update,
            credit.table,
            temperature=recipe.rollout.temperature,
            seed=(recipe.seed, number),
            max_gap=recipe.guards.logprob_gap,
            max_norm=recipe.guards.grad_norm,
        )
        await parts.engine.refresh()
        updated = time.perf_counter()
        self.progress.step = number
        self.progress.episodes += len(episodes)
        self.progress.cursor = self.sampler.cursor
        self.progress.stages = dict(credit.state)
        warnings += self.watch.signal(credit.groups, credit.groups_without_signal)
        row |= self._row(episodes, credit, stats) | scores
        seconds = {"rollout": rolled - started, "credit": credited - rolled, "update": updated - credited}
        row |= {"tokens_per_second": row["tokens"] / seconds["rollout"], "seconds": seconds}
        await asyncio.to_thread(self._store, number, episodes, credit)
        self.log("train", row)
        for warning in warnings:
            self.log("warning", {"reason": warning})
        if number % recipe.evaluate.every == 0 or number == recipe.steps:
            result = await self.evaluate("eval", recipe.evaluate.split)
            stop_at = recipe.evaluate.stop_at
            self.progress.satisfied = stop_at is not None and result.success >= stop_at
        await self.save(parts.learner.optimizer)

    async def evaluate(self, kind: Literal["eval", "final"], split: str) -> Evaluation:
        """Sampled success on the first tasks of a split, logged and stored."""
        total, done = self.recipe.evaluate.tasks, 0

        def ended(_: Episode) -> None:
            nonlocal done
            done += 1
            self.phase("evaluate", done, total)

        result = await evaluate(
            self.recipe.env,
            self.parts.policy,
            split=split,
            tasks=total,
            seed=self.recipe.seed,
            envs=self.parts.envs,
            concurrency=self.parts.plan.concurrency,
            listener=ended,
        )
        row = rates(result.episodes) | {"split": split, "tasks": total}
        if result.scored:
            row["low"], row["high"] = result.interval
            row["milestones"] = milestone_rates(result.episodes, self.parts.plan.env.milestone_names())
        self.log(kind, row)
        await asyncio.to_thread(self._write_episodes, kind, self.progress.step, result.episodes)
        return result

    async def save(self, optimizer: torch.optim.Optimizer) -> None:
        """A checkpoint of everything as it is now."""
        self.progress.watch = self.watch.state
        self.progress.wall_seconds, self.progress.cpu_seconds = self.parts.clock.spent()
        parts = self.parts
        await asyncio.to_thread(
            checkpoint.save,
            parts.folder,
            self.progress,
            parts.model,
            parts.tokenizer,
            optimizer,
            self.scorers,
        )

    def log(self, kind: str, row: dict[str, Any]) -> None:
        """A row of metrics."""
        wall, cpu = self.parts.clock.spent()
        head = {"kind": kind, "step": self.progress.step, "wall_seconds": wall, "cpu_seconds": cpu}
        self._tracker.log(head | row)

    def phase(self, name: str, done: int, total: int) -> None:
        """Tell the watcher how far the work at hand has come."""
        if self._watcher is not None:
            self._watcher.phase(name, done, total)

    # -- parts of a step

    async def _roll_out(self, number: int) -> list[Episode]:
        settings, done = self.recipe.rollout, 0

        def ended(_: Episode) -> None:
            nonlocal done
            done += 1
            self.phase("rollout", done, settings.tasks * settings.group)

        plan = RolloutPlan(
            tasks=self.sampler.draw(settings.tasks),
            group_size=settings.group,
            seed=self.recipe.seed,
            label=f"train-{number}",
            concurrency=self.parts.plan.concurrency,
            retries=settings.retries,
        )
        return await rollout(self.parts.envs, self.recipe.env, self.parts.policy, plan, ended)

    def _open_scorers(self) -> dict[str, Scorer]:
        """The recipe's scorers, as they were at the checkpoint that the run goes on from."""
        recipe, folder = self.recipe, self.parts.folder
        scorers = open_scorers(
            recipe.scorers,
            checkpoint.first(folder) / "model",
            temperature=recipe.rollout.temperature,
            seed=recipe.seed,
            device=recipe.device,
        )
        if self.progress.step and self.parts.checkpoint is not None:
            load_scorers(scorers, self.parts.checkpoint)
        return scorers

    def _credit(self, episodes: Sequence[Episode], number: int) -> tuple[Credit, dict[str, Any]]:
        """Advantages, and what the scorers say of themselves."""
        env = self.parts.plan.env
        table = TurnTable.from_episodes(episodes, env.milestone_names(), env.channels())
        figures = {}
        for kind, scorer in self.scorers.items():
            scored = scorer.step(table, number)
            table = table.with_columns(scored.columns)
            figures[kind] = {name: value for name, value in scored.stats.items() if math.isfinite(value)}
        return self.parts.plan.pipeline.run(table, self.progress.stages), figures

    def _row(self, episodes: Sequence[Episode], credit: Credit, stats: UpdateStats) -> dict[str, Any]:
        names = self.parts.plan.env.milestone_names()
        return {
            "episodes": self.progress.episodes,
            "milestones": milestone_rates(episodes, names),
            "excluded": dict(credit.table.excluded.by_reason),
            "groups_mixed": 1.0 - credit.groups_without_signal / max(credit.groups, 1),
            "advantage_std": float(credit.advantage.std()) if len(credit.table) else 0.0,
            "tokens": sum(e.sampled_tokens for e in episodes),
            **{name: value for name, value in asdict(stats).items() if name != "tokens"},
            "trained_tokens": stats.tokens,
        }

    def _store(self, number: int, episodes: Sequence[Episode], credit: Credit) -> None:
        self._write_episodes("step", number, episodes)
        run_folder.write_credit(self.parts.folder, number, credit.table)

    def _write_episodes(
        self, kind: Literal["step", "eval", "final"], step: int, episodes: Sequence[Episode]
    ) -> None:
        path = episode_path(self.parts.folder, kind, step)
        with run_folder.writing(path):
            write_episodes(path, episodes)

    def _summary(self, result: Evaluation, stopped: str) -> Summary:
        wall, cpu = self.parts.clock.spent()
        scored = bool(result.scored)
        return Summary(
            recipe=self.recipe.name,
            env=str(self.recipe.env),
            seed=self.recipe.seed,
            steps=self.progress.step,
            episodes=self.progress.episodes,
            held_out_success=result.success if scored else None,
            interval=result.interval if scored else None,
            rates=rates(result.episodes),
            failures=failure_classes(result.episodes),
            assurance=assurances(result.episodes),
            task_set_hash=result.task_hash,
            cpu_seconds=cpu,
            wall_seconds=wall,
            peak_rss_mb=run_folder.peak_rss_mb(),
            stopped=stopped,
            sandbox=result.sandbox,
        )
