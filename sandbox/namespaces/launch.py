"""Starting and ending the far side's first process, the janitor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from turnwise.sandbox.namespaces import channel
from turnwise.sandbox.namespaces.channel import Head

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_END_DEADLINE = 60.0


def launch(config: Head) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A new janitor, and our end of the connection to its hub. Raises ``OSError``."""
    mine, theirs = socket.socketpair()
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_BOOTSTRAP), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},  # nothing of ours: it may hold secrets
            )
    except OSError:
        mine.close()
        raise
    channel.send(mine, config)
    return process, mine


def wait(process: subprocess.Popen[bytes]) -> None:
    """Until the janitor, told by the end of its connection, has cleaned up and gone."""
    try:
        process.wait(_END_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()  # its hub dies with it; the cgroups are swept by the next start
        process.wait()
