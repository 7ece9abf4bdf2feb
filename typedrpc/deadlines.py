"""How long calls may take: ``with deadline(seconds)``, and the one instant that counts where several limits meet."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Final

from typedrpc.errors import DeadlineExceeded

_limit: Final[ContextVar[float | None]] = ContextVar("typedrpc.deadline", default=None)
get_limit = _limit.get
"""The instant that ``with deadline(...)`` has set around this code, on the monotonic clock; None for never."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Give all calls that are made within the block so many seconds together::

        with deadline(0.5):
            plan = planner.plan(order)
            printer.print(plan)

    A call that has no answer then raises ``DeadlineExceeded``, and so does each that is made later. The limit goes
    wherever context variables go, asyncio tasks among them, and with every call: a handler sees what is left in
    ``current_call().deadline``, and its own calls have no more than that. Blocks may be nested; the nearest end counts.
    A time-out of ``with_options`` shortens it and does not lengthen it. Code that calls nothing is not interrupted.

    Args:
        seconds: From 0 up.

    Raises:
        ValueError: They are negative or not finite.
    """
    if not is_duration(seconds):
        raise ValueError(f"a deadline must be a number of seconds from 0 up, got {seconds!r}")
    end = nearest(monotonic() + seconds, get_limit())
    token = _limit.set(end)
    try:
        yield
    finally:
        _limit.reset(token)


def is_duration(seconds: float) -> bool:
    """Whether something can take so many seconds: a number from 0 up, and a finite one."""
    try:
        return math.isfinite(seconds) and seconds >= 0
    except OverflowError:  # an int that no float can hold
        return False


def nearest(first: float | None, second: float | None) -> float | None:
    """The earlier of two instants; None stands for never."""
    if first is None:
        return second
    return first if second is None else min(first, second)


def time_left(end: float | None, what: str) -> float | None:
    """Seconds until an instant; None for never.

    Args:
        end: On the monotonic clock.
        what: Names the call in the error.

    Raises:
        DeadlineExceeded: There are none.
    """
    if end is None:
        return None
    left = end - monotonic()
    if left <= 0:
        raise DeadlineExceeded(f"{what}: the deadline has passed, the call was not sent")
    return left
