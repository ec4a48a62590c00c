"""Where the tests of one package are run: sandboxes that start from a snapshot of its repository."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turnwise.envs.source import Preparation, SandboxSource
from turnwise.envs.swe.bench import Bench
from turnwise.envs.swe.formats.places import on_python
from turnwise.envs.swe.repository import write_repository
from turnwise.envs.swe.task import Changes, SweLimits, SweTask
from turnwise.envs.swe.testing import TestRun
from turnwise.envs.swe.tooling import install, spec_for
from turnwise.sandbox.contract import Sandbox


@dataclass(frozen=True, slots=True)
class Workshop:
    """One package's."""

    whole: SweTask
    """Stands for the repository without a bug, and is no task: there is nothing to repair in it."""
    sandboxes: SandboxSource

    def within(self, seconds: float) -> Workshop:
        """The same, with another limit for one run."""
        limits = self.whole.limits.model_copy(update={"test_seconds": seconds})
        return replace(self, whole=self.whole.model_copy(update={"limits": limits}))

    def bench(self, task: SweTask) -> Bench:
        """Where changes of the repository are tried as changes of a task on it."""

        async def prepare(sandbox: Sandbox) -> None:
            await write_repository(sandbox, self.whole)
            await install(sandbox, self.whole)

        return Bench(task, spec_for(self.whole), Preparation(self.whole.id, prepare), self.sandboxes)

    async def run(self, changes: Changes, tests: Sequence[str]) -> TestRun:
        """Run test files on the repository with some changes."""
        return await self.bench(self.whole).run(changes, list(tests))


def workshop(folder: Path, requires: Sequence[str], sandboxes: SandboxSource, limits: SweLimits) -> Workshop:
    """For the repository in a folder, on the image of what it needs, which is there."""
    state = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    whole = SweTask(
        id=f"{folder.name}-{state.hexdigest()[:16]}",
        issue="",
        repository=on_python(folder.name, folder, requires),
        patch="",
        fail_to_pass=("none",),
        ids="exact",
        history=False,
        limits=limits,
    )
    return Workshop(whole, sandboxes)
