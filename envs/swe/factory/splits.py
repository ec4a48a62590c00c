"""Which split each module's tasks go to: whole modules, so that no function is in two splits."""

from __future__ import annotations

from collections.abc import Mapping

from turnwise.envs.types import Split

SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


def allot(weights: Mapping[str, float]) -> dict[str, Split]:
    """The split of each module, given how many tasks may come of it.

    The largest module goes first, each to the split that lacks most of its share.
    """
    lacking: dict[Split, float] = {split: share * sum(weights.values()) for split, share in SHARES.items()}
    splits: dict[str, Split] = {}
    for module in sorted(weights, key=lambda module: (-weights[module], module)):
        split = max(lacking, key=lambda split: lacking[split])
        splits[module] = split
        lacking[split] -= weights[module]
    return splits
