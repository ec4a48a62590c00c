"""Patches: what is written is read again, and what does not apply is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.envs.swe.patch import PatchFailed, apply_patch, make_patch, read_patch, touched

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "", " x\n", "-y\n", "+++ z\n", "@@ q\n"]), max_size=12)
FILES = st.dictionaries(st.sampled_from(["a.py", "p/b.py", "p/q/c.txt"]), LINES.map("".join), max_size=3)


@given(FILES, FILES, st.sampled_from(["", "end without a line's end"]))
def test_what_is_written_applies(before: dict[str, str], after: dict[str, str], tail: str) -> None:
    old = {path: text.encode() for path, text in before.items() if text}
    new = {path: (text + tail).encode() for path, text in after.items() if text + tail}
    changed = apply_patch(make_patch(old, new), old)
    whole = {path: data for path, data in {**old, **changed}.items() if data is not None}
    assert whole == new


def test_lines_that_have_moved_are_found() -> None:
    patch = make_patch({"a": b"1\n2\n3\n4\n5\n"}, {"a": b"1\n2\nthree\n4\n5\n"})
    moved = b"new\nnew\n1\n2\n3\n4\n5\n"
    assert apply_patch(patch, {"a": moved}) == {"a": b"new\nnew\n1\n2\nthree\n4\n5\n"}


def test_a_diff_of_git_with_a_rename_and_a_new_file() -> None:
    patch = (
        "diff --git a/old.py b/new.py\nsimilarity index 90%\nrename from old.py\nrename to new.py\n"
        "index 1..2 100644\n--- a/old.py\n+++ b/new.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
        "diff --git a/more.py b/more.py\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/more.py\n"
        "@@ -0,0 +1 @@\n+y = 1\n"
        "diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n--- a/gone.py\n+++ /dev/null\n"
        "@@ -1 +0,0 @@\n-z = 1\n"
    )
    changed = apply_patch(patch, {"old.py": b"x = 1\n", "gone.py": b"z = 1\n"})
    assert changed == {"old.py": None, "new.py": b"x = 2\n", "more.py": b"y = 1\n", "gone.py": None}
    assert touched(patch) == ["old.py", "new.py", "more.py", "gone.py"]


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-other\n+new\n", "x: line 1: the lines to be changed are not there"),
        ("--- a/y\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", "y: there is no such file"),
        ("--- a/x\n+++ b/x\n@@ -1,3 +1 @@\n-a\n", "ends too early"),
        ("--- a/x\n+++ b/x\n@@ nonsense\n", "is no hunk"),
        ("this is no patch", "names no file"),
        (
            "--- a/m\n+++ b/m\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n",
            "there is no such file",
        ),
        ("diff --git a/b.bin b/b.bin\nGIT binary patch\n", "a binary file"),
    ],
)
def test_what_is_wrong_is_named(patch: str, says: str) -> None:
    with pytest.raises(PatchFailed, match=says):
        apply_patch(patch, {"x": b"a\n"})


def test_nothing_is_an_empty_patch() -> None:
    assert read_patch("") == []
    assert make_patch({"a": b"x"}, {"a": b"x"}) == ""
