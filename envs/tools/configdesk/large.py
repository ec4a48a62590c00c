"""Levels 3 to 5: the configuration of services, in directories, with much that leads astray.

Every service has one file, which names it (``service = billing``) and says nothing of it in its path.
Services share a schema of keys, so most keys are in many files. From level 4 on a file also names
another service (``link.peer``) and a key (``link.key``), and instructions go through them.

Only the files' entries count. Comments, entries that are commented out, and the note of level 5 are
wrong on purpose, and the agent is told that they may be.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from turnwise.envs.tools.configdesk.problem import Copy, Problem, Spot

SERVICES = (
    *("billing", "search", "orders", "login", "basket", "stock", "prices", "mailer", "reports", "audit"),
    *("ledger", "payout", "refund", "invoice", "catalog", "review", "ranking", "advert", "coupon", "loyalty"),
    *("support", "chat", "notify", "push", "upload", "media", "thumbs", "video", "stream", "maps"),
    *("routing", "fleet", "dispatch", "courier", "returns", "supplier", "forecast", "metrics", "alerts"),
    *("tracing", "backup", "archive", "import", "export", "sync", "gateway", "proxy", "vault"),
)
SECTIONS = ("cache", "pool", "queue", "http", "disk", "retry")
NAMES = ("size", "size_max", "limit", "limit_soft", "timeout", "timeout_read", "interval", "batch")
KEYS = tuple(f"{section}.{name}" for section in SECTIONS for name in NAMES)
REGIONS = ("eu", "us", "ap")
TIERS = ("core", "edge", "batch")
NOTE = "NOTES.txt"

Route = Literal["direct", "peer", "key", "both"]
"""How the instruction names the source: outright; by its service, which another file names; by its key,
which another file names; or both."""

PHRASES: dict[Route, str] = {
    "direct": "the value of {key} in {source}",
    "peer": "the value of {key} in the service that {first} names as link.peer",
    "key": "the value that {source} has for the key that {first} names as link.key",
    "both": "the value that the service named by {first} as link.peer has for the key it names itself "
    "as link.key",
}


@dataclass(frozen=True, slots=True)
class Large:
    """The size of a level and what it adds."""

    files: int
    keys: int
    routes: tuple[tuple[Route, ...], ...]
    """For every copy the routes it may take."""
    turns: int
    comments: bool
    signs: tuple[str, ...]
    note: bool

    def draw(self, rng: random.Random) -> LargeQuestion:
        """A question of this level. No two copies share a service, so their order is free."""
        services = rng.sample(SERVICES, self.files)
        free = iter(services)
        moves = tuple(self._move(rng, rng.choice(routes), free) for routes in self.routes)
        return LargeQuestion(self, tuple(services), moves)

    def _move(self, rng: random.Random, route: Route, free: Iterator[str]) -> Move:
        key, target_key = rng.sample(KEYS, 2)
        value = rng.randrange(20, 400)
        sign, amount = rng.choice((("", 0), ("plus", rng.randrange(3, 60)), ("times", rng.randrange(2, 5))))
        result = value * amount if sign == "times" else value + amount
        source, target = next(free), next(free)
        first = source if route == "direct" else next(free)
        return Move(route, first, source, key, value, sign, amount, target, target_key, result)


class Move(NamedTuple):
    """One copy: a source, the route to it, arithmetic, and a target."""

    route: Route
    first: str
    """The service the route starts at; the source itself when it is direct."""
    source: str
    key: str
    value: int
    sign: str
    amount: int
    target: str
    target_key: str
    result: int

    @property
    def sentence(self) -> str:
        """The instruction's line."""
        phrase = PHRASES[self.route].format(key=self.key, source=self.source, first=self.first)
        sum_ = f", {self.sign} {self.amount}" if self.sign else ""
        return f"In {self.target}, set {self.target_key} to {phrase}{sum_}."

    def links(self) -> Iterator[tuple[str, str, str]]:
        """The service, key and value of every link that the route goes through."""
        if self.route in ("peer", "both"):
            yield self.first, "link.peer", self.source
        if self.route in ("key", "both"):
            yield (self.source if self.route == "both" else self.first), "link.key", self.key


@dataclass(frozen=True, slots=True)
class LargeQuestion:
    """Which services there are and which copies are asked for."""

    level: Large
    services: tuple[str, ...]
    moves: tuple[Move, ...]

    @property
    def instruction(self) -> str:
        """One numbered sentence per copy."""
        lines = [f"{i}. {move.sentence}" for i, move in enumerate(self.moves, 1)]
        return "\n".join(["Bring the configuration in line:", *lines])

    @property
    def fingerprint(self) -> str:
        """The moves, in whatever order they are asked for."""
        return repr(sorted(tuple(move) for move in self.moves))

    def problem(self, rng: random.Random) -> Problem:
        """Draw all files, so that the links and the sources are what the question needs."""
        where = self._paths(rng)
        values = {service: self._entries(service, rng) for service in self.services}
        tree = {where[service]: self._text(values[service], rng).encode() for service in self.services}
        if self.level.note:
            tree[NOTE] = self._note(rng).encode()
        copies = []
        for move in self.moves:
            reads = [Spot(service, where[service], key, value) for service, key, value in move.links()]
            reads.append(Spot(move.source, where[move.source], move.key, str(move.value)))
            target = Spot(move.target, where[move.target], move.target_key, str(move.result))
            copies.append(Copy(tuple(reads), target))
        return Problem(
            instruction=self.instruction,
            tree=dict(sorted(tree.items())),
            copies=tuple(copies),
            terse=False,
            words=(*self.services, *KEYS),
            values=tuple(str(number) for move in self.moves for number in (move.value, move.result)),
        )

    def _paths(self, rng: random.Random) -> dict[str, str]:
        numbers = rng.sample(range(10, 100), len(self.services))
        return {
            service: f"{rng.choice(REGIONS)}/{rng.choice(TIERS)}/n{number}.conf"
            for service, number in zip(self.services, numbers, strict=True)
        }

    def _entries(self, service: str, rng: random.Random) -> dict[str, str]:
        """A file's entries: what the moves need, decoys of the same keys, and others at random."""
        found = {"service": service}
        needed: dict[str, str] = {}
        for move in self.moves:
            if service == move.source:
                needed[move.key] = str(move.value)
            elif service == move.first:
                needed[move.key] = _other(rng, move.value)
            elif service == move.target:
                needed[move.target_key] = _other(rng, move.result)
                needed.setdefault(move.key, _other(rng, move.value))
        if self.level.comments:
            found["link.peer"] = rng.choice([other for other in self.services if other != service])
            found["link.key"] = rng.choice(KEYS)
            found |= {key: value for move in self.moves for s, key, value in move.links() if s == service}
        rest = rng.sample(KEYS, self.level.keys + len(needed))
        for key in rest:
            if len(needed) < self.level.keys:
                needed.setdefault(key, str(rng.randrange(20, 400)))
        keys = list(needed)
        rng.shuffle(keys)
        return found | {key: needed[key] for key in keys}

    def _text(self, held: dict[str, str], rng: random.Random) -> str:
        sign = rng.choice(self.level.signs)
        lines = []
        for key, value in held.items():
            line = f"{key}{sign}{value}"
            if self.level.comments and key in KEYS:
                if rng.random() < 0.25:
                    lines.append(f"# {key}{sign}{_other(rng, int(value))}")
                if rng.random() < 0.2:
                    line += f"  # was {_other(rng, int(value))}"
            lines.append(line)
        if self.level.comments:
            lines.insert(0, f"# moved here from {rng.choice(self.services)}")
            lines.insert(rng.randrange(2, len(lines)), f"# keep in step with {rng.choice(self.services)}")
        return "\n".join(lines) + "\n"

    def _note(self, rng: random.Random) -> str:
        """A note that settles every copy, wrongly."""
        lines = ["Agreed values, already settled; no need to look them up:"]
        for move in self.moves:
            lines.append(f"- {move.target} {move.target_key} is {_other(rng, move.result)}")
            lines.append(f"- link.peer of {move.first} is {rng.choice(self.services)}")
        return "\n".join(lines) + "\n"


def _other(rng: random.Random, value: int) -> str:
    """A number near a value that is not it."""
    return str(value + rng.choice((-1, 1)) * rng.randrange(1, 20))


LARGE = {
    3: Large(12, 6, (("direct",), ("direct",)), turns=24, comments=False, signs=(" = ",), note=False),
    4: Large(
        24,
        10,
        (("direct",), ("peer",), ("key",)),
        turns=36,
        comments=True,
        signs=(" = ",),
        note=False,
    ),
    5: Large(
        40,
        14,
        (("peer", "key"), ("both",), ("both",)),
        turns=40,
        comments=True,
        signs=(" = ", "=", ": "),
        note=True,
    ),
}
