"""What credit costs: each built-in stage on 1,000 turns, and whether a million cost a thousand times that.

    python benchmarks/credit.py [--repeats 200]

Groups of 8 episodes of 8 turns, 4 milestones. Only the arithmetic is timed: the stage as a training step
runs it, checks of its result included, on a table that is there. The target is 200 µs per 1,000 turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from turnwise.trainer.columns import Tokens, factorise
from turnwise.trainer.stage import BoundStage, find_stage, stages
from turnwise.trainer.table import TurnTable

TURNS, EPISODES = 8, 8
MILESTONES = ("found", "opened", "changed", "checked")
TARGET = 200.0
"""Microseconds per 1,000 turns."""
PARAMETERS: Mapping[str, dict[str, Any]] = {
    "gated": {
        "rewards": {
            "outcome_level": {"level": 0, "threshold": 0.2},
            "channel:validity": {"weight": 0.15, "threshold": 2},
            "progress": {"level": 2},
        }
    },
    "gae": {"of": "shaped_reward"},
    "critic": {"of": "shaped_reward"},
}
"""Where a stage has no defaults, or they do not fit the others."""


def make_table(turns: int, seed: int = 0) -> TurnTable:
    """A batch with all the columns that stages read, drawn at random."""
    rng = np.random.default_rng(seed)
    count = turns // TURNS
    episode = np.repeat(np.arange(count), TURNS)
    group = np.arange(count) // EPISODES
    last = np.tile(np.arange(TURNS) == TURNS - 1, count)
    score = np.repeat(rng.integers(0, 2, count).astype(float), TURNS)
    reached = rng.integers(0, len(MILESTONES) + 1, (count, TURNS)).cumsum(axis=1).clip(max=len(MILESTONES))
    after = reached.ravel() / len(MILESTONES)
    before = np.where(np.tile(np.arange(TURNS) == 0, count), 0.0, np.roll(after, 1))
    rows = np.arange(count * TURNS)
    columns: dict[str, Any] = {
        "turn_id": rows, "parent_id": rows - 1, "episode_id": episode, "group_id": group[episode],
        "thread_id": np.zeros_like(rows), "index": rows % TURNS, "weight": np.ones(len(rows)),
        "reward": np.where(last, score, 0.0), "outcome": score, "valid": rng.random(len(rows)) < 0.8,
        "terminal": last, "truncated": np.zeros_like(last), "submitted": last,
        "progress": after - before, "potential_before": before, "potential_after": after,
        "channel:validity": rng.integers(0, 2, len(rows)).astype(float),
        "channel:modified": np.where(last, 1.0, np.nan),
        "return": rng.normal(size=len(rows)), "step_reward": rng.normal(size=len(rows)),
        "shaped_reward": rng.normal(size=len(rows)), "td_advantage": rng.normal(size=len(rows)),
        "value:shaped_reward": rng.normal(size=len(rows)),
        "next_value:shaped_reward": rng.normal(size=len(rows)),
        "outcome_level": np.where(last, rng.choice([0, 0.1, 0.2, 1], len(rows)), 0.0),
    }  # fmt: skip
    none = np.zeros(0, dtype=np.int64)
    empty = Tokens(none, none, none, none, none, none, np.zeros_like(rows), np.zeros_like(rows))
    names = {
        key: factorise(map(str, range(int(columns[key].max()) + 1)))[1] for key in ("episode_id", "group_id")
    }
    channels = {"outcome": 0, "validity": 1, "modified": 1}
    return TurnTable(columns, group, names, empty, MILESTONES, channels)


def table_only() -> Iterable[BoundStage]:
    """The built-in stages that read nothing but the table."""
    for name, stage in stages().items():
        if stage.function.__module__.startswith("turnwise.trainer.credit."):
            yield find_stage(name).bind(PARAMETERS.get(name, {}))


def microseconds(node: BoundStage, table: TurnTable, repeats: int) -> float:
    """Processor time of a stage, of the repeat that was disturbed least."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        node.apply(table, {})
        times.append(time.process_time() - started)
    return 1e6 * min(times)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    small, large = make_table(1_000), make_table(1_000_000)
    print("stage            µs per 1,000 turns   of a million turns")
    for node in table_only():
        one, many = microseconds(node, small, repeats), microseconds(node, large, 3) / 1_000
        print(f"{node.name:16} {one:18.0f}   {many:18.0f}{'   over target' if one > TARGET else ''}")


if __name__ == "__main__":
    main()
