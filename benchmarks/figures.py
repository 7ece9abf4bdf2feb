"""One measured figure beside what is promised of it, and the table of them."""

from dataclasses import dataclass
from typing import Final

WIDTHS: Final = (71, 11, 10, 7)
HEADINGS: Final = ("promise", "limit", "measured", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table.

    Attributes:
        promise: What is promised, in words.
        measured: The figure; None where this system offers no way to measure it, or where it failed (see ``fault``).
        unit: ``ms``, ``s``, ``MiB`` and so on; empty for a count.
        limit: The most, or the least, that is promised; None for a figure that stands for itself.
        at_least: Whether the limit is the least.
        budget: The limit is an aim for later work: missing it breaks no promise.
        note: What else was seen on the way.
        fault: What went wrong beside the figure. With a fault the promise is missed, whatever the figure.
    """

    promise: str
    measured: float | None = None
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    budget: bool = False
    note: str = ""
    fault: str = ""

    def within_limit(self, slack: float) -> bool | None:
        """Whether the figure keeps within its limit, times ``slack``; None where there is nothing to compare."""
        if self.fault:
            return False
        if self.measured is None or self.limit is None:
            return None
        return self.measured * slack >= self.limit if self.at_least else self.measured <= self.limit * slack

    def is_missed(self, slack: float) -> bool:
        """Whether a promise is missed. A budget is none, unless there was a fault."""
        return self.within_limit(slack) is False and (not self.budget or bool(self.fault))

    def row(self, slack: float) -> str:
        """The row of the table, with the note behind it."""
        limit = "-"
        if self.limit is not None:
            limit = f"{'>=' if self.at_least else '<='} {_with_unit(self.limit, self.unit)}"
        cells = (self.promise, limit, _with_unit(self.measured, self.unit), self._verdict(slack))
        return f"{_join(cells)} | {'; '.join(filter(None, (self.fault, self.note)))}".rstrip(" |")

    def _verdict(self, slack: float) -> str:
        within = self.within_limit(slack)
        if within is None:
            return "-"
        if self.budget and not self.fault:
            return "yes" if within else "not yet"
        return "yes" if within else "NO"


def heading() -> str:
    """The first two lines of the table."""
    return f"{_join(HEADINGS)}\n{'-+-'.join('-' * width for width in WIDTHS)}"


def _join(cells: tuple[str, ...]) -> str:
    return " | ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def _with_unit(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        number = f"{value:,.0f}"
    else:
        number = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{number} {unit}".rstrip()
