"""Prints all that an agent can see of its sandbox, as JSON. Runs inside."""

import ctypes
import glob
import hashlib
import json
import os
import resource
import socket
import stat

seen = {}
libc = ctypes.CDLL(None, use_errno=True)
# Made anew with each episode, so their times differ.
YOUNG = {"/", "/dev", "/dev/pts", "/dev/pts/ptmx"}


def look_at(path):
    status = os.lstat(path)
    mode, body, attributes = status.st_mode, "", {}
    if stat.S_ISLNK(mode):
        body = os.readlink(path)
    else:
        attributes = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            body = hashlib.sha1(file.read()).hexdigest()
    links = 0 if stat.S_ISDIR(mode) else status.st_nlink
    time = 0 if path in YOUNG else status.st_mtime_ns
    seen["file " + path] = [mode, status.st_uid, links, time, body, attributes]


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        return error.strerror


def bind(port):
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror
        return "free"


for top, directories, files in os.walk("/"):
    if top == "/":
        directories[:] = [name for name in directories if name not in ("proc", "usr")]
    look_at(top)
    for name in files + [name for name in directories if os.path.islink(os.path.join(top, name))]:
        look_at(os.path.join(top, name))
for path in ("/usr/bin/head", "/dev/null", "/dev/zero"):
    status = os.stat(path)
    seen["times " + path] = [status.st_atime_ns, status.st_mtime_ns]
space = os.statvfs("/")
seen["disk"] = [space.f_blocks, space.f_bfree, space.f_files, space.f_ffree]
for kind in ("shm", "sem", "msg"):
    seen["sysv " + kind] = read(f"/proc/sysvipc/{kind}").count("\n") - 1
seen["mqueue"] = ctypes.CDLL("librt.so.1").mq_open(b"/left", 0) >= 0
seen["processes"] = sorted(read(path) for path in glob.glob("/proc/[0-9]*/comm"))
for kind in ("tcp", "udp", "unix"):
    seen["net " + kind] = read(f"/proc/net/{kind}").count("\n")
for path in glob.glob("/proc/sys/net/ipv4/ip*") + glob.glob("/proc/sys/net/core/*"):
    seen["sysctl " + path] = read(path)
for path in glob.glob("/proc/sys/kernel/[sm][hesg][mgs]*") + glob.glob("/proc/sys/user/*"):
    seen["sysctl " + path] = read(path)
seen["port"] = bind(5555)
with socket.socket(socket.AF_UNIX) as sock:
    seen["abstract"] = sock.connect_ex("\0left")
seen["key"] = libc.syscall(
    250 if os.uname().machine == "x86_64" else 219, 10, ctypes.c_long(-4), b"user", b"left", 0
)
seen["host"] = socket.gethostname()
seen["umask"] = os.umask(0o22)
seen["nice"] = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, 1)]
seen["processors"] = [sorted(os.sched_getaffinity(pid)) for pid in (0, 1)]
seen["environment"] = dict(os.environ)
seen["directory"] = os.getcwd()
seen["limits"] = {
    name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")
}
print(json.dumps(seen))
