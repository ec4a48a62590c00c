"""A run beside what another recipe would have made of it: for the terminal, and as a page.

The arithmetic is :mod:`turnwise.trainer.rescore`; here its result is joined with what the run stored,
and told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from turnwise.envs.errors import UsageError
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.rescore import Difference, Turns, rescore
from turnwise.viewer.charts import scale_of, shade
from turnwise.viewer.console import SHADES, grid, headline, pairs, turn_view
from turnwise.viewer.page import render_page, write_page
from turnwise.viewer.run_folder import RunFolder, Shown
from turnwise.viewer.words import percent, signed

LISTED = 12
"""Places in the episode listed, those that differ most."""
PAGED = 6
"""Episodes on a page."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An episode with the credit of both recipes."""

    shown: Shown
    reward: Sequence[float]
    """Of the new recipe, as the advantage; NaN where it gives none."""
    advantage: Sequence[float]


@dataclass(frozen=True, slots=True)
class Rescored:
    """Steps of a run under another recipe."""

    run: RunFolder
    recipe: Recipe
    steps: Sequence[int]
    turns: Turns

    def pair(self, episode_id: str) -> Pair:
        """An episode of these steps. Raises ``UsageError`` for one that is not among them."""
        own = self.turns.episode == episode_id
        shown = self.run.episode(episode_id)
        if not own.any():
            raise UsageError(f"episode {episode_id!r} was not trained on in {self.span}, so it has no credit")
        return Pair(shown, self.turns.new_reward[own].tolist(), self.turns.new_advantage[own].tolist())

    @property
    def span(self) -> str:
        """The steps in words."""
        first, last = self.steps[0], self.steps[-1]
        return f"step {first}" if first == last else f"steps {first} to {last}"

    @property
    def stages(self) -> tuple[str, str]:
        """Both recipes by name with their stages."""
        recorded = [ref if isinstance(ref, str) else ref["kind"] for ref in self.run.config["credit"]]
        anew = [ref.kind for ref in self.recipe.credit]
        names = (self.run.config["name"], self.recipe.name)
        old, new = (f"{n}: {', '.join(kinds)}" for n, kinds in zip(names, (recorded, anew), strict=True))
        return old, new

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say of all turns together."""
        turns, (opposite, lost, won) = self.turns, self.turns.signs()
        correlation = turns.correlation()
        episodes = len(set(turns.episode))
        return [
            ("turns", f"{len(turns):,} of {episodes:,} episodes, {self.span}"),
            ("correlation", "–" if math.isnan(correlation) else f"{correlation:+.2f} between the advantages"),
            ("opposite sign", f"{percent(opposite)} of turns"),
            (
                "one-sided",
                f"{percent(lost)} of turns get credit from the old only, {percent(won)} from the new",
            ),
            *((f"{name}", f"counts in {percent(s)} of episodes") for name, s in turns.open_gates().items()),
        ]

    def places(self) -> list[Difference]:
        """Turns by their number: the ones that differ most, in order."""
        by_place = self.turns.by_place()
        chosen = sorted(by_place, key=lambda place: -abs(place.gap))[:LISTED]
        return [place for place in by_place if place in chosen]


def rescored(run: RunFolder, recipe: Recipe, step: int | None = None) -> Rescored:
    """A run's training steps, or one of them, under another recipe.

    Raises ``UsageError`` for a step that the run lacks, a recipe that does not fit the run's environment,
    and episodes that lack what the recipe reads.
    """
    there = {int(file.stem.partition("-")[2]) for file in run.training_files()}
    steps = [number for number in run.credited_steps() if number in there]
    if not steps:
        raise UsageError(f"run {str(run.path)!r} has no training steps to rescore")
    if step is not None and step not in steps:
        raise UsageError(f"run {str(run.path)!r} has no step {step}; it has {steps[0]} to {steps[-1]}")
    tables = rescore(run.path, recipe, run.env.make(), run.config["rollout"]["group"], steps, step)
    turns = Turns.joined([Turns.of(table, run.credit(number)) for number, table in tables])
    if not len(turns):
        raise UsageError(f"run {str(run.path)!r} stored no advantages in these steps")
    return Rescored(run, recipe, steps if step is None else [step], turns)


# ---------------------------------------------------------------- the terminal


def rescore_view(result: Rescored) -> RenderableType:
    """The two recipes side by side: over all turns, by kind of turn, and by place in the episode."""
    old, new = result.stages
    lines = [("recorded", old), ("anew", new), *result.facts()]
    parts: list[RenderableType] = [pairs(lines), Text("\nMean advantage, and the gap in standard deviations")]
    for header, differences in (("turns that", result.turns.by_kind()), ("turn", result.places())):
        table = grid(header, "count", "old", "new", "gap", right=["count", "old", "new", "gap"])
        for d in differences:
            table.add_row(d.name, f"{d.turns:,}", signed(d.old), signed(d.new), signed(d.gap))
        parts += [Text(""), table]
    return Group(*parts)


def pair_view(pair: Pair) -> RenderableType:
    """An episode turn by turn, the credit of both recipes beside each turn."""
    shown, right = pair.shown, ["reward", "new", "advantage", "new "]
    old_scale, new_scale = scales([pair])
    table = grid("", "action and observation", *right, right=right)
    table.columns[1].ratio = 1
    table.expand = True
    for turn in shown.episode.turns:
        old, new = shown.at("advantage", turn.index), pair.advantage[turn.index]
        table.add_row(
            Text(f"{turn.index + 1:>2}", style="dim"),
            turn_view(turn),
            signed(shown.reward(turn.index)),
            signed(number(pair.reward[turn.index])),
            Text(f" {signed(old)} ", style=SHADES[shade(old, old_scale)]),
            Text(f" {signed(new)} ", style=SHADES[shade(new, new_scale)]),
        )
    return Group(Text(headline(shown.episode), style="bold"), Text(""), table)


def scales(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The ends of the colours of old and new advantages: each recipe has a scale of its own."""
    old = [v for pair in pairs for v in pair.shown.columns.get("advantage", ()) if v is not None]
    return scale_of(old), scale_of([v for pair in pairs for v in pair.advantage])


def number(value: float) -> float | None:
    """None for what is not there."""
    return None if math.isnan(value) else value


# ---------------------------------------------------------------- the page


def write_rescore(result: Rescored, episodes: Sequence[str]) -> Path:
    """Write ``rescore-RECIPE.html`` into the run's folder and return its path."""
    name = re.sub(r"[^\w.-]+", "-", result.recipe.name)
    shown = [result.pair(episode) for episode in episodes]
    old_scale, new_scale = scales(shown)
    gaps = [d.gap for d in (*result.turns.by_kind(), *result.turns.by_place())]
    page = render_page(
        "rescore.html",
        path=str(result.run.path),
        recipe=result.recipe.name,
        recorded=result.run.config["name"],
        env=str(result.run.env),
        stages=result.stages,
        facts=result.facts(),
        kinds=result.turns.by_kind(),
        places=result.turns.by_place(),
        pairs=shown,
        number=number,
        shade_gap=partial(shade, scale=scale_of(gaps)),
        shade_old=partial(shade, scale=old_scale),
        shade_new=partial(shade, scale=new_scale),
        config=result.recipe.to_yaml(),
    )
    return write_page(result.run.path / f"rescore-{name}.html", page)
