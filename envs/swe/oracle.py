"""The reference repair carried out with the agent's tools: look, replace, test, submit.

It starts from whatever state the repository is in and takes wrong changes back first, so it can go on after
an agent that went astray. Each edit is the smallest piece of text that is unique in its file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from turnwise.envs.types import Action, call

if TYPE_CHECKING:
    from turnwise.envs.swe.environment import SweEnv

_DEFINED = re.compile(r"^\s*(?:async )?(?:def|class) (\w+)", re.MULTILINE)


async def next_action(env: SweEnv) -> Action:
    """The best next action. Raises :class:`~turnwise.envs.swe.problems.TaskProblem` where there is no
    reference repair."""
    gold, base, changed = await env.gold(), await env.base_files(), await env.changed()
    if env.swe.visible and not env.tests_ran:
        return call("test")
    wanted = {path: base.get(path) for path in changed} | gold
    for path, target in wanted.items():
        current = changed[path] if path in changed else base.get(path)
        if current != target:
            return _look(env, path, current, target) or _edit(path, current, target)
    if env.swe.visible and not env.tested:
        return call("test")
    return call("submit")


def _look(env: SweEnv, path: str, current: bytes | None, target: bytes | None) -> Action | None:
    """Find and open a file before it is changed."""
    if current is None or path in env.opened:
        return None
    if not env.searched and target is not None:
        name = _enclosing(current.decode(), target.decode())
        if name is not None:
            return call("search", pattern=name if env.swe.terse else f"def {name}")
    return call("view", path=path)


def _enclosing(before: str, after: str) -> str | None:
    """The name of what is defined around the first change."""
    old = before.splitlines(keepends=True)
    first = next(i for tag, i, *_ in _matcher(old, after.splitlines(keepends=True)) if tag != "equal")
    names = _DEFINED.findall("".join(old[: first + 1]))
    return str(names[-1]) if names else None


def _matcher(old: list[str], new: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    return SequenceMatcher(None, old, new, autojunk=False).get_opcodes()


def _edit(path: str, current: bytes | None, target: bytes | None) -> Action:
    if target is None:
        return call("shell", command=f"rm -f '{path}'")
    if current is None:
        return call("create", path=path, content=target.decode())
    old, new = unique_edit(current.decode(), target.decode())
    return call("replace", path=path, old=old, new=new)


def unique_edit(before: str, after: str) -> tuple[str, str]:
    """A piece of the text that is in it once, and what it becomes, for the first place that differs."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    _, i, i_end, j, j_end = next(code for code in _matcher(old, new) if code[0] != "equal")
    if i_end - i == j_end - j == 1:
        piece = _words(before, old[i], new[j])
        if piece is not None:
            return piece
    while before.count("".join(old[i:i_end])) != 1 or i == i_end:
        if i > 0:
            i, j = i - 1, j - 1
        if i_end < len(old):
            i_end, j_end = i_end + 1, j_end + 1
    return "".join(old[i:i_end]), "".join(new[j:j_end])


def _words(text: str, old: str, new: str) -> tuple[str, str] | None:
    """Within one line: the words that differ, with one more on each side at least."""
    a, b = old.rstrip("\n").split(" "), new.rstrip("\n").split(" ")
    if old.rstrip("\n") == new.rstrip("\n"):
        return None
    start = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    most = min(len(a), len(b)) - start
    end = next((k for k in range(most) if a[-1 - k] != b[-1 - k]), most)
    while start > 0 or end > 0:
        start, end = max(start - 1, 0), max(end - 1, 0)
        piece = " ".join(a[start : len(a) - end])
        if piece.strip() and text.count(piece) == 1:
            return piece, " ".join(b[start : len(b) - end])
    return None
