"""Rollout throughput: the torch engine against transformers' ``generate``.

128 episodes of 8 turns each, with the quickstart's model shape and random weights: a prompt of 12
tokens, then per turn 5 sampled tokens and an observation of 4. No stop id, so both sides do the same
work, and all histories have one length, so the peer's batch needs no padding. The peer encodes the whole
history anew at every turn, as chat loops over ``generate`` do; the engine goes on from its cache and
also returns log-probabilities. Both run in one process on one thread, interleaved in pairs; the
figure is generated tokens per second of process CPU time.

    python benchmarks/rollout.py --pairs 7
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from turnwise.agents.policy import EpisodeKey
from turnwise.agents.torch import Engine, init_model
from turnwise.agents.trajectory import Sampling

QUICKSTART: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 350,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
EPISODES, TURNS, PROMPT, OBSERVATION, SAMPLED = 128, 8, 12, 4, 5


def feeds(seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What each episode is told: ``[EPISODES, PROMPT + (TURNS - 1) * OBSERVATION]`` random ids."""
    shape = (EPISODES, PROMPT + (TURNS - 1) * OBSERVATION)
    return np.random.default_rng(seed).integers(1, QUICKSTART["vocab_size"], shape)


async def engine_rollout(engine: Engine, seed: int) -> int:
    """All episodes at once, each its own task; the number of generated tokens."""
    told = feeds(seed)

    async def episode(index: int) -> int:
        sequence = engine.open(EpisodeKey(f"{seed}-{index}", f"{seed}-{index}", seed * EPISODES + index))
        sampling, generated, at = Sampling(max_tokens=SAMPLED), 0, 0
        for turn in range(TURNS):
            size = OBSERVATION if turn else PROMPT
            completion = await sequence.generate(told[index, at : at + size].tolist(), sampling, frozenset())
            generated, at = generated + len(completion.ids), at + size
        sequence.close()
        return generated

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(episode(index)) for index in range(EPISODES)]
    return sum(task.result() for task in tasks)


def generate_rollout(model: PreTrainedModel, seed: int) -> int:
    """The same episodes through ``generate``, encoding the history anew at each turn."""
    told = torch.from_numpy(feeds(seed))
    history, generated, at = told[:, :0], 0, 0
    peer: Any = model
    for turn in range(TURNS):
        size = OBSERVATION if turn else PROMPT
        history = torch.cat([history, told[:, at : at + size]], 1)
        at += size
        out = peer.generate(
            input_ids=history,
            attention_mask=torch.ones_like(history),
            do_sample=True,
            top_k=0,
            max_new_tokens=SAMPLED,
            min_new_tokens=SAMPLED,
            pad_token_id=0,
            eos_token_id=None,
        )
        generated += out.shape[0] * (out.shape[1] - history.shape[1])
        history = out
    return generated


async def measure(pairs: int) -> list[float]:
    """The ratio of each pair, engine over peer."""
    model = init_model(QUICKSTART, seed=0, device="cpu", dtype="float32")
    ratios = []
    async with Engine(model, max_sequences=EPISODES) as engine:
        for pair in range(-1, pairs):
            began = time.process_time()
            ours = await engine_rollout(engine, pair + 1) / (time.process_time() - began)
            began = time.process_time()
            peers = generate_rollout(model, pair + 1) / (time.process_time() - began)
            if pair < 0:
                continue  # both warm
            ratios.append(ours / peers)
            print(
                f"pair {pair + 1}: engine {ours:8.0f}, generate {peers:8.0f} tokens per CPU-second, "
                f"ratio {ours / peers:.2f}",
                flush=True,
            )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description="rollout throughput against transformers generate")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios = asyncio.run(measure(options.pairs))
    print(f"median {statistics.median(ratios):.2f}, least {min(ratios):.2f}, greatest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
