"""What is read from the wire is what was written to it, and nothing that is read breaks the reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving import wire
from turnwise.envs.serving.faults import REMEDIES, Code, Fault, Refusal
from turnwise.envs.types import (
    AgentView,
    CallAction,
    EndReason,
    EpisodeLimits,
    FinishAction,
    ImageBlock,
    InvalidAction,
    RewardTerm,
    Step,
    StepRecord,
    TaskPublic,
    TaskRef,
    TextAction,
    TextBlock,
    ToolCall,
    ToolSpec,
)

words = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(1 << 62), 1 << 62)
leaves: st.SearchStrategy[JsonValue] = st.none() | st.booleans() | whole | numbers | words
values: st.SearchStrategy[JsonValue] = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(words, values, max_size=3)
ids = st.integers(0, (1 << 53) - 1)
sessions = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ends = st.sampled_from(EndReason)


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=3).map(tuple)


actions = st.one_of(
    st.builds(TextAction, text=words),
    st.builds(FinishAction, answer=words),
    st.builds(InvalidAction, text=words, error=words),
    st.builds(
        CallAction,
        calls=st.lists(st.builds(ToolCall, name=words, arguments=objects), min_size=1, max_size=2).map(tuple),
    ),
)
blocks = st.builds(TextBlock, text=words) | st.builds(
    ImageBlock, media_type=st.sampled_from(["image/png", "image/webp"]), data=st.binary(max_size=9)
)
tools = st.builds(ToolSpec, name=words, description=words, parameters=objects)
views = st.builds(AgentView, content=tuples(blocks), tools=tuples(tools))
terms = st.builds(RewardTerm, channel=words, level=st.integers(0, 9), value=st.none() | numbers)
records = st.builds(
    StepRecord,
    turn=st.integers(0, 99),
    terms=tuples(terms),
    milestones=tuples(words),
    valid=st.booleans(),
    digest=words,
    seconds=numbers,
    end=st.none() | ends,
    score=st.none() | numbers,
    error=words,
)
steps = st.builds(Step, view=views, record=st.none() | records, end=st.none() | ends)
limits = st.builds(EpisodeLimits, turns=st.integers(1, 99), seconds=st.floats(0.1, 1e9))
refs = st.builds(TaskRef, env=words, id=words, seed=whole)
choices = st.builds(wire.TaskBySeed, seed=whole, split=words) | st.builds(
    wire.TaskByRef, ref=refs, public=st.builds(TaskPublic, instruction=words, limits=limits)
)
infos = st.builds(
    wire.SessionInfo,
    session=sessions,
    env=words,
    guide=words,
    instruction=words,
    limits=limits,
    turn=st.integers(0, 99),
    end=st.none() | ends,
    view=st.none() | views,
    ref=st.none() | refs,
    agent_token=st.none() | words,
)
faults = st.builds(
    Fault,
    code=st.sampled_from(Code),
    message=words,
    remedy=words,
    end=st.none() | ends,
    retry_after=st.none() | numbers,
)

requests = st.one_of(
    st.builds(
        wire.OpenRequest,
        id=ids,
        session=sessions,
        env=st.builds(EnvSpec, name=words, options=objects),
        task=choices,
    ),
    st.builds(wire.AttachRequest, id=ids, session=sessions),
    st.builds(wire.ResetRequest, id=ids, session=sessions),
    st.builds(wire.StepRequest, id=ids, session=sessions, action=actions),
    st.builds(wire.ConcludeRequest, id=ids, session=sessions, end=ends, error=words),
    st.builds(wire.ForkRequest, id=ids, session=sessions, twins=tuples(sessions)),
    st.builds(wire.SnapshotRequest, id=ids, session=sessions, name=sessions),
    st.builds(wire.RestoreRequest, id=ids, session=sessions, name=sessions),
    st.builds(wire.RecordsRequest, id=ids, session=sessions),
    st.builds(wire.CloseRequest, id=ids, session=sessions),
)
replies = st.one_of(
    st.builds(wire.SessionReply, id=ids, info=infos),
    st.builds(wire.ResetReply, id=ids, view=views),
    st.builds(wire.StepReply, id=ids, step=steps),
    st.builds(wire.ConcludeReply, id=ids, end=ends, score=st.none() | numbers, error=words),
    st.builds(wire.ForkReply, id=ids, twins=tuples(infos)),
    st.builds(wire.SnapshotReply, id=ids),
    st.builds(wire.RestoreReply, id=ids, turn=whole, reached=st.dictionaries(words, whole, max_size=3)),
    st.builds(
        wire.RecordsReply, id=ids, records=tuples(records), end=st.none() | ends, score=st.none() | numbers
    ),
    st.builds(wire.CloseReply, id=ids),
    st.builds(wire.FaultReply, id=st.none() | ids, fault=faults),
)


@settings(deadline=None)
@given(requests)
def test_a_request_is_read_as_it_was_written(request: wire.Request) -> None:
    assert wire.read_request(request.model_dump_json()) == request


@settings(deadline=None)
@given(replies)
def test_a_reply_is_read_as_it_was_written(reply: wire.Reply) -> None:
    assert wire.read_reply(reply.model_dump_json()) == reply


@settings(deadline=None)
@given(st.text() | st.binary() | values.map(json.dumps) | objects.map(json.dumps))
def test_a_frame_of_anything_else_is_refused(frame: str | bytes) -> None:
    with pytest.raises(Refusal) as refused:
        wire.read_request(frame)
    assert refused.value.fault.message
    assert refused.value.fault.remedy


@settings(deadline=None)
@given(requests, st.data())
def test_a_request_with_a_part_missing_or_too_many_is_refused_by_its_number(
    request: wire.Request, data: st.DataObject
) -> None:
    fields: dict[str, Any] = json.loads(request.model_dump_json())
    required = sorted(fields.keys() - {"id", "type", "error", "instead"})
    part = data.draw(st.sampled_from([*required, "surplus"]))
    broken = fields | {"surplus": 1} if part == "surplus" else {k: v for k, v in fields.items() if k != part}
    with pytest.raises(Refusal, match=part) as refused:
        wire.read_request(json.dumps(broken))
    assert refused.value.fault.code is Code.INVALID_REQUEST
    assert refused.value.request == request.id


def test_a_newer_servers_fault_is_a_failure_and_not_the_end_of_the_connection() -> None:
    fault = {"code": "eclipse", "message": "no sun", "remedy": "wait"}
    reply = wire.read_reply(json.dumps({"type": "fault", "id": 3, "fault": fault}))
    assert isinstance(reply, wire.FaultReply)
    assert (reply.fault.code, reply.fault.message) == (Code.INTERNAL, "no sun")


def test_every_fault_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Code)
