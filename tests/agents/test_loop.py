"""Episodes from end to end with scripted policies: ends, retries, exclusions, order and names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from turnwise.agents.evaluate import evaluate, model_folder
from turnwise.agents.loop import run_with_retries
from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession
from turnwise.agents.rollout import RolloutPlan, episode_keys, rollout
from turnwise.agents.scripted import imperfect, scripted
from turnwise.agents.trajectory import Decision, Episode, Sampling
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import Action, AgentView, EndReason, EpisodeLimits, Task, TextAction, call, text
from turnwise.sandbox.contract import LimitExceeded, SandboxDied


class Counter(Env):
    """Say ``up`` three times, then ``stop``; ``break_`` names what goes wrong in which episode."""

    name = "test/counter"
    limits = EpisodeLimits(turns=6)
    failures = 0
    """How many of the next resets fail as if the machine had."""

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 50)

    async def reset(self, task: Task) -> AgentView:
        if Counter.failures > 0:
            Counter.failures -= 1
            raise SandboxDied("killed")
        self.count = 0
        return text("count to three")

    @tool
    async def up(self) -> str:
        """Add one."""
        self.count += 1
        return str(self.count)

    @tool
    def hog(self) -> str:
        """Use too much memory."""
        raise LimitExceeded("memory", "64 MiB are used up")

    @tool
    def bug(self) -> str:
        """Hit a bug of the environment's."""
        raise KeyError("bug")

    @tool
    def die(self) -> str:
        """Lose the sandbox."""
        raise SandboxDied("gone")

    @tool(submits=True)
    def stop(self) -> str:
        """Submit."""
        return "submitted"

    @milestone
    def halfway(self) -> bool:
        return self.count >= 2

    async def grade(self) -> float:
        return float(self.count == 3)

    async def oracle(self) -> Action:
        return call("up") if self.count < 3 else call("stop")


register(Counter)
SPEC = EnvSpec(name="test/counter")


class Saying:
    """A policy that says the same thing over and over."""

    name = "saying"
    sampling: Sampling | None = None

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    async def act(self, view: AgentView) -> Decision:
        return self.decision

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: EpisodeSession) -> AsyncIterator[Actor]:
        yield self


async def play(policy: Saying, retries: int = 0) -> Episode:
    task = Counter().task_set("train")[0]
    async with LocalEnvs() as envs:
        return await run_with_retries(envs, SPEC, task, policy, EpisodeKey("e", "g", 1), retries=retries)


async def test_the_oracle_solves_it_and_noop_does_not() -> None:
    best = await evaluate("test/counter", "scripted:oracle", tasks=5, k=2)
    assert best.success == 1.0
    assert best.pass_at(2) == 1.0
    episode = best.episodes[0]
    assert episode.end is EndReason.SUBMITTED
    assert [t.record.milestones for t in episode.turns] == [(), ("halfway",), (), ()]
    assert [t.parent_id for t in episode.turns] == [None, *(t.turn_id for t in episode.turns[:-1])]
    assert (await evaluate("test/counter", "scripted:noop", tasks=5)).success == 0.0


@pytest.mark.parametrize(
    ("name", "end", "score"),
    [
        ("up", EndReason.TURN_LIMIT, 0.0),
        ("hog", EndReason.AGENT_FAULT, 0.0),
        ("bug", EndReason.ENV_ERROR, None),
        ("die", EndReason.INFRA_ERROR, None),
    ],
)
async def test_every_end_has_its_reason(name: str, end: EndReason, score: float | None) -> None:
    episode = await play(Saying(Decision(call(name))))
    assert episode.end is end
    assert episode.score == score


async def test_what_cannot_be_read_is_shown_counted_and_survived() -> None:
    episode = await play(Saying(Decision(TextAction(text="hm"))))
    assert episode.end is EndReason.TURN_LIMIT
    assert [t.record.valid for t in episode.turns] == [False] * 6
    assert "call a tool" in episode.turns[0].observation.text


async def test_a_full_context_ends_the_episode_with_a_grade() -> None:
    episode = await play(Saying(Decision(TextAction(text=""), context_full=True)))
    assert episode.end is EndReason.CONTEXT_LIMIT
    assert episode.score == 0.0
    assert episode.turns == ()


async def test_a_failing_machine_is_tried_again_and_never_scored_zero() -> None:
    Counter.failures = 1
    once = await play(Saying(Decision(call("up"))), retries=1)
    assert once.end is EndReason.TURN_LIMIT
    assert once.retries == 1
    Counter.failures = 2
    twice = await play(Saying(Decision(call("up"))), retries=1)
    assert twice.end is EndReason.INFRA_ERROR
    assert twice.score is None
    assert twice.retries == 1


async def test_a_policys_own_error_stops_the_batch() -> None:
    class Broken(Saying):
        async def act(self, view: AgentView) -> Decision:
            raise FloatingPointError("NaN")

    plan = RolloutPlan(Counter().task_set("train")[:3], 2, 0, "x")
    with pytest.raises(ExceptionGroup) as caught:
        async with LocalEnvs() as envs:
            await rollout(envs, SPEC, Broken(Decision(call("up"))), plan)
    assert caught.group_contains(FloatingPointError)


async def test_a_plan_names_its_episodes_and_streams() -> None:
    tasks = Counter().task_set("train")[:3]
    plan = RolloutPlan(tasks, 2, 7, "train-1", concurrency=2)
    async with LocalEnvs() as envs:
        first = await rollout(envs, SPEC, imperfect(0.7), plan)
        second = await rollout(envs, SPEC, imperfect(0.7), plan)
    assert [e.episode_id for e in first] == [f"train-1/{g}-{i}" for g in range(3) for i in range(2)]
    assert [[t.text for t in e.turns] for e in first] == [[t.text for t in e.turns] for e in second]
    seeds_of = {key.seed for _, key in episode_keys(plan)}
    assert len(seeds_of) == 6
    other = episode_keys(RolloutPlan(tasks, 2, 8, "train-1"))
    assert seeds_of.isdisjoint(key.seed for _, key in other)


async def test_names_that_lead_nowhere_are_refused_in_one_line() -> None:
    for policy in ("scripted:orakel", "nowhere"):
        with pytest.raises(UsageError) as caught:
            await evaluate("test/counter", policy, tasks=1)
        assert "\n" not in str(caught.value)
        assert policy in str(caught.value)
    with pytest.raises(UsageError, match="99"):
        await evaluate("test/counter", "scripted:noop", tasks=99)
    with pytest.raises(UsageError, match="scripted:random"):
        scripted("scripted:randm")


def test_a_model_folder_is_found(tmp_path: Path) -> None:
    run = tmp_path
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "latest").write_text("000003")
    assert model_folder(run) == run / "checkpoints" / "000003" / "model"
