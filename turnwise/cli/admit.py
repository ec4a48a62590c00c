"""``turnwise tasks admit``: finds out how tasks of software repair can be graded, and writes that down."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from turnwise.cli.backend import backend_option
from turnwise.cli.messages import told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnwise.envs.swe.task import SweTask


@click.command("admit", short_help="Find out how tasks of software repair can be graded.")
@click.argument("path")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The rows to write."
)
@click.option("--format", "kind", help="Of the rows; told by their columns by default.")
@click.option("--repositories", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A folder with the files of each row's base commit, by the row's id.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Tasks at once.")
@backend_option
def admit(
    path: str, out: Path, kind: str | None, repositories: Path | None, jobs: int, backend: str | None
) -> int:
    """Calibrate the hidden tests of tasks with the reference and the broken base, and keep each task's class.

    A task becomes split, in-process or one-process, the best that its hidden tests allow; docs/swe.md says
    what they are worth. OUT holds the same tasks, to be used in the place of PATH.

    \b
    Examples:
      turnwise tasks admit tasks/ --out admitted.jsonl
      turnwise eval 'swe/tasks?path=admitted.jsonl' --policy scripted:oracle --tasks 8
    """
    import asyncio

    from turnwise.envs.errors import UsageError
    from turnwise.envs.swe.formats.load import load_tasks
    from turnwise.envs.swe.formats.places import Places

    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}")
    loaded = load_tasks(path, kind=kind, places=Places(repositories) if repositories else Places())
    found = asyncio.run(_admit(loaded.tasks, jobs, backend))
    text = "".join(_relative(task, out.parent).model_dump_json() + "\n" for task in found)
    out.write_text(text, encoding="utf-8")
    for name, count in Counter(str(task.assurance) for task in found).most_common():
        click.echo(f"{count:>6} {name}")
    left_out = len(loaded.tasks) + len(loaded.skipped) - len(found)
    click.echo(f"{len(found):,} tasks in {out}" + (f", {left_out} left out" if left_out else ""))
    return 0 if found else 1


async def _admit(tasks: Sequence[SweTask], jobs: int, backend: str | None) -> list[SweTask]:
    import asyncio

    from turnwise.envs.local import LocalEnvs
    from turnwise.envs.session import EpisodeFailed
    from turnwise.envs.swe.admission import classify, machines_for, trees

    room = asyncio.Semaphore(jobs)
    found: dict[int, SweTask] = {}

    async def one(place: int, task: SweTask) -> None:
        async with room:
            try:
                async with envs.open("swe/tasks", task=task.task("swe/tasks", 0)) as session:
                    await session.reset()  # baseline and reference are what they should be
            except EpisodeFailed as problem:
                click.echo(f"left out: {told(str(problem))}", err=True)
                return
            base, reference = await trees(task)
            admitted, why = await classify(task, base, reference, machines_for(task, running))
        found[place] = admitted.model_copy(update={"verified": True})
        click.echo(f"{task.id}: {admitted.assurance}{why and f', because {why}'}", err=True)

    async with LocalEnvs(backend=backend) as envs:
        running = await envs.backend()
        async with asyncio.TaskGroup() as group:
            for place, task in enumerate(tasks):
                group.create_task(one(place, task))
    return [found[place] for place in sorted(found)]


def _relative(task: SweTask, folder: Path) -> SweTask:
    """With its repository's folder as seen from another, so that both can be moved together."""
    import os

    from turnwise.envs.swe.task import FolderRepository

    if not isinstance(task.repository, FolderRepository):
        return task
    path = os.path.relpath(task.repository.path, folder.resolve())
    return task.model_copy(update={"repository": task.repository.model_copy(update={"path": path})})
