"""Which of a task's tests the judge runs: each runs in a sandbox of its own, so not a hundred.

Every test that counts decides, since what fails one of them when tests and code are merely run together
has failed. Of many the judge is asked about those that are kept here: of each test function one after the
other, those to be mended first, and of the others those in the same files first. Which they are depends on
the task alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from random import Random

from turnwise.envs.swe.task import SweTask

ALL = 40
"""Tests that are all judged."""
MOST_MENDED = 12
"""Tests of ``fail_to_pass`` that are kept of more."""
MOST_KEPT = 8
"""Tests of ``pass_to_pass``."""


def selection(task: SweTask, unfit: Collection[str] = ()) -> tuple[str, ...]:
    """The tests, in the order of the task's lists; none that are ``unfit`` to be judged."""
    every = tuple(dict.fromkeys((*task.fail_to_pass, *task.pass_to_pass)))
    if len(every) <= ALL:
        return tuple(name for name in every if name not in unfit)
    rng = Random(f"{task.id} judged")
    files = {name.split("::")[0] for name in task.fail_to_pass}
    others = sorted(task.pass_to_pass, key=lambda name: name.split("::")[0] not in files)
    mended = [name for name in _in_turns(task.fail_to_pass, rng) if name not in unfit]
    kept = [name for name in _in_turns(others, rng) if name not in unfit and name not in task.fail_to_pass]
    chosen = {*mended[:MOST_MENDED], *kept[:MOST_KEPT]}
    return tuple(name for name in every if name in chosen)


def _in_turns(names: Iterable[str], rng: Random) -> Iterator[str]:
    """One of each function, in their order, then another of each; a function's first stays its first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.partition("[")[0]].append(name)
    queues = [[first, *rng.sample(rest, len(rest))] for first, *rest in groups.values()]
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
