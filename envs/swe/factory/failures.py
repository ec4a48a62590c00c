"""What pytest's output says of each failing test: on which line of it, and with which error.

A section of the output is headed by the test's name. It holds the test's arguments, its lines up to the one
that failed, frames further in, the error on lines that begin with ``E``, and places as ``file:line:``; the
first place is the test's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_HEAD = re.compile(r"^_{2,} (\S.*?) _{2,}$", re.MULTILINE)
_PLACE = re.compile(r"^(\S+\.py):(\d+): ?(.*)$", re.MULTILINE)
_ERROR = re.compile(r"^E   ?(.*)$", re.MULTILINE)
_ARGUMENTS = re.compile(r"\A\n+((?:\w+ = .*\n)+)\n")
_ARGUMENT = re.compile(r"(?:^|, )(\w+) = ", re.MULTILINE)
_END = re.compile(r"^=+ (?:short test summary|warnings summary|\d+ failed).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Failure:
    """How one test failed."""

    test: str
    """Its id."""
    line: int
    """Of its file."""
    error: tuple[str, ...]
    """The error, by lines."""
    arguments: dict[str, str]
    """Of the test, as they are written."""


def read_failures(output: str, tests: Iterable[str]) -> list[Failure]:
    """The failures that the output tells of, of some tests, in their order."""
    ends = [match.start() for match in _END.finditer(output)]
    heads = list(_HEAD.finditer(output))
    sections: dict[str, list[str]] = {}
    for place, head in enumerate(heads):
        last = heads[place + 1].start() if place + 1 < len(heads) else (ends or [len(output)])[0]
        sections.setdefault(head[1], []).append(output[head.end() : last])
    found = []
    for test in tests:
        file, _, name = test.partition("::")
        function, bracket, parameters = name.partition("[")
        for section in sections.get(function.replace("::", ".") + bracket + parameters, ()):
            failure = _read(test, file, section)
            if failure is not None:
                found.append(failure)
                break
    return found


def _read(test: str, file: str, section: str) -> Failure | None:
    places = _PLACE.findall(section)
    at = [int(line) for path, line, _ in places if path == file]
    error = tuple(line.strip() for line in _ERROR.findall(section))
    given = _ARGUMENTS.match(section)
    parts = _ARGUMENT.split(given[1]) if given is not None else []
    arguments = {name: value.strip() for name, value in zip(parts[1::2], parts[2::2], strict=True)}
    return Failure(test, at[0], error, arguments) if at and error else None
