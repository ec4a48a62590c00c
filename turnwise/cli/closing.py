"""What a run's command ends with: the result, one episode, the report, and what to do next."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from turnwise.cli.choices import command_line
from turnwise.viewer.console import episode_view, held_out_table, pairs
from turnwise.viewer.episodes import pick_episodes
from turnwise.viewer.run_folder import RunFolder
from turnwise.viewer.words import duration, percent


def print_result(console: Console, folder: Path) -> None:
    """Held-out success, an episode turn by turn, the report's path and commands to try next."""
    run = RunFolder(folder)
    picks = pick_episodes(run)
    title(console, "Held-out success")
    console.print(held_out_table(run.evaluations))
    if picks:
        title(console, picks[0].title)
        console.print(episode_view(picks[0].shown))
    title(console, "Run")
    console.print(pairs(facts(run)))
    title(console, "Next")
    policy = ["--policy", folder, "--tasks", 256, "--k", 4]
    commands = [
        (command_line("show", folder), "its episodes, turn by turn"),
        (command_line("eval", run.env, *policy), "more tries, pass@4"),
        (command_line("recipes"), "other ways to give credit"),
    ]
    if picks:
        by_hand = command_line("show", folder, picks[0].shown.episode.episode_id, "--step")
        commands.insert(1, (by_hand, "go through this one by hand"))
    for command, why in commands:
        console.print(Text.assemble(f"{command}\n", (f"    {why}", "dim")), soft_wrap=True)


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """What the run came down to."""
    lines = [("report", str(run.path / "report.html"))]
    summary = run.summary
    if summary is not None:
        success = "–" if summary.held_out_success is None else percent(summary.held_out_success)
        lines += [
            ("success", f"{success} on held-out tasks"),
            ("stopped", summary.stopped),
            ("episodes", f"{summary.episodes:,} in {summary.steps} steps"),
            ("time", f"{duration(summary.wall_seconds)}, {summary.cpu_seconds:,.0f} CPU seconds"),
            ("memory", f"{summary.peak_rss_mb:,.0f} MB at most"),
        ]
    return lines


def title(console: Console, words: str) -> None:
    """A heading with a line before it."""
    console.print()
    console.print(Text(words, style="bold"))
