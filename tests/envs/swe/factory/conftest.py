"""A source distribution made here, and what the factory makes of it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from turnwise.envs.local import LocalEnvs
from turnwise.envs.swe.factory.build import Build
from turnwise.envs.swe.factory.records import Order
from turnwise.envs.swe.factory.report import BuildReport

SHAPES = '''"""Shapes."""

UNIT = 1


def area(width, height):
    """Of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("negative")
    return width * height


def border(width, height):
    return 2 * (width + height)


def fits(width, height, room):
    for side in (width, height):
        if side > room:
            return False
    return True


class Stack:
    """Rectangles on each other."""

    def __init__(self):
        self.sizes = []

    def put(self, width, height):
        if width <= 0:
            return self
        self.sizes.append((width, height))
        return self

    def total(self):
        result = 0
        for width, height in self.sizes:
            result += area(width, height)
        return result
'''
WORDS = '''"""Words."""


def initials(text):
    parts = text.split()
    letters = [part[0] for part in parts]
    return "".join(letters).upper()


def clip(text, limit):
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "~"


def count(text, letter):
    found = 0
    for each in text:
        if each == letter:
            found += 1
    return found
'''
TEST_SHAPES = """import pytest

from pack.shapes import Stack, area, border, fits


@pytest.mark.parametrize(("width", "height", "expected"), [(2, 3, 6), (4, 5, 20)])
def test_area(width, height, expected):
    assert area(width, height) == expected


def test_negative():
    with pytest.raises(ValueError):
        area(-1, 2)


def test_border():
    assert border(2, 3) == 10


def test_fits():
    assert fits(1, 2, 2)
    assert not fits(1, 3, 2)


def test_stack():
    stack = Stack().put(9, 9)
    stack = Stack().put(2, 3)
    stack.put(1, 1)
    assert stack.total() == 7


def test_nothing_is_put():
    assert Stack().put(0, 3).total() == 0


def test_is_wrong():
    assert area(1, 1) == 2


@pytest.mark.skip
def test_is_skipped():
    pass
"""
TEST_WORDS = """import unittest

from pack.words import clip, count, initials


class WordsTest(unittest.TestCase):
    def test_initials(self):
        self.assertEqual(initials("ada lovelace"), "AL")

    def test_clip(self):
        self.assertEqual(clip("abcdef", 4), "abc~")
        self.assertEqual(clip("abc", 4), "abc")

    def test_count(self):
        self.assertEqual(count("banana", "a"), 3)
"""
FILES = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: Pack\nVersion: 1.0\n\nA package.\n",
    "setup.py": "raise SystemExit('it must not be run')\n",
    "setup.cfg": "[tool:pytest]\naddopts = --cov\n",
    "tox.ini": "[pytest]\naddopts = --not-there\n",
    "src/pack/__init__.py": "from importlib.metadata import version\n\n__version__ = version('pack')\n",
    "src/pack/shapes.py": SHAPES,
    "src/pack/words.py": WORDS,
    "src/pack/names.txt": "ada\n",
    "tests/test_shapes.py": TEST_SHAPES,
    "tests/test_words.py": TEST_WORDS,
    "tests/test_needs.py": "import nothing_of_this_name\n\n\ndef test_it():\n    pass\n",
}
MakeSdist = Callable[..., Path]


def write_sdist(folder: Path, files: dict[str, str], name: str = "pack-1.0") -> Path:
    """An archive with these files below its top folder."""
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for place, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(f"{name}/{place}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


async def build(order: Order, out: Path, said: list[str], jobs: int = 2) -> BuildReport:
    async with LocalEnvs(backend="namespaces", capacity=jobs) as envs:
        return await Build(order, out, envs, jobs=jobs, say=said.append, admits=True).run()


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdist(tmp_path_factory.mktemp("sdist"), FILES)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package without tests."""
    files = {path: text for path, text in FILES.items() if not path.startswith("tests/")}
    return write_sdist(tmp_path_factory.mktemp("bare"), files, "bare-1.0")


@pytest.fixture(scope="session")
def order(sdist: Path, bare: Path) -> Order:
    """A package that can be used, after one that cannot."""
    return Order(sources=(str(bare), str(sdist)), tasks=6, seed=3)


@pytest.fixture(scope="session")
def built(order: Order, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """The folder that comes of the order, and its report."""
    out = tmp_path_factory.mktemp("built") / "tasks"
    return out, asyncio.run(build(order, out, []))
