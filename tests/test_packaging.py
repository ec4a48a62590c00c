"""What is published is what was written: the wheel made from the sdist holds and imports every module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("sandbox", "envs", "agents", "trainer", "viewer")

ELSEWHERE = {"turnwise.sandbox.inspect_provider"}
"""Modules whose tests run in an environment of their own: a stage of ``.ci/run``."""

IMPORT_ALL = """
import importlib, sys, turnwise
assert turnwise.__file__.startswith(sys.argv[1]), turnwise.__file__
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def run(*command: str | Path, **environment: str) -> None:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the working tree and the wheel made from that sdist, built offline."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path) -> Path:
    """The wheel's content, laid out as an installer would."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def written() -> set[str]:
    """Every file of the working tree's packages, as it is to appear under ``turnwise/``."""
    bases = {ROOT / name: ROOT for name in PACKAGES} | {ROOT / "turnwise": ROOT / "turnwise"}
    return {
        f"turnwise/{path.relative_to(base)}"
        for folder, base in bases.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_what_was_written(unpacked: Path) -> None:
    published = {
        str(path.relative_to(unpacked)) for path in (unpacked / "turnwise").rglob("*") if path.is_file()
    }
    assert published == written()


def test_the_wheel_says_that_it_is_typed_and_how_it_is_licensed(unpacked: Path) -> None:
    assert (unpacked / "turnwise/py.typed").exists()
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    assert {path.name for path in unpacked.iterdir()} == {"turnwise", f"turnwise-{version()}.dist-info"}


def test_the_sdist_holds_each_file_once(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
    assert len(names) == len(set(names))
    assert written() | {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= set(names)


def test_every_module_imports_from_the_wheel(unpacked: Path) -> None:
    modules = [
        str(path.relative_to(unpacked).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in sorted((unpacked / "turnwise").rglob("*.py"))
    ]
    here = [module for module in modules if module not in ELSEWHERE]
    run(sys.executable, "-P", "-c", IMPORT_ALL, unpacked, *here, PYTHONPATH=str(unpacked))


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def version() -> str:
    return str(project()["version"])


def requirements() -> list[Requirement]:
    """Everything the project asks for by name, extras included, itself left out."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *table["dependencies"],
        *(line for extra in table["optional-dependencies"].values() for line in extra),
    ]
    return [requirement for line in lines if (requirement := Requirement(line)).name != "turnwise"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def test_every_direct_dependency_has_a_tested_version_that_satisfies_it() -> None:
    tested = pins()
    unmet = [
        str(requirement)
        for requirement in requirements()
        if not requirement.specifier.contains(tested.get(normal(requirement.name), "0"))
    ]
    assert unmet == []


def test_the_changelog_knows_the_version() -> None:
    assert re.search(rf"^## {re.escape(version())}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
