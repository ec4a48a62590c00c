"""The contract of every backend, second part: the persistent shell."""

from __future__ import annotations

import asyncio

import pytest

from tests.sandbox.conftest import with_time
from turnwise.sandbox import Backend, ExecResult, Limits, Sandbox, SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_shell_keeps_directory_variables_and_functions(sandbox: Sandbox) -> None:
    await sandbox.shell("mkdir -p a/b; cd a/b; plain=1; export exported=2; greet() { echo hello $1; }")
    result = await sandbox.shell("echo ${PWD##*/a/} $plain $exported; greet you; sh -c 'echo $exported'")
    assert result == ExecResult(0, b"b 1 2\nhello you\n2\n", b"")


async def test_the_shell_starts_in_the_workspace(sandbox: Sandbox) -> None:
    await sandbox.write("/workspace/here", b"found")
    assert (await sandbox.shell("cat here")).stdout == b"found"


async def test_both_streams_come_in_the_order_written(sandbox: Sandbox) -> None:
    result = await sandbox.shell("echo 1; echo 2 >&2; echo 3")
    assert result == ExecResult(0, b"1\n2\n3\n", b"")


async def test_the_status_is_the_last_commands(sandbox: Sandbox) -> None:
    assert (await sandbox.shell("false")).exit_code == 1
    assert (await sandbox.shell("sh -c 'exit 7'")).exit_code == 7
    assert (await sandbox.shell("true")).exit_code == 0


async def test_a_script_of_many_lines_runs_as_written(sandbox: Sandbox) -> None:
    script = "for n in 1 2\ndo\n  echo \"$n\\\\\"\ndone\ncat <<'END'\na\\nb $x 'q'\nEND\n# end"
    assert (await sandbox.shell(script)).stdout == b"1\\\n2\\\na\\nb $x 'q'\n"


async def test_a_long_script_with_unicode_runs(sandbox: Sandbox) -> None:
    text = "äöü→ " * 20000
    assert (await sandbox.shell(f"printf %s '{text}' | wc -c")).stdout.strip() == b"%d" % len(text.encode())


async def test_a_syntax_error_does_not_end_the_shell(sandbox: Sandbox) -> None:
    await sandbox.shell("kept=1")
    result = await sandbox.shell("if then (")
    assert result.exit_code != 0
    assert b"yntax error" in result.stdout
    assert (await sandbox.shell("echo $kept")).stdout == b"1\n"


async def test_what_waits_for_input_gets_none(sandbox: Sandbox) -> None:
    assert (await sandbox.shell("read line; cat")).exit_code == 0


async def test_a_background_job_lives_from_call_to_call(sandbox: Sandbox) -> None:
    await sandbox.shell("mkfifo pipe; (cat pipe > got; echo done > finished) &")
    result = await sandbox.shell("echo message > pipe; wait; cat got finished")
    assert result.stdout == b"message\ndone\n"


async def test_exit_ends_the_shell_and_the_next_call_starts_another(sandbox: Sandbox) -> None:
    await sandbox.shell("kept=1; cd /")
    assert (await sandbox.shell("echo bye; exit 5")) == ExecResult(5, b"bye\n", b"")
    await sandbox.write("here", b"back")
    assert (await sandbox.shell("echo _$kept; cat here")).stdout == b"_\nback"


async def test_one_command_at_a_time(sandbox: Sandbox) -> None:
    await sandbox.shell("mkfifo pipe")
    first = asyncio.create_task(sandbox.shell("echo > begun; cat pipe"))
    await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    with pytest.raises(RuntimeError, match="running"):
        await sandbox.shell("echo second")
    await sandbox.exec("echo released > pipe")
    assert (await first).stdout == b"released\n"


async def test_a_timeout_ends_the_shell_and_its_jobs(sandbox: Sandbox) -> None:
    async def run(seconds: float) -> ExecResult:
        await sandbox.shell("kept=1; sleep 1000 & echo $! > pid")
        return await sandbox.shell("echo early; sleep 1000", timeout=seconds)

    result = await with_time(run, lambda result: result.stdout)
    assert result == ExecResult(137, b"early\n", b"", timed_out=True)
    result = await sandbox.shell("echo _$kept; kill -0 $(cat pid) 2>/dev/null || echo gone")
    assert result.stdout == b"_\ngone\n"


async def test_cancelling_ends_the_shell(sandbox: Sandbox) -> None:
    await sandbox.shell("kept=1")
    command = asyncio.create_task(sandbox.shell("echo > begun; sleep 1000"))
    await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert (await sandbox.shell("echo _$kept")).stdout == b"_\n"


async def test_output_is_cut_at_the_limit(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(output=1000))) as sandbox:
        result = await sandbox.shell("head -c 300000 /dev/zero")
        assert result == ExecResult(0, bytes(1000), b"", truncated=True)
        assert await sandbox.shell("echo next") == ExecResult(0, b"next\n", b"")


async def test_a_nul_cannot_smuggle_in_a_second_script(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="NUL"):
        await sandbox.shell("echo one\0echo two")


async def test_shells_of_two_sandboxes_are_apart(any_backend: Backend) -> None:
    async with (
        await any_backend.create(SandboxSpec()) as one,
        await any_backend.create(SandboxSpec()) as two,
    ):
        await asyncio.gather(one.shell("name=one"), two.shell("name=two"))
        results = await asyncio.gather(one.shell("echo $name"), two.shell("echo $name"))
        assert [result.stdout for result in results] == [b"one\n", b"two\n"]
