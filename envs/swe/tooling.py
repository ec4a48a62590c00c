"""What the prepared sandbox has beside the repository: the test runner, and a shell that stands ready.

pytest is compiled once for every kind of sandbox, by the interpreter there, and then written with every
preparation: a run of the tests does not begin by compiling it.
"""

from __future__ import annotations

from pathlib import Path

from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.pytest_files import COMPILE, OLDEST_PYTHON, SITE
from turnwise.envs.swe.repository import write_all
from turnwise.envs.swe.task import SweTask
from turnwise.envs.swe.testing import environment, program_files
from turnwise.sandbox.contract import Limits, MiB, Sandbox, SandboxSpec

_COMPILE_SECONDS = 120.0
_compiled: dict[Path | None, dict[str, bytes]] = {}
"""By the root of the sandbox."""
_able: set[Path | None] = set()
"""Roots whose Python was found to be new enough."""


def spec_for(task: SweTask) -> SandboxSpec:
    """The sandbox that a task's repository is worked on in: its limits, on the root of its image."""
    limits = Limits(
        memory=task.limits.memory_mb * MiB,
        disk=task.limits.disk_mb * MiB,
        file_size=task.limits.disk_mb * MiB,
        output=4 * MiB,
    )
    return SandboxSpec(limits=limits, root=task.root)


async def install(sandbox: Sandbox, task: SweTask) -> None:
    """The runner's files and the shell's state. Raises :class:`TaskProblem`."""
    files = program_files(task)
    if task.repository.kind != "image":
        await _check_python(sandbox, task)
        if task.runner == "pytest":
            files = await _with_code(sandbox, files, task)
    await write_all(sandbox, files, task)
    exports = "".join(f"export {name}={value}; " for name, value in environment(task).items())
    setup = task.repository.setup if task.repository.kind == "image" else ""
    result = await sandbox.shell(f"{setup}\n{exports} cd {task.at}")
    if result.exit_code:
        output = result.stdout.decode(errors="replace")[-300:].strip()
        raise TaskProblem(ProblemKind.IMAGE, task.id, f"its set-up failed: {output}")


async def _check_python(sandbox: Sandbox, task: SweTask) -> None:
    if sandbox.spec.root in _able:
        return
    oldest = ".".join(map(str, OLDEST_PYTHON))
    program = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    if (await sandbox.exec(["python3", "-c", program], cwd="/")).exit_code:
        raise TaskProblem(
            ProblemKind.PYTHON,
            task.id,
            f"the sandbox has no python3 of {oldest} or newer; install one in /usr/bin, or use an image",
        )
    _able.add(sandbox.spec.root)


async def _with_code(sandbox: Sandbox, files: dict[str, bytes], task: SweTask) -> dict[str, bytes]:
    """The files, and what the interpreter compiles of them."""
    root = sandbox.spec.root
    if root not in _compiled:
        await write_all(sandbox, files, task)
        result = await sandbox.exec(["python3", *COMPILE, SITE], cwd="/", timeout=_COMPILE_SECONDS)
        if result.exit_code:
            reason = result.stdout.decode(errors="replace")[-300:].strip()
            raise TaskProblem(ProblemKind.PYTHON, task.id, f"its python3 cannot compile pytest: {reason}")
        found = await sandbox.read_tree(SITE)
        _compiled[root] = {f"{SITE}/{path}": data for path, data in found.items()}
    return files | _compiled[root]
