"""Episodes in a server's environments: the same as local ones, and never scored where the server failed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from turnwise import connect
from turnwise.agents.evaluate import evaluate
from turnwise.agents.loop import Envs, run_episode
from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession, Policy
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import imperfect, scripted
from turnwise.agents.trajectory import Decision, Episode, Sampling
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import milestone, tool
from turnwise.envs.types import Action, AgentView, EndReason, EpisodeLimits, Task, call, text


@register
class Lights(Env):
    """Switch the right ones of three lights on."""

    name = "test/lights"
    limits = EpisodeLimits(turns=6)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 64)

    async def reset(self, task: Task) -> AgentView:
        self.right = {light for light in range(3) if task.rng.random() < 0.5}
        self.on: set[int] = set()
        return text(f"switch {' '.join(map(str, sorted(self.right)))}")

    @tool
    async def switch(self, light: int) -> str:
        """Switch a light."""
        self.on ^= {light % 3}
        return f"on: {sorted(self.on)}"

    @tool(submits=True)
    async def done(self) -> str:
        """Submit."""
        return "submitted"

    @milestone
    def begun(self) -> bool:
        return bool(self.on)

    async def grade(self) -> float:
        return float(self.on == self.right)

    async def oracle(self) -> Action:
        left = sorted(self.on ^ self.right)
        return call("switch", light=left[0]) if left else call("done")


SPEC = EnvSpec(name=Lights.name)


@asynccontextmanager
async def remotely(*, sessions: int = 128, patience: float = 100.0) -> AsyncIterator[Envs]:
    async with (
        asyncio.timeout(300),
        EnvServer([SPEC], port=0, sessions=sessions, patience=patience) as server,
        connect(server.url) as envs,
    ):
        yield envs


def timeless(episodes: tuple[Episode, ...] | list[Episode]) -> list[Episode]:
    """All of the episodes but what a clock said."""
    return [
        replace(
            episode,
            seconds=0.0,
            turns=tuple(
                replace(turn, seconds=0.0, record=turn.record.model_copy(update={"seconds": 0.0}))
                for turn in episode.turns
            ),
        )
        for episode in episodes
    ]


@pytest.mark.parametrize("policy", ["scripted:random", "scripted:noop"])
async def test_an_evaluation_on_a_server_equals_one_here(policy: str) -> None:
    here = await evaluate(SPEC, policy, tasks=32, k=2)
    async with remotely(sessions=8) as envs:
        there = await evaluate(SPEC, policy, tasks=32, k=2, envs=envs)
    assert timeless(there.episodes) == timeless(here.episodes)
    assert there.task_hash == here.task_hash
    assert 0 < here.success < 1


@pytest.mark.parametrize("policy", [scripted("scripted:oracle"), imperfect(0.5)])
async def test_an_oracle_stays_with_its_environment(policy: Policy) -> None:
    async with remotely() as envs:
        with pytest.raises(ExceptionGroup) as refused:
            await evaluate(SPEC, policy, tasks=1, envs=envs)
    assert refused.group_contains(UsageError, match="not on a server; use scripted:random")


async def test_a_model_acts_on_a_server_as_it_does_here() -> None:
    import torch

    from turnwise.agents.renderer import CompactRenderer
    from turnwise.agents.tokenizer import build_tokenizer
    from turnwise.agents.torch.engine import Engine
    from turnwise.agents.torch.model import init_model
    from turnwise.agents.torch_policy import TorchPolicy

    renderer = CompactRenderer(build_tokenizer(["switch done submitted error on: unknown tool"], words=24))
    config = {
        "model_type": "qwen3",
        "vocab_size": len(renderer.tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    model = init_model(config, seed=0, device="cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    task = Lights().task_set("test")[5]
    async with Engine(model) as engine, LocalEnvs() as local, remotely() as remote:
        policy = TorchPolicy(engine, renderer, sampling=Sampling(max_tokens=8))
        here, there = [
            await run_episode(envs, SPEC, task, policy, EpisodeKey("e", "g", 3)) for envs in (local, remote)
        ]
    assert timeless([there]) == timeless([here])
    assert len(here.turns) > 1
    assert all(turn.spans for turn in here.turns)


async def test_no_room_is_the_machines_failure_and_tried_again() -> None:
    plan = RolloutPlan(Lights().task_set("train")[:2], 1, 0, "x", retries=2)
    async with remotely(sessions=1, patience=0.02) as envs, envs.open(SPEC, task=plan.tasks[0]):
        episodes = await rollout(envs, SPEC, scripted("scripted:random"), plan)
    for episode in episodes:
        assert (episode.end, episode.score, episode.retries) == (EndReason.INFRA_ERROR, None, 2)
        assert "no place" in episode.error


SERVER = """
import runpy, sys
from turnwise.cli import run
runpy.run_path(sys.argv[1])
sys.exit(run(["serve", "test/lights", "--port", "0", "--lease", "1"]))
"""


@dataclass
class Killer:
    """Switches lights; in the middle of it all it kills the server."""

    server: int
    acts: int = 0
    name: str = "killer"
    sampling: Sampling | None = None

    async def act(self, view: AgentView) -> Decision:
        self.acts += 1
        if self.acts == 20:
            os.kill(self.server, signal.SIGKILL)
        return Decision(call("switch", light=self.acts))

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: EpisodeSession) -> AsyncIterator[Actor]:
        yield self


async def test_a_server_killed_in_the_middle_scores_no_episode() -> None:
    plan = RolloutPlan(Lights().task_set("train")[:8], 2, 0, "x")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, __file__, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300):
            url = (await process.stdout.readline()).decode().split(" at ")[1].split(";")[0]
            async with connect(url) as envs:
                episodes = await rollout(envs, SPEC, Killer(process.pid), plan)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert {episode.end for episode in episodes} == {EndReason.INFRA_ERROR}
    assert {episode.score for episode in episodes} == {None}
    assert {episode.retries for episode in episodes} == {1}
