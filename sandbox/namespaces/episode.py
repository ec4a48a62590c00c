"""An episode, as the hub has it: a resident, the layer it writes and its cgroup.

All three are made before anyone asks (a *spare*); what is left for the critical path is to fit them
to a sandbox's limits, root, ids and lower layers. What waits for the kernel at its end is left for the
hub's pauses.
"""

from __future__ import annotations

import os
import signal

from turnwise.sandbox.namespaces import bases
from turnwise.sandbox.namespaces.cgroups import V1, Cgroups
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.layers import Layer, hold, overlay, release
from turnwise.sandbox.namespaces.ranges import Range
from turnwise.sandbox.namespaces.stage import Stage, send_orders


class Episode:
    def __init__(self, name: str, stage: Stage, cgroups: Cgroups | None) -> None:
        self.root: str | None = None
        self.layers = [Layer(name)]
        hold(self.layers)
        self._group = cgroups.group(name, bases.HOST) if cgroups is not None else None
        self._version = None if cgroups is None else 1 if cgroups.version is V1 else 2
        self._pid, self._resident = stage.clone_resident()
        self._orders: Head = {}
        self._fds: list[int] = []
        self._gone = False

    def fit(self, limits: Head, root: str | None, lowers: list[Layer], ids: Range) -> None:
        """Make it one over ``lowers`` (top first). Nothing is read of them yet."""
        own, self.root = self.layers[0], root
        hold(lowers)
        self.layers += lowers
        own.fit(limits["disk"] - sum(layer.used() for layer in lowers), ids)
        ids.write_maps(self._pid)
        base = bases.base(root, ids, f"/proc/{self._pid}/ns/user")
        self._fds = [overlay(own, lowers, base, user=ids.single)]
        if root is not None:
            bases.complete(self._fds[0], ids)
        if self._group is not None:
            self._group.limit(limits)
        self._orders = {
            "limits": limits,
            "host_usr": root is None,
            "many_ids": not ids.single,
            "cgroup_version": self._version,
            "joins": len(self._group.joins) if self._group is not None else 0,
        }

    def begin(self, connection: int) -> None:
        """Let it serve the owner on ``connection``."""
        more = self._group.joins + self._group.counters if self._group is not None else []
        send_orders(self._resident, self._orders, [*self._fds, connection, *more])
        self._close()

    def kill(self) -> None:
        if not self._gone:
            os.kill(self._pid, signal.SIGKILL)

    def reap(self) -> None:
        """Wait for the end of a killed one: its PID 1 is gone only when every process in it is."""
        if not self._gone:
            os.waitpid(self._pid, 0)
            self._gone = True

    def _close(self) -> None:
        """The files that are the resident's from now on, or nobody's."""
        self._resident.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._group is not None:
            self._group.close()

    def clean(self) -> bool:
        """Let go of all a killed one had; False when that has to be tried again later.

        Its processes run nothing any more, but to end takes the kernel a moment.
        """
        self._close()
        if not self._gone:
            self._gone = os.waitpid(self._pid, os.WNOHANG)[0] != 0
            if not self._gone:
                return False
        release(self.layers)
        self.layers = []
        return self._group is None or self._group.remove()
