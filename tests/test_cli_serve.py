"""``turnwise serve``: a real environment in real sandboxes, and nothing left when it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import offspring, until_ended
from turnwise import connect
from turnwise.cli import run
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.client import RemoteEnvs
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.folder import own_folder
from turnwise.envs.serving.journal import read_journal
from turnwise.envs.types import Action, Step, call
from turnwise.sandbox.backends import probes

BACKENDS = [probe.backend for probe in probes() if probe.available]
DESK = "tools/configdesk"
TOKEN = "not-to-be-shown"


@asynccontextmanager
async def started(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command in a process of its own, and a group."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-c",
            "from turnwise.cli import main; main()",
            "serve",
            DESK,
            "--port",
            "0",
            *words,
        ),
        env={**os.environ, "TURNWISE_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(300):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def served(*words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The same, and the line that it begins with."""
    async with started(*words) as process:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode()


async def demonstrate(seed: int) -> tuple[list[Action], list[Step]]:
    """What the oracle does here, and what comes of it."""
    actions, steps = [], []
    async with LocalEnvs(backend=BACKENDS[0], capacity=1) as envs, envs.open(DESK, seed=seed) as env:
        await env.reset()
        while env.end is None:
            action = await env.env.oracle()
            assert action is not None
            actions.append(action)
            steps.append(timeless(await env.step(action)))
    return actions, steps


def timeless(step: Step) -> Step:
    assert step.record is not None
    return step.model_copy(update={"record": step.record.model_copy(update={"seconds": 0.0})})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_desk_is_solved_on_a_server_which_leaves_nothing_when_stopped(number: int) -> None:
    actions, expected = await demonstrate(seed=4)
    async with served("--backend", BACKENDS[0], "--drain", "0.1") as (process, line):
        assert DESK in line
        assert TOKEN not in line
        url = line.split(" at ")[1].split(";")[0]
        async with connect(url, token=TOKEN) as envs, envs.open(DESK, seed=4) as env:
            await env.reset()
            assert [timeless(await env.step(action)) for action in actions] == expected
            assert env.score == 1.0
            async with envs.open(DESK, seed=5) as other:
                await other.reset()
                below = offspring(process.pid)
                assert below
                process.send_signal(number)
                output, errors = await process.communicate()
        assert (process.returncode, output) == (0, b"")
        assert b"Error" not in errors
        await asyncio.to_thread(until_ended, below)


async def test_what_was_acknowledged_before_a_kill_is_in_the_journal_and_comes_out_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions, _ = await demonstrate(seed=4)
    words = ("--backend", BACKENDS[0], "--journal", str(tmp_path), "--lease", "0")
    async with served(*words) as (process, line):
        url = line.split(" at ")[1].split(";")[0]
        async with connect(url, token=TOKEN) as envs, envs.open(DESK, seed=4) as env:
            await env.reset()
            for action in actions[:-1]:
                await env.step(action)
            process.kill()
            with pytest.raises(ServerFailed):
                await env.step(actions[-1])
    name = env.info.session
    assert len(read_journal(tmp_path, name)) == len(actions) + 1
    words = ("replay", name, "--journal", str(tmp_path), "--backend", BACKENDS[0])
    assert await asyncio.to_thread(run, words) == 0
    assert f"{len(actions)} calls came out as the journal says" in capsys.readouterr().out


async def until_refused(envs: RemoteEnvs) -> ServerFailed:
    """Open sessions until the server takes in no more."""
    while True:
        try:
            async with envs.open(DESK):
                pass
        except ServerFailed as refused:
            return refused


async def test_sigterm_lets_sessions_end_and_a_second_one_does_not_wait() -> None:
    for patient in (True, False):
        async with served("--backend", BACKENDS[0], "--drain", "500") as (process, line):
            url = line.split(" at ")[1].split(";")[0]
            async with connect(url, token=TOKEN) as envs, envs.open(DESK, seed=4) as env:
                await env.reset()
                process.terminate()
                refused = await until_refused(envs)
                assert (refused.code, refused.retry_after) == (Code.DRAINING, 5.0)
                assert (await env.step(call("check"))).done is False
                if not patient:
                    process.terminate()
                    await process.wait()
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tools/confgdesk"], "did you mean 'tools/configdesk'?"),
        ([DESK, "--host", "0.0.0.0"], "TURNWISE_TOKEN"),
        ([DESK, "--host", "0.0.0.0", "--token", ""], "token"),
        (["swe/sample", "--backend", "process"], "swe/sample: its tasks refuse backend 'process'"),
        (["swe/tasks"], "say where the tasks are, as in swe/tasks?path=FOLDER"),
        (["swe/tasks?path=absent", "--workers", "2"], "'absent': there is no such file"),
        ([DESK, "--sessions", "0"], "sessions=0"),
        ([DESK, "--workers", "100000", "--sessions", "100000"], "workers=100000: must be at most 256"),
        ([DESK, "--patience", "nan"], "'nan' is no number of seconds"),
        ([DESK, "--lease", "inf"], "'inf' is no number of seconds"),
        ([DESK, "--host", "a..b", "--token", "x"], "cannot listen on a..b"),
        ([DESK, "--token-file", "absent"], "absent: No such file"),
        ([DESK, "--token-file", "."], "token file .: Is a directory"),
        ([DESK, "--token-file", sys.executable], "is no text"),
        ([DESK, "--journal", sys.executable], "is a file; name a folder"),
        ([DESK, "--journal", sys.executable, "--workers", "2"], "is a file; name a folder"),
        ([DESK, "--tls-cert", ".", "--tls-key", "."], "certificate ."),
        ([DESK, "--tls-cert", __file__, "--tls-key", __file__], "no PEM files that belong together"),
        ([DESK, "--tls-cert", "cert.pem"], "--tls-key"),
        ([DESK, "--tls-cert", "absent.pem", "--tls-key", "absent.pem"], "absent.pem"),
        ([DESK, "--backend", "dcoker"], "namespaces"),
        ([DESK, "--session-memory", "much"], "'much' is no size"),
        ([DESK, "--session-memory", "1KiB"], "session_memory=1024: must be at least 1MiB"),
        ([], "ENV"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TURNWISE_TOKEN", raising=False)
    assert run(["serve", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--host", "0.0.0.0"], ["--token-file", "absent"]])
def test_a_token_that_was_forgotten_is_not_the_same_as_none(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNWISE_TOKEN", "")
    assert run(["serve", DESK, *words]) == 2
    assert capsys.readouterr().err.startswith("error: TURNWISE_TOKEN is empty: put a token into it")


def folders(place: str) -> list[Path]:
    return sorted(Path(place).glob("turnwise-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_many_workers_start_ends_them_without_a_word(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as place:  # tmp_path is long for a socket
        monkeypatch.setenv("TMPDIR", place)
        async with started("--workers", "256", "--sessions", "256") as process:
            while not folders(place):  # noqa: ASYNC110 - another process makes it, and starts workers then
                await asyncio.sleep(0.01)
            os.killpg(process.pid, number)  # as a terminal does
            output, errors = await process.communicate()
        assert (process.returncode, output, errors) == (0, b"", b"")
        assert folders(place) == []


async def test_what_a_killed_server_left_is_removed_by_the_next_and_what_a_live_one_has_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", place)
        with own_folder() as live:
            async with served("--workers", "2") as (killed, _):
                (left,) = set(folders(place)) - {live}
                killed.kill()
                await killed.wait()
            assert set(folders(place)) == {live, left}
            async with served("--workers", "2"):
                (own,) = set(folders(place)) - {live}
                assert own != left
        assert folders(place) == [own]


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", DESK, "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


WITHOUT_AIOHTTP = """
import asyncio, sys
from turnwise import UsageError, connect
from turnwise.cli import run

async def call():
    async with connect("http://127.0.0.1:1"):
        pass

sys.modules["aiohttp"] = None
try:
    asyncio.run(call())
except UsageError as error:
    print(error)
print(run(["serve", "tools/configdesk"]))
"""


def test_without_aiohttp_the_extra_is_named() -> None:
    command = [sys.executable, "-c", WITHOUT_AIOHTTP]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'turnwise[server]'" in result.stdout
    assert result.stdout.endswith("\n2\n")
    assert result.stderr == "error: serve needs aiohttp: pip install 'turnwise[server]'\n"
