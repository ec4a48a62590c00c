"""A single call as an action, with the meaning that it has for the project's own agents."""

from __future__ import annotations

from collections.abc import Collection

from turnwise.envs.types import Action, CallAction, FinishAction, InvalidAction, ToolCall

FINISH = "finish"


def act(call: ToolCall, tools: Collection[str]) -> Action:
    """The action of a call; ``finish`` ends the episode where none of the ``tools`` has that name."""
    if call.name != FINISH or FINISH in tools:
        return CallAction(calls=(call,))
    answer = call.arguments.get("answer", "")
    if not isinstance(answer, str) or call.arguments.keys() - {"answer"}:
        return InvalidAction(text=call.model_dump_json(), error="finish takes one argument, the text answer")
    return FinishAction(answer=answer)
