"""How often, and after how long, something is tried again."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

FIRST_DELAY: Final = 0.05
MAX_DELAY: Final = 5.0
TOTAL: Final = 60.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """That a client waits for a server that is away, and sends calls again that the loss of a connection cut short.

    Each pause is random, between nothing and a bound that doubles each time ("full jitter"), so that many clients do
    not come back at once. A call's own deadline counts all the same.

    Attributes:
        attempts: How often something is tried at most, the first time included; None for as long as there is time.
        first_delay: The bound of the first pause, in seconds.
        max_delay: The largest bound.
        total: Seconds after which nothing is tried any more, counted from the first loss or failure.

    Raises:
        ValueError: One is out of range.
    """

    attempts: int | None = None
    first_delay: float = FIRST_DELAY
    max_delay: float = MAX_DELAY
    total: float = TOTAL

    def __post_init__(self) -> None:
        if self.attempts is not None and (type(self.attempts) is not int or self.attempts < 1):
            raise ValueError(f"attempts must be None or a number from 1 up, not {self.attempts!r}")
        if not 0 < self.first_delay <= self.max_delay <= 86_400 or not self.total > 0:
            raise ValueError(
                "first_delay must be more than 0 seconds and at most max_delay, that at most a day, and total more "
                f"than 0: {self.first_delay!r}, {self.max_delay!r}, {self.total!r}"
            )

    def pauses(self) -> Iterator[float]:
        """How many seconds to wait before each further attempt, one after another."""
        bound, left = self.first_delay, None if self.attempts is None else self.attempts - 1
        while left is None or left > 0:
            yield bound * int.from_bytes(os.urandom(4), "big") / 2**32
            bound = min(2 * bound, self.max_delay)
            left = None if left is None else left - 1
