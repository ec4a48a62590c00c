"""Which files of an agent's tree become part of what is graded, by name and size.

A submission is the Python source below the declared paths and nothing else; all else comes from the
pristine base. What is merely of no use there (notes, caches, editor backups) is left out; what could only
serve to change who is asked, or what is run, rejects the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field, field_validator

from turnwise.envs.types import Model

Tree: TypeAlias = Mapping[str, bytes]
"""Files by their path, relative to the repository."""


class Fault(StrEnum):
    """Why a tree is rejected. All of them are the agent's doing."""

    LINK = "link"
    SPECIAL = "special file"
    NAME = "file name"
    RESERVED = "reserved name"
    COMPILED = "compiled code"
    SHADOW = "package beside a module of its name"
    MANY = "too many files"
    LARGE = "too large"
    DEEP = "nested too deeply"
    ENCODING = "not UTF-8"
    SYNTAX = "not Python"
    UNREADABLE = "unreadable"
    MISSING = "source is missing"


class Rejection(Model):
    """The tree is not graded and scores 0; never an infrastructure error."""

    kind: Literal["rejection"] = "rejection"
    fault: Fault
    path: str
    """For the trainer's side."""


class Submission(Model):
    """What an agent hands in: source files by path, read from a tree of bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    kind: Literal["submission"] = "submission"
    files: dict[str, bytes]
    uses: tuple[str, ...] = ()
    """What its changes use that the base did not and cheats often do (see :mod:`.parse`)."""


class Rules(Model):
    """Where source is and how much of it there may be. Sizes are bytes."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Packages (folders) and modules (files), as in ``src/pkg`` or ``pkg/tool.py``."""
    files: int = 2_000
    file_bytes: int = 1 << 20
    bytes: int = 16 << 20
    depth: int = 12

    @field_validator("sources")
    @classmethod
    def _are_importable(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            path = PurePosixPath(source)
            if path.is_absolute() or ".." in path.parts or not MODULE.fullmatch(path.stem):
                raise ValueError(f"{source!r} is no relative path of a package or module")
        return sources

    @property
    def roots(self) -> tuple[str, ...]:
        """What has to be on the import path."""
        return tuple(dict.fromkeys(str(PurePosixPath(source).parent) for source in self.sources))

    @property
    def packages(self) -> tuple[str, ...]:
        """The names the sources are imported by."""
        return tuple(dict.fromkeys(PurePosixPath(source).stem for source in self.sources))

    def below(self, path: str) -> tuple[str, ...]:
        """The part of a path from its source on; empty where it is none of source."""
        for source in self.sources:
            if path == source or path.startswith(f"{source}/"):
                return PurePosixPath(path).parts[len(PurePosixPath(source).parts) - 1 :]
        return ()


MODULE = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_COMPILED = {".so", ".pyd", ".pyc", ".pyo", ".pth", ".dll", ".dylib", ".egg", ".whl", ".zip"}
_RESERVED = ("conftest.py", "sitecustomize.py", "usercustomize.py")
_TESTS = re.compile(r"test_.*\.py|.*_test\.py")


def sift(tree: Tree, base: Tree, rules: Rules) -> Submission | Rejection:
    """The source in a tree. What is in the base already, to the byte, is past the rules of names.

    A test among the source is an agent's good right, and of no use here: the base's own stays.
    """
    source: dict[str, bytes] = {path: base[path] for path in tree if holds_tests(path) and path in base}
    for path, data in sorted(tree.items()):
        if not rules.below(path) or "__pycache__" in PurePosixPath(path).parts or holds_tests(path):
            continue
        if base.get(path) != data and (fault := _fault(path, data, rules)) is not None:
            return Rejection(fault=fault, path=path)
        if path.endswith(".py"):
            source[path] = data
    accepted = {path: data for path, data in sorted(source.items()) if rules.below(path)}
    if (whole := _fault_of_all(accepted, base, rules)) is not None:
        return whole
    return Submission(files=accepted)


def holds_tests(path: str) -> bool:
    """Whether a file is named as pytest names files of tests."""
    return _TESTS.fullmatch(PurePosixPath(path).name) is not None


def _fault(path: str, data: bytes, rules: Rules) -> Fault | None:
    pure, parts = PurePosixPath(path), rules.below(path)
    if pure.suffix.lower() in _COMPILED:
        return Fault.COMPILED
    if pure.suffix != ".py":
        return None if path.isascii() else Fault.NAME
    if pure.name in _RESERVED:
        return Fault.RESERVED
    if not all(MODULE.fullmatch(part) for part in (*parts[:-1], pure.stem)):
        return Fault.NAME
    if len(parts) > rules.depth:
        return Fault.DEEP
    if len(data) > rules.file_bytes:
        return Fault.LARGE
    try:
        data.decode()
    except UnicodeDecodeError:
        return Fault.ENCODING
    return None


def _fault_of_all(files: Tree, base: Tree, rules: Rules) -> Rejection | None:
    if len(files) > rules.files:
        return Rejection(fault=Fault.MANY, path=f"{len(files)} files")
    if (size := sum(map(len, files.values()))) > rules.bytes:
        return Rejection(fault=Fault.LARGE, path=f"{size} bytes in all files together")
    for path in files:
        package = f"{path.removesuffix('.py')}/__init__.py"
        if package in files and not {path, package} <= base.keys():
            return Rejection(fault=Fault.SHADOW, path=package)
    for source in rules.sources:
        if not any(path == source or path.startswith(f"{source}/") for path in files):
            return Rejection(fault=Fault.MISSING, path=source)
    return None
