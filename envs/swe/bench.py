"""Trying changes out where the agent is not: on a fresh copy of the prepared repository.

Every trial has a sandbox of its own, which starts from the snapshot that episodes start from and is
recycled afterwards. A trial's result depends on task and changes alone, so it is remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakValueDictionary

from turnwise.envs.source import Preparation, SandboxSource
from turnwise.envs.swe.repository import lay, read_files
from turnwise.envs.swe.task import Changes, SweTask
from turnwise.envs.swe.testing import TestRun, identify, run_tests
from turnwise.sandbox.contract import SandboxSpec

REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Trial:
    """How the tests of a task went on a changed repository."""

    passed: frozenset[str]
    """Of those in ``fail_to_pass`` and ``pass_to_pass``."""
    visible: bool
    """Every visible test passed, as they were given."""
    ended: bool
    timed_out: bool
    output: str

    def fixed(self, task: SweTask) -> float:
        """How far the repair is, in [0, 1]: the tests to be mended that pass, by their weights, less the
        share of others that were broken."""
        weights = {name: task.weights.get(name, 1.0) for name in task.fail_to_pass}
        mended = sum(w for name, w in weights.items() if name in self.passed) / sum(weights.values())
        others = task.pass_to_pass
        broken = sum(name not in self.passed for name in others) / len(others) if others else 0.0
        return max(0.0, mended - broken)

    def resolves(self, task: SweTask) -> bool:
        """Every test that counts passed."""
        return self.passed.issuperset(counted(task))


_trials: OrderedDict[tuple[str, str], Trial] = OrderedDict()
_turns: WeakValueDictionary[tuple[int, str, str], asyncio.Lock] = WeakValueDictionary()
"""Episodes of a group try the same at the same time: one does, the others wait."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a task's changes are tried out."""

    task: SweTask
    spec: SandboxSpec
    beginning: Preparation
    sandboxes: SandboxSource

    async def trial(self, changes: Changes) -> Trial:
        """Run every test there is on the repository with these changes of its sources."""
        key = self.task.digest, digest(changes)
        async with _turns.setdefault((id(asyncio.get_running_loop()), *key), asyncio.Lock()):
            if key in _trials:
                _trials.move_to_end(key)
                return _trials[key]
            trial = await self._trial(changes)
            if not trial.timed_out:  # which a busy machine may have a part in
                _trials[key] = trial
                while len(_trials) > REMEMBERED:
                    _trials.popitem(last=False)
        return trial

    async def _trial(self, changes: Changes) -> Trial:
        task = self.task
        hidden: Changes = {path: text.encode() for path, text in task.hidden.items()}
        run = await self.run(changes | hidden, _files_of_tests(task))
        passed = frozenset(name for name in counted(task) if run.outcomes.get(_known(name, task), False))
        shown = [ok for name, ok in run.outcomes.items() if self._is_shown(name)]
        unbroken = passed.issuperset(task.pass_to_pass)
        return Trial(
            passed=passed,
            visible=run.ended and (bool(shown) and all(shown) if task.visible else unbroken),
            ended=run.ended,
            timed_out=run.timed_out,
            output=run.output[-4000:],
        )

    def _is_shown(self, test: str) -> bool:
        """Whether the agent can run a test; a file that a hidden one takes the place of has others."""
        file = test.split("::")[0]
        replaced = file in self.task.hidden and test in self.task.fail_to_pass
        return self.task.is_visible(file) and not replaced

    async def run(self, changes: Changes, tests: list[str]) -> TestRun:
        """Run some tests on the repository with some changes."""
        async with self.sandboxes.lease(self.spec, self.beginning) as sandbox:
            await lay(sandbox, self.task.at, changes)
            return await run_tests(sandbox, self.task, tests)

    async def base(self) -> dict[str, bytes]:
        """The files that episodes start from, read off a fresh copy."""
        async with self.sandboxes.lease(self.spec, self.beginning) as sandbox:
            return await read_files(sandbox, self.task.at)


def counted(task: SweTask) -> tuple[str, ...]:
    """The tests that decide."""
    return (*task.fail_to_pass, *task.pass_to_pass)


def _files_of_tests(task: SweTask) -> list[str]:
    """What the runner is given: visible and hidden tests, and the files of others that count."""
    listed = [name.split("::")[0] for name in counted(task)] if task.ids != "dotted" else []
    hidden = [path for path in task.hidden if path.endswith(".py")]
    files = [path for path in dict.fromkeys([*hidden, *listed]) if not task.is_visible(path)]
    return [*task.visible, *files]


def _known(name: str, task: SweTask) -> str:
    """A listed id as runs report it."""
    return name if task.ids == "dotted" else identify(name, task)


def digest(changes: Changes) -> str:
    """Of files and what is in them."""
    sha = hashlib.sha256()
    for path, data in sorted(changes.items()):
        head = f"{path}\0{-1 if data is None else len(data)}\0".encode(errors="surrogateescape")
        sha.update(head + (data or b""))
    return sha.hexdigest()
