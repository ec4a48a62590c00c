"""Issues tell what is wrong in words, out of what pytest printed, and not where it is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.swe.factory.conftest import SHAPES, TEST_SHAPES, TEST_WORDS
from turnwise.envs.swe.factory.bugs.bug import Bug, BugKind, apply
from turnwise.envs.swe.factory.bugs.find import ordered_bugs
from turnwise.envs.swe.factory.cut import without
from turnwise.envs.swe.factory.failures import Failure, read_failures
from turnwise.envs.swe.factory.issue_text import issue_text, reveals
from turnwise.envs.swe.patch import make_patch

OUTPUT = """
F.                                                                       [100%]
=================================== FAILURES ===================================
________________________________ test_area[2-3] ________________________________

width = 2, height = 3, expected = 6

    @pytest.mark.parametrize(...)
    def test_area(width, height, expected):
>       assert area(width, height) == expected
E       assert 5 == 6
E        +  where 5 = area(2, 3)

tests/test_shapes.py:8: AssertionError
_____________________________ WordsTest.test_clip ______________________________

self = <test_words.WordsTest testMethod=test_clip>

    def test_clip(self):
>       self.assertEqual(clip("abcdef", 4), "abc~")

tests/test_words.py:11:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

>   return text[: limit - 1] + 1
E   TypeError: can only concatenate str (not "int") to str

src/pack/words.py:13: TypeError
=========================== short test summary info ============================
FAILED tests/test_shapes.py::test_area[2-3] - assert 5 == 6
1 failed, 1 passed in 0.01s
"""
TESTS = {"tests/test_shapes.py": TEST_SHAPES.encode(), "tests/test_words.py": TEST_WORDS.encode()}
BUG = Bug(BugKind.ARITHMETIC, "src/pack/shapes.py", ("area",), 5, ())


def told(test: str, line: int, *error: str, **arguments: str) -> str:
    """The issue of one failure, without its opening and its ending."""
    text = issue_text("pack", BUG, "", [Failure(test, line, error, arguments)], TESTS, Random(0))
    assert text is not None
    return "\n\n".join(text.split("\n\n")[1:-1])


def test_failures_are_read_with_line_error_and_arguments() -> None:
    tests = [
        "tests/test_words.py::WordsTest::test_clip",
        "tests/test_shapes.py::test_area[2-3]",
        "tests/x.py::y",
    ]
    clip, area = read_failures(OUTPUT, tests)
    assert (area.line, area.error[0]) == (8, "assert 5 == 6")
    assert area.arguments == {"width": "2", "height": "3", "expected": "6"}
    assert (clip.line, clip.error[0].split(":")[0]) == (11, "TypeError")


def test_an_assertion_becomes_what_should_be_and_what_is() -> None:
    line = TEST_SHAPES.splitlines().index("    assert area(width, height) == expected") + 1
    said = told(
        "tests/test_shapes.py::test_area[2-3]", line, "assert 5 == 6", width="2", height="3", expected="6"
    )
    assert said == (
        "After\n\n    width = 2\n    height = 3\n    expected = 6\n\n"
        "`area(width, height)` should equal `expected`. What comes is `5 == 6`."
    )


def test_what_the_failing_statement_uses_is_told_with_it() -> None:
    line = TEST_SHAPES.splitlines().index("    assert stack.total() == 7") + 1
    said = told("tests/test_shapes.py::test_stack", line, "assert 6 == 7")
    assert said == (
        "After\n\n    stack = Stack().put(2, 3)\n    stack.put(1, 1)\n\n"
        "`stack.total()` should equal `7`. What comes is `6 == 7`."
    )


def test_errors_and_what_should_be_raised() -> None:
    line = TEST_SHAPES.splitlines().index("    with pytest.raises(ValueError):") + 1
    said = told("tests/test_shapes.py::test_negative", line, "Failed: DID NOT RAISE <class 'ValueError'>")
    assert said == "`area(-1, 2)` should raise `ValueError`. Nothing is raised."
    line = TEST_WORDS.splitlines().index('        self.assertEqual(initials("ada lovelace"), "AL")') + 1
    said = told("tests/test_words.py::WordsTest::test_initials", line, "IndexError: list index out of range")
    should = "`initials('ada lovelace')` should equal `'AL'`."
    assert said == f"{should} Instead it ends in `IndexError: list index out of range`."


@pytest.mark.parametrize(
    "text",
    [
        "see shapes.py",
        "in pack.shapes",
        "in src/pack/shapes.py:3",
        "def area(a, b):",
        "return width * height",
    ],
)
def test_what_would_tell_the_spot_is_found(text: str) -> None:
    assert reveals(
        text, BUG, "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-    return width + height\n+    return width * height\n"
    )
    assert not reveals("`area(2, 3)` should equal `6`", BUG, "")


BUGS = list(ordered_bugs({"src/pack/shapes.py": SHAPES.encode()}, Random(0)))


@given(st.sampled_from(BUGS), st.integers(1, len(TEST_SHAPES.splitlines())), st.text(max_size=60))
def test_no_issue_names_file_function_or_patch(bug: Bug, line: int, error: str) -> None:
    names = [part.split("(")[0] for part in TEST_SHAPES.split("def ")[1:]]
    failures = [
        Failure(f"tests/test_shapes.py::{name}", line, (error, f'File "/workspace/{bug.path}", line 3'), {})
        for name in names
    ]
    broken = apply(SHAPES.encode(), bug.edits)
    patch = make_patch({bug.path: broken}, {bug.path: SHAPES.encode()})
    text = issue_text("pack", bug, patch, failures, TESTS, Random(0))
    if text is not None:
        assert "shapes.py" not in text
        assert f"def {bug.functions[0].split('.')[-1]}" not in text
        lines = [each[1:].strip() for each in patch.splitlines() if each[:1] in "+-"]
        assert not any(each in text for each in lines if len(each) > 12)


def test_a_test_is_cut_wherever_it_is_defined() -> None:
    files = {
        "tests/__init__.py": b"class Mixin:\n    def test_a(self):\n        pass\n",
        "tests/test_b.py": b"import x\n\n@x.y\n@x.z(1)\ndef test_a():\n  def test_a(): pass\n  pass\n# end\n",
        "pkg/test_a.txt": b"def test_a(): pass",
        "pkg/work.py": b"def test_a(): pass\n",
    }
    cut = without(files, ["tests/test_b.py::Klass::test_a[1]"])
    assert cut == {
        "tests/__init__.py": b"class Mixin:\n    pass\n",
        "tests/test_b.py": b"import x\n\n# end\n",
    }
