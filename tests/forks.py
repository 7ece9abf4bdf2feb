"""Forks under coverage, which has a lock that any thread may hold just then: a child would wait for it for ever."""

import os
import sys
import threading
from typing import Any, Final

_measuring: Final[list[Any]] = []
"""What measures in this process when it is forked; coverage's fork patch forgets it in the child, its exit does not."""


def _remember() -> None:
    _measuring[:] = getattr(sys.modules["coverage.collector"].Collector, "_collectors", ())


def _renew() -> None:
    for collector in _measuring:
        if getattr(collector, "data_lock", None) is not None:
            collector.data_lock = threading.Lock()
    _measuring.clear()


def mind_coverage() -> None:
    """From now on children of this process have a lock of their own. To be called once."""
    if hasattr(os, "register_at_fork") and "coverage.collector" in sys.modules:
        os.register_at_fork(before=_remember, after_in_child=_renew)
