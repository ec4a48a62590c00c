"""The torch policy's engine: continuous batching over a key-value cache that outlives turns.

``model`` loads or makes a model; ``engine`` is the asyncio face; ``scheduler`` decides what each forward
takes; ``batch`` and ``cache`` lay it out; ``fused`` and ``hf_forward`` compute it, chosen and checked in
``forward``; ``sampling`` draws tokens; ``logprobs`` is the forward that training differentiates.
"""

from turnwise.agents.torch.engine import Engine, EngineClosed, Sequence
from turnwise.agents.torch.forward import UnsupportedModelError
from turnwise.agents.torch.logprobs import sequence_logprobs
from turnwise.agents.torch.model import init_model, load_model, resolve_device
from turnwise.agents.torch.scheduler import Completion, EngineStats

__all__ = [
    "Completion",
    "Engine",
    "EngineClosed",
    "EngineStats",
    "Sequence",
    "UnsupportedModelError",
    "init_model",
    "load_model",
    "resolve_device",
    "sequence_logprobs",
]
