"""Starting processes that hear no Ctrl-C before they have said what it does then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """SIGINT is blocked in processes that start in this block, which unblock it themselves.

    It does not keep the signal from this process, where another thread may take it.
    """
    resource_tracker.ensure_running()  # it would start with the first process, and lift the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
