"""A client's connection to a server, made anew when it drops.

While the client may return (see :mod:`turnwise.envs.lease`), it tries to, more and more slowly, and then
sends what was not answered once more. Who asks notices nothing but the time. Whatever goes wrong for good is
a :class:`ServerFailed`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from turnwise.envs.errors import UsageError
from turnwise.envs.faults import MAX_FRAME, Code
from turnwise.envs.outbox import Outbox, in_turn
from turnwise.envs.tokens import check_token
from turnwise.envs.wire import (
    HEARTBEAT,
    LEASE_HEADER,
    PATH,
    PROTOCOL,
    WORKER_HEADER,
    Reply,
    Request,
    Welcome,
    read_reply,
)
from turnwise.sandbox.contract import SandboxError

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

CONNECT_SECONDS = 30.0
PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between attempts to return: the first, doubled each time up to the other."""
STOPS = 1001
"""The code with which a server closes that stops: nobody need return."""


class ServerFailed(SandboxError):
    """The server failed, or the connection to it, or it has no room."""

    def __init__(self, message: str, code: Code | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        """What the server said; None where it said nothing."""
        self.retry_after = retry_after
        """Seconds after which the same may work."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was not yet answered."""

    frame: bytes
    reply: asyncio.Future[Reply]


class Dialler:
    """Makes connections to one server."""

    def __init__(self, http: ClientSession, url: str, trust: ssl.SSLContext | None) -> None:
        self._http, self.url, self._trust = http, url, trust
        self._address = _address(url)

    async def dial(
        self, *, lease: str | None = None, worker: int | None = None
    ) -> tuple[ClientWebSocketResponse, Welcome]:
        """A connection, with the lease's key where the client returns, or to a certain worker.

        Raises ``UsageError`` where another attempt is in vain, and :class:`ServerFailed`.
        """
        import aiohttp

        headers = {} if lease is None else {LEASE_HEADER: lease}
        headers |= {} if worker is None else {WORKER_HEADER: str(worker)}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self._http.ws_connect(
                    self._address,
                    headers=headers,
                    heartbeat=HEARTBEAT,
                    max_msg_size=4 * MAX_FRAME,
                    compress=0,
                    ssl=self._trust or True,
                )
                try:
                    return socket, Welcome.model_validate_json(await socket.receive_str())
                except BaseException:
                    await socket.close()
                    raise
        except aiohttp.WSServerHandshakeError as error:
            retry_after = None if error.headers is None else error.headers.get("Retry-After")
            raise _unwelcome(self.url, error.status, retry_after) from None
        except aiohttp.ClientConnectorCertificateError as error:
            failure = error.certificate_error
            assert isinstance(failure, ssl.SSLCertVerificationError)
            reason = failure.verify_message.rstrip(".")
            raise UsageError(
                f"{self.url}: its certificate is not trusted: {reason}; connect(url, ca=FILE) trusts "
                "another, for the hosts that it names"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise ServerFailed(f"no server answers at {self.url}: {error.os_error}") from error
        except aiohttp.ServerDisconnectedError as error:
            said = "what is there hangs up; is the scheme right?"
            raise ServerFailed(f"no server answers at {self.url}: {said}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerFailed(f"no server answers at {self.url}: {error or type(error).__name__}") from error
        except (TypeError, ValidationError):
            raise UsageError(
                f"url {self.url!r}: no Turnwise server of protocol {PROTOCOL} is there"
            ) from None


class Link:
    """A client's standing with a server. Use it as :func:`linked` gives it."""

    def __init__(self, dialler: Dialler, socket: ClientWebSocketResponse, welcome: Welcome) -> None:
        self.url = dialler.url
        self.welcome = welcome
        self._dialler, self._socket = dialler, socket
        self._outbox = Outbox(socket)
        self._ids = count()
        self._asked: dict[int, Asked] = {}
        self.up = True
        """Whether there is a connection now."""
        self._end: float | None = None
        self._pause = PAUSE
        """When a client that is away gives up, and how long it waits before the next attempt; kept until a
        reply comes, so that a connection that is made and drops at once does not count."""
        self._lost: str | None = None
        """Why there will be no connection any more."""

    @property
    def lost(self) -> bool:
        """Whether there will be no connection any more."""
        return self._lost is not None

    def next_id(self) -> int:
        """A request's number."""
        return next(self._ids)

    async def ask(self, request: Request, seconds: float) -> Reply:
        """Send a request and wait for its reply. Raises :class:`ServerFailed`, and ``UsageError`` for a
        request too large."""
        asked = self._ask(request)
        try:
            async with asyncio.timeout(seconds):
                await self._outbox.send(asked.frame, alone=len(self._asked) == 1)
                await self._outbox.room()
                return await asked.reply
        except TimeoutError:
            raise ServerFailed(f"{self.url} did not answer within {seconds:g} s") from None
        finally:
            self._asked.pop(request.id, None)

    async def tell(self, request: Request, seconds: float) -> None:
        """As :meth:`ask`, but while the client is away nobody waits: it is sent when it returns."""
        if self.up:
            await self.ask(request, seconds)
        elif self._lost is None:
            self._ask(request)

    def _ask(self, request: Request) -> Asked:
        frame = request.__pydantic_serializer__.to_json(request)
        if len(frame) > MAX_FRAME:
            raise UsageError(f"{request.type}: {len(frame):,} bytes are more than a frame may have")
        if self._lost is not None:
            raise ServerFailed(self._lost)
        asked = Asked(frame, asyncio.get_running_loop().create_future())
        self._asked[request.id] = asked
        return asked

    # -- the connection

    async def close(self) -> None:
        """Say goodbye: the server need not wait for the client's return."""
        self._lost = f"the connection to {self.url} was closed"
        await self._socket.close()

    async def serve(self) -> None:
        """Hand replies to who waits for them, and return as often as the connection drops."""
        reason = f"the connection to {self.url} is lost"
        try:
            while True:
                async with self._outbox:
                    await self._receive()
                self.up = False
                if self._lost is not None:
                    reason = self._lost
                    return
                if self._socket.close_code == STOPS:
                    reason = f"{self.url} stops"
                    return
                await self._return()
        except ValidationError as error:
            reason = f"{self.url} sent what is not of this protocol: {error.errors()[0]['msg']}"
        except (ServerFailed, UsageError) as error:
            reason += f": {error}"
        finally:
            self.up, self._lost = False, reason
            self._fail(reason)
            await self._socket.close()

    async def _receive(self) -> None:
        async for message in self._socket:
            if isinstance(message.data, Exception):
                break
            async for line in in_turn(message.data):
                self._deliver(read_reply(line))

    async def _return(self) -> None:
        """Connect again, within a lease of the last reply's connection. Raises :class:`ServerFailed`."""
        clock = asyncio.get_running_loop().time
        if self._end is None:
            self._end = clock() + self.welcome.lease_seconds
        error = ServerFailed("it does not last")
        while True:
            if clock() + self._pause > self._end:
                raise error
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                self._socket, welcome = await self._dialler.dial(lease=self.welcome.lease)
                break
            except ServerFailed as failure:
                error = failure
        if welcome.lease != self.welcome.lease:
            self._fail(f"{self.url} has given up this client's sessions")
        self.welcome, self.up, self._outbox = welcome, True, Outbox(self._socket)
        for asked in self._asked.values():
            self._outbox.put(asked.frame)

    def _fail(self, reason: str) -> None:
        for asked in self._asked.values():
            if not asked.reply.done():
                asked.reply.set_exception(ServerFailed(reason))
                asked.reply.exception()  # for some nobody waits
        self._asked.clear()

    def _deliver(self, reply: Reply) -> None:
        asked = self._asked.pop(-1 if reply.id is None else reply.id, None)
        if asked is not None and not asked.reply.done():  # else whoever asked was cancelled
            asked.reply.set_result(reply)
        self._end, self._pause = None, PAUSE


@asynccontextmanager
async def dialling(url: str, token: str | None, ca: Path | str | None) -> AsyncIterator[Dialler]:
    """What connects to a server. Raises ``UsageError`` for a URL, token or file that is wrong."""
    try:
        import aiohttp
    except ImportError:
        raise UsageError("a server's environments need aiohttp: pip install 'turnwise[server]'") from None
    headers = {} if token is None else {"Authorization": f"Bearer {check_token(token)}"}
    trust = None if ca is None else _trust(ca)
    async with aiohttp.ClientSession(headers=headers) as http:
        yield Dialler(http, url, trust)


@asynccontextmanager
async def linked(dialler: Dialler, worker: int | None = None) -> AsyncIterator[Link]:
    """A link to a server, to a certain worker of it where one is named. Raises what ``dial`` does."""
    link = Link(dialler, *await dialler.dial(worker=worker))
    serving = asyncio.create_task(link.serve(), name=f"reader of {link.url}")
    try:
        yield link
    finally:
        try:
            await link.close()
        finally:
            serving.cancel()
            await asyncio.wait([serving])
    if not serving.cancelled():
        await serving  # a fault of ours, if anything


def _trust(ca: Path | str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca {str(ca)!r}: {error.strerror or error}") from error


def _address(url: str) -> str:
    """The WebSocket's address at a server's. Raises ``UsageError``."""
    mistake = UsageError(f"url {url!r}: must look like http://host:8000 or https://host")
    try:
        parts = urlsplit(url)
        _ = parts.port  # looks at it
    except ValueError:
        raise mistake from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise mistake
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))


def _unwelcome(url: str, status: int, retry_after: str | None) -> Exception:
    match status:
        case 401:
            return UsageError(f"{url} refuses the token, or wants one: connect(url, token=…)")
        case 403:
            return UsageError(f"{url} refuses this caller: without a token it serves its own machine only")
        case 404:
            return UsageError(f"url {url!r}: no Turnwise server of this version is there")
        case 429:
            seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
            return ServerFailed(f"{url} has no room for another client", Code.BUSY, seconds)
        case _:
            return ServerFailed(f"{url} answers with HTTP status {status}")
