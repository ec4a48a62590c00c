"""The environment: tools on the sandbox's real files, milestones on what they hold, and the oracle.

The sandbox holds the files and nothing else; the answer stays in this process. Only ``set`` writes, so
a file is read again only after ``set`` wrote to it: a turn that wrote nothing is judged without a
round trip. The grade is given on a frozen copy of the whole tree, every byte of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from turnwise.envs.cheat import Cheat
from turnwise.envs.env import Env
from turnwise.envs.registry import register
from turnwise.envs.tasks import TaskSet, check_split
from turnwise.envs.tool import ToolError, milestone, reward, tool
from turnwise.envs.tools.configdesk.cheats import cheats
from turnwise.envs.tools.configdesk.generator import LEVELS, draw, generate, sized
from turnwise.envs.tools.configdesk.problem import (
    Copy,
    Problem,
    Spot,
    differences,
    entries,
    value_of,
    with_value,
)
from turnwise.envs.types import (
    SPLITS,
    Action,
    AgentView,
    EpisodeLimits,
    Model,
    Task,
    TaskPublic,
    TaskRef,
    call,
    text,
)
from turnwise.sandbox.contract import Limits, MiB, SandboxSpec

ROOT = "/workspace/conf"
SIZES = {"train": 10_000, "validation": 1_000, "test": 1_000}
VALUE = re.compile(r"[\w./+-]{1,40}", re.ASCII)

Value = Annotated[str, Field(coerce_numbers_to_str=True)]

RANDOM_TOOLS = {"grep": 15, "open": 35, "get": 22, "set": 15, "check": 10, "submit": 3}
"""How often a random action is of which kind, in percent: submitting ends the episode, so seldom."""


class DeskOptions(Model):
    """How hard the tasks are, and how long."""

    level: int = Field(default=1, ge=min(LEVELS), le=max(LEVELS))
    horizon: int | None = Field(
        default=None, description="turns that a task takes at best: 4, 8 or 16, at levels 1 and 2"
    )

    @field_validator("horizon")
    @classmethod
    def _fits(cls, horizon: int | None, info: ValidationInfo) -> int | None:
        if "level" in info.data:
            sized(info.data["level"], horizon)
        return horizon

    @property
    def own(self) -> bool:
        """Whether the tasks are the level's own, as level 1's are those of 8 turns."""
        return sized(self.level, self.horizon) == LEVELS[self.level]

    @model_serializer(mode="wrap")
    def _without_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """Leaves out a horizon that changes nothing: the same tasks are the same set."""
        fields: dict[str, JsonValue] = handler(self)
        return {name: value for name, value in fields.items() if name != "horizon" or not self.own}

    @property
    def label(self) -> str:
        """What tasks with these options are called."""
        return f"level-{self.level}" + ("" if self.own else f"-horizon-{self.horizon}")


@register
class ConfigDesk(Env):
    """Bring values of a tree of configuration files in line with an instruction, check, and submit."""

    name = "tools/configdesk"
    description = (
        "You look after a folder of configuration files; a file holds lines of `key = value`. "
        "The instruction says which values to change. `copy A to B` means: give the key B the value that "
        "the key A has; the two are in different files. `set F K V` means: give the key K of the file F the "
        "value V. Other instructions name services: the file of a service is the one with the entry "
        "`service = NAME`. `plus` and `times` are sums and products of the value looked up.\n"
        "grep finds the files a word is in, open opens a file, get and set work on the open file. Change "
        "nothing but what was asked for. Only entries count: comments and notes may be out of date. When "
        "all is done, call check; when it answers pass, call submit. Without a check that passed, what "
        "you submit does not count."
    )
    limits = EpisodeLimits(turns=LEVELS[1].turns)
    sandbox_spec = SandboxSpec(limits=Limits(memory=128 * MiB, processes=32, disk=16 * MiB))
    Options = DeskOptions
    options: DeskOptions

    # -- tasks

    def tasks(self, split: str) -> TaskSet:
        """10,000 tasks for training, 1,000 for validation and 1,000 for the test, at every level."""
        checked = check_split(split)
        level, horizon, base = self.options.level, self.options.horizon, SPLITS.index(checked) << 32
        limits = EpisodeLimits(turns=sized(level, horizon).turns)

        def make(index: int, env: str) -> Task:
            question, _ = draw(level, base + index, horizon)
            ref = TaskRef(env=env, id=f"{self.options.label}/{checked}/{index}", seed=base + index)
            return Task(ref=ref, public=TaskPublic(instruction=question.instruction, limits=limits))

        return TaskSet(checked, SIZES[checked], make)

    async def reset(self, task: Task) -> AgentView:
        """Write the task's files; the agent is shown the instruction."""
        self.problem: Problem = generate(self.options.level, task.ref.seed, self.options.horizon)
        if self.problem.instruction != task.public.instruction:
            raise ValueError(f"task {task.id} is not one of {self.options.label}")
        self.expected = self.problem.expected()
        self.file: str | None = None
        self.grepped = {edit.word for edit in self.problem.edits}  # the instruction says where they are
        self.seen: set[Spot] = set()
        self.reopened: set[Copy] = set()
        self.opened: set[Spot] = set()
        self.written: dict[str, bytes] = {}
        self.unread: set[str] = set()
        self.checked = self.submitted = False
        tree = self.problem.tree
        await self.sandbox.write_tree({self._path(name): data for name, data in tree.items()})
        return text(self.problem.instruction)

    # -- tools

    @tool
    async def grep(self, word: str) -> str:
        """The files that a word (a key, a name) is in, or `none`."""
        pattern = rf"(?<![\w.-]){re.escape(word)}(?![\w.-])"
        matches = await self.sandbox.search(pattern, ROOT, limit=1000) if word.strip() else ()
        paths = sorted({match.path.removeprefix(f"{ROOT}/") for match in matches})
        self.grepped.add(word)
        if self.problem.terse:
            return " ".join(path.removesuffix(".conf") for path in paths) or "none"
        return "\n".join(paths) or "none"

    @tool
    async def open(self, file: str) -> str:
        """Open a file, as grep named it: get and set work on it from now on."""
        if file not in self.problem.tree:
            raise ToolError("no file")
        data = await self.sandbox.read(self._path(file))
        self.file = file
        if self.problem.terse:
            self._saw({})
            return "ok"
        self._saw(entries(data))
        return data.decode()

    @tool
    async def get(self, key: str) -> str:
        """The value of a key of the open file."""
        _, data = await self._opened()
        value = value_of(data, key)
        if value is None:
            raise ToolError("no key")
        self._saw({key: value})
        return value

    @tool
    async def set(self, key: str, value: Value) -> str:
        """Give a key of the open file another value."""
        name, data = await self._opened()
        if not VALUE.fullmatch(value):
            raise ToolError("bad value")
        changed = with_value(data, key, value)
        if changed is None:
            raise ToolError("no key")
        self.checked = False
        self.unread.add(name)
        await self.sandbox.write(self._path(name), changed)
        return "ok"

    @tool
    async def check(self) -> str:
        """Whether the files are as the instruction wants them: `pass` or `fail`."""
        self.unread.update(self.written)
        self.checked = await self._in_line()
        return "pass" if self.checked else "fail"

    @tool(submits=True)
    async def submit(self) -> str:
        """Hand the files in as they are; ends the task."""
        self.submitted = True
        return "submitted"

    # -- milestones, facts and grade

    @milestone
    def source_read(self) -> bool:
        """The agent was shown every source's value, and opened every file that the instruction names."""
        shown = all(copy.reads[-1] in self.seen for copy in self.problem.copies)
        return shown and self.opened.issuperset(self.problem.edits)

    @milestone
    def target_opened(self) -> bool:
        """Having been shown a source, it opened the file that the value belongs in; so for all. Where the
        instruction gives the value, it opened the file."""
        return self.reopened.issuperset(self.problem.copies) and self.opened.issuperset(self.problem.edits)

    @milestone
    async def value_set(self) -> bool:
        """The files are as they must be, and not by a guess: the sources were read."""
        return self.source_read() and await self._in_line()

    @milestone
    def check_passed(self) -> bool:
        """The check passed on the files as they are."""
        return self.checked

    @reward("modified", level=1)
    async def modified(self) -> float:
        """Whether the files differ from those given."""
        await self._read_again()
        return float({**self.problem.tree, **self.written} != self.problem.tree)

    async def grade(self) -> float:
        """1 if it submitted, after a check that passed, files that are right to the last byte."""
        if not (self.submitted and self.checked):
            return 0.0
        frozen = await self.sandbox.read_tree(ROOT)
        return float(frozen == {self.problem.path(name): data for name, data in self.expected.items()})

    @classmethod
    def cheats(cls) -> Sequence[Cheat[Any]]:
        """Ways past the check, past the instruction and out of the folder."""
        return cheats()

    # -- demonstrations

    async def oracle(self) -> Action:
        """The best next action, from whatever was done so far; undoes wrong changes first."""
        await self._read_again()
        asked = {(target.file, target.key) for target in self.problem.targets}
        for name, data in self.written.items():
            for key, value in differences(data, entries(self.expected[name])).items():
                if (name, key) not in asked:
                    return call("set", key=key, value=value) if self.file == name else call("open", file=name)
        for edit in self.problem.edits:
            if self._is_due(edit):
                return self._bring_about(edit)
        for copy in self.problem.copies:
            if self._is_due(copy.target):
                return self._next_of(copy)
        return call("submit") if self.checked else call("check")

    def random_action(self, rng: random.Random) -> Action:
        """A call that an agent which has understood the tools, but not the task, might make."""
        problem = self.problem
        here = list(entries(problem.tree[self.file])) if self.file else []
        spots = [spot for copy in problem.copies for spot in (*copy.reads, copy.target)]
        spot = rng.choice([*spots, *problem.edits])
        name = rng.choices(list(RANDOM_TOOLS), list(RANDOM_TOOLS.values()))[0]
        match name:
            case "grep":
                return call(name, word=spot.word if rng.random() < 0.5 else rng.choice(problem.words))
            case "open":
                return call(name, file=rng.choice(list(problem.tree)))
            case "get":
                return call(name, key=rng.choice(here or [spot.key]))
            case "set":
                key = rng.choice(problem.targets).key
                if rng.random() < 0.25:
                    key = rng.choice(here or [spot.key])
                return call(name, key=key, value=rng.choice(problem.values))
            case _:
                return call(name)

    def _is_due(self, target: Spot) -> bool:
        data = self.written.get(target.file, self.problem.tree[target.file])
        return value_of(data, target.key) != target.value

    def _next_of(self, copy: Copy) -> Action:
        for spot in copy.reads:
            if spot not in self.seen:
                return self._way_to(spot) or call("get", key=spot.key)
        return self._bring_about(copy.target)

    def _bring_about(self, target: Spot) -> Action:
        return self._way_to(target) or call("set", key=target.key, value=target.value)

    def _way_to(self, spot: Spot) -> Action | None:
        if self.file == spot.file:
            return None
        return call("open", file=spot.file) if spot.word in self.grepped else call("grep", word=spot.word)

    # -- the files

    def _path(self, name: str) -> str:
        return f"{ROOT}/{self.problem.path(name)}"

    async def _opened(self) -> tuple[str, bytes]:
        if self.file is None:
            raise ToolError("open a file first")
        return self.file, await self.sandbox.read(self._path(self.file))

    def _saw(self, shown: dict[str, str]) -> None:
        """Note what of the task the agent has been shown, and where it stands."""
        self.opened.update(edit for edit in self.problem.edits if edit.file == self.file)
        for copy in self.problem.copies:
            for spot in copy.reads:
                if spot.file == self.file and shown.get(spot.key) == spot.value:
                    self.seen.add(spot)
            if copy.target.file == self.file and copy.reads[-1] in self.seen:
                self.reopened.add(copy)

    async def _read_again(self) -> None:
        """Bring ``written`` up to the files that ``set`` wrote since."""
        for name in sorted(self.unread):
            self.written[name] = await self.sandbox.read(self._path(name))
            self.unread.discard(name)

    async def _in_line(self) -> bool:
        """Whether every file is as it must be; those never written to are as they were."""
        await self._read_again()
        real = {**self.problem.tree, **self.written}
        return real == self.expected
