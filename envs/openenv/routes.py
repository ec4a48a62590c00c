"""What OpenEnv's HTTP routes answer.

What resets and steps here keeps nothing: an episode needs the WebSocket. Looking at an environment is for
everyone whom the server lets in, the rest is the trainer's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from turnwise.envs.openenv.messages import (
    RangeBody,
    ResetBody,
    SplitBody,
    State,
    StepBody,
    TaskBody,
    problems,
    read_action,
)
from turnwise.envs.openenv.offer import Offer, Result
from turnwise.envs.openenv.openapi import described
from turnwise.envs.openenv.route import Call, Route
from turnwise.envs.openenv.rpc import RpcFailure, parse, read
from turnwise.envs.serving import openapi
from turnwise.envs.tasks import TaskSet
from turnwise.envs.types import SPLITS, Task


class HttpFailure(Exception):
    """A call that is answered with a status and its reason."""

    def __init__(self, status: HTTPStatus, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


# ---------------------------------------------------------------- looking


async def metadata(call: Call) -> object:
    """What the environment is called and is about."""
    offer = call.mount.offer
    return {
        "name": offer.name,
        "description": offer.guide,
        "readme_content": None,
        "version": offer.version,
        "author": None,
        "documentation_url": None,
    }


async def schema(call: Call) -> object:
    """JSON Schemas of actions, observations and the state."""
    return call.mount.offer.schemas()


async def document(call: Call) -> object:
    """This document."""
    offer = call.mount.offer
    return openapi.document(described(ROUTES, offer.name), offer.name, offer.guide, call.mount.path)


async def health(call: Call) -> object:
    """Whether the server is up."""
    return {"status": "healthy"}


# ---------------------------------------------------------------- single calls


async def reset(call: Call) -> object:
    """Start an episode that nobody goes on with."""
    return _with_metadata(await call.mount.aside.reset(call.mount.offer, call.body))


async def step(call: Call) -> object:
    """Carry out an action in a new episode."""
    try:
        action = read_action(call.body.action)
    except ValidationError as error:
        raise HttpFailure(HTTPStatus.UNPROCESSABLE_ENTITY, problems(error)) from None
    return _with_metadata(await call.mount.aside.step(call.mount.offer, action))


async def state(call: Call) -> object:
    """How a new session stands."""
    return State()


async def mcp(call: Call) -> object:
    """JSON-RPC 2.0: list the tools, call one, make and close a session, in whichever worker it is."""
    try:
        given = parse(call.body)
        if not isinstance(given, dict):
            raise RpcFailure(-32700, "Parse error")
        request = read(given)
    except RpcFailure as failure:
        return failure.reply()
    answered = await call.mount.elsewhere.answer(call.mount.path, call.caller, request)
    return answered or await call.mount.rpc.answer(call.caller, request)


# ---------------------------------------------------------------- tasks


async def list_environments(call: Call) -> object:
    """The name of the environment."""
    return [call.mount.offer.name]


async def splits(call: Call) -> object:
    """The splits of its tasks."""
    return [{"name": split, "type": split} for split in SPLITS]


async def tasks(call: Call) -> object:
    """Every task of a split."""
    found = _tasks(call.mount.offer, call.body.split)
    return {"tasks": [_public(task) for task in found], "env_name": call.mount.offer.name}


async def num_tasks(call: Call) -> object:
    """How many tasks a split has."""
    return {"num_tasks": len(_tasks(call.mount.offer, call.body.split))}


async def task(call: Call) -> object:
    """One task of a split."""
    found = _tasks(call.mount.offer, call.body.split)
    if not 0 <= call.body.index < len(found):
        raise HttpFailure(HTTPStatus.BAD_REQUEST, "Invalid task index")
    return {"task": _public(found[call.body.index])}


async def task_range(call: Call) -> object:
    """Some tasks of a split."""
    found = _tasks(call.mount.offer, call.body.split)
    return {"tasks": [_public(task) for task in found[call.body.start : call.body.stop]]}


ROUTES = (
    Route("GET", "/health", health, who="everyone"),
    Route("GET", "/metadata", metadata, who="agents"),
    Route("GET", "/schema", schema, who="agents"),
    Route("GET", "/openapi.json", document, who="agents"),
    Route("POST", "/reset", reset, ResetBody),
    Route("POST", "/step", step, StepBody),
    Route("GET", "/state", state),
    Route("POST", "/mcp", mcp, who="agents"),
    Route("GET", "/list_environments", list_environments, who="agents"),
    Route("GET", "/{env_name}/splits", splits),
    Route("POST", "/{env_name}/tasks", tasks, SplitBody),
    Route("POST", "/{env_name}/num_tasks", num_tasks, SplitBody),
    Route("POST", "/{env_name}/task", task, TaskBody),
    Route("POST", "/{env_name}/task_range", task_range, RangeBody),
)


def _with_metadata(result: Result) -> Result:
    return {"metadata": None, **result}


def _tasks(offer: Offer, split: str) -> TaskSet:
    """Raises ``UsageError`` for a split that there is not."""
    return offer.spec.make().task_set(split)


def _public(task: Task) -> object:
    return {"ref": task.ref, "public": task.public}
