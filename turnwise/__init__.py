"""Turnwise: train and evaluate language-model agents that act over many turns.

The public API. Names are loaded when they are first used, so that writing an environment or a credit
stage needs neither torch nor anything else that is optional.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnwise.agents.evaluate import evaluate as evaluate
    from turnwise.agents.metrics import Evaluation as Evaluation
    from turnwise.envs.env import Env as Env
    from turnwise.envs.errors import UsageError as UsageError
    from turnwise.envs.local import LocalEnvs as LocalEnvs
    from turnwise.envs.registry import register as register
    from turnwise.envs.serving.client import connect as connect
    from turnwise.envs.tasks import TaskSet as TaskSet
    from turnwise.envs.tasks import seeds as seeds
    from turnwise.envs.tool import ToolError as ToolError
    from turnwise.envs.tool import milestone as milestone
    from turnwise.envs.tool import reward as reward
    from turnwise.envs.tool import tool as tool
    from turnwise.envs.types import AgentView as AgentView
    from turnwise.envs.types import call as call
    from turnwise.envs.types import text as text
    from turnwise.sandbox.contract import Limits as Limits
    from turnwise.sandbox.contract import SandboxSpec as SandboxSpec
    from turnwise.trainer.recipe import Recipe as Recipe
    from turnwise.trainer.stage import credit as credit
    from turnwise.trainer.table import TurnTable as TurnTable
    from turnwise.viewer.compare import compare as compare
    from turnwise.viewer.report import sft as sft
    from turnwise.viewer.report import train as train

_WHERE = {
    "AgentView": "envs.types",
    "Env": "envs.env",
    "Evaluation": "agents.metrics",
    "Limits": "sandbox.contract",
    "LocalEnvs": "envs.local",
    "Recipe": "trainer.recipe",
    "SandboxSpec": "sandbox.contract",
    "TaskSet": "envs.tasks",
    "ToolError": "envs.tool",
    "TurnTable": "trainer.table",
    "UsageError": "envs.errors",
    "call": "envs.types",
    "compare": "viewer.compare",
    "connect": "envs.serving.client",
    "credit": "trainer.stage",
    "evaluate": "agents.evaluate",
    "milestone": "envs.tool",
    "register": "envs.registry",
    "reward": "envs.tool",
    "seeds": "envs.tasks",
    "sft": "viewer.report",
    "text": "envs.types",
    "tool": "envs.tool",
    "train": "viewer.report",
}

__version__ = "0.1.0"
__all__ = [
    "AgentView",
    "Env",
    "Evaluation",
    "Limits",
    "LocalEnvs",
    "Recipe",
    "SandboxSpec",
    "TaskSet",
    "ToolError",
    "TurnTable",
    "UsageError",
    "call",
    "compare",
    "connect",
    "credit",
    "evaluate",
    "milestone",
    "register",
    "reward",
    "seeds",
    "sft",
    "text",
    "tool",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'turnwise' has no attribute {name!r}")
    value = getattr(import_module(f"turnwise.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
