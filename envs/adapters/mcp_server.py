"""The tools of an environment as an MCP server: one episode for each MCP session, one turn for each call.

The episode starts with the session's ``initialize`` and its sandbox goes when the session ends. The task is
in the server's instructions, and a prompt ``task`` has it with its images. Where no tool hands in, a tool
``finish`` is added. The end of the episode is told as a call's result; scores, rewards and milestones are the
trainer's, who gets them as :class:`RecordedTurn`, and no client ever does.

An episode is a session, so the protocol's revision without sessions (2026-07-28) is refused in the way that
makes its clients fall back to the one before. What the package keeps for one session is on its connection,
which a handler reaches by a private attribute only: :func:`_state` is the one place.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from turnwise.envs.adapters.calls import FINISH, act
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.types import (
    Action,
    AgentView,
    Model,
    StepRecord,
    TaskRef,
    TextBlock,
    ToolCall,
)

Context: TypeAlias = ServerRequestContext[Any, Any]
EPISODE = "turnwise episode"
TASK = "task"
FINISH_TOOL = types.Tool(
    name=FINISH,
    description="End the episode: the work is done.",
    input_schema={"type": "object", "properties": {"answer": {"type": "string", "default": ""}}},
)


class RecordedTurn(Model):
    """What the trainer's side learns of one call."""

    episode: str
    """Tells the episodes of one server apart."""
    task: TaskRef
    action: Action
    record: StepRecord


Recorder: TypeAlias = Callable[[RecordedTurn], None]


@dataclass(slots=True)
class Episode:
    """An MCP session's episode."""

    session: Session
    view: AgentView
    """The task, as it is shown first."""
    record: Recorder
    name: str = field(default_factory=lambda: uuid4().hex)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def call(self, call: ToolCall) -> types.CallToolResult:
        """Carry out a turn; calls at the same time are turns one after another.

        A client that no longer waits does not stop the turn: half of one would leave a state nobody knows.
        """
        async with self._turn:
            if self.session.end is not None:
                over = f"The episode has ended ({self.session.end}): no call is carried out any more."
                return types.CallToolResult(content=[types.TextContent(text=over)], is_error=True)
            action = act(call, self.session.env.interface.tools)
            with anyio.CancelScope(shield=True):
                step = await self.session.step(action)
            assert step.record is not None
            turn = RecordedTurn(
                episode=self.name, task=self.session.task.ref, action=action, record=step.record
            )
            self.record(turn)
        content = blocks(step.view)
        if step.end is not None:
            content.append(types.TextContent(text=f"The episode has ended ({step.end})."))
        return types.CallToolResult(content=content, is_error=not step.record.valid)


def episode_server(
    envs: LocalEnvs, env: str | EnvSpec, *, record: Recorder, seed: int = 0, split: str = "test"
) -> Server[Any]:
    """A server of the split's task number ``seed``: every session is an episode of that task.

    Raises ``UsageError`` for an unknown environment, option or split.
    """
    spec = EnvSpec.parse(env)
    instance = spec.make()
    instance.task_set(split)
    tools = [
        types.Tool(name=tool.name, description=tool.description, input_schema=tool.parameters)
        for tool in instance.interface.specs
    ]
    if not any(tool.submits for tool in instance.interface.tools.values()):
        tools.append(FINISH_TOOL)

    async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        _episode(context)
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await _episode(context).call(ToolCall(name=params.name, arguments=params.arguments or {}))

    async def start(stack: AsyncExitStack) -> Episode:
        session = await stack.enter_async_context(envs.open(spec, seed=seed, split=split))
        try:
            return Episode(session, await session.reset(), record)
        except EpisodeFailed as failure:
            raise MCPError(types.INTERNAL_ERROR, f"the episode could not start: {failure.end}") from failure

    async def begin(ctx: Context, call_next: CallNext) -> HandlerResult:
        """Start the episode before ``initialize`` is answered, with the task in the answer."""
        result = await call_next(ctx)
        if ctx.method != "initialize":
            return result
        state, stack = _state(ctx)
        if EPISODE not in state:
            state[EPISODE] = await start(stack)
        assert isinstance(result, dict)
        return result | {"instructions": f"{state[EPISODE].session.guide}\n\n{state[EPISODE].view.text}"}

    server: Server[Any] = Server(
        f"turnwise {spec}",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=_list_prompts,
        on_get_prompt=_get_prompt,
    )
    server.middleware.append(begin)
    server.add_request_handler("server/discover", types.RequestParams, _discover)
    return server


async def _list_prompts(context: Context, _: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[types.Prompt(name=TASK, description="What is to be done.")])


async def _get_prompt(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    if params.name != TASK:
        raise MCPError(types.INVALID_PARAMS, f"there is no prompt {params.name!r}, only {TASK!r}")
    content = blocks(_episode(context).view)
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=block) for block in content]
    )


async def _discover(context: Context, _: types.RequestParams) -> types.DiscoverResult:
    """Only the revisions with sessions."""
    return types.DiscoverResult(
        supported_versions=list(HANDSHAKE_PROTOCOL_VERSIONS), capabilities=types.ServerCapabilities()
    )


def _state(context: Context) -> tuple[dict[str, Any], AsyncExitStack]:
    """What is kept for the MCP session, and what is closed with it."""
    connection = context.session._connection
    return connection.state, connection.exit_stack


def _episode(context: Context) -> Episode:
    """The MCP session's episode. Raises ``MCPError`` where the caller has no session."""
    episode: Episode | None = _state(context)[0].get(EPISODE)
    if episode is None:
        versions = types.UnsupportedProtocolVersionErrorData(
            supported=list(HANDSHAKE_PROTOCOL_VERSIONS), requested=context.protocol_version
        )
        raise MCPError(
            types.UNSUPPORTED_PROTOCOL_VERSION,
            "an episode needs a session: begin with initialize",
            versions.model_dump(mode="json"),
        )
    return episode


def blocks(view: AgentView) -> list[types.ContentBlock]:
    """A view as MCP content; empty text is none."""
    return [
        types.TextContent(text=block.text)
        if isinstance(block, TextBlock)
        else types.ImageContent(data=base64.b64encode(block.data).decode(), mime_type=block.media_type)
        for block in view.content
        if not isinstance(block, TextBlock) or block.text
    ]
