"""Renders for any Hugging Face chat model, through the model's own chat template.

The template is run once per episode, for the opening. What it puts between an assistant's message and
the next one is found when the renderer is made, by rendering probe conversations: a message is then
appended as ``head + content + tail``, and no history is rendered again. A template that rewrites what
stands before (as some do) cannot be appended to, and is refused.

Calls are written as Hermes and Qwen write them, one or several in a turn::

    <tool_call>
    {"name": "set", "arguments": {"key": "timeout", "value": 30}}
    </tool_call>

A model whose template writes calls so is shown its tools by the template. Any other template would teach
another form, or none: then the tools and this form are described in the guide.

A call of ``finish`` ends the episode where no tool has that name. Thinking in ``<think>…</think>`` stays
in the tokens and is not read. Text of an environment or of an argument can never become a control token:
where it spells one, it is encoded as plain text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError
from pydantic import JsonValue

from turnwise.agents.renderer import (
    FINISH,
    CompactRenderer,
    Renderer,
    private_copy,
    scan_json,
    text_of,
)
from turnwise.agents.tokenizer import MARKERS
from turnwise.envs.errors import UsageError
from turnwise.envs.types import (
    Action,
    AgentView,
    CallAction,
    FinishAction,
    InvalidAction,
    TextAction,
    ToolCall,
    ToolSpec,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, THOUGHT = "<think>", "</think>"

MASK = "\uf8ff"
"""Encloses the number of a masked string; masked itself where a text holds it."""

CACHED_OPENINGS = 64
"""The episodes of a group begin alike. Kept with the tools, whose identities are part of the key."""

TOOLS_GUIDE = """\
# Tools

{schemas}

To call a tool, write its name and arguments as JSON between tags, once for each call:
<tool_call>
{{"name": "tool", "arguments": {{"key": "value"}}}}
</tool_call>"""

PROBE_TOOL = ToolSpec(name="probe", description="A probe.", parameters={"type": "object", "properties": {}})
PROBE_SAID = ("First words said.", "Other words said.")
PROBE_RESULT = ('A "first" result,\nin two lines.', 'A "later" result,\nin two lines.')
"""With quotes and a line break, so that a template which escapes results is noticed."""


@dataclass(frozen=True, slots=True)
class Seam:
    """How a conversation begins and what stands between two completions."""

    system: bool
    """Whether the guide is a message of its own."""
    stop_id: int
    """Ends the assistant's message; the policy writes it itself."""
    head: str
    tail: str
    """Up to and including the next generation prompt."""


class ChatRenderer:
    """For a model with a chat template. Raises ``UsageError`` for a template that cannot be appended to."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._marked, self._plain = private_copy(tokenizer), private_copy(tokenizer)
        self._marked.encode_special_tokens = False
        added = tokenizer.added_tokens_decoder.values()
        self._masked = [MASK, *(t.content for t in added if t.special or t.content.startswith("<"))]
        self._plain.add_special_tokens(self._masked[1:])
        self._plain.encode_special_tokens = True
        self._maskable = re.compile("|".join(map(re.escape, sorted(self._masked, key=len, reverse=True))))
        self._shows_tools = self._writes_hermes()
        self._seam = self._find_seam()
        self._thinking = THINK if self._seam.tail.rstrip().endswith(THINK) else ""
        self.stop_id = self._seam.stop_id
        eos: int | None = tokenizer.eos_token_id
        self.stop_ids = frozenset({self.stop_id} if eos is None else {self.stop_id, eos})
        self._openings: dict[
            tuple[str, str, tuple[int, ...]], tuple[tuple[ToolSpec, ...], tuple[int, ...]]
        ] = {}

    def opening(self, guide: str, view: AgentView) -> tuple[int, ...]:
        """The system message with the guide and the tools, the task, and the generation prompt."""
        text = text_of(view)
        key = guide, text, tuple(map(id, view.tools))
        if key not in self._openings:
            if len(self._openings) == CACHED_OPENINGS:
                self._openings.clear()
            self._openings[key] = view.tools, self._open(guide, view, text)
        return self._openings[key][1]

    def _open(self, guide: str, view: AgentView, text: str) -> tuple[int, ...]:
        guide = self._mask(guide)
        if view.tools and not self._shows_tools:
            schemas = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in _schemas(view.tools))
            tools = TOOLS_GUIDE.format(schemas=self._mask(schemas))
            guide = f"{guide}\n\n{tools}" if guide else tools
        messages = _first_messages(guide, self._mask(text), system=self._seam.system)
        return self._encode(self._render(messages, view.tools if self._shows_tools else (), prompt=True))

    def observation(self, view: AgentView) -> tuple[int, ...]:
        """A tool's result (or the user's answer, where the template knows no tools)."""
        return self._encode(self._seam.head + self._mask(text_of(view)) + self._seam.tail)

    def parse(self, ids: tuple[int, ...], tools: tuple[ToolSpec, ...]) -> tuple[Action, str]:
        """The calls, ``finish``, words without a call, or what is wrong with the turn."""
        complete = bool(ids) and ids[-1] in self.stop_ids
        text: str = self._marked.decode(ids[:-1] if complete else ids, skip_special_tokens=False)
        if not complete:
            return InvalidAction(text=text, error=f"turn cut at {len(ids)} tokens"), text
        try:
            return read_turn(self._thinking + text, tools), text
        except ValueError as error:
            return InvalidAction(text=text, error=str(error)), text

    def encode(self, action: Action, tools: tuple[ToolSpec, ...]) -> tuple[int, ...]:
        """The completion that :meth:`parse` reads as this action. Raises ``ValueError`` where there is
        none: an invalid action, an unknown tool, words that would be read as a call."""
        match action:
            case CallAction(calls=calls):
                text = "\n".join(map(self._write, calls))
            case FinishAction(answer=answer):
                text = self._write(ToolCall(name=FINISH, arguments={"answer": answer} if answer else {}))
            case _:
                text = self._mask(action.text)
        if self._thinking:
            text = f"\n{THOUGHT}\n\n{text}"
        ids = (*self._encode(text), self.stop_id)
        if self.parse(ids, tools)[0] != action:
            raise ValueError(f"no turn is read as {action!r}")
        return ids

    def _write(self, one: ToolCall) -> str:
        call = json.dumps({"name": one.name, "arguments": one.arguments}, ensure_ascii=False)
        return f"{OPEN}\n{self._mask(call)}\n{CLOSE}"

    # -- text to tokens

    def _mask(self, text: str) -> str:
        """Hide what must not become a control token, until :meth:`_encode`."""
        return self._maskable.sub(lambda found: f"{MASK}{self._masked.index(found[0])}{MASK}", text)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for place, part in enumerate(re.split(f"{MASK}(\\d+){MASK}", text)):
            if place % 2:
                ids += self._plain.encode(self._masked[int(part)], add_special_tokens=False).ids
            else:
                ids += self._marked.encode(part, add_special_tokens=False).ids
        return tuple(ids)

    # -- the template

    def _render(self, messages: list[dict[str, Any]], tools: tuple[ToolSpec, ...], *, prompt: bool) -> str:
        schemas: Any = _schemas(tools) or None
        rendered: Any = self.tokenizer.apply_chat_template(
            messages, tools=schemas, add_generation_prompt=prompt, tokenize=False
        )
        return str(rendered)

    def _writes_hermes(self) -> bool:
        """Whether the template writes a call the way :func:`read_turn` reads it."""
        function = {"name": PROBE_TOOL.name, "arguments": {}}
        calls = [{"id": "probe0000", "type": "function", "function": function}]
        said: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": calls}
        messages = [{"role": "user", "content": PROBE_SAID[0]}, said]
        try:
            rendered = self._render(messages, (PROBE_TOOL,), prompt=False)
        except TemplateError:
            return False
        return re.search(rf'{OPEN}\s*{{"name": "{PROBE_TOOL.name}"', rendered) is not None

    def _find_seam(self) -> Seam:
        reasons: dict[str, None] = {}
        for system, role in product((True, False), ("tool", "user")):
            try:
                return self._probe(system, role)
            except (TemplateError, ValueError) as error:
                reasons[str(error)] = None
        raise UsageError(f"this chat template cannot be appended to: {'; '.join(reasons)}")

    def _probe(self, system: bool, role: str) -> Seam:
        """The seam of one role; the longer conversation must begin and end like the shorter one."""
        start = _first_messages("The guide.", "The task.", system=system)
        turns = [
            [{"role": "assistant", "content": said}, {"role": role, "content": result}]
            for said, result in zip(PROBE_SAID, PROBE_RESULT, strict=True)
        ]
        tools = (PROBE_TOOL,) if self._shows_tools else ()
        opening = self._render(start, tools, prompt=False)
        short = self._render([*start, *turns[0]], tools, prompt=True)
        long = self._render([*start, *turns[0], *turns[1]], tools, prompt=True)
        before, after = _parted(short, PROBE_SAID[0], role)
        middle, tail = _parted(after, PROBE_RESULT[0], role)
        _, after = _parted(long, PROBE_SAID[1], role)
        if not (
            "The guide." in opening
            and before.startswith(opening)
            and long.startswith(before + PROBE_SAID[0] + middle + PROBE_RESULT[0])
            and after == middle + PROBE_RESULT[1] + tail
        ):
            raise ValueError(f"it rewrites earlier messages when a {role} message follows")
        for stop_id, token in self.tokenizer.added_tokens_decoder.items():
            if token.special and middle.startswith(token.content):
                return Seam(system, stop_id, middle.removeprefix(token.content), tail)
        raise ValueError(f"it ends an assistant's message with {middle!r}, not with a special token")


def renderer_for(tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """The renderer that goes with a tokenizer. Raises ``UsageError`` where there is none."""
    if tokenizer.get_added_vocab().keys() >= set(MARKERS):
        return CompactRenderer(tokenizer)
    if tokenizer.chat_template:
        return ChatRenderer(tokenizer)
    raise UsageError(
        f"tokenizer {tokenizer.name_or_path!r} has neither a chat template nor the markers "
        f"{' '.join(MARKERS)}: use a chat model, or a tokenizer made by build_tokenizer"
    )


def _schemas(tools: tuple[ToolSpec, ...]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": spec.model_dump()} for spec in tools]


def _first_messages(guide: str, task: str, *, system: bool) -> list[dict[str, Any]]:
    if not guide:
        return [{"role": "user", "content": task}]
    if not system:
        return [{"role": "user", "content": f"{guide}\n\n{task}"}]
    return [{"role": "system", "content": guide}, {"role": "user", "content": task}]


def _parted(text: str, probe: str, role: str) -> tuple[str, str]:
    if text.count(probe) != 1:
        raise ValueError(f"it does not show a {role} conversation as it is")
    before, _, after = text.partition(probe)
    return before, after


# ---------------------------------------------------------------- reading a turn


def read_turn(text: str, tools: tuple[ToolSpec, ...]) -> Action:
    """What a complete turn says. Raises ``ValueError`` with a message for the agent."""
    said = text.rpartition(THOUGHT)[2].strip()
    if THINK in said:
        raise ValueError("thinking was not closed")
    if not said:
        raise ValueError("empty turn")
    calls = _tagged_calls(said) if OPEN in said else _bare_call(said)
    if not calls:
        return TextAction(text=said)
    names = {spec.name for spec in tools}
    if FINISH not in names and len(calls) == 1 and calls[0].name == FINISH:
        return _finish(calls[0])
    for one in calls:
        if one.name not in names:
            raise ValueError(f"unknown tool {one.name}")
    return CallAction(calls=tuple(calls))


def _finish(one: ToolCall) -> FinishAction:
    answer = one.arguments.get("answer", "")
    if not isinstance(answer, str) or one.arguments.keys() - {"answer"}:
        raise ValueError("finish takes one argument, the text answer")
    return FinishAction(answer=answer)


def _tagged_calls(said: str) -> list[ToolCall]:
    calls = []
    start = said.find(OPEN)
    while start >= 0:
        start = _skip_space(said, start + len(OPEN))
        try:
            value, end = scan_json(said, start)
        except ValueError as error:
            raise ValueError(f"tool call is not JSON: {error}") from None
        end = _skip_space(said, end)
        if not said.startswith(CLOSE, end):
            raise ValueError(f"tool call is not closed by {CLOSE}")
        calls.append(_call_from(value))
        start = said.find(OPEN, end)
    return calls


def _bare_call(said: str) -> list[ToolCall]:
    """A turn that is nothing but a call without its tags."""
    if not said.startswith("{"):
        return []
    try:
        value, end = scan_json(said)
    except ValueError:
        return []
    is_call = end == len(said) and isinstance(value, dict) and value.keys() == {"name", "arguments"}
    return [_call_from(value)] if is_call else []


def _call_from(value: JsonValue) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError('tool call needs a "name"')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError('"arguments" of a tool call must be an object')
    return ToolCall(name=str(value["name"]), arguments=arguments)


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start
