"""What the terminal shows of a run: episodes turn by turn, tables, an overview.

Everything an agent or an environment wrote goes through :func:`~turnwise.viewer.words.printable`, so that
it cannot move the cursor or repaint the screen. Without a terminal the same text comes out plain.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from turnwise.agents.metrics import Evaluation, assurances, failure_classes, rates
from turnwise.agents.trajectory import Episode, Turn
from turnwise.envs.types import AgentView, SandboxRecord, TextBlock
from turnwise.trainer.tracker import Row
from turnwise.viewer.charts import scale_of, shade
from turnwise.viewer.episodes import Pick
from turnwise.viewer.run_folder import RunFolder, Shown
from turnwise.viewer.words import action_text, clip, duration, interval, percent, printable, signed

SHADES = {
    "q0": "#ffffff on #9c3f06",
    "q1": "#ffffff on #c4682a",
    "q2": "#1b1f26 on #dd925e",
    "q3": "#1b1f26 on #eebd98",
    "q4": "#1b1f26 on #f7dfce",
    "q5": "",
    "q6": "#1b1f26 on #d6e4f2",
    "q7": "#1b1f26 on #a9c9e6",
    "q8": "#1b1f26 on #74a7d5",
    "q9": "#ffffff on #3f82bd",
    "q10": "#ffffff on #195c9d",
    "none": "",
}
"""The report's diverging scale."""
OBSERVATION_ROOM = 1200
"""Characters shown of one observation."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no guesses at what a number means."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def grid(*headers: str, right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in ``right`` are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", no_wrap=header in right)
    return table


# ---------------------------------------------------------------- an episode


def episode_view(shown: Shown) -> RenderableType:
    """An episode turn by turn, with reward and advantage beside each turn."""
    episode = shown.episode
    scale = scale_of([v for v in shown.columns.get("advantage", ()) if v is not None])
    table = grid("", "action and observation", "reward", "advantage", right=["reward", "advantage"])
    table.columns[1].ratio = 1
    table.expand = True
    for turn in episode.turns:
        advantage = shown.at("advantage", turn.index)
        table.add_row(
            Text(f"{turn.index + 1:>2}", style="dim"),
            turn_view(turn),
            signed(shown.reward(turn.index)),
            Text(f" {signed(advantage)} ", style=SHADES[shade(advantage, scale)]),
        )
    opening = Padding(Text(view_text(episode.opening)), (0, 0, 0, 4))
    return Group(Text(headline(episode), style="bold"), opening, Text(""), table)


def headline(episode: Episode) -> str:
    """One line on an episode: what it is and how it went."""
    end = str(episode.end).replace("_", " ")
    score = "not scored" if episode.score is None else f"score {episode.score:g}"
    return f"{episode.episode_id} · {episode.task.id} · {len(episode.turns)} turns · {end} · {score}"


def turn_view(turn: Turn) -> RenderableType:
    """What the agent did, what it was shown, and what it reached."""
    parts = [Text(printable(clip(action_text(turn), OBSERVATION_ROOM)))]
    if shown := view_text(turn.observation):
        parts.append(Text("\n".join(f"  {line}" for line in shown.splitlines()), style="dim"))
    marks = [f"✓ {name.replace('_', ' ')}" for name in turn.record.milestones]
    if not turn.record.valid:
        marks.append("✗ invalid")
    if turn.record.error:
        marks.append(f"✗ {printable(clip(turn.record.error, 300))}")
    parts += [Text(f"  {mark}", style="green" if mark.startswith("✓") else "red") for mark in marks]
    return Group(*parts)


def view_text(view: AgentView) -> str:
    """A view as text; an image is named."""
    blocks = [b.text if isinstance(b, TextBlock) else f"[{b.media_type}]" for b in view.content]
    return printable(clip("\n".join(blocks), OBSERVATION_ROOM))


# ---------------------------------------------------------------- tables


def evaluation_table(result: Evaluation, k: int) -> RenderableType:
    """Success of a policy, with its interval and how its episodes ended."""
    turns = [len(e.turns) for e in result.scored]
    ends = {str(e.end): 0 for e in result.scored}
    for episode in result.scored:
        ends[str(episode.end)] += 1
    tasks = len({e.task.id for e in result.episodes})
    found, failures = rates(result.episodes), failure_classes(result.episodes)
    complete = not result.excluded
    lines = [
        ("success", f"{percent(result.success)}   95% interval {interval(*result.interval)}"),
        ("tasks", f"{tasks} of {result.split}, {k} {'try' if k == 1 else 'tries'} each"),
        ("pass@1", percent(result.pass_at(1)) if complete else "–"),
        *([(f"pass@{k}", percent(result.pass_at(k)) if complete else "–")] if k > 1 else []),
        ("submitted", percent(ends.get("submitted", 0) / len(turns)) if turns else "–"),
        *([("modified", percent(found["modified"]))] if "modified" in found else []),
        ("turns", f"{sum(turns) / len(turns):.1f} on average" if turns else "–"),
        *([("failures", told(failures))] if failures else []),
        ("ends", told(ends) or "–"),
        *([("graded", told(graded))] if (graded := assurances(result.episodes)) else []),
        ("left out", told(result.excluded) or "none"),
        ("task set", result.task_hash),
        *([("sandbox", sandbox_line(result.sandbox))] if result.sandbox is not None else []),
        ("time", duration(result.seconds)),
    ]
    return pairs(lines)


def sandbox_line(record: SandboxRecord) -> str:
    """What episodes ran in."""
    digest = "" if record.digest is None else f" ({record.digest[:12]})"
    return record.backend if record.image is None else f"{record.backend}, image {record.image}{digest}"


def told(counts: dict[str, int]) -> str:
    """Counts by name, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in ordered)


def pairs(lines: Sequence[tuple[str, str]]) -> Table:
    """Names and values, a line each."""
    table = grid("", "")
    table.show_header = False
    for name, value in lines:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def evaluations_table(rows: Sequence[Row]) -> RenderableType:
    """Evaluations of a run, a row each."""
    table = grid(
        "step", "split", "tasks", "success", "95% interval", "submitted", "turns",
        right=["step", "tasks", "success", "95% interval", "submitted", "turns"],
    )  # fmt: skip
    for row in rows:
        final = row["kind"] == "final"
        table.add_row(
            str(row["step"]),
            f"{row['split']} (final)" if final else row["split"],
            str(row["tasks"]),
            percent(row["success"]),
            interval(row["low"], row["high"]),
            percent(row["completion"]),
            f"{row['turns']:.1f}",
            style="bold" if final else "",
        )
    return table


# ---------------------------------------------------------------- a run


def overview(run: RunFolder, picks: Sequence[Pick]) -> RenderableType:
    """A run at a glance, and the episodes one might want to look at."""
    summary, last = run.summary, run.rows[-1] if run.rows else {}
    state = "not finished" if summary is None else summary.stopped
    lines = [
        ("recipe", f"{run.config['name']} on {run.env}, seed {run.config['seed']}"),
        ("state", f"{state}, {run.steps} of {run.config['steps']} steps"),
        ("time", f"{duration(last.get('wall_seconds', 0))}, {last.get('cpu_seconds', 0):,.0f} CPU seconds"),
    ]
    if (run.path / "report.html").is_file():
        lines.append(("report", str(run.path / "report.html")))
    parts: list[RenderableType] = [pairs(lines)]
    if run.evaluations:
        parts += [Text(""), evaluations_table(run.evaluations[-LISTED:])]
    if picks:
        parts += [Text(""), episode_list(run, picks)]
    return Group(*parts)


def episode_list(run: RunFolder, picks: Sequence[Pick]) -> RenderableType:
    """Episodes to choose from: the telling ones, then those of the newest training step."""
    table = grid("episode", "turns", "end", "score", "", right=["turns", "score"])
    listed = [(pick.shown.episode, pick.title.lower()) for pick in picks]
    chosen = {episode.episode_id for episode, _ in listed}
    for file in run.training_files()[-1:]:
        newest = [shown.episode for shown in run.episodes(file)]
        listed += [(e, "") for e in newest if e.episode_id not in chosen][:LISTED]
    for episode, why in listed:
        score = "–" if episode.score is None else f"{episode.score:g}"
        end = str(episode.end).replace("_", " ")
        table.add_row(episode.episode_id, str(len(episode.turns)), end, score, why)
    return table


LISTED = 8
"""Evaluations, and episodes of the newest step, named in an overview."""
