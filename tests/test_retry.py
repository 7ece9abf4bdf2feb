"""How often, and after how long, something is tried again."""

from itertools import islice

import pytest

from typedrpc import Retry


def test_each_bound_is_twice_the_one_before_up_to_the_largest() -> None:
    bounds = [0.0] * 6
    for _ in range(2000):
        for index, pause in enumerate(islice(Retry(first_delay=0.1, max_delay=1.0).pauses(), 6)):
            bounds[index] = max(bounds[index], pause)
    assert [round(bound, 1) for bound in bounds] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_first_attempt_needs_no_pause() -> None:
    assert len(list(Retry(attempts=3).pauses())) == 2
    assert list(Retry(attempts=1).pauses()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"attempts": 1.5}, {"first_delay": 0}, {"first_delay": 2, "max_delay": 1}, {"total": 0}],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Retry(**wrong)  # type: ignore[arg-type]
