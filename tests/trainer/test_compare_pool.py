"""The processes of a comparison: Ctrl-C while one is started ends it, as it does at any other moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from turnwise.trainer.compare.pool import WarmUp, carry_out
from turnwise.trainer.recipe import Recipe
from turnwise.viewer.compare_progress import Silent

class Interrupted(WarmUp):
    def __reduce__(self):  # called as the process is started, which takes the job along
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the process would hear of it"
        print("it goes on", end=", ")
        return WarmUp, (self.folder, self.recipe)

for name in ("first", "second"):
    try:
        carry_out([Interrupted(Path(sys.argv[1], name), Recipe.load("quickstart"))], 1, Silent())
    except KeyboardInterrupt:
        print("ended:", multiprocessing.active_children(), os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_while_a_process_is_started_leaves_none(tmp_path: Path, threads: str) -> None:
    """The first one brings a process of Python's own with it, the second does not. Where there are threads,
    any of them may take the signal."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    variables = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": "3"}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "it goes on, ended: [] 3\n" * 2
