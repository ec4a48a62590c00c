"""The OpenAPI document of a server's HTTP routes, made from a table of them.

An operation says what a caller sends and gets by naming the pydantic models of both, whose JSON Schemas
become the document's components. What every operation has in common, the faults, is added here. WebSockets
are beyond what such a document can say: ours is described by :mod:`turnwise.envs.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from turnwise.envs.faults import Fault
from turnwise.envs.listing import EnvInfo, EnvList, Health, SessionList
from turnwise.envs.status import Status
from turnwise.envs.wire import PATH, Role

VERSION = "1.0.0"
"""Of the HTTP interface; OpenEnv's validator knows the major number."""
ABOUT = f"Sessions are opened and stepped by a WebSocket at {PATH}, which is not described here."
JSON = "application/json"

Schema = dict[str, Any]
Answer = type[BaseModel] | str | None
"""A model that is sent as JSON, another media type, or nothing."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route does."""

    method: str
    path: str
    """With ``{name}`` for what varies."""
    summary: str
    answers: Mapping[HTTPStatus, Answer]
    """Where all goes well."""
    faults: tuple[HTTPStatus, ...] = ()
    """Beside those that any route may meet."""
    body: type[BaseModel] | None = None
    callers: tuple[Role, ...] | None = None
    """Who may call it; None for everyone, without a token."""
    fault: type[BaseModel] = Fault
    """What it answers where it does not go well."""


LOOKERS: tuple[Role, ...] = ("trainer", "grader", "admin")
OPERATORS: tuple[Role, ...] = ("trainer", "admin")
OK = HTTPStatus.OK
NOT_FOUND = HTTPStatus.NOT_FOUND

OPERATIONS = (
    Operation("GET", "/", "A page that shows the status", {OK: "text/html"}),
    Operation(
        "GET",
        "/health",
        "Whether the server is up",
        {OK: Health, HTTPStatus.SERVICE_UNAVAILABLE: Health},
    ),
    Operation("GET", "/openapi.json", "This document", {OK: JSON}),
    Operation(
        "GET",
        "/metrics",
        "Every count, in the text format of Prometheus",
        {OK: "text/plain"},
        callers=OPERATORS,
    ),
    Operation("GET", f"{PATH}/status", "How the server is doing", {OK: Status}, callers=OPERATORS),
    Operation("GET", f"{PATH}/environments", "What is served", {OK: EnvList}, callers=LOOKERS),
    Operation(
        "GET",
        f"{PATH}/environments/{{name}}",
        "Tools, milestones, channels, options and splits of an environment",
        {OK: EnvInfo},
        faults=(NOT_FOUND,),
        callers=LOOKERS,
    ),
    Operation("GET", f"{PATH}/sessions", "The sessions that are open", {OK: SessionList}, callers=OPERATORS),
    Operation(
        "DELETE",
        f"{PATH}/sessions/{{name}}",
        "Close a session",
        {HTTPStatus.NO_CONTENT: None},
        faults=(NOT_FOUND,),
        callers=OPERATORS,
    ),
)
"""The routes of this project's own."""


def document(operations: Sequence[Operation]) -> Schema:
    """The document of these operations."""
    sent = {operation.body for operation in operations if operation.body is not None}
    got = {operation.fault for operation in operations}
    got |= {answer for one in operations for answer in one.answers.values() if isinstance(answer, type)}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in sent]
    modes += [(model, "serialization") for model in got]
    modes.sort(key=lambda pair: pair[0].__name__)
    found, whole = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    schemas = {pair[0]: found[pair] for pair in modes}
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Turnwise environment server", "description": ABOUT, "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": whole["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, schemas: Mapping[type[BaseModel], Schema]) -> Schema:
    told: Schema = {
        "summary": operation.summary,
        "responses": {
            str(int(status)): _response(status, answer, schemas)
            for status, answer in {
                **dict.fromkeys(_faults(operation), operation.fault),
                **operation.answers,
            }.items()
        },
    }
    if operation.callers is not None:
        told["security"] = [{"token": []}]
        told["description"] = (
            f"For {', '.join(operation.callers)}. Without tokens every caller is the trainer."
        )
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    if parameters:
        told["parameters"] = parameters
    if operation.body is not None:
        required = any(field.is_required() for field in operation.body.model_fields.values())
        told["requestBody"] = {"required": required, "content": {JSON: {"schema": schemas[operation.body]}}}
    return told


def _faults(operation: Operation) -> list[HTTPStatus]:
    """What may go wrong; a method that a path has not is answered on every path."""
    faults = {HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, *operation.faults}
    if operation.callers is not None:
        faults |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    if operation.body is not None:
        faults |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
    return sorted(faults)


def _response(status: HTTPStatus, answer: Answer, schemas: Mapping[type[BaseModel], Schema]) -> Schema:
    told: Schema = {"description": status.phrase}
    if isinstance(answer, str):
        told["content"] = {answer: {"schema": {"type": "object" if answer == JSON else "string"}}}
    elif answer is not None:
        told["content"] = {JSON: {"schema": schemas[answer]}}
    return told
