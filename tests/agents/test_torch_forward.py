"""Every forward computes what the model's own modules compute, however the tokens are cut and placed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from turnwise.agents.torch import UnsupportedModelError, init_model, sequence_logprobs
from turnwise.agents.torch.batch import layout, width_class
from turnwise.agents.torch.cache import KVCache
from turnwise.agents.torch.forward import Forward, build_forward
from turnwise.agents.torch.fused import FusedForward
from turnwise.agents.torch.hf_forward import ModuleForward

BASE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FUSED: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 12, "tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "llama": {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3_ROPE},
    "mistral": {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}
GENERAL: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 5},
    "gemma3_text": {
        "sliding_window": 5,
        "head_dim": 12,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neox": {},
    "phi": {},
    "gpt2": GPT2,
}
CASES = [pytest.param(kind, more, FusedForward, id=f"fused-{kind}") for kind, more in FUSED.items()]
CASES += [pytest.param(kind, more, ModuleForward, id=f"general-{kind}") for kind, more in GENERAL.items()]


def make(kind: str, more: dict[str, Any], dtype: str = "float32") -> PreTrainedModel:
    """A small random model, biases and norms away from their trivial initial values."""
    fields = more if "n_embd" in more else {**BASE, **more}
    model = init_model({"model_type": kind, **fields}, seed=2, device="cpu", dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def feed(forward: Forward, cache: KVCache, ids: Tensor, slots: list[int], cuts: list[list[int]]) -> Tensor:
    """Feed each row of ``ids`` in the chunks ``cuts`` says, all rows side by side; logits after each row's
    last token."""
    place, last = np.array(slots), [torch.empty(0)] * len(slots)
    starts = np.zeros(len(slots), dtype=np.int64)
    for counts in zip(*cuts, strict=True):
        rows = np.flatnonzero(counts)
        if not len(rows):
            continue
        sizes = np.array(counts)[rows]
        rows = rows[np.lexsort((place[rows], width_class(sizes)))]
        sizes = np.array(counts)[rows]
        tokens = np.concatenate([ids[r, starts[r] : starts[r] + counts[r]].numpy() for r in rows])
        cache.reserve(int(place.max()) + 1, int((starts[rows] + sizes).max()))
        batch = layout(tokens, place[rows], starts[rows], sizes, np.arange(len(rows)), torch.device("cpu"))
        with torch.inference_mode():
            logits = forward(batch, cache)
        starts[rows] += sizes
        for row, line in zip(rows.tolist(), logits, strict=True):
            last[row] = line
    return torch.stack(last).clone()


def own_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids).logits[:, -1]
    return logits


@pytest.mark.parametrize(("kind", "more", "expected"), CASES)
def test_ragged_chunks_over_the_cache_give_the_models_own_logits(
    kind: str, more: dict[str, Any], expected: type
) -> None:
    model = make(kind, more)
    forward = build_forward(model)
    assert type(forward) is expected
    ids = torch.randint(0, 50, (4, 40), generator=torch.Generator().manual_seed(1))
    cuts = [[12, 1, 1, 26, 0], [3, 9, 1, 1, 26], [1, 1, 36, 0, 2], [10, 10, 10, 9, 1]]
    for slots in ([0, 1, 2, 3], [0, 7, 2, 19]):
        cache = KVCache(max_slots=20, max_length=128)
        torch.testing.assert_close(
            feed(forward, cache, ids, slots, cuts), own_logits(model, ids), atol=2e-4, rtol=1e-4
        )


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_how_a_history_is_cut_does_not_matter(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    slots = data.draw(st.lists(st.integers(0, 11), min_size=rows, max_size=rows, unique=True))
    edges = st.lists(st.integers(0, 20), min_size=3, max_size=3).map(sorted)
    cuts = [np.diff([0, *data.draw(edges), 20]).tolist() for _ in range(rows)]
    ids = torch.randint(0, 50, (rows, 20), generator=torch.Generator().manual_seed(3))
    cache = KVCache(max_slots=12, max_length=20)
    logits = feed(PROPERTY_FORWARD, cache, ids, slots, cuts)
    torch.testing.assert_close(logits, own_logits(PROPERTY_MODEL, ids), atol=2e-4, rtol=1e-4)


PROPERTY_MODEL = make("qwen3", FUSED["qwen3"])
PROPERTY_FORWARD = build_forward(PROPERTY_MODEL)


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_bfloat16_agrees_to_its_precision(kind: str) -> None:
    model = make(kind, {"initializer_range": 0.1}, dtype="bfloat16")
    ids = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(1))
    cache = KVCache(max_slots=2, max_length=30)
    logits = feed(build_forward(model), cache, ids, [0, 1], [[20, 1, 9], [29, 0, 1]]).float()
    reference = own_logits(model, ids).float()
    assert logits.isfinite().all()
    assert float((logits - reference).abs().max() / reference.std()) < 0.1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50},
            "linear_attention",
        ),
        ({"model_type": "gemma2", **BASE}, "softcap"),
        ({"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}, "differ"),
    ],
    ids=lambda value: str(value["model_type"]) if isinstance(value, dict) else "",
)
def test_an_architecture_the_cache_cannot_hold_is_refused(config: dict[str, Any], reason: str) -> None:
    model = init_model({**config, "initializer_range": 0.3}, seed=0, device="cpu", dtype="float32")
    with pytest.raises(UnsupportedModelError, match=rf"model_type '{config['model_type']}'.*{reason}"):
        build_forward(model)


def test_building_a_forward_leaves_the_model_as_it_was() -> None:
    model = make("gpt_neox", {}).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    build_forward(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sequence_logprobs_ignore_right_padding_and_carry_gradients() -> None:
    model = make("qwen3", FUSED["qwen3"])
    ids = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([ids, torch.zeros(2, 4, dtype=torch.long)], 1)
    logprobs = sequence_logprobs(model, padded)
    torch.testing.assert_close(logprobs[:, :8], sequence_logprobs(model, ids))
    logits = model(input_ids=ids).logits
    for temperature in (1.0, 0.7):
        expected = torch.log_softmax(logits / temperature, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(sequence_logprobs(model, ids, temperature=temperature), expected)
    logprobs[0, 3].backward()
    embedding: Any = model.get_input_embeddings()
    gradient = embedding.weight.grad
    assert gradient is not None
    assert gradient[ids[0, 0]].abs().sum() > 0


def test_a_copied_prefix_is_the_sources_and_stays_so() -> None:
    ids = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(1))
    ids[1, :12] = ids[0, :12]
    cache = KVCache(max_slots=30, max_length=128)
    prefix = layout(
        ids[0, :12].numpy(), np.array([0]), np.array([0]), np.array([12]), np.array([0]), torch.device("cpu")
    )
    with torch.inference_mode():
        PROPERTY_FORWARD(prefix, cache)
        cache.reserve(26, 30)
        cache.copy(0, [25], 12)
        rest = layout(
            ids[:, 12:].flatten().numpy(),
            np.array([0, 25]),
            np.array([12, 12]),
            np.array([18, 18]),
            np.array([0, 1]),
            torch.device("cpu"),
        )
        logits = PROPERTY_FORWARD(rest, cache).clone()
    torch.testing.assert_close(logits, own_logits(PROPERTY_MODEL, ids), atol=2e-4, rtol=1e-4)
