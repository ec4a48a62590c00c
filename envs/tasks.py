"""Task sets: which tasks a split holds, the order they are drawn in, and what identifies them.

A set is a sequence that makes a task when it is asked for one, so that a split of a million tasks
costs nothing. Every result carries the set's hash: two results compare only where the hashes agree.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from turnwise.envs.errors import UsageError, unknown
from turnwise.envs.types import SPLITS, Split, Task, TaskPublic, TaskRef


def check_split(split: object) -> Split:
    """The split of that name. Raises ``UsageError`` for another."""
    for known in SPLITS:
        if split == known:
            return known
    raise unknown("split", split, SPLITS)


@dataclass(frozen=True, slots=True)
class TaskSet(Sequence[Task]):
    """The tasks of one split of one environment; there may be none."""

    split: Split
    size: int
    make: Callable[[int, str], Task]
    """The task of an index, for an environment of a name."""
    env: str = ""
    version: str = ""
    """Names the generator's revision and options; part of the hash."""

    def bind(self, env: str, version: str) -> TaskSet:
        """The same tasks as those of a named environment."""
        return replace(self, env=env, version=version)

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self.make(i, self.env) for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"task {index} of {self.size} in split {self.split} of {self.env}")
        return self.make(index % self.size, self.env)

    def nth(self, number: int) -> Task:
        """The task of a number, beginning again after the last. Raises ``UsageError`` where there is none."""
        if not self.size:
            raise UsageError(f"split {self.split!r} of {self.env} has no tasks; choose another")
        return self[number % self.size]

    def __iter__(self) -> Iterator[Task]:
        return (self.make(i, self.env) for i in range(self.size))

    @property
    def hash(self) -> str:
        """SHA-256 (12 hex digits) of the environment's version and every task's reference and text."""
        digest = hashlib.sha256(f"{self.env}\0{self.version}\0{self.split}\0{self.size}".encode())
        for task in self:
            digest.update(f"{task.ref.id}\0{task.ref.seed}\0{task.public.instruction}\n".encode())
        return digest.hexdigest()[:12]


def seeds(split: str, count: int) -> TaskSet:
    """``count`` tasks that are nothing but a seed; splits use seeds apart from each other."""
    checked = check_split(split)
    base = SPLITS.index(checked) << 32

    def make(index: int, env: str) -> Task:
        ref = TaskRef(env=env, id=f"{checked}/{index}", seed=base + index)
        return Task(ref=ref, public=TaskPublic())

    return TaskSet(checked, count, make)


@dataclass(slots=True)
class Sampler:
    """Draws tasks without replacement, epoch after epoch, from a seed and a cursor.

    The cursor is the whole state: a run that is resumed with it draws what it would have drawn.
    """

    tasks: TaskSet
    seed: int
    cursor: int = 0
    _epoch: int = -1
    _order: list[int] = field(default_factory=list, repr=False)

    def draw(self, count: int) -> list[Task]:
        """The next ``count`` tasks."""
        drawn = []
        for _ in range(count):
            epoch, place = divmod(self.cursor, len(self.tasks) or 1)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(len(self.tasks)))
                random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
            drawn.append(self.tasks.nth(self._order[place] if self._order else 0))
            self.cursor += 1
        return drawn
