"""The OpenAPI document of a server's HTTP routes, made from a table of them.

An operation says what a caller sends and gets by naming the pydantic models of both, whose JSON Schemas
become the document's components. What every operation has in common, the faults, is added here. WebSockets
are beyond what such a document can say: ours is described by :mod:`turnwise.envs.serving.wire`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from turnwise.envs.serving.faults import Fault
from turnwise.envs.serving.listing import EnvInfo, EnvList, Health, SessionList
from turnwise.envs.serving.status import Status
from turnwise.envs.serving.wire import PATH, Role

VERSION = "1.0.0"
"""Of the HTTP interface; OpenEnv's validator knows the major number."""
JSON = "application/json"
OK = HTTPStatus.OK

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
    names: Sequence[str] = ()
    """What stands for the part that varies, where that is known."""
    body: type[BaseModel] | None = None
    callers: tuple[Role, ...] | None = None
    """Who may call it; None for everyone, without a token."""
    fault: type[BaseModel] = field(default=Fault)
    """What it answers where it does not go well."""


LOOKERS: tuple[Role, ...] = ("trainer", "grader", "admin")
OPERATORS: tuple[Role, ...] = ("trainer", "admin")


def operations(environments: Sequence[str]) -> list[Operation]:
    """The routes of this project's own, where these environments are served."""
    health: dict[HTTPStatus, Answer] = {OK: Health, HTTPStatus.SERVICE_UNAVAILABLE: Health}
    environment = "Tools, milestones, channels, options and splits of an environment"
    missing = (HTTPStatus.NOT_FOUND,)
    return [
        Operation("GET", "/", "A page that shows the status", {OK: "text/html"}),
        Operation("GET", "/health", "Whether the server is up", health),
        Operation("GET", "/openapi.json", "This document", {OK: JSON}),
        Operation(
            "GET", "/metrics", "All counts, in Prometheus's format", {OK: "text/plain"}, callers=OPERATORS
        ),
        Operation("GET", f"{PATH}/status", "How the server is doing", {OK: Status}, callers=OPERATORS),
        Operation("GET", f"{PATH}/environments", "What is served", {OK: EnvList}, callers=LOOKERS),
        Operation(
            "GET",
            f"{PATH}/environments/{{name}}",
            environment,
            {OK: EnvInfo},
            faults=missing,
            names=environments,
            callers=LOOKERS,
        ),
        Operation(
            "GET", f"{PATH}/sessions", "The sessions that are open", {OK: SessionList}, callers=OPERATORS
        ),
        Operation(
            "DELETE",
            f"{PATH}/sessions/{{name}}",
            "Close a session",
            {HTTPStatus.NO_CONTENT: None},
            faults=missing,
            callers=OPERATORS,
        ),
    ]


def document(described: Sequence[Operation], title: str, about: str, base: str = "") -> Schema:
    """The document of these operations, whose paths begin at ``base``."""
    sent = {operation.body for operation in described if operation.body is not None}
    got = {operation.fault for operation in described}
    got |= {answer for one in described for answer in one.answers.values() if isinstance(answer, type)}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in sent]
    modes += [(model, "serialization") for model in got]
    modes.sort(key=lambda pair: pair[0].__name__)
    found, whole = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    schemas = {pair[0]: found[pair] for pair in modes}
    paths: dict[str, Schema] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": about, "version": VERSION},
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": whole["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: Mapping[type[BaseModel], Schema]) -> Schema:
    answers = {**dict.fromkeys(_faults(operation), operation.fault), **operation.answers}
    told: Schema = {
        "summary": operation.summary,
        "responses": {str(int(status)): _response(status, answers[status], schemas) for status in answers},
    }
    if operation.callers is not None:
        told["security"] = [{"token": []}]
        who = ", ".join(operation.callers)
        told["description"] = f"For {who}. Where there are no tokens, every caller is the trainer."
    if varying := re.findall(r"\{(\w+)\}", operation.path):
        kind = {"enum": list(operation.names)} if operation.names else {"minLength": 1}
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", **kind}}
            for name in varying
        ]
    if operation.body is not None:
        needed = any(field.is_required() for field in operation.body.model_fields.values())
        told["requestBody"] = {"required": needed, "content": {JSON: {"schema": schemas[operation.body]}}}
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
        told["content"] = {answer: {"schema": {} if answer == JSON else {"type": "string"}}}
    elif answer is not None:
        told["content"] = {JSON: {"schema": schemas[answer]}}
    return told
