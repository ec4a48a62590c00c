"""The resident's process: its connection, its privileges, its loop."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import Any

from turnwise.sandbox.docker.inside.launcher import AGENT_ID, Launcher
from turnwise.sandbox.docker.inside.resident import DockerResident
from turnwise.sandbox.namespaces import channel, syscalls
from turnwise.sandbox.namespaces.channel import Head

CAPABILITIES = {
    syscalls.CAP_SETUID,
    syscalls.CAP_SETGID,
    syscalls.CAP_SETPCAP,  # empty the bounding set
    syscalls.CAP_KILL,  # end commands, which have another uid
}


class Pipes:
    """Standard input and output, used as a socket is."""

    def fileno(self) -> int:
        return 0

    def recvmsg(self, size: int, _: int = 0, /) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        return os.read(0, size), [], 0, None

    def sendmsg(self, buffers: Sequence[memoryview], _: Sequence[Any] = (), /) -> int:
        return os.write(1, buffers[0])

    def sendall(self, data: memoryview, /) -> None:
        while data:
            data = data[os.write(1, data) :]


def main() -> None:
    """Serve the owner, whose first frame says the limits and the environment of commands."""
    connection, decoder = Pipes(), channel.Decoder()
    orders: Head | None = None
    while orders is None:
        if not decoder.receive(connection):
            return
        orders = next((head for head, _, _ in decoder.frames()), None)
    try:
        syscalls.set_title("sandbox")
        _take_on_ids(orders["own"])
        resident = DockerResident(connection, Launcher(orders), orders)
    except OSError as error:
        channel.send(connection, {"id": 0, "fatal": str(error)})
        return
    gc.disable()
    channel.send(connection, {"id": 0, "ready": True})
    resident.run()


def _take_on_ids(own: Sequence[str]) -> None:
    """Touch files as the agent would, keep what ends its processes, and be out of its reach."""
    os.umask(0o022)
    for path in own:
        os.chown(path, AGENT_ID, AGENT_ID)  # no option of the mount, as podman knows no such
    syscalls.set_securebits(syscalls.SECURE_NO_SETUID_FIXUP)
    os.setgroups([])
    syscalls.set_capabilities(CAPABILITIES, CAPABILITIES | {syscalls.CAP_DAC_READ_SEARCH})
    syscalls.set_file_ids(AGENT_ID, AGENT_ID)
    syscalls.set_dumpable(False)
