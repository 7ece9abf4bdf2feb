"""What does not fit, and where: the one exception of the walks, and values put into words of a sane length."""

from __future__ import annotations

from typedrpc.schema import Node

MAX_TEXT = 160
"""Characters of a type or a value that an error shows."""


class Misfit(Exception):
    """Raised by generated code where a value needs the walk: to be converted, or to have its fault found."""


class Fault(Exception):
    """One value that does not fit.

    Attributes:
        is_type: The type is wrong, rather than the value.
        expected: What the schema asks for.
        got: What there is instead.
    """

    def __init__(self, expected: Node | str, got: str, *, is_type: bool = True) -> None:
        self.is_type = is_type
        self.expected = cut(str(expected))
        self.got = cut(got)
        self._path: list[str] = []
        super().__init__(self.expected, self.got)

    def within(self, part: str) -> Fault:
        """Adds one step of the path, from the inside out. Returns the fault itself, to be raised again."""
        self._path.append(part)
        return self

    def copy(self) -> Fault:
        """The same fault, whose path grows on its own."""
        fault = Fault(self.expected, self.got, is_type=self.is_type)
        fault._path = [*self._path]
        return fault

    @property
    def path(self) -> str:
        """From the argument or the result to the value: ``[3].price``."""
        return "".join(reversed(self._path))

    @property
    def depth(self) -> int:
        """How many steps the path has."""
        return len(self._path)

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.got}"


def too_deep() -> Fault:
    """The fault of a value on which the walk ran out of stack."""
    return Fault("a value that nests less deeply", "one that nests too deeply, or holds itself", is_type=False)


def cut(text: str) -> str:
    """`text` on one line, at most `MAX_TEXT` characters long."""
    text = text[: MAX_TEXT + 1].replace("\n", " ")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def type_name(value: object) -> str:
    """The type of a value, in words."""
    return "None" if value is None else cut(type(value).__name__)


def told(error: Exception) -> str:
    """An exception of anybody's code, in words."""
    try:
        return cut(f"{type(error).__name__}: {error}")
    except Exception:
        return type_name(error)


def short(value: object) -> str:
    """A value in words: as written where it is plain and small, otherwise its type."""
    kind = type(value)
    if kind is str or kind is bytes:
        return cut(repr(value[:MAX_TEXT]))  # type: ignore[index]  # kind is known
    if kind is bool or kind is float or value is None:
        return repr(value)
    if kind is int:
        bits = value.bit_length()  # type: ignore[attr-defined]  # kind is known
        return repr(value) if bits <= 256 else f"an int of {bits} bits"
    return type_name(value)


def index_step(value: object) -> str:
    """A step of a path to the value under a key of a mapping."""
    return f"[{short(value)[:60]}]"
