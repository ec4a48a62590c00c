"""Rows of SWE-Gym (``SWE-Gym/SWE-Gym``, arXiv 2412.21139): SWE-bench's columns, other images."""

from __future__ import annotations

from turnwise.envs.swe.formats.swe_bench import SweBenchRow
from turnwise.envs.types import Split


class SweGymRow(SweBenchRow):
    """The same columns as SWE-bench's."""

    def image(self) -> str:
        """The published image."""
        return f"xingyaoww/sweb.eval.x86_64.{self.instance_id.replace('__', '_s_')}:latest".lower()

    def split(self) -> Split:
        """Where its tasks belong."""
        return "train"
