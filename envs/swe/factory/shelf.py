"""The tasks of one package as they come together: no two alike, and not too many of one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from random import Random

from turnwise.envs.swe.factory.bugs.bug import Bug, BugKind
from turnwise.envs.swe.factory.bugs.find import both
from turnwise.envs.swe.factory.records import DropReason, Kept, Outcome

MOST_IN_FUNCTION = 5
"""Tasks of one function."""
Parts = tuple[frozenset[str], ...]


class Shelf:
    """What was kept, and what became of the rest."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.kinds: Counter[str] = Counter()
        self.dropped: Counter[DropReason] = Counter()
        self.seconds = 0.0
        self._bugs: list[tuple[Bug, frozenset[str]]] = []
        self._functions: Counter[tuple[str, ...]] = Counter()
        self._seen: set[object] = set()

    def crowded(self, bug: Bug) -> bool:
        """Whether its function has enough tasks."""
        return self._functions[bug.path, *bug.functions] >= MOST_IN_FUNCTION

    def take(self, bug: Bug, outcome: Outcome | None) -> None:
        """Put a task on, or count why not; None for a bug that was not tried since it is crowded."""
        if outcome is not None:
            self.seconds += outcome.seconds
        if outcome is None or self.crowded(bug):
            self.dropped[DropReason.CROWDED] += 1
        elif not isinstance(outcome, Kept):
            self.dropped[outcome.reason] += 1
        elif self._is_double(bug, outcome):
            self.dropped[DropReason.DUPLICATE] += 1
        else:
            self.kept.append(outcome)
            self.kinds[bug.kind.value] += 1
            self._functions[bug.path, *bug.functions] += 1
            self._bugs.append((bug, frozenset(outcome.failing)))

    def _is_double(self, bug: Bug, outcome: Kept) -> bool:
        keys = {outcome.row.task["patch"], (bug.path, bug.functions, outcome.failing)}
        double = bool(keys & self._seen)
        self._seen |= keys
        return double

    def pairs(self, rng: Random) -> Iterator[tuple[Bug, Parts]]:
        """Bugs of two of those that were kept, of which each breaks what the other does not."""
        single = [each for each in self._bugs if each[0].kind not in (BugKind.REWRITE, BugKind.TWO_PLACES)]
        found = list(combinations(single, 2))
        rng.shuffle(found)
        for (one, first), (two, second) in found:
            bug = both(one, two)
            if bug is not None and not first <= second and not second <= first:
                yield bug, (first, second)
