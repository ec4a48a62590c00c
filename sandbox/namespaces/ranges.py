"""User ids: every lineage of sandboxes has 65,536 of its own.

A lineage is a sandbox with the snapshots and forks that descend from it: they share files, so they
share ids. Two unrelated sandboxes share none, so that even code that left its namespaces would own
nothing of the others.

As root the ranges come from the machine's ids from 0x70000000 on (above those that distributions
and systemd hand out), in blocks of 256 ranges. A block is leased by binding an abstract Unix socket
named after it: two hubs never hold the same one, and the kernel ends the lease with the hub.
An ordinary user has one id to map, so there all sandboxes share it.
"""

from __future__ import annotations

import errno
import socket

from turnwise.sandbox.namespaces.syscalls import write_file

SIZE = 1 << 16
BLOCK_RANGES = 256
FIRST, BLOCKS = 0x70000000, 128


class Range:
    """Ids ``base`` to ``base + size``, as its layers hold on to it."""

    def __init__(self, pool: Pool, base: int, size: int) -> None:
        self._pool, self.base, self.size = pool, base, size
        self.refs = 0
        self.bases: dict[tuple[int, int], str] = {}
        """Where each root (device, inode) is mounted with these ids; kept for the next lineage."""

    @property
    def single(self) -> bool:
        """Whether it is the one id of an ordinary user."""
        return self.size == 1

    def release(self) -> None:
        self.refs -= 1
        if self.refs == 0 and not self.single:
            self._pool.free.append(self)

    def write_maps(self, pid: int) -> None:
        """Map ids 0... of a process's new user namespace to this range."""
        if self.single:
            write_file(f"/proc/{pid}/setgroups", "deny")
        for kind in ("uid", "gid"):
            write_file(f"/proc/{pid}/{kind}_map", f"0 {self.base} {self.size}")


class Pool:
    """The ranges of one hub."""

    def __init__(self, root: bool) -> None:
        self._root = root
        self._leases: list[socket.socket] = []
        self.free: list[Range] = []
        self._single = Range(self, 0, 1)

    def take(self) -> Range:
        """A range nobody uses, or as an ordinary user the only one. The caller counts references."""
        if not self._root:
            return self._single
        if not self.free:
            base = self._lease_block()
            self.free = [Range(self, base + n * SIZE, SIZE) for n in reversed(range(BLOCK_RANGES))]
        return self.free.pop()

    def _lease_block(self) -> int:
        for block in range(BLOCKS):
            lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                lease.bind(f"\0turnwise-uids-{block}")
            except OSError as error:
                lease.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._leases.append(lease)
            return FIRST + block * BLOCK_RANGES * SIZE
        raise OSError(errno.EUSERS, f"all {BLOCKS} blocks of user ids are in use on this machine")
