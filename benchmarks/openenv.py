"""Turnwise's server against OpenEnv's stock server: the same work, the same clients, in turns.

    python benchmarks/openenv.py --venv DIR [--pairs 7] [--seconds 2] [--stock sync]

DIR is a virtual environment of OpenEnv's own, made when it is absent. Both servers run for the whole
benchmark, each in one process; each load is one process too, and the loads take turns of a few seconds,
going first in turn. The environment has one action of two arguments, does nothing and answers ``ok``; ours
validates the arguments, looks for milestones and makes the turn's record besides, which travels with it.

- *OpenEnv's client*, the same code against both servers, one connection per client;
- *our client*, against ours, all sessions on one connection.

The stock server's figures depend on how its environment is written: with ``step``, as OpenEnv's templates
are, each session has a thread of its own; ``--stock async`` overrides ``step_async`` besides, and has none.

A figure is the median over the pairs, and a ratio that of the ratios. CPU is the server's alone. Memory is
what 1,000 idle sessions add to the server's resident size, after their reset.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REQUIREMENTS = ["openenv==0.10.0"]
CLIENTS = (1, 32, 256)
TARGETS = {"theirs": (0.95, 1.0, 1.0), "ours": (1.3, 2.5, 4.0)}
TAIL = 0.1
"""Of OpenEnv's 99th percentile at most clients, with our client."""
IDLE = 1000
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Server:
    """A server's process."""

    process: subprocess.Popen[str]
    url: str

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


class Load:
    """A process that does rounds of steps against a server."""

    def __init__(self, server: Server, process: subprocess.Popen[str]) -> None:
        self._server, self._process = server, process

    def ready(self) -> None:
        """Wait until its sessions are open and reset."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit(f"a load ended with {self._process.wait()}: see above")

    def round(self) -> dict[str, Any]:
        """Do one; its figures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = self._server.cpu()
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a load ended with {self._process.wait()}: see above")
        figures: dict[str, Any] = json.loads(line)
        figures["server_us"] = 1e6 * (self._server.cpu() - before) / figures["steps"]
        return figures


class Bench:
    """What is started, and ended with the ``with`` block."""

    def __init__(self, python: Path, seconds: float, pause: float, stack: ExitStack) -> None:
        self.pause = pause
        self._python, self._seconds, self._stack = python, seconds, stack

    def serve(self, *words: str) -> Server:
        """Start a server."""
        process = self._start(*words)
        assert process.stdout is not None
        return Server(process, f"http://127.0.0.1:{int(process.stdout.readline())}")

    def ours(self) -> Server:
        """Our server."""
        return self.serve(sys.executable, "-P", str(HERE / "openenv_ours.py"), "serve")

    def stock(self, kind: str) -> Server:
        """OpenEnv's server."""
        return self.serve(str(self._python), "-P", str(HERE / "openenv_theirs.py"), "serve", kind)

    @contextmanager
    def load(self, server: Server, clients: int, action: dict[str, object] | None) -> Iterator[Load]:
        """Load with OpenEnv's client where there is an action of its form, else with ours."""
        amount = (server.url, str(clients), str(self._seconds))
        if action is None:
            words = [sys.executable, "-P", str(HERE / "openenv_ours.py"), "load", *amount]
        else:
            script = str(HERE / "openenv_theirs.py")
            words = [str(self._python), "-P", script, "load", *amount, json.dumps(action)]
        process = self._start(*words)
        try:
            yield Load(server, process)
        finally:
            process.kill()
            process.communicate()

    def _start(self, *words: str) -> subprocess.Popen[str]:
        ours = words[0] == sys.executable
        environment = {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"}
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process


OUR_ACTION: dict[str, object] = {"tool_name": "nothing", "arguments": {"n": 1, "word": "x"}}
THEIR_ACTION: dict[str, object] = {"n": 1, "word": "x"}


def rounds(bench: Bench, ours: Server, stock: Server, clients: int, pairs: int) -> list[list[dict[str, Any]]]:
    """Figures of every pair: ours with OpenEnv's client, stock with it, ours with ours."""
    with (
        bench.load(ours, clients, OUR_ACTION) as a,
        bench.load(stock, clients, THEIR_ACTION) as b,
        bench.load(ours, clients, None) as c,
    ):
        loads = [a, b, c]
        for one in loads:
            one.ready()
            one.round()
        rows = []
        for pair in range(pairs):
            order = loads[pair % 3 :] + loads[: pair % 3]
            took = {}
            for one in order:
                time.sleep(bench.pause)
                took[id(one)] = one.round()
            rows.append([took[id(one)] for one in loads])
    return rows


def spread(values: list[float]) -> str:
    """The median, and the least and the most."""
    return f"{plain(statistics.median(values))} ({plain(min(values))} to {plain(max(values))})"


def plain(number: float) -> str:
    """Three digits, or a whole number."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def show(clients: int, rows: list[list[dict[str, Any]]]) -> dict[str, float]:
    """Print the figures of one number of clients; the medians of the ratios to stock."""
    print(f"\n{clients} clients: median (least to most) of {len(rows)}", flush=True)
    columns = ("OpenEnv's client: ours", "OpenEnv's client: stock", "our client: ours")
    print(f"{'':18}" + "".join(f"{name:30}" for name in columns))
    for figure in ("rate", "p50", "p99", "server_us", "client_us"):
        cells = [spread([row[side][figure] for row in rows]) for side in range(3)]
        print(f"{figure:18}" + "".join(f"{cell:30}" for cell in cells).rstrip())
    ratios = {
        "theirs": [row[0]["rate"] / row[1]["rate"] for row in rows],
        "ours": [row[2]["rate"] / row[1]["rate"] for row in rows],
        "tail": [row[2]["p99"] / row[1]["p99"] for row in rows],
    }
    print("ratios to stock: " + "; ".join(f"{name} {spread(values)}" for name, values in ratios.items()))
    return {name: statistics.median(values) for name, values in ratios.items()}


def memory(bench: Bench, server: Server, action: dict[str, object] | None) -> float:
    """KiB that an idle session adds."""
    with bench.load(server, 8, action) as load:
        load.ready()
        load.round()
        before = server.resident()
        with bench.load(server, IDLE, action) as idle:
            idle.ready()
            return (server.resident() - before) / IDLE / 1024


def prepare(venv: Path) -> Path:
    """OpenEnv's interpreter, with OpenEnv installed."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return python


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between rounds, for other work")
    parser.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    parser.add_argument(
        "--stock", choices=("sync", "async"), default="sync", help="how its environment is written"
    )
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    python = prepare(options.venv)
    with ExitStack() as stack:
        bench = Bench(python, options.seconds, options.pause, stack)
        ours, stock = bench.ours(), bench.stock(options.stock)
        ratios = {n: show(n, rounds(bench, ours, stock, n, options.pairs)) for n in options.clients}
        if not options.no_memory:
            print(f"\nKiB per idle session, {IDLE} of them")
            print(f"ours, OpenEnv's client   {memory(bench, bench.ours(), OUR_ACTION):.1f}")
            print(f"stock, OpenEnv's client  {memory(bench, bench.stock(options.stock), THEIR_ACTION):.1f}")
            print(f"ours, our client         {memory(bench, bench.ours(), None):.1f}")
    print()
    for who, targets in TARGETS.items():
        for clients, target in zip(CLIENTS, targets, strict=True):
            if clients in ratios:
                ratio = ratios[clients][who]
                print(
                    f"{who} at {clients}: {ratio:.2f} of {target} ({'met' if ratio >= target else 'NOT MET'})"
                )
    if CLIENTS[-1] in ratios:
        tail = ratios[CLIENTS[-1]]["tail"]
        print(f"tail at {CLIENTS[-1]}: {tail:.3f} of {TAIL} ({'met' if tail <= TAIL else 'NOT MET'})")


if __name__ == "__main__":
    main()
