"""Loading and making models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from turnwise.agents.torch import init_model, load_model, resolve_device
from turnwise.agents.torch.model import resolve_dtype

TINY: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def test_a_saved_model_comes_back_the_same(tmp_path: Path) -> None:
    model = init_model(TINY, seed=1, device="cpu", dtype="float32")
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu", dtype="float32")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    assert not again.training
    assert load_model(tmp_path, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (init_model(TINY, seed=seed, device="cpu") for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected), "the global generator was touched"
    weights = [dict(model.named_parameters())["lm_head.weight"] for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bad_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent"):
        load_model(tmp_path / "absent")
    with pytest.raises(ValueError, match="save_pretrained"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="model_type"):
        init_model({"hidden_size": 8}, seed=0)
    with pytest.raises(ValueError, match="no_such_kind"):
        init_model({"model_type": "no_such_kind"}, seed=0)


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name}' is unknown.*auto, cpu, cuda, cuda:N"):
        resolve_device(name)


def test_devices_and_dtypes_this_machine_has_resolve() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="'cuda:99' is absent"):
        resolve_device("cuda:99")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ValueError, match="dtype 'float8' is unknown"):
        resolve_dtype("float8", torch.device("cpu"))
