"""What operators ask a server over HTTP: its status, its metrics, its OpenAPI document, and a page.

The page is one file that loads nothing; its script asks for the status every two seconds, with the token
that is typed into it where the server wants one.
"""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from http import HTTPStatus
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from turnwise.envs.serving.counters import OK, Counters
from turnwise.envs.serving.faults import Fault
from turnwise.envs.serving.metrics import CONTENT_TYPE, exposition
from turnwise.envs.serving.openapi import Operation, document
from turnwise.envs.serving.siblings import Siblings
from turnwise.envs.serving.status import whole
from turnwise.envs.serving.wire import PATH

TITLE = "Turnwise environment server"
ABOUT = f"""Sessions are opened and stepped by a WebSocket at {PATH}, or as OpenEnv does by one at /ws, which
this document cannot describe. OpenEnv's routes at the root are of the first environment that is served.
Those of each are under /openenv/NAME, with a document of their own."""
UNMATCHED = "other"
"""The type of requests that no route answers."""


class Operations:
    """The operators' routes. ``check`` raises ``Refusal`` for whoever is none; ``routes`` is what the
    document lists."""

    def __init__(
        self, siblings: Siblings, check: Callable[[web.Request], object], routes: Sequence[Operation]
    ) -> None:
        self._siblings, self._check = siblings, check
        self._document = document(routes, TITLE, ABOUT)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/openapi.json", self._openapi)
        app.router.add_get(f"{PATH}/status", self._status)

    async def _status(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response(text=whole(*await self._siblings.reports()).model_dump_json())

    async def _metrics(self, request: web.Request) -> web.Response:
        self._check(request)
        body = exposition(*await self._siblings.reports())
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(self._document)

    async def _page(self, request: web.Request) -> web.Response:
        text, policy = status_page()
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)


@cache
def status_page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and style and reach its own server alone."""
    text = (Path(__file__).parent / "status.html").read_text(encoding="utf-8")
    hashes = []
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes.append(b64encode(hashlib.sha256(inside.encode()).digest()).decode())
    style, script = hashes
    policy = (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def http_log() -> logging.Logger:
    """Where the HTTP library logs, but for requests that it could not read: it would quote their heads, and
    so the tokens in them."""
    log = logging.getLogger(f"{__name__}.http")
    log.addFilter(_readable)
    return log


def _readable(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


FAULT = web.ResponseKey("fault", Fault)
"""The fault that a response tells of."""


def counted(counters: Counters) -> Middleware:
    """A middleware that counts requests by route, with the codes of the faults they meet."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        kind = UNMATCHED if resource is None else f"{request.method} {resource.canonical}"
        response = await handler(request)
        if FAULT in response:
            counters.refused(kind, response[FAULT])
        else:
            counters.answered(
                kind, OK if response.status < HTTPStatus.BAD_REQUEST else f"http_{response.status}"
            )
        return response

    return count
