"""What credit costs: every registered stage on 1,000 turns, and whether it stays linear to a million.

    python benchmarks/credit.py [--repeats 200]

Groups of 8 episodes of 8 turns, 4 milestones, 4 tokens fed and 5 written in a turn. Timed is the stage
as a training step runs it, checks of its result included, on a table that is there: processor time of
the repeat that was disturbed least. A stage passes when 1,000 turns cost at most 200 µs (2 ms where it
credits each of their 9,000 tokens, or first finds turns that began in the same state), the same holds for
each 1,000 of a million, and a million cost at most 30 times what 100,000 do: ten times for the turns, three
for columns that no longer fit into the processor's cache (a quadratic stage would take 100 times as long).
The command fails where a stage does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from turnwise.trainer.columns import SOURCES, TOKEN, Tokens, factorise
from turnwise.trainer.grouping import Array
from turnwise.trainer.stage import BoundStage, find_stage, stages
from turnwise.trainer.table import TurnTable

TURNS, EPISODES = 8, 8
FED, WRITTEN = 4, 5
MILESTONES = ("found", "opened", "changed", "checked")
SIZES = (1_000, 100_000, 1_000_000)
TARGET, WIDE = 200.0, 2_000.0
"""Microseconds per 1,000 turns: of a stage, and of one that credits tokens or compares states."""
GROWTH = 30.0
"""A million turns over 100,000, at most."""
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
    "group_norm": {"of": "step_reward"},
    "batch_norm": {"of": "step_reward", "into": "step_advantage"},
    "fuse": {"of": {"td_advantage": 1.0, "return": 0.5}},
}
"""Where a stage has no defaults, or they do not fit the others."""
WITHIN_STATES = find_stage("group_norm").bind({"of": "step_reward", "over": "states"})


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
        "success_before": rng.random(len(rows)), "success_after": rng.random(len(rows)),
        "value:shaped_reward": rng.normal(size=len(rows)),
        "next_value:shaped_reward": rng.normal(size=len(rows)),
        "outcome_level": np.where(last, rng.choice([0, 0.1, 0.2, 1], len(rows)), 0.0),
    }  # fmt: skip
    tokens = make_tokens(rows)
    columns["token:implicit"] = np.where(tokens.trainable, rng.normal(size=len(tokens.ids)), np.nan)
    names = {
        key: factorise(map(str, range(int(columns[key].max()) + 1)))[1] for key in ("episode_id", "group_id")
    }
    names["turn_id"] = rows
    channels = {"outcome": 0, "validity": 1, "modified": 1}
    return TurnTable(columns, group, names, tokens, MILESTONES, channels)


def make_tokens(rows: Array) -> Tokens:
    """What was fed and what was written in every turn."""
    one = FED + WRITTEN
    written = np.tile(np.arange(one) >= FED, len(rows))
    return Tokens(
        ids=np.tile(np.arange(one), len(rows)),
        logprobs=np.where(written, np.float32(-1), np.float32(np.nan)),
        trainable=written,
        source=np.where(written, np.uint8(SOURCES.index("policy")), np.uint8(SOURCES.index("env"))),
        version=np.where(written, 0, -1),
        row=np.repeat(rows, one),
        start=rows * one,
        stop=(rows + 1) * one,
    )


def registered() -> Iterable[BoundStage]:
    """Every stage there is, with its defaults or those above."""
    for name in stages():
        yield find_stage(name).bind(PARAMETERS.get(name, {}))
    yield WITHIN_STATES


def microseconds(nodes: Sequence[BoundStage], size: int, repeats: int) -> list[float]:
    """Processor time of each stage per 1,000 turns, of the repeat that was disturbed least. The stages
    take turns, so that a busy moment of the machine does not fall on one of them."""
    table = make_table(size)
    best = [float("inf")] * len(nodes)
    for _ in range(repeats):
        for place, node in enumerate(nodes):
            given = replace(table) if node is WITHIN_STATES else table  # a table finds its states once
            started = time.process_time()
            node.apply(given, {})
            best[place] = min(best[place], time.process_time() - started)
    return [1e6 * seconds * 1_000 / size for seconds in best]


def judged(node: BoundStage, small: float, middle: float, large: float) -> bool:
    """Print a stage's line; whether it keeps its bounds."""
    wide = node is WITHIN_STATES or any(name.startswith(TOKEN) for name in node.provides)
    target = WIDE if wide else TARGET
    growth = large / middle * SIZES[2] / SIZES[1]
    passed = small <= target and large <= target and growth <= GROWTH
    figures = f"{small:8.0f} {middle:8.1f} {large:8.1f} {growth:8.1f} {target:8.0f}"
    print(f"{node.name + ', states' * (node is WITHIN_STATES):18} {figures}  {'pass' if passed else 'FAIL'}")
    return passed


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=300, help="of the smallest table")
    repeats = parser.parse_args().repeats
    nodes = [*registered()]
    columns = [microseconds(nodes, size, repeats if size == SIZES[0] else 5) for size in SIZES]
    print("µs per 1,000 turns, of tables with")
    print("stage                 1,000  100,000  million   growth  at most")
    passed = [judged(node, *row) for node, *row in zip(nodes, *columns, strict=True)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
