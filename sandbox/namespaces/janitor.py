"""The janitor: parent of the hub. It outlives the owner by milliseconds and leaves nothing.

It watches the owner through a pidfd (the kernel's parent-death signal follows a thread, not a
process). When the owner or the hub is gone it kills the hub, which as PID 1 takes every process and
mount with it, and then removes the cgroups.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket

from turnwise.sandbox.namespaces import cgroups, channel, syscalls
from turnwise.sandbox.namespaces.cgroups import Cgroups
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.hub import Hub
from turnwise.sandbox.namespaces.syscalls import NEWNS, NEWPID, NEWUSER, write_file


def main(fd: int, owner: int) -> None:
    """Serve the owner (a pid, our parent's) whose end of a socket pair is at ``fd``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    watch = os.pidfd_open(owner)
    if os.getppid() != owner:
        return  # it died before we looked
    connection = socket.socket(fileno=fd)
    decoder = channel.Decoder()
    config: Head | None = None
    while config is None:
        if not decoder.receive(connection):
            return
        config = next((head for head, _, _ in decoder.frames()), None)
    config["root"] = os.geteuid() == 0
    if "title" not in config["without"]:
        syscalls.set_title("sandbox-janitor")
    groups = None
    try:
        groups = _cgroups(config)
        child = _start_hub(connection, config, groups, watch)
    except OSError as error:
        channel.send(connection, {"id": 0, "fatal": str(error)})
    else:
        connection.close()
        select.select([watch, child], [], [])
        signal.pidfd_send_signal(child, signal.SIGKILL)
        os.waitid(os.P_PIDFD, child, os.WEXITED)
    finally:
        if groups is not None:
            groups.remove()


def _cgroups(config: Head) -> Cgroups | None:
    version = cgroups.detect() if config["root"] else None
    return None if version is None else Cgroups(version)


def _start_hub(connection: socket.socket, config: Head, groups: Cgroups | None, watch: int) -> int:
    """The hub's pidfd. It waits for its ids before it does anything."""
    uid, gid = os.geteuid(), os.getegid()
    ready, go = os.pipe()
    pid = syscalls.clone(NEWNS | NEWPID | (0 if config["root"] else NEWUSER))
    if pid == 0:
        try:
            os.close(go)
            os.close(watch)
            syscalls.die_with_parent()  # the janitor has one thread, so this is safe here
            os.read(ready, 1)
            os.close(ready)
            if not config["root"]:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
            if "title" not in config["without"]:
                syscalls.set_title("sandbox-hub")
            gc.freeze()
            Hub(connection, config, groups).serve()
        except BaseException as error:  # noqa: BLE001  # this process has no caller: the owner is told
            channel.send(connection, {"id": 0, "fatal": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(1)
    if not config["root"]:
        write_file(f"/proc/{pid}/setgroups", "deny")
        write_file(f"/proc/{pid}/uid_map", f"0 {uid} 1")
        write_file(f"/proc/{pid}/gid_map", f"0 {gid} 1")
    os.close(ready)
    os.write(go, b"x")
    os.close(go)
    return os.pidfd_open(pid)
