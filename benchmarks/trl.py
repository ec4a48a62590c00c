"""Turnwise against TRL's GRPOTrainer: the same weights, prompts and lengths, one thread each, in pairs.

    python benchmarks/trl.py --venv DIR [--pairs 7] [--prompts 16] [--minibatch 32]

DIR is a virtual environment of TRL's own, made when it is absent (2 GB); our side runs with the
interpreter that runs this. Each side is a process that loads what it needs, does one round to warm up
and then a round whenever it is told to; the sides take turns, and go first in turn.

A *training round* is one step of either trainer on a Qwen3 of 0.4 million parameters, the quickstart's:
``--prompts`` prompts of 12 tokens, 8 completions of each, 64 tokens sampled at temperature 1 with no end
of sequence, a reward drawn at random (so that no group is without signal), and AdamW steps on
``--minibatch`` completions each: group advantages with standard deviation, clip 0.2, no KL, gradient
norm 1, float32, no gradient checkpointing. What is counted is chosen so as not to flatter us:

- *generated*: TRL, its ``_generate`` alone (tokenise, transformers' ``generate``, decode); ours, the whole
  rollout: sessions, rendering, sampling, log-probabilities, parsing, grading, records.
- *trained*: TRL, the round without ``_generate_and_score_completions``: so neither its rewards nor the
  forward in which it computes the old log-probabilities; ours, the turn table, credit, all optimiser
  steps and the hand-over of the weights to the engine.
- *whole*: the round, with everything.
- *peak memory*: the largest resident size of the process, imports included.

A *tool round* is 16 episodes, 8 of each of 2 new tasks, of 8 tool calls and an answer. The tool does
nothing and returns a number that was not seen before, so that it has to be tokenised. The model is left
out of both: a script says what it samples, the same tokens (a call in Hermes' form, Qwen3's chat
template) from the same tokenizer. TRL, through ``environment_factory``, is charged for ``_generate``
alone, not for its resets and rewards; ours for the whole rollout: session, validation, rendering,
exact tokens, parsing, grading, records.

Figures are per second, or milliseconds per tool call, of processor time and of wall time. The target is
to be ahead in each, and a quarter of TRL's overhead per tool call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REQUIREMENTS = (["torch==2.13.0"], ["trl==1.16.0"])
"""In order: TRL is to find torch there, or pip would take the build for GPUs."""
QUIET = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
OVERHEAD = 0.25
"""Of TRL's overhead per tool call, at most."""


class Side:
    """A process that does rounds of one kind."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def round(self) -> dict[str, Any]:
        """Do one; what it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.name} ended with {self._process.wait()}: see above")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def sides(kind: str, python: Path, shape: dict[str, Any]) -> Iterator[list[Side]]:
    """Both sides, ours first, warm."""
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    apart = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    settings = json.dumps(shape)
    both: list[Side] = []
    try:  # -P: beside this file, `import trl` would find this file
        command = [sys.executable, "-P", str(HERE / "trl_ours.py"), kind, settings]
        both.append(Side("Turnwise", command, environment))
        both.append(Side("TRL", [str(python), "-P", str(HERE / "trl_theirs.py"), kind, settings], apart))
        for side in both:
            side.round()
        yield both
    finally:
        for side in both:
            side.close()


def interleaved(both: list[Side], pairs: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the rounds of each pair took, ours first."""
    rows = []
    for pair in range(pairs):
        order = both if pair % 2 == 0 else both[::-1]
        took = {side.name: side.round() for side in order}
        rows.append((took[both[0].name], took[both[1].name]))
    return rows


def show(
    what: str, rows: list[tuple[dict[str, Any], dict[str, Any]]], value: Callable[[dict[str, Any]], float]
) -> float:
    """Print a figure of both sides, and the ratio of the pairs; its median."""
    columns = [[value(row[side]) for row in rows] for side in (0, 1)]
    ratios = [ours / theirs for ours, theirs in zip(*columns, strict=True)]
    cells = [
        f"{plain(statistics.median(c))} ({plain(min(c))} to {plain(max(c))})" for c in (*columns, ratios)
    ]
    print(f"{what:34}" + "".join(f"{cell:28}" for cell in cells).rstrip(), flush=True)
    return statistics.median(ratios)


def plain(number: float) -> str:
    """Three digits, or a whole number."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def training(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> bool:
    """Print the figures of training rounds; whether all are ahead."""
    ahead = []
    for part in ("generated", "trained", "whole"):
        for clock in ("cpu", "wall"):

            def rate(row: dict[str, Any], at: tuple[str, str] = (part, clock)) -> float:
                return float(row["tokens"] / row[at[0]][at[1]])

            ahead.append(show(f"{part}, tokens per {clock} second", rows, rate) > 1)
    return all([*ahead, show("peak memory, MB", rows, lambda row: float(row["peak_mb"])) < 1])


def tools(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> bool:
    """Print the figures of tool rounds; whether ours is at most a quarter."""
    wall = show("overhead per tool call, ms wall", rows, lambda row: 1e3 * row["wall"] / row["calls"])
    cpu = show("overhead per tool call, ms CPU", rows, lambda row: 1e3 * row["cpu"] / row["calls"])
    return max(wall, cpu) <= OVERHEAD


def prepare(venv: Path) -> Path:
    """TRL's interpreter, with TRL installed."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        for packages in REQUIREMENTS:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=16, help="prompts of a round, 8 completions each")
    parser.add_argument("--minibatch", type=int, default=32, help="completions of an optimiser step")
    options = parser.parse_args()
    python = prepare(options.venv)
    with tempfile.TemporaryDirectory() as folder:
        shape = {"folder": folder, "prompts": options.prompts, "minibatch": options.minibatch}
        for kind in ("model", "tokenizer"):
            command = [sys.executable, "-P", str(HERE / "trl_ours.py"), kind, json.dumps(shape)]
            subprocess.run(command, check=True)
        subprocess.run(
            [str(python), "-P", str(HERE / "trl_theirs.py"), "template", json.dumps(shape)], check=True
        )
        print(f"{'median (least to most)':34}{'Turnwise':28}{'TRL':28}ratio of the pairs")
        with sides("train", python, shape) as both:
            ahead = training(interleaved(both, options.pairs))
        with sides("tools", python, shape) as both:
            quarter = tools(interleaved(both, options.pairs))
    print(
        f"ahead in all: {'yes' if ahead else 'NO'}; a quarter of the overhead: {'yes' if quarter else 'NO'}"
    )


if __name__ == "__main__":
    main()
