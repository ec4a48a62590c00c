"""The history that an agent is given is one that git accepts, and holds one commit and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from turnwise.envs.swe.history import one_commit

FILES = {
    "README": b"hello\n",
    "pkg/a.py": b"x = 1\n",
    "pkg-b/c.py": b"",
    "pkg/sub/deep.bin": bytes(range(256)) * 300,
    "run.sh": b"#!/bin/sh\n",
    "z" * 200 + ".txt": b"long name",
}


def git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", folder, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, data in {**FILES, **one_commit(FILES, frozenset({"run.sh"}))}.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return tmp_path


def test_git_finds_no_fault_and_no_change(folder: Path) -> None:
    assert git(folder, "fsck", "--full", "--strict") == ""
    assert git(folder, "status", "--porcelain") == ""
    assert git(folder, "ls-files") == "\n".join(sorted(FILES))
    assert git(folder, "ls-tree", "HEAD", "run.sh").startswith("100755")


def test_there_is_one_commit_and_nothing_leads_elsewhere(folder: Path) -> None:
    assert git(folder, "rev-list", "--all", "--reflog", "--count") == "1"
    assert git(folder, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert git(folder, "remote") == ""
    assert git(folder, "tag") == ""
    assert not (folder / ".git/logs").exists()


def test_a_change_is_seen(folder: Path) -> None:
    (folder / "pkg/a.py").write_bytes(b"x = 2\n")
    assert git(folder, "diff", "--stat").startswith("pkg/a.py | 2 +-")


def test_the_same_files_have_the_same_history() -> None:
    assert one_commit(FILES) == one_commit(dict(reversed(FILES.items())))
