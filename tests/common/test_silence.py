"""When a silent peer is asked, and when it is taken for dead; times are given."""

from collections.abc import Sequence

import pytest

from typedrpc.common.silence import SLOW, Heed, Silence
from typedrpc.transport import Delivery


def test_it_is_asked_after_half_the_time_and_ended_after_the_other() -> None:
    silence = Silence(60.0)
    heeds = [silence.grow(now, broken=False, may_ask=True) for now in (0.0, 15.0, 30.0, 45.0, 60.0)]
    assert heeds == [Heed.NOTHING, Heed.NOTHING, Heed.ASK, Heed.NOTHING, Heed.END]


def test_a_wait_that_was_long_counts() -> None:
    silence = Silence(60.0)
    assert silence.grow(100.0, 30.0, broken=True, may_ask=True) is Heed.ASK
    assert silence.grow(130.0, 30.0, broken=False, may_ask=True) is Heed.END


def test_whatever_comes_begins_it_anew() -> None:
    silence = Silence(60.0)
    assert silence.grow(30.0, 30.0, broken=True, may_ask=True) is Heed.ASK
    assert silence.grow(60.0, 15.0, broken=True, may_ask=True) is Heed.NOTHING
    assert silence.grow(75.0, 15.0, broken=False, may_ask=True) is Heed.ASK
    assert silence.grow(90.0, 15.0, broken=False, may_ask=True) is Heed.NOTHING
    assert silence.grow(105.0, 15.0, broken=False, may_ask=True) is Heed.END


def test_who_does_not_read_is_not_asked() -> None:
    silence = Silence(60.0)
    for hour in range(10):
        assert silence.grow(3600.0 * hour, 30.0, broken=False, may_ask=False) is Heed.NOTHING
    assert silence.grow(36_000.0, 0.0, broken=False, may_ask=True) is Heed.ASK
    assert silence.grow(36_020.0, 20.0, broken=False, may_ask=False) is Heed.NOTHING
    assert silence.grow(36_040.0, 20.0, broken=False, may_ask=True) is Heed.ASK


def over(line: Sequence[Delivery | None]) -> list[Heed]:
    """What silence calls for, where the line tells this when it is looked at."""
    silence, told = Silence(60.0), iter(line)
    silence.look = lambda: next(told)
    return [silence.grow(30.0 * look, broken=False, may_ask=True) for look in range(len(line) + 1)]


def test_behind_what_a_slow_line_still_takes_the_question_may_be_on_its_way() -> None:
    line = [Delivery(1000, SLOW), Delivery(5000, SLOW), Delivery(9000, SLOW - 1), Delivery(13_000, 0)]
    assert over(line) == [Heed.NOTHING, Heed.ASK, Heed.NOTHING, Heed.NOTHING, Heed.END]


@pytest.mark.parametrize(
    "line",
    [
        [Delivery(1000, 10 * SLOW), Delivery(1000, 10 * SLOW)],
        [Delivery(1000, 100), Delivery(1100, 0)],
        [None, None],
        [Delivery(1000, 10 * SLOW), None],
        [None, Delivery(1000, 10 * SLOW)],
    ],
    ids=["takes nothing more", "has the question", "unknown", "closed meanwhile", "not known before"],
)
def test_otherwise_it_has_had_its_time(line: list[Delivery | None]) -> None:
    assert over(line) == [Heed.NOTHING, Heed.ASK, Heed.END]


def test_a_sign_of_life_ends_what_was_known_of_the_line() -> None:
    told = iter([Delivery(1000, SLOW), Delivery(9000, 0), Delivery(9010, 0)])
    silence = Silence(60.0)
    silence.look = lambda: next(told)
    looks = [(0.0, False), (30.0, False), (60.0, True), (90.0, False), (120.0, False)]
    heeds = [silence.grow(now, broken=broken, may_ask=True) for now, broken in looks]
    assert heeds == [Heed.NOTHING, Heed.ASK, Heed.NOTHING, Heed.ASK, Heed.END]
