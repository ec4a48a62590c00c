"""The contract of every backend, fourth part: snapshots, forks, recycling, the end, and the outside."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.sandbox import Backend, Limits, Sandbox, SandboxDied, SandboxSpec, Snapshot
from turnwise.sandbox.contract import TOOLING

pytestmark = pytest.mark.asyncio(loop_scope="session")


NO_NEW_PRIVILEGES = "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"


async def names(sandbox: Sandbox) -> list[str]:
    return [entry.name for entry in await sandbox.list("/workspace")]


# ------------------------------------------------------------------ snapshots and forks
async def test_a_fork_begins_with_the_snapshots_files(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.write("dir/tool", b"#!/bin/sh\necho ran\n", mode=0o750)
    await sandbox.exec("ln -s dir/tool link; mkdir empty")
    async with await any_backend.fork(await sandbox.snapshot()) as fork:
        assert await fork.list("/workspace") == await sandbox.list("/workspace")
        assert (await fork.stat("dir/tool")).mode == 0o750
        assert (await fork.exec(["./link"])).stdout == b"ran\n"


@pytest.mark.needs("file system isolation")
async def test_tooling_has_a_place_beside_the_workspace(any_backend: Backend, sandbox: Sandbox) -> None:
    tool = f"{TOOLING}/bin/tool"
    await sandbox.write(tool, b"#!/bin/sh\necho ran >> $0.log; cat $0.log\n", mode=0o755)
    assert (await sandbox.exec([tool])).stdout == b"ran\n"
    async with await any_backend.fork(await sandbox.snapshot()) as fork:
        assert (await fork.exec([tool])).stdout == b"ran\nran\n"
        assert await fork.list("/workspace") == ()
        await fork.delete(f"{TOOLING}/bin")
    await sandbox.expose(Path("nobody"), f"{TOOLING}/socket")
    assert (await sandbox.stat(f"{TOOLING}/socket")).kind == "other"
    await sandbox.recycle()
    with pytest.raises(FileNotFoundError):
        await sandbox.stat(f"{TOOLING}/bin")


async def test_parent_and_forks_do_not_see_each_others_later_writes(
    any_backend: Backend, sandbox: Sandbox
) -> None:
    await sandbox.write_tree({"shared": b"before", "doomed": b"", "dir/file": b""})
    snapshot = await sandbox.snapshot()
    async with await any_backend.fork(snapshot) as one, await any_backend.fork(snapshot) as two:
        await sandbox.write("shared", b"parent")
        await one.exec("echo -n one > shared; rm doomed; touch dir/new")
        await two.delete("dir")
        assert await sandbox.read("shared") == b"parent"
        assert await one.read("shared") == b"one"
        assert await two.read("shared") == b"before"
        assert await names(sandbox) == ["dir", "doomed", "shared"]
        assert await names(one) == ["dir", "shared"]
        assert await names(two) == ["doomed", "shared"]
        assert [entry.name for entry in await one.list("dir")] == ["file", "new"]
    async with await any_backend.fork(snapshot) as three:
        assert await three.read("shared") == b"before"


async def test_a_fork_can_be_forked(any_backend: Backend, sandbox: Sandbox) -> None:
    current, forks = sandbox, []
    for generation in range(4):
        await current.write(f"file{generation}", b"%d" % generation)
        current = await any_backend.fork(await current.snapshot())
        forks.append(current)
    assert await names(current) == ["file0", "file1", "file2", "file3"]
    assert await names(sandbox) == ["file0"]
    for fork in forks:
        await fork.close()


async def test_fifty_generations_each_see_what_was_before_them_and_nothing_after(
    any_backend: Backend,
) -> None:
    current = await any_backend.create(SandboxSpec())
    for generation in range(50):
        await current.write("generation", b"%d" % generation)
        await current.write(f"of/{generation}", b"")
        snapshot = await current.snapshot()
        child = await any_backend.fork(snapshot)
        await any_backend.drop(snapshot)
        await current.write("generation", b"later")
        await current.close()
        current = child
        assert await current.read("generation") == b"%d" % generation
    assert len(await current.list("of")) == 50
    await current.close()


async def test_a_fork_has_every_kind_of_file_as_it_was(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.exec(
        "mkdir -p closed/in; echo x > one; ln one two; ln -s nowhere link; mkfifo pipe; touch -d @86400 old;"
        "truncate -s 50M holes; printf end >> holes; echo y > closed/in/file; chmod 600 two; chmod 0 closed"
    )
    look = r"find * -maxdepth 0 -printf '%p %y %m %n %s\n'; find old closed -maxdepth 0 -printf '%T@\n';"
    look += "readlink link; tail -c 3 holes; du -sk holes"
    seen = (await sandbox.exec(look)).stdout
    assert b"old f 644 1 0\n" in seen
    assert b"end" in seen
    async with await any_backend.fork(await sandbox.snapshot()) as fork:
        for box in (sandbox, fork):
            assert (await box.exec(look)).stdout == seen
            assert (await box.exec("chmod 700 closed; cat closed/in/file")).stdout == b"y\n"


async def test_forks_are_made_at_the_same_time(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.write("file", b"kept")
    snapshot = await sandbox.snapshot()
    forks = await asyncio.gather(*(any_backend.fork(snapshot) for _ in range(4)))
    await asyncio.gather(*(fork.write("mine", b"%d" % n) for n, fork in enumerate(forks)))
    for number, fork in enumerate(forks):
        assert await fork.read_tree("/workspace") == {"file": b"kept", "mine": b"%d" % number}
        await fork.close()


async def test_a_snapshot_outlives_its_sandbox(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec()) as parent:
        await parent.write("file", b"kept")
        snapshot = await parent.snapshot()
    async with await any_backend.fork(snapshot) as fork:
        assert await fork.read("file") == b"kept"


async def test_a_snapshot_tells_what_it_is(any_backend: Backend) -> None:
    spec = SandboxSpec(Limits(output=4321))
    async with await any_backend.create(spec) as parent:
        await parent.write("file", bytes(100_000))
        snapshot = await parent.snapshot()
        assert (snapshot.backend, snapshot.spec) == (any_backend.name, spec)
        assert 100_000 <= snapshot.size < 2_000_000
        assert snapshot.processes_ended == 0
        assert (await parent.snapshot()).name != snapshot.name
    async with await any_backend.fork(snapshot) as fork:
        assert fork.spec == spec


async def test_processes_end_at_a_snapshot(sandbox: Sandbox) -> None:
    await sandbox.shell("sleep 1000 & echo $! > pid")
    snapshot = await sandbox.snapshot()
    assert snapshot.processes_ended >= 1
    assert (await sandbox.shell("kill -0 $(cat pid) 2>/dev/null || echo gone")).stdout == b"gone\n"


async def test_a_shell_goes_on_where_it_was(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.shell("mkdir -p 'a b'; cd 'a b'; export NAME=\"it's \\$1\nhere\"; plain=1")
    snapshot = await sandbox.snapshot()
    look = 'echo "${PWD##*/} $NAME _$plain"; cd ..; sh -c \'echo "$NAME"\''
    expected = b"a b it's $1\nhere _\nit's $1\nhere\n"
    assert (await sandbox.shell(look)).stdout == expected
    async with await any_backend.fork(snapshot) as fork:
        assert (await fork.shell(look)).stdout == expected
        assert (await fork.shell("ls; pwd > where")).stdout == b"a b\n"
        assert await names(sandbox) == ["a b"]
    await sandbox.restore(snapshot)
    assert (await sandbox.shell(look)).stdout == expected


async def test_a_slow_shell_goes_on_where_it_was_too(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.shell("mkdir -p here; cd here; export NAME=kept; trap 'sleep 0.7' DEBUG")
    snapshot = await sandbox.snapshot()
    async with await any_backend.fork(snapshot) as fork:
        assert (await fork.shell('echo "${PWD##*/} $NAME"')).stdout == b"here kept\n"


async def test_restoring_undoes(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.write_tree({"kept": b"old", "doomed": b"back"})
    snapshot = await sandbox.snapshot()
    for _ in range(2):
        await sandbox.exec("echo new > kept; rm doomed; touch extra; mkdir -p deep/er")
        await sandbox.shell("sleep 1000 & echo $! > pid")
        await sandbox.restore(snapshot)
        assert await sandbox.read_tree("/workspace") == {"kept": b"old", "doomed": b"back"}
        assert await names(sandbox) == ["doomed", "kept"]


async def test_a_dropped_snapshot_is_gone_but_not_its_forks(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.write("file", b"kept")
    snapshot = await sandbox.snapshot()
    async with await any_backend.fork(snapshot) as fork:
        await any_backend.drop(snapshot)
        assert await fork.read("file") == b"kept"
        assert await sandbox.read("file") == b"kept"
        with pytest.raises(ValueError, match=snapshot.name):
            await any_backend.fork(snapshot)
        with pytest.raises(ValueError, match=snapshot.name):
            await fork.restore(snapshot)
        assert await fork.read("file") == b"kept"


async def test_a_snapshot_of_another_backend_is_refused(any_backend: Backend, sandbox: Sandbox) -> None:
    snapshot = replace(await sandbox.snapshot(), backend="another")
    with pytest.raises(ValueError, match="snapshot"):
        await any_backend.fork(snapshot)


# ------------------------------------------------------------------ recycling and the end
async def test_nothing_survives_recycling(sandbox: Sandbox) -> None:
    fresh = (await sandbox.shell('env | sort; umask; ls -A; ls -A "${TMPDIR:-/tmp}"')).stdout
    await sandbox.write("dir/file", b"left")
    await sandbox.exec(
        'echo left > .hidden; echo left > "${TMPDIR:-/tmp}/left"; mkdir -p closed/x; chmod 0 closed'
    )
    await sandbox.shell("cd dir; export LEFT=1; umask 077; sleep 1000 & trap '' TERM")
    await sandbox.recycle()
    assert (await sandbox.shell('env | sort; umask; ls -A; ls -A "${TMPDIR:-/tmp}"')).stdout == fresh
    assert await sandbox.list("/workspace") == ()
    assert (await sandbox.exec("echo usable > file; cat file")).stdout == b"usable\n"


async def test_recycling_a_fork_leaves_the_snapshot_alone(any_backend: Backend, sandbox: Sandbox) -> None:
    await sandbox.write("file", b"kept")
    snapshot = await sandbox.snapshot()
    async with await any_backend.fork(snapshot) as fork:
        await fork.recycle()
        assert await names(fork) == []
        await fork.restore(snapshot)
        assert await fork.read("file") == b"kept"


CALLS: list[Callable[[Sandbox, Snapshot], Awaitable[object]]] = [
    lambda s, _: s.exec("true"),
    lambda s, _: s.shell("true"),
    lambda s, _: s.read("file"),
    lambda s, _: s.write("file", b""),
    lambda s, _: s.write_tree({"file": b""}),
    lambda s, _: s.read_tree("/workspace"),
    lambda s, _: s.list("/workspace"),
    lambda s, _: s.stat("file"),
    lambda s, _: s.delete("file"),
    lambda s, _: s.search("x"),
    lambda s, _: s.expose(Path("/absent"), "socket"),
    lambda s, _: s.snapshot(),
    lambda s, snapshot: s.restore(snapshot),
    lambda s, _: s.recycle(),
]


async def test_a_closed_sandbox_answers_no_call(any_backend: Backend) -> None:
    sandbox = await any_backend.create(SandboxSpec())
    await sandbox.write("file", b"")
    snapshot = await sandbox.snapshot()
    await sandbox.close()
    await sandbox.close()
    for call in CALLS:
        with pytest.raises(SandboxDied):
            await call(sandbox, snapshot)


async def test_closing_ends_a_call_that_is_under_way(any_backend: Backend) -> None:
    sandbox = await any_backend.create(SandboxSpec())
    command = asyncio.create_task(sandbox.exec("echo > begun; sleep 1000"))
    await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    await sandbox.close()
    with pytest.raises(SandboxDied):
        await command


async def test_the_end_of_a_backend_is_the_end_of_its_sandboxes(any_backend: Backend) -> None:
    async with type(any_backend)().running() as backend:
        sandbox = await backend.create(SandboxSpec())
        await sandbox.write("file", b"")
        snapshot = await sandbox.snapshot()
        command = asyncio.create_task(sandbox.exec("echo > begun; sleep 1000"))
        await sandbox.exec("until [ -e begun ]; do sleep 0.01; done")
    with pytest.raises(SandboxDied):
        await command
    for call in CALLS:
        with pytest.raises(SandboxDied):
            await call(sandbox, snapshot)
    await sandbox.close()
    await backend.close()
    with pytest.raises(SandboxDied):
        await backend.create(SandboxSpec())


# ------------------------------------------------------------------ the outside
@pytest_asyncio.fixture(loop_scope="session")
async def echo_server() -> AsyncIterator[Path]:
    """A Unix socket of ours whose far side says in capitals what it is told."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(100)).upper())
        writer.close()
        await writer.wait_closed()

    with tempfile.TemporaryDirectory() as folder:
        endpoint = Path(folder, "echo.sock")
        async with await asyncio.start_unix_server(shout, endpoint):
            yield endpoint


CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()); s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode())
"""


async def test_an_exposed_endpoint_is_reached_from_inside(sandbox: Sandbox, echo_server: Path) -> None:
    await sandbox.expose(echo_server, "/workspace/run/api.sock")
    await sandbox.write("client.py", CLIENT.encode())
    for word in ("hello", "again"):
        result = await sandbox.exec(["python3", "client.py", "run/api.sock", word])
        assert result.stdout.decode().strip() == word.upper(), result.stderr
    await sandbox.recycle()
    assert await names(sandbox) == []


async def test_much_is_said_over_an_endpoint_on_many_connections(sandbox: Sandbox, tmp_path: Path) -> None:
    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    client = """
import hashlib, os, socket, threading
def talk(n):
    data, back = os.urandom(1 << 20), b""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("api.sock")
        say = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        say.start()
        while part := s.recv(1 << 16): back += part
        say.join()
    print(back == data, flush=True)
threads = [threading.Thread(target=talk, args=[n]) for n in range(5)]
for thread in threads: thread.start()
"""
    endpoint = tmp_path / "mirror"
    async with await asyncio.start_unix_server(mirror, endpoint):
        await sandbox.expose(endpoint, "api.sock")
        assert (await sandbox.exec(["python3", "-c", client])).stdout.split() == [b"True"] * 5
    assert b"True" not in (await sandbox.exec(["python3", "-c", client])).stdout


@pytest.mark.needs("network isolation")
async def test_the_network_is_off(sandbox: Sandbox) -> None:
    devices = (await sandbox.exec("cat /proc/net/dev")).stdout.decode().splitlines()[2:]
    assert {line.partition(":")[0].strip() for line in devices} <= {"lo"}
    routes = (await sandbox.exec("cat /proc/net/route; cat /proc/net/ipv6_route 2>/dev/null")).stdout.decode()
    assert {line.split()[-1] for line in routes.splitlines()[1:]} <= {"lo"}


@pytest.mark.needs("file system isolation")
async def test_the_owners_files_are_not_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    for path in (tmp_path / "secret", Path(__file__), Path.home() / ".bashrc"):
        assert (await sandbox.exec(["test", "-e", str(path)])).exit_code == 1
    assert (await sandbox.exec("touch /usr/left")).exit_code != 0


@pytest.mark.needs("process isolation")
async def test_the_owners_processes_are_not_there(sandbox: Sandbox) -> None:
    look = "import glob; print(*[open(p).read() for p in glob.glob('/proc/[0-9]*/cmdline')])"
    await sandbox.write("look.py", look.encode())
    seen = (await sandbox.exec(["python3", "look.py"])).stdout.decode()
    assert "look.py" in seen
    assert "pytest" not in seen
    assert "turnwise" not in seen


@pytest.mark.needs("user isolation")
async def test_the_agent_has_no_privilege(sandbox: Sandbox) -> None:
    status = (await sandbox.exec("cat /proc/self/status")).stdout.decode()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert (await sandbox.exec(["python3", "-c", NO_NEW_PRIVILEGES])).stdout == b"1\n"
