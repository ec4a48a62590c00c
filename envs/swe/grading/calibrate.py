"""Calibration: whether a suite can tell right from wrong, with this grader, on these machines.

The reference passes every test that counts; the broken base fails those to be mended and passes the
others; every mutant of the reference that is given fails. The suite comes back with what the grader needs
to know of the reference (the *surface* that test files see, the decoys of an in-process suite) and a
digest, so that a changed suite is calibrated again.
"""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata

from turnwise.envs.errors import UsageError
from turnwise.envs.swe.grading import inprocess, split
from turnwise.envs.swe.grading.collect import collect
from turnwise.envs.swe.grading.grade import fresh_seeds, grade
from turnwise.envs.swe.grading.machines import Machines, program_files, repository
from turnwise.envs.swe.grading.rules import Rejection, Submission, Tree
from turnwise.envs.swe.grading.suite import Assurance, Calibration, Entry, Suite, census


class NotCalibrated(UsageError):
    """The suite cannot judge; ``tests`` are the ids that did not do what they should."""

    def __init__(self, what: str, tests: Iterable[str] = (), detail: str = "") -> None:
        self.tests = tuple(tests)
        named = ", ".join(self.tests[:5]) + (
            f" and {len(self.tests) - 5} more" if len(self.tests) > 5 else ""
        )
        parts = [f"suite: {what}", named, " ".join(detail.split())[-300:]]
        super().__init__(": ".join(part for part in parts if part))


async def calibrate(
    suite: Suite, reference: Tree, broken_base: Tree, *, machines: Machines, mutants: Sequence[Tree] = ()
) -> Suite:
    """The suite, calibrated. Trees are whole repositories; source is taken from all, the rest from the base.

    Raises :class:`NotCalibrated`, and ``SandboxError`` when machine or judge fail.
    """
    deciding = {name.partition("::")[0] for name in suite.fail_to_pass}
    if shown := [path for path in sorted(deciding) if broken_base.get(path) == suite.files.get(path)]:
        raise NotCalibrated(f"the repository holds its hidden test {shown[0]}")
    suite = suite.model_copy(update={"calibration": None})
    right = await _handed_in(suite, broken_base, reference)
    explore = _in_process if suite.assurance == "in-process" else _split
    known = await explore(suite, broken_base, right.files, machines)
    if missing := [name for name in suite.ids if name not in known.collected]:
        raise NotCalibrated("tests that are not there", missing)
    found = {"digest": suite.digest, "uses": right.uses, "versions": _versions()}
    known = known.model_copy(update=found | {"collected": census(known.collected)})
    suite = suite.model_copy(update={"calibration": known})
    await _tells_right_from_wrong(suite, broken_base, right, mutants, machines)
    return suite


async def choose_assurance(
    suite: Suite, reference: Tree, broken_base: Tree, *, machines: Machines, edited: bool = False
) -> Suite:
    """The suite calibrated under the best assurance that it allows; ``edited``: its tests were, to that end.

    Raises :class:`NotCalibrated` when it can be judged under none.
    """
    choices: tuple[Assurance, ...] = ("split-with-edits" if edited else "split", "in-process")
    for assurance in choices:
        try:
            candidate = suite.model_copy(update={"assurance": assurance})
            return await calibrate(candidate, reference, broken_base, machines=machines)
        except NotCalibrated as error:
            failed = error
    raise failed


async def _handed_in(suite: Suite, base: Tree, tree: Tree) -> Submission:
    """A tree as an agent would hand it in."""
    found = await collect(tree, base, suite.rules)
    if isinstance(found, Rejection):
        raise NotCalibrated(f"the rules reject the tree: {found.fault}: {found.path}")
    return found


async def _split(suite: Suite, base: Tree, source: Tree, machines: Machines) -> Calibration:
    files = repository(base, source, suite.rules) | program_files(*split.WORKER_FILES)
    async with machines.prepared(files) as snapshot:
        told = await split.judge(split.Order(suite, modules=imported_modules(suite)), snapshot, machines)
        if told.surface is None:
            raise NotCalibrated("the reference cannot be imported", detail="; ".join(told.notes))
        surface = {module: tuple(map(_entry, entries)) for module, entries in told.surface.items()}
        looking = split.Order(suite, seeds=fresh_seeds(), surface=surface, ids=())
        seen = await split.judge(looking, snapshot, machines)
    for name, detail in seen.uncollected.items():
        raise NotCalibrated("a test file cannot be read", [name], detail)
    return Calibration(digest="", collected=seen.collected, seeded=seen.seeded, surface=surface)


async def _in_process(suite: Suite, base: Tree, source: Tree, machines: Machines) -> Calibration:
    return await inprocess.calibration(suite, base, source, fresh_seeds(), machines=machines)


async def _tells_right_from_wrong(
    suite: Suite, base: Tree, reference: Submission, mutants: Sequence[Tree], machines: Machines
) -> None:
    right = await grade(suite, base, reference, machines=machines)
    if right.score != 1.0:
        failed = [test for test in right.tests if not test.passed]
        detail = failed[0].detail if failed else ""
        raise NotCalibrated(
            "the reference fails", [test.id for test in failed], detail + "; ".join(right.notes)
        )
    wrong = await grade(suite, base, await _handed_in(suite, base, base), machines=machines)
    passed = {test.id for test in wrong.tests if test.passed}
    if healthy := [name for name in suite.fail_to_pass if name in passed]:
        raise NotCalibrated("the broken base passes what it should fail", healthy)
    if ill := [name for name in suite.pass_to_pass if name not in passed]:
        raise NotCalibrated("the broken base fails what it should pass", ill, "; ".join(wrong.notes))
    for number, mutant in enumerate(mutants):
        verdict = await grade(suite, base, await _handed_in(suite, base, mutant), machines=machines)
        if verdict.score != 0.0:
            raise NotCalibrated(f"mutant {number} of the reference passes every test")


def imported_modules(suite: Suite) -> list[str]:
    """What the test files import of the package, by every name that may be a module."""
    found: set[str] = set()
    for name, data in suite.files.items():
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(data, name)
        except SyntaxError as error:
            raise NotCalibrated(f"a test file is no Python: {name}: {error.msg}") from None
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in found if name.partition(".")[0] in suite.rules.packages]
    return sorted({".".join(name[:end]) for name in parts for end in range(1, len(name) + 1)})


def _entry(data: tuple[str, str, list[list[str]]]) -> Entry:
    name, kind, places = data
    return name, kind, tuple((module, path) for module, path in places)


def _versions() -> dict[str, str]:
    return {"pytest": metadata.version("pytest"), "judge": platform.python_version()}
