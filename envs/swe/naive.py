"""An agent that understands the tools and not the task: it looks around, swaps an operator, runs the tests.

It shows that tasks are not solved by trying at random, and its actions are the mistakes in imperfect
demonstrations.
"""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

from turnwise.envs.types import CallAction, call

if TYPE_CHECKING:
    from turnwise.envs.swe.environment import SweEnv

TOOLS = {"search": 12, "view": 30, "replace": 28, "test": 17, "undo": 10, "submit": 3}
"""How often it does what, in percent: submitting ends the episode, so seldom."""
_OPERATION = re.compile(r"[\w.)\]]+ (\+|-|\*|//|%|<=?|>=?|==|!=|and|or) [\w.(\[]+")
_ARITHMETIC = ("+", "-", "*", "//", "%")
_OTHERS = ("<", "<=", ">", ">=", "==", "!=")


def action(env: SweEnv, rng: Random) -> CallAction:
    """One call, at random."""
    texts = _texts(env)
    name = rng.choices(list(TOOLS), list(TOOLS.values()))[0]
    if not texts and name in ("view", "replace", "undo", "search"):
        return call("search", pattern="def ")
    path = rng.choice(sorted(texts)) if texts else ""
    match name:
        case "search":
            words = re.findall(r"def (\w+)", texts[path])
            return call(name, pattern=rng.choice(words or ["def"]))
        case "view" | "undo":
            return call(name, path=path)
        case "replace":
            return _swap(path, texts[path], rng) or call("view", path=path)
        case _:
            return call(name)


def _texts(env: SweEnv) -> dict[str, str]:
    """The sources, as far as they are known without looking into the sandbox."""
    repository = env.swe.repository
    files = dict(repository.files) if repository.kind == "files" else {}
    files |= {path: data.decode(errors="replace") for path, data in env.watch.changes.items() if data}
    return {path: text for path, text in files.items() if path.endswith(".py") and env.swe.is_source(path)}


def _swap(path: str, text: str, rng: Random) -> CallAction | None:
    """Another operator in some place."""
    found = [m for m in _OPERATION.finditer(text) if text.count(m[0]) == 1]
    if not found:
        return None
    match = rng.choice(found)
    family = next((f for f in (_ARITHMETIC, _OTHERS) if match[1] in f), ("and", "or"))
    other = rng.choice([sign for sign in family if sign != match[1]])
    start = match.start(1) - match.start()
    new = match[0][:start] + other + match[0][start + len(match[1]) :]
    return call("replace", path=path, old=match[0], new=new)
