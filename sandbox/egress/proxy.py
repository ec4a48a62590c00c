"""The proxy itself: one connection is one request, checked, then passed on or refused.

Nothing waits for ever: a head, a look-up and a connection have deadlines of their own, and a connection
on which no byte moves is ended. What a connection costs is bounded by the acceptor's number of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

from turnwise.sandbox.acceptor import Acceptor, Handle
from turnwise.sandbox.egress.allowed import AllowList, address_of
from turnwise.sandbox.egress.head import Refusal, Request, parse

logger = logging.getLogger(__name__)

HEAD_SIZE = 1 << 15
HEAD_DEADLINE = 10.0
CONNECT_DEADLINE = 10.0
IDLE_DEADLINE = 120.0
LINGER = 2.0
"""Seconds that a closing connection has to take what is still to be sent."""
MOST_ADDRESSES = 4
MOST_TOLD = 100
"""Different refusals that are logged; all are counted."""
_CHUNK = 1 << 16
_OWN = ("localhost", "127.0.0.1", "::1")

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host, looked up in a thread. Raises ``OSError``."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def look_up(host: str, port: int) -> list[str]:
    """What this machine's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Egress:
    """The proxy of one allow-list; ``name`` stands in its log.

    ``async with Egress(("pypi.org",)).serve(path): …``
    """

    def __init__(
        self, allowed: tuple[str, ...], *, name: str = "sandbox", resolve: Resolve = look_up
    ) -> None:
        self._allowed, self._name, self._resolve = AllowList(allowed), name, resolve
        self._told: set[tuple[str, int]] = set()
        self.passed = self.refused = 0
        """Requests so far that reached their host, and that did not."""

    def variables(self, port: int) -> dict[str, str]:
        """What tells a program inside that the proxy listens on ``port`` of its loopback.

        Programs there serve each other on the loopback without it, unless the list names that.
        """
        url = f"http://127.0.0.1:{port}"
        direct = ",".join(name for name in _OWN if not self._allowed.names(name))
        pairs = {"http_proxy": url, "https_proxy": url, "no_proxy": direct}
        return pairs | {name.upper(): value for name, value in pairs.items()}

    @asynccontextmanager
    async def serve(self, where: Path | socket.socket) -> AsyncIterator[None]:
        """Serve a Unix socket made at a path, or a listening socket, which is closed in the end.

        Raises ``OSError`` where nothing can be bound.
        """
        listener = where if isinstance(where, socket.socket) else _bound(where)
        with self.answering() as handle:
            acceptor = Acceptor(listener, handle)
            try:
                yield
            finally:
                await acceptor.close()
                if isinstance(where, Path):
                    with suppress(FileNotFoundError):
                        os.unlink(where)

    @contextmanager
    def answering(self) -> Iterator[Handle]:
        """What serves one connection, for who accepts them otherwise; he ends them before the block ends."""
        lookups = ThreadPoolExecutor(2, "egress")  # of its own: slow names hold up nobody else
        try:
            yield partial(self._connection, lookups)
        finally:
            lookups.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ one connection
    async def _connection(self, lookups: Executor, accepted: socket.socket) -> None:
        async with _streams(accepted) as (reader, writer):
            try:
                request = parse(await _read_head(reader))
                server = await self._connect(request, lookups)
            except Refusal as refusal:
                self.refused += 1
                await _answer(reader, writer, refusal)
                return
            self.passed += 1
            async with _streams(server) as (server_reader, server_writer):
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_DEADLINE) as idle:
                        await _exchange(request, (reader, writer), (server_reader, server_writer), idle)

    async def _connect(self, request: Request, lookups: Executor) -> socket.socket:
        """A connection to the host. Raises :class:`Refusal`."""
        if not self._allowed.matches(request.host, request.port):
            raise self._forbid(request, "is not a host that this sandbox may reach")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                addresses: Sequence[str] = [request.host]
                if address_of(request.host) is None:
                    resolve = partial(self._resolve, request.host, request.port)
                    addresses = await loop.run_in_executor(lookups, resolve)
                checked = [a for a in addresses if self._allowed.admits(ip_address(a), request.port)]
                if not checked:
                    raise self._forbid(request, "leads to no address that may be reached")
                return await _reach(checked[:MOST_ADDRESSES], request.port)
        except TimeoutError:
            raise Refusal(504, f"{request.target} does not answer") from None
        except socket.gaierror as error:
            raise Refusal(502, f"{request.target} has no address: {error.strerror}") from None
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise Refusal(502, f"{request.target} cannot be reached: {why}") from None

    def _forbid(self, request: Request, why: str) -> Refusal:
        key = (request.host, request.port)
        if key not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(key)
            logger.info("%s: %s %s", self._name, request.target, why)
        return Refusal(403, f"{request.target} {why}")


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def _streams(connected: socket.socket) -> AsyncIterator[Streams]:
    """A connection as streams; in the end it has a moment to send what is left, and is gone."""
    with connected:
        reader, writer = await asyncio.open_connection(sock=connected, limit=HEAD_SIZE)
        try:
            with suppress(OSError):  # the agent or the server broke off
                yield reader, writer
                async with asyncio.timeout(LINGER):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(HEAD_DEADLINE):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise Refusal(408, "the request did not come in time") from None
    except asyncio.IncompleteReadError:
        raise Refusal(400, "the request ended early") from None
    except asyncio.LimitOverrunError:
        raise Refusal(431, f"the request's head is larger than {HEAD_SIZE} bytes") from None


async def _reach(addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first address that takes it. Raises the last one's ``OSError``."""
    loop = asyncio.get_running_loop()
    failure: OSError = TimeoutError()
    for address in addresses:
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE / 2):
                await loop.sock_connect(connection, (address, port))
        except OSError as error:  # a time-out is one
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: Refusal) -> None:
    body = f"{refusal}\n".encode()
    writer.write(
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    writer.write(body)
    writer.write_eof()
    with suppress(TimeoutError):  # closed with bytes unread, it would be reset before the answer is read
        async with asyncio.timeout(LINGER):
            while await reader.read(_CHUNK):
                pass


# ------------------------------------------------------------ bytes both ways
async def _exchange(request: Request, client: Streams, server: Streams, idle: asyncio.Timeout) -> None:
    """Pass on the request and its answer, or a tunnel's bytes. Raises ``OSError``."""
    try:
        async with asyncio.TaskGroup() as group:
            if request.head is None:
                client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                group.create_task(_copy(client[0], server[1], idle))
                await _copy(server[0], client[1], idle)
            else:
                server[1].write(request.head)
                body = group.create_task(_copy_body(client[0], server[1], idle, request.length))
                await _copy(server[0], client[1], idle)
                body.cancel()
    except* OSError as errors:
        raise ConnectionError(str(errors.exceptions[0])) from None


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
    """One direction, to its end, which is passed on."""
    while data := await source.read(_CHUNK):
        await _send(data, target, idle)
    target.write_eof()


async def _copy_body(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, idle: asyncio.Timeout, length: int
) -> None:
    """As many bytes as the request said; what comes behind them is not passed on."""
    while length > 0 and (data := await source.read(min(length, _CHUNK))):
        length -= len(data)
        await _send(data, target, idle)


async def _send(data: bytes, target: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
    target.write(data)
    await target.drain()
    idle.reschedule(asyncio.get_running_loop().time() + IDLE_DEADLINE)
