"""Why a package gives no tasks: named and typed, while others go on."""

from __future__ import annotations

from enum import StrEnum


class PackageFault(StrEnum):
    """What is wrong with it."""

    DOWNLOAD = "download"
    """It cannot be fetched, or has no source distribution."""
    ARCHIVE = "archive"
    """The file is no source distribution, or is too large."""
    NO_PACKAGE = "no_package"
    """No importable Python was found in it."""
    NO_TESTS = "no_tests"
    """It comes without tests."""
    NEEDS = "needs"
    """What it needs cannot be installed."""
    NO_BASELINE = "no_baseline"
    """None of its tests passes twice here."""
    HANG = "hang"
    """Its tests do not end, before any change."""


class PackageProblem(Exception):
    """A package that gives no tasks. The message names it, and what is wrong."""

    def __init__(self, fault: PackageFault, package: str, message: str) -> None:
        super().__init__(f"{package}: {message}")
        self.fault = fault
        self.message = message
