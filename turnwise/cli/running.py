"""Carrying out a run from the command line: live progress, what Ctrl-C leaves, and what it ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from turnwise.cli.shell import command_line
from turnwise.trainer.run_folder import Run
from turnwise.viewer.console import episode_view, evaluations_table, make_console, pairs
from turnwise.viewer.episodes import pick_episodes
from turnwise.viewer.progress import Progress
from turnwise.viewer.report import write_report
from turnwise.viewer.run_folder import RunFolder
from turnwise.viewer.words import duration, percent


def default_folder(name: str) -> Path:
    """A new folder below ``runs``."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def follow(
    start: Callable[[Progress], Coroutine[None, None, Run]], folder: Path, title: str, steps: int
) -> None:
    """Run what ``start`` returns while its progress is shown; ends with the result, or with exit code 130
    and how to go on."""
    console = make_console()
    try:
        with Progress(console, title, steps) as progress:
            asyncio.run(start(progress))
    except KeyboardInterrupt:
        if (folder / "config.yaml").is_file():
            write_report(folder)
            how = command_line("train", "--resume", "--run", folder)
            click.echo(f"interrupted; to go on: {how}", err=True)
        else:
            click.echo("interrupted before the run began", err=True)
        raise click.exceptions.Exit(130) from None
    print_result(console, folder)


def print_result(console: Console, folder: Path) -> None:
    """Success, an episode turn by turn, the report's path and commands to try next."""
    run = RunFolder(folder)
    picks = pick_episodes(run)
    heading(console, "Success")
    console.print(evaluations_table(run.evaluations))
    if picks:
        heading(console, picks[0].title)
        console.print(episode_view(picks[0].shown))
    heading(console, "Run")
    console.print(pairs(facts(run)))
    heading(console, "Next")
    policy = ["--policy", folder, "--tasks", 256, "--k", 4]
    commands = [
        (command_line("show", folder), "its episodes, turn by turn"),
        (command_line("eval", run.env, *policy), "more tries, pass@4"),
        (command_line("recipes"), "other ways to give credit"),
    ]
    if picks:
        by_hand = command_line("show", folder, picks[0].shown.episode.episode_id, "--step")
        commands.insert(1, (by_hand, "go through this one by hand"))
    if not run.steps and run.summary is not None and run.summary.stopped == "finished":
        commands.insert(0, (command_line("train", "--resume", "--run", folder), "go on with reinforcement"))
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


def heading(console: Console, words: str) -> None:
    """A heading with a line before it."""
    console.print()
    console.print(Text(words, style="bold"))
