"""Where a model comes from and where it runs: a Hugging Face folder, or a config to initialise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from turnwise.envs.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` prefers a GPU.

    Raises ``ValueError`` for another name and for a GPU this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise ValueError(f"device {name!r} is unknown: use one of auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is absent: torch sees {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called ``name``; ``auto`` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown: use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(path: Path | str, *, device: str = "auto", dtype: str = "auto") -> PreTrainedModel:
    """A causal LM from a Hugging Face folder (or hub id), on ``device``, dropout off.

    Raises ``UsageError`` naming the path when there is no such folder or no causal LM in it.
    """
    place = resolve_device(device)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=resolve_dtype(dtype, place))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"no causal language model could be loaded from {str(path)!r}: {' '.join(str(error).split())}; "
            "give a folder written by save_pretrained (config.json and safetensors), or a hub id"
        ) from error
    return _settled(model, place)


def init_model(
    config: Mapping[str, Any], *, seed: int, device: str = "auto", dtype: str = "auto"
) -> PreTrainedModel:
    """A causal LM with random weights: ``{"model_type": "qwen3", "hidden_size": 128, ...}``.

    The weights depend on ``seed`` and ``config`` alone; torch's global generator is left as it was.
    """
    fields = dict(config)
    kind = fields.pop("model_type", None)
    if kind is None:
        raise ValueError('the model config needs "model_type", for example {"model_type": "qwen3", ...}')
    place = resolve_device(device)
    factory: Any = AutoModelForCausalLM
    try:
        resolved = AutoConfig.for_model(kind, **fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = factory.from_config(resolved, dtype=resolve_dtype(dtype, place))
    except ValueError as error:
        raise ValueError(f"model config {dict(config)} makes no causal language model: {error}") from error
    return _settled(model, place)


def _settled(model: Any, device: torch.device) -> PreTrainedModel:
    model.to(device)
    model.eval()
    settled: PreTrainedModel = model
    return settled
