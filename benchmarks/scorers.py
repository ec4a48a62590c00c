"""What a scorer costs: CPU seconds per training step of recipes with one, against the outcome recipe's.

    python benchmarks/scorers.py [--seeds 3] [--run DIR]

The recipes are run in pairs from the same warm start by ``turnwise compare``. Counted is a training step as
it is, with rollout, credit, update and checkpoint, from the first evaluation to the last, which falls into
both alike; the share of mixed groups, and so the work, is each recipe's own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from turnwise import Recipe, compare
from turnwise.trainer.compare.results import SeedRun

RECIPES = ("quickstart-outcome", "quickstart-implicit", "quickstart-prime", "quickstart-mira")
STEPS = 15


def per_step(run: SeedRun) -> float:
    """CPU seconds of a training step, on average."""
    first, last = run.curve[0], run.curve[-1]
    return (last.cpu_seconds - first.cpu_seconds) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    folder = options.run or Path(tempfile.mkdtemp())
    recipes = [Recipe.load(name).override(steps=STEPS, **{"evaluate.every": STEPS}) for name in RECIPES]
    result = compare(recipes, seeds=options.seeds, run=folder)
    base = [per_step(run) for run in result.arms[0].runs]
    for arm in result.arms:
        cost = [per_step(run) for run in arm.runs]
        ratios = [own / outcome for own, outcome in zip(cost, base, strict=True)]
        print(
            f"{arm.recipe:22}  {statistics.median(cost):5.2f} s CPU per step, "
            f"{statistics.median(ratios):.2f} times the outcome's ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
