"""The bugs that can be put into a package, in the order in which they are tried.

The order is drawn from the seed and takes turns among the kinds, so that the first few hundred are of all
kinds and from all over the package.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from random import Random

from turnwise.envs.swe.factory.bugs.bug import Bug, BugKind, apply, works
from turnwise.envs.swe.factory.bugs.expressions import expression_bugs
from turnwise.envs.swe.factory.bugs.source import Source
from turnwise.envs.swe.factory.bugs.statements import statement_bugs


def module_bugs(path: str, data: bytes) -> Iterator[Bug]:
    """Every bug of one module; that each works is still to be seen."""
    source = Source(data)
    for name, function in source.functions():
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        for found in (expression_bugs, statement_bugs):
            for kind, edits in found(source, function):
                yield Bug(kind, path, (name,), lines, edits)


def ordered_bugs(modules: Mapping[str, bytes], rng: Random) -> Iterator[Bug]:
    """The bugs of all modules that work, each once."""
    kinds: dict[BugKind, list[Bug]] = defaultdict(list)
    for path in sorted(modules):
        for bug in module_bugs(path, modules[path]):
            kinds[bug.kind].append(bug)
    queues = [kinds[kind] for kind in BugKind if kind in kinds]
    for queue in queues:
        rng.shuffle(queue)
    seen = set()
    while queues:
        for queue in queues:
            bug = queue.pop()
            change = bug.path, apply(modules[bug.path], bug.edits)
            if change not in seen and works(change[1]):
                seen.add(change)
                yield bug
        queues = [queue for queue in queues if queue]


def both(one: Bug, two: Bug) -> Bug | None:
    """Two bugs of one module as one; None where they are in one function or touch."""
    if one.path != two.path or set(one.functions) & set(two.functions) or one.overlaps(two):
        return None
    functions = (*one.functions, *two.functions)
    return Bug(BugKind.TWO_PLACES, one.path, functions, one.lines + two.lines, (*one.edits, *two.edits))
