"""Making a package ready: fetched, laid out, its baseline found, its repository in a folder."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from turnwise.envs.errors import UsageError
from turnwise.envs.source import SandboxSource
from turnwise.envs.swe.factory.baseline import changes, find_baseline
from turnwise.envs.swe.factory.fresh import record
from turnwise.envs.swe.factory.installing import installed
from turnwise.envs.swe.factory.layout import lay_out
from turnwise.envs.swe.factory.records import Prepared
from turnwise.envs.swe.factory.sdist import obtain
from turnwise.envs.swe.factory.workshop import workshop
from turnwise.envs.swe.problems import TaskProblem
from turnwise.envs.swe.task import SweLimits, Tree
from turnwise.sandbox.contract import MiB


async def prepare(
    source: str, beside: Sequence[str], repositories: Path, sandboxes: SandboxSource
) -> Prepared:
    """One package, with its repository in a folder below ``repositories`` and its needs in an image.

    Raises :class:`PackageProblem`, and ``UsageError`` where no sandbox here can run tests.
    """
    started = time.monotonic()
    sdist = await obtain(source)
    layout = lay_out(sdist)
    requires = await installed(sdist, beside)
    package = f"{sdist.name}-{sdist.version}"
    with tempfile.TemporaryDirectory(prefix="turnwise-factory-") as raw:
        folder = Path(raw, package)
        await asyncio.to_thread(write_tree, folder, layout.files)
        shop = workshop(folder, requires, sandboxes, limits_for(layout.files))
        try:
            baseline, files = await find_baseline(layout, shop, package)
        except TaskProblem as problem:
            raise UsageError(f"tasks build: {problem}") from None
        modules = tuple(path for path in layout.modules if path in files)
        calls = await record(shop, changes(layout.files, files), modules, baseline.files, layout.sources)
        await asyncio.to_thread(_put, files, repositories / package)
    return Prepared(
        source=source,
        name=sdist.name,
        package=package,
        sdist=sdist.file,
        sha256=sdist.sha256,
        requires=requires,
        sources=layout.sources,
        modules=modules,
        baseline=baseline,
        calls=calls,
        seconds=round(time.monotonic() - started, 2),
    )


def limits_for(files: Tree, test_seconds: float = 30.0) -> SweLimits:
    """The limits of a package's tasks."""
    size = sum(map(len, files.values()))
    return SweLimits(test_seconds=test_seconds, memory_mb=512, disk_mb=128 + 4 * size // MiB)


def write_tree(folder: Path, files: Tree) -> None:
    """Put files into a folder."""
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def read_tree(folder: Path) -> Tree:
    """The files of a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _put(files: Tree, target: Path) -> None:
    """Write a folder so that it is there whole or not at all."""
    beside = target.with_name(f"{target.name}.part")
    for stale in (beside, target):
        if stale.exists():
            shutil.rmtree(stale)
    write_tree(beside, files)
    beside.rename(target)
