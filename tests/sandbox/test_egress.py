"""The proxy of an allow-list: what it passes on, what it refuses, and that it leaves nothing behind.

Names are resolved by the tests themselves, to servers on the loopback that they start.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from turnwise.sandbox.egress import Egress, proxy

LOOPBACK = "127.0.0.1"


class Server:
    """Answers each connection with what it got up to an empty line, and notes it all."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"Content-Length:")), 0)
        body = await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + head.split(b"\r\n")[0] + b"|" + body)
        await writer.drain()
        writer.write_eof()
        self.got.append(head + body + await reader.read())
        writer.close()


@asynccontextmanager
async def listening(serve: object = None) -> AsyncIterator[Server]:
    made = Server()
    server = await asyncio.start_server(serve or made.serve, LOOPBACK, 0)  # type: ignore[arg-type]
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def ask(path: Path, data: bytes) -> bytes:
    """All that the proxy answers to these bytes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
        await writer.wait_closed()


def get(target: str) -> bytes:
    return f"GET http://{target}/x HTTP/1.1\r\n\r\n".encode()


def to_loopback(host: str, port: int) -> list[str]:
    return [LOOPBACK]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxy.sock"


async def test_a_request_to_an_allowed_host_comes_there_without_what_is_the_connections(path: Path) -> None:
    async with listening() as server:
        egress = Egress((f"a.test:{server.port}", f"{LOOPBACK}:{server.port}"), resolve=to_loopback)
        host = f"a.test:{server.port}"
        async with egress.serve(path):
            request = f"POST http://{host}/x HTTP/1.1\r\nProxy-Connection: x\r\nContent-Length: 4\r\n\r\nbody"
            assert await ask(path, request.encode()) == b"HTTP/1.1 200 OK\r\n\r\nPOST /x HTTP/1.1|body"
        want = f"POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        assert server.got == [want.encode()]
        assert (egress.passed, egress.refused) == (1, 0)


async def test_a_second_request_behind_the_first_is_not_passed_on(path: Path) -> None:
    """It was not checked, and could name another host of the same server."""
    async with listening() as server:
        target = f"{LOOPBACK}:{server.port}"
        async with Egress((target,)).serve(path):
            smuggled = get(target) + b"GET /y HTTP/1.1\r\nHost: other.test\r\n\r\n"
            assert (await ask(path, smuggled)).endswith(b"GET /x HTTP/1.1|")
        assert len(server.got) == 1
        assert b"other.test" not in server.got[0]


async def test_a_tunnel_carries_bytes_both_ways_and_their_ends(path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write(b"end")
        writer.close()

    data = os.urandom(1 << 20)
    async with listening(echo) as server, Egress((f"{LOOPBACK}:{server.port}",)).serve(path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"CONNECT {LOOPBACK}:{server.port} HTTP/1.1\r\n\r\n".encode() + data[:1000])
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        async with asyncio.TaskGroup() as group:
            back = group.create_task(reader.readexactly(len(data)))
            writer.write(data[1000:])
            await writer.drain()
        assert back.result() == data
        writer.write_eof()
        assert await reader.read() == b"end"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("form", ["GET http://{}/ HTTP/1.1\r\n\r\n", "CONNECT {} HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("target", ["b.test:443", "a.test:8080", "x.a.test:80", "127.0.0.1:443", "[::1]:80"])
async def test_everything_else_is_refused_without_a_look_up(path: Path, form: str, target: str) -> None:
    def look_up(host: str, port: int) -> list[str]:
        raise AssertionError("what is refused is not looked up: names carry data out")

    egress = Egress(("a.test",), resolve=look_up)
    async with egress.serve(path):
        answer = await ask(path, form.format(target).encode())
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    body = answer.partition(b"\r\n\r\n")[2]
    assert body == f"{target} is not a host that this sandbox may reach\n".encode()
    assert (egress.passed, egress.refused) == (0, 1)


async def test_what_is_no_proxy_request_is_told_so(path: Path) -> None:
    async with Egress(("a.test",)).serve(path):
        for wrong in (b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
            assert (await ask(path, wrong)).startswith(b"HTTP/1.1 400 Bad Request")
        long = b"GET http://a.test/ HTTP/1.1\r\nX: " + b"x" * proxy.HEAD_SIZE * 2
        assert (await ask(path, long)).startswith(b"HTTP/1.1 431 ")


# ---------------------------------------------------------------- rebinding


@pytest.mark.parametrize("address", [LOOPBACK, "::1", "::ffff:127.0.0.1", "169.254.169.254", "10.0.0.1"])
async def test_a_name_that_leads_into_the_owners_network_leads_nowhere(path: Path, address: str) -> None:
    async with listening() as server:
        egress = Egress((f"a.test:{server.port}",), resolve=lambda host, port: [address])
        async with egress.serve(path):
            answer = await ask(path, get(f"a.test:{server.port}"))
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert answer.endswith(b"leads to no address that may be reached\n")
        assert server.got == []


async def test_the_address_that_was_checked_is_the_one_connected_to(path: Path) -> None:
    """A resolver that says another thing the second time is not asked a second time."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return [LOOPBACK] if len(asked) == 1 else ["127.0.0.2"]

    async with listening() as server:
        egress = Egress((f"a.test:{server.port}", f"{LOOPBACK}:{server.port}"), resolve=rebinding)
        async with egress.serve(path):
            assert (await ask(path, get(f"a.test:{server.port}"))).endswith(b"GET /x HTTP/1.1|")
        assert asked == ["a.test"]
        assert len(server.got) == 1


async def test_of_several_addresses_only_those_that_may_be_reached_are_tried(path: Path) -> None:
    async with listening() as server:
        allowed = (f"a.test:{server.port}", f"{LOOPBACK}:{server.port}")
        addresses = ["::1", "10.0.0.1", LOOPBACK]
        async with Egress(allowed, resolve=lambda host, port: addresses).serve(path):
            assert (await ask(path, get(f"a.test:{server.port}"))).endswith(b"GET /x HTTP/1.1|")


# ---------------------------------------------------------------- failures and ends


def unknown_host(host: str, port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_host_that_cannot_be_reached_is_told(path: Path) -> None:
    async with Egress(("a.test",), resolve=unknown_host).serve(path):
        answer = await ask(path, get("a.test"))
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert answer.endswith(b"a.test:80 has no address: Name or service not known\n")
    with socket.create_server((LOOPBACK, 0)) as gone:
        port = gone.getsockname()[1]
    async with Egress((f"{LOOPBACK}:{port}",)).serve(path):
        assert b"cannot be reached: Connection refused" in await ask(path, get(f"{LOOPBACK}:{port}"))


async def test_who_says_nothing_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        closed.set()
        writer.close()

    async with listening(silent) as server, Egress((f"{LOOPBACK}:{server.port}",)).serve(path):
        with monkeypatch.context() as patch:
            patch.setattr(proxy, "HEAD_DEADLINE", 0.05)
            assert (await ask(path, b"GET http://a.test/ HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")
        monkeypatch.setattr(proxy, "IDLE_DEADLINE", 0.05)
        tunnel = f"CONNECT {LOOPBACK}:{server.port} HTTP/1.1\r\n\r\n"
        assert await ask(path, tunnel.encode()) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        await asyncio.wait_for(closed.wait(), 60)


def left() -> set[object]:
    """Open files and tasks."""
    return {*os.listdir("/proc/self/fd"), *asyncio.all_tasks()}


async def test_nothing_is_left_when_it_ends(path: Path) -> None:
    """Neither what is said just then, nor a tunnel, nor a file, a thread or a task."""
    closed = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        closed.set()
        writer.close()

    async with listening(hold) as server:
        before = left()
        async with Egress((f"{LOOPBACK}:{server.port}",), resolve=to_loopback).serve(path):
            _, idle = await asyncio.open_unix_connection(path)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(f"CONNECT {LOOPBACK}:{server.port} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        await asyncio.wait_for(closed.wait(), 60)
        for end in (idle, writer):
            end.close()
            await end.wait_closed()
        async with asyncio.timeout(60):  # until the test's own server lets go of its end
            while left() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert os.listdir(path.parent) == []


async def test_its_variables_keep_a_sandboxs_own_loopback_out_of_it() -> None:
    own = Egress(("a.test",)).variables(3128)
    assert own["http_proxy"] == own["HTTPS_PROXY"] == "http://127.0.0.1:3128"
    assert own["no_proxy"] == own["NO_PROXY"] == "localhost,127.0.0.1,::1"
    assert Egress(("127.0.0.1:80",)).variables(1)["no_proxy"] == "localhost,::1"
