"""Whether namespaces work on this machine: by starting one sandbox in them and ending it."""

from __future__ import annotations

import dataclasses
import os
import platform
import socket

from turnwise.sandbox.contract import Limits, Probe
from turnwise.sandbox.namespaces import channel
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.launch import launch, wait

_DEADLINE = 60.0
_NAMESPACES = (
    "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 "
    "kernel.apparmor_restrict_unprivileged_userns=0), or run as root; start a container --privileged"
)
_KERNEL = "use Linux 6.8 or newer (overlayfs's lowerdir+, id-mapped tmpfs)"
_CGROUPS = "mount /sys/fs/cgroup writable, with the memory, cpu and pids controllers enabled at its top"


def remedy(failure: str) -> str:
    """What to do about the message of a failed start."""
    return _KERNEL if "overlay" in failure or "id-mapped" in failure else _NAMESPACES


def probe(name: str) -> Probe:
    if platform.system() != "Linux":
        return Probe(name, False, f"namespaces are Linux's, this is {platform.system()}")
    try:
        hub = _try()
    except OSError as error:
        return Probe(name, False, f"namespaces cannot be used here ({error})", remedy(str(error)))
    root = os.geteuid() == 0
    detail = f"Linux {platform.release()}, as {'root' if root else 'an ordinary user'}"
    lost, better = [], ""
    if not hub["cgroups"]:
        lost = ["memory limit of the whole (each process has its own)", "processor limit"]
        better = _CGROUPS if root else "run as root"
    if not root:
        lost += ["user ids of its own for each sandbox", "other users than the agent"]
    return Probe(name, True, detail, better, tuple(lost))


def _try() -> Head:
    """Start a hub and one sandbox; what the hub said of itself. Raises ``OSError``."""
    process, connection = launch({"spares": 0, "without": []})
    mine, theirs = socket.socketpair()
    try:
        with connection, mine, theirs:
            hub = _news(connection)
            limits = dataclasses.asdict(Limits())
            create = {
                "id": 1,
                "op": "create",
                "box": "probe",
                "limits": limits,
                "root": None,
                "snapshot": None,
            }
            channel.send(connection, create, fds=[theirs.fileno()])
            _news(connection)
            theirs.close()
            _news(mine)
            return hub
    finally:
        wait(process)


def _news(sock: socket.socket) -> Head:
    """The next frame."""
    sock.settimeout(_DEADLINE)
    decoder = channel.Decoder()
    while True:
        alive = decoder.receive(sock)
        for head, _, _ in decoder.frames():
            if "fatal" in head:
                raise OSError(head["fatal"])
            if "error" in head:
                error = head["error"]
                raise OSError(" ".join(part for part in (error["message"], error.get("path")) if part))
            return head
        if not alive:
            raise OSError("the far side ended without a word")
