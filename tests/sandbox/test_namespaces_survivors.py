"""What one episode leaves behind is not there for the next: each way is tried, seen, and gone.

``inside/look.py`` prints all an agent can see. Every way to plant something runs in a sandbox; the
look then has to show it, or the attempt has to have been refused (no way may silently do nothing);
after ``recycle`` the look has to be that of a sandbox that never ran anything.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from turnwise.sandbox import Limits, MiB, Sandbox, SandboxSpec
from turnwise.sandbox.namespaces import NamespacesBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK = (Path(__file__).parent / "inside" / "look.py").read_text()
SPEC = SandboxSpec(Limits(output=16 * MiB))
PRELUDE = "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"

# What each plants, and the part of the look that shows it.
SEEN = {
    "a file": ("open('/workspace/left', 'w').write('x')", "file /workspace"),
    "a hidden file in /tmp": ("open('/tmp/.left', 'w').write('x')", "file /tmp"),
    "a file in the home directory": ("open('/root/.bashrc', 'w').write('echo left')", "file /root"),
    "a hard link": ("os.link('/etc/passwd', '/var/tmp/left')", "file /var/tmp"),
    "shared memory": ("open('/dev/shm/left', 'w').write('x')", "file /run/shm"),
    "another user": ("open('/etc/passwd', 'a').write('x:x:0:0::/:/bin/sh')", "file /etc/passwd"),
    "a preloaded library": ("open('/etc/ld.so.preload', 'w').write('')", "file /etc/ld.so.preload"),
    "a deleted system file": ("os.unlink('/etc/hosts')", "file /etc/hosts"),
    "a moved system file": ("os.rename('/etc/hosts', '/moved')", "file /moved"),
    "a mode": ("os.chmod('/', 0o777)", "file /"),
    "an extended attribute": ("os.setxattr('/etc', 'user.left', b'x')", "file /etc"),
    "a time": ("os.utime('/etc/group', (1, 1))", "file /etc/group"),
    "a full disk": ("os.posix_fallocate(os.open('/tmp/x', 66), 0, 200 << 20)", "disk"),
    "many inodes": ("[os.mkdir(f'/tmp/{n}') for n in range(2000)]", "disk"),
    "System V shared memory": ("libc.shmget(7, 4096, 0o1666)", "sysv shm"),
    "a System V semaphore": ("libc.semget(7, 1, 0o1666)", "sysv sem"),
    "a System V queue": ("libc.msgget(7, 0o1666)", "sysv msg"),
    "a POSIX queue": ("ctypes.CDLL('librt.so.1').mq_open(b'/left', 0o102, 0o666, None)", "mqueue"),
    "a port in TIME_WAIT": (
        "s = socket.create_server(('127.0.0.1', 5555)); a = socket.create_connection(('127.0.0.1', 5555)); "
        "b, _ = s.accept(); b.close(); a.recv(1); a.close()",
        "port",
    ),
}
# These never show in another command, or are refused: their own namespace or filter holds them.
UNSEEN = {
    "the time of a device": "os.utime('/dev/null', (1, 1))",
    "the time of a program": "open('/usr/bin/head', 'rb').read(); os.utime('/usr/bin/head')",
    "a key": "libc.syscall(248 if os.uname().machine == 'x86_64' else 217, b'user', b'left', b'x', 1, -4)",
    "a setting of the network": "open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('1111 2222')",
    "a setting of queues": "open('/proc/sys/kernel/msgmax', 'w').write('77')",
    "a host name": "libc.sethostname(b'left', 4)",
    "a slow init": "os.setpriority(os.PRIO_PROCESS, 1, 19); os.sched_setaffinity(1, {0})",
    "a terminal": "os.openpty()",
}
SHELL = r"""cd /tmp; export LEFT=1; alias ls=false; umask 077; ulimit -n 77; trap '' TERM HUP
python3 -c "
import os, signal, socket, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
listener = socket.create_server(('0.0.0.0', 6666))
local = socket.socket(socket.AF_UNIX); local.bind('\0left'); local.listen()
open('ready', 'w').close()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            if os.fork() == 0: time.sleep(0.01); os._exit(0)
            os.wait()
time.sleep(1000)" >/dev/null 2>&1 &
until [ -e ready ]; do sleep 0.01; done"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: NamespacesBackend) -> AsyncIterator[Sandbox]:
    async with await backend.create(SPEC) as created:
        yield created


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fresh(backend: NamespacesBackend) -> dict[str, Any]:
    """The look of a sandbox nobody used."""
    async with await backend.create(SPEC) as pristine:
        return await look(pristine)


async def look(sandbox: Sandbox) -> dict[str, Any]:
    result = await sandbox.exec(["python3", "-c", LOOK])
    assert result.exit_code == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


@pytest.mark.parametrize("way", SEEN)
async def test_what_was_seen_is_gone(sandbox: Sandbox, fresh: dict[str, Any], way: str) -> None:
    code, shown = SEEN[way]
    result = await sandbox.exec(["python3", "-c", PRELUDE + code], cwd="/")
    assert result.exit_code == 0, result
    assert any(key.startswith(shown) for key in differences(fresh, await look(sandbox)))
    await sandbox.recycle()
    assert differences(fresh, await look(sandbox)) == []


@pytest.mark.parametrize("way", UNSEEN)
async def test_what_was_not_seen_is_not_there(sandbox: Sandbox, fresh: dict[str, Any], way: str) -> None:
    await sandbox.exec(["python3", "-c", PRELUDE + UNSEEN[way]])
    await sandbox.recycle()
    assert differences(fresh, await look(sandbox)) == []


async def test_processes_sockets_and_the_shell_are_gone(sandbox: Sandbox, fresh: dict[str, Any]) -> None:
    assert (await sandbox.shell(SHELL)).exit_code == 0
    assert {"net tcp", "abstract", "file /tmp/ready"} <= {*differences(fresh, await look(sandbox))}
    await sandbox.recycle()
    assert differences(fresh, await look(sandbox)) == []
    state = await sandbox.shell("echo $PWD _$LEFT $(umask) $(jobs | wc -l) $(ulimit -n); type ls; trap")
    assert state.stdout == b"/workspace _ 0022 0 4096\nls is /usr/bin/ls\n"


async def test_another_sandbox_sees_nothing_of_it(
    backend: NamespacesBackend, sandbox: Sandbox, fresh: dict[str, Any]
) -> None:
    assert (await sandbox.shell(SHELL)).exit_code == 0
    for code, _ in SEEN.values():
        await sandbox.exec(["python3", "-c", PRELUDE + code], cwd="/")
    async with await backend.create(SPEC) as other:
        assert differences(fresh, await look(other)) == []
