"""The programs in the documents run.

A ```` ```python ```` block preceded by ``<!-- test -->`` is run; the marked blocks of one document, in order,
are one program, so a later block may use what an earlier one defined. ``await`` is allowed outside functions.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK = re.compile(r"^<!-- test -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN = """
import ast, asyncio, sys
path = sys.argv[1]
with open(path) as file:
    program = compile(file.read(), path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
coroutine = eval(program)
if coroutine is not None:
    asyncio.run(coroutine)
"""


def program(document: str) -> str:
    """The marked blocks, each on the lines that it has in the document, so that a traceback points there."""
    source = ""
    for block in BLOCK.finditer(document):
        source += "\n" * (document.count("\n", 0, block.start(1)) - source.count("\n")) + block[1]
    return source


def run(source: str, folder: Path, name: str = "example.md") -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(source)
    return subprocess.run(
        [sys.executable, "-P", "-W", "error::DeprecationWarning:__main__", "-c", RUN, name],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=1800,
        check=False,
    )


def documents() -> list[Path]:
    candidates = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path for path in candidates if BLOCK.search(path.read_text()))


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_programs_of_a_document_run(path: Path, tmp_path: Path) -> None:
    result = run(program(path.read_text()), tmp_path, path.name)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_documents_have_programs(name: str) -> None:
    assert ROOT / name in documents()


def test_later_blocks_see_earlier_ones_and_unmarked_ones_do_not_run(tmp_path: Path) -> None:
    blocks = ("<!-- test -->\n```python\nx = 1\n```\n", "```python\n1 / 0\n```\n")
    last = "<!-- test -->\n\n```python\nimport asyncio\nawait asyncio.sleep(0)\nprint(x)\n```\n"
    result = run(program("\n".join([*blocks, last])), tmp_path)
    assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr


def test_a_program_that_fails_says_on_which_line_of_the_document(tmp_path: Path) -> None:
    result = run(program("# Title\n\n<!-- test -->\n```python\nx = 1\nx / 0\n```\n"), tmp_path)
    assert result.returncode == 1
    assert "example.md" in result.stderr
    assert "line 6" in result.stderr
