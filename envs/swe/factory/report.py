"""What a build came to, as ``report.json`` says it."""

from __future__ import annotations

from collections import Counter

from turnwise.envs.swe.factory.problems import PackageFault
from turnwise.envs.swe.factory.records import DropReason, Kept, Prepared
from turnwise.envs.types import Model


class PackageReport(Model):
    """One package's."""

    package: str
    sdist: str
    sha256: str
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
    seconds: float
    """To make it ready and to try its bugs, without what was waited for."""
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
    packages: tuple[PackageReport, ...]
    refused: tuple[Refused, ...]


def package_report(
    prepared: Prepared, kept: list[Kept], kinds: Counter[str], dropped: Counter[DropReason], seconds: float
) -> PackageReport:
    """Of what became of a package's bugs."""
    splits = Counter(str(each.row.task.get("split", "test")) for each in kept)
    return PackageReport(
        package=prepared.package,
        sdist=prepared.sdist,
        sha256=prepared.sha256,
        tests=len(prepared.baseline.tests),
        left_out=prepared.baseline.cut,
        modules=len(prepared.modules),
        tried=len(kept) + dropped.total(),
        kept=len(kept),
        dropped={reason.value: count for reason, count in dropped.most_common()},
        kinds=dict(kinds.most_common()),
        splits=dict(sorted(splits.items())),
        seconds=round(seconds, 1),
        tasks_per_minute=round(60 * len(kept) / seconds, 1) if seconds else 0.0,
    )
