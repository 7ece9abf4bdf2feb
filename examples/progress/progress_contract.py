"""What the prime counting server and its clients agree on."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from typedrpc import Service, rpc


@dataclass(frozen=True)
class Progress:
    """How far a count has come: all numbers below `below` are done, and `primes` of them are prime."""

    below: int
    primes: int


class Stopped(Exception):
    """Declared by `count`, so it arrives at the client as itself, with its fields: the parameters of `__init__`."""

    def __init__(self, below: int, reason: str) -> None:
        super().__init__(f"stopped at {below:,}: {reason}")
        self.below = below
        self.reason = reason


class Primes(Service):
    @rpc(raises=[Stopped])
    @abstractmethod
    def count(self, limit: int, report: Callable[[Progress], None]) -> int:
        """How many primes there are below a limit. This takes its time, and ends early if the caller leaves.

        Args:
            limit: At most a million millions.
            report: Called now and then, and at the end.

        Raises:
            Stopped: `report` failed or could not be reached.
            ValueError: The limit is out of range.
        """
