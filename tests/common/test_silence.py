"""When a silent peer is asked, and when it is taken for dead; times are given."""

from typedrpc.common.silence import Heed, Silence


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
