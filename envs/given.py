"""What is given to a session and to what opens one, looked at before it goes anywhere.

A session here and one on a server refuse the same things with the same words: the field, the value and what
it must be. Whatever is let through is neither a failure of the environment nor of the way to a server.
"""

from __future__ import annotations

import operator
import re
from typing import TypeGuard

from turnwise.envs.errors import UsageError, shown, unknown
from turnwise.envs.types import Action, CallAction, EndReason, FinishAction, InvalidAction, Task, TextAction

NAME = r"^[A-Za-z0-9_-]{1,64}$"
"""What sessions and snapshots may be called."""
_ACTIONS = (CallAction, TextAction, FinishAction, InvalidAction)


def check_action(action: object) -> Action:
    """An action. Raises ``UsageError`` for anything else."""
    if not _is_action(action):
        raise UsageError(
            f"action {shown(action)}: must be call(TOOL, ARGUMENT=…), "
            "or a CallAction, TextAction, FinishAction or InvalidAction"
        )
    return action


def _is_action(action: object) -> TypeGuard[Action]:
    # By its type first: an isinstance that fails costs more with pydantic's models.
    return type(action) in _ACTIONS or isinstance(action, _ACTIONS)


def check_whole(field: str, value: object, least: int | None = None) -> int:
    """A whole number, no less than ``least``. Raises ``UsageError`` naming the field."""
    bound = "" if least is None else f", at least {least}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise UsageError(f"{field} {shown(value)}: must be a whole number{bound}")
    return number


def check_name(field: str, value: object) -> str:
    """A name of a session or a snapshot. Raises ``UsageError`` naming the field."""
    if not isinstance(value, str) or re.fullmatch(NAME, value) is None:
        raise UsageError(f"{field} {shown(value)}: must be a name of 1 to 64 letters, digits, '_' and '-'")
    return value


def check_task(task: object) -> Task:
    """A task. Raises ``UsageError`` for anything else."""
    if not isinstance(task, Task):
        raise UsageError(f"task {shown(task)}: must be a Task; or leave it out and give seed and split")
    return task


def check_end(end: object) -> EndReason:
    """The reason for an end. Raises ``UsageError`` for what is none."""
    for known in EndReason:
        if end == known:
            return known
    raise unknown("end", end, EndReason)
