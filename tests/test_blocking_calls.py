"""The guard of the event loop (tests/conftest.py): it catches what blocks, and only in a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SLEEPER = [sys.executable, "-c", "input()"]


def connect(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "absent"))


def accept(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.accept()


def receive(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def open_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "pipe").read_bytes()


def wait_for_process(folder: Path) -> None:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as process:
        try:
            process.wait()
        finally:
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def join_thread(folder: Path) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        thread.join()
    finally:
        done.set()


def future_result(folder: Path) -> None:
    concurrent.futures.Future[None]().result()


BLOCKING: list[Callable[[Path], object]] = [
    lambda folder: time.sleep(0),
    lambda folder: subprocess.check_output(["true"]),
    lambda folder: os.system("true"),
    lambda folder: threading.Event().wait(),
    lambda folder: queue.Queue[int]().get(),
    connect,
    accept,
    receive,
    open_pipe,
    wait_for_process,
    join_thread,
    future_result,
]


@pytest.mark.parametrize("block", BLOCKING)
async def test_a_coroutine_that_blocks_fails(block: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="blocks the event loop"):
        block(tmp_path)


async def test_a_task_of_a_library_that_blocks_fails_too(tmp_path: Path) -> None:
    async def library() -> None:
        try:
            receive(tmp_path)
        except Exception:  # noqa: BLE001 - what a careless library would do
            return

    with pytest.raises(BaseExceptionGroup) as failure:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(library())
    assert failure.group_contains(pytest.fail.Exception, match="blocks the event loop")


async def test_what_does_not_block_passes(tmp_path: Path) -> None:
    await asyncio.sleep(0.001)
    await asyncio.to_thread(time.sleep, 0.001)
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    (tmp_path / "file").write_text("x")
    assert (tmp_path / "file").read_text() == "x"


def test_outside_a_loop_everything_may_wait(tmp_path: Path) -> None:
    time.sleep(0)
    assert subprocess.run(["true"], check=False).returncode == 0
