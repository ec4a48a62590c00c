"""Running the tests of a repository in a sandbox, and what they said.

A run's outcomes come from a file that the runner writes as it goes, never from its output or status. The
code under test runs in the same process and can write that file itself, so outcomes found here are good for
what the agent sees and for milestones; what a verdict needs beyond that is the grading's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from turnwise.envs.swe.pytest_files import SITE, pytest_files
from turnwise.envs.swe.task import ImageRepository, SweTask
from turnwise.sandbox.contract import TOOLING, MiB, Sandbox

REPORT = "/tmp/turnwise-report"
_PYTEST = "python3 -m pytest -p turnwise_report -p no:cacheprovider -q --color=no --rootdir=."


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a run of tests said."""

    __test__ = False

    outcomes: dict[str, bool]
    """Whether each test passed, by id; a test that was skipped did not."""
    output: str
    ended: bool
    """It came to its end, and not to its deadline or to an exit in between."""
    timed_out: bool
    truncated: bool = False


def program_files(task: SweTask) -> dict[str, bytes]:
    """What the runner of a task needs in its sandbox."""
    inside = resources.files("turnwise.envs.swe.inside")
    if task.runner == "plain":
        return {f"{TOOLING}/plain.py": inside.joinpath("plain.py").read_bytes()}
    report = inside.joinpath("report.py").read_bytes()
    own = {} if isinstance(task.repository, ImageRepository) else pytest_files()
    return own | {f"{SITE}/turnwise_report.py": report}


def command(task: SweTask, tests: Sequence[str]) -> str:
    """The shell command that runs tests, files or folders, in the repository."""
    named = " ".join(map(_quoted, tests))
    if task.runner == "plain":
        line = f"python3 -ISB {TOOLING}/plain.py {'--terse ' if task.terse else ''}{named}"
    else:
        line = f"{_PYTEST} {named}"
    setup = task.repository.setup if isinstance(task.repository, ImageRepository) else ""
    return f"{setup}\n{line}" if setup else line


def environment(task: SweTask) -> dict[str, str]:
    """Variables that commands and the shell are given."""
    shared = {"PYTHONDONTWRITEBYTECODE": "1"}
    return shared | ({"PYTHONPATH": SITE} if task.runner == "pytest" else {})


async def run_tests(sandbox: Sandbox, task: SweTask, tests: Sequence[str]) -> TestRun:
    """Run tests, by their files, folders or ids. What hangs is ended after the task's ``test_seconds``."""
    await sandbox.write(REPORT, b"", mode=0o666)
    result = await sandbox.exec(
        command(task, tests),
        cwd=task.at,
        env=environment(task) | {"TURNWISE_REPORT": REPORT},
        timeout=task.limits.test_seconds,
    )
    try:
        lines = (await sandbox.read(REPORT, limit=4 * MiB)).decode(errors="replace").splitlines()
    except OSError:  # the code under test may do what it likes with it
        lines = []
    outcomes, ended = _read(lines, task)
    output = (result.stdout + result.stderr).decode(errors="replace")
    return TestRun(outcomes, output, ended and not result.timed_out, result.timed_out, result.truncated)


def _read(lines: Sequence[str], task: SweTask) -> tuple[dict[str, bool], bool]:
    """Outcomes by id; where two tests have one id, both must pass."""
    outcomes: dict[str, bool] = {}
    for line in lines:
        try:
            name, outcome = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(name, str) and name:
            known = identify(name, task)
            outcomes[known] = outcomes.get(known, True) and outcome == "passed"
    return outcomes, lines[-1:] == ['["", "ended"]']


def identify(name: str, task: SweTask) -> str:
    """The id of a test as the task's lists have it: ``swebench`` reads ids off the summary, where they end
    at the first space."""
    if task.ids == "dotted":
        return ".".join(name.split("::")[1:])
    return name if task.ids == "exact" else name.split(" ")[0]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
