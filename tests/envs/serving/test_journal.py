"""The journal: on disk before the reply, readable after a crash, and a replay that finds drift."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise import connect
from turnwise.cli import run
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import EnvSpec, register
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.journal import Journal, Opened, Stepped, read_journal
from turnwise.envs.serving.replay import Replay, replay
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import (
    AgentView,
    EndReason,
    EpisodeLimits,
    FinishAction,
    Task,
    TaskPublic,
    TaskRef,
    call,
    text,
)


@register
class Drifting(Env):
    """A counter that can be made to count otherwise."""

    name = "test/drifting"
    limits = EpisodeLimits(turns=50)
    extra = 0

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 10)

    async def reset(self, task: Task) -> AgentView:
        self.sum = task.rng.randint(0, 99)
        return text(f"{self.sum}")

    @tool
    async def add(self, n: int) -> str:
        """Add."""
        self.sum += n + (self.extra if n == 7 else 0)
        return f"{self.sum > 50}"

    async def grade(self) -> float:
        return float(self.sum % 2)

    async def digest(self) -> str:
        return f"sum {self.sum}"


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[EnvServer, RemoteEnvs]]:
    async with (
        asyncio.timeout(120),
        EnvServer(["test/drifting", "test/pad"], port=0, journal=folder, backend="process") as server,
        connect(server.url) as envs,
    ):
        yield server, envs


async def again(folder: Path, session: RemoteSession) -> Replay:
    return await replay(folder, session.info.session, backend="process")


async def test_a_step_is_on_disk_when_its_reply_comes(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    async with serving(folder) as (_, envs), envs.open("test/drifting", seed=4) as env:
        name = env.info.session
        await env.reset()
        for n in range(5):
            step = await env.step(call("add", n=n))
            entry = read_journal(folder, name)[-1]
            assert isinstance(entry, Stepped)
            assert step.record is not None
            assert (entry.turn, entry.action, entry.digest) == (n, call("add", n=n), step.record.digest)
        file = folder / f"{name}.journal"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        opened = read_journal(folder, name)[0]
        assert isinstance(opened, Opened)
        assert (opened.env, opened.ref) == (EnvSpec(name="test/drifting"), env.info.ref)


async def test_what_did_not_change_is_replayed_alike(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, envs), envs.open("test/pad", seed=1) as env:
        await env.reset()
        for action in (call("write", line="a"), call("refuse"), call("show")):
            await env.step(action)
        await env.snapshot("a")
        await env.step(call("write", line="b"))
        twin, other = await env.fork(2)
        await twin.step(call("show"))
        await env.restore("a")
        await env.step(call("show"))
        (deeper,) = await twin.fork(1)
        await deeper.step(FinishAction())
        await other.conclude(EndReason.CONTEXT_LIMIT)
        for session, calls in ((env, 9), (twin, 9), (other, 8), (deeper, 10)):
            found = await again(tmp_path, session)
            assert (found.drift, found.calls) == (None, calls)


async def test_the_callers_limits_are_replayed_too(tmp_path: Path) -> None:
    task = Drifting().task_set("test")[2]
    short = task.model_copy(update={"public": TaskPublic(limits=EpisodeLimits(turns=2))})
    async with serving(tmp_path) as (_, envs), envs.open("test/drifting", task=short) as env:
        await env.reset()
        while env.end is None:
            await env.step(call("add", n=1))
    assert (await again(tmp_path, env)).drift is None


async def test_drift_is_named_with_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path) as (_, envs), envs.open("test/drifting") as env:
        await env.reset()
        for n in (1, 2, 7, 3):
            await env.step(call("add", n=n))
        (twin,) = await env.fork(1)
        await twin.step(FinishAction())
    monkeypatch.setattr(Drifting, "extra", 1)
    for session in (env, twin):
        drift = (await again(tmp_path, session)).drift
        assert drift is not None
        assert drift.call == "step 2"
        assert [difference.what for difference in drift.differences] == ["digest"]
    words = ["replay", env.info.session, "--journal", str(tmp_path)]
    assert await asyncio.to_thread(run, words) == 1
    shown = capsys.readouterr().out
    assert "test/drifting, task train/0: drift at step 2" in shown
    assert "digest: journal sum" in shown
    monkeypatch.setattr(Drifting, "extra", 0)
    assert await asyncio.to_thread(run, words) == 0
    assert "6 calls came out as the journal says" in capsys.readouterr().out


async def test_a_torn_tail_is_left_out_and_damage_before_it_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, envs), envs.open("test/drifting") as env:
        await env.reset()
        for n in range(3):
            await env.step(call("add", n=n))
    name = env.info.session
    file = tmp_path / f"{name}.journal"
    whole, data = read_journal(tmp_path, name), file.read_bytes()
    last = data[:-1].rindex(b"\n") + 1
    for size in range(last, len(data) - 1):
        file.write_bytes(data[:size])
        assert read_journal(tmp_path, name) == whole[:-1]
    for place in range(0, last, 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(UsageError, match="damaged"):
            read_journal(tmp_path, name)


@given(st.binary(max_size=60))
def test_a_file_of_anything_else_is_no_journal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "x.journal").write_bytes(data)
    with pytest.raises(UsageError):
        read_journal(folder, "x")


async def test_sessions_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(tmp_path) as (_, envs), envs.open("test/drifting") as env:
        near = env.info.session[:-1]
        with pytest.raises(UsageError, match=f"did you mean '{env.info.session}'"):
            read_journal(tmp_path, near)
    assert await asyncio.to_thread(run, ["replay", near, "--journal", str(tmp_path)]) == 2
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="journal"):
        async with serving(tmp_path / "file"):
            pass


async def test_what_cannot_be_journalled_is_not_acknowledged_and_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as (server, envs), envs.open("test/drifting") as env:
        await env.reset()
        await env.step(call("add", n=1))
        (held,) = server._roster.held
        assert held.log is not None
        full = os.open("/dev/full", os.O_WRONLY)
        monkeypatch.setattr(held.log, "_file", full)
        for _ in range(2):
            with pytest.raises(ServerFailed, match="No space left") as failed:
                await env.step(call("add", n=1))
            assert failed.value.code is Code.JOURNAL
        monkeypatch.undo()
        os.close(full)
        assert len(read_journal(tmp_path, env.info.session)) == 3
        async with envs.open("test/drifting") as other:
            await other.reset()


async def test_sessions_that_close_while_files_are_forced_to_the_disk_are_closed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forcing, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(file: int) -> None:
        forcing.set()
        go_on.wait(120)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    async with Journal(tmp_path) as journal:
        logs = [
            journal.begin(f"s{i}", EnvSpec(name="a/b"), TaskRef(env="a/b", id="x", seed=0), TaskPublic())
            for i in range(2)
        ]
        await asyncio.to_thread(forcing.wait, 120)
        for log in logs:
            log.close()
        go_on.set()
    assert [record for record in caplog.records if record.name.startswith("turnwise")] == []
    assert [len(read_journal(tmp_path, f"s{i}")) for i in range(2)] == [1, 1]
