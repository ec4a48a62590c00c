"""Our side of ``benchmarks/trl.py``, which starts it and says what is measured.

    python -P benchmarks/trl_ours.py {model,tokenizer,train,tools} SHAPE

``model`` and ``tokenizer`` write what both sides load. The others do a round for every line they read
and answer with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from turnwise.agents.chat_renderer import ChatRenderer
from turnwise.agents.policy import EpisodeKey
from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.agents.torch import Completion, Engine, init_model, load_model
from turnwise.agents.torch_policy import TorchPolicy
from turnwise.agents.trajectory import Sampling
from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EpisodeLimits, Task, text
from turnwise.trainer.columns import base_columns
from turnwise.trainer.learner import Learner
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.stage import find_stage
from turnwise.trainer.table import TurnTable

QUICKSTART: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
WORDS = [f"w{n:02}" for n in range(90)]
GROUP, TOKENS, SAID = 8, 64, 10
"""Completions of a prompt, tokens of a completion, words of a prompt."""
EPISODES, CALLS = 16, 8
CALL = '<tool_call>\n{"name": "nothing", "arguments": {"n": 1, "word": "x"}}\n</tool_call>'
ANSWER = "Done."
ROLES = ["system", "user", "assistant", "<tool_response>", "</tool_response>"]
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>"]


def prompts(count: int) -> list[str]:
    """The texts of the prompts."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=SAID)) for _ in range(count)]


class Prompted(Env):
    """A prompt, a turn, and a score that comes by chance."""

    name = "benchmark/prompted"
    limits = EpisodeLimits(turns=1)
    texts: tuple[str, ...] = ()

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        return text(self.texts[task.ref.seed % len(self.texts)])

    async def grade(self) -> float:
        return random.random()


class Nothing(Env):
    """Call the tool, then answer."""

    name = "benchmark/nothing"
    limits = EpisodeLimits(turns=CALLS + 1)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1000)

    async def reset(self, task: Task) -> AgentView:
        return text(f"go {task.ref.seed}")

    @tool
    async def nothing(self, n: int, word: str) -> str:
        """Do nothing."""
        return str(random.randrange(10**9))

    async def grade(self) -> float:
        return 1.0


class Endless(CompactRenderer):
    """Sampling goes on until the turn has all its tokens."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.stop_ids = frozenset()


# ---------------------------------------------------------------- training


class Training:
    """Training steps as :class:`turnwise.trainer.train.TrainingLoop` takes them."""

    def __init__(self, shape: dict[str, Any], engine: Engine, model: Any, tokenizer: Any) -> None:
        self.engine, self.shape = engine, shape
        self.policy = TorchPolicy(engine, Endless(tokenizer), sampling=Sampling(max_tokens=TOKENS))
        recipe = Recipe.load("quickstart-outcome").override(optimizer={"minibatch": shape["minibatch"]})
        self.learner = Learner(model, recipe.optimizer, recipe.loss)
        self.spec = EnvSpec(name=Prompted.name)
        self.tasks = self.spec.make().task_set("train")[: shape["prompts"]]
        self.channels = Prompted.channels()
        listed = [find_stage(name).bind({}) for name in ("outcome", "grpo")]
        self.pipeline = Pipeline.build(listed, base_columns((), self.channels), GROUP)
        self.number = 0

    async def round(self, envs: LocalEnvs) -> dict[str, Any]:
        """One step."""
        self.number += 1
        plan = RolloutPlan(self.tasks, GROUP, 0, f"step-{self.number}", concurrency=256)
        start = clocks()
        episodes = await rollout(envs, self.spec, self.policy, plan)
        rolled = clocks()
        await asyncio.to_thread(self._learn, episodes)
        await self.engine.refresh()
        done = clocks()
        count = sum(episode.sampled_tokens for episode in episodes)
        assert count == self.shape["prompts"] * GROUP * TOKENS
        return {
            "tokens": count,
            "generated": between(start, rolled),
            "trained": between(rolled, done),
            "whole": between(start, done),
        }

    def _learn(self, episodes: list[Any]) -> None:
        table = TurnTable.from_episodes(episodes, (), self.channels)
        credit = self.pipeline.run(table, {})
        stats = self.learner.update(credit.table, temperature=1.0, seed=(0, self.number), max_gap=0.1)
        assert stats.tokens == sum(episode.sampled_tokens for episode in episodes)


async def train(shape: dict[str, Any]) -> None:
    """Rounds of training."""
    folder = Path(shape["folder"])
    Prompted.texts = tuple(prompts(shape["prompts"]))
    model = load_model(folder, device="cpu", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    async with Engine(model) as engine, LocalEnvs() as envs:
        training = Training(shape, engine, model, tokenizer)
        async for _ in rounds():
            answer({**await training.round(envs), "peak_mb": peak_mb()})


# ---------------------------------------------------------------- tools


@dataclass(slots=True)
class ScriptedSequence:
    """Samples what the script says, turn after turn; other episodes get their turn in between."""

    script: tuple[tuple[int, ...], ...]
    length: int = 0
    turn: int = 0

    async def generate(self, ids: Iterable[int], sampling: Sampling, stop: frozenset[int]) -> Completion:
        await asyncio.sleep(0)
        said = self.script[self.turn]
        self.turn += 1
        self.length += len(list(ids)) + len(said)
        return Completion(said, (0.0,) * len(said), (0,) * len(said), "stop")

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class ScriptedEngine:
    """Stands where the engine stands, without a model."""

    script: tuple[tuple[int, ...], ...]

    def open(self, key: EpisodeKey) -> ScriptedSequence:
        return ScriptedSequence(self.script)


async def tools(shape: dict[str, Any]) -> None:
    """Rounds of episodes with tool calls."""
    tokenizer = AutoTokenizer.from_pretrained(Path(shape["folder"], "chat"))
    said = [CALL] * CALLS + [ANSWER]
    script = tuple(tuple(tokenizer.encode(one + CHAT_TOKENS[1], split_special_tokens=False)) for one in said)
    stand_in: Any = ScriptedEngine(script)
    policy = TorchPolicy(stand_in, ChatRenderer(tokenizer), sampling=Sampling())
    spec = EnvSpec(name=Nothing.name)
    known = spec.make().task_set("train")
    unique = EPISODES // GROUP
    async with LocalEnvs() as envs:
        async for number in rounds():
            tasks = known[unique * number : unique * (number + 1)]
            start = clocks()
            done = await rollout(envs, spec, policy, RolloutPlan(tasks, GROUP, 0, f"tools-{number}"))
            took = between(start, clocks())
            assert all(turn.record.valid for episode in done for turn in episode.turns[:CALLS])
            assert {len(episode.turns) for episode in done} == {CALLS + 1}
            answer({"calls": EPISODES * CALLS, **took})


# ---------------------------------------------------------------- both


def clocks() -> tuple[float, float]:
    """Processor time of this process, and the time of day."""
    return time.process_time(), time.perf_counter()


def between(start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    """Seconds of each clock."""
    return {"cpu": end[0] - start[0], "wall": end[1] - start[1]}


def peak_mb() -> float:
    """The largest resident size so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def rounds() -> AsyncIterator[int]:
    """A number for every line of standard input."""
    number = 0
    while await asyncio.to_thread(sys.stdin.readline):
        yield number
        number += 1


def answer(row: dict[str, Any]) -> None:
    """A line to whoever asked."""
    print(json.dumps(row), flush=True)


def write_model(shape: dict[str, Any]) -> None:
    """The weights, and the tokenizer of the quickstart's kind."""
    tokenizer = build_tokenizer([" ".join(WORDS)])
    config = {**QUICKSTART, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    init_model(config, seed=0, device="cpu", dtype="float32").save_pretrained(shape["folder"])
    tokenizer.save_pretrained(shape["folder"])


def write_tokenizer(shape: dict[str, Any]) -> None:
    """A tokenizer for chats: the words of a call are tokens, as in a large vocabulary."""
    schemas = json.dumps([spec.model_dump() for spec in Nothing.interface.specs])
    tokenizer = build_tokenizer([CALL, ANSWER, schemas, Nothing.__doc__ or "", *ROLES])
    tokenizer.add_special_tokens({"additional_special_tokens": CHAT_TOKENS, "eos_token": CHAT_TOKENS[1]})
    tokenizer.save_pretrained(Path(shape["folder"], "chat"))


def main() -> None:
    kind, shape = sys.argv[1], json.loads(sys.argv[2])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    register(Prompted)
    register(Nothing)
    match kind:
        case "model":
            write_model(shape)
        case "tokenizer":
            write_tokenizer(shape)
        case "train":
            asyncio.run(train(shape))
        case "tools":
            asyncio.run(tools(shape))


if __name__ == "__main__":
    main()
