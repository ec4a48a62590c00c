"""Serving an MCP server: on standard input and output, or as streamable HTTP.

Over HTTP the same rule holds as for the environment server: without a token it listens on loopback only,
where the package besides refuses what a web page in a browser of this machine could send.
"""

from __future__ import annotations

import asyncio
import hmac
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from turnwise.envs.errors import UsageError
from turnwise.envs.hosts import is_loopback
from turnwise.envs.wire import check_token

SESSIONS = 128
"""Open at once; one more is refused."""
GOODBYE_SECONDS = 5
"""How long requests that are being answered may take when the server is told to stop."""


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one session, until standard input ends."""
    async with stdio_server() as (messages, answers):
        await serve_loop(server, messages, answers, lifespan_state={})


async def serve_http(
    server: Server[Any], host: str, port: int, token: str | None, listening: Callable[[str], None]
) -> None:
    """Serve sessions until SIGINT or SIGTERM; ``listening`` is told the URL.

    Raises ``UsageError`` for an address that cannot be listened on, and without a token beyond loopback.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"host {host!r} can be reached from other machines: set a token (--token or TURNWISE_TOKEN), "
            "or serve on 127.0.0.1"
        )
    app: ASGIApp = server.streamable_http_app(host=host, max_sessions=SESSIONS)
    if token is not None:
        app = RequireToken(app, check_token(token))
    config = uvicorn.Config(
        app, ws="none", access_log=False, log_config=None, timeout_graceful_shutdown=GOODBYE_SECONDS
    )
    with listen(host, port) as listener:
        place = f"[{host}]" if ":" in host else host
        listening(f"http://{place}:{listener.getsockname()[1]}/mcp")
        await WebServer(config).serve(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Raises ``UsageError`` where that is not possible, as on a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error


class WebServer(uvicorn.Server):
    """One whose owner goes on when it was told to stop, instead of dying of the same signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal; a second one finds the usual handler."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self.should_exit = True
            self.release(loop)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            self.release(loop)

    def release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the signals back."""
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class RequireToken:
    """Answers 401 to requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._expected):
                refusal = JSONResponse(
                    {"error": "unauthorized: send the header 'Authorization: Bearer TOKEN'"},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
