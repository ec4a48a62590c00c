"""The resident of a container: what it adds to that of the namespaces backend.

On gVisor it keeps the agent's processes from running away too. For each of them that kernel takes threads
of the host's, and when they come and go by the hundred it takes ever more, until the Engine's bound on those
ends the sandbox. So when the agent has more processes than it may have, all of them end.
"""

from __future__ import annotations

import os
import socket
import time

from turnwise.sandbox.docker.inside.archive import pack, unpack
from turnwise.sandbox.docker.inside.launcher import Launcher
from turnwise.sandbox.docker.inside.tunnels import NETWORK, Tunnels
from turnwise.sandbox.namespaces import channel
from turnwise.sandbox.namespaces.cgroups import ROOT, V1, V2, Version
from turnwise.sandbox.namespaces.channel import Connection, Head
from turnwise.sandbox.namespaces.files import absolute
from turnwise.sandbox.namespaces.process import processes
from turnwise.sandbox.namespaces.resident import Resident

NOT_THE_AGENTS = 2
"""The container's init, and the resident."""
LOOK = 0.2
"""Seconds between two counts of processes, while there are any to count."""


class DockerResident(Resident):
    def __init__(self, connection: Connection, launcher: Launcher, orders: Head) -> None:
        version, counters = _counters()
        super().__init__(connection, launcher, {**orders, "cgroup_version": version}, counters)
        self._agent = launcher
        self._tops: list[str] = orders["writable"]
        self._tunnels = Tunnels(self._selector, self._tell)
        self._at_once |= {
            "unpack": unpack,
            "tunnel_data": self._tunnels.on_data,
            "tunnel_taken": self._tunnels.on_taken,
            "tunnel_end": self._tunnels.on_end,
        }
        self._later |= {"pack": self._pack}
        self._most: int | None = orders["limits"]["processes"] if orders["gvisor"] else None
        self._count, self._counted, self._crowded = 0, 0.0, False

    # ------------------------------------------------------------ on gVisor
    def _patience(self) -> float | None:
        patience = super()._patience()
        working = self._count > 1 or any(job.reply is not None for job in self._jobs.values())
        if self._most is None or not working:  # one may be an idle shell
            return patience
        return LOOK if patience is None else min(LOOK, patience)

    def _look_after(self) -> None:
        super()._look_after()
        now = time.monotonic()
        if self._most is not None and now >= self._counted + LOOK:
            inits = len(self._running())
            self._count, self._counted = len(processes()) - inits - NOT_THE_AGENTS, now
            crowded = self._count > self._most
            self._crowded = crowded or (self._crowded and inits > 0)  # until whose it was has been told
            if crowded:
                self._agent.end_agent()

    def _exhausted(self) -> str | None:
        crowded, self._crowded = self._crowded, False
        return "processes" if crowded else super()._exhausted()

    # ------------------------------------------------------------ to the owner
    def _tell(self, head: Head, body: bytes) -> None:
        channel.send(self._connection, {"id": 0, **head}, body)

    def _expose(self, head: Head) -> None:
        self._tunnels.listen(absolute(head["path"]))
        self._send(head["id"], {}, b"")

    def _open_network(self, head: Head) -> None:
        self._proxy = head["variables"]
        self._tunnels.add(NETWORK, socket.create_server(("127.0.0.1", head["port"])))
        self._send(head["id"], {}, b"")

    def _pack(self, head: Head, _: bytes) -> None:
        """The writable directories in parts, then the bytes they take. Nothing else is served meanwhile."""
        for entries, body in pack(self._tops):
            channel.send(self._connection, {"id": head["id"], "part": entries}, body)
        self._send(head["id"], {"size": sum(_used(top) for top in self._tops)}, b"")

    def _end_processes(self) -> int:
        count = super()._end_processes()
        self._agent.end_agent()  # whatever got away
        return count


def _used(top: str) -> int:
    space = os.statvfs(top)
    return (space.f_blocks - space.f_bfree) * space.f_bsize


def _counters() -> tuple[int | None, list[int]]:
    """The version of control groups, and the container's counters of what ran out, where it shows them."""
    number = 2 if os.path.exists(f"{ROOT}/cgroup.controllers") else 1
    version: Version = {1: V1, 2: V2}[number]
    paths = [os.path.join(ROOT, version.tops[top], file) for _, top, file, _ in version.counters]
    if not all(os.path.exists(path) for path in paths):
        return None, []
    return number, [os.open(path, os.O_RDONLY) for path in paths]
