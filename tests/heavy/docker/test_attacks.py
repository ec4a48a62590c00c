"""Agent code against its container, against the resident, and against the limits of both."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.sandbox.conftest import with_time
from turnwise.sandbox import ExecResult, LimitExceeded, Limits, MiB, Sandbox, SandboxSpec
from turnwise.sandbox.docker import DockerBackend

pytestmark = pytest.mark.asyncio(loop_scope="session")

ATTACK = Path(__file__).parents[2] / "sandbox" / "inside" / "attack.py"
KNOWN = {"sees other processes", "learns the host's paths", "makes a whiteout"}
"""What the probe declares lost; the paths are the kit's, and a whiteout means nothing on a tmpfs."""

ON_GVISOR = {
    "lists another's files",  # and cannot open them
    "reads another's environment",  # what the agent has too
    "slows another down",  # its kernel keeps that number and heeds it not
    "makes a device",  # there are only its kernel's, such as /dev/null
}

FORGE = r"""
import os, sys
frame = b'\x00\x00\x00\x1d\x00\x00\x00\x00{"id": 2, "info": "forged"}  '
piece = b'\x01\x00\x00\x00' + len(frame).to_bytes(4, 'big') + frame
reached = []
for pid in [name for name in os.listdir('/proc') if name.isdigit()]:
    with open(f'/proc/{pid}/status') as file:
        if f'Uid:\t{os.getuid()}\t' in file.read():
            continue
    for fd in range(20):
        for what in (f'/proc/{pid}/fd/{fd}', f'/proc/{pid}/fdinfo/{fd}'):
            try:
                status = os.stat(what)
                if status.st_uid == os.getuid() or status.st_mode & 0o002:
                    continue  # which gVisor shows: a pipe of the agent's, and /dev/null
                with open(what, 'wb', buffering=0) as file:
                    file.write(piece)
                reached.append(what)
            except OSError:
                pass
    for number in (0, 9, 15, 19):
        try:
            os.kill(int(pid), number)
            reached.append(pid)
        except OSError:
            pass
os.write(1, frame + piece)
os.write(2, frame + piece)
sys.exit(len(reached))
"""

SMALL_AND_MANY = """
import os
open('/proc/self/oom_score_adj', 'w').write('0')  # as likely to be killed as the resident
while True:
    try:
        if os.fork():
            continue
    except OSError:
        continue
    held = bytearray(3 << 20)
    while True:
        held[::4096] = held[::4096]
"""

FILL = """
import os, time
try:
    while os.fork():
        pass
except OSError:
    open('full', 'w').close()
time.sleep(1000)
"""

CHAINS = """
import os
for n in range(30):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                pass
"""


async def overstepped(command: Awaitable[ExecResult]) -> str | None:
    """The bound that ended a command, or the sandbox with it."""
    try:
        return (await command).limit
    except LimitExceeded as error:
        return error.resource


@pytest.mark.parametrize("way", ["exec", "shell"])
async def test_no_attack_works_but_what_is_declared(
    backend: DockerBackend, sandbox: Sandbox, way: str
) -> None:
    await sandbox.write("attack.py", ATTACK.read_bytes())
    run = sandbox.exec if way == "exec" else sandbox.shell
    lines = (await run("python3 attack.py")).stdout.decode().splitlines()
    assert lines[-1:] == ["done"]
    assert set(lines[:-1]) <= KNOWN | (ON_GVISOR if backend.runtime == "runsc" else set())
    assert (await sandbox.exec("echo up")).stdout == b"up\n"


async def test_nothing_can_speak_in_the_residents_place(sandbox: Sandbox) -> None:
    await sandbox.write("forge.py", FORGE.encode())
    for run in (sandbox.exec, sandbox.shell):
        result = await run("python3 forge.py")
        assert (result.exit_code, b"forged" in result.stdout) == (0, True)
        assert (await sandbox.stat("forge.py")).kind == "file"


async def test_what_forks_faster_than_it_is_killed_ends(backend: DockerBackend) -> None:
    async with await backend.create(SandboxSpec(Limits(processes=200))) as sandbox:
        await sandbox.exec(["python3", "-c", CHAINS], timeout=20)
        names = (await sandbox.exec("cat /proc/[0-9]*/comm")).stdout
        assert b"python" not in names


async def test_a_fork_bomb_is_the_agents_fault(backend: DockerBackend) -> None:
    async with await backend.create(SandboxSpec(Limits(processes=40))) as sandbox:
        bomb = ["bash", "-c", "bomb() { bomb | bomb & }; bomb & exec sleep 1000"]
        result = await with_time(
            lambda seconds: sandbox.exec(bomb, timeout=seconds), lambda result: result.limit
        )
        assert (result.timed_out, result.limit) == (True, "processes")
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_processes_of_the_shell_may_leave_none_for_a_command(backend: DockerBackend) -> None:
    """However many places the resident has beyond the limit: the agent's processes take them all."""
    async with await backend.create(SandboxSpec(Limits(processes=20))) as sandbox:
        await sandbox.write("fill.py", FILL.encode())
        await sandbox.shell("python3 fill.py & until [ -e full ]; do :; done")
        with pytest.raises(LimitExceeded) as error:
            await sandbox.exec("true")
        assert error.value.resource == "processes"
        assert await sandbox.read("full") == b""


async def test_a_command_that_runs_out_of_memory_is_told_apart(backend: DockerBackend) -> None:
    async with await backend.create(SandboxSpec(Limits(memory=64 * MiB))) as sandbox:
        for _ in range(2):
            result = await sandbox.exec(["python3", "-c", "b'x' * (500 << 20)"])
            assert (result.exit_code, result.limit) == (137, "memory")
        assert await sandbox.exec("echo alive") == ExecResult(0, b"alive\n", b"")


async def test_taking_the_resident_along_is_the_agents_fault_too(backend: DockerBackend) -> None:
    async with await backend.create(SandboxSpec(Limits(memory=64 * MiB, processes=200))) as sandbox:
        assert await overstepped(sandbox.exec(["python3", "-c", SMALL_AND_MANY], timeout=300)) is not None
        await sandbox.recycle()
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_files_without_number_do_not_end_the_sandbox_as_ours(backend: DockerBackend) -> None:
    many = "import itertools\nfor n in itertools.count(): open(f'/tmp/{n}', 'w').close()"
    async with await backend.create(SandboxSpec(Limits(memory=64 * MiB, disk=16 * MiB))) as sandbox:
        assert await overstepped(sandbox.exec(["python3", "-c", many], timeout=300)) in ("memory", "disk")
