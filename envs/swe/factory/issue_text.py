"""The issue of a task, in words, out of the behaviour of tests that fail.

Of each failing test the statement that failed is taken, with the statements before it that made what it uses.
An assertion becomes a sentence on what should be, the error one on what is. Where the bug is, which file it
is in and what the repair looks like is not said; what would say it leaves the issue without a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from turnwise.envs.swe.factory.bugs.bug import Bug
from turnwise.envs.swe.factory.cut import function_name
from turnwise.envs.swe.factory.failures import Failure
from turnwise.envs.swe.factory.sentences import LONGEST, expectation, outcome
from turnwise.envs.swe.factory.slices import Slice, slice_at

MOST_TOLD = 3
"""Failing tests that an issue tells of."""
TELLING = 12
"""Characters of a line of the patch that must not be in the issue."""
OPENINGS = (
    "Something in {name} does not do what it should.",
    "{name} gives a wrong result here.",
    "I came across this in {name}.",
    "A call into {name} does not behave as documented.",
)
ENDING = "Please find the cause and repair it; what works today has to go on working."


def issue_text(
    name: str, bug: Bug, patch: str, failures: Sequence[Failure], tests: Mapping[str, bytes], rng: Random
) -> str | None:
    """The text; None where none can be written. ``tests`` are the test files."""
    stories: dict[str, str] = {}
    for failure in failures:
        function = function_name(failure.test)
        if function in stories or len(stories) == MOST_TOLD:
            continue
        found = slice_at(tests[failure.test.split("::")[0]], function, failure.line)
        if found is not None:
            story = _plain(_story(found, failure), bug.path)
            if not reveals(story, bug, patch):
                stories[function] = story
    if not stories:
        return None
    parts = [rng.choice(OPENINGS).format(name=name), *dict.fromkeys(stories.values()), ENDING]
    return "\n\n".join(parts)


def reveals(text: str, bug: Bug, patch: str) -> bool:
    """Whether a text names the file or its module, defines a function that is wrong, or quotes the patch."""
    if re.search(rf"\w\.py\b|\w\.{_stem(bug.path)}\b", text) or bug.path in text:
        return True
    if any(re.search(rf"\bdef {re.escape(name.rpartition('.')[2])}\b", text) for name in bug.functions):
        return True
    changed = (line[1:].strip() for line in patch.splitlines() if line[:1] in ("+", "-"))
    return any(len(line) >= TELLING and line in text for line in changed)


def named(failures: Sequence[Failure], tests: Mapping[str, bytes], bug: Bug) -> bool:
    """Whether the statements that fail name a function that is wrong."""
    names = {part for name in bug.functions for part in name.split(".")}
    for failure in failures:
        found = slice_at(tests[failure.test.split("::")[0]], function_name(failure.test), failure.line)
        if found is not None and names & set(re.findall(r"\w+", found.code)):
            return True
    return False


def _story(found: Slice, failure: Failure) -> str:
    should = expectation(found.failing)
    came = outcome(failure.error)
    given = [
        f"{name} = {value}\n"
        for name, value in failure.arguments.items()
        if name in found.names and not value.startswith("<") and len(value) <= LONGEST
    ]
    if should is None:
        return f"This should go through:\n\n{_indented(''.join(given) + found.code)}\n\n{came}"
    before = "".join(given) + found.before
    return f"After\n\n{_indented(before)}\n\n{should} {came}" if before else f"{should} {came}"


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else "" for line in code.splitlines())


def _plain(text: str, path: str) -> str:
    """Without what differs from run to run, and without the module's name before what is in it."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    text = re.sub(r"(?:/[\w.-]+)+/[\w.-]+\.py\b", "…", text)
    return re.sub(rf"\b(?:\w+\.)*{_stem(path)}\.(?=\w)", "", text)


def _stem(path: str) -> str:
    """The name of a module, for a pattern."""
    parts = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
    return re.escape(parts[-1])
