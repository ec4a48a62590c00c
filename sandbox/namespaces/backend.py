"""The owner's side of the hub: starting it, and making sandboxes and snapshots through it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

from turnwise.sandbox.contract import (
    Backend,
    BackendUnavailable,
    Probe,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.namespaces import probing
from turnwise.sandbox.namespaces.box import NamespacesSandbox, ShellState
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.link import Link

Defence = Literal[
    "nested_pid", "dumpable", "resident_uid", "capabilities", "no_new_privs", "seccomp", "network", "close_files"
]
"""One protection of the resident or the host, as tests take it away."""

START_DEADLINE = 20.0
REQUEST_DEADLINE = 60.0
BOOTSTRAP = Path(__file__).with_name("bootstrap.py")


def launch(config: Head) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a janitor; its process and our end of the connection to the hub."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(BOOTSTRAP), str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},  # nothing of ours: it may hold secrets
        )
    channel.send(mine, config)
    return process, mine


class NamespacesBackend(Backend):
    """``spares`` residents are kept ready. ``without`` is for tests of the defences only."""

    name = "namespaces"

    def __init__(self, *, spares: int = 2, without: frozenset[Defence] = frozenset()) -> None:
        self._config: Head = {"spares": spares, "without": sorted(without)}
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._boxes: dict[str, NamespacesSandbox] = {}
        self._snapshots: dict[str, ShellState | None] = {}

    @classmethod
    def probe(cls) -> Probe:
        return probing.probe(cls.name)

    @property
    def hub(self) -> Link:
        if self._link is None:
            raise SandboxDied("the namespaces backend is not running: start() it first")
        return self._link
