"""How hard a task is, from 0 to 1: an estimate from what is known before anybody tried it.

Four parts are added up: the kind of the bug (0.4), how few tests notice it (0.2), whether the failing tests
name the function that is wrong or it lies deeper (0.25), and how long the function is (0.15).
"""

from __future__ import annotations

from turnwise.envs.swe.factory.bugs.bug import Bug, BugKind

KINDS: dict[BugKind, float] = {
    BugKind.STATEMENT: 0.5,
    BugKind.BRANCH: 0.5,
    BugKind.RETURNED: 0.2,
    BugKind.ARGUMENTS: 0.4,
    BugKind.VARIABLE: 0.4,
    BugKind.REWRITE: 0.8,
    BugKind.TWO_PLACES: 1.0,
}
"""Others, which are changes of a word, count 0.3."""
MANY = 0.1
"""The share of all tests that fail from which on the bug is easy to notice."""
LONG = 60
"""Lines of a function that is long."""


def difficulty(bug: Bug, failing: int, tests: int, *, named: bool) -> float:
    """``named``: a failing test names a function that is wrong."""
    noticed = min(1.0, failing / tests / MANY)
    parts = (
        (0.4, KINDS.get(bug.kind, 0.3)),
        (0.2, 1 - noticed),
        (0.25, 0.0 if named else 1.0),
        (0.15, min(1.0, bug.lines / LONG)),
    )
    return round(sum(weight * value for weight, value in parts), 3)
