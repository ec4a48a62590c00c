"""A server under murder: sandboxes, workers and clients of 64 sessions die at random, by ``kill -9``.

    python benchmarks/soak.py [--seconds 600] [--seed 0] [--sessions 64] [--workers 2]

Clients, processes of their own, add numbers to a ledger in each session's sandbox; the answer is how many
there are, so that a step that was doubled or lost shows at once. A client notes every answer before it goes
on. Afterwards the notes are held against the server's journal, every process and control group that was
seen below the server must be gone, and what failed for the machine's sake must have no score. Exit code 1
where anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from turnwise import AgentView, Env, SandboxSpec, TaskSet, call, connect, register, seeds, text, tool
from turnwise.envs.serving.client import RemoteEnvs
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.journal import SUFFIX, Stepped, read_journal
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.types import EpisodeLimits, Task

CLIENTS = 4
PAUSE = (0.3, 1.5)
"""Seconds between two kills, at least and at most."""
VICTIMS = {"sandbox": 6, "worker": 1, "client": 2}
"""How often each is killed, in parts."""
LEDGER = "/workspace/ledger"
END_SECONDS = 180.0
"""How long the server may take to end."""
SETTLE_SECONDS = 120.0
"""How long what was below it may outlive it, on a machine that is busy with other things too."""


@register
class Ledger(Env):
    """Add numbers to a ledger."""

    name = "soak/ledger"
    sandbox_spec = SandboxSpec()
    limits = EpisodeLimits(turns=60)

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1_000_000)

    async def reset(self, task: Task) -> AgentView:
        await self.sandbox.write(LEDGER, b"")
        return text("0")

    @tool
    async def add(self, n: int) -> str:
        """Add a number; says how many there are."""
        result = await self.sandbox.exec(f"echo {n} >> {LEDGER}; wc -l < {LEDGER}")
        return result.stdout.decode().strip()

    async def grade(self) -> float:
        return 1.0


# ------------------------------------------------------------------ a client
async def play_on(url: str, sessions: int, seed: int, notes: int) -> None:
    """Play until killed, with a new connection whenever one is lost for good."""

    def note(**line: object) -> None:
        os.write(notes, f"{json.dumps(line)}\n".encode())

    rng = random.Random(seed)
    while True:
        try:
            async with connect(url) as envs, asyncio.TaskGroup() as players:
                for _ in range(sessions):
                    players.create_task(player(envs, random.Random(rng.random()), note))
        except* ServerFailed:
            await asyncio.sleep(0.1)


async def player(envs: RemoteEnvs, rng: random.Random, note: Callable[..., None]) -> None:
    while True:
        name, end, score = None, None, None
        try:
            async with envs.open("soak/ledger", seed=rng.randrange(1_000_000)) as env:
                name = env.info.session
                await env.reset()
                for turn in range(rng.randint(10, 50)):
                    step = await env.step(call("add", n=turn))
                    assert step.record is not None
                    end, score = step.end, step.record.score
                    right = step.record.turn == turn and (step.view.text == str(turn + 1) or end is not None)
                    note(session=name, turn=step.record.turn, right=right, end=end, score=score)
                    if end is not None:
                        break
        except EpisodeFailed as failure:
            note(session=name, failed=failure.end)
        except ServerFailed as failure:
            note(session=name, failed=str(failure))
            if name is None:
                raise  # no worker takes sessions just now


# ------------------------------------------------------------------ the server
async def serve(workers: int, sessions: int, journal: Path) -> None:
    from turnwise.envs.serving.front import Front

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = {"sessions": 2 * sessions, "journal": journal, "log": ("text", "error")}
    async with Front(["soak/ledger"], workers=workers, port=0, **options) as front:
        print(front.url, flush=True)
        await stop.wait()


# ------------------------------------------------------------------ the murderer
@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    name: str
    started: str

    @property
    def alive(self) -> bool:
        return look(self.pid) == self


def look(pid: int) -> Process | None:
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = after.split()
    return None if fields[0] == "Z" else Process(pid, before.partition("(")[2], fields[19])


def below(pid: int) -> list[Process]:
    """All processes below one."""
    found, left = [], [pid]
    while left:
        try:
            texts = [path.read_text() for path in Path(f"/proc/{left.pop()}/task").glob("*/children")]
        except OSError:
            continue
        children = [int(child) for words in texts for child in words.split()]
        found += [process for child in children if (process := look(child)) is not None]
        left += children
    return found


@dataclass(slots=True)
class Soak:
    folder: Path
    options: argparse.Namespace
    server: subprocess.Popen[str]
    url: str
    clients: list[subprocess.Popen[bytes]] = field(default_factory=list)
    seen: set[Process] = field(default_factory=set)
    killed: Counter[str] = field(default_factory=Counter)

    def start_client(self) -> None:
        number = len(list(self.folder.glob("notes-*")))
        command = [sys.executable, __file__, "--client", self.url, "--seed", str(self.options.seed + number)]
        command += ["--sessions", str(self.options.sessions // CLIENTS)]
        with (self.folder / f"notes-{number}").open("w") as notes:
            self.clients.append(subprocess.Popen(command, stdout=notes))

    def kill_somebody(self, rng: random.Random) -> None:
        """One of those there are; what lives below the server is taken down for the end."""
        tree = below(self.server.pid)
        self.seen.update(tree)
        kind = rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if kind == "client":
            client = self.clients.pop(rng.randrange(len(self.clients)))
            client.kill()
            client.wait()
            self.start_client()
        else:
            # A sandbox is its first process, a child of the hub; killing a command in it is a command's end.
            hubs = {process.pid for process in tree if process.name == "sandbox-hub"}
            owners, mark = (hubs, b"") if kind == "sandbox" else ({self.server.pid}, b"spawn_main")
            victims = [one for one in tree if parent(one.pid) in owners and mark in command_of(one.pid)]
            if not victims:
                return
            try:
                os.kill(rng.choice(victims).pid, signal.SIGKILL)
            except ProcessLookupError:
                return
        self.killed[kind] += 1


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# ------------------------------------------------------------------ the inquest
def compare(folder: Path) -> tuple[list[str], Counter[str]]:
    """What is amiss between notes and journal, and what was counted."""
    amiss, counts = [], Counter[str]()
    acknowledged: defaultdict[str, list[int]] = defaultdict(list)
    for path in folder.glob("notes-*"):
        for line in path.read_text().splitlines():
            note = json.loads(line)
            if "failed" in note:
                counts["sessions lost"] += 1
                continue
            counts["steps"] += 1
            acknowledged[note["session"]].append(note["turn"])
            if not note["right"]:
                amiss.append(f"a wrong answer: {line}")
            if note["end"] == "infra_error":
                counts["sessions ended as infra_error"] += 1
                if note["score"] is not None:
                    amiss.append(f"an infrastructure failure has a score: {line}")
    for session, turns in acknowledged.items():
        journal = read_journal(folder / "journal", session)
        written = [entry.turn for entry in journal if isinstance(entry, Stepped)]
        if turns != list(range(len(turns))):
            amiss.append(f"{session}: the client was answered for turns {turns}")
        if written != list(range(len(written))):
            amiss.append(f"{session}: the journal has turns {written}")
        if not len(turns) <= len(written) <= len(turns) + 1:
            amiss.append(f"{session}: {len(turns)} turns answered, {len(written)} in the journal")
    counts["sessions"] = len(list((folder / "journal").glob(f"*{SUFFIX}")))
    return amiss, counts


def left_over(seen: Sequence[Process], temporary: Path) -> list[str]:
    """Processes, control groups and files that outlived the server for longer than they may."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := there(seen, temporary)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def there(seen: Sequence[Process], temporary: Path) -> list[str]:
    """Those there are now."""
    owners = {str(process.pid) for process in seen}
    root = Path("/sys/fs/cgroup")
    groups = [path for mount in (root, *root.glob("*/")) for path in mount.glob("turnwise-*")]
    return [
        *(f"process left: {process}" for process in seen if process.alive),
        *(f"control group left: {path}" for path in groups if path.name.split("-")[1] in owners),
        *(f"file left: {path}" for path in temporary.iterdir()),
    ]


def run(options: argparse.Namespace) -> int:
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = Path(name), Path(name) / "tmp"
        temporary.mkdir(mode=0o755)
        command = [sys.executable, __file__, "--serve", str(folder / "journal")]
        command += ["--workers", str(options.workers), "--sessions", str(options.sessions)]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
        )
        assert server.stdout is not None
        soak = Soak(folder, options, server, server.stdout.readline().strip())
        try:
            for _ in range(CLIENTS):
                soak.start_client()
            end = time.monotonic() + options.seconds
            while time.monotonic() < end and server.poll() is None:
                time.sleep(rng.uniform(*PAUSE))
                soak.kill_somebody(rng)
        finally:
            for client in soak.clients:
                client.kill()
                client.wait()
            alive = server.poll() is None
            server.terminate()
            server.wait(END_SECONDS)
        amiss, counts = compare(folder)
        amiss += left_over(list(soak.seen), temporary)
        amiss += [] if alive else [f"the server itself ended (exit code {server.returncode})"]
    print(f"killed: {dict(soak.killed)}")
    print(f"counted: {dict(counts)}")
    print("\n".join(amiss) or "nothing lost, nothing doubled, nothing left, no failure of the machine scored")
    return 1 if amiss or not counts["steps"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.workers, options.sessions, options.serve))
        return 0
    if options.client is not None:
        asyncio.run(play_on(options.client, options.sessions, options.seed, sys.stdout.fileno()))
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
