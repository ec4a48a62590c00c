"""Makes the connections of a client to one server, and says what is wrong where there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from turnwise.envs.errors import UsageError, shown
from turnwise.envs.serving.faults import MAX_FRAME, Code
from turnwise.envs.serving.tokens import check_token
from turnwise.envs.serving.wire import HEARTBEAT, LEASE_HEADER, PATH, PROTOCOL, WORKER_HEADER, Welcome
from turnwise.sandbox.contract import SandboxError

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

CONNECT_SECONDS = 30.0


class ServerFailed(SandboxError):
    """The server failed, or the connection to it, or it has no room."""

    def __init__(self, message: str, code: Code | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        """What the server said, or ``gone`` where what was open is known to have ended with its worker or its
        lease; None where nothing is known."""
        self.retry_after = retry_after
        """Seconds after which the same may work."""


class Gone(ServerFailed):
    """The worker died that the client wants to return to, and with it what the client had there."""


class Dialler:
    """Makes connections to one server."""

    def __init__(self, http: ClientSession, url: str, trust: ssl.SSLContext | None) -> None:
        self._http, self._trust = http, trust
        self.url = without_password(url)
        """As it may be shown."""
        self._address = _address(url)
        self.changed = asyncio.Event()
        """Set, and another put in its place, when a link comes, goes or fails to come back."""

    async def dial(
        self, *, lease: str | None = None, worker: int | None = None, seconds: float = CONNECT_SECONDS
    ) -> tuple[ClientWebSocketResponse, Welcome]:
        """A connection, with the lease's key where the client returns, or else to a certain worker.

        Raises ``UsageError`` where another attempt is in vain, and :class:`ServerFailed`.
        """
        import aiohttp

        headers = {} if worker is None else {WORKER_HEADER: str(worker)}
        if lease is not None:
            headers = {LEASE_HEADER: lease}
        try:
            async with asyncio.timeout(min(seconds, CONNECT_SECONDS)):
                socket = await self._http.ws_connect(
                    self._address,
                    headers=headers,
                    heartbeat=HEARTBEAT,
                    max_msg_size=4 * MAX_FRAME,
                    compress=0,
                    ssl=self._trust or True,
                )
                try:
                    message = await socket.receive()
                    if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                        return socket, Welcome.model_validate_json(message.data)
                    raise ServerFailed(f"no server answers at {self.url}: what is there hangs up unasked")
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
        except (aiohttp.InvalidURL, UnicodeError):
            raise _mistake(self.url) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerFailed(f"no server answers at {self.url}: {error or type(error).__name__}") from error
        except ValidationError:
            raise UsageError(
                f"url {self.url!r}: no Turnwise server of protocol {PROTOCOL} is there"
            ) from None

    def notify(self) -> None:
        """A link changed: wake whoever waits for that."""
        self.changed.set()
        self.changed = asyncio.Event()


@asynccontextmanager
async def dialling(url: str, token: str | None, ca: Path | str | None) -> AsyncIterator[Dialler]:
    """What connects to a server. Raises ``UsageError`` for a URL, token or file that is wrong."""
    try:
        import aiohttp
    except ImportError:
        raise UsageError("a server's environments need aiohttp: pip install 'turnwise[server]'") from None
    if not isinstance(url, str):
        raise UsageError(f"url {shown(url)}: must be text that looks like http://host:8000 or https://host")
    if token is not None and without_password(url) != url:
        raise UsageError(f"url {without_password(url)!r}: give the token in it or by token=…, not in both")
    headers = {} if token is None else {"Authorization": f"Bearer {check_token(token)}"}
    trust = None if ca is None else _trust(ca)
    async with aiohttp.ClientSession(headers=headers) as http:
        yield Dialler(http, url, trust)


def _trust(ca: Path | str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca {str(ca)!r}: {error.strerror or error}") from error


def without_password(url: str) -> str:
    """A URL as it may be shown: without a user and password, which may be a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is not None and parts.netloc:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url.rpartition("@")[2]


def _mistake(url: str) -> UsageError:
    return UsageError(f"url {shown(url)}: must look like http://host:8000 or https://host (or ws, wss)")


def _address(url: str) -> str:
    """The WebSocket's address at a server's. Raises ``UsageError``."""
    mistake = _mistake(without_password(url))
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
        case 410:
            return Gone("its worker died, and what was open there with it", Code.GONE)
        case 429:
            seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
            return ServerFailed(f"{url} has no room for another client", Code.BUSY, seconds)
        case _:
            return ServerFailed(f"{url} answers with HTTP status {status}")
