"""What a user got wrong, in one line: the value, what is allowed, and the nearest match.

A message that quotes what a program printed has that below its line (:func:`quote`), and only the
line itself is ever folded (:func:`folded`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_QUOTED = re.compile(r"'([^']*)'")
_QUOTE = "\n  | "
_QUOTED_LINES = 15


class UsageError(ValueError):
    """A name, an option or a file that the user can put right. Its message is a single line."""


def shown(value: object) -> str:
    """A value as a message shows it: as it would be written, and not all of it where that is long."""
    written = " ".join(repr(value).split())
    return written if len(written) <= 80 else f"{written[:77]}..."


def unknown(what: str, value: object, allowed: Iterable[str]) -> UsageError:
    """The error for a name that does not exist; ``what`` says what it should have named.

    ``unknown environment 'tool/x'; did you mean 'tools/x'? (allowed: tools/x)``
    """
    names = sorted(allowed)
    near = get_close_matches(value, names, n=1, cutoff=0.5) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {what} {value!r}{hint} (allowed: {', '.join(names) or 'none'})")


def quote(output: str) -> str:
    """The last lines of what a program printed, to stand below the line of a message."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    shown = ["…", *lines[-_QUOTED_LINES:]] if len(lines) > _QUOTED_LINES else lines
    return "".join(_QUOTE + (line if len(line) <= 200 else f"{line[:200]} …") for line in shown)


def folded(message: str) -> str:
    """A message as one line; what it quotes keeps its lines."""
    line, start, quoted = message.partition(_QUOTE)
    return " ".join(line.split()) + start + quoted


def invalid(what: str, error: ValidationError, model: type[BaseModel]) -> UsageError:
    """A validation error of ``model`` in one line: the first fault, and how many more there are.

    ``what`` names the thing that was read, as in ``recipe quickstart``.
    """
    first = error.errors(include_url=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    path, context = list(first["loc"]), first.get("ctx", {})
    where = ".".join(map(str, path))
    if first["type"] == "extra_forbidden":
        *parents, field = path
        place = f" in {'.'.join(map(str, parents))}" if parents else ""
        fault = str(unknown(f"field{place}", str(field), _fields_at(model, parents)))
    elif first["type"] == "union_tag_invalid":
        fault = str(unknown(f"kind of {where}", context["tag"], _QUOTED.findall(context["expected_tags"])))
    elif first["type"] == "literal_error" and isinstance(first["input"], str):
        fault = str(unknown(where, first["input"], _QUOTED.findall(context["expected"])))
    elif first["type"] == "missing":
        fault = f"{where} is missing"
    elif isinstance(context.get("error"), UsageError):
        fault = f"{where}: {context['error']}"
    else:
        given = json.dumps(first["input"], default=str)
        shown = given if len(given) <= 80 else f"{given[:77]}..."
        reason = " ".join(first["msg"].split()).replace("valid tuple", "list")
        fault = f"{where} = {shown}: {reason}{_range(model, path)}"
    return UsageError(f"{what}: {fault}{more}")


def _range(model: type[BaseModel], path: Sequence[Any]) -> str:
    """What a number at a place in a model may be, where it has two ends: ``(allowed: 1 to 5)``."""
    owners = _models_at(model, path[:-1]) if path else []
    bounds = [
        bound for m in owners if path[-1] in m.model_fields for bound in m.model_fields[path[-1]].metadata
    ]
    low, high = ([getattr(b, end) for b in bounds if hasattr(b, end)] for end in ("ge", "le"))
    return f" (allowed: {low[0]} to {high[0]})" if low and high else ""


def _fields_at(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """The fields allowed at a place in a model."""
    return sorted({name for m in _models_at(model, path) for name in m.model_fields})


def _models_at(model: type[BaseModel], path: Sequence[Any]) -> list[type[BaseModel]]:
    """The models at a place in a model; a union's part of the path is the chosen ``kind``."""
    here: Any = model
    for part in path:
        members = [here, *get_args(here)]
        models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [
            m for m in models if part in get_args(getattr(m.model_fields.get("kind"), "annotation", None))
        ]
        owners = [m for m in models if part in m.model_fields]
        if tagged:
            here = tagged[0]
        elif owners:
            here = owners[0].model_fields[part].annotation
    return [m for m in (here, *get_args(here)) if isinstance(m, type) and issubclass(m, BaseModel)]
