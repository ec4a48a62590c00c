"""Bounds on memory, processes and processor time, through version 1 or 2 of control groups.

Every hub has one directory per hierarchy (``turnwise-PID``) and every episode one below it, so an
episode's counters start at zero and what a dead one still holds is not charged to the next. The
directories are the only thing the kernel does not remove with the hub: the janitor does. It holds a
lock (``flock``) on the first of them; when it was killed too the lock is free, and the next hub to start
sweeps what it left.

A process joins by writing "0" to a file the hub opened, as the kernel asks the opener's rights. In
version 1 that is ``tasks``: joining through ``cgroup.procs`` takes a lock that waits for an RCU grace
period, up to 30 ms. Version 2 is used where memory, pids and cpu are enabled (or can be) below the
root of the hierarchy as this process sees it. No machine with those was at hand: joining and removing
were tried on a real hierarchy without controllers, the limits on a plain directory tree only.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.syscalls import write_file

ROOT = "/sys/fs/cgroup"
PREFIX = "turnwise-"
PERIOD = 100_000  # microseconds of the processor-time quota
CONTROLLERS = ("memory", "cpu", "pids")


class Version(NamedTuple):
    """Where things are in one version of control groups."""

    tops: tuple[str, ...]
    """Below the mount point: the directories that hold the hubs' directories."""
    join: str
    settings: tuple[tuple[int, str, str], ...]
    """Index into ``tops``, file, value as a format of the limits."""
    swap: tuple[int, str, str]
    """The same for swapped-out memory; there is no such file where swap is not counted."""
    counters: tuple[tuple[str, int, str, str], ...]
    """Resource, index into ``tops``, file and key of the count of times it ran out."""


V1 = Version(
    CONTROLLERS,
    "tasks",
    (
        (0, "memory.limit_in_bytes", "{memory}"),
        (1, "cpu.cfs_quota_us", "{quota}"),
        (2, "pids.max", "{processes}"),
    ),
    (0, "memory.memsw.limit_in_bytes", "{memory}"),
    (("memory", 0, "memory.oom_control", "oom_kill"), ("processes", 2, "pids.events", "max")),
)
V2 = Version(
    ("",),
    "cgroup.procs",
    (
        (0, "memory.max", "{memory}"),
        (0, "cpu.max", f"{{quota}} {PERIOD}"),
        (0, "pids.max", "{processes}"),
    ),
    (0, "memory.swap.max", "0"),
    (("memory", 0, "memory.events", "oom_kill"), ("processes", 0, "pids.events", "max")),
)


def detect(root: str = ROOT) -> Version | None:
    """The version whose three controllers can be used below ``root``, or None."""
    try:
        with open(f"{root}/cgroup.controllers") as file:
            available = set(file.read().split())
    except OSError:
        usable = all(os.access(f"{root}/{name}/tasks", os.W_OK) for name in CONTROLLERS)
        return V1 if usable else None
    if not available.issuperset(CONTROLLERS):
        return None
    try:
        write_file(f"{root}/cgroup.subtree_control", " ".join("+" + name for name in CONTROLLERS))
    except OSError:  # not ours to change, or processes live in this very group
        with open(f"{root}/cgroup.subtree_control") as file:
            if not set(file.read().split()).issuperset(CONTROLLERS):
                return None
    return V2


class Group:
    """One episode's directories, and the files of them that its resident needs."""

    def __init__(self, version: Version, paths: list[str]) -> None:
        self._version, self._paths = version, paths
        for path in paths:
            os.mkdir(path)
        self.joins = [os.open(f"{path}/{version.join}", os.O_WRONLY) for path in paths]
        self.counters = [os.open(f"{paths[top]}/{file}", os.O_RDONLY) for _, top, file, _ in version.counters]

    def limit(self, limits: Head) -> None:
        values = {**limits, "quota": max(int(limits["cpus"] * PERIOD), 1000)}
        for top, file, value in (*self._version.settings, self._version.swap):
            path = f"{self._paths[top]}/{file}"
            if file != self._version.swap[1] or os.path.exists(path):
                write_file(path, value.format(**values))

    def close(self) -> None:
        for fd in (*self.joins, *self.counters):
            os.close(fd)
        self.joins, self.counters = [], []

    def remove(self) -> bool:
        """Try to remove the directories; False while a dying process still counts there."""
        return all([_rmdir(path) for path in self._paths])


def exhausted(version: Version, fds: list[int], seen: list[int]) -> str | None:
    """The resource that ran out since ``seen`` (brought up to date), from a group's counter files."""
    found = None
    for index, ((resource, _, _, key), fd) in enumerate(zip(version.counters, fds, strict=True)):
        for line in os.pread(fd, 4096, 0).decode().splitlines():
            name, _, count = line.partition(" ")
            if name == key and int(count) > seen[index]:
                found, seen[index] = found or resource, int(count)
    return found


class Cgroups:
    """All directories of one hub. Made by its janitor, which removes them in the end."""

    def __init__(self, version: Version, root: str = ROOT) -> None:
        self.version = version
        self._tops = [os.path.join(root, top) for top in version.tops]
        self._sweep()
        self._name, self._lease = self._claim()
        for top in self._tops[1:]:
            os.mkdir(f"{top}/{self._name}")
        if version is V2:
            write_file(f"{self._tops[0]}/{self._name}/cgroup.subtree_control", "+memory +cpu +pids")

    def _claim(self) -> tuple[str, int]:
        """A new locked directory; another hub's sweep may take it in the instant before the lock."""
        while True:
            name = f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
            path = f"{self._tops[0]}/{name}"
            os.mkdir(path)
            try:
                lease = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            fcntl.flock(lease, fcntl.LOCK_EX)
            if os.path.exists(path):
                return name, lease
            os.close(lease)

    def _sweep(self) -> None:
        """Remove what hubs left whose janitor was killed."""
        for name in [name for name in os.listdir(self._tops[0]) if name.startswith(PREFIX)]:
            try:
                lease = os.open(f"{self._tops[0]}/{name}", os.O_RDONLY)
            except FileNotFoundError:
                continue  # another hub swept it
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(name)
            except BlockingIOError:
                pass  # its janitor lives
            finally:
                os.close(lease)

    def group(self, name: str, host: str) -> Group:
        """A new group; ``host`` is where the caller sees the host's root directory."""
        return Group(self.version, [f"{host}{top}/{self._name}/{name}" for top in self._tops])

    def remove(self) -> None:
        """Everything of this hub, whose processes are all gone or dying."""
        self._remove(self._name)
        os.close(self._lease)

    def _remove(self, name: str) -> None:
        for top in reversed(self._tops):  # the first one carries the lease
            path = f"{top}/{name}"
            if os.path.exists(f"{path}/cgroup.kill"):
                write_file(f"{path}/cgroup.kill", "1")
            for _ in _retry(5.0):
                if all([_rmdir(child) for child in _directories(path)]) and _rmdir(path):
                    break


def _directories(path: str) -> list[str]:
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir()]


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _retry(seconds: float) -> Iterator[None]:
    """Attempts with pauses between them, until the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.005)
