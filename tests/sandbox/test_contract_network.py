"""The contract of every backend, the network: off, or the hosts of an allow-list through a proxy.

Nothing here leaves the machine: the allowed host is a server on the loopback that the test starts.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from turnwise.sandbox import Backend, ExecResult, Sandbox, SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")

FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=50).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
DIRECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 50)"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def port() -> AsyncIterator[int]:
    """Of a web server outside."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ngot " + request.split()[1])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest_asyncio.fixture(loop_scope="session")
async def online(any_backend: Backend, port: int) -> AsyncIterator[Sandbox]:
    async with await any_backend.create(SandboxSpec(network=(f"127.0.0.1:{port}",))) as created:
        yield created


async def fetch(sandbox: Sandbox, url: str) -> ExecResult:
    return await sandbox.exec(["python3", "-c", FETCH, url])


async def test_an_allowed_host_is_reached_and_others_are_refused(online: Sandbox, port: int) -> None:
    assert (await fetch(online, f"http://127.0.0.1:{port}/file")).stdout == b"got /file\n"
    refused = b"is not a host that this sandbox may reach\n\n"
    for other in ("refused.test", f"localhost.test:{port}", f"[::1]:{port}", "169.254.169.254"):
        assert (await fetch(online, f"http://{other}/")).stdout.endswith(refused)
    tunnel = await fetch(online, "https://refused.test/")
    assert b"Tunnel connection failed: 403 Forbidden" in tunnel.stderr


async def test_a_tunnel_to_an_allowed_host_is_made(online: Sandbox, port: int) -> None:
    program = """
        import http.client, os, sys, urllib.parse
        proxy = urllib.parse.urlsplit(os.environ["https_proxy"])
        connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=50)
        connection.set_tunnel("127.0.0.1", int(sys.argv[1]))
        connection.request("GET", "/inside")
        print(connection.getresponse().read().decode())
    """
    result = await online.exec(["python3", "-c", textwrap.dedent(program), str(port)])
    assert result.stdout == b"got /inside\n", result.stderr


async def test_the_shell_and_what_comes_after_reach_it_too(
    any_backend: Backend, online: Sandbox, port: int
) -> None:
    await online.write("fetch.py", FETCH.encode())
    again = f"python3 fetch.py http://127.0.0.1:{port}/again"
    assert (await online.shell(again)).stdout == b"got /again\n"
    snapshot = await online.snapshot()
    assert (await online.shell(again)).stdout == b"got /again\n"
    async with await any_backend.fork(snapshot) as fork:
        assert (await fork.shell(again)).stdout == b"got /again\n"
        assert (await fork.exec(again)).stdout == b"got /again\n"
    await online.restore(snapshot)
    assert (await online.exec(again)).stdout == b"got /again\n"
    await online.recycle()
    assert (await fetch(online, f"http://127.0.0.1:{port}/new")).stdout == b"got /new\n"
    await any_backend.drop(snapshot)


@pytest.mark.needs("network isolation")
async def test_there_is_no_other_way_out(online: Sandbox, sandbox: Sandbox, port: int) -> None:
    """With an allow-list or without there is the loopback, of the sandbox's own, and no route."""
    for one in (online, sandbox):
        interfaces = (await one.exec("tail -n +3 /proc/net/dev")).stdout.decode().splitlines()
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        assert (await one.exec("tail -n +2 /proc/net/route")).stdout == b""
        direct = await one.exec(["python3", "-c", DIRECT, str(port)])
        assert b"Connection refused" in direct.stderr


@pytest.mark.needs("network isolation")
async def test_without_a_list_there_is_no_proxy(sandbox: Sandbox, port: int) -> None:
    assert b"proxy" not in (await sandbox.exec("env")).stdout.lower()
    assert b"Connection refused" in (await fetch(sandbox, f"http://127.0.0.1:{port}/")).stderr


async def test_programs_inside_serve_each_other_without_it(any_backend: Backend) -> None:
    program = """
        import http.server, threading, urllib.request
        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(urllib.request.urlopen(f"http://localhost:{server.server_port}/", timeout=50).status)
    """
    async with await any_backend.create(SandboxSpec(network=("refused.test",))) as sandbox:
        result = await sandbox.exec(["python3", "-c", textwrap.dedent(program)])
        assert result.stdout == b"200\n", result.stderr


async def test_the_proxy_ends_with_what_it_is_for(any_backend: Backend) -> None:
    async with type(any_backend)().running() as backend:
        async with await backend.create(SandboxSpec()) as sandbox:
            await sandbox.exec("true")
        before = len(os.listdir("/proc/self/fd"))
        async with await backend.create(SandboxSpec(network=("allowed.test",))) as sandbox:
            for _ in range(3):
                assert (await fetch(sandbox, "http://refused.test/")).stdout.startswith(b"403")
                await sandbox.recycle()
        kept = 1 if "process" in any_backend.name else 0  # its proxy is the backend's
        async with asyncio.timeout(60):  # others close theirs, and containers are removed after recycling
            while len(os.listdir("/proc/self/fd")) > before + kept:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
