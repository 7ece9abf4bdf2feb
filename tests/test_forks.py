"""That forked children end, although another thread of the parent has what coverage locks."""

import os
import signal
import sys
import threading

import pytest

from tests.support import PATIENCE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif("coverage.collector" not in sys.modules, reason="coverage is not here, nor its lock")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_waits_for_no_lock_of_its_parents_coverage() -> None:
    collectors = getattr(sys.modules["coverage.collector"].Collector, "_collectors", [])
    lock = getattr(collectors[-1], "data_lock", None) if collectors else None
    if lock is None:
        pytest.skip("nothing is measured, or without a lock")
    with lock:
        child = os.fork()
        if not child:
            try:
                threading.Timer(PATIENCE, os.kill, (os.getpid(), signal.SIGKILL)).start()
            finally:
                os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
