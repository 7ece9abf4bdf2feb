"""How long a peer has said nothing, and what is to be done about it: keep-alive, without a clock and without bytes.

A peer that has said nothing for half of the time is asked for a sign of life; one that lets the other half pass too is
taken for dead. Who sends all the time is never asked.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, final

from typedrpc.transport import Delivery

SIGN_TIME: Final = 1.0
"""Seconds after which a side that cannot read now, because handlers take their time, gives a sign of life unasked."""

SLOW: Final = 16 * 1024
"""Bytes on their way from which on the line may be what makes an answer late: it takes them before the question."""

_NEARLY: Final = 0.9
"""The part of a time that counts as all of it: waits may end a little early."""


class Heed(Enum):
    """What silence calls for."""

    NOTHING = auto()
    ASK = auto()
    """The peer is to be asked for a sign of life."""
    END = auto()
    """It was asked, and is taken for dead."""


@final
class Silence:
    """Of one peer. Not thread-safe: it belongs to who reads.

    Attributes:
        period: Seconds of silence after which a peer that is asked is taken for dead.
        half: After so many it is asked.
        look: Tells how far what was sent has come, as far as the system says.
    """

    __slots__ = ("_asked", "_before", "_since", "half", "look", "period")

    def __init__(self, period: float) -> None:
        self.period: Final = period
        self.half: Final = period / 2
        self.look: Callable[[], Delivery | None] = lambda: None
        self._before: Delivery | None = None
        self._since: float | None = None
        self._asked: float | None = None

    def grow(self, now: float, waited: float = 0.0, *, broken: bool, may_ask: bool) -> Heed:
        """Nothing is there to be read.

        Args:
            now: The time on the monotonic clock.
            waited: Seconds for which nothing has come before that, as far as is known.
            broken: Whether anything came since this was called last.
            may_ask: Whether the peer reads now, so that it can answer.
        """
        if broken or self._since is None:
            self._since = now - waited
            self._asked = None
        if not may_ask:
            self._asked = None
        elif self._asked is None:
            if now - self._since >= _NEARLY * self.half:
                self._asked, self._before = now, self.look()
                return Heed.ASK
        elif now - self._asked >= _NEARLY * self.half:
            if not self._is_on_its_way():
                return Heed.END
            self._asked = now
        return Heed.NOTHING

    def _is_on_its_way(self) -> bool:
        """Whether the question may not have arrived yet: behind much else, of which the other end has taken some."""
        before, self._before = self._before, self.look()
        if before is None or self._before is None or before.waiting < SLOW:
            return False
        return self._before.acknowledged > before.acknowledged
