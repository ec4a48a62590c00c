"""``turnwise tasks``: tasks made here, out of what others have published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from turnwise.cli.admit import admit
from turnwise.cli.backend import backend_option
from turnwise.cli.group import Commands

if TYPE_CHECKING:
    from turnwise.envs.swe.factory.records import Order
    from turnwise.envs.swe.factory.report import BuildReport


@click.group(cls=Commands, short_help="Build tasks out of published packages.")
def tasks() -> None:
    """Build tasks for environments, and find out how they can be graded."""


@tasks.group(cls=Commands, short_help="Build tasks of one family.")
def build() -> None:
    """Build tasks of one family of environments."""


tasks.add_command(admit)


@build.command("swe", short_help="Software repair, out of published packages.")
@click.option(
    "--from", "sources", multiple=True, required=True, metavar="PACKAGE==VERSION",
    help="A package, or the path of its source distribution; may be given many times.",
)  # fmt: skip
@click.option(
    "--with", "beside", multiple=True, metavar="REQUIREMENT",
    help="What is installed beside what the packages declare; may be given many times.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option(
    "--tasks", "wanted", type=click.IntRange(min=1), default=50, show_default=True,
    help="How many of each package.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Which bugs: the same give the same.")
@click.option(
    "--admit", "admits", is_flag=True, help="Calibrate the grader with each task, too; minutes each."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Bugs tried at once; one per core by default.")
@backend_option
def build_swe(
    sources: tuple[str, ...],
    beside: tuple[str, ...],
    out: Path,
    wanted: int,
    seed: int,
    admits: bool,
    jobs: int | None,
    backend: str | None,
) -> int:
    """Put bugs into published packages and keep those that the packages' own tests notice.

    Each task has an issue in words, hidden tests, a reference repair that was checked, a difficulty, and a
    split that shares no module with the others. Everything of a package runs in sandboxes. A package that
    cannot be used is named, and the others go on. After Ctrl-C the same command goes on where it stopped.

    \b
    Examples:
      turnwise tasks build swe --from toolz==1.0.0 --from parse==1.20.2 --out tasks
      turnwise tasks build swe --from ./mine-1.0.tar.gz --with attrs --out tasks --tasks 10 --seed 3
      turnwise eval 'swe/tasks?path=tasks' --policy scripted:oracle --split train --tasks 8
    """
    import asyncio
    import os

    from turnwise.envs.swe.factory.records import Order
    from turnwise.envs.swe.factory.sdist import check_source
    from turnwise.sandbox.images.python import check_requirements

    for source in sources:
        check_source(source)
    check_requirements(beside)
    order = Order(sources=tuple(dict.fromkeys(sources)), tasks=wanted, seed=seed, beside=beside)
    try:
        report = asyncio.run(_build(order, out, jobs or os.cpu_count() or 1, backend, admits))
    except KeyboardInterrupt:
        click.echo(f"interrupted; {out} keeps what was made, and the same command goes on", err=True)
        raise click.exceptions.Exit(130) from None
    _show(report, out)
    return 0 if report.tasks else 1


async def _build(order: Order, out: Path, jobs: int, backend: str | None, admits: bool) -> BuildReport:
    from turnwise.envs.local import LocalEnvs
    from turnwise.envs.swe.factory.build import Build

    async with LocalEnvs(backend=backend, capacity=jobs) as envs:
        return await Build(order, out, envs, jobs=jobs, say=click.echo, admits=admits).run()


def _show(report: BuildReport, out: Path) -> None:
    """A line for each package, and what to try next."""
    from turnwise.cli.shell import command_line
    from turnwise.viewer.console import grid, make_console

    numbers = ["tests", "bugs", "tasks", "train", "validation", "test", "per minute"]
    table = grid("package", *numbers, right=["package", *numbers])
    dropped = Counter[str]()
    for package in report.packages:
        splits = [str(package.splits.get(split, 0)) for split in ("train", "validation", "test")]
        dropped += Counter(package.dropped)
        counts = [str(package.tests), str(package.tried), str(package.kept), *splits]
        table.add_row(package.package, *counts, f"{package.tasks_per_minute:g}")
    console = make_console()
    console.print(table)
    for refused in report.refused:
        console.print(f"left out ({refused.fault}): {refused.message}", soft_wrap=True)
    if dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
        console.print(f"bugs that made no task: {reasons}", soft_wrap=True)
    classes = ", ".join(f"{count:,} {name}" for name, count in report.classes.items())
    console.print(f"{report.tasks:,} tasks in {out}" + (f": {classes}" if classes else ""), soft_wrap=True)
    fresh = sum(count for tests, count in report.seeded.items() if tests != "0")
    console.print(f"{fresh:,} of them ask for fresh inputs at every grading", soft_wrap=True)
    if report.tasks:
        split, count = max(report.splits.items(), key=lambda item: item[1])
        words = ["--policy", "scripted:oracle", "--split", split, "--tasks", min(8, count)]
        console.print(
            f"to see them solved: {command_line('eval', f'swe/tasks?path={out}', *words)}", soft_wrap=True
        )
