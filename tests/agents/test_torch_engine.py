"""The torch engine: what it samples, what it feeds, and how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from turnwise.agents.policy import EpisodeKey
from turnwise.agents.torch import Engine, EngineClosed, Sequence, init_model, sequence_logprobs
from turnwise.agents.trajectory import Sampling

VOCABULARY, CONTEXT = 60, 256
QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
GPT_NEOX = {**QWEN3, "model_type": "gpt_neox", "tie_word_embeddings": False}
MISTRAL_WINDOW = {**QWEN3, "model_type": "mistral", "sliding_window": 6}
NO_STOP: frozenset[int] = frozenset()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny()


def tiny(config: dict[str, Any] = QWEN3, dtype: str = "float32") -> PreTrainedModel:
    return init_model(config, seed=5, device="cpu", dtype=dtype)


def key(name: str, *, group: str = "", seed: int = 7, order: int = 0) -> EpisodeKey:
    return EpisodeKey(name, group or name, seed, order)


def some_ids(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=count)


@dataclass
class History:
    """An episode's tokens as its caller knows them."""

    ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    """Indices of sampled tokens."""
    logprobs: list[float] = field(default_factory=list)

    async def turn(self, sequence: Sequence, ids: list[int], sampling: Sampling) -> None:
        completion = await sequence.generate(ids, sampling, frozenset({3, 4}))
        self.ids += ids
        self.sampled += range(len(self.ids), len(self.ids) + len(completion.ids))
        self.ids += completion.ids
        self.logprobs += completion.logprobs
        assert sequence.length == len(self.ids)

    def error(self, model: PreTrainedModel, temperature: float = 1.0) -> float:
        """Largest difference between the sampled log-probabilities and the training forward's."""
        with torch.no_grad():
            trained = sequence_logprobs(model, torch.tensor([self.ids]), temperature=temperature)[0]
        ours = torch.tensor(self.logprobs)
        return float((trained[torch.tensor(self.sampled) - 1] - ours).abs().max())


async def play(
    engine: Engine, index: int, *, group: int = 1, turns: int = 4, sampling: Sampling | None = None
) -> History:
    """A multi-turn episode with observations of 0 to 9 tokens and an environment of uneven speed."""
    rng, history = random.Random(index), History()
    sequence = engine.open(key(f"e{index}", group=f"g{index // group}", seed=index, order=index))
    for turn in range(turns):
        ids = some_ids(11, index // group) if turn == 0 else some_ids(rng.randrange(10), rng.randrange(99))
        await history.turn(sequence, ids, sampling or Sampling(max_tokens=rng.randrange(1, 20)))
        await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.002]))
    sequence.close()
    return history


async def play_all(engine: Engine, episodes: list[int], **options: Any) -> list[History]:
    async with asyncio.TaskGroup() as tasks:
        played = [tasks.create_task(play(engine, index, **options)) for index in episodes]
    return [task.result() for task in played]


@pytest.mark.parametrize("config", [QWEN3, GPT_NEOX, MISTRAL_WINDOW], ids=lambda c: str(c["model_type"]))
async def test_sampled_logprobs_agree_with_the_training_forward(config: dict[str, Any]) -> None:
    model = tiny(config)
    async with Engine(model, max_sequences=20) as engine:
        histories = await play_all(engine, list(range(24)), group=3, turns=12)
    assert max(len(history.ids) for history in histories) > 128, "the cache must have grown"
    assert max(history.error(model) for history in histories) < 1e-4


async def test_logprobs_are_those_of_the_temperature_sampled_at(model: PreTrainedModel) -> None:
    async with Engine(model) as engine:
        (history,) = await play_all(engine, [0], sampling=Sampling(temperature=0.5, max_tokens=12))
    assert history.error(model, temperature=0.5) < 1e-4
    assert history.error(model, temperature=1.0) > 0.01


async def test_bfloat16_stays_near_the_training_forward() -> None:
    model = tiny({**QWEN3, "initializer_range": 0.1}, dtype="bfloat16")
    async with Engine(model) as engine:
        histories = await play_all(engine, list(range(4)))
    assert max(history.error(model) for history in histories) < 0.05


async def test_greedy_takes_the_likeliest_token_at_temperature_one(model: PreTrainedModel) -> None:
    prompt = some_ids(9, 1)
    async with Engine(model) as engine:
        greedy = Sampling(temperature=0, top_k=1, top_p=0.5, max_tokens=6)
        completion = await engine.open(key("a")).generate(prompt, greedy, NO_STOP)
    ids = torch.tensor([prompt + list(completion.ids)])
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        logprobs = sequence_logprobs(model, ids)[0, len(prompt) - 1 :]
    assert completion.ids == tuple(expected.tolist())
    assert completion.logprobs == pytest.approx(logprobs.tolist(), abs=1e-5)


async def test_a_turn_feeds_only_the_last_token_and_the_observation(model: PreTrainedModel) -> None:
    async with Engine(model) as engine:
        sequence, sampling = engine.open(key("a")), Sampling(max_tokens=5)
        await sequence.generate(some_ids(30, 1), sampling, NO_STOP)
        assert engine.stats.fed == 30 + 4
        await sequence.generate(some_ids(3, 2), sampling, NO_STOP)
        assert engine.stats.fed == 30 + 4 + (1 + 3) + 4
        assert engine.stats.generated == 10
        await sequence.generate([], sampling, NO_STOP)
        assert engine.stats.fed == 30 + 4 + 4 + 4 + 1 + 4


async def test_a_group_computes_its_prompt_once(model: PreTrainedModel) -> None:
    async with Engine(model) as alone:
        apart = await play_all(alone, list(range(8)), turns=3)
    async with Engine(model) as engine:
        together = await play_all(engine, list(range(8)), group=8, turns=3)
        late = await late_member(engine)
    assert engine.stats.shared == 7 * 11 + 11
    assert max(history.error(model) for history in [*together, late]) < 1e-4
    assert together[0].ids == apart[0].ids


async def late_member(engine: Engine) -> History:
    """Joins a group whose first member has gone on from the prompt."""
    first, second = engine.open(key("x", group="late")), engine.open(key("y", group="late", seed=8))
    await first.generate(some_ids(11, 50), Sampling(max_tokens=9), NO_STOP)
    history = History()
    await history.turn(second, some_ids(11, 50), Sampling(max_tokens=9))
    return history


async def test_a_token_does_not_depend_on_its_batch(model: PreTrainedModel) -> None:
    async with Engine(model) as engine:
        (alone,) = await play_all(engine, [3])
    async with Engine(model) as engine:
        crowd = await play_all(engine, list(range(12)))
    assert crowd[3].ids == alone.ids
    assert crowd[3].logprobs == pytest.approx(alone.logprobs, abs=1e-5)


async def test_deterministic_rollouts_are_equal_to_the_bit_whatever_the_timing(
    model: PreTrainedModel,
) -> None:
    async def rollout(shuffle: int) -> dict[int, History]:
        chance = random.Random(shuffle)

        async def episode(index: int, sequence: Sequence) -> History:
            rng, history = random.Random(index), History()
            for turn in range(5):
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
                ids = some_ids(8, index // 4) if turn == 0 else some_ids(1 + rng.randrange(5), turn)
                await history.turn(sequence, ids, Sampling(max_tokens=rng.randrange(1, 9)))
            sequence.close()
            return history

        indices = list(range(10))
        chance.shuffle(indices)
        async with (
            Engine(model, max_sequences=7, deterministic=True) as engine,
            asyncio.TaskGroup() as tasks,
        ):
            opened = {i: engine.open(key(f"e{i}", group=f"g{i // 4}", seed=i, order=i)) for i in indices}
            played = {i: tasks.create_task(episode(i, sequence)) for i, sequence in opened.items()}
            await asyncio.gather(*played.values())
        return {i: task.result() for i, task in played.items()}

    first, second, third = [await rollout(shuffle) for shuffle in (1, 2, 3)]
    for index in range(10):
        assert first[index].ids == second[index].ids == third[index].ids
        assert first[index].logprobs == second[index].logprobs == third[index].logprobs


async def test_a_wave_names_the_episode_that_does_not_come(model: PreTrainedModel) -> None:
    async with asyncio.timeout(300), Engine(model, deterministic=True, lockstep_seconds=0.05) as engine:
        here, _absent = engine.open(key("here")), engine.open(key("absent"))
        with pytest.raises(TimeoutError, match=r"\['absent'\]"):
            await here.generate([1, 2], Sampling(), NO_STOP)


async def test_finish_says_what_ended_the_completion(model: PreTrainedModel) -> None:
    async with Engine(model, max_context=16) as engine:
        full = await engine.open(key("a")).generate([1, 2, 3], Sampling(max_tokens=4), NO_STOP)
        assert (full.finish, len(full.ids)) == ("length", 4)
        stop = frozenset({full.ids[2], VOCABULARY - 1})
        stopped = await engine.open(key("a")).generate([1, 2, 3], Sampling(max_tokens=4), stop)
        assert stopped.finish == "stop"
        assert stopped.ids == full.ids[: full.ids.index(full.ids[2]) + 1]
        sequence = engine.open(key("a"))
        every = await sequence.generate([1, 2, 3], Sampling(max_tokens=4), frozenset(range(VOCABULARY)))
        assert (every.finish, len(every.ids)) == ("stop", 1)
        unstopped = await sequence.generate([], Sampling(max_tokens=4), NO_STOP)
        assert (unstopped.finish, len(unstopped.ids)) == ("length", 4)
        sequence = engine.open(key("a"))
        filled = await sequence.generate([1, 2, 3], Sampling(max_tokens=50), NO_STOP)
        assert (filled.finish, len(filled.ids), sequence.length) == ("context", 13, 16)
        refused = await sequence.generate([5], Sampling(), NO_STOP)
        assert (refused.finish, refused.ids, sequence.length) == ("context", (), 16)


async def test_more_sequences_than_slots_take_turns(model: PreTrainedModel) -> None:
    async with asyncio.timeout(300), Engine(model, max_sequences=2) as engine:
        histories = await play_all(engine, list(range(7)))
    assert max(history.error(model) for history in histories) < 1e-4


async def test_closing_cancels_and_frees_the_slot(model: PreTrainedModel) -> None:
    async with asyncio.timeout(300), Engine(model, max_sequences=1) as engine:
        holder, waiter = engine.open(key("holder")), engine.open(key("waiter"))
        await holder.generate([1, 2], Sampling(max_tokens=2), NO_STOP)
        waiting = asyncio.create_task(waiter.generate([1], Sampling(max_tokens=2), NO_STOP))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "the only slot is held"
        other = engine.open(key("other"))
        cancelled = asyncio.create_task(other.generate([1], Sampling(), NO_STOP))
        await asyncio.sleep(0.01)
        other.close()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        holder.close()
        holder.close()
        assert len((await waiting).ids) == 2
        with pytest.raises(RuntimeError, match="'holder' is closed"):
            await holder.generate([1], Sampling(), NO_STOP)


async def test_a_cancelled_generate_gives_its_slot_back(model: PreTrainedModel) -> None:
    async with asyncio.timeout(300), Engine(model, max_sequences=1) as engine:
        abandoned = engine.open(key("abandoned"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await abandoned.generate([1], Sampling(max_tokens=200), NO_STOP)
        history = History()
        await history.turn(engine.open(key("next")), some_ids(5, 1), Sampling())
    assert history.error(model) < 1e-4


async def test_a_fork_continues_the_same_history_on_its_own(model: PreTrainedModel) -> None:
    async with Engine(model) as engine:
        trunk, sampling = engine.open(key("trunk", seed=1)), Sampling(max_tokens=6)
        prompt = some_ids(10, 1)
        opening = await trunk.generate(prompt, sampling, NO_STOP)
        twin, other = await trunk.fork(key("twin", seed=1)), await trunk.fork(key("other", seed=2))
        fed = engine.stats.fed
        ends = [await s.generate([7, 8], sampling, NO_STOP) for s in (trunk, twin, other)]
        assert engine.stats.fed == fed + 3 * (1 + 2 + 5)
        assert ends[0].ids == ends[1].ids != ends[2].ids
        assert trunk.length == other.length == 10 + 6 + 2 + 6
    history = [*prompt, *opening.ids, 7, 8, *ends[2].ids]
    with torch.no_grad():
        logprobs = sequence_logprobs(model, torch.tensor([history]))[0, -6:]
    assert ends[2].logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


@pytest.mark.parametrize("config", [QWEN3, GPT_NEOX], ids=lambda c: str(c["model_type"]))
async def test_new_weights_count_from_the_refresh_on(config: dict[str, Any]) -> None:
    model, sampling, prompt = tiny(config), Sampling(max_tokens=4), some_ids(8, 1)
    async with Engine(model) as engine:
        before = await engine.open(key("a", group="g")).generate(prompt, sampling, NO_STOP)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        unaware = await engine.open(key("a")).generate(prompt, sampling, NO_STOP)
        assert unaware.logprobs == pytest.approx(before.logprobs, abs=1e-5)
        await engine.refresh()
        history = History()
        fresh = engine.open(key("a", group="g"))
        await history.turn(fresh, prompt, sampling)
        after = await fresh.generate([1], sampling, NO_STOP)
    assert history.error(model) < 1e-4
    assert (set(before.versions), set(after.versions), engine.version) == ({0}, {1}, 1)


async def test_closing_the_engine_fails_what_is_pending(model: PreTrainedModel) -> None:
    async with Engine(model, max_sequences=1) as engine:
        holder, waiter = engine.open(key("holder")), engine.open(key("waiter"))
        await holder.generate([1], Sampling(max_tokens=1), NO_STOP)
        waiting = asyncio.create_task(waiter.generate([1], Sampling(), NO_STOP))
        await asyncio.sleep(0)
    with pytest.raises(EngineClosed):
        async with asyncio.timeout(300):
            await waiting
    with pytest.raises(EngineClosed):
        await waiter.generate([1], Sampling(), NO_STOP)
    with pytest.raises(EngineClosed):
        engine.open(key("new"))
    waiter.close()


async def test_a_failing_forward_reaches_every_caller(model: PreTrainedModel) -> None:
    norm: Any = model.model.norm
    async with asyncio.timeout(300), Engine(model) as engine:
        healthy = norm.weight.data
        norm.weight.data = torch.ones(3)
        await engine.refresh()
        broken = [engine.open(key(name)) for name in "abc"]
        results = await asyncio.gather(
            *(sequence.generate([1, 2], Sampling(), NO_STOP) for sequence in broken), return_exceptions=True
        )
        assert all(isinstance(result, RuntimeError) for result in results)
        with pytest.raises(RuntimeError, match="'a' has failed"):
            await broken[0].generate([1], Sampling(), NO_STOP)
        norm.weight.data = healthy
        await engine.refresh()
        completion = await engine.open(key("d")).generate([1, 2], Sampling(max_tokens=3), NO_STOP)
    assert len(completion.ids) == 3


async def test_nan_weights_fail_the_episode_and_do_not_reach_the_next(model: PreTrainedModel) -> None:
    values: Any = model.model.layers[0].self_attn.v_proj
    async with Engine(model, max_sequences=2) as engine:
        healthy = values.weight.data
        values.weight.data = torch.full_like(healthy, float("nan"))
        await engine.refresh()
        poisoned = engine.open(key("poisoned"))
        with pytest.raises(FloatingPointError, match=r"'poisoned'.*version 1"):
            await poisoned.generate(some_ids(40, 1), Sampling(), NO_STOP)
        poisoned.close()
        values.weight.data = healthy
        await engine.refresh()
        short, long = History(), History()
        await asyncio.gather(  # together, so that the short one's slot is read as far as the long one's
            short.turn(engine.open(key("short")), some_ids(5, 2), Sampling(max_tokens=8)),
            long.turn(engine.open(key("long")), some_ids(38, 3), Sampling(max_tokens=8)),
        )
    assert max(short.error(model), long.error(model)) < 1e-4


async def test_misuse_is_refused_by_name(model: PreTrainedModel) -> None:
    async with Engine(model) as engine:
        sequence = engine.open(key("a"))
        with pytest.raises(ValueError, match=rf"ids \[-1, {VOCABULARY}\].*vocabulary of {VOCABULARY}"):
            await sequence.generate([1, VOCABULARY, -1], Sampling(), NO_STOP)
        with pytest.raises(ValueError, match="'a' is empty"):
            await sequence.generate([], Sampling(), NO_STOP)
        running = asyncio.create_task(sequence.generate([1], Sampling(max_tokens=100), NO_STOP))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already generating"):
            await sequence.generate([1], Sampling(), NO_STOP)
        with pytest.raises(RuntimeError, match="cannot be forked"):
            await sequence.fork(key("b"))
        await running
    with pytest.raises(ValueError, match="max_context 999 must be 2 to 256"):
        Engine(model, max_context=999)
    with pytest.raises(ValueError, match="max_sequences 0"):
        Engine(model, max_sequences=0)
