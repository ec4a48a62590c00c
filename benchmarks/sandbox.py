"""What a sandbox costs: time of each operation, processor time with all that goes on behind it, many at once.

    python benchmarks/sandbox.py [--backend NAME] [--n 200] [--many 200] [--pause 0] [--json FILE]

Operations follow one another, or with ``--pause`` after so many milliseconds, as between an agent's turns:
then processors that went to sleep have to wake up. The processor time counts what a backend prepares in
the background too: it is the owner's and that of every process below it, the ended ones included, until
they rest; what a Docker Engine does is not below the owner and not in it. A busy machine shows in the 99th
percentile first. What the machine itself takes at that moment is the first line: a byte to another process
and back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from turnwise.sandbox import Backend, Limits, MiB, Sandbox, SandboxSpec, backend

REST = 0.3
TICKS = os.sysconf("SC_CLK_TCK")
DIRTY = "mkdir -p a; for n in $(seq 100); do echo $n > a/$n; done; head -c 5000000 /dev/zero > big"
ECHO = "import socket; s = socket.socket(fileno=0)\nwhile data := s.recv(1): s.sendall(data)"
PROCESSES = "for n in 1 2 3 4 5; do sleep 99 & done; " + DIRTY

Operation = Callable[[], Awaitable[object]]


def processor_time() -> float:
    """Seconds of all processes from us down, with those they have waited for."""
    total, left = time.process_time(), children(os.getpid())
    while left:
        pid = left.pop()
        try:
            waited_for = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
            own = Path(f"/proc/{pid}/schedstat").read_text().split()[0]  # in ns; stat counts in ticks
        except OSError:
            continue  # it ended meanwhile: its time is its parent's now
        total += int(own) / 1e9 + sum(map(int, waited_for)) / TICKS
        left += children(pid)
    return total


def children(pid: int) -> list[int]:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in texts for child in text.split()]


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures ``n`` runs of an operation, with a pause before each."""

    n: int
    pause: float
    """Seconds."""

    async def __call__(self, operation: Operation, prepare: Operation | None = None) -> dict[str, float]:
        """Milliseconds of each run. The processor time is ``prepare``'s too, where there is one."""
        taken = []
        await asyncio.sleep(REST)
        before = processor_time()
        for _ in range(self.n):
            if prepare is not None:
                await prepare()
            await asyncio.sleep(self.pause)
            start = time.perf_counter()
            await operation()
            taken.append(1000 * (time.perf_counter() - start))
        await asyncio.sleep(REST)
        spent = 1000 * (processor_time() - before) / self.n
        median, p99 = np.percentile(taken, [50, 99])
        return {"median_ms": float(median), "p99_ms": float(p99), "cpu_ms": spent}


@asynccontextmanager
async def echo() -> AsyncIterator[Operation]:
    """A byte to a process that does nothing else, and back."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdin=theirs)
    reader, writer = await asyncio.open_connection(sock=ours)

    async def there_and_back() -> None:
        writer.write(b"x")
        await reader.readexactly(1)

    try:
        yield there_and_back
    finally:
        writer.close()
        await process.wait()


async def operations(made: Backend, measure: Meter) -> AsyncIterator[tuple[str, dict[str, float]]]:
    boxes: list[Sandbox] = []

    async def create() -> None:
        boxes.append(await made.create(SandboxSpec()))

    async def close() -> None:
        await boxes.pop().close()

    async with echo() as there_and_back:
        yield "echo of a process", await measure(there_and_back)
    yield "create", await measure(create)
    yield "close", await measure(close)
    box = await made.create(SandboxSpec())
    kibibyte = bytes(1024)
    yield "write 1 KiB", await measure(lambda: box.write("file", kibibyte))
    yield "read 1 KiB", await measure(lambda: box.read("file"))
    yield "search 100 files", await measure(lambda: box.search("needle"), lambda: box.exec(DIRTY))
    await box.shell("true")
    yield "shell: true", await measure(lambda: box.shell("true"))
    yield "exec: /bin/true", await measure(lambda: box.exec(["/bin/true"]))
    yield "exec: python3", await measure(lambda: box.exec(["python3", "-c", "pass"]))
    await box.recycle()
    yield "recycle, clean", await measure(box.recycle)
    yield "recycle, 6 processes, 5 MB", await measure(box.recycle, lambda: box.shell(PROCESSES))

    snapshots = []

    async def soil() -> None:
        await box.recycle()
        await box.exec(DIRTY)

    async def snapshot() -> None:
        snapshots.append(await box.snapshot())

    async def fork() -> None:
        boxes.append(await made.fork(snapshots[len(boxes) % len(snapshots)]))

    yield "snapshot of 5 MB", await measure(snapshot, soil)
    yield "fork", await measure(fork)
    yield "restore", await measure(lambda: box.restore(snapshots[0]))
    for sandbox in (box, *boxes):
        await sandbox.close()
    for frozen in snapshots:
        await made.drop(frozen)


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    found[name + "_s"] = time.perf_counter() - start


async def many(made: Backend, count: int) -> dict[str, float]:
    """Every step for all of them at once: seconds, and memory of one while all are there."""
    found: dict[str, float] = {}
    spec = SandboxSpec(Limits(memory=64 * MiB, disk=32 * MiB))
    before, free = processor_time(), available()
    with timed(found, "create"):
        boxes = await asyncio.gather(*(made.create(spec) for _ in range(count)))
    await asyncio.sleep(REST)
    found["memory_mib"] = (free - available()) / count / MiB
    with timed(found, "exec"):
        await asyncio.gather(*(box.exec(["/bin/true"]) for box in boxes))
    with timed(found, "write"):
        await asyncio.gather(*(box.write("file", bytes(1024)) for box in boxes))
    with timed(found, "recycle"):
        await asyncio.gather(*(box.recycle() for box in boxes))
    with timed(found, "close"):
        await asyncio.gather(*(box.close() for box in boxes))
    await asyncio.sleep(REST)
    found["cpu_s"] = processor_time() - before
    return found


def available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


async def run(name: str | None, meter: Meter, count: int, console: Console) -> dict[str, Any]:
    made = backend(name)
    table = Table(
        "operation",
        "median ms",
        "p99 ms",
        "CPU ms",
        title=f"{made.name}, n = {meter.n}, pause {1000 * meter.pause:g} ms",
    )
    result: dict[str, Any] = {"backend": made.name, "n": meter.n, "pause_s": meter.pause, "operations": {}}
    start = time.perf_counter()
    async with made.running():
        result["start_ms"] = 1000 * (time.perf_counter() - start)
        async for operation, figures in operations(made, meter):
            result["operations"][operation] = figures
            table.add_row(operation, *(f"{figure:.2f}" for figure in figures.values()))
        if count > 0:
            result["at_once"] = {"count": count, **await many(made, count)}
    console.print(table)
    console.print(f"start {result['start_ms']:.0f} ms")
    if count > 0:
        console.print({name: round(figure, 2) for name, figure in result["at_once"].items()})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", help="the best that runs here, unless told")
    parser.add_argument("--n", type=int, default=200, help="runs of each operation")
    parser.add_argument("--many", type=int, default=200, help="sandboxes at once; 0 leaves that out")
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds before each operation")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    meter = Meter(options.n, options.pause / 1000)
    result = asyncio.run(run(options.backend, meter, options.many, Console()))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
