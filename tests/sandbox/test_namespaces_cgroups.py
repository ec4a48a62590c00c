"""Control groups, both versions, on a directory tree that behaves as the kernel's does."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnwise.sandbox.namespaces import cgroups
from turnwise.sandbox.namespaces.cgroups import V1, V2, Cgroups, Version

LIMITS = {"memory": 1000, "processes": 7, "cpus": 0.5}
FILES = {
    "": ["cgroup.kill", "cgroup.procs", "cgroup.subtree_control"],
    "memory": ["tasks", "memory.limit_in_bytes", "memory.oom_control"],
    "cpu": ["tasks", "cpu.cfs_quota_us"],
    "pids": ["tasks", "pids.max", "pids.events"],
}
FILES[""] += ["memory.max", "memory.events", "cpu.max", "pids.max", "pids.events"]


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> Version:
    chosen: Version = request.param
    return chosen


@pytest.fixture
def root(tmp_path: Path, version: Version, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hierarchy in which a new directory has its files, and goes with them once it is not busy."""
    make, remove = os.mkdir, os.rmdir

    def kind(path: Path) -> str:
        return path.relative_to(tmp_path).parts[0] if version is V1 else ""

    def mkdir(path: str, *arguments: int) -> None:
        make(path, *arguments)
        if tmp_path in Path(path).parents:
            for name in FILES[kind(Path(path))]:
                Path(path, name).touch()

    def rmdir(path: str, **options: int) -> None:
        here = Path(path)
        if tmp_path in here.parents and here.is_dir():
            if any(child.is_dir() for child in here.iterdir()) or (here / "busy").exists():
                raise OSError(errno.EBUSY, "busy", path)
            for file in here.iterdir():
                file.unlink()
        remove(path, **options)

    if version is V1:
        for name in V1.tops:
            (tmp_path / name).mkdir()
            (tmp_path / name / "tasks").touch()
    else:
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma\n")
        (tmp_path / "cgroup.subtree_control").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir)
        patch.setattr(os, "rmdir", rmdir)
        yield tmp_path


def directories(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob(f"{cgroups.PREFIX}*"))


def test_the_version_is_found(root: Path, version: Version) -> None:
    assert cgroups.detect(str(root)) is version
    if version is V2:
        assert (root / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_without_a_controller_there_are_no_limits(root: Path, version: Version) -> None:
    if version is V1:
        shutil.rmtree(root / "memory")
    else:
        (root / "cgroup.controllers").write_text("cpu pids\n")
    assert cgroups.detect(str(root)) is None


def test_limits_are_written(root: Path, version: Version) -> None:
    groups = Cgroups(version, str(root))
    group = groups.group("1", "")
    group.limit(LIMITS)
    written = {
        path.name: path.read_text() for path in root.rglob("*") if path.is_file() and path.parent.name == "1"
    }
    expected = {"memory.limit_in_bytes": "1000", "pids.max": "7", "cpu.cfs_quota_us": "50000"}
    if version is V2:
        expected = {"memory.max": "1000", "pids.max": "7", "cpu.max": "50000 100000"}
    assert {name: text for name, text in written.items() if text} == expected
    group.close()
    assert group.remove()
    groups.remove()
    assert directories(root) == []


def test_joining_is_one_write_for_each_directory(root: Path, version: Version) -> None:
    groups = Cgroups(version, str(root))
    group = groups.group("1", "")
    for fd in group.joins:
        os.write(fd, b"0")
    joined = [path.parent.name for path in root.rglob(version.join) if path.read_text() == "0"]
    assert joined == ["1"] * len(version.tops)
    group.close()
    groups.remove()


def test_what_ran_out_is_told_once(root: Path, version: Version) -> None:
    groups = Cgroups(version, str(root))
    group = groups.group("1", "")
    seen = [0, 0]
    assert cgroups.exhausted(version, group.counters, seen) is None
    memory = next(root.rglob("1/memory.oom_control" if version is V1 else "1/memory.events"))
    memory.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert cgroups.exhausted(version, group.counters, seen) == "memory"
    assert cgroups.exhausted(version, group.counters, seen) is None
    next(root.rglob("1/pids.events")).write_text("max 5\n")
    assert cgroups.exhausted(version, group.counters, seen) == "processes"
    assert seen == [2, 5]
    group.close()
    groups.remove()


def test_a_group_is_removed_once_it_is_empty(root: Path, version: Version) -> None:
    groups = Cgroups(version, str(root))
    group = groups.group("1", "")
    busy = next(root.rglob(f"1/{version.join}")).with_name("busy")
    busy.touch()
    assert not group.remove()
    busy.unlink()
    assert group.remove()
    assert group.remove()
    group.close()
    groups.remove()


def test_the_next_hub_sweeps_what_the_dead_left(root: Path, version: Version) -> None:
    """A directory whose lock is free goes, with all in it; one whose janitor lives stays."""
    alive, dead = Cgroups(version, str(root)), Cgroups(version, str(root))
    for groups in (alive, dead):
        groups.group("1", "").close()
    before = directories(root)
    os.close(dead._lease)
    third = Cgroups(version, str(root))
    assert len(directories(root)) == len(before) == 2 * len(version.tops)
    alive.group("2", "").close()
    with pytest.raises(FileNotFoundError):
        dead.group("2", "")
    for groups in (alive, third):
        groups.remove()
    assert directories(root) == []


def test_a_lock_is_held_on_the_hubs_directory(root: Path, version: Version) -> None:
    groups = Cgroups(version, str(root))
    fd = os.open(root / directories(root)[-1 if version is V2 else 1], os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    groups.remove()
