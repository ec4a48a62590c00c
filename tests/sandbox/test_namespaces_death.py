"""Whoever is killed, nothing stays: no process, mount, file or cgroup; and every caller is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.sandbox.conftest import cancelled, overlays
from turnwise.sandbox import Sandbox, SandboxDied, SandboxSpec
from turnwise.sandbox.namespaces import NamespacesBackend, cgroups

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNER = textwrap.dedent("""
    import asyncio
    from pathlib import Path
    from turnwise.sandbox import SandboxSpec
    from turnwise.sandbox.namespaces import NamespacesBackend

    async def main():
        async with NamespacesBackend().running() as backend:
            boxes = [await backend.create(SandboxSpec()) for _ in range(5)]
            for box in boxes:
                await box.shell("setsid -f sleep 98765; trap '' TERM HUP; sleep 98765 &")
                await box.write("file", bytes(1000000))
                await box.expose(Path("/absent"), "socket")
            snapshot = await boxes[0].snapshot()
            await backend.fork(snapshot)
            print("ready", flush=True)
            await boxes[1].exec("sleep 98765", timeout=3600)

    asyncio.run(main())
""")


def read(path: str) -> str:
    """A file of /proc; empty when its process has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def descendants(top: int) -> list[int]:
    """Every process below one, itself first, and each before its own children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := read(f"/proc/{name}/stat").rpartition(")")[2].split()):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [top]
    for pid in found:
        found += children.get(pid, [])
    return found


def identities(pids: list[int]) -> set[tuple[int, str]]:
    """Those that live, each with its start time: a pid may be used again."""
    found = set()
    for pid in pids:
        state, *fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split() or ["Z"]
        if state != "Z":
            found.add((pid, fields[18]))
    return found


def groups(janitor: int) -> set[str]:
    """The cgroup directories of one hub."""
    version = cgroups.detect()
    tops = [Path(cgroups.ROOT, top) for top in version.tops] if version is not None else []
    return {str(path) for top in tops for path in top.glob(f"{cgroups.PREFIX}{janitor}-*")}


async def happens(condition: Callable[[], bool]) -> bool:
    """Whether it does so in a minute or more."""
    for _ in range(2000):
        if condition():
            return True
        await asyncio.sleep(0.03)
    return False


def named(title: str, owner: int) -> list[int]:
    """The far side's processes of one kind, of one owner, parents first: a clone has its parent's title."""
    processes = descendants(owner)
    return [pid for pid in processes if read(f"/proc/{pid}/cmdline").split("\0")[0] == title]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """Another process that has sandboxes."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def files() -> Iterator[None]:
    """What the hub makes in a mount of its own appears nowhere else."""
    yield
    for place in ("/", "/tmp", "/run", "/dev/shm"):
        assert {"layers", "bases", "skeleton", "stage"}.isdisjoint(os.listdir(place))


async def test_nothing_is_left_when_the_owner_is_killed(owner: subprocess.Popen[str], files: None) -> None:
    mounted = overlays()
    everyone = descendants(owner.pid)
    living = identities(everyone)
    (janitor,) = named("sandbox-janitor", owner.pid)
    assert len(living) > 20
    assert bool(groups(janitor)) == (os.geteuid() == 0)
    owner.kill()
    assert await happens(lambda: not living & identities(everyone))
    assert not groups(janitor)
    assert overlays() == mounted


async def test_nothing_is_left_when_the_janitor_is_killed_too(
    owner: subprocess.Popen[str], files: None
) -> None:
    """Then only cgroups are left, and the next to start sweeps them."""
    everyone = descendants(owner.pid)
    living = identities(everyone)
    (janitor,) = named("sandbox-janitor", owner.pid)
    os.kill(janitor, signal.SIGKILL)
    owner.kill()
    assert await happens(lambda: not living & identities(everyone))
    async with NamespacesBackend().running():
        assert not groups(janitor)


async def test_a_backend_that_closes_leaves_nothing(files: None) -> None:
    mounted, others = overlays(), set(named("sandbox-janitor", os.getpid()))
    async with NamespacesBackend().running() as backend:
        (janitor,) = set(named("sandbox-janitor", os.getpid())) - others
        for _ in range(3):
            sandbox = await backend.create(SandboxSpec())
            await sandbox.shell("sleep 98765 &")
        everyone = descendants(janitor)
        living = identities(everyone)
        assert len(living) > 10
    assert not living & identities(everyone)
    assert not groups(janitor)
    assert overlays() == mounted


# ------------------------------------------------------------------ who is told
@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


async def pending(sandbox: Sandbox) -> asyncio.Task[object]:
    task: asyncio.Task[object] = asyncio.create_task(sandbox.exec("echo > begun; sleep 98765", timeout=3600))
    await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    return task


@pytest.mark.parametrize("victim", ["sandbox-hub", "sandbox-janitor"])
async def test_the_end_of_the_hub_is_told_at_once(backend: NamespacesBackend, victim: str) -> None:
    sandbox = await backend.create(SandboxSpec())
    task = await pending(sandbox)
    for pid in named(victim, os.getpid()):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(SandboxDied):
        await asyncio.wait_for(task, 60)
    with pytest.raises(SandboxDied):
        await sandbox.read("begun")
    with pytest.raises(SandboxDied):
        await sandbox.recycle()
    with pytest.raises(SandboxDied):
        await backend.create(SandboxSpec())
    await sandbox.close()


async def test_the_end_of_a_resident_is_told_and_recycling_mends_it(backend: NamespacesBackend) -> None:
    sandbox, other = await backend.create(SandboxSpec()), await backend.create(SandboxSpec())
    await other.write("file", b"kept")
    task = await pending(sandbox)
    hub, residents = named("sandbox-hub", os.getpid())[0], named("sandbox", os.getpid())
    busy = [parent(pid) for pid in residents if parent(pid) != hub]  # of the one exec-init there is
    os.kill(busy[0], signal.SIGKILL)
    with pytest.raises(SandboxDied):
        await asyncio.wait_for(task, 60)
    with pytest.raises(SandboxDied):
        await sandbox.list("/workspace")
    assert await other.read("file") == b"kept"
    await sandbox.recycle()
    assert await sandbox.list("/workspace") == ()


async def test_a_cancelled_creation_leaves_no_sandbox(backend: NamespacesBackend) -> None:
    kept = await backend.create(SandboxSpec())
    for delay in (0, 0.0005, 0.001, 0.002, 0.004):
        tasks = [asyncio.create_task(backend.create(SandboxSpec())) for _ in range(5)]
        await asyncio.sleep(delay)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
    await kept.exec("true")
    hub = named("sandbox-hub", os.getpid())[0]
    assert await happens(lambda: len(descendants(hub)) == 1 + 1 + 2)  # the hub, one sandbox and two spares
    await kept.close()


async def test_a_cancelled_close_leaves_no_sandbox(backend: NamespacesBackend, tmp_path: Path) -> None:
    """Nor one whose sockets lead outside, which are the first to be closed."""
    kept = await backend.create(SandboxSpec())
    for cycles in (1, 2, 3, 4):
        sandbox = await backend.create(SandboxSpec())
        await sandbox.expose(tmp_path / "nobody", "socket")
        await cancelled(sandbox.close(), cycles)
    await kept.exec("true")
    hub = named("sandbox-hub", os.getpid())[0]
    assert await happens(lambda: len(descendants(hub)) == 1 + 1 + 2)  # the hub, one sandbox and two spares
    await kept.close()
