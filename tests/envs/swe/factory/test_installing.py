"""Packages that need others: what is installed for them, where their tasks stand, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.swe.factory.conftest import FILES, build, write_sdist
from turnwise.agents.evaluate import evaluate
from turnwise.cli import run
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import EnvSpec
from turnwise.envs.swe.factory.installing import needs_of
from turnwise.envs.swe.factory.problems import PackageFault
from turnwise.envs.swe.factory.records import Order
from turnwise.envs.swe.factory.report import BuildReport
from turnwise.envs.swe.factory.sdist import read_sdist
from turnwise.envs.swe.formats.load import load_tasks
from turnwise.sandbox import images
from turnwise.sandbox.images.python import resolved

DECLARED = """
Requires-Dist: helper>=1
Requires-Dist: nothing-of-this-name; python_version < "3"
Requires-Dist: pytest-plugin; extra == "test"
Requires-Dist: Checks (==1.0); extra == "test"
Requires-Dist: sphinx; extra == "docs"

"""
HELPER = "def doubled(number):\n    return number + number\n"
CHECKS = "def same(one, other):\n    return one == other\n"
SIDES = '''"""Sides."""

from helper import doubled


def border(width, height):
    if width < 0:
        return 0
    return doubled(width) + doubled(height)


def longest(*sides):
    found = 0
    for side in sides:
        if side > found:
            found = side
    return found
'''
TEST_SIDES = """from checks import same

from pack.sides import border, longest


def test_border():
    assert same(border(2, 3), 10)


def test_nothing():
    assert border(-1, 3) == 0


def test_longest():
    assert longest(1, 3, 2) == 3
"""


def write_wheel(folder: Path, name: str, code: str, needs: str = "") -> None:
    """A distribution of one module, version 1.0."""
    declared = f"Requires-Dist: {needs}\n" if needs else ""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{declared}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that pip can find, and a store of images of these tests' own."""
    folder = tmp_path_factory.mktemp("index")
    write_wheel(folder, "helper", HELPER)
    write_wheel(folder, "checks", CHECKS)
    write_wheel(folder, "circular", "", needs="pack")
    write_wheel(folder, "pack", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        patch.setenv("TURNWISE_IMAGES", str(tmp_path_factory.mktemp("images")))
        yield folder


def needing(folder: Path, declared: str) -> Path:
    """A package with what it declares to need."""
    return write_sdist(
        folder,
        {
            "PKG-INFO": FILES["PKG-INFO"].replace("\n\n", declared, 1),
            "src/pack/__init__.py": "",
            "src/pack/sides.py": SIDES,
            "tests/test_sides.py": TEST_SIDES,
        },
    )


Built = tuple[Path, Order, BuildReport]


@pytest.fixture(scope="module")
def built(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    order = Order(sources=(str(needing(folder, DECLARED)),), tasks=2, seed=1)
    return folder / "tasks", order, asyncio.run(build(order, folder / "tasks", []))


def test_what_it_declares_is_installed_in_an_image_its_tasks_stand_on(built: Built) -> None:
    folder, _, report = built
    assert report.packages[0].requires == ("checks==1.0", "helper==1.0")
    assert report.packages[0].tests == 3
    tasks = load_tasks(str(folder)).tasks
    assert len(tasks) == 2
    for task in tasks:
        assert task.root is not None
        assert (task.root / "opt/python/helper.py").read_text() == HELPER
    result = asyncio.run(
        evaluate(EnvSpec.parse(f"swe/tasks?path={folder}"), "scripted:oracle", split="train", tasks=2)
    )
    assert result.success == 1.0, [episode.error for episode in result.episodes]


def test_its_tests_are_split_though_they_import_what_is_installed(built: Built) -> None:
    assert built[2].classes == {"split": 2}
    assert any(task.seeded is not None for task in load_tasks(str(built[0])).tasks)


def test_without_the_image_the_remedy_is_named_and_works(
    built: Built, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path))
    rows = built[0] / "tasks.jsonl"
    rows.touch()  # what was loaded before is not told again
    with pytest.raises(
        UsageError, match=r"there is no image python-\w+; make it: turnwise images build"
    ) as refused:
        load_tasks(str(built[0]))
    words = str(refused.value).rpartition("make it: turnwise ")[2].partition(" --python ")
    assert run([*words[0].split(), "--python", words[2].strip("'")]) == 0
    assert "helper==1.0" in capsys.readouterr().out
    assert len(load_tasks(str(built[0])).tasks) == 2


def test_a_build_goes_on_where_its_image_was_removed(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path))
    report = asyncio.run(build(built[1], built[0], []))
    assert (report.finished, report.tasks) == (True, 2)
    assert len(images.Store().images()) == 1


def test_groups_and_extras_of_tests_are_read_and_markers_decided(tmp_path: Path) -> None:
    archive = needing(tmp_path, DECLARED)
    needs = needs_of(read_sdist(archive), "3.11.2")
    assert needs.own == ("helper>=1",)
    assert needs.tests == ("Checks==1.0",)
    groups = (
        'dependency-groups = { tests = ["more[fast]>=2; python_version > \\"3\\"", {include-group = "x"}] }\n'
    )
    archive = write_sdist(tmp_path, {"PKG-INFO": FILES["PKG-INFO"], "pyproject.toml": groups})
    assert needs_of(read_sdist(archive), "3.11.2").tests == ("more[fast]>=2",)
    placed = "\nRequires-Dist: helper @ file:///etc/hostname\nRequires-Dist: not a requirement\n\n"
    assert needs_of(read_sdist(needing(tmp_path, placed)), "3.11.2").own == ()


@pytest.mark.parametrize("declared", ["other>=2", "circular"])
def test_what_cannot_be_installed_or_would_show_the_repair_is_named(tmp_path: Path, declared: str) -> None:
    archive = needing(tmp_path, f"\nRequires-Dist: {declared}\n\n")
    report = asyncio.run(build(Order(sources=(str(archive),), tasks=1, seed=0), tmp_path / "out", []))
    assert report.refused[0].fault is PackageFault.NEEDS
    told = (
        "No matching distribution found for other>=2" if declared != "circular" else "needs pack, which would"
    )
    assert told in report.refused[0].message


def test_what_only_tests_ask_for_may_be_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    declared = "\nRequires-Dist: helper\nRequires-Dist: other; extra == 'tests'\n\n"
    archive = needing(tmp_path, declared)
    order = Order(sources=(str(archive),), tasks=1, seed=0, beside=("checks",))
    with caplog.at_level(logging.WARNING):
        report = asyncio.run(build(order, tmp_path / "out", []))
    assert report.packages[0].requires == ("checks==1.0", "helper==1.0")
    assert "pack-1.0: without what only its tests ask for" in caplog.text


@pytest.mark.parametrize(
    "requirement", ["--no-deps", "-r/etc/passwd", "helper @ file:///x", "a b", "../x.whl", ""]
)
def test_requirements_are_names_and_versions(
    requirement: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(images.ImageError, match="write a name and versions"):
        resolved([requirement])
    words = ["tasks", "build", "swe", "--from", "toolz==1.0.0", "--out", str(tmp_path / "out")]
    assert run([*words, "--with", requirement]) == 2
    assert "write a name and versions" in capsys.readouterr().err
