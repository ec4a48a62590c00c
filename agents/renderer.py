"""Between actions and tokens: what a policy is fed, and how what it wrote is read.

A renderer only ever appends. ``opening`` is everything before the first completion, ``observation``
everything between two completions; history is never rendered again, so the tokens of an episode are the
concatenation of what was fed and what was sampled.

:class:`CompactRenderer` is the form for small models. An episode reads ::

    <task> fix the timeout <act> set timeout 30<end> ok<act> submit<end>

A call is the tool's name and its arguments in the order of the tool's JSON Schema, quoted as in a shell
where they must be. Each word has its space before it, so a value that was seen and the same value
written are the same token.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import JsonValue

from turnwise.agents.tokenizer import ACT, END, TASK, spaced, unspaced
from turnwise.envs.errors import UsageError
from turnwise.envs.types import (
    Action,
    AgentView,
    CallAction,
    FinishAction,
    ImageBlock,
    InvalidAction,
    ToolCall,
    ToolSpec,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerBase

FINISH = "finish"
"""Declares the episode done, where no tool has that name."""

CACHED_TEXTS = 4096
CACHED_TEXT_CHARS = 1024
"""Longer texts are not worth remembering."""
CACHED_TOOLSETS = 64


class Renderer(Protocol):
    """Writes what a policy is fed and reads what it wrote; one instance serves any number of episodes."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, to be saved beside the model."""
        ...

    @property
    def stop_id(self) -> int:
        """The token that ends a turn."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """All tokens at which sampling stops; ``stop_id`` is one of them."""
        ...

    def opening(self, guide: str, view: AgentView) -> tuple[int, ...]:
        """Everything before the first completion."""
        ...

    def observation(self, view: AgentView) -> tuple[int, ...]:
        """Everything between a completion's ``stop_id`` and the next completion."""
        ...

    def parse(self, ids: tuple[int, ...], tools: tuple[ToolSpec, ...]) -> tuple[Action, str]:
        """A completion as an action and as text. What cannot be read is an ``InvalidAction``."""
        ...

    def encode(self, action: Action, tools: tuple[ToolSpec, ...]) -> tuple[int, ...]:
        """The completion that says an action, with its ``stop_id``: a demonstration.

        Raises ``ValueError`` where the form cannot say it.
        """
        ...


def private_copy(tokenizer: PreTrainedTokenizerBase) -> Backend:
    """A copy of the tokenizer's fast core, whose settings nobody else changes."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def text_of(view: AgentView) -> str:
    """The text of a view. Raises ``UsageError`` for a view with images."""
    if any(isinstance(block, ImageBlock) for block in view.content):
        raise UsageError(
            "the environment shows images, which a text renderer cannot; use a policy with vision"
        )
    return view.text


# ---------------------------------------------------------------- tools, positionally


def _read_integer(word: str) -> JsonValue:
    return int(word)


def _read_number(word: str) -> JsonValue:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(word)
    return value


def _read_boolean(word: str) -> JsonValue:
    return {"true": True, "false": False}[word]


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is no JSON number")


MAX_NESTING = 64
_TOO_DEEP = f"nested more than {MAX_NESTING} deep"
_JSON = json.JSONDecoder(parse_float=_read_number, parse_constant=_refuse_constant)


def scan_json(text: str, start: int = 0) -> tuple[JsonValue, int]:
    """The JSON value that begins at ``start``, and where it ends. Raises ``ValueError``, also for what
    could not be stored again: NaN, infinity, half a surrogate pair and absurd nesting."""
    try:
        value, end = _JSON.raw_decode(text, start)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(value, 0)
    return value, end


def _check(value: JsonValue, depth: int) -> None:
    if depth > MAX_NESTING:
        raise ValueError(_TOO_DEEP)
    match value:
        case str():
            value.encode()
        case list():
            for item in value:
                _check(item, depth + 1)
        case dict():
            for name, item in value.items():
                name.encode()
                _check(item, depth + 1)


def _read_json(word: str) -> JsonValue:
    value, end = scan_json(word)
    if end != len(word):
        raise ValueError(word)
    return value


READERS: dict[str, tuple[str, Callable[[str], JsonValue]]] = {
    "integer": ("an integer", _read_integer),
    "number": ("a number", _read_number),
    "boolean": ("true or false", _read_boolean),
    "string": ("text", str),
}
"""By JSON Schema type; every other type is written as JSON."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One positional parameter of a tool."""

    name: str
    noun: str
    """What it must be, for the error message."""
    read: Callable[[str], JsonValue]
    """Raises ``ValueError`` or ``KeyError``."""
    is_text: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """A tool as the compact form sees it."""

    name: str
    parameters: tuple[Parameter, ...]
    required: int
    """How many of them must be given."""

    @classmethod
    def of(cls, spec: ToolSpec) -> Signature:
        """Read a tool's JSON Schema."""
        properties: dict[str, Any] = spec.parameters.get("properties", {})  # type: ignore[assignment]
        required: list[Any] = spec.parameters.get("required", [])  # type: ignore[assignment]
        parameters = []
        for name, entry in properties.items():
            kind = entry.get("type")
            noun, read = READERS.get(kind, ("JSON", _read_json))
            parameters.append(Parameter(name, noun, read, is_text=kind == "string"))
        last = max((i for i, name in enumerate(properties) if name in required), default=-1)
        return cls(spec.name, tuple(parameters), last + 1)

    def read(self, words: list[str]) -> CallAction:
        """A call from its arguments. Raises ``ValueError`` with a message for the agent."""
        most = len(self.parameters)
        if not self.required <= len(words) <= most:
            count = str(most) if self.required == most else f"{self.required} to {most}"
            raise ValueError(f"{self.name} takes {count} argument{'' if count == '1' else 's'}")
        arguments: dict[str, JsonValue] = {}
        for parameter, word in zip(self.parameters, words, strict=False):
            try:
                arguments[parameter.name] = parameter.read(word)
            except (ValueError, KeyError):
                raise ValueError(f"{parameter.name} must be {parameter.noun}") from None
        return CallAction(calls=(ToolCall(name=self.name, arguments=arguments),))

    def write(self, arguments: dict[str, JsonValue]) -> list[str]:
        """The arguments in order, as far as they are given."""
        given = [p for p in self.parameters if p.name in arguments]
        return [
            str(arguments[p.name])
            if p.is_text
            else json.dumps(arguments[p.name], separators=(",", ":"), ensure_ascii=False)
            for p in given
        ]


# ---------------------------------------------------------------- the compact form

_UNSAFE = re.compile(r"""[\s'"\\]""")
_QUOTES = re.compile(r"""['"\\]""")


def join_words(words: list[str]) -> str:
    """A line of words; those that are empty or hold white space, quotes or backslashes are quoted."""
    return " ".join(shlex.quote(word) if not word or _UNSAFE.search(word) else word for word in words)


def split_words(line: str) -> list[str]:
    """The words of a line. Raises ``ValueError`` for an open quotation."""
    return shlex.split(line) if _QUOTES.search(line) else line.split()


class CompactRenderer:
    """For small models trained here, with the tokenizer of :mod:`turnwise.agents.tokenizer`.

    The guide is left out: a small model learns the environment from its episodes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        markers = tokenizer.get_added_vocab()
        self.stop_id: int = markers[END]
        self.stop_ids = frozenset({self.stop_id})
        self._task: int = markers[TASK]
        self._act: int = markers[ACT]
        self._backend = private_copy(tokenizer)
        self._backend.encode_special_tokens = True
        self._remember = lru_cache(CACHED_TEXTS)(self._tokens)
        self._toolsets: dict[tuple[int, ...], tuple[tuple[ToolSpec, ...], dict[str, Signature]]] = {}

    def opening(self, guide: str, view: AgentView) -> tuple[int, ...]:
        """``<task> text<act>``."""
        return (self._task, *self._encode(text_of(view)), self._act)

    def observation(self, view: AgentView) -> tuple[int, ...]:
        """`` text<act>``."""
        return (*self._encode(text_of(view)), self._act)

    def parse(self, ids: tuple[int, ...], tools: tuple[ToolSpec, ...]) -> tuple[Action, str]:
        """The call, ``finish`` with or without an answer, or what is wrong with the turn."""
        complete = ids[-1:] == (self.stop_id,)
        text = unspaced(self._backend.decode(ids[:-1] if complete else ids, skip_special_tokens=False))
        if not complete:
            return InvalidAction(text=text, error=f"turn cut at {len(ids)} tokens"), text
        try:
            return self._read(text, self._signatures(tools)), text
        except ValueError as error:
            return InvalidAction(text=text, error=str(error)), text

    def encode(self, action: Action, tools: tuple[ToolSpec, ...]) -> tuple[int, ...]:
        """The completion that :meth:`parse` reads as this action. Raises ``ValueError`` for what the
        compact form cannot say: several calls, free text, an argument that is given where one before
        it is left out."""
        line = join_words(self._words(action, self._signatures(tools)))
        ids = (*self._encode(line), self.stop_id)
        if self.parse(ids, tools)[0] != action:
            raise ValueError(f"the compact form cannot say {action!r}: it would be read as {line!r}")
        return ids

    def _words(self, action: Action, signatures: dict[str, Signature]) -> list[str]:
        match action:
            case CallAction(calls=(one,)) if one.name in signatures:
                return [one.name, *signatures[one.name].write(one.arguments)]
            case FinishAction():
                return [FINISH, action.answer] if action.answer else [FINISH]
            case _:
                raise ValueError(
                    f"the compact form says one call of an offered tool or finish, not {action!r}"
                )

    def _read(self, line: str, signatures: dict[str, Signature]) -> Action:
        words = split_words(line)
        if not words:
            raise ValueError("empty turn")
        name, *arguments = words
        if name in signatures:
            return signatures[name].read(arguments)
        if name != FINISH:
            raise ValueError(f"unknown tool {name}")
        if len(arguments) > 1:
            raise ValueError("finish takes 0 to 1 arguments")
        return FinishAction(answer=arguments[0] if arguments else "")

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._remember(text) if len(text) <= CACHED_TEXT_CHARS else self._tokens(text)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(spaced(text), add_special_tokens=False).ids)

    def _signatures(self, tools: tuple[ToolSpec, ...]) -> dict[str, Signature]:
        """By identity, because hashing a schema costs more than reading it; the specs are kept, so that
        an identity is not given to another one."""
        key = tuple(map(id, tools))
        if key not in self._toolsets:
            if len(self._toolsets) == CACHED_TOOLSETS:
                self._toolsets.clear()
            self._toolsets[key] = tools, {spec.name: Signature.of(spec) for spec in tools}
        return self._toolsets[key][1]
