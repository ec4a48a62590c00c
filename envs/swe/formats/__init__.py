"""Where tasks come from: rows of published data sets, and plain folders, each read in a file of its own.

All become a :class:`~turnwise.envs.swe.task.SweTask`. What cannot be one is told by its id, skipped and
counted; the rest goes on.
"""

from turnwise.envs.swe.formats.load import FORMATS, Loaded, load_tasks

__all__ = ["FORMATS", "Loaded", "load_tasks"]
