"""The OpenAPI document of the routes, made from their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from turnwise.envs.openenv.route import Route

VERSION = "1.0.0"
"""Of OpenEnv's HTTP interface; its validator knows the major number."""


def openapi(title: str, description: str, routes: Sequence[Route], base: str) -> dict[str, Any]:
    """The document for one environment, whose routes begin at ``base``."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": VERSION},
        "servers": [{"url": base or "/"}],
        "paths": paths,
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {"200": {"description": "Done", "content": {"application/json": {"schema": {}}}}},
    }
    if "{env_name}" in route.path:
        operation["parameters"] = [
            {"name": "env_name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
        operation["responses"]["404"] = {"description": "No environment of that name is here"}
    if route.body is not None:
        needed = any(field.is_required() for field in route.body.model_fields.values())
        schema = route.body.model_json_schema()
        operation["requestBody"] = {
            "required": needed,
            "content": {"application/json": {"schema": schema}},
        }
        operation["responses"]["422"] = {"description": "The body does not fit"}
    return operation
