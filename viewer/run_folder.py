"""Reading a run's folder: metrics, summary, episodes and the credit of their turns.

A folder is read as it is found: a run that is still going, was killed or has just begun lacks files at
its end, and a torn last line is a line that was never written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import yaml

from turnwise.agents.store import episode_files, find_episode, read_episodes
from turnwise.agents.trajectory import Episode
from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.registry import EnvSpec
from turnwise.trainer.run_folder import Summary
from turnwise.trainer.tracker import Row, read_lines

Columns: TypeAlias = Mapping[str, Sequence[float | None]]
"""Quantities of an episode's turns, one number a turn."""

TRAINING = "step"
"""Starts the names of files of training episodes, as in ``step-000012.jsonl``."""
_NEEDED = {"name", "env", "seed", "steps"}
"""What is shown of a run's recipe; the rest may be of stages that are not known here."""
_TRAINED = re.compile(r"train-(\d+)/")
"""Starts the names of training episodes; the number is the step."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An episode with the credit its turns were given, where it was trained on."""

    episode: Episode
    columns: Columns

    def at(self, column: str, turn: int) -> float | None:
        """A turn's number, or None where there is none."""
        values = self.columns.get(column, ())
        return values[turn] if turn < len(values) else None

    def reward(self, turn: int) -> float | None:
        """What the turn was paid: by the stages of credit where there were any, else by the outcome."""
        paid = self.at("step_reward", turn)
        if paid is not None:
            return paid
        scored = [t.value for t in self.episode.turns[turn].record.terms if t.channel == "outcome"]
        return scored[0] if scored else None


class RunFolder:
    """A run, finished or not. Raises ``UsageError`` where ``path`` is not one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise _no_run(self.path)

    @cached_property
    def config_text(self) -> str:
        """The recipe as resolved, YAML."""
        return (self.path / "config.yaml").read_text(encoding="utf-8")

    @cached_property
    def config(self) -> Row:
        """The recipe as resolved."""
        try:
            config = yaml.safe_load(self.config_text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self.path / 'config.yaml'}: not YAML: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(config, dict) or not config.keys() >= _NEEDED:
            raise UsageError(
                f"{self.path / 'config.yaml'} is no run's: it lacks {', '.join(sorted(_NEEDED))}"
            )
        return config

    @property
    def env(self) -> EnvSpec:
        """The environment trained on."""
        return EnvSpec.model_validate(self.config["env"])

    @cached_property
    def summary(self) -> Summary | None:
        """What the run ended with; None while it has not."""
        path = self.path / "summary.json"
        return Summary.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    @cached_property
    def rows(self) -> list[Row]:
        """The metrics in order."""
        return list(read_lines(self.path / "metrics.jsonl"))

    def of_kind(self, *kinds: str) -> list[Row]:
        """The rows of some kinds in order, the last one where a step was measured again."""
        latest = {(r["kind"], r["step"], r.get("round")): r for r in self.rows if r["kind"] in kinds}
        return list(latest.values())

    @property
    def evaluations(self) -> list[Row]:
        """Evaluations in which some episode could be scored; the last may be that on the test split."""
        return [row for row in self.of_kind("eval", "final") if "success" in row]

    @property
    def steps(self) -> int:
        """Training steps done."""
        return max((int(row["step"]) for row in self.of_kind("train")), default=0)

    def training_files(self) -> list[Path]:
        """Files of the episodes that were trained on, by step."""
        return [file for file in episode_files(self.path) if file.name.startswith(TRAINING)]

    def evaluation_files(self) -> list[Path]:
        """Files of the episodes of evaluations, by step."""
        return [file for file in episode_files(self.path) if not file.name.startswith(TRAINING)]

    def credited_steps(self) -> list[int]:
        """Training steps whose credit was stored."""
        return sorted(
            int(path.stem.partition("-")[2]) for path in (self.path / "credit").glob("step-*.jsonl")
        )

    def credit(self, step: int) -> dict[str, Columns]:
        """The credit of a training step, by episode."""
        return {
            row["episode_id"]: row["columns"]
            for row in read_lines(self.path / f"credit/step-{step:06d}.jsonl")
        }

    def episodes(self, file: Path) -> Iterator[Shown]:
        """The episodes of a file, with their credit."""
        name, _, step = file.stem.partition("-")
        credit = self.credit(int(step)) if name == TRAINING else {}
        for episode in read_episodes(file):
            yield Shown(episode, credit.get(episode.episode_id, {}))

    def episode(self, episode_id: str) -> Shown:
        """An episode by its name, the newest. Raises ``UsageError`` where there is none."""
        episode = find_episode(self.path, episode_id)
        trained = _TRAINED.match(episode_id)
        return Shown(episode, self.credit(int(trained[1])).get(episode_id, {}) if trained else {})


def _no_run(path: Path) -> UsageError:
    """The error for a path without a run, naming the runs beside it."""
    if path.is_dir():
        return UsageError(f"{str(path)!r} is not a run's folder: it has no config.yaml")
    runs = [str(config.parent) for config in sorted(path.parent.glob("*/config.yaml"))]
    return unknown("run", str(path), runs)
