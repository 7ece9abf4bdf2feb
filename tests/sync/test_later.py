"""What is done when some time has passed."""

from collections.abc import Iterator

import pytest

from tests.support import Gate, Log
from typedrpc.sync.later import Later
from typedrpc.sync.watcher import Watcher

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher("test-later")
    yield watcher
    watcher.close()


def test_in_the_order_of_their_times(watcher: Watcher) -> None:
    later, done, over = Later(watcher, 10), list[int](), Gate()

    def do(number: int) -> None:
        done.append(number)
        if len(done) == 3:
            over.open()

    for number, seconds in ((3, 0.03), (1, 0.01), (2, 0.02)):
        later.add(seconds, lambda number=number: do(number))  # type: ignore[misc]
    over.wait()
    assert done == [1, 2, 3]
    assert len(later) == 0


def test_looked_at_with_a_clock(watcher: Watcher) -> None:
    watcher.close()  # nobody else looks
    later, done = Later(watcher, 10), list[str]()
    later.add(1000.0, lambda: done.append("far"))
    later.add(0.0, lambda: done.append("near"))
    pause = later.look(later._waiting[0][0])
    assert done == ["near"]
    assert pause is not None
    assert 999.0 < pause <= 1000.0
    assert later.look(float("inf")) is None
    assert done == ["near", "far"]


def test_what_finds_no_room_is_done_at_once(watcher: Watcher) -> None:
    later, done = Later(watcher, 1), list[str]()
    later.add(1000.0, lambda: done.append("first"))
    later.add(1000.0, lambda: done.append("second"))
    assert done == ["second"]
    assert len(later) == 1


def test_what_fails_harms_nothing_else(watcher: Watcher, log: Log) -> None:
    later, over = Later(watcher, 10), Gate()

    def fail() -> None:
        raise ValueError

    later.add(0.0, fail)
    later.add(0.0, over.open)
    over.wait()
    assert log.line() == "what was to be done later failed"
