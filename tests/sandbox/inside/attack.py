"""Tries to get out, to reach the resident or to speak in its place. Prints what worked, one a line.

Runs inside, through ``exec`` and through the shell. It knows its own processes (itself and those
between it and the init that started it) and leaves them alone: the rest is not the agent's.
"""

import ctypes
import errno
import os
import signal
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
NEWUSER = 0x10000000
PTRACE_SEIZE = 0x4206


def attempt(name, action):
    """Report the attack unless it fails or brings nothing."""
    try:
        result = action()
    except (OSError, ValueError):
        return
    if result not in (None, -1, False, "", b"", []):
        print(name, flush=True)


def call(x86, arm, *arguments):
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return libc.syscall(x86 if X86 else arm, *wide)


def status(field, pid="self"):
    """A field of a process's status; 0 where the kernel, as gVisor's, has no such."""
    with open(f"/proc/{pid}/status") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith(field + ":")), "0")


def read(path):
    with open(path, "rb") as file:
        return file.read(4096)


def opened(path, flags):
    os.close(os.open(path, flags))
    return True


def made(*kind):
    socket.socket(*kind).close()
    return True


def own_processes():
    """This process and its ancestors below the init that started it."""
    own, pid = [], os.getpid()
    while pid > 1 and status("Name", pid) != "sandbox":
        own.append(pid)
        pid = int(status("PPid", pid))
    return own, pid


def in_child(action):
    """Whether an action that would change us for good works."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if action() in (0, None, True) else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def may_read_memory(pid):
    """Address 0 is no memory: who may read gets EFAULT, who may not EPERM."""
    buffer = ctypes.create_string_buffer(1)
    here, there = struct.pack("QQ", ctypes.addressof(buffer), 1), struct.pack("QQ", 0, 1)
    return call(310, 270, pid, here, 1, there, 1, 0) < 0 and ctypes.get_errno() == errno.EFAULT


def clone_user_namespace(*arguments):
    pid = call(*arguments)
    if pid == 0:
        os._exit(0)
    return pid > 0 and os.waitpid(pid, 0)[0] > 0


own, init = own_processes()
visible = [int(name) for name in os.listdir("/proc") if name.isdigit()]
attempt("sees other processes", lambda: [pid for pid in visible if pid not in (*own, init)])
attempt("has files it did not open", lambda: [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 3])
attempt(
    "has capabilities", lambda: any(int(status("Cap" + name), 16) for name in ("Eff", "Prm", "Bnd", "Amb"))
)
attempt("may gain privileges", lambda: libc.prctl(39, 0, 0, 0, 0) != 1)
attempt("runs unfiltered", lambda: status("Seccomp") != "2")

for pid in range(1, 300):
    if pid in own:
        continue
    attempt("lists another's files", lambda pid=pid: os.listdir(f"/proc/{pid}/fd"))
    attempt("opens another's memory", lambda pid=pid: opened(f"/proc/{pid}/mem", os.O_RDWR))
    attempt("reads another's environment", lambda pid=pid: read(f"/proc/{pid}/environ"))
    attempt("enters another's root", lambda pid=pid: os.listdir(f"/proc/{pid}/root/"))
    attempt("learns the host's paths", lambda pid=pid: b"/" in read(f"/proc/{pid}/cmdline"))
    attempt("writes another's settings", lambda pid=pid: opened(f"/proc/{pid}/oom_score_adj", os.O_WRONLY))
    attempt("may read another's memory", lambda pid=pid: may_read_memory(pid))
    attempt("takes another's file", lambda pid=pid: call(438, 438, os.pidfd_open(pid), 3, 0) >= 0)
    if pid != init:
        attempt("slows another down", lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 19) is None)
        attempt("signals another", lambda pid=pid: os.kill(pid, 0) is None)
for pid in visible:
    if pid not in own:  # by a child, whose end sets it free again
        attempt("traces another", lambda pid=pid: in_child(lambda: libc.ptrace(PTRACE_SEIZE, pid, 0, 0)))
if init == 1:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT):
        os.kill(init, number)  # reaches only our own init, which must not care

attempt("becomes the resident's user", lambda: in_child(lambda: os.setuid(65000)))
attempt("uncovers /proc", lambda: in_child(lambda: libc.umount2(b"/proc", 2)))
attempt("mounts", lambda: in_child(lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, 0)))
attempt("mounts by file descriptor", lambda: call(430, 430, b"tmpfs", 0) >= 0)
attempt("makes a user namespace", lambda: in_child(lambda: libc.unshare(NEWUSER)))
attempt(
    "clones into a user namespace",
    lambda: clone_user_namespace(56, 220, NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
)
attempt(
    "clones into one by clone3",
    lambda: clone_user_namespace(435, 435, struct.pack("11Q", NEWUSER, *[0] * 3, 17, *[0] * 6), 88),
)
attempt("enters a namespace", lambda: in_child(lambda: libc.setns(os.open("/proc/1/ns/mnt", 0), 0)))
attempt("changes root", lambda: in_child(lambda: os.chroot("/tmp")))
attempt("writes to /usr", lambda: os.stat("/usr").st_uid and opened("/usr/left", os.O_WRONLY | os.O_CREAT))
attempt("writes to /dev", lambda: opened("/dev/left", os.O_WRONLY | os.O_CREAT))
attempt("touches the host's device", lambda: os.utime("/dev/null", (1, 1)) is None)
attempt("makes a device", lambda: os.mknod("/workspace/sda", 0o60666, os.makedev(254, 0)) is None)
attempt("makes a whiteout", lambda: os.mknod("/workspace/white", 0o20666, 0) is None)
attempt("sets the core pattern", lambda: opened("/proc/sys/kernel/core_pattern", os.O_WRONLY))
attempt("presses magic keys", lambda: opened("/proc/sysrq-trigger", os.O_WRONLY))
attempt("reads kernel memory", lambda: opened("/proc/kcore", os.O_RDONLY))
attempt("drops the host's caches", lambda: opened("/proc/sys/vm/drop_caches", os.O_WRONLY))
attempt("stores a key", lambda: call(248, 217, b"user", b"left", b"x", 1, ctypes.c_long(-4)) > 0)
attempt("loads a BPF map", lambda: call(321, 280, 0, struct.pack("IIII", 2, 4, 4, 1), 16) >= 0)
attempt("uses io_uring", lambda: call(425, 425, 1, ctypes.create_string_buffer(120)) >= 0)
attempt("catches page faults", lambda: call(323, 282, 0) >= 0)
attempt("counts events", lambda: call(298, 241, ctypes.create_string_buffer(112), 0, -1, -1, 0) >= 0)
handle = ctypes.create_string_buffer(struct.pack("I", 128), 136)
attempt(
    "names a file's handle",
    lambda: call(303, 264, -100, b"/tmp", handle, ctypes.byref(ctypes.c_int()), 0) == 0,
)

with open("/proc/net/dev") as devices:
    attempt(
        "sees the host's network", lambda: [line for line in devices.readlines()[2:] if "lo:" not in line]
    )
for family in (3, 17, 31, 38, 40):
    attempt(
        f"has sockets of family {family}",
        lambda family=family: socket.socket(family, socket.SOCK_DGRAM).close() is None,
    )
attempt("speaks netlink audit", lambda: made(16, socket.SOCK_RAW, 9))
print("done")
