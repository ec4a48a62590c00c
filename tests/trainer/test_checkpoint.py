"""Checkpoints: whole or not at all, equal to the last bit, and never more than two."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from turnwise.agents.tokenizer import build_tokenizer
from turnwise.agents.torch import init_model, load_model
from turnwise.trainer import checkpoint
from turnwise.trainer.checkpoint import Progress


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(["a word and another word"])


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return init_model(
        {
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "intermediate_size": 16,
            "tie_word_embeddings": True,
        },
        seed=0,
        device="cpu",
    )


@pytest.fixture
def optimizer(model: PreTrainedModel) -> torch.optim.Optimizer:
    """One that has taken a step."""
    made = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.arange(6)[None]).logits.sum().backward()
    made.step()
    return made


@pytest.fixture
def save(
    tmp_path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
) -> Any:
    """Save a checkpoint of a progress."""
    return lambda **progress: checkpoint.save(
        tmp_path, Progress(**{"phase": "train", **progress}), model, tokenizer, optimizer
    )


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_everything_comes_back_to_the_last_bit(
    save: Any,
    tmp_path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
) -> None:
    progress: dict[str, Any] = {
        "step": 3,
        "round": 2,
        "satisfied": True,
        "episodes": 96,
        "cursor": 24,
        "gauge": 1 / 3,
        "wall_seconds": 0.1 + 0.2,
        "cpu_seconds": 2.5,
        "stages": {"scale": {"mean": 1e-17}},
        "watch": {"excluded": [0.0, 1 / 3]},
    }
    folder = save(**progress)
    assert folder == tmp_path / "checkpoints" / "000003" == checkpoint.latest(tmp_path)
    assert checkpoint.load_progress(folder) == Progress(phase="train", **progress)
    again = load_model(folder / "model", device="cpu")
    for (name, one), (other_name, other) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    fresh = torch.optim.AdamW(again.parameters(), lr=0.5)
    checkpoint.load_optimizer(folder, fresh)
    assert fresh.param_groups[0]["lr"] == 0.01
    for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, fresh.state[other][key])
    loaded = AutoTokenizer.from_pretrained(folder / "model")
    text = " a word and\n another <end> é"
    assert loaded.encode(text) == tokenizer.encode(text)


def test_a_run_without_a_checkpoint_has_no_latest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None


def test_the_newest_the_one_before_it_and_the_first_of_reinforcement_stay(save: Any, tmp_path: Path) -> None:
    save(phase="warm_start", round=1)
    save(phase="warm_start", round=2)
    assert names(tmp_path) == ["latest", "warm-0001", "warm-0002"]
    for step in range(4):
        save(step=step)
    assert names(tmp_path) == ["000000", "000002", "000003", "latest"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "000003"


def test_what_a_kill_left_half_written_is_replaced(save: Any, tmp_path: Path) -> None:
    """A folder without its rename, and one renamed that is not yet the latest."""
    first = save(step=1)
    (tmp_path / "checkpoints" / ".000002.tmp" / "model").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".latest.tmp").write_text("0000")
    (tmp_path / "checkpoints" / "000002").mkdir()
    assert checkpoint.latest(tmp_path) == first
    second = save(step=2)
    assert checkpoint.latest(tmp_path) == second
    assert checkpoint.load_progress(second).step == 2
    assert names(tmp_path) == ["000001", "000002", "latest"]


@pytest.mark.parametrize("size", [100, 12_000, 30_000])
def test_where_it_cannot_be_written_the_last_one_stands(
    save: Any, tmp_path: Path, disk: Any, size: int
) -> None:
    """The configuration, the model or the optimiser is too much: whichever library writes it, one error."""
    first = save(step=1)
    disk(size)
    with pytest.raises(OSError, match=r"File too large: '.*/checkpoints/000002'") as caught:
        save(step=2)
    disk(math.inf)
    assert caught.value.errno == errno.EFBIG
    assert checkpoint.latest(tmp_path) == first
    assert checkpoint.load_progress(first).step == 1
    assert names(tmp_path) == ["000001", "latest"], "what was begun takes no room"
    assert checkpoint.latest(tmp_path) != save(step=2) == checkpoint.latest(tmp_path)


def test_another_failure_stays_what_it_is(
    save: Any, monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        save(step=1)
