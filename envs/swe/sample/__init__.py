"""``swe/sample``: a small committed set of repairs, hand-checked, for tests and for learning on a laptop.

Level 2, the default, has tasks in packages of some hundred lines with pytest suites; level 1 one-line
repairs without end, for models with a vocabulary of some dozens of words.
"""

from __future__ import annotations

from pydantic import Field

from turnwise.envs.registry import register
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.sample.packages import packaged_tasks
from turnwise.envs.swe.sample.small import SIZES, small_task
from turnwise.envs.tasks import TaskSet, check_split
from turnwise.envs.types import SPLITS, Model, Task


class SampleOptions(Model):
    """Which of the tasks."""

    level: int = Field(default=2, ge=1, le=2, description="1: one-line repairs; 2: in small packages")


@register
class SweSample(SweEnv):
    """A small set of repairs that comes with Turnwise."""

    name = "swe/sample"
    Options = SampleOptions
    options: SampleOptions

    def tasks(self, split: str) -> TaskSet:
        """Level 1: 10,000 for training, 1,000 for validation and for the test. Level 2: 16 in all."""
        checked = check_split(split)
        base = SPLITS.index(checked) << 32
        if self.options.level == 1:
            return TaskSet(checked, SIZES[checked], lambda i, env: small_task(base + i).task(env, base + i))
        listed = [task for task in packaged_tasks() if task.split == checked]

        def make(index: int, env: str) -> Task:
            return listed[index].task(env, base + index)

        return TaskSet(checked, len(listed), make)
