"""OpenEnv's routes as the OpenAPI document lists them."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from turnwise.envs.openenv.route import Route
from turnwise.envs.serving.openapi import JSON, Operation
from turnwise.envs.serving.wire import Role

CALLERS: dict[str, tuple[Role, ...] | None] = {
    "everyone": None,
    "agents": ("trainer", "agent", "grader", "admin"),
    "trainer": ("trainer", "grader", "admin"),
}


class Failure(BaseModel):
    """What is answered to a call that fails."""

    detail: str | list[dict[str, Any]]


def described(routes: Sequence[Route], environment: str) -> list[Operation]:
    """The routes of an environment."""
    return [
        Operation(
            route.method,
            route.path,
            route.summary,
            {HTTPStatus.OK: JSON},
            faults=_faults(route),
            names=[environment],
            body=route.body,
            callers=CALLERS[route.who],
            fault=Failure,
        )
        for route in routes
    ]


def _faults(route: Route) -> tuple[HTTPStatus, ...]:
    unknown = (HTTPStatus.NOT_FOUND,) if "{" in route.path else ()
    return unknown if route.body is None else (*unknown, HTTPStatus.UNPROCESSABLE_ENTITY)
