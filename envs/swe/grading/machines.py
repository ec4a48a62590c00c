"""Where workers run: a sandbox backend and what its sandboxes are made of."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.grading.rules import Rules, Tree
from turnwise.sandbox.contract import (
    TOOLING,
    Backend,
    LimitExceeded,
    Limits,
    MiB,
    SandboxError,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.images.python import libraries

REPOSITORY = "/workspace"

WORKER_LIMITS = Limits(
    memory=512 * MiB, processes=32, cpus=1.0, disk=256 * MiB, file_size=32 * MiB, output=64 << 10
)


class GradingError(SandboxError):
    """Judge or machine failed, not the code that was graded."""


@dataclass(frozen=True, slots=True)
class Machines:
    """A running backend; sandboxes are made of ``spec``, which holds the dependencies of the code."""

    backend: Backend
    spec: SandboxSpec = field(default_factory=lambda: SandboxSpec(limits=WORKER_LIMITS))
    python: tuple[str, ...] = ("python3", "-I", "-B")
    """The interpreter that the code under test is run by, alone with its own folders."""

    @property
    def libraries(self) -> list[str]:
        """Where the judge, which is here, finds the distributions that the code under test needs."""
        folder = None if self.spec.root is None else libraries(self.spec.root)
        return [str(folder)] if folder is not None and folder.is_dir() else []

    @contextlib.asynccontextmanager
    async def prepared(self, files: Mapping[str, bytes]) -> AsyncIterator[Snapshot]:
        """A snapshot with these files, to fork from while the block lasts. Raises ``SandboxError``."""
        async with await self.backend.create(self.spec) as sandbox:
            try:
                await sandbox.write_tree(files)
            except LimitExceeded as error:
                raise GradingError(f"the repository does not fit into a worker's sandbox: {error}") from error
            snapshot = await sandbox.snapshot()
        try:
            yield snapshot
        finally:
            await self.backend.drop(snapshot)


def repository(base: Tree, source: Tree, rules: Rules) -> dict[str, bytes]:
    """The tree that is graded, where a sandbox has it: the pristine base, its source replaced."""
    kept = {path: data for path, data in base.items() if not (rules.below(path) and path.endswith(".py"))}
    return {f"{REPOSITORY}/{path}": data for path, data in {**kept, **source}.items()}


def program_files(*names: str) -> dict[str, bytes]:
    """Programs of this package, where a sandbox has them."""
    here = Path(__file__).parent
    return {f"{TOOLING}/{name}": (here / name).read_bytes() for name in names}


def import_roots(rules: Rules) -> list[str]:
    """What goes onto the import path of a worker."""
    return [REPOSITORY if root == "." else f"{REPOSITORY}/{root}" for root in rules.roots]


def require_pytest() -> None:
    """Raises ``UsageError`` where the extra is not installed."""
    if importlib.util.find_spec("pytest") is None:
        raise UsageError("grading: pytest is not installed; pip install 'turnwise[swe]'")
