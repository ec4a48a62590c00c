"""The report's curves: which quantities of a run are drawn, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from markupsafe import Markup

from turnwise.trainer.tracker import Row
from turnwise.viewer.charts import Axes, Curve, Point, curve_chart
from turnwise.viewer.run_folder import RunFolder

STYLES = ("s1", "s2", "s3", "s4", "s5", "s6")
SPLIT_STYLES = {"train": "s4", "validation": "s1", "test": "s2"}
WARM_SHARE = 0.22
"""Width of the warm start beside that of the training steps."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what is said about it; the drawing is empty where the run has no data for it."""

    title: str
    drawing: Markup
    caption: str


def figures(run: RunFolder) -> Iterator[Figure]:
    """Every chart, the most telling first."""
    train = run.of_kind("train")
    yield _success(run)
    yield Figure(
        "Milestones reached",
        curve_chart("Share of training episodes that reached each milestone", _parts(train, "milestones")),
        "Share of a step's training episodes that reached each.",
    )
    ended = Curve("submitted", _points(train, "completion"), "s1")
    valid = Curve("valid turns", _points(train, "valid"), "s3")
    yield Figure(
        "Completion and validity",
        curve_chart("Shares of training episodes that submitted and of valid turns", [ended, valid]),
        "Episodes that the agent ended by submitting; turns whose action was well formed and carried out.",
    )
    yield Figure(
        "Turns per episode",
        curve_chart(
            "Mean turns per training episode",
            [Curve("turns", _points(train, "turns"), "s1")],
            Axes(top=None, number=lambda value: f"{value:,.6g}"),
        ),
        "Mean over a step's training episodes.",
    )
    ranked = [{"step": row["step"], "auc": row.get("implicit", {}).get("auc")} for row in train]
    yield Figure(
        "Reward model",
        curve_chart(
            "Share of pairs that the reward model ranks right",
            [Curve("success above failure", _points(ranked, "auc"), "s1")],
        ),
        "Pairs of a success and a failure of one task, before the model learned from them; 50% is chance.",
    )
    yield Figure(
        "Speed",
        curve_chart(
            "Tokens per second of rollout",
            [Curve("tokens per second", _points(train, "tokens_per_second"), "s2")],
            Axes(top=None, number=lambda value: f"{value:,.0f}"),
        ),
        "Tokens the policy wrote per second of rollout.",
    )
    yield Figure(
        "Seconds per step",
        curve_chart(
            "Seconds of each part of a training step",
            _parts(train, "seconds"),
            Axes(top=None, number=lambda value: f"{value:.3g} s"),
        ),
        "Wall time of each part of a step.",
    )


def _success(run: RunFolder) -> Figure:
    """Success over training, with the warm start left of it."""
    warm = [row for row in run.of_kind("warm_start") if row.get("success") is not None]
    rounds = warm[-1]["round"] if warm else 0
    width = WARM_SHARE * max(run.steps, 1)
    before = [((row["round"] / rounds - 1) * width, row["success"]) for row in warm]

    def place(x: float) -> str:
        if x > 0 or not rounds:
            return f"step {x:,.0f}"
        return f"warm start, round {rounds * (1 + x / width):,.0f}"

    training = Curve("training", _points(run.of_kind("train"), "success"), "s6")
    evaluations = [_evaluations(run, split) for split in SPLIT_STYLES]
    return Figure(
        "Success",
        curve_chart(
            "Success rate over training",
            [Curve("warm start", before, "s6", dots=True), training, *evaluations],
            Axes(before="warm start", place=place),
        ),
        "Grey: the batches trained on. Coloured: evaluations, with their 95% interval."
        + (" Shaded: the supervised warm start, on a scale of its own." if before else ""),
    )


def _evaluations(run: RunFolder, split: str) -> Curve:
    """The evaluations on one split."""
    rows = [row for row in run.evaluations if row["split"] == split]
    band = [(row["low"], row["high"]) for row in rows]
    return Curve(split, _points(rows, "success"), SPLIT_STYLES[split], band, dots=True)


def _points(rows: Sequence[Row], key: str) -> list[Point]:
    """A quantity by step, where it was measured."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _parts(rows: Sequence[Row], key: str) -> list[Curve]:
    """A curve for each name below ``key``, in the order in which the rows name them."""
    flat = [{"step": row["step"], **row.get(key, {})} for row in rows]
    names = [name for name in dict.fromkeys(name for row in flat for name in row) if name != "step"]
    return [
        Curve(name.replace("_", " "), _points(flat, name), style)
        for name, style in zip(names, cycle(STYLES), strict=False)
    ]
