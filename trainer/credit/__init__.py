"""The built-in stages of credit, one idea a file; importing this package registers them."""

from __future__ import annotations

from turnwise.trainer.credit import (
    baseline,
    critic,
    doubly_robust,
    fuse,
    gae,
    gated,
    group,
    outcome,
    outcome_levels,
    prime,
    progress,
    returns,
    scale,
    shaping,
)

__all__ = [
    "baseline",
    "critic",
    "doubly_robust",
    "fuse",
    "gae",
    "gated",
    "group",
    "outcome",
    "outcome_levels",
    "prime",
    "progress",
    "returns",
    "scale",
    "shaping",
]
