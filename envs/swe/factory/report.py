"""What a build came to, as ``report.json`` says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from turnwise.envs.swe.factory.problems import PackageFault
from turnwise.envs.swe.factory.records import Prepared
from turnwise.envs.swe.factory.shelf import Shelf
from turnwise.envs.swe.formats.built import BuiltRow
from turnwise.envs.types import Model


class PackageReport(Model):
    """One package's."""

    package: str
    sdist: str
    sha256: str
    requires: tuple[str, ...]
    """What was installed for it, in the image that its tasks stand on."""
    tests: int
    """Of its baseline."""
    left_out: int
    """Tests and test files that are not part of it."""
    modules: int
    tried: int
    """Bugs, of which some were not run since their function had enough tasks."""
    kept: int
    dropped: dict[str, int]
    """Bugs that made no task, by reason."""
    kinds: dict[str, int]
    """Tasks by kind of bug."""
    splits: dict[str, int]
    """Tasks by split."""
    classes: dict[str, int]
    """Tasks by how they are graded."""
    seeded: dict[str, int]
    """Tasks by how many seeded tests they have."""
    seconds: float
    """To make it ready and to try its bugs."""
    tasks_per_minute: float


class Refused(Model):
    """A package that gives no tasks."""

    source: str
    fault: PackageFault
    message: str


class BuildReport(Model):
    """The whole."""

    seed: int
    wanted: int
    """Tasks of each package."""
    finished: bool
    tasks: int
    splits: dict[str, int]
    classes: dict[str, int]
    seeded: dict[str, int]
    """Tasks by how many seeded tests they have."""
    admission_seconds: float
    packages: tuple[PackageReport, ...]
    refused: tuple[Refused, ...]


def counted(rows: Sequence[BuiltRow], field: str) -> dict[str, int]:
    """How many tasks have each value of a field."""
    return dict(sorted(Counter(str(row.task.get(field, "not admitted")) for row in rows).items()))


def seeded(rows: Sequence[BuiltRow]) -> dict[str, int]:
    """How many tasks have how many seeded tests."""
    return dict(sorted(Counter(str(row.seeded_tests) for row in rows).items()))


def package_report(prepared: Prepared, rows: Sequence[BuiltRow], shelf: Shelf, jobs: int) -> PackageReport:
    """Of what became of a package's bugs."""
    seconds = prepared.seconds + shelf.seconds / jobs
    return PackageReport(
        package=prepared.package,
        sdist=prepared.sdist,
        sha256=prepared.sha256,
        requires=prepared.requires,
        tests=len(prepared.baseline.tests),
        left_out=prepared.baseline.cut,
        modules=len(prepared.modules),
        tried=len(rows) + shelf.dropped.total(),
        kept=len(rows),
        dropped={reason.value: count for reason, count in shelf.dropped.most_common()},
        kinds=dict(shelf.kinds.most_common()),
        splits=counted(rows, "split"),
        classes=counted(rows, "assurance"),
        seeded=seeded(rows),
        seconds=round(seconds, 1),
        tasks_per_minute=round(60 * len(rows) / seconds, 1) if seconds else 0.0,
    )
