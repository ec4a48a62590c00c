"""Judges from this side: one nursery for the process, started with its first grading.

The nursery sees the end of its socket when this process ends, however that comes about.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from turnwise.envs.swe.grading.machines import GradingError

_lock = threading.Lock()
_nurseries: list[Nursery] = []


def start(folder: str, control: socket.socket, complaints: int) -> int:
    """A judge for a grading; its process id, which leads a group. Blocks for a moment.

    Raises :class:`GradingError` where none can be started.
    """
    with _lock:
        for nursery in [one for one in _nurseries if one.pid != os.getpid() or not one.alive]:
            _nurseries.remove(nursery)  # of the process that we were forked from, or killed
        if not _nurseries:
            _nurseries.append(Nursery())
        return _nurseries[0].judge(folder, control.fileno(), complaints)


class Nursery:
    """The process that judges are forked from."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(Path(__file__).with_name("bootstrap.py")),
                 "judge.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], start_new_session=True, cwd="/", env=_environment(),
            )  # fmt: skip
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """It can fork another."""
        return self._process.poll() is None

    def judge(self, folder: str, control: int, complaints: int) -> int:
        """Fork one."""
        try:
            socket.send_fds(self._socket, [os.fsencode(folder)], [control, complaints])
            answer = self._socket.recv(64)
        except OSError as error:
            raise GradingError(f"no judge could be started: {error}") from error
        if not answer:
            raise GradingError(f"no judge could be started: pytest cannot be loaded by {sys.executable}")
        return int(answer)

    def close(self) -> None:
        """End it; judges end with their gradings."""
        if self.pid == os.getpid():
            self._socket.close()
            self._process.wait()


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
