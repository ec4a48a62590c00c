"""What is particular to the process backend: its paths, its keeper, and what it says it lacks."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sandbox.conftest import cancelled
from turnwise.sandbox import SandboxDied, SandboxSpec
from turnwise.sandbox.process import ProcessBackend
from turnwise.sandbox.process.sandbox import ProcessSandbox

HOLDER = """
import fcntl, os, sys, time
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_SH)
if "daemon" in sys.argv:
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    for n in range(3): os.close(n)
lock.write("x"); lock.flush()
time.sleep(1000)
"""
"""Shares a lock for as long as it lives and adds a byte to the file when it has it."""


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody adopts orphans")


async def until_free(lock: Path) -> None:
    """Wait until nobody holds a lock any more."""
    with lock.open() as file:
        await asyncio.wait_for(asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX), 60)


async def until_held(lock: Path, holders: int) -> None:
    """Wait until so many have a lock."""

    def watch() -> None:
        end = time.monotonic() + 60
        while lock.stat().st_size < holders:
            assert time.monotonic() < end
            time.sleep(0.01)

    await asyncio.to_thread(watch)


async def until_opened(pipe: str) -> None:
    """Open a pipe and close it, once somebody waits to read it."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def backend() -> AsyncIterator[ProcessBackend]:
    async with ProcessBackend().running() as running:
        yield running


@pytest.fixture
async def sandbox(backend: ProcessBackend) -> AsyncIterator[ProcessSandbox]:
    async with await backend.create(SandboxSpec()) as created:
        yield created


async def test_it_says_loudly_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    lost = ProcessBackend.probe().lost
    assert {"file system isolation", "network isolation", "process isolation", "user isolation"} <= set(lost)
    async with ProcessBackend().running():
        (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
        assert all(protection in record.getMessage() for protection in lost)


@pytest.mark.parametrize("path", ["/etc/passwd", "/", "../outside", "/workspace/../../etc", "/workspaces"])
async def test_a_path_outside_the_workspace_is_refused_with_the_reason(
    sandbox: ProcessSandbox, path: str
) -> None:
    for call in (sandbox.read, sandbox.list, sandbox.stat, sandbox.delete, sandbox.search, sandbox.read_tree):
        with pytest.raises(PermissionError, match="outside /workspace") as error:
            await call("x", path) if call == sandbox.search else await call(path)
        assert error.value.filename == path
    with pytest.raises(PermissionError, match="outside /workspace"):
        await sandbox.write(path, b"")
    with pytest.raises(PermissionError, match="outside /workspace"):
        await sandbox.exec("true", cwd=path)


async def test_an_error_names_the_sandboxes_path_not_the_machines(sandbox: ProcessSandbox) -> None:
    with pytest.raises(FileNotFoundError) as error:
        await sandbox.read("/workspace/absent")
    assert error.value.filename == "/workspace/absent"
    assert str(sandbox.directory) not in str(error.value)


async def test_the_workspace_itself_stays(sandbox: ProcessSandbox) -> None:
    with pytest.raises(PermissionError, match="recycle"):
        await sandbox.delete("/workspace")
    assert await sandbox.list("/workspace") == ()


async def test_another_root_is_refused(backend: ProcessBackend, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"spec\.root"):
        await backend.create(SandboxSpec(root=tmp_path))


async def test_home_is_the_workspace_and_temporary_files_are_the_sandboxes(sandbox: ProcessSandbox) -> None:
    result = await sandbox.exec('cd && pwd && cd "$TMPDIR" && pwd')
    home, temporary = result.stdout.decode().split()
    assert [home, temporary] == [str(sandbox.root), str(sandbox.directory / "tmp")]


async def test_the_shell_shows_the_status_of_the_command_before(sandbox: ProcessSandbox) -> None:
    await sandbox.shell("(exit 7)")
    assert (await sandbox.shell("echo $?")).stdout == b"7\n"


async def test_without_bash_the_shell_is_sh(
    sandbox: ProcessSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    await sandbox.shell("kept='a\\n\nb'; export LANG=x; cd ..")
    assert (await sandbox.shell("if then (")).exit_code == 2
    assert (await sandbox.shell('printf %s "$kept$LANG${PWD##*/}"')).stdout == b"a\\n\nbxprocess-1"
    assert (await sandbox.shell("exit 3")).exit_code == 3


async def test_a_pattern_that_takes_for_ever_is_ended_and_nobody_waits(
    sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sandbox.write("file", b"a" * 100 + b"b")
    search = asyncio.create_task(sandbox.search("(a+)+$"))
    assert (await sandbox.exec("echo meanwhile")).stdout == b"meanwhile\n"
    assert not search.done()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    monkeypatch.setattr("turnwise.sandbox.process.sandbox.SEARCH_TIMEOUT", 0.2)
    with pytest.raises(ValueError, match=r"pattern: .* takes longer than 0.2 s"):
        await sandbox.search("(a+)+$")


async def test_an_endpoint_may_have_a_longer_path_than_a_socket_address(
    sandbox: ProcessSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        server.listen()
        await sandbox.expose(folder / "s", "api.sock")
        await sandbox.expose(folder / "s", "api.sock")
        connect = "import socket; socket.socket(socket.AF_UNIX).connect('api.sock')"
        assert (await sandbox.exec(["python3", "-c", connect])).exit_code == 0
    (folder / "file").touch()
    with pytest.raises(ConnectionRefusedError, match="not a socket"):
        await sandbox.expose(folder / "file", "file.sock")


@linux
async def test_killing_the_init_of_a_command_kills_the_command(
    sandbox: ProcessSandbox, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    await sandbox.write("holder.py", HOLDER.encode())
    script = f"python3 holder.py {lock} & until [ -s {lock} ]; do sleep 0.01; done; kill -9 $PPID; sleep 1000"
    result = await sandbox.exec(script)
    assert (result.exit_code, result.timed_out) == (137, False)
    await until_free(lock)
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


SLOW = """
import os, sys
from turnwise.sandbox.process.keeper import commands
commands.PATIENCE = 0.0
script = "for n in 1 2 3; do sleep 1000 & done; exit 7"
outrun = lambda: print("outrun", flush=True)
print(*commands.init(lambda: commands.execute(["sh", "-c", script], os.environ, "/", {}), outrun))
"""


@linux
async def test_a_command_that_ends_slowly_is_not_taken_for_one_that_forks_faster_than_it_is_killed() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SLOW, stdout=PIPE)
    assert (await process.communicate())[0] == b"7 3\n"


@linux
@pytest.mark.parametrize("cycles", [1, 2])
async def test_a_cancelled_close_leaves_no_files(backend: ProcessBackend, cycles: int) -> None:
    sandbox = await backend.create(SandboxSpec())
    await sandbox.write("file", b"x")
    await cancelled(sandbox.close(), cycles)
    assert not await asyncio.to_thread(sandbox.directory.exists)


async def test_without_its_keeper_the_backend_is_dead_and_cleans_up(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    async with ProcessBackend().running() as backend:
        sandbox = await backend.create(SandboxSpec())
        await sandbox.write("holder.py", HOLDER.encode())
        command = asyncio.create_task(sandbox.exec(f"python3 holder.py {lock}"))
        await until_held(lock, 1)
        assert backend.keeper is not None
        backend.keeper.send_signal(signal.SIGKILL)
        with pytest.raises(SandboxDied):
            await command
        with pytest.raises(SandboxDied):
            await sandbox.read("holder.py")
        with pytest.raises(SandboxDied):
            await backend.create(SandboxSpec())
        await until_free(lock)
    assert not sandbox.directory.parent.exists()


OWNER = """
import asyncio, os, sys, time
from turnwise.sandbox import SandboxSpec
from turnwise.sandbox.process import ProcessBackend

async def main():
    async with ProcessBackend().running() as backend:
        sandbox = await backend.create(SandboxSpec())
        print(sandbox.directory.parent, flush=True)
        await sandbox.write("holder.py", sys.argv[2].encode())
        if "forking" in sys.argv and os.fork() == 0:  # as the workers of a data loader are
            for n in range(3): os.close(n)
            os.mkfifo(sys.argv[1] + ".end")
            os._exit(open(sys.argv[1] + ".end").fileno())
        start = f"python3 holder.py {sys.argv[1]}"
        await sandbox.shell(f"{start} & {start} daemon")
        await sandbox.exec(f"{start} daemon; {start}")

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["alone", "forking"])
async def test_when_the_owner_is_killed_nothing_is_left(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    command = [sys.executable, "-c", OWNER, str(lock), HOLDER, kind]
    owner = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert owner.stdout is not None
    directory = (await owner.stdout.readline()).decode().strip()
    await until_held(lock, 4)
    owner.kill()
    await until_free(lock)
    await asyncio.wait_for(owner.communicate(), 60)  # the keeper, who has its streams too, has ended
    assert os.path.isabs(directory)
    assert not await asyncio.to_thread(os.path.exists, directory)
    if kind == "forking":  # its fork lived till now
        await until_opened(f"{lock}.end")
