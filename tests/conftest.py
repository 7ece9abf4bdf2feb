"""Fixtures that all tests share. A test that hangs is killed, and the stacks of all threads printed."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runners import RUNNERS, Runner, make_runner
from tests.support import PATIENCE, Log, open_descriptors


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails the test if it leaves a thread or a descriptor behind."""
    threads_before = set(threading.enumerate())
    descriptors_before = open_descriptors()
    yield
    for thread in set(threading.enumerate()) - threads_before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread} was left"
    left = {name: target for name, target in open_descriptors().items() if descriptors_before.get(name) != target}
    assert not left, f"descriptors were left: {left}"


@pytest.fixture
def log() -> Iterator[Log]:
    """The library's log from warnings up. A line that the test does not read fails it.

    To be asked for before whatever writes it, so that the end of that is seen too.
    """
    log = Log()
    logger = logging.getLogger("typedrpc")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)
    assert log.unread == []


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """Each way to have a conversation."""
    return make_runner(request.param, tmp_path)
