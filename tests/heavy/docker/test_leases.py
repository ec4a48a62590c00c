"""Whatever ends an owner, its containers end with it and are removed; nobody else's are touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from turnwise.sandbox import MiB, Pool, Sandbox, SandboxDied, SandboxError, SandboxSpec
from turnwise.sandbox.docker import DockerBackend, lease
from turnwise.sandbox.docker import backend as backend_module
from turnwise.sandbox.docker import engine as engine_module
from turnwise.sandbox.docker.lease import LABEL

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWNER = """
import asyncio
from turnwise.sandbox import SandboxSpec, backend
async def main():
    async with backend("docker").running() as made:
        boxes = [await made.create(SandboxSpec()) for _ in range(2)]
        print("ready", flush=True)
        await boxes[0].exec("sleep 1000", timeout=1000)
asyncio.run(main())
"""
MORE_THAN_A_SOCKET_HOLDS = 16 * MiB


def present(engine: Any) -> dict[str, str]:
    """The status of every container with a lease."""
    found = engine.api.containers(all=True, filters={"label": LABEL})
    return {container["Id"]: container["State"] for container in found}


async def containers(engine: Any) -> set[str]:
    return set(await asyncio.to_thread(present, engine))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - the Engine is asked
            await asyncio.sleep(0.05)


async def killed_owner(engine: Any) -> set[str]:
    """The containers of an owner that was killed."""
    before = await containers(engine)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    left = await containers(engine) - before
    assert len(left) == 2
    process.send_signal(signal.SIGKILL)
    await process.wait()
    return left


async def test_containers_end_by_themselves_when_their_owner_is_killed(engine: Any, sandbox: Sandbox) -> None:
    left = await killed_owner(engine)
    await until(lambda: {present(engine).get(name, "exited") for name in left} == {"exited"})
    assert (await sandbox.exec("echo mine")).stdout == b"mine\n"


async def test_the_next_start_removes_what_a_killed_owner_left(engine: Any, sandbox: Sandbox) -> None:
    left = await killed_owner(engine)
    async with DockerBackend().running():
        assert not left & await containers(engine)
    assert (await sandbox.exec("echo mine")).stdout == b"mine\n"


async def test_of_several_starts_at_once_none_goes_on_before_the_left_is_gone(engine: Any) -> None:
    left = await killed_owner(engine)

    async def start() -> set[str]:
        async with DockerBackend().running():
            return left & await containers(engine)

    async with asyncio.TaskGroup() as tasks:
        starts = [tasks.create_task(start()) for _ in range(4)]
    assert [start.result() for start in starts] == [set()] * 4


async def test_a_living_sibling_removes_what_a_killed_owner_left(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "SWEEP_EVERY", 0.2)
    async with DockerBackend().running():
        left = await killed_owner(engine)
        await until(lambda: not left & set(present(engine)))


@pytest.fixture(params=[None, "another-boot/4026531836/{pid}/1/abcd", "nonsense"])
def strangers(request: pytest.FixtureRequest, engine: Any, shell_only: str) -> Iterator[str]:
    """A container that is not ours: without a lease, with another machine's, with one of somebody else's."""
    labels = {} if request.param is None else {LABEL: request.param.format(pid=os.getpid())}
    container = engine.containers.create(shell_only, "none", labels=labels)
    yield container.id
    container.remove()


async def test_what_is_not_ours_is_left_alone(engine: Any, strangers: str) -> None:
    async with DockerBackend().running():
        assert await asyncio.to_thread(engine.api.inspect_container, strangers)


@pytest.fixture
def unfinished(engine: Any, shell_only: str) -> Iterator[Callable[[str], str]]:
    """Makes containers of a lease that the Engine neither describes nor removes: an upload does not end."""
    begun, over = threading.Event(), threading.Event()

    def archive() -> Iterator[bytes]:
        entry = tarfile.TarInfo("file")
        entry.size = MORE_THAN_A_SOCKET_HOLDS
        yield entry.tobuf()
        for _ in range(entry.size // MiB):
            yield bytes(MiB)
        begun.set()  # as the Engine has read of it, which it does when it holds the container
        over.wait()
        yield bytes(1024)

    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor())

        def make(holder: str) -> str:
            container = engine.containers.create(shell_only, "none", labels={LABEL: holder})
            stack.callback(engine_module.remove, engine.api, container.id)
            uploading = threads.submit(container.put_archive, "/", archive())
            stack.callback(futures.wait, [uploading])
            stack.callback(over.set)
            assert begun.wait(120), uploading
            begun.clear()
            return str(container.id)

        yield make


async def test_a_container_that_hangs_stops_no_owner(
    engine: Any,
    unfinished: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    living = await asyncio.to_thread(unfinished, lease.new())
    at_another_time = re.sub(r"/(\w+)$", r"0/\1", lease.new())  # was started what had this process's id
    ended = await asyncio.to_thread(unfinished, at_another_time)
    monkeypatch.setattr(engine_module, "DEADLINE", 20.0)
    async with DockerBackend().running() as backend, await backend.create(SandboxSpec()) as box:
        assert (await box.exec("echo on")).stdout == b"on\n"
    assert {living, ended} <= await containers(engine)
    told = [text for text in caplog.messages if "is left to the next sweep" in text]
    assert told
    assert all("Read timed out" in text for text in told)


async def test_the_end_of_a_backend_leaves_nothing(engine: Any) -> None:
    before = await containers(engine)
    async with DockerBackend().running() as backend:
        box, other = await backend.create(SandboxSpec()), await backend.create(SandboxSpec())
        await box.recycle()
        await backend.fork(await other.snapshot())
        starting = asyncio.create_task(backend.create(SandboxSpec()))
        await asyncio.sleep(0)
        starting.cancel()
    assert await containers(engine) <= before
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_a_cancelled_start_leaves_nothing(engine: Any, backend: DockerBackend) -> None:
    before = await containers(engine)
    starting = asyncio.create_task(backend.create(SandboxSpec()))
    await until(lambda: set(present(engine)) - before)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: set(present(engine)) <= before)


async def test_a_container_that_is_killed_is_replaced(engine: Any, backend: DockerBackend) -> None:
    before = await containers(engine)
    async with Pool(backend, SandboxSpec(), size=1) as pool:
        async with pool.lease() as sandbox:
            (name,) = await containers(engine) - before
            running = asyncio.create_task(sandbox.exec("sleep 1000"))
            await sandbox.stat("/workspace")
            await asyncio.to_thread(engine.api.kill, name)
            with pytest.raises(SandboxDied):
                await running
            with pytest.raises(SandboxError):
                await sandbox.exec("true")
        async with pool.lease() as another:
            assert (await another.exec("echo up")).stdout == b"up\n"
    await until(lambda: set(present(engine)) <= before)
