"""Who may connect, and who has to make way."""

import logging

import pytest

from typedrpc.common import arrivals
from typedrpc.common.arrivals import Arrivals, Threshold, check_max_per_address


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_so_many_of_one_address(caplog: pytest.LogCaptureFixture) -> None:
    door = Arrivals(2)
    first, second = door.admit(("10.0.0.1", 1)), door.admit(("10.0.0.1", 2))
    assert first is not None
    assert second is not None
    assert [door.admit(("10.0.0.1", port)) for port in range(3, 6)] == [None] * 3
    assert lines(caplog) == ["10.0.0.1 has 2 connections, which is the limit: further ones are closed"]
    assert door.admit(("10.0.0.2", 1)) is not None
    first.leave()
    first.leave()  # once is enough
    assert door.admit(("10.0.0.1", 6)) is not None
    assert door.admit(("10.0.0.1", 7)) is None
    assert len(lines(caplog)) == 1


def test_each_address_has_a_line_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(arrivals, "monotonic", lambda: now)
    monkeypatch.setattr(arrivals, "MAX_TOLD", 2)
    door = Arrivals(1)
    for host in "abc":
        door.admit((host, 1))
        door.admit((host, 2))
    assert len(lines(caplog)) == 3
    assert len(door._told) == 2
    now += 59
    door.admit(("c", 3))
    assert len(lines(caplog)) == 3
    now += 2
    door.admit(("c", 4))
    assert len(lines(caplog)) == 4


def test_what_has_left_takes_no_memory() -> None:
    door = Arrivals(2)
    places = [door.admit((f"10.0.0.{number}", 1)) for number in range(100)]
    for place in places:
        assert place is not None
        place.leave()
    assert door._counts == {}


@pytest.mark.parametrize(("limit", "where"), [(None, ("10.0.0.1", 1)), (1, ""), (1, b"\0name")])
def test_no_limit_and_no_address(limit: int | None, where: object) -> None:
    door = Arrivals(limit)
    places = [door.admit(where) for _ in range(3)]
    for place in places:
        assert place is not None
        place.leave()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_what_is_no_limit(wrong: int) -> None:
    with pytest.raises(ValueError, match="max_per_address"):
        check_max_per_address(wrong)


def test_the_oldest_makes_way(caplog: pytest.LogCaptureFixture) -> None:
    threshold: Threshold[str] = Threshold(2)
    assert [threshold.enter(name) for name in "abcd"] == [None, None, "a", "b"]
    assert (len(threshold), threshold.first, "b" in threshold, "c" in threshold) == (2, "c", False, True)
    threshold.leave("c")
    threshold.leave("c")
    assert threshold.enter("e") is None
    assert lines(caplog) == ["more than 2 connections shake hands at a time: the oldest are cut off"]
