"""How often something may be done, by a clock that is turned."""

import pytest

from typedrpc import rate
from typedrpc.rate import Bucket, CallRate, Rates, check_rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_so_many_at_once_and_then_so_many_a_second(clock: Clock) -> None:
    bucket = Bucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(5)] == [True] * 3 + [False] * 2
    clock.now += 0.25
    assert not bucket.take()
    clock.now += 0.25
    assert [bucket.take(), bucket.take()] == [True, False]


def test_what_is_not_taken_does_not_add_up_beyond_what_is_given_at_once(clock: Clock) -> None:
    bucket = Bucket(2.0, 3, clock)
    clock.now += 1000
    assert [bucket.take() for _ in range(4)] == [True] * 3 + [False]


def test_what_goes_beyond_is_made_up_for(clock: Clock) -> None:
    bucket = Bucket(2.0, 3, clock)
    assert bucket.take()
    bucket.charge(9)
    assert not bucket.take()
    clock.now += 3.75
    assert not bucket.take()
    clock.now += 0.25
    assert [bucket.take(), bucket.take()] == [True, False]


def test_less_than_one_a_second_is_one_at_once(clock: Clock) -> None:
    bucket = Bucket(0.5, 0.5, clock)
    assert [bucket.take(), bucket.take()] == [True, False]
    clock.now += 2
    assert [bucket.take(), bucket.take()] == [True, False]


def test_one_way_calls_beyond_are_counted_and_told_of_once(clock: Clock) -> None:
    rate = CallRate(Bucket(2.0, 2, clock))
    told: list[int] = []
    rate.on_first_drop = lambda: told.append(rate.dropped)
    assert [rate.may_notify() for _ in range(5)] == [True] * 2 + [False] * 3
    assert (rate.dropped, told) == (3, [1])
    assert not rate.may_call()
    assert rate.why() == "more than 2 calls a second, which is the limit"


def test_who_comes_again_has_what_was_left(clock: Clock) -> None:
    rates = Rates(2.0, clock)
    first, again, other = rates.find("a"), rates.find("a"), rates.find("b")
    assert first is not None
    assert other is not None
    assert first is again
    shared = CallRate(Bucket(2.0, 2, clock))
    shared.share(first)
    assert [first.take(), shared.may_call(), shared.may_call(), other.take()] == [True, True, False, True]
    assert Rates(None).find("a") is None


def test_who_has_not_come_for_longest_is_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_RATED", 2)
    rates = Rates(2.0, clock)
    a, b = rates.find("a"), rates.find("b")
    assert rates.find("a") is a
    rates.find("c")
    assert rates.find("a") is a
    assert rates.find("b") is not b


def test_no_limit_is_none() -> None:
    assert CallRate.of(None) is None
    assert CallRate.of(5.0) is not None


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_rate(wrong: float) -> None:
    with pytest.raises(ValueError, match="max_rate"):
        check_rate(wrong)
