"""Level 1: one function of two arguments has the wrong operator, in a repository of one-line functions.

A model of less than a million parameters can learn these: every word of issue, files, calls and answers is
one of some seventy, and a repair is five words. The issue says what a function must do, not where it is::

    area must multiply
    <act> test                            fail
    <act> search area                     geo.py
    <act> view geo.py                     def area(a, b): return a + b …
    <act> replace geo.py 'a + b' 'a * b'  ok
    <act> test                            pass
    <act> submit

Files, sandbox, tests and grading are those of every other task. Splits do not overlap: a question belongs to
the split in whose share of hash space it falls.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from turnwise.envs.swe.admission import suite_of
from turnwise.envs.swe.grading.suite import Calibration
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.task import FilesRepository, SweLimits, SweTask, Tree
from turnwise.envs.types import SPLITS, Split

OPERATORS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "//", "remainder": "%"}
FILES = ("geo", "money", "stock", "clock")
FUNCTIONS = (
    *("area", "gap", "price", "share", "total", "rest", "scale", "level"),
    *("span", "rate", "cost", "part", "pool", "diff", "grow", "split"),
    *("width", "depth", "load", "mark", "step", "turn", "weight", "reach"),
    *("bonus", "charge", "count", "delay", "fee", "gain", "ratio", "stake"),
)
ARGUMENTS = (("a", "b"), ("x", "y"))
"""One pair for each function of a file, so that an expression is in it once."""
INPUTS = ((7, 2), (9, 4), (17, 5), (11, 3))
"""Of which each tells all the operators apart."""
PER_FILE = len(ARGUMENTS)
SIZES: dict[Split, int] = {"train": 10_000, "validation": 1_000, "test": 1_000}
LIMITS = SweLimits(
    turns=10,
    seconds=600,
    command_seconds=10,
    test_seconds=10,
    observation_chars=2000,
    memory_mb=128,
    disk_mb=16,
)
CHECKS = "check.py"
HIDDEN = "test_hidden.py"


@dataclass(frozen=True, slots=True)
class Function:
    """``def NAME(A, B): return A OPERATOR B``."""

    name: str
    arguments: tuple[str, str]
    verb: str

    def line(self, verb: str) -> str:
        first, second = self.arguments
        return f"def {self.name}({first}, {second}): return {first} {OPERATORS[verb]} {second}\n"

    def value(self, first: int, second: int) -> int:
        """What it must give."""
        match self.verb:
            case "add":
                return first + second
            case "subtract":
                return first - second
            case "multiply":
                return first * second
            case "divide":
                return first // second
        return first % second

    def test(self, inputs: tuple[tuple[int, int], ...]) -> str:
        """A test of it."""
        lines = [f"    assert {self.name}({a}, {b}) == {self.value(a, b)}\n" for a, b in inputs]
        return f"def test_{self.name}():\n" + "".join(lines)


def share(question: str) -> Split:
    """The split that a question belongs to."""
    tenth = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % 10
    return SPLITS[max(tenth - 7, 0)]


def small_task(seed: int) -> SweTask:
    """The task of a seed, whose upper half is its split's index."""
    split, rng = SPLITS[seed >> 32], random.Random(f"swe/1/{seed}")
    while True:
        functions, wrong = _draw(rng)
        faulty = functions[FILES[0]][0]
        if share(repr((faulty, wrong))) == split:
            break
    homes = rng.sample(FILES, len(FILES))
    place = homes[0]
    files = {f"{home}.py": functions[file] for home, file in zip(homes, FILES, strict=True)}
    for listed in files.values():
        rng.shuffle(listed)
    right = {path: "".join(f.line(f.verb) for f in listed) for path, listed in files.items()}
    broken = right | {
        f"{place}.py": "".join(f.line(wrong if f is faulty else f.verb) for f in files[f"{place}.py"])
    }
    head = f"from {place} import {faulty.name}\n"
    repository = dict(sorted(broken.items())) | {CHECKS: head + faulty.test(INPUTS[:1])}
    beside = [f for f in files[f"{place}.py"] if f is not faulty]
    hidden = f"from {place} import {', '.join(f.name for f in files[f'{place}.py'])}\n"
    hidden += "".join(f.test(INPUTS) for f in files[f"{place}.py"])
    base = {path: text.encode() for path, text in repository.items()}
    task = SweTask(
        id=f"level-1/{split}/{seed & 0xFFFFFFFF}",
        issue=f"{faulty.name} must {faulty.verb}",
        repository=FilesRepository(files=repository),
        split=split,
        module=place,
        patch=make_patch(base, base | {path: text.encode() for path, text in right.items()}),
        hidden={HIDDEN: hidden},
        fail_to_pass=(f"{HIDDEN}::test_{faulty.name}",),
        pass_to_pass=tuple(f"{HIDDEN}::test_{f.name}" for f in beside),
        visible=(CHECKS,),
        sources=tuple(sorted(broken)),
        runner="plain",
        difficulty=0.0,
        terse=True,
        history=False,
        verified=True,
        limits=LIMITS,
    )
    return _admitted(task, base, place, functions[FILES[0]])


def _admitted(task: SweTask, base: Tree, module: str, functions: list[Function]) -> SweTask:
    """With what calibration would find, which is known of how the tests were written."""
    suite = suite_of(task, base)
    assert suite is not None
    surface = {module: tuple((f.name, "function", ((module, f.name),)) for f in functions)}
    tests = tuple(f"{HIDDEN}::test_{f.name}" for f in functions)
    known = Calibration(digest=suite.digest, collected=tests, seeded=(), surface=surface)
    return SweTask.model_validate(dict(task) | {"assurance": "split", "calibration": known})


def _draw(rng: random.Random) -> tuple[dict[str, list[Function]], str]:
    """Functions by file, the first of the first being the faulty one, and its wrong operator."""
    names = rng.sample(FUNCTIONS, PER_FILE * len(FILES))
    functions = {}
    for number, file in enumerate(FILES):
        own = names[PER_FILE * number : PER_FILE * (number + 1)]
        arguments = rng.sample(ARGUMENTS, PER_FILE)
        functions[file] = [
            Function(name, pair, rng.choice(list(OPERATORS)))
            for name, pair in zip(own, arguments, strict=True)
        ]
    right = functions[FILES[0]][0].verb
    return functions, rng.choice([verb for verb in OPERATORS if verb != right])
