"""Imitation alone: from demonstrations and from a run's own successes, and reinforcement after it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer

from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.scripted import imperfect
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.store import read_episodes
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.types import TextAction
from turnwise.trainer.demonstrations import recorded, render, successes, transcript
from turnwise.trainer.run_folder import Run
from turnwise.trainer.sft import sft
from turnwise.trainer.train import train


def kinds(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def first(guess: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Imitation of the demonstrator."""
    return asyncio.run(sft(guess.recipe(), run=tmp_path_factory.mktemp("runs") / "sft"))
