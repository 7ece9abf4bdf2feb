"""The watcher, told by what it watches when to look again."""

import threading
import weakref
from typing import Any, cast

import pytest

from tests.support import PATIENCE, Gate, Log, Running, until
from typedrpc.sync.watcher import QUICK_TICK, TICK, Watcher


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("under-test"))


class Seen:
    """Something that is watched, and answers as it is told to."""

    def __init__(self, *answers: float | None) -> None:
        self.watched = False
        self.answers = list(answers)
        self.looks = threading.Semaphore(0)

    def look(self, now: float) -> float | None:
        assert self.watched is False, "cleared first, looked at then"
        answer = self.answers.pop(0) if self.answers else None
        self.looks.release()
        return answer

    def wait_for_a_look(self) -> None:
        assert self.looks.acquire(timeout=PATIENCE)


class Marked:
    """The same, which writes down who said that it is watched."""

    def __init__(self, *answers: float | None) -> None:
        self.marks: list[tuple[str, bool]] = []
        self._seen = Seen(*answers)
        self.look = self._seen.look
        self.wait_for_a_look = self._seen.wait_for_a_look

    @property
    def watched(self) -> bool:
        return self._seen.watched

    @watched.setter
    def watched(self, value: bool) -> None:
        self.marks.append((threading.current_thread().name, value))
        self._seen.watched = value


class TestWatcher:
    def test_it_looks_until_there_is_nothing_to_look_for(self) -> None:
        watcher = Watcher("under-test-watcher")
        assert names() == []
        seen = Seen(0.0, 0.001, None)
        watcher.watch(seen)
        for _ in range(3):
            seen.wait_for_a_look()
        watcher.close()
        assert not seen.watched
        assert not seen.looks.acquire(blocking=False)
        assert names() == []

    def test_it_does_not_keep_what_it_has_looked_at_last(self) -> None:
        """Or a connection that has ended would be there, with all that it holds, until the next one is watched."""
        watcher = Watcher("under-test-watcher")
        seen = Seen(None)
        watcher.watch(seen)
        seen.wait_for_a_look()
        left = weakref.ref(seen)
        del seen
        until(lambda: left() is None)
        watcher.close()

    @pytest.mark.parametrize(
        ("pause", "watched"), [(TICK, True), (QUICK_TICK, True), (TICK * 1.01, False), (3600.0, False)]
    )
    def test_who_is_looked_at_only_later_does_not_count_as_watched(self, pause: float, watched: bool) -> None:
        """A thread that finds the flag set tells nobody that it begins something slow: a look must be near."""
        watcher = Watcher("under-test-watcher")
        marked = Marked(pause, None)
        watcher.watch(cast(Any, marked))
        marked.wait_for_a_look()
        if not watched:
            watcher.watch(cast(Any, marked))
        marked.wait_for_a_look()
        watcher.close()
        assert marked.marks.count(("under-test-watcher", True)) == watched
        assert marked.marks[-1] == ("under-test-watcher", False)

    def test_a_look_that_fails_is_made_again_and_others_go_on(self, log: Log) -> None:
        class Failing(Seen):
            def look(self, now: float) -> float | None:
                super().look(now)
                if not self.answers:
                    return None
                raise RuntimeError("can't start new thread")

        watcher = Watcher("under-test-watcher")
        failing, other = Failing(1.0, 2.0), Seen(None)
        watcher.watch(failing)
        for _ in range(2):
            failing.wait_for_a_look()
        watcher.watch(other)
        other.wait_for_a_look()
        watcher.close()
        assert log.line() == "a connection could not be looked at; trying again"

    def test_who_counts_as_not_watched_is_looked_at_when_it_says_so(self) -> None:
        watcher = Watcher("under-test-watcher")
        seen = Seen(3600.0, 3600.0, None)
        for _ in range(3):
            assert not seen.watched
            watcher.watch(seen)
            seen.wait_for_a_look()
            until(lambda: not seen.watched, "the end of the watch")
        watcher.close()

    def test_a_poke_wakes_it(self) -> None:
        watcher = Watcher("under-test-watcher")
        seen = Seen(3600.0, 3600.0, None)
        watcher.watch(seen)
        seen.wait_for_a_look()
        for _ in range(2):
            watcher.poke(seen)
            seen.wait_for_a_look()
        watcher.close()

    def test_it_wakes_for_what_comes_while_it_sleeps(self) -> None:
        watcher = Watcher("under-test-watcher")
        sleeper = Seen(3600.0, None)
        watcher.watch(sleeper)
        sleeper.wait_for_a_look()
        for _ in range(3):
            seen = Seen(None)
            watcher.watch(seen)
            seen.wait_for_a_look()
        watcher.close()
        assert names() == []

    def test_closed_it_watches_nothing(self) -> None:
        watcher = Watcher("under-test-watcher")
        watcher.close()
        seen = Seen()
        watcher.watch(seen)
        assert not seen.watched
        assert names() == []

    def test_closing_from_its_own_thread(self) -> None:
        watcher = Watcher("under-test-watcher")
        closed = Gate()

        class Closing(Seen):
            def look(self, now: float) -> float | None:
                watcher.close()
                closed.open()
                return None

        watcher.watch(Closing())
        closed.wait()
        Running(watcher.close).result()
        assert names() == []
