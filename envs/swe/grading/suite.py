"""Hidden tests and what is known about them.

A suite is useless until it is calibrated (:func:`~turnwise.envs.swe.grading.calibrate.calibrate`): its
reference passed every test and its broken base failed those to be mended, here, by this grader. The
calibration holds for exactly the suite it was made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.grading.rules import Rules
from turnwise.envs.types import Model

Assurance = Literal["split", "split-with-edits", "in-process"]
"""How well a verdict is protected: assertions in a process that the code under test cannot reach, the same
with tests edited to that end, or in the process of the code under test, against decoys."""

Entry = tuple[str, str, tuple[tuple[str, str], ...]]
"""A name of a module, what it stands for, and where that is defined, its bases following."""


SEEDS = ("first", "second")
"""Every seeded test runs once with each, and its ids end so."""


class Bounds(Model):
    """What the code under test may take in one test."""

    call_seconds: float = 10.0
    test_seconds: float = 30.0
    calls: int = 10_000
    message_bytes: int = 4 << 20


class Decoy(Model):
    """A test with one expectation changed, which must fail."""

    test: str
    """The id it has in common with the real one."""
    file: str
    source: str
    why: str
    """The exception that the reference fails it by."""


class Calibration(Model):
    """What a run of reference and broken base has shown."""

    digest: str
    """Of the suite as it was calibrated."""
    collected: tuple[str, ...]
    """Every test there is, asked for or not, as :func:`census` has it."""
    seeded: tuple[str, ...]
    surface: dict[str, tuple[Entry, ...]] = Field(default={})
    """What each module of the reference offers."""
    decoys: tuple[Decoy, ...] = ()
    uses: tuple[str, ...] = ()
    """What the reference uses of what cheats often do."""
    versions: dict[str, str] = Field(default={})


MOST_NAMED = 100
"""Tests of a suite that a calibration names."""


def census(ids: Iterable[str]) -> tuple[str, ...]:
    """The tests that there are; of many, what differs where the tests do."""
    names = tuple(ids)
    if len(names) <= MOST_NAMED:
        return names
    return (hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest(),)


class Suite(Model):
    """The hidden tests of one task, and where the code is that they test."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    rules: Rules
    files: dict[str, bytes] = Field(min_length=1)
    """Test files and what they read, by path below a folder of their own."""
    fail_to_pass: tuple[str, ...] = Field(min_length=1)
    """Ids of tests that the broken base fails; what mending it is for."""
    pass_to_pass: tuple[str, ...] = ()
    """Ids of tests that it passes, and that have to go on passing."""
    assurance: Assurance = "split"
    bounds: Bounds = Bounds()
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _ids_are_distinct(self) -> Suite:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("fail_to_pass, pass_to_pass: a test is listed twice")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """The tests that count."""
        return self.fail_to_pass + self.pass_to_pass

    @property
    def seeded(self) -> bool:
        """Whether some tests have fresh inputs at every grading."""
        return bool(self.calibrated.seeded)

    @property
    def digest(self) -> str:
        """Of all but the calibration."""
        return hashlib.sha256(self.model_dump_json(exclude={"calibration"}).encode()).hexdigest()

    @property
    def is_calibrated(self) -> bool:
        """It was, as it is now."""
        return self.calibration is not None and self.calibration.digest == self.digest

    @property
    def calibrated(self) -> Calibration:
        """Its calibration. Raises ``UsageError`` where there is none, or one of another suite."""
        if self.calibration is None or self.calibration.digest != self.digest:
            why = "is not calibrated" if self.calibration is None else "was changed after its calibration"
            raise UsageError(f"suite: it {why}; run calibrate(suite, reference, broken_base)")
        return self.calibration
