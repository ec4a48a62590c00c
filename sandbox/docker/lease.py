"""Whose a container is, written on it as a label, and what may be removed of others.

A lease names the machine (its boot), the namespace of process ids, the process with its start time, and one
backend in it. Of an owner that can be looked up from here it is known whether it lives. Any other's (another
machine that uses the same Engine, a container with process ids of its own, an earlier boot) is judged by its
containers: a resident ends with its owner's connection, and an owner removes what has ended, so what ended
long ago is nobody's. Nothing without a lease is ever touched.
"""

from __future__ import annotations

import datetime
import functools
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABEL = "turnwise.lease"
LONG_AGO = datetime.timedelta(minutes=10)
NOT_RUNNING = ("created", "exited", "dead", "removing")


@functools.cache
def place() -> str:
    """The machine since its boot, and the namespace in which its process ids mean something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return platform.node()
    return f"{boot.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def started(pid: int) -> str | None:
    """When a process started, as its kernel counts; None when there is none. Empty where it is not told."""
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]


def new() -> str:
    """A lease of this process."""
    return f"{place()}/{os.getpid()}/{started(os.getpid())}/{os.urandom(4).hex()}"


def lives(lease: str) -> bool | None:
    """Whether the owner lives; None where that cannot be looked up from here."""
    where, pid, since, _ = lease.rsplit("/", 3) if lease.count("/") >= 3 else ("", "", "", "")
    if where != place() or not pid.isdigit():
        return None
    now = started(int(pid))
    return None if now == "" else now == since


def ended_long_ago(container: Mapping[str, Any]) -> bool:
    """Of a container as the Engine describes it."""
    state = container["State"]
    if state["Status"] not in NOT_RUNNING:
        return False
    last = max(moment(container["Created"]), moment(state["FinishedAt"]))
    return datetime.datetime.now(datetime.UTC) - last > LONG_AGO


def moment(text: str) -> datetime.datetime:
    """A time as the Engine writes it, with nanoseconds."""
    return datetime.datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", text).replace("Z", "+00:00"))
