"""Everything a run needs, checked first and then opened: environments, model, engine, learner.

:func:`prepare` finds what can be known to be wrong without doing any work. :func:`open_parts` then
builds the rest, from the folder's newest checkpoint where there is one, and closes it all again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turnwise.agents.chat_renderer import renderer_for
from turnwise.agents.renderer import Renderer
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import imperfect
from turnwise.agents.store import read_episodes, write_episodes
from turnwise.agents.tokenizer import build_tokenizer, load_tokenizer
from turnwise.agents.torch import Engine, init_model, load_model
from turnwise.agents.torch.model import resolve_device
from turnwise.agents.torch_policy import TorchPolicy
from turnwise.agents.trajectory import Episode, Sampling
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.tasks import TaskSet
from turnwise.sandbox.backends import require
from turnwise.sandbox.contract import BackendUnavailable
from turnwise.trainer import checkpoint
from turnwise.trainer.checkpoint import Progress
from turnwise.trainer.columns import base_columns
from turnwise.trainer.demonstrations import Demonstration, recorded, render, transcript
from turnwise.trainer.learner import Learner
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.recipe import FolderModel, Recipe, TinyModel, WarmStart
from turnwise.trainer.run_folder import Clock, writing
from turnwise.trainer.tracker import Watcher

DEMONSTRATIONS = "demonstrations.jsonl"
"""Where a run keeps what its warm start imitates."""
TOKENIZER = "tokenizer"
"""Where a run is given the tokenizer its demonstrations were written with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe that was checked against its environment."""

    recipe: Recipe
    env: Env
    pipeline: Pipeline

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return self.env.task_set(split)

    @property
    def concurrency(self) -> int:
        """Episodes open at once. In deterministic mode a batch is one wave, so all of them."""
        recipe = self.recipe
        largest = max(recipe.rollout.tasks * recipe.rollout.group, recipe.evaluate.tasks)
        return largest if recipe.deterministic else recipe.rollout.concurrency

    @property
    def sampling(self) -> Sampling:
        """How the learner samples."""
        rollout = self.recipe.rollout
        return Sampling(temperature=rollout.temperature, max_tokens=rollout.max_tokens)


def prepare(recipe: Recipe) -> Plan:
    """Check everything that needs no work. Raises ``UsageError``."""
    plan = read(recipe)
    for check in CHECKS:
        check(plan)
    check_training_tasks(plan)
    return plan


def read(recipe: Recipe) -> Plan:
    """Check what the recipe alone says. Raises ``UsageError``."""
    env = recipe.env.make()
    return Plan(recipe, env, recipe.pipeline(base_columns(env.milestone_names(), env.channels())))


def lacking(plan: Plan) -> list[str]:
    """What a run of the plan would need and this machine does not have, a line each."""
    lines = []
    for check in CHECKS:
        try:
            check(plan)
        except UsageError as error:
            lines.append(str(error))
    return lines


def check_training_tasks(plan: Plan) -> None:
    """Raises ``UsageError`` where there is nothing to train on, which no other machine would have either."""
    recipe = plan.recipe
    if not len(plan.tasks("train")):
        raise UsageError(
            f"recipe {recipe.name}: env={recipe.env} has no tasks in split 'train'; add some, or choose "
            "another environment with --set env=NAME"
        )


def _check_tasks(plan: Plan) -> None:
    recipe = plan.recipe
    for split in (recipe.evaluate.split, "test"):
        size = len(plan.env.task_set(split))
        if recipe.evaluate.tasks > size:
            raise UsageError(
                f"recipe {recipe.name}: evaluate.tasks={recipe.evaluate.tasks}, but split {split!r} of "
                f"{recipe.env} has {size} tasks"
            )


def _check_device(plan: Plan) -> None:
    try:
        resolve_device(plan.recipe.device)
    except ValueError as error:
        raise UsageError(f"recipe {plan.recipe.name}: {error}") from None


def _check_backend(plan: Plan) -> None:
    recipe = plan.recipe
    if plan.env.sandbox_spec is not None and recipe.backend != "auto":
        try:
            require(recipe.backend)
        except BackendUnavailable as error:
            raise UsageError(f"recipe {recipe.name}: {error}") from None


def _check_model(plan: Plan) -> None:
    recipe = plan.recipe
    match recipe.model:
        case FolderModel(path=path):
            if not (Path(path) / "config.json").is_file():
                raise UsageError(f"recipe {recipe.name}: model.path={path!r} has no config.json")
            load_tokenizer(Path(path))
        case TinyModel(hidden_size=size, heads=heads, kv_heads=kv_heads):
            if heads % kv_heads or size < 2 * heads or size // heads % 2:
                raise UsageError(
                    f"recipe {recipe.name}: model: hidden_size={size}, heads={heads}, kv_heads={kv_heads}: "
                    "kv_heads must divide heads, and a head's size, hidden_size / heads, must be even"
                )


CHECKS = (_check_tasks, _check_device, _check_model, _check_backend)


@dataclass(slots=True)
class Parts:
    """What a run works with."""

    plan: Plan
    folder: Path
    envs: LocalEnvs
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    model: PreTrainedModel
    engine: Engine
    policy: TorchPolicy
    learner: Learner
    progress: Progress
    clock: Clock
    demonstrations: list[Demonstration]
    """What a warm start imitates; empty where there is none or it is over."""
    checkpoint: Path | None
    """What this was restored from."""


@asynccontextmanager
async def open_parts(plan: Plan, folder: Path, watcher: Watcher | None) -> AsyncIterator[Parts]:
    """Open all of it, and close it with the block."""
    recipe = plan.recipe
    torch.set_num_threads(1)
    saved = checkpoint.latest(folder)
    progress = checkpoint.load_progress(saved) if saved else Progress()
    clock = Clock.start(progress.wall_seconds, progress.cpu_seconds)
    backend = None if recipe.backend == "auto" else recipe.backend
    async with LocalEnvs(backend=backend, capacity=plan.concurrency) as envs:
        shown: list[Episode] = []
        if progress.phase == "warm_start" and (recipe.warm_start or isinstance(recipe.model, TinyModel)):
            shown = await demonstrate(plan, folder, envs, watcher)
        tokenizer = await asyncio.to_thread(_tokenizer, plan, folder, saved, shown)
        model = await asyncio.to_thread(_model, recipe, saved, tokenizer)
        renderer = renderer_for(tokenizer)
        env = type(plan.env)
        learner = Learner(model, recipe.optimizer, recipe.loss)
        if saved and progress.step:
            checkpoint.load_optimizer(saved, learner.optimizer)
        engine = Engine(model, max_sequences=plan.concurrency, deterministic=recipe.deterministic)
        async with engine:
            policy = TorchPolicy(engine, renderer, sampling=plan.sampling)
            yield Parts(
                plan=plan,
                folder=folder,
                envs=envs,
                tokenizer=tokenizer,
                renderer=renderer,
                model=model,
                engine=engine,
                policy=policy,
                learner=learner,
                progress=progress,
                clock=clock,
                demonstrations=[
                    recorded(episode) or render(episode, renderer, env)
                    for episode in (shown if recipe.warm_start else ())
                ],
                checkpoint=saved,
            )


async def demonstrate(plan: Plan, folder: Path, envs: LocalEnvs, watcher: Watcher | None) -> list[Episode]:
    """Episodes of the scripted demonstrator, played once and kept in ``demonstrations.jsonl``.

    Where the environment has no oracle they are random well-formed actions: they teach the form.
    """
    path = folder / DEMONSTRATIONS
    if path.exists():
        return list(read_episodes(path))
    recipe = plan.recipe
    settings = recipe.warm_start or WarmStart(demonstrations=64)
    tasks, done = plan.tasks("train"), 0

    def ended(_: Episode) -> None:
        nonlocal done
        done += 1
        if watcher is not None:
            watcher.phase("demonstrations", done, settings.demonstrations)

    batch = RolloutPlan(
        tasks=[tasks.nth(i) for i in range(settings.demonstrations)],
        group_size=1,
        seed=recipe.seed,
        label="demonstration",
        concurrency=plan.concurrency,
        retries=recipe.rollout.retries,
    )
    demonstrator = imperfect(settings.oracle if plan.env.has_oracle() else 0.0)
    episodes = await rollout(envs, recipe.env, demonstrator, batch, ended)
    good = [episode for episode in episodes if episode.score is not None]
    if not good:
        raise UsageError(f"no demonstration of {recipe.env} could be played: {episodes[0].error}")
    with writing(path):
        write_episodes(path, good)
    return good


def _tokenizer(plan: Plan, folder: Path, saved: Path | None, shown: list[Episode]) -> PreTrainedTokenizerBase:
    recipe = plan.recipe
    if saved is not None:
        return load_tokenizer(saved / "model")
    if (folder / TOKENIZER).is_dir():
        return load_tokenizer(folder / TOKENIZER)
    if isinstance(recipe.model, FolderModel):
        return load_tokenizer(Path(recipe.model.path))
    return build_tokenizer(transcript(shown, type(plan.env)))


def _model(recipe: Recipe, saved: Path | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    if saved is not None:
        return load_model(saved / "model", device=recipe.device)
    match recipe.model:
        case FolderModel(path=path):
            return load_model(path, device=recipe.device)
        case TinyModel() as tiny:
            return init_model(tiny_config(tiny, tokenizer), seed=recipe.seed, device=recipe.device)


def tiny_config(tiny: TinyModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """The small Qwen3's configuration."""
    return {
        "model_type": "qwen3",
        "vocab_size": len(tokenizer),
        "hidden_size": tiny.hidden_size,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "head_dim": tiny.hidden_size // tiny.heads,
        "intermediate_size": tiny.ffn_size,
        "max_position_embeddings": tiny.context,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "initializer_range": tiny.hidden_size**-0.5,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
