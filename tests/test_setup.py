"""Set-up and continuous integration say in one line what is wrong, before they change anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as set-up reads."""
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [("PYTHON", "/no/such/python", "name another"), ("CONSTRAINTS", "no-such-file.txt", "leave it empty")],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    checkout: Path, variable: str, value: str, remedy: str
) -> None:
    settings = {name: text for name, text in os.environ.items() if name not in ("PYTHON", "CONSTRAINTS")}
    result = subprocess.run(
        [checkout / "scripts/setup.sh", "quickstart"],
        env={**settings, variable: value},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{variable}={value}" in line
    assert remedy in line
    assert not (checkout / ".venv").exists()


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    result = subprocess.run([ROOT / ".ci/run", "tset"], text=True, capture_output=True, check=False)
    assert result.returncode == 2
    assert "'tset'" in result.stderr
    assert "test wheel quickstart user" in result.stderr


def test_the_quickstart_installs_what_the_commands_of_the_readme_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    commands = (ROOT / "README.md").read_text().partition("## What the quickstart does")[2]
    needed = {"train": "turnwise train", "server": "turnwise serve", "swe": "eval swe/sample"}
    assert [command for command in needed.values() if command not in commands] == []
    (found,) = re.findall(r"turnwise\[(.*)\]", extras["quickstart"][0])
    assert needed.keys() == set(found.split(","))
    (extra,) = re.findall(r"^quickstart:\n\t@scripts/setup.sh (\w+)$", (ROOT / "Makefile").read_text(), re.M)
    assert extra == "quickstart"
