"""Episodes on disk: one JSON line each, so that ``grep`` finds one and any tool reads it.

``<run>/episodes/step-000012.jsonl`` holds what step 12 trained on, ``eval-000012.jsonl`` the evaluation
after it. A file appears whole or not at all. What is read equals what was written, to the last bit of a
float; a line that is torn, malformed or of another version is an error that names it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from turnwise.agents.trajectory import Episode, Turn
from turnwise.envs.errors import UsageError

VERSION: Literal[1] = 1
"""Change it, and :class:`Line` with it, when the shape of an episode changes."""

_FILE_NAME = re.compile(r"(step|eval|final)-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file."""

    version: Literal[1]
    episode: Episode


_LINE = TypeAdapter(Line)


def episode_path(run: Path, kind: Literal["step", "eval", "final"], step: int) -> Path:
    """Where a run keeps the episodes of a step."""
    return run / "episodes" / f"{kind}-{step:06d}.jsonl"


def episode_files(run: Path) -> list[Path]:
    """The files of a run by step; what was trained on before its evaluation."""
    found = []
    for path in (run / "episodes").glob("*.jsonl"):
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            found.append((int(match[2]), match[1] != "step", path))
    return [path for *_, path in sorted(found)]


def write_episodes(path: Path, episodes: Iterable[Episode]) -> None:
    """Write a file, atomically; an existing one is replaced, and kept where writing fails.

    Raises ``ValueError`` for a number that is not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            for episode in episodes:
                _refuse_infinite(episode)
                file.write(_LINE.dump_json(Line(VERSION, episode)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_infinite(episode: Episode) -> None:
    """JSON has no NaN and no infinity; only the numbers that no pydantic model has checked are looked at."""
    sums = [sum(span.logprobs) for turn in episode.turns for span in turn.spans if span.logprobs]
    numbers = [*sums, *(turn.seconds for turn in episode.turns), episode.seconds, episode.score or 0.0]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"episode {episode.episode_id}: a log-probability, time or score is not finite")


def read_episodes(path: Path) -> Iterator[Episode]:
    """The episodes of a file, one at a time. Raises ``UsageError`` naming the file and the line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _read_line(path, number, line)


def _read_line(path: Path, number: int, line: bytes) -> Episode:
    if not line.endswith(b"\n"):
        raise UsageError(f"{path}, line {number}: torn, it has no end")
    try:
        return _LINE.validate_json(line, strict=True).episode
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}, line {number}: {field + ': ' if field else ''}{first['msg']}") from None


def find_episode(run: Path, episode_id: str) -> Episode:
    """An episode of a run, the newest of that name. Raises ``UsageError`` where there is none."""
    needle = b'"episode_id":' + json.dumps(episode_id, ensure_ascii=False).encode()
    files = episode_files(run)
    for path in reversed(files):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if needle in line:
                    episode = _read_line(path, number, line)
                    if episode.episode_id == episode_id:
                        return episode
    raise UsageError(f"no episode {episode_id!r} in the {len(files)} files of {str(run / 'episodes')!r}")


# ---------------------------------------------------------------- export


def export_parquet(run: Path, path: Path) -> int:
    """All turns of a run as one Parquet file, a row each; returns how many.

    ``ids``, ``sources`` and ``logprobs`` are lists with one entry per token; a log-probability is null
    where the policy did not sample. Raises ``UsageError`` without pyarrow, or for a run without episodes.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'turnwise[export]'") from None
    files = episode_files(run)
    if not files:
        raise UsageError(f"no episodes in {str(run / 'episodes')!r}")
    schema = _schema(pa)
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for file in files:
            rows = [_row(file.stem, e, turn) for e in read_episodes(file) for turn in e.turns]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _schema(pa: Any) -> Any:
    text, number, real = pa.string(), pa.int64(), pa.float64()
    term = pa.struct({"channel": text, "level": number, "value": real})
    return pa.schema(
        {
            "file": text,
            "env": text,
            "task": text,
            "task_seed": number,
            "group_id": text,
            "episode_id": text,
            "thread_id": text,
            "turn_id": text,
            "parent_id": text,
            "index": number,
            "policy": text,
            "end": text,
            "score": real,
            "action": text,
            "text": text,
            "observation": text,
            "valid": pa.bool_(),
            "milestones": pa.list_(text),
            "rewards": pa.list_(term),
            "ids": pa.list_(number),
            "sources": pa.list_(text),
            "logprobs": pa.list_(real),
            "seconds": real,
        }
    )


def _row(file: str, episode: Episode, turn: Turn) -> dict[str, Any]:
    spans = turn.spans
    return {
        "file": file,
        "env": episode.task.env,
        "task": episode.task.id,
        "task_seed": episode.task.seed,
        "group_id": episode.group_id,
        "episode_id": episode.episode_id,
        "thread_id": turn.thread_id,
        "turn_id": turn.turn_id,
        "parent_id": turn.parent_id,
        "index": turn.index,
        "policy": episode.policy,
        "end": str(episode.end),
        "score": episode.score,
        "action": turn.action.model_dump_json(),
        "text": turn.text,
        "observation": turn.observation.text,
        "valid": turn.record.valid,
        "milestones": list(turn.record.milestones),
        "rewards": [term.model_dump() for term in turn.record.terms],
        "ids": [token for span in spans for token in span.ids],
        "sources": [span.source for span in spans for _ in span.ids],
        "logprobs": [value for span in spans for value in span.logprobs or [None] * len(span.ids)],
        "seconds": turn.seconds,
    }
