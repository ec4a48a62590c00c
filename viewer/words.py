"""Figures and actions as people write them; the report and the terminal say the same."""

from __future__ import annotations

import math
import re

from turnwise.agents.scripted import describe_action
from turnwise.agents.trajectory import Turn

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of writing."""


def percent(value: float) -> str:
    """A share, as in ``41%``; one decimal near the ends, where it matters."""
    if math.isnan(value):
        return "–"
    near_an_end = 0 < value < 0.1 or 0.9 < value < 1
    return f"{value:.1%}" if near_an_end else f"{value:.0%}"


def interval(low: float, high: float) -> str:
    """Two shares, as in ``43–67%``."""
    return "–" if math.isnan(low) else f"{100 * low:.0f}–{high:.0%}"


def signed(value: float | None) -> str:
    """A reward or an advantage, or a dash where there is none."""
    return "–" if value is None else f"{value:+.2f}"


def duration(seconds: float) -> str:
    """A time, as in ``48 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clip(content: str, room: int = 2000) -> str:
    """The beginning of a long text, and how much was left out."""
    return (
        content if len(content) <= room else f"{content[:room]} … ({len(content) - room:,} characters more)"
    )


def printable(content: str) -> str:
    """Text that cannot command a terminal or deceive a reader: control characters become escapes."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], content.expandtabs(4))


def first_sentence(content: str) -> str:
    """The first sentence of a description."""
    return " ".join(content.split()).partition(". ")[0].removesuffix(".")


def action_text(turn: Turn) -> str:
    """What the agent did: its own words where it used any, else the action."""
    return turn.text or describe_action(turn.action)
