"""Seeded tests for a bug: which functions, asked about fresh inputs, tell the original from the broken base.

The inputs are made of those that the package's tests give to its functions, which are recorded once for a
package. A function is asked if calls of it led to the code that is wrong, if its answers can be compared,
come in time, touch nothing outside and are the same in another process, and if at least ``TELLS`` of some
hundred fresh inputs have another answer on the broken base. So a base that passes a test of 200 questions
with both seeds has less than one chance in 100,000. Last, the judge is calibrated with the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from pydantic import Field

from turnwise.envs.swe.admission import machines_for, repaired, with_fields, with_seeded
from turnwise.envs.swe.factory.bugs.bug import Bug
from turnwise.envs.swe.factory.workshop import Workshop
from turnwise.envs.swe.grading import Rules
from turnwise.envs.swe.grading.fresh.asking import FEWEST
from turnwise.envs.swe.grading.machines import import_roots, program_files
from turnwise.envs.swe.grading.seeded import Seeded, SeededTest
from turnwise.envs.swe.pytest_files import SITE
from turnwise.envs.swe.repository import lay
from turnwise.envs.swe.task import Changes, SweTask, Tree
from turnwise.envs.types import Model
from turnwise.sandbox.contract import TOOLING, MiB

TELLS = 0.03
"""The share of fresh inputs that have to tell the broken base from the original."""
MOST_TESTS = 2
"""Seeded tests of one task."""
MOST_ASKED = 6
"""Functions that are tried for one bug."""
MOST_BYTES = 8 * MiB
SECONDS = 60.0
"""For what functions make of fresh inputs; recording may take that much longer than a run of the tests."""
FILES = (
    "bootstrap.py", "codec.py", "fresh/__init__.py", "fresh/asking.py", "fresh/calls.py", "fresh/draw.py",
    "fresh/original.py", "fresh/probe.py", "fresh/values.py",
)  # fmt: skip
ORDERS, TOLD = "/tmp/turnwise-orders", "/tmp/turnwise-told"
Answers = dict[str, tuple[str, ...]]
"""Of functions: a word for each input, which is empty where there is no answer."""


class Calls(Model):
    """What the tests of a package give to its functions."""

    seen: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Some inputs of functions, by ``module:function``."""
    led: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Of functions and methods: those functions whose calls led to a call of theirs."""


async def record(
    shop: Workshop, changes: Changes, modules: Sequence[str], files: Sequence[str], sources: tuple[str, ...]
) -> Calls:
    """Run the tests and look at the calls; nothing is seen where that fails or takes too long."""
    rules = Rules(sources=sources)
    orders = {
        "site": SITE, "files": list(files),
        "modules": {f"{shop.whole.at}/{path}": module_name(path, rules) for path in modules},
    }  # fmt: skip
    told = await _program(shop, changes, "fresh.calls", orders, SECONDS + 3 * shop.whole.limits.test_seconds)
    try:
        return Calls.model_validate_json(told, strict=False)
    except ValueError:
        return Calls()


def module_name(path: str, rules: Rules) -> str:
    """What a file of the package is imported as."""
    parts = list(PurePosixPath(*rules.below(path)).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Oracle:
    """A package's functions, asked about the same fresh inputs whatever it is broken by."""

    def __init__(self, shop: Workshop, calls: Calls, sources: tuple[str, ...], seed: int) -> None:
        self._shop, self._calls, self._rules, self._seed = shop, calls, Rules(sources=sources), seed
        self._known: dict[str, tuple[str, ...] | None] = {}
        """What the original says; None for a function that cannot be asked."""

    async def seeded(self, task: SweTask, bug: Bug, base: Tree) -> Seeded | None:
        """The seeded tests of a task, calibrated; None where there can be none. Raises ``SandboxError``."""
        names = self._leading(bug)
        await self._learn([name for name in names if name not in self._known])
        right = {name: words for name in names if (words := self._known[name]) is not None}
        if not right:
            return None
        wrong = await self._answers(tuple(right), {bug.path: base[bug.path]})
        shares = {name: told(words, wrong.get(name, ())) for name, words in right.items()}
        best = sorted((name for name in shares if shares[name] >= TELLS), key=lambda name: -shares[name])
        tests = tuple(
            SeededTest(entry=name, seen=self._calls.seen[name], tells=round(shares[name], 3))
            for name in best[:MOST_TESTS]
        )
        if not tests:
            return None
        machines = machines_for(task, await self._shop.sandboxes.backend())
        asked = with_fields(task, seeded=Seeded(tests=tests))
        return (await with_seeded(asked, base, repaired(task, base), machines)).seeded

    def _leading(self, bug: Bug) -> list[str]:
        """Functions that can be asked and lead to what is wrong, that itself first."""
        module = module_name(bug.path, self._rules)
        own = [f"{module}:{name}" for name in bug.functions]
        led = {entry for name in own for entry in self._calls.led.get(name, ())}
        if not any(name in self._calls.led for name in own):  # it is called when its module is imported
            led = {name for name in self._calls.seen if name.partition(":")[0] == module}
        found = sorted(led, key=lambda name: (name not in own, name.partition(":")[0] != module, name))
        return [name for name in found if name in self._calls.seen][:MOST_ASKED]

    async def _learn(self, names: Sequence[str]) -> None:
        """Ask the original, in two processes: what is not the same in both is no answer."""
        if not names:
            return
        first, second = await self._answers(names, {}), await self._answers(names, {})
        for name in names:
            pairs = list(zip(first.get(name, ()), second.get(name, ()), strict=False))
            words = tuple(word for word, _ in pairs)
            fit = all(word == again for word, again in pairs) and sum(map(bool, words)) >= 2 * FEWEST
            self._known[name] = words if fit else None

    async def _answers(self, names: Sequence[str], changes: Changes) -> Answers:
        orders = {
            "roots": import_roots(self._rules), "seed": str(self._seed),
            "functions": {name: self._calls.seen[name] for name in names},
        }  # fmt: skip
        said = await _program(self._shop, changes, "fresh.probe", orders, SECONDS)
        found: Answers = {}
        for line in said.splitlines():
            try:
                each = json.loads(line)
                found[str(each["name"])] = tuple(map(str, each["answers"]))
            except (ValueError, TypeError, KeyError):
                continue
        return found


def told(right: Sequence[str], wrong: Sequence[str]) -> float:
    """The share of the original's answers that the broken base does not give; none at all tell nothing."""
    pairs = [(one, other) for one, other in zip(right, wrong, strict=False) if one]
    return sum(one != other for one, other in pairs) / len(pairs) if pairs else 0.0


async def _program(
    shop: Workshop, changes: Changes, name: str, orders: Mapping[str, object], seconds: float
) -> bytes:
    """What a program says that runs in a sandbox beside the package; nothing where it failed."""
    bench = shop.bench(shop.whole)
    async with shop.sandboxes.lease(bench.spec, bench.beginning) as sandbox:
        await lay(sandbox, shop.whole.at, changes)
        text = json.dumps({**orders, "out": TOLD})
        await sandbox.write_tree(program_files(*FILES) | {ORDERS: text.encode()})
        command = ["python3", "-B", f"{TOOLING}/bootstrap.py", name, ORDERS]
        await sandbox.exec(command, cwd=shop.whole.at, timeout=seconds)
        try:
            return await sandbox.read(TOLD, limit=MOST_BYTES)
        except OSError:
            return b""
