"""The suite of a task's seeded tests: what it asks is drawn anew at every grading.

It has a test for each function that is asked, and beside the tests an archive of the original code, which
the judge holds and no sandbox ever has. It is judged split or not at all, whatever the task's own tests
allow. :mod:`.fresh` has what the tests are made of.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

from pydantic import Field

from turnwise.envs.swe.grading.rules import Rules, Tree, holds_tests
from turnwise.envs.swe.grading.suite import SEEDS, Calibration, Suite
from turnwise.envs.types import Model

FILE = "test_fresh.py"
ARCHIVE = "original.zip"
HEAD = '''"""Questions that are new at every grading, answered by the original before the package is asked."""

from turnwise.envs.swe.grading.fresh.asking import answer, questions
from turnwise.envs.swe.grading.fresh.original import Original
'''
TEST = """

def test_{name}(fresh_rng):
    asked = questions(ORIGINAL, {entry!r}, {seen!r}, fresh_rng)
    for question in asked:
        assert answer({name}, question.text, judged=True) == question.expected
"""


class SeededTest(Model):
    """A function of the package that is asked about fresh inputs."""

    entry: str = Field(pattern=r"^[\w.]+:\w+$")
    """``module:function``."""
    seen: tuple[str, ...] = Field(min_length=1)
    """What fresh inputs are made of: some that the package's own tests have, as JSON of the codec's."""
    tells: float
    """The share of fresh inputs whose answer was another on the broken base."""


class Seeded(Model):
    """A task's seeded tests."""

    tests: tuple[SeededTest, ...] = Field(min_length=1)
    calibration: Calibration | None = None
    """What the grader found out when they were made."""


def seeded_suite(seeded: Seeded, original: Tree, rules: Rules) -> Suite:
    """The tests as a suite; ``original`` is the repaired repository."""
    names = [f"{test.entry.partition(':')[2]}_{place}" for place, test in enumerate(seeded.tests)]
    return Suite(
        rules=rules,
        files={FILE: _text(seeded.tests, names, rules).encode(), ARCHIVE: _archive(original, rules)},
        fail_to_pass=tuple(f"{FILE}::test_{name}[{seed}]" for name in names for seed in SEEDS),
        calibration=seeded.calibration,
    )


def _text(tests: Sequence[SeededTest], names: Sequence[str], rules: Rules) -> str:
    parts = [HEAD]
    for test, name in zip(tests, names, strict=True):
        module, _, function = test.entry.partition(":")
        parts.append(f"from {module} import {function} as {name}\n")
    parts.append(f"\nORIGINAL = Original({ARCHIVE!r}, {list(rules.roots)}, {list(rules.packages)})\n")
    for test, name in zip(tests, names, strict=True):
        parts.append(TEST.format(name=name, entry=test.entry, seen=test.seen))
    return "".join(parts)


def _archive(original: Tree, rules: Rules) -> bytes:
    """The package without its tests, and what says its version; the same bytes for the same files."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(original.items()):
            if (rules.below(path) and not holds_tests(path)) or _is_metadata(path, rules):
                archive.writestr(zipfile.ZipInfo(path), data)
    return raw.getvalue()


def _is_metadata(path: str, rules: Rules) -> bool:
    folder = PurePosixPath(path).parent
    return folder.suffix in (".egg-info", ".dist-info") and str(folder.parent) in rules.roots
