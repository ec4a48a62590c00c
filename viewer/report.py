"""The report of a run: one HTML file that needs nothing else, to be read, kept and sent.

Everything that an agent or an environment wrote is escaped, and a content security policy lets run no
script but the report's own, known by its hash, and load nothing from anywhere.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from turnwise.viewer.charts import Axes, Curve, curve_chart, heat_map, shade
from turnwise.viewer.credit_map import CreditMap, credit_maps
from turnwise.viewer.episodes import Pick, pick_episodes
from turnwise.viewer.run_folder import Row, RunFolder
from turnwise.viewer.words import action_text, clip, duration, interval, percent

HERE = Path(__file__).parent
WARM_SHARE = 0.22
"""Width of the warm start on the success chart, as a share of the training steps'."""


def write_report(run: Path | str) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Raises ``UsageError`` where ``run`` is not a run's folder.
    """
    folder = RunFolder(run)
    page = render(folder)
    target = folder.path / "report.html"
    scratch = target.with_suffix(".tmp")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, target)
    return target


def render(run: RunFolder) -> str:
    """The report as a page."""
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    templates.filters |= {"action": action_text, "clip": clip}
    script = (HERE / "report.js").read_text(encoding="utf-8")
    picks = pick_episodes(run)
    return templates.get_template("report.html").render(
        name=run.path.name,
        recipe=heading(run, "recipe") or run.config.get("name", ""),
        env=heading(run, "env"),
        seed=heading(run, "seed"),
        tiles=list(tiles(run)),
        notes=list(notes(run)),
        figures=[figure for figure in figures(run) if figure.drawing],
        maps=[MapView.of(one) for one in credit_maps(run, ("advantage", "step_reward"))],
        evaluations=run.of_kind("eval", "final"),
        picks=picks,
        shade=partial(shade, scale=largest_advantage(picks)),
        config=run.config_text,
        files=list(files(run)),
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        percent=percent,
        interval=interval,
    )


def heading(run: RunFolder, key: str) -> object:
    """What the summary says, or before there is one the recipe."""
    return run.summary.get(key, run.config.get(key, ""))


# ---------------------------------------------------------------- headline


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure."""

    label: str
    figure: str
    detail: str = ""


def tiles(run: RunFolder) -> Iterator[Tile]:
    """The headline figures; a run that has not ended shows what it has so far."""
    last = run.rows[-1] if run.rows else {}
    held_out = run.of_kind("final")[-1:] or run.of_kind("eval")[-1:]
    if held_out:
        row = held_out[0]
        kind = "Held-out success" if row["kind"] == "final" else f"Success, step {row['step']}"
        tasks = f", {row['tasks']} tasks of {row['split']}" if "tasks" in row else ""
        yield Tile(kind, percent(row["success"]), f"95% interval {interval(row['low'], row['high'])}{tasks}")
    else:
        yield Tile("Held-out success", "–", "not evaluated yet")
    episodes = sum(int(row.get("episodes", 0)) for row in run.of_kind("train"))
    yield Tile("Training steps", f"{run.steps:,}", f"{int(run.summary.get('episodes', episodes)):,} episodes")
    wall, cpu = (float(run.summary.get(k, last.get(k, 0.0))) for k in ("wall_seconds", "cpu_seconds"))
    yield Tile("Wall time", duration(wall), f"{cpu:,.0f} CPU seconds")
    if "peak_rss_mb" in run.summary:
        yield Tile("Peak memory", f"{run.summary['peak_rss_mb']:,.0f} MB", "resident, the trainer's process")


def notes(run: RunFolder) -> Iterator[str]:
    """What a reader has to know to judge the figures."""
    if stopped := run.summary.get("stopped"):
        yield f"Stopped: {stopped}."
    elif not run.summary:
        yield "The run has not ended, or was killed; the figures are those so far."
    resumed = [f"step {row['step']}" for row in run.of_kind("resume")]
    if resumed:
        yield f"Resumed at {', '.join(resumed)}."
    excluded: Counter[str] = Counter()
    for row in run.of_kind("train"):
        excluded.update(row.get("excluded", {}))
    if excluded:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in excluded.most_common())
        yield f"Training episodes left out because the environment or the machine failed: {reasons}."


# ---------------------------------------------------------------- figures


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what is said about it."""

    title: str
    drawing: Markup
    caption: str = ""
    wide: bool = False


def figures(run: RunFolder) -> Iterator[Figure]:
    """Every curve chart for which the run has data."""
    train = run.of_kind("train")
    yield success_figure(run)
    names = list(dict.fromkeys(name for row in train for name in row.get("milestones", {})))
    yield Figure(
        "Milestones reached",
        curve_chart(
            "Share of training episodes that reached each milestone",
            [
                Curve(
                    name.replace("_", " "),
                    [(row["step"], row["milestones"][name]) for row in train if name in row.get("milestones", {})],
                    f"s{i % 6 + 1}",
                )
                for i, name in enumerate(names)
            ],
        ),
        "Share of a step's training episodes that reached each.",
    )
    yield Figure(
        "Completion and validity",
        curve_chart(
            "Share of training episodes that submitted, and of turns that were valid",
            [Curve("submitted", column(train, "completion"), "s1"), Curve("valid turns", column(train, "valid"), "s3")],
        ),
        "Episodes the agent ended by submitting; turns whose action was well formed and carried out.",
    )
    count = Axes(top=None, number=lambda value: f"{value:,.6g}")
    yield Figure(
        "Turns per episode",
        curve_chart("Mean turns per training episode", [Curve("turns", column(train, "turns"))], count),
        "Mean over a step's training episodes.",
    )
    yield Figure(
        "Speed",
        curve_chart(
            "Tokens per second of the rollout",
            [Curve("tokens per second", column(train, "tokens_per_second"), "s2")],
            Axes(top=None, number=lambda value: f"{value:,.0f}"),
        ),
        "Tokens the policy wrote per second of rollout.",
    )


def success_figure(run: RunFolder) -> Figure:
    """Success over training, the warm start left of it."""
    train, warm = run.of_kind("train"), [row for row in run.of_kind("warm_start") if "success" in row]
    evals = [row for row in run.of_kind("eval", "final") if "success" in row]
    rounds = max((int(row["step"]) for row in warm), default=0)
    width = WARM_SHARE * max(run.steps, 1)
    before = [((row["step"] - rounds) / rounds * width, row["success"]) for row in warm] if rounds else []

    def place(x: float) -> str:
        return f"step {x:,.0f}" if x > 0 or not before else f"warm start, update {rounds * (1 + x / width):,.0f}"

    curves = [
        Curve("warm start", before, "s6", dots=True),
        Curve("training", column(train, "success"), "s6"),
        *(held_out_curve(split, [r for r in evals if r["split"] == split], style) for split, style in SPLIT_STYLES),
    ]
    shown = [curve for curve in curves if curve.points]
    return Figure(
        "Success",
        curve_chart("Success rate over training", shown, Axes(before="warm start", place=place)),
        "Grey: the batches trained on, sampled as in training. Coloured: held-out tasks, with the 95% interval."
        + (" The shaded part is the supervised warm start, on a scale of its own." if before else ""),
        wide=True,
    )


SPLIT_STYLES = (("train", "s4"), ("validation", "s1"), ("test", "s2"))


def held_out_curve(split: str, rows: Sequence[Row], style: str) -> Curve:
    """Evaluations of one split, with their intervals."""
    return Curve(
        "held out" if split == "validation" else split,
        [(row["step"], row["success"]) for row in rows],
        style,
        [(row["low"], row["high"]) for row in rows],
        dots=True,
    )


def column(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """A quantity by step, where it was measured."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


# ---------------------------------------------------------------- credit and episodes


@dataclass(frozen=True, slots=True)
class MapView:
    """A heat map with what is said about it."""

    key: str
    title: str
    drawing: Markup
    caption: str

    @classmethod
    def of(cls, credit: CreditMap) -> MapView:
        """Draw one."""
        title = {"advantage": "Mean advantage", "step_reward": "Mean reward"}[credit.column]
        drawing = heat_map(f"{title} by turn and training step", credit.rows, title.lower())
        read = f" Drawn from {credit.steps_read:,} of {credit.steps_stored:,} steps." if credit.steps_read < credit.steps_stored else ""
        return cls(credit.column, title, drawing, f"Blue is above 0, orange below.{read}")


def largest_advantage(picks: Sequence[Pick]) -> float:
    """The scale of the advantage cells: the largest magnitude among the episodes shown."""
    return max((abs(v) for pick in picks for v in pick.shown.columns.get("advantage", ()) if v is not None), default=1.0)


FILES = (
    ("summary.json", "what the run ended with"),
    ("metrics.jsonl", "every row of metrics"),
    ("config.yaml", "the recipe as resolved"),
    ("episodes/", "episodes, turn by turn"),
    ("credit/", "reward and advantage of every turn"),
    ("checkpoints/", "weights and everything else a resumed run needs"),
    ("tensorboard/", "for TensorBoard"),
)


def files(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The files of the folder that are there, with what is in them."""
    return ((name, what) for name, what in FILES if (run.path / name).exists())
