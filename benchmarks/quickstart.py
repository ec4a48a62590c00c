"""How long the quickstart takes to learn: from starting the command to 90% sampled success.

    python benchmarks/quickstart.py [--seeds 20] [--out DIR] [--set KEY=VALUE …]

Every seed is a run of its own, from nothing: other demonstrations, weights, warm start and tasks. Counted
is the time from the start of the process to the first evaluation on the validation split, none of which is
trained on, with success of 90% or more; "held out" is the run's own result on the test split at its end.
CPU seconds are also given in units of a matrix product, measured just before each run, so that machines
compare: 1 unit is the time of 10^10 multiply-adds in float32 on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

GOAL = 0.9


def calibrate() -> float:
    """Seconds of one core for 10^10 float32 multiply-adds in 512 x 512 products; the best of five."""
    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(20):
            a @ a
        best = min(best, (time.process_time() - started) / 20)
    return best / 512**3 * 1e10


def run(seed: int, folder: Path, settings: list[str]) -> dict[str, Any]:
    """One seed, in a process of its own."""
    unit = calibrate()
    turnwise = str(Path(sys.executable).with_name("turnwise"))
    command = [turnwise, "train", "quickstart", "--run", str(folder)]
    for setting in [*settings, f"seed={seed}"]:
        command += ["--set", setting]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall = time.monotonic() - started
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reached = next((r for r in rows if r["kind"] == "eval" and r["success"] >= GOAL), None)
    outside = wall - summary["wall_seconds"]
    return {
        "seed": seed,
        "wall_to_goal": None if reached is None else reached["wall_seconds"] + outside,
        "cpu_to_goal": None if reached is None else reached["cpu_seconds"],
        "units_to_goal": None if reached is None else reached["cpu_seconds"] / unit,
        "step": None if reached is None else reached["step"],
        "held_out": summary["held_out_success"],
        "peak_rss_mb": summary["peak_rss_mb"],
        "wall": wall,
    }


def show(row: dict[str, Any]) -> str:
    """A line of the table."""
    if row["wall_to_goal"] is None:
        return f"{row['seed']:4d}  not reached   held out {row['held_out']:.3f}"
    return (
        f"{row['seed']:4d}  {row['wall_to_goal']:6.1f} s wall  {row['cpu_to_goal']:6.1f} s CPU  "
        f"{row['units_to_goal']:6.1f} units  step {row['step']:3d}  held out {row['held_out']:.3f}  "
        f"{row['peak_rss_mb']:.0f} MB"
    )


def main() -> None:
    """Run the seeds, print a line each and the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.first, options.first + options.seeds):
            rows.append(run(seed, (options.out or Path(scratch)) / f"seed-{seed}", options.settings))
            print(show(rows[-1]), flush=True)
    done = [row for row in rows if row["wall_to_goal"] is not None]
    quick = [row for row in done if row["wall_to_goal"] <= 180]
    print(f"\n{len(done)} of {len(rows)} reached {GOAL:.0%}, {len(quick)} of them within 3 minutes")
    for name in ("wall_to_goal", "cpu_to_goal", "units_to_goal", "held_out", "peak_rss_mb"):
        values = sorted(row[name] for row in done)
        if values:
            print(
                f"{name:14s} median {statistics.median(values):8.2f}  ({values[0]:.2f} to {values[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
