"""What in a source distribution is the package, and what are its tests.

The package is what can be imported: folders with an ``__init__.py`` and single modules, at the top or below
``src``. The repository of the tasks is the distribution with two things put right: pytest's settings, which
ask for plugins that the sandbox lacks, give way to a ``pytest.ini`` that says where the package is; and its
metadata are where ``importlib.metadata`` looks for them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import PurePosixPath

from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.factory.sdist import Sdist
from turnwise.envs.swe.grading.rules import holds_tests
from turnwise.envs.swe.task import Tree

ROOTS = ("", "src/")
NO_PACKAGES = frozenset(
    {"test", "tests", "testing", "doc", "docs", "example", "examples", "benchmark", "benchmarks", "tools"}
    | {"scripts", "build", "dist", "bin"}
)
NO_MODULES = frozenset({"setup", "conftest", "noxfile", "tasks", "fabfile", "ez_setup", "versioneer"})
SETTINGS = frozenset({"pytest.ini", ".pytest.ini", "tox.ini"})
LEFT_OUT = frozenset({".git", ".github", ".tox", "build", "dist"})
"""Folders at the top that are of no use; a copy of the package in them would give repairs away."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A repository and what is where in it."""

    files: Tree
    sources: tuple[str, ...]
    """Folders of packages, and files of single modules."""
    modules: tuple[str, ...]
    """The Python files of the package that are no tests and can be read."""
    tests: tuple[str, ...]
    """Files that pytest is given."""


def lay_out(sdist: Sdist) -> Layout:
    """Find package and tests. Raises :class:`PackageProblem`."""
    files = {
        path: data.replace(b"\r\n", b"\n") if path.endswith(".py") else data
        for path, data in sdist.files.items()
        if path.split("/")[0] not in LEFT_OUT and not path.endswith(".pyc")
    }
    sources = _sources(files)
    modules = tuple(path for path in sorted(files) if _is_module(path, sources) and readable(files[path]))
    if not modules:
        message = "it holds no Python package, at its top or below src"
        raise PackageProblem(PackageFault.NO_PACKAGE, sdist.file, message)
    tests = tuple(path for path in sorted(files) if holds_tests(path) and readable(files[path]))
    if not tests:
        raise PackageProblem(PackageFault.NO_TESTS, sdist.file, "it comes without tests (files test_*.py)")
    return Layout(_put_right(files, sdist, sources), sources, modules, tests)


def is_of_tests(path: str) -> bool:
    """Whether a file belongs to the tests, as a helper of theirs may."""
    below = {"test", "tests"} & set(PurePosixPath(path).parts[:-1])
    return bool(below) or holds_tests(path) or PurePosixPath(path).name == "conftest.py"


def readable(data: bytes) -> bool:
    """Whether a file is Python in UTF-8 with plain line ends, so that a change of it can be a patch."""
    try:
        ast.parse(data.decode())
    except (SyntaxError, ValueError, RecursionError):
        return False
    return b"\r" not in data


def _sources(files: Tree) -> tuple[str, ...]:
    found = []
    for root in ROOTS:
        for path in sorted(files):
            if not path.startswith(root):
                continue
            parts = path.removeprefix(root).split("/")
            package = len(parts) == 2 and parts[1] == "__init__.py" and parts[0] not in NO_PACKAGES
            stem = parts[0].removesuffix(".py")
            module = len(parts) == 1 and parts[0] == f"{stem}.py" and stem not in NO_MODULES
            if package or (module and not is_of_tests(path)):
                found.append(root + parts[0])
    return tuple(found)


def _is_module(path: str, sources: tuple[str, ...]) -> bool:
    within = any(path == source or path.startswith(f"{source}/") for source in sources)
    return within and path.endswith(".py") and not is_of_tests(path)


def _put_right(files: Tree, sdist: Sdist, sources: tuple[str, ...]) -> Tree:
    kept = {path: data for path, data in files.items() if path not in SETTINGS}
    kept["pytest.ini"] = b"[pytest]\npythonpath = . src\n"
    if not any(path.endswith(".egg-info/PKG-INFO") for path in files):
        root = ROOTS[all(source.startswith(ROOTS[1]) for source in sources)]
        name = f"{sdist.name.replace('-', '_')}-{sdist.version}.dist-info"
        kept[f"{root}{name}/METADATA"] = files["PKG-INFO"]
    return kept
