"""The system calls the standard library has no function for, each raising ``OSError``.

``PyDLL`` keeps the interpreter lock across a call: nothing else may run between ``clone`` and the
interpreter's own after-fork work. The far side is single-threaded, so nobody waits.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Set

libc = ctypes.PyDLL(None, use_errno=True)

_X86 = platform.machine() == "x86_64"
_CLONE, _PIVOT_ROOT, _CAPGET, _CAPSET = (56, 155, 125, 126) if _X86 else (220, 41, 90, 91)
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR, _OPENAT2 = (
    428,
    429,
    430,
    431,
    432,
    442,
    437,
)

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_EMPTY_PATH, _CLOEXEC = 2, -100, 0x1000, 0x80000
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6

SECURE_NOROOT, SECURE_NO_SETUID_FIXUP, SECURE_LOCKED = 0x1, 0x4, 0xA
_CAP_HEADER = struct.pack("II", 0x20080522, 0)
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID = 0, 1, 2, 3, 4
CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 5, 6, 7, 8, 21


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def clone(flags: int) -> int:
    """``os.fork`` into new namespaces, in one step; ``unshare(NEWPID)`` would cost a second fork."""
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid: int = libc.syscall(_CLONE, ctypes.c_ulong(flags | signal.SIGCHLD), 0, 0, 0, 0)
    number = ctypes.get_errno()
    (api.PyOS_AfterFork_Child if pid == 0 else api.PyOS_AfterFork_Parent)()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid


def unshare(flags: int) -> None:
    _check(libc.unshare(flags), "unshare")


def set_namespace(fd: int, kind: int) -> None:
    """Enter the namespace that ``fd`` is; of mounts, at its root directory."""
    _check(libc.setns(fd, kind), "setns")


# ------------------------------------------------------------------ mounts
def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    arguments = (_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data))
    _check(libc.mount(*arguments), f"mount {kind or source} on {target}")


def remount_bind(target: str, flags: int) -> None:
    """Change the flags of one mount point only."""
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags)


def umount(target: str) -> None:
    _check(libc.umount2(_bytes(target), _MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    _check(libc.syscall(_PIVOT_ROOT, _bytes(new), _bytes(old)), f"pivot_root {new}")


def open_tree(path: str) -> int:
    """A detached copy of the mount at ``path``."""
    return _check(libc.syscall(_OPEN_TREE, _AT_FDCWD, _bytes(path), 1 | _CLOEXEC), f"open_tree {path}")


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount."""
    _check(libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, _bytes(target), 4), f"move_mount to {target}")


def idmap(tree: int, user_namespace: int, flags: int) -> None:
    """Show the files of a detached mount with the ids that a user namespace maps theirs to."""
    attributes = struct.pack("QQQQ", 0x100000 | flags, 0, 0, user_namespace)
    result = libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    _check(result, "mount_setattr (id-mapped mount)")


def detached_mount(kind: str, options: list[tuple[str, str | None]], flags: int) -> int:
    """A new file system as a detached mount. Options one by one: a joined string ends at 255 bytes."""
    context = _check(libc.syscall(_FSOPEN, _bytes(kind), 1), f"fsopen {kind}")
    try:
        for key, value in options:
            command = _SET_FLAG if value is None else _SET_STRING
            result = libc.syscall(_FSCONFIG, context, command, _bytes(key), _bytes(value), 0)
            _check(result, f"{kind} option {key}={value}")
        _check(libc.syscall(_FSCONFIG, context, _CREATE, None, None, 0), f"create {kind}")
        return _check(libc.syscall(_FSMOUNT, context, 1, flags), f"fsmount {kind}")
    finally:
        os.close(context)


# ------------------------------------------------------------------ privileges
def _prctl(operation: int, first: int = 0, second: int = 0) -> int:
    result: int = libc.prctl(operation, *map(ctypes.c_ulong, (first, second, 0, 0)))
    return result


def set_securebits(bits: int) -> None:
    """Nothing on gVisor, which has none."""
    if _prctl(27) >= 0:
        _check(_prctl(28, bits), "set securebits")


def set_dumpable(on: bool) -> None:
    """Whether others of the same uid may ptrace us and open our /proc/PID/{fd,mem,environ}."""
    _check(_prctl(4, on), "set dumpable")


def set_title(title: str) -> None:
    """What ``ps`` shows, for this process and what it forks: not the paths and pids of its arguments."""
    with open("/proc/self/stat") as file:
        start, end = map(int, file.read().rpartition(")")[2].split()[45:47])
    if end > start:  # gVisor does not tell
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, title.encode(), min(len(title), end - start - 1))
    name = ctypes.create_string_buffer(title.encode())
    _check(_prctl(15, ctypes.addressof(name)), "set process name")


def die_with_parent() -> None:
    """Be killed when the parent *thread* ends: only for children of single-threaded processes."""
    _check(_prctl(1, signal.SIGKILL), "set parent-death signal")


def set_no_new_privs() -> None:
    _check(_prctl(38, 1), "set no_new_privs")


def set_seccomp(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    buffer = ctypes.create_string_buffer(fprog, len(fprog))
    _check(_prctl(22, 2, ctypes.addressof(buffer)), "set seccomp filter")


def drop_bounding_set(kept: Set[int] = frozenset()) -> None:
    for capability in range(64):
        if capability not in kept and _prctl(24, capability) < 0:
            return  # past the last one this kernel has


def capabilities() -> tuple[set[int], set[int]]:
    """The effective and the permitted ones."""
    header, sets = ctypes.create_string_buffer(_CAP_HEADER), ctypes.create_string_buffer(24)
    _check(libc.syscall(_CAPGET, header, sets), "capget")
    low_effective, low_permitted, _, high_effective, high_permitted, _ = struct.unpack("6I", sets)
    effective, permitted = low_effective | high_effective << 32, low_permitted | high_permitted << 32
    return _numbers(effective), _numbers(permitted)


def _numbers(mask: int) -> set[int]:
    return {number for number in range(64) if mask >> number & 1}


def set_capabilities(effective: Set[int], permitted: Set[int]) -> None:
    masks = [sum(1 << number for number in numbers) for numbers in (effective, permitted)]
    low, high = ([mask >> shift & 0xFFFFFFFF for mask in masks] for shift in (0, 32))
    _check(libc.syscall(_CAPSET, _CAP_HEADER, struct.pack("6I", *low, 0, *high, 0)), "capset")


def set_file_ids(uid: int, gid: int) -> None:
    """The ids that file accesses are made with; the process keeps its real and saved ones, and its rights."""
    libc.setfsgid(gid)
    if libc.setfsuid(uid) == -1:  # gVisor has it not; effective ids take the capabilities along
        kept = capabilities()
        os.setegid(gid)
        os.seteuid(uid)
        set_capabilities(*kept)


def set_hostname(name: str) -> None:
    raw = name.encode()
    _check(libc.sethostname(raw, len(raw)), "sethostname")


def open_beneath_links(path: str, flags: int, mode: int = 0) -> int:
    """``os.open`` that refuses the magic links of /proc (ELOOP): they lead to the opener's own files."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, 0x02)
    result: int = libc.syscall(_OPENAT2, _AT_FDCWD, _bytes(path), how, len(how))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def write_file(path: str, text: str) -> None:
    """One write to an existing file, as files of /proc and of cgroups want it."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
