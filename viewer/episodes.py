"""Which episodes of a run are worth a look: the newest successes and failures, and how it began."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from turnwise.viewer.run_folder import RunFolder, Shown

LOOK_BACK = 8
"""Files searched for an episode of a kind."""


@dataclass(frozen=True, slots=True)
class Pick:
    """An episode and why it is shown."""

    title: str
    shown: Shown


def solved(shown: Shown) -> bool:
    """The episode has the full score."""
    return shown.episode.score is not None and shown.episode.score >= 1.0


def failed(shown: Shown) -> bool:
    """The episode was scored and lacks the full score."""
    return shown.episode.score is not None and shown.episode.score < 1.0


def pick_episodes(run: RunFolder) -> list[Pick]:
    """The last success and failure in training and in evaluations, and a failure of the first step; each
    where there is one."""
    training, evaluations = run.training_files(), run.evaluation_files()
    wanted: list[tuple[str, list[Path], Callable[[Shown], bool]]] = [
        ("Solved", training[::-1], solved),
        ("Not solved", training[::-1], failed),
        ("Evaluation, solved", evaluations[::-1], solved),
        ("Evaluation, not solved", evaluations[::-1], failed),
        ("How it began", training[:1], failed),
    ]
    picks: list[Pick] = []
    for title, where, accepts in wanted:
        shown = next(_search(run, where[:LOOK_BACK], accepts), None)
        if shown and all(shown.episode.episode_id != pick.shown.episode.episode_id for pick in picks):
            picks.append(Pick(title, shown))
    return picks


def _search(run: RunFolder, files: Iterable[Path], accepts: Callable[[Shown], bool]) -> Iterator[Shown]:
    """The matching episodes of the first file that has any, a typical one with something to see first: of
    middling length, with credit that differs between turns."""
    for file in files:
        found = [shown for shown in run.episodes(file) if accepts(shown) and shown.episode.turns]
        middle = median(len(shown.episode.turns) for shown in found) if found else 0
        yield from sorted(
            found, key=lambda s: (_spread(s) == 0, abs(len(s.episode.turns) - middle), -_spread(s))
        )


def _spread(shown: Shown) -> float:
    values = [v for v in shown.columns.get("advantage", ()) if v is not None]
    return max(values, default=0.0) - min(values, default=0.0)
