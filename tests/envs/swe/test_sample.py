"""The committed sample: every task is what it says, can be solved, and is not solved by trying at random."""

from __future__ import annotations

import pytest

from turnwise.agents.evaluate import evaluate
from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.swe.bench import counted
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.sample.packages import packaged_tasks
from turnwise.envs.swe.sample.small import small_task
from turnwise.envs.types import SPLITS, EndReason
from turnwise.trainer.demonstrations import render, transcript

TASKS = {task.id: task for task in packaged_tasks()}
WHERE = {
    task.id: (task.split, [t.id for t in TASKS.values() if t.split == task.split]) for task in TASKS.values()
}


@pytest.mark.parametrize("name", TASKS)
async def test_a_task_is_broken_as_it_says_and_healed_by_its_reference(envs: LocalEnvs, name: str) -> None:
    split, listed = WHERE[name]
    async with envs.open("swe/sample", seed=listed.index(name), split=split) as session:
        await session.reset()
        env, task = session.env, TASKS[name]
        assert isinstance(env, SweEnv)
        assert session.task.id == name
        broken = await env.bench.trial({})
        assert broken.ended
        assert set(counted(task)) - broken.passed == set(task.fail_to_pass), broken.output
        healed = await env.bench.trial(await env.gold())
        assert healed.resolves(task), healed.output
        assert healed.visible, healed.output


def test_splits_share_no_module() -> None:
    modules = {split: {task.module for task in TASKS.values() if task.split == split} for split in SPLITS}
    assert all(modules.values())
    assert not modules["train"] & (modules["validation"] | modules["test"])
    assert not modules["validation"] & modules["test"]


def test_the_issue_does_not_name_the_spot() -> None:
    for task in TASKS.values():
        assert task.module not in task.issue
        assert all(line[1:].strip() not in task.issue for line in task.patch.splitlines() if line[:1] == "+")


async def test_the_oracle_solves_a_package_in_every_split() -> None:
    for split in SPLITS:
        result = await evaluate("swe/sample", "scripted:oracle", split=split, tasks=2, concurrency=2)
        assert result.success == 1.0, [episode.error for episode in result.episodes]
        for episode in result.episodes:
            assert set(episode.milestones) >= {"opened_fault", "patched", "first_fixed", "visible_passed"}


@pytest.mark.parametrize("policy", ["scripted:random", "scripted:noop"])
async def test_who_knows_nothing_solves_little(policy: str) -> None:
    result = await evaluate("swe/sample?level=1", policy, tasks=12, concurrency=4)
    assert not result.excluded
    assert result.success < 0.5


async def test_level_1_is_solved_by_the_oracle_with_every_milestone() -> None:
    result = await evaluate("swe/sample?level=1", "scripted:oracle", tasks=6, concurrency=4)
    assert result.success == 1.0
    for episode in result.episodes:
        assert episode.milestones == SweEnv.milestone_names()
        assert len(episode.turns) == 6


async def test_the_oracle_goes_on_after_an_agent_that_went_astray(envs: LocalEnvs) -> None:
    spec = EnvSpec.parse("swe/sample?level=1")
    for seed in range(4):
        async with envs.open(spec, seed=seed) as session:
            await session.reset()
            for _ in range(4):
                await session.step(session.env.random_action(session.task.rng))
                if session.end is not None:
                    break
            await _finish(session, session.env)
            assert session.end in (EndReason.SUBMITTED, EndReason.TURN_LIMIT)


async def _finish(session: Session, env: Env) -> None:
    for _ in range(6):
        if session.end is not None:
            return
        action = await env.oracle()
        assert action is not None
        step = await session.step(action)
        assert step.record is not None
        assert step.record.valid


def test_level_1_splits_ask_different_things() -> None:
    asked = {}
    for place, split in enumerate(SPLITS):
        tasks = [small_task((place << 32) + i) for i in range(150)]
        assert all(task.split == split for task in tasks)
        asked[split] = {task.patch.split("@@")[-1] for task in tasks}
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]


def test_level_1_is_the_same_everywhere() -> None:
    assert small_task(3).digest[:16] == "773d493fa08b6f3b"


async def test_level_1_is_said_in_few_words() -> None:
    """A small model's renderer can say every call of the oracle, and needs no bytes for what it reads."""
    result = await evaluate("swe/sample?level=1", "scripted:oracle", split="train", tasks=12, concurrency=4)
    env = type(EnvSpec.parse("swe/sample?level=1").make())
    tokenizer = build_tokenizer(transcript(result.episodes, env))
    renderer = CompactRenderer(tokenizer)
    lengths = [len(render(episode, renderer, env).ids) for episode in result.episodes]
    assert max(lengths) < 160
    words = len(tokenizer) - 256 - 4
    assert words < 120
