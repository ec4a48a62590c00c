"""How a resident comes to be: cloned ahead of time, given its files when an episode needs it.

Cloning into seven new namespaces is the slow half (about 2 ms), so it is done before: the clone waits
on an empty stage with /proc, /dev and /usr. What makes it an episode's comes last, over a socket
pair: ids (the maps of its user namespace, written by the hub), root (a detached overlay mount),
cgroup and the connection to the owner. On that path there is no clone and no unmount, which waits
for an RCU grace period.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import socket
import struct

from turnwise.sandbox.namespaces import channel, process, syscalls
from turnwise.sandbox.namespaces.accounts import AGENT_ID, RESIDENT_ID, ROOT_CAPABILITIES
from turnwise.sandbox.namespaces.bases import HOST
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.resident import Resident
from turnwise.sandbox.namespaces.syscalls import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    mount,
    remount_bind,
)

STAGE, USR = "/stage", "/usr"
NAMESPACES = NEWUSER | NEWPID | NEWNS | NEWIPC | NEWUTS | NEWCGROUP


class Stage:
    """Where clones wait: a mount namespace of a dozen mounts, all there is to copy for each.

    The hub's own has hundreds (the host's, and one or two an episode), so it enters this one for the
    moment of cloning only.
    """

    def __init__(self, config: Head) -> None:
        self._config = config
        self._network = 0 if "network" in config["without"] else NEWNET
        self._outside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        syscalls.unshare(NEWNS)
        mount(f"{HOST}/usr", USR, None, MS_BIND)
        syscalls.umount(HOST)
        self._inside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        self._leave()

    def _leave(self) -> None:
        syscalls.set_namespace(self._outside, NEWNS)

    def clone_resident(self) -> tuple[int, socket.socket]:
        """A process that waits; its pid and the socket to give it its orders by."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        syscalls.set_namespace(self._inside, NEWNS)
        try:
            pid = syscalls.clone(NAMESPACES | self._network)
            if pid == 0:
                _become(theirs, self._config)
        finally:
            self._leave()
            theirs.close()
        return pid, mine


def send_orders(resident: socket.socket, orders: Head, fds: list[int]) -> None:
    """Make it an episode's. ``fds``: root, connection, then as ``orders`` counts them."""
    socket.send_fds(resident, [json.dumps(orders).encode()], fds)


def _become(hub: socket.socket, config: Head) -> None:
    """In the child, for ever."""
    connection = None
    try:
        _close_all_but(hub.fileno())
        _prepare(config)
        raw, fds, _, _ = socket.recv_fds(hub, 1 << 16, 16)
        if not raw:
            os._exit(0)
        hub.close()
        orders = json.loads(raw)
        root, channel_fd, *rest = fds
        connection = socket.socket(fileno=channel_fd)
        _enter(root, config, orders)
        gc.disable()  # it would only unshare pages with the hub
        joins, counters = rest[: orders["joins"]], rest[orders["joins"] :]
        resident = Resident(connection, process.Launcher(config, orders, joins), orders, counters)
        channel.send(connection, {"id": 0, "ready": True})
        resident.run()
    except BaseException as error:  # noqa: BLE001  # this process has no caller: the owner is told
        if connection is not None:
            channel.send(connection, {"id": 0, "fatal": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(1)


def _close_all_but(keep: int) -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd != keep:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


def _prepare(config: Head) -> None:
    """All that needs neither ids nor files."""
    syscalls.set_securebits(syscalls.SECURE_NO_SETUID_FIXUP)  # keep capabilities across uid changes
    mount(STAGE, STAGE, None, MS_BIND)  # a mount of our own: inherited ones are locked
    mount("proc", f"{STAGE}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if "network" not in config["without"]:
        syscalls.write_file(f"{STAGE}/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
    mount("/dev", f"{STAGE}/dev", None, MS_BIND | MS_REC)
    # Read-only and with the devices read-only too: a touch of /dev/null would change the host's.
    remount_bind(f"{STAGE}/dev", MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    mount(USR, f"{STAGE}/usr", None, MS_BIND)
    remount_bind(f"{STAGE}/usr", MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(STAGE)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".")  # the hub's tree is gone from here
    os.chdir("/")
    syscalls.set_hostname("sandbox")
    if "network" not in config["without"]:
        with socket.socket() as sock:  # bring the loopback interface up
            fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))
    os.umask(0o022)
    if "title" not in config["without"]:
        syscalls.set_title("sandbox")


def _enter(root: int, config: Head, orders: Head) -> None:
    """Take on root directory and ids."""
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,max=64")
    syscalls.move_mount(root, "/root")
    os.close(root)
    for name in ("proc", "dev", "usr") if orders["host_usr"] else ("proc", "dev"):
        mount(f"/{name}", f"/root/{name}", None, MS_MOVE)
    os.chdir("/root")
    mount(".", "/", None, MS_MOVE)  # as switch_root does; below lies the empty stage
    os.chroot(".")
    os.chdir("/")
    if orders["many_ids"]:
        os.setgroups([])
        uid = AGENT_ID if "resident_uid" in config["without"] else RESIDENT_ID
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        syscalls.set_file_ids(AGENT_ID, AGENT_ID)
    kept = process.RESIDENT_CAPABILITIES
    syscalls.set_capabilities(kept, kept | {syscalls.CAP_DAC_READ_SEARCH} | ROOT_CAPABILITIES)
    syscalls.set_dumpable("dumpable" in config["without"])
