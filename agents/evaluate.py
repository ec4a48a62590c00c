"""Held-out evaluation of any policy on any environment.

A policy is named ``scripted:oracle``, or by the folder of a run or of a Hugging Face model, or is an
object. Every task of the panel is tried ``k`` times; the panel is the first tasks of the split, the
same for everyone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from turnwise.agents.loop import Envs
from turnwise.agents.metrics import Evaluation
from turnwise.agents.policy import Policy
from turnwise.agents.rollout import Listener, RolloutPlan, rollout
from turnwise.agents.scripted import SCRIPTED, scripted
from turnwise.agents.trajectory import Sampling
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.given import check_whole
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.tasks import check_split

DEFAULT_TASKS = 128


async def evaluate(
    env: str | EnvSpec,
    policy: str | Path | Policy,
    *,
    split: str = "test",
    tasks: int | None = None,
    k: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    backend: str | None = None,
    envs: Envs | None = None,
    concurrency: int = 128,
    listener: Listener | None = None,
) -> Evaluation:
    """Run a policy on the first ``tasks`` tasks of a split (None: all, up to 128), ``k`` episodes each.

    ``sampling`` is for policies loaded from a folder; ``envs`` for environments elsewhere than in this
    process. Raises ``UsageError`` for an unknown environment, split, policy or folder, and for a number that
    is none.
    """
    spec = EnvSpec.parse(env)
    instance = spec.make()
    task_set = instance.task_set(check_split(split))
    if not len(task_set):
        raise UsageError(f"split {split!r} of {spec} has 0 tasks")
    tasks = min(len(task_set), DEFAULT_TASKS) if tasks is None else check_whole("tasks", tasks)
    if tasks < 1 or check_whole("k", k) < 1:
        raise UsageError(f"tasks={tasks}, k={k}: both must be at least 1")
    if tasks > len(task_set):
        raise UsageError(f"tasks={tasks}: split {split!r} of {spec} has {len(task_set)}")
    seed, concurrency = check_whole("seed", seed), check_whole("concurrency", concurrency, least=1)
    plan = RolloutPlan(task_set[:tasks], k, seed, f"eval-{split}", concurrency=concurrency)
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        if envs is None:
            envs = await stack.enter_async_context(LocalEnvs(backend=backend, capacity=concurrency))
        actor = await stack.enter_async_context(open_policy(policy, sampling))
        episodes = await rollout(envs, spec, actor, plan, listener)
        name, sandbox = actor.name, None
        if isinstance(envs, LocalEnvs):
            sandbox = await asyncio.to_thread(envs.record, instance.sandbox_spec)
    return Evaluation(
        env=str(spec),
        policy=str(policy) if isinstance(policy, str | Path) else name,
        split=split,
        task_hash=task_set.hash,
        episodes=tuple(episodes),
        seconds=time.perf_counter() - started,
        sandbox=sandbox,
    )


@asynccontextmanager
async def open_policy(policy: str | Path | Policy, sampling: Sampling | None = None) -> AsyncIterator[Policy]:
    """A policy from what names it; what was loaded is let go with the block."""
    if not isinstance(policy, str | Path):
        yield policy
    elif str(policy) in SCRIPTED or str(policy).startswith("scripted:"):
        yield scripted(str(policy))
    else:
        from turnwise.agents.torch_policy import load_policy

        async with load_policy(model_folder(Path(policy)), sampling=sampling or Sampling()) as loaded:
            yield loaded


def model_folder(path: Path) -> Path:
    """The model of a run's newest checkpoint, or the folder itself where it is a model's.

    Raises ``UsageError`` for anything else.
    """
    found = _model_in(path)
    if found is not None:
        return found
    if path.exists():
        raise UsageError(f"policy {str(path)!r}: neither a run with a checkpoint nor a model's folder")
    beside = [str(other) for other in path.parent.glob("*") if _model_in(other) is not None]
    raise unknown("policy", str(path), [*SCRIPTED, *beside])


def _model_in(path: Path) -> Path | None:
    latest = path / "checkpoints" / "latest"
    if latest.is_file():
        return path / "checkpoints" / latest.read_text(encoding="utf-8").strip() / "model"
    return path if (path / "config.json").is_file() else None
