import asyncio
import contextvars
from time import monotonic

import pytest

from typedrpc import DeadlineExceeded, deadline
from typedrpc.deadlines import get_limit, nearest, time_left


def limit() -> float:
    found = get_limit()
    assert found is not None
    return found


def test_a_block_has_an_end_and_nothing_has_one_outside_of_it() -> None:
    assert get_limit() is None
    before = monotonic()
    with deadline(10):
        assert before + 10 <= limit() <= monotonic() + 10
    assert get_limit() is None


def test_the_nearest_end_of_nested_blocks_counts() -> None:
    with deadline(10):
        outer = limit()
        with deadline(5):
            assert limit() < outer
        with deadline(60):
            assert limit() == outer
        assert limit() == outer


def test_a_block_that_is_left_by_an_exception_is_over() -> None:
    with pytest.raises(KeyError), deadline(10):
        raise KeyError
    assert get_limit() is None


def test_a_block_may_have_no_time_at_all() -> None:
    with deadline(0):
        with pytest.raises(DeadlineExceeded, match=r"^Store.put: the deadline has passed, the call was not sent$"):
            time_left(limit(), "Store.put")


@pytest.mark.parametrize("seconds", [-1, -0.001, float("inf"), float("-inf"), float("nan")])
def test_seconds_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="a deadline must be a number of seconds from 0 up, got"):
        with deadline(seconds):
            raise AssertionError("the block must not run")
    assert get_limit() is None


def test_it_goes_wherever_context_variables_go() -> None:
    async def see() -> float | None:
        return get_limit()

    async def both() -> tuple[float | None, float | None]:
        with deadline(10):
            inside = asyncio.create_task(see())
        return await asyncio.gather(inside, see())

    within, without = asyncio.run(both())
    assert within is not None
    assert without is None
    with deadline(10):
        context, here = contextvars.copy_context(), limit()
    assert context.run(get_limit) == here


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(None, None, None), (1.0, None, 1.0), (None, 2.0, 2.0), (1.0, 2.0, 1.0), (2.0, 1.0, 1.0), (0.0, None, 0.0)],
)
def test_the_nearest_of_two(first: float | None, second: float | None, result: float | None) -> None:
    assert nearest(first, second) == result


def test_the_time_that_is_left() -> None:
    assert time_left(None, "Store.put") is None
    left = time_left(monotonic() + 10, "Store.put")
    assert left is not None
    assert 0 < left <= 10
    with pytest.raises(DeadlineExceeded):
        time_left(monotonic(), "Store.put")
