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
from turnwise.envs.serving.hosts import is_loopback
from turnwise.envs.serving.tokens import check_token

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
    gate = Gate(server.streamable_http_app(host=host, max_sessions=SESSIONS), token)
    config = uvicorn.Config(
        gate,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )
    with listen(host, port) as listener:
        place = f"[{host}]" if ":" in host else host
        listening(f"http://{place}:{listener.getsockname()[1]}/mcp")
        web = WebServer(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(web.serve(sockets=[listener]))
            async with server.session_manager.run():
                await told_to_stop()
                gate.closed = True
            web.should_exit = True  # after the sessions, whose streams it would wait for


async def told_to_stop() -> None:
    """Wait for the first SIGINT or SIGTERM; a second one no longer waits for sessions to close."""
    signals = (signal.SIGINT, signal.SIGTERM)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def listen(host: str, port: int) -> socket.socket:
    """Raises ``UsageError`` where that is not possible, as on a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error


class WebServer(uvicorn.Server):
    """One that leaves signals to its owner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Gate:
    """Lets requests through that have the token, if there is one, until it is closed."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {check_token(token)}".encode()
        self.closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if self.closed:
            app = refusal(503, "the server is going down")
        elif self._expected is not None:
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._expected):
                app = refusal(401, "send the header 'Authorization: Bearer TOKEN'")
        await app(scope, receive, send)


def refusal(status: int, words: str) -> ASGIApp:
    """An answer to a request that is not let through."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"error": words}, status_code=status, headers=headers)
