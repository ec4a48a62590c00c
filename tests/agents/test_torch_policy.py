"""A model as a policy: every token that was fed or sampled is kept, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from turnwise.agents.loop import run_episode
from turnwise.agents.policy import EpisodeKey
from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.agents.torch.engine import Engine
from turnwise.agents.torch.logprobs import sequence_logprobs
from turnwise.agents.torch.model import init_model
from turnwise.agents.torch_policy import InexactTokens, TorchActor, TorchPolicy, load_policy
from turnwise.agents.trajectory import Decision, Episode, Sampling, Span
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import AgentView, EndReason, EpisodeLimits, InvalidAction, Task, call, text


class Parrot(Env):
    """Answers every turn with another text; words count as well as calls."""

    name = "test/parrot"
    limits = EpisodeLimits(turns=5)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 100)

    async def reset(self, task: Task) -> AgentView:
        return text(f"repeat {task.rng.randint(0, 999)}\nthen stop")

    @tool
    async def say(self, word: str) -> str:
        """Say a word."""
        return f"heard {word} é"

    async def grade(self) -> float:
        return 0.5


class OneEnv:
    """Sessions of this file's environment."""

    @asynccontextmanager
    async def open(self, env: str | EnvSpec, *, task: Task) -> AsyncIterator[Session]:
        async with Session(Parrot(), task) as session:
            yield session


@dataclass(frozen=True, slots=True)
class Learner:
    """A small random model and its renderer."""

    model: PreTrainedModel
    renderer: CompactRenderer


@pytest.fixture(scope="module")
def learner() -> Learner:
    renderer = CompactRenderer(
        build_tokenizer(["error: unknown tool", "repeat then stop say heard"], words=24)
    )
    config = {
        "model_type": "qwen3",
        "vocab_size": len(renderer.tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    }
    model = init_model(config, seed=0, device="cpu")
    with torch.no_grad():  # sharper than an untrained model, so that wrong positions show
        model.get_output_embeddings().weight.mul_(20)
    return Learner(model, renderer)


def tasks(seed: int, count: int) -> list[Task]:
    every = Parrot().task_set("train")
    return [every[(seed + i) % len(every)] for i in range(count)]


async def run(policy: TorchPolicy, tasks: list[Task], seed: int = 0) -> list[Episode]:
    """Episodes, all at once."""
    keys = [EpisodeKey(f"e{i}", f"g{i}", seed * 1000 + i, order=i) for i in range(len(tasks))]
    spec = EnvSpec(name=Parrot.name)
    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        running = [
            group.create_task(run_episode(OneEnv(), spec, task, policy, key))
            for task, key in zip(tasks, keys, strict=True)
        ]
    return [one.result() for one in running]


def spans_of(episode: Episode) -> list[Span]:
    return [span for turn in episode.turns for span in turn.spans]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    max_tokens=st.sampled_from([1, 7, 60]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    max_context=st.sampled_from([70, 1024]),
)
def test_recorded_log_probabilities_are_those_of_the_recorded_tokens(
    learner: Learner, seed: int, max_tokens: int, temperature: float, max_context: int
) -> None:
    """One token lost, added or moved anywhere would change what follows it."""

    async def rollout() -> list[Episode]:
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        async with Engine(learner.model, max_context=max_context) as engine:
            return await run(TorchPolicy(engine, learner.renderer, sampling=sampling), tasks(seed, 5), seed)

    for episode in asyncio.run(rollout()):
        spans = spans_of(episode)
        ids = [token for span in spans for token in span.ids]
        with torch.no_grad():
            fresh = sequence_logprobs(learner.model, torch.tensor([ids]), temperature=temperature)[0].tolist()
        position = 0
        for span in spans:
            if span.logprobs is not None:
                expected = fresh[position - 1 : position - 1 + len(span.ids)]
                assert list(span.logprobs) == pytest.approx(expected, abs=1e-4)
            position += len(span.ids)
        assert len(ids) <= max_context


async def test_an_episode_is_opening_turns_and_observations(learner: Learner) -> None:
    renderer = learner.renderer
    async with Engine(learner.model) as engine:
        policy = TorchPolicy(engine, renderer, sampling=Sampling(max_tokens=80), name="me")
        episodes = await run(policy, tasks(0, 16))
    stops = 0
    for episode in episodes:
        assert episode.policy == "me"
        assert episode.end is EndReason.TURN_LIMIT
        view, last = episode.opening, None
        for turn in episode.turns:
            *fed, written = turn.spans
            opening = renderer.opening("", view)
            cut = last is not None and last.ids[-1] != renderer.stop_id
            expected = [Span((renderer.stop_id,), "forced")] * cut
            expected.append(Span(opening if last is None else renderer.observation(view), "env"))
            assert fed == expected
            assert (written.source, written.author) == ("policy", "me")
            assert written.versions == (0,) * len(written.ids)
            assert len(written.ids) == 80 or written.ids[-1] == renderer.stop_id
            assert (turn.action, turn.text) == renderer.parse(written.ids, episode.opening.tools)
            stops += written.ids[-1] == renderer.stop_id
            view, last = turn.observation, written
    assert 0 < stops < 16 * 5, "both kinds of turns must occur"


async def test_an_episode_ends_where_the_context_does(learner: Learner) -> None:
    async with Engine(learner.model, max_context=64) as engine:
        policy = TorchPolicy(engine, learner.renderer, sampling=Sampling(max_tokens=30))
        episodes = await run(policy, tasks(0, 12))
    lengths = {sum(len(span.ids) for span in spans_of(episode)) for episode in episodes}
    assert {episode.end for episode in episodes} == {EndReason.CONTEXT_LIMIT}
    assert max(lengths) == 64
    assert all(episode.score == 0.5 for episode in episodes)


async def test_an_opening_longer_than_the_context_is_a_decision_without_tokens(learner: Learner) -> None:
    async with Engine(learner.model, max_context=8) as engine, Session(Parrot(), tasks(0, 1)[0]) as session:
        policy = TorchPolicy(engine, learner.renderer, sampling=Sampling())
        async with policy.open(EpisodeKey("e", "g", 0), session) as actor:
            decision = await actor.act(text("many words " * 9))
    invalid = InvalidAction(text="", error="the context is full")
    assert decision == Decision(invalid, context_full=True)


async def test_an_actor_gives_its_place_in_the_engine_back(learner: Learner) -> None:
    async with Engine(learner.model, max_sequences=1) as engine:
        policy = TorchPolicy(engine, learner.renderer, sampling=Sampling(max_tokens=4))

        async def broken() -> None:
            async with (
                Session(Parrot(), tasks(0, 1)[0]) as session,
                policy.open(EpisodeKey("e", "g", 0), session) as actor,
            ):
                await actor.act(await session.reset())
                raise RuntimeError("the environment broke")

        with pytest.raises(RuntimeError, match="the environment broke"):
            await broken()
        assert len(await run(policy, tasks(0, 3))) == 3


async def test_a_lost_token_is_noticed(learner: Learner) -> None:
    async with Engine(learner.model) as engine:
        sequence = engine.open(EpisodeKey("e", "g", 0))
        actor = TorchActor(sequence, learner.renderer, Sampling(max_tokens=3), "me", "")
        await actor.act(text("repeat"))
        await sequence.generate((5,), Sampling(max_tokens=1), frozenset())
        with pytest.raises(InexactTokens, match="in the engine"):
            await actor.act(text("then stop"))
        sequence.close()


async def test_tools_shown_at_the_start_are_known_in_every_turn(learner: Learner) -> None:
    """Later views repeat no tools; a call must still be read."""
    teach = learner.renderer.encode(call("say", word="stop"), Parrot.interface.specs)
    model = init_model(learner.model.config.to_dict(), seed=1, device="cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    view = text("repeat").model_copy(update={"tools": Parrot.interface.specs})
    said = text("heard stop é")
    ids = (*learner.renderer.opening("", view), *teach, *learner.renderer.observation(said), *teach)
    batch = torch.tensor([ids])
    for _ in range(60):
        loss = -sequence_logprobs(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    async with Engine(model) as engine, Session(Parrot(), tasks(0, 1)[0]) as session:
        policy = TorchPolicy(engine, learner.renderer, sampling=Sampling(temperature=0))
        async with policy.open(EpisodeKey("e", "g", 0), session) as actor:
            first, second = await actor.act(view), await actor.act(said)
    assert first.action == second.action == call("say", word="stop")
    assert not first.truncated
    assert tuple(i for d in (first, second) for span in d.spans for i in span.ids) == ids


async def test_a_saved_model_acts_like_the_one_in_memory(learner: Learner, tmp_path: Path) -> None:
    learner.model.save_pretrained(tmp_path)
    learner.renderer.tokenizer.save_pretrained(tmp_path)
    sampling = Sampling(max_tokens=12)
    async with Engine(learner.model) as engine:
        expected = await run(TorchPolicy(engine, learner.renderer, sampling=sampling), tasks(0, 3))
    async with load_policy(tmp_path, sampling=sampling, device="cpu", dtype="float32") as policy:
        assert policy.name == str(tmp_path)
        loaded = await run(policy, tasks(0, 3))
    for one, other in zip(expected, loaded, strict=True):
        assert [s.ids for s in spans_of(one)] == [s.ids for s in spans_of(other)]


async def test_a_folder_without_a_model_is_refused(learner: Learner, tmp_path: Path) -> None:
    async def load() -> None:
        async with load_policy(tmp_path, sampling=Sampling(), device="cpu"):
            pass

    with pytest.raises(UsageError, match=r"no config\.json"):
        await load()
    learner.model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"no tokenizer_config\.json"):
        await load()
    build_tokenizer(["a b c d e f g h " + " ".join(map(str, range(100, 200)))]).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="the tokenizer has"):
        await load()
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match="no causal language model could be loaded") as refused:
        await load()
    assert "\n" not in str(refused.value)
