"""The repository that the catalogue of cheats is tried on, from ``sample.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from turnwise.envs.swe.grading.rules import Rules
from turnwise.envs.swe.grading.suite import Suite

SOURCE = "src/shelf"


@dataclass(frozen=True, slots=True)
class Sample:
    """Whole repositories, and the suite that tells them apart (not calibrated)."""

    base: Mapping[str, bytes]
    reference: Mapping[str, bytes]
    another: Mapping[str, bytes]
    """A right solution that is not the reference."""
    suite: Suite


def sample() -> Sample:
    text = resources.files("turnwise.envs.swe.cheats").joinpath("sample.yaml").read_text()
    data = yaml.safe_load(text)
    base = _bytes(data["base"])
    suite = Suite(
        rules=Rules(sources=(SOURCE,)),
        files=_bytes(data["tests"]),
        fail_to_pass=data["fail_to_pass"],
        pass_to_pass=data["pass_to_pass"],
    )
    return Sample(base, base | _bytes(data["reference"]), base | _bytes(data["another"]), suite)


def _bytes(files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: text.encode() for path, text in files.items()}
