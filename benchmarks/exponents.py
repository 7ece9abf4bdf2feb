"""How a cost grows with a number: points of a curve, their exponent, and whether that is worse than linear.

Where something costs ``a * n ** k``, its points lie on a line in a plot of both logarithms, and ``k`` is the slope of
that line. What is fixed makes the slope smaller at small n; so it is the large ones that count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Final

from figures import Figure

TOLERANCE: Final = 0.15
"""How much above 1 an exponent may be. Over a decade, a unit then costs 1.4 times as much: caches do that, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a number of something costs, all of them together, in microseconds.

    Attributes:
        n: The number.
        client: CPU of the client process.
        server: CPU of the server process.
        collector: What Python's garbage collector took of that, in both.
        wall: The time that passed at the client.
    """

    n: int
    client: float
    server: float
    collector: float
    wall: float

    @property
    def cpu(self) -> float:
        """CPU of both processes."""
        return self.client + self.server


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a curve.

    Attributes:
        curve: The curve that it belongs to: what it is that there is more and more of.
        title: What is measured.
        unit: What one of the number is called; empty where what is measured is not done for each.
        points: In ascending order of their numbers.
        unit_size: How many make such a unit.
    """

    curve: str
    title: str
    unit: str
    points: Sequence[Point]
    unit_size: int = 1

    @property
    def exponent(self) -> float | None:
        """How its cost grows, without that of the garbage collector."""
        return exponent([(point.n, point.cpu - point.collector) for point in self.points])

    @property
    def exponent_of_all(self) -> float | None:
        """The same with it."""
        return exponent([(point.n, point.cpu) for point in self.points])

    def each(self, point: Point) -> str:
        """What a unit costs at a point."""
        return microseconds(point.cpu * self.unit_size / point.n) if self.unit else ""

    def figure(self) -> Figure:
        """The exponent, beside the largest that counts as linear."""
        first, last = self.points[0], self.points[-1]
        cost = f"{self.each(last)} a {self.unit}" if self.unit else microseconds(last.cpu)
        collected = f"; {of_all:.2f} with the garbage collector" if (of_all := self.exponent_of_all) is not None else ""
        return Figure(
            promise=f"{self.curve}, {self.title}: exponent up to {last.n:,}",
            measured=self.exponent,
            limit=1 + TOLERANCE,
            note=f"{cost} there; {microseconds(first.cpu)} at {first.n:,}{collected}",
        )


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope in a plot of the logarithms of both, over the last decade: how the cost grows where there is much.

    A part that grows with the square, and has become as large as a linear one at the last point, makes it about 1.3.

    Args:
        points: Number and cost, in ascending order of the numbers.

    Returns:
        None where fewer than two points have a cost at all.
    """
    costly = [(n, cost) for n, cost in points if cost > 0]
    if len(costly) < 2:
        return None
    last, _ = costly[-1]
    within = [(n, cost) for n, cost in costly if n * 10 >= last]
    chosen = within if len(within) > 1 else costly[-2:]
    return linear_regression([math.log(n) for n, _ in chosen], [math.log(cost) for _, cost in chosen]).slope


def microseconds(value: float) -> str:
    """A time of so many microseconds, in the unit that suits it."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("us", 1.0)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1000:.3g} ns"
