"""The contract of every backend, first part: commands. (Files, the shell, a sandbox's life: see beside.)

Commands say relative paths: not every backend shows them the workspace as ``/workspace``.
"""

from __future__ import annotations

import asyncio
import sys
import textwrap

import pytest

from tests.sandbox.conftest import with_time
from turnwise.sandbox import Backend, ExecResult, Limits, MiB, Sandbox, SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOLD = """
import fcntl, os, time
if os.fork():
    while not os.path.exists("held"): time.sleep(0.01)
    os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for n in range(3): os.close(n)
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
open("held", "w").close()
time.sleep(1000)
"""
"""Starts a daemon, in a session of its own and an orphan, that holds a lock as long as it lives."""

SIGNALS = {"TERM": 15, "KILL": 9, "INT": 2, "QUIT": 3, "HUP": 1, "PIPE": 13}

LOCK = "import fcntl; fcntl.flock(open('lock'), fcntl.LOCK_EX{})"


async def lock_is_free(sandbox: Sandbox) -> bool:
    return (await sandbox.exec(["python3", "-c", LOCK.format(" | fcntl.LOCK_NB")])).exit_code == 0


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_the_exit_code_is_the_commands(sandbox: Sandbox, code: int) -> None:
    assert await sandbox.exec(f"exit {code}") == ExecResult(code, b"", b"")


async def test_what_the_owner_ignores_is_not_ignored_inside(any_backend: Backend) -> None:
    """As when a server was started with ``nohup`` in the background."""
    program = (
        "import asyncio, signal, sys\n"
        "from turnwise.sandbox import SandboxSpec, backend\n"
        "async def main():\n"
        "    async with backend(sys.argv[1]).running() as made, await made.create(SandboxSpec()) as box:\n"
        "        for name in ('HUP', 'INT', 'QUIT'):\n"
        "            print((await box.exec(f'kill -{name} $$')).exit_code)\n"
        "        print((await box.shell('trap')).stdout)\n"
        "for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", program, any_backend.name, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert told.decode().split() == ["129", "130", "131", "b''"]


@pytest.mark.parametrize(("signal", "number"), SIGNALS.items())
async def test_a_signal_shows_in_the_exit_code(sandbox: Sandbox, signal: str, number: int) -> None:
    result = await sandbox.exec(f"kill -{signal} $$")
    assert (result.exit_code, result.timed_out) == (128 + number, False)


async def test_a_program_that_is_not_there_is_a_result(sandbox: Sandbox) -> None:
    for command in ("no-such-program", ["no-such-program", "x"], ["./no-such-program"]):
        result = await sandbox.exec(command)
        assert result.exit_code == 127
        assert b"no-such-program" in result.stderr


async def test_a_file_that_is_no_program_is_a_result(sandbox: Sandbox) -> None:
    await sandbox.write("data", b"no program", mode=0o644)
    assert (await sandbox.exec(["./data"])).exit_code == 126


async def test_the_streams_come_apart(sandbox: Sandbox) -> None:
    result = await sandbox.exec("echo out; echo err >&2")
    assert result == ExecResult(0, b"out\n", b"err\n")


async def test_an_argument_list_is_not_interpreted(sandbox: Sandbox) -> None:
    result = await sandbox.exec(["printf", "%s|", "$HOME", "*", "a b", "", 'q"\\', "ünïcödé"])
    assert result.stdout.decode() == '$HOME|*|a b||q"\\|ünïcödé|'


@pytest.mark.parametrize("command", [[], "echo \0", ["echo", "a\0b"]])
async def test_an_impossible_command_is_refused(sandbox: Sandbox, command: str | list[str]) -> None:
    with pytest.raises(ValueError, match="command"):
        await sandbox.exec(command)


async def test_binary_data_goes_in_and_out(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 2000
    assert (await sandbox.exec("cat", stdin=data)).stdout == data


async def test_without_input_there_is_an_end_of_file(sandbox: Sandbox) -> None:
    assert await sandbox.exec("cat; echo end") == ExecResult(0, b"end\n", b"")


async def test_input_that_is_not_read_does_no_harm(sandbox: Sandbox) -> None:
    assert (await sandbox.exec("true", stdin=bytes(MiB))).exit_code == 0


async def test_each_stream_is_cut_at_the_limit(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(output=1000))) as sandbox:
        result = await sandbox.exec("head -c 300000 /dev/zero; printf 123 >&2")
        assert result == ExecResult(0, bytes(1000), b"123", truncated=True)
        result = await sandbox.exec("head -c 1000 /dev/zero; head -c 300000 /dev/zero >&2")
        assert result == ExecResult(0, bytes(1000), bytes(1000), truncated=True)
        assert not (await sandbox.exec("head -c 1000 /dev/zero")).truncated


async def test_variables_are_added_to_a_minimal_environment(sandbox: Sandbox) -> None:
    result = await sandbox.exec(["env"], env={"ADDED": "a b\nc", "LANG": "other"})
    assert b"ADDED=a b\nc\n" in result.stdout
    assert b"LANG=other\n" in result.stdout
    assert b"PATH=" in result.stdout
    assert b"ADDED" not in (await sandbox.exec("env")).stdout


async def test_the_owners_environment_stays_outside(
    any_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_TOKEN", "hunter2")
    async with type(any_backend)().running() as backend, await backend.create(SandboxSpec()) as sandbox:
        for run in (sandbox.exec, sandbox.shell):
            assert b"hunter2" not in (await run("env; cat /proc/self/environ /proc/$$/environ")).stdout


async def test_a_command_starts_where_it_is_told(sandbox: Sandbox) -> None:
    await sandbox.write("/workspace/a/b/here", b"found")
    assert (await sandbox.exec("cat a/b/here")).stdout == b"found"
    assert (await sandbox.exec("cat here", cwd="/workspace/a/b")).stdout == b"found"
    assert (await sandbox.exec("cat b/here", cwd="a")).stdout == b"found"


async def test_a_directory_to_start_in_has_to_be_there(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"")
    with pytest.raises(FileNotFoundError):
        await sandbox.exec("true", cwd="/workspace/absent")
    with pytest.raises(NotADirectoryError):
        await sandbox.exec("true", cwd="/workspace/file")


async def test_a_timeout_is_a_result_with_what_was_printed(sandbox: Sandbox) -> None:
    result = await with_time(
        lambda seconds: sandbox.exec("echo early; sleep 1000", timeout=seconds), lambda result: result.stdout
    )
    assert result == ExecResult(137, b"early\n", b"", timed_out=True)


async def test_a_timeout_ends_what_ignores_signals(sandbox: Sandbox) -> None:
    result = await sandbox.exec("trap '' TERM INT HUP; echo deaf; while :; do sleep 1; done", timeout=0.5)
    assert (result.exit_code, result.timed_out) == (137, True)


@pytest.mark.needs("end of daemons")
async def test_a_daemon_ends_with_its_command(sandbox: Sandbox) -> None:
    await sandbox.write("hold.py", HOLD.encode())
    assert (await sandbox.exec("python3 hold.py")).exit_code == 0
    await sandbox.stat("held")
    assert await lock_is_free(sandbox)


@pytest.mark.needs("end of daemons")
async def test_a_daemon_ends_with_a_command_that_times_out(sandbox: Sandbox) -> None:
    await sandbox.write("hold.py", HOLD.encode())
    command = "python3 hold.py; echo held; sleep 1000"
    result = await with_time(
        lambda seconds: sandbox.exec(command, timeout=seconds), lambda result: result.stdout
    )
    assert result.timed_out
    await sandbox.stat("held")
    assert await lock_is_free(sandbox)


async def test_a_background_job_does_not_hold_its_command_up(sandbox: Sandbox) -> None:
    result = await sandbox.exec("sleep 1000 & echo started")
    assert result == ExecResult(0, b"started\n", b"")


@pytest.mark.needs("end of daemons")
async def test_cancelling_ends_the_command(sandbox: Sandbox) -> None:
    await sandbox.write("hold.py", HOLD.encode())
    command = asyncio.create_task(sandbox.exec("python3 hold.py; echo > begun; sleep 1000"))
    await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert (await sandbox.exec(["python3", "-c", LOCK.format("")])).exit_code == 0


async def test_commands_run_at_the_same_time(sandbox: Sandbox) -> None:
    await sandbox.exec("mkfifo one two")
    ping, pong = await asyncio.gather(
        sandbox.exec("echo ping > one; cat two"), sandbox.exec("cat one; echo pong > two")
    )
    assert (ping.stdout, pong.stdout) == (b"pong\n", b"ping\n")


async def test_many_commands_keep_their_outputs_apart(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.exec(f"echo {n}; exit {n}") for n in range(20)))
    assert [(result.exit_code, int(result.stdout)) for result in results] == [(n, n) for n in range(20)]


async def test_files_of_commands_and_of_calls_are_the_same_users(sandbox: Sandbox) -> None:
    await sandbox.write("dir/called", b"")
    await sandbox.exec("touch dir/run")
    await sandbox.shell("touch dir/typed")
    look = r"find . -printf '%U %G\n'; echo $(id -u) $(id -g)"
    owners = (await sandbox.exec(look)).stdout.splitlines()
    assert len(owners) == 6
    assert len(set(owners)) == 1
    await sandbox.delete("dir")


async def test_sandboxes_do_not_share_files(any_backend: Backend) -> None:
    async with (
        await any_backend.create(SandboxSpec()) as one,
        await any_backend.create(SandboxSpec()) as two,
    ):
        await one.write("mine", b"1")
        assert one.id != two.id
        assert await two.list("/workspace") == ()


async def test_a_file_cannot_outgrow_its_limit(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(file_size=MiB))) as sandbox:
        result = await sandbox.exec("head -c 3000000 /dev/zero > big")
        assert result.exit_code != 0
        assert result.limit in ("file_size", None)
        assert (await sandbox.stat("big")).size <= MiB


@pytest.mark.needs("memory limit of a command")
async def test_a_process_cannot_outgrow_the_memory_limit(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(memory=100 * MiB))) as sandbox:
        result = await sandbox.exec(["python3", "-c", "print(len(b'x' * (300 << 20)))"])
        assert result.exit_code != 0
        assert result.stdout == b""
        assert result.limit in ("memory", None)
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.needs("memory limit")
async def test_processes_together_cannot_outgrow_the_memory_limit(any_backend: Backend) -> None:
    hogs = textwrap.dedent("""
        import os
        until, held = os.pipe()
        told = []
        for n in range(5):
            got, tell = os.pipe()
            if os.fork() == 0:
                os.close(held)
                memory = bytearray(b"x") * (40 << 20)
                os.write(tell, b"x")
                os.read(until, 1)
                os._exit(0)
            os.close(tell)
            told.append(got)
        for got in told:
            os.read(got, 1)  # it has its memory, or has been killed already
        os.close(held)
        print(sum(os.wait()[1] == 0 for _ in told))
    """)
    async with await any_backend.create(SandboxSpec(Limits(memory=100 * MiB))) as sandbox:
        result = await sandbox.exec(["python3", "-c", hogs])
        assert result.stdout in (b"", b"0\n", b"1\n", b"2\n", b"3\n", b"4\n")  # or all of it was killed
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.needs("process limit")
async def test_processes_cannot_outnumber_their_limit(any_backend: Backend) -> None:
    many = textwrap.dedent("""
        import os, time
        for n in range(64):
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
        print("all")
    """)
    async with await any_backend.create(SandboxSpec(Limits(processes=32))) as sandbox:
        result = await sandbox.exec(["python3", "-c", many])
        assert result.exit_code != 0
        assert result.stdout == b""
        assert result.limit in ("processes", None)
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.needs("process limit")
async def test_a_fork_bomb_ends_with_its_command(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(processes=48))) as sandbox:
        bomb = "bomb() { bomb | bomb & }; bomb & exec sleep 1000"  # exec, as there may be no process left
        result = await sandbox.exec(["sh", "-c", bomb], timeout=2.0)
        assert (result.exit_code, result.limit) in ((137, "processes"), (137, None))
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"
        assert (await sandbox.shell("echo alive")).stdout == b"alive\n"
