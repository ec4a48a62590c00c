"""Replays a session from its journal: the same actions in a fresh environment, compared after each call.

Where the environment, its task or the machine has changed, something the journal noted comes out
otherwise: what the agent saw, the digest of the environment's state, the rewards or the end. That is
drift, and the first call at which it shows is named. A fork is replayed through its parent's calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs, find_task
from turnwise.envs.serving.journal import (
    Concluded,
    Entry,
    Forked,
    Opened,
    Restored,
    Snapped,
    Stepped,
    WasReset,
    read_journal,
    stepped,
    view_hash,
)
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.sandbox.contract import SandboxError


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise."""

    what: str
    journal: object
    replay: object


@dataclass(frozen=True, slots=True)
class Drift:
    """The first call that came out otherwise."""

    call: str
    """As in ``step 3``; steps are counted from 0, as turns are."""
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found."""

    env: str
    task: str
    calls: int
    """Those that were carried out again."""
    drift: Drift | None


async def replay(folder: Path, session: str, *, backend: str | None = None) -> Replay:
    """Replay a session of a journal. Raises ``UsageError`` for one that is not there or is damaged, and for
    an environment or task that there is no more; and ``SandboxError`` where the machine fails."""
    opened, calls = history(folder, session)
    env = opened.env.make()
    task = (await find_task(env, opened.ref)).model_copy(update={"public": opened.public})
    done, drift = 0, None
    async with LocalEnvs(backend=backend, capacity=1) as envs, envs.open(opened.env, task=task) as fresh:
        for done, entry in enumerate(calls, 1):  # noqa: B007  its last value counts
            differences = await _repeat(fresh, entry)
            if differences:
                drift = Drift(_name(entry), differences)
                break
    return Replay(str(opened.env), task.id, done, drift)


def history(folder: Path, session: str, entries: int | None = None) -> tuple[Opened, list[Entry]]:
    """The calls of a session, of its first so many entries where only those count, after the calls of the
    session that it was forked from."""
    found = read_journal(folder, session)
    if entries is not None and len(found) < entries:
        raise UsageError(f"session {session!r}: its journal ends before the fork that is to be replayed")
    first, *calls = found[:entries]
    assert isinstance(first, Opened)
    if first.parent is None:
        return first, calls
    opened, before = history(folder, first.parent.session, first.parent.entries)
    return opened, [*before, *calls]


async def _repeat(session: Session, entry: Entry) -> tuple[Difference, ...]:
    """Make a call again; what came out otherwise."""
    try:
        match entry:
            case WasReset():
                view = await session.reset()
                return _compare({"view": entry.view}, {"view": view_hash(view)})
            case Stepped():
                step = await session.step(entry.action)
                return _compare(entry.model_dump(), stepped(entry.action, step).model_dump())
            case Concluded():
                await session.conclude(entry.asked, entry.error)
                now = {"end": session.end, "score": session.score}
                return _compare({"end": entry.end, "score": entry.score}, now)
            case Forked():
                await session.fork(0)  # it ends the sandbox's processes
            case Snapped():
                await session.snapshot(entry.name)
            case Restored():
                await session.restore(entry.name)
            case Opened():
                raise UsageError("a journal begins twice")
    except (EpisodeFailed, RuntimeError) as error:
        if isinstance(error, SandboxError):
            raise
        return (Difference("call", "carried out", f"refused: {error}"),)
    return ()


def _compare(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[Difference, ...]:
    return tuple(Difference(key, before[key], now[key]) for key in before if before[key] != now[key])


def _name(entry: Entry) -> str:
    match entry:
        case Stepped():
            return f"step {entry.turn}"
        case Snapped() | Restored():
            return f"{entry.kind} {entry.name!r}"
        case _:
            return entry.kind


def describe(drift: Drift) -> Sequence[str]:
    """A line for each difference."""
    return [f"{each.what}: journal {each.journal}, replay {each.replay}" for each in drift.differences]
