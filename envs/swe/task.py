"""What a task of software repair consists of, whatever file or data set it came from.

Paths are relative to the repository, with ``/``. Ids of tests are those of pytest's reports
(``tests/test_a.py::test_b[1]``), or of the plain runner (``tests/test_a.py::test_b``). A test listed in
``fail_to_pass`` fails before the repair and passes after it, one in ``pass_to_pass`` passes before and after,
as the ``swebench`` package has it; a submission resolves the task when all of both pass.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from turnwise.envs.swe.grading.seeded import Seeded
from turnwise.envs.swe.grading.suite import Assurance, Calibration
from turnwise.envs.types import EpisodeLimits, Model, Split, Task, TaskPublic, TaskRef, TaskSecret

Tree: TypeAlias = dict[str, bytes]
"""Files by path."""
Changes: TypeAlias = dict[str, bytes | None]
"""Files by path that are not as they were; None where one is gone."""

RESERVED = (
    *("pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "conftest.py"),
    *("sitecustomize.py", "usercustomize.py"),
)
"""Files that say how tests are run: no part of a repair, unless a task lists one among its sources."""


class FilesRepository(Model):
    """A small repository inside the task itself."""

    kind: Literal["files"] = "files"
    files: dict[str, str]
    at: str = "/workspace"


class FolderRepository(Model):
    """A folder on the owner's disk that holds the files at the base commit."""

    kind: Literal["folder"] = "folder"
    path: str
    at: str = "/workspace"
    image: str = ""
    """What its sandboxes stand on: an image with what it depends on, or this machine's ``/usr``."""
    root: str = ""
    """The image's extracted root file system."""


class ImageRepository(Model):
    """An image that has the repository and all it depends on."""

    kind: Literal["image"] = "image"
    image: str
    root: str
    """Its extracted root file system."""
    at: str = "/testbed"
    setup: str = ""
    """Shell commands before each run, such as those that activate an environment."""


Repository: TypeAlias = Annotated[
    FilesRepository | FolderRepository | ImageRepository, Field(discriminator="kind")
]

Runner = Literal["pytest", "plain"]
"""``plain`` calls the functions named ``test_…`` of each file, without fixtures or plugins: it starts ten
times as fast, and needs nothing but Python."""


class SweLimits(Model):
    """Bounds of one task."""

    turns: int = Field(default=40, ge=1)
    seconds: float = Field(default=1800.0, gt=0)
    """Of the episode."""
    command_seconds: float = Field(default=60.0, gt=0)
    """Of one command of the agent's."""
    test_seconds: float = Field(default=30.0, gt=0)
    """Of one run of the tests."""
    observation_chars: int = Field(default=16_000, ge=16)
    memory_mb: int = Field(default=1024, ge=64)
    disk_mb: int = Field(default=512, ge=16)

    @property
    def patience(self) -> float:
        """Seconds for one turn's tool, its milestones or the grading: commands and test runs end earlier, so
        that what takes too long is the agent's doing and not the environment's."""
        return self.command_seconds + 5 * self.test_seconds + 300


class SweTask(Model):
    """One task, with its answer; never leaves the environment's process."""

    id: str = Field(min_length=1)
    issue: str
    """What the agent is told; it does not name the spot."""
    repository: Repository
    split: Split = "test"
    module: str = ""
    """What it is about; tasks of different splits share no module."""
    patch: str
    """The reference repair, a unified diff."""
    overlay: dict[str, str | None] = Field(default_factory=dict)
    """Files put over the repository to make the task's base: a bug, or None for one that is removed."""
    hidden: dict[str, str] = Field(default_factory=dict)
    """Test files that the agent never sees, written over the repository when it is judged."""
    fail_to_pass: tuple[str, ...] = Field(min_length=1)
    pass_to_pass: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    """Test files and folders in the repository that ``test`` runs."""
    sources: tuple[str, ...] = ()
    """Files and folders that a repair may change; empty: all but tests."""
    runner: Runner = "pytest"
    ids: Literal["node", "exact", "dotted"] = "node"
    """``node`` ends an id at its first space, as ``swebench`` does, ``exact`` does not; ``dotted`` names a
    test ``Class.test``, without its file, as R2E-Gym does."""
    weights: dict[str, float] = Field(default_factory=dict)
    """How hard each test of ``fail_to_pass`` is to make pass, relative to the others; 1 where not given."""
    difficulty: float | None = None
    """From 0 to 1, where known."""
    terse: bool = False
    """Tools answer in single words, for models with a small vocabulary."""
    history: bool = True
    """The repository has a ``.git`` of one commit."""
    assurance: Assurance | Literal["one-process"] | None = None
    """How its grade is protected; None for a task that was not admitted, which is graded in one process."""
    judged: tuple[str, ...] = ()
    """The tests that the judge runs, where those are not all: see :mod:`.judged`."""
    calibration: Calibration | None = None
    """What admission found out for the grader; None where that is not used."""
    seeded: Seeded | None = None
    """Tests that ask for fresh inputs at every grading; the judge alone has them, whatever the class."""
    verified: bool = False
    """Its baseline and its reference were checked; otherwise they are when an episode of it begins."""
    limits: SweLimits = SweLimits()

    @property
    def at(self) -> str:
        """Where the repository is in the sandbox."""
        return self.repository.at

    @property
    def root(self) -> Path | None:
        """The root file system of its sandboxes; None for this machine's."""
        root = "" if self.repository.kind == "files" else self.repository.root
        return Path(root) if root else None

    @cached_property
    def key(self) -> str:
        """Equal for tasks whose episodes start from the same sandbox."""
        names = {"repository", "runner", "visible", "history", "overlay", "patch", "hidden"}
        return hashlib.sha256(self.model_dump_json(include=names).encode()).hexdigest()[:20]

    @cached_property
    def digest(self) -> str:
        """Of everything about it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def task(self, env: str, seed: int) -> Task:
        """As the environment of a name offers it."""
        limits = EpisodeLimits(
            turns=self.limits.turns,
            seconds=self.limits.seconds,
            tool_seconds=self.limits.patience,
            observation_chars=self.limits.observation_chars,
        )
        data: dict[str, JsonValue] = self.model_dump(mode="json")
        return Task(
            ref=TaskRef(env=env, id=self.id, seed=seed),
            public=TaskPublic(instruction=self.issue, limits=limits),
            secret=TaskSecret(data=data),
        )

    def is_test(self, path: str) -> bool:
        """Whether a file is one of tests rather than of the sources."""
        folder, _, name = f"/{path}".rpartition("/")
        named = name == "conftest.py" or (name.startswith("test_") and name.endswith(".py"))
        return (
            self.is_visible(path)
            or named
            or name.endswith("_test.py")
            or "/tests" in folder
            or "/test/" in f"{folder}/"
        )

    def is_visible(self, path: str) -> bool:
        """Whether a file is one of the tests that ``test`` runs."""
        return any(path == top or path.startswith(f"{top}/") for top in self.visible)

    def is_source(self, path: str) -> bool:
        """Whether a change of a file is part of a repair."""
        if path in self.sources:
            return True
        below = not self.sources or any(path.startswith(f"{top}/") for top in self.sources)
        return below and not self.is_test(path) and path.rpartition("/")[2] not in RESERVED
