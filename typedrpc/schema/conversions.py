"""The extension point: how classes that the schema does not know become types that it does.

A class is either **converted** (its values travel as those of another type, by two functions) or a **record** (it is
taken apart into typed fields and made from them again). Users register classes with `register`, or a finder for a whole
family of classes with `register_finder`; the standard library's types and those of attrs, pydantic, msgspec and numpy
come in by the same two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import UnionType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast, get_origin, get_type_hints

from typedrpc.schema.local import LocalNames
from typedrpc.schema.nodes import SCALARS

ValueT = TypeVar("ValueT")
WireT = TypeVar("WireT")


class Conversion(NamedTuple):
    """How the values of a class travel as those of another type.

    Attributes:
        cls: What the values are instances of.
        name: What the type is called in schemas and errors.
        wire: The type hint of what travels.
        encode: From a value to what travels.
        decode: And back. What it raises makes the value one that does not fit.
        exact: The classes that values usually have, if not just `cls`.
        promoted: Classes whose instances type checkers take for those of `cls`, the nearest first: ``float`` and
            ``int`` for ``complex``. `encode` is given them too.
    """

    cls: type[Any]
    name: str
    wire: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    exact: tuple[type[Any], ...] = ()
    promoted: tuple[type[Any], ...] = ()

    @property
    def instances(self) -> frozenset[type[Any]]:
        """The classes whose instances need no second look."""
        return frozenset(self.exact or (self.cls,))


class RecordField(NamedTuple):
    """One field of a record.

    Attributes:
        name: The attribute.
        hint: Its type hint.
        required: Whether the constructor has to be given it.
        argument: The name under which the constructor takes it; None where it takes it by position, in this order.
        scope: Where strings within the hint find their names (a `typedrpc.schema.records.Scope`), None for the module
            of the class.
    """

    name: str
    hint: Any
    required: bool
    argument: str | None = None
    scope: object = None


class Record(NamedTuple):
    """A class that is taken apart into attributes and made by calling it.

    Attributes:
        cls: The class.
        name: What it is called in schemas and errors.
        fields: What its constructor takes.
    """

    cls: type[Any]
    name: str
    fields: tuple[RecordField, ...]


Finder: TypeAlias = Callable[[Any], "Conversion | Record | None"]
"""Asked about a type hint that is not known; gives None where it does not know it either.

It may raise TypeError to refuse the hint: with the reason, and what to use instead.
"""


class Refused(TypeError):
    """A class cannot travel. The text says why, and what to use instead."""


_registered: Final[dict[type[Any], Conversion]] = {}
_finders: Final[list[Finder]] = []


def register(
    cls: type[ValueT],
    *,
    encode: Callable[[ValueT], WireT],
    decode: Callable[[WireT], ValueT],
    travels_as: type[WireT] | UnionType | None = None,
    name: str | None = None,
) -> None:
    """Let the values of a class of your own stand in contracts. Both sides of a connection have to.

    Call it before the first contract with the class is defined: right below the class is a good place. Instances of
    subclasses travel as instances of `cls`. ::

        codec.register(Money, encode=Money.to_cents, decode=Money.from_cents)

    Args:
        cls: The class.
        encode: Gives what travels for a value: something of any type that can stand in a contract. It must not change
            the value, and may be called more than once for one.
        decode: Makes a value of what `encode` gave, and has to give an instance of `cls`. What it raises refuses the
            call: its text is in the error. The data has been checked against the type, but a peer made it: it may be
            any value of that type.
        travels_as: The type of what travels, where neither `encode` has an annotation for its result nor `decode` one
            for its parameter: with a lambda, say. For types that a type checker does not take here (``Annotated``,
            ``Literal``), annotate `encode` instead.
        name: What schemas and errors call the type, if not by the name of the class. Both sides have to agree on it.

    Raises:
        TypeError: What travels is not known, or the class is: it is registered as something else, or needs not be.
    """
    if not isinstance(cls, type):
        raise TypeError(f"codec.register takes a class, got {cls!r}")
    if cls in SCALARS or _standard(cls) is not None:
        raise TypeError(f"codec.register({cls.__name__}): this type is known; register a subclass of your own")
    wire = travels_as if travels_as is not None else _annotated_wire(encode, decode)
    if wire is None:
        raise TypeError(
            f"codec.register({cls.__name__}): annotate the result of encode, or say what travels with travels_as="
        )
    conversion = Conversion(cls, name or cls.__name__, wire, encode, decode)
    if _registered.setdefault(cls, conversion) != conversion:
        raise TypeError(f"codec.register({cls.__name__}): the class is registered already, in another way")


def register_finder(finder: Finder) -> None:
    """Let a whole family of classes, or of generic type hints, stand in contracts: those that `finder` knows.

    Finders are asked in the order of registration, once for each place where a hint is read that nothing else knows.
    """
    if finder not in _finders:
        _finders.append(finder)


def conversion_of(cls: type[Any]) -> Conversion | None:
    """How the values of a class travel, if a user has registered it or it is one of the standard library's."""
    found = _registered.get(cls)
    if found is None and (maker := _standard(cls)) is not None:
        found = _registered.setdefault(cls, maker(cls))
    return found


def find(hint: Any, names: LocalNames | None) -> Conversion | Record | None:
    """How a class, or a generic alias of one, travels, if a finder or the adapter of a library knows.

    Args:
        hint: The class, or its alias.
        names: The names of the functions that the class may be local to.

    Raises:
        TypeError: A finder refuses it; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    for finder in _finders:
        found = finder(hint)
        if found is not None:
            return found
    for name in _libraries(hint):
        found = import_module(f"typedrpc.schema.adapters.{name}").find(hint, names)
        if found is not None:
            return cast("Conversion | Record", found)
    return None


def _annotated_wire(encode: Callable[..., Any], decode: Callable[..., Any]) -> Any:
    for function, is_result in ((encode, True), (decode, False)):
        try:
            hints = get_type_hints(function, include_extras=True)
        except (NameError, AttributeError, TypeError):  # builtins and classes have none
            continue
        result = hints.pop("return", None)
        found = result if is_result else next(iter(hints.values()), None)
        if found is not None:
            return found
    return None


def _libraries(hint: Any) -> Iterable[str]:
    """The adapters that may know a hint: each is imported only where there is a sign of its library."""
    cls = get_origin(hint) or hint
    if not isinstance(cls, type):
        return
    if hasattr(cls, "__attrs_attrs__"):
        yield "attrs"
    if hasattr(cls, "__pydantic_complete__"):
        yield "pydantic"
    if hasattr(cls, "__struct_fields__"):
        yield "msgspec"
    if cls.__module__.partition(".")[0] == "numpy":
        yield "numpy"


# The standard library. A class is looked for among modules that are imported already: whoever annotates with Decimal
# has imported it.

Maker: TypeAlias = Callable[[type[Any]], Conversion]


def _standard(cls: type[Any]) -> Maker | None:
    known = _STANDARD.get(cls.__name__)
    if known is None or getattr(sys.modules.get(known[0]), cls.__name__, None) is not cls:
        return None
    return known[1]


def _text_of(cls: type[Any]) -> Callable[[Any], str]:
    return cast("Callable[[Any], str]", cls.__str__)  # str(value) would ask a subclass


def _by_text(cls: type[Any]) -> Conversion:
    return Conversion(cls, cls.__name__, str, _text_of(cls), cls)


def _path(cls: type[Any]) -> Conversion:
    # Path("x") is a PosixPath or a WindowsPath.
    return Conversion(cls, cls.__name__, str, _text_of(cls), cls, (type(cls()),))


def _uuid(cls: type[Any]) -> Conversion:
    return Conversion(cls, "UUID", bytes, lambda value: value.bytes, lambda data: cls(bytes=data))


def _complex(cls: type[Any]) -> Conversion:
    return Conversion(
        cls,
        "complex",
        tuple[float, float],
        lambda value: (value.real, value.imag),
        lambda data: complex(*data),
        promoted=(float, int),
    )


MAX_BITS: Final = 4096
"""Bits of the ints in a range or a Fraction. They are divided to make one, which takes time as the square of that."""


def _of_sane_size(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if any(number.bit_length() > MAX_BITS for number in numbers):
        raise ValueError(f"an int of more than {MAX_BITS} bits")
    return numbers


def _range(cls: type[Any]) -> Conversion:
    return Conversion(
        cls,
        "range",
        tuple[int, int, int],
        lambda value: _of_sane_size((value.start, value.stop, value.step)),
        lambda data: range(*_of_sane_size(data)),
    )


def _fraction(cls: type[Any]) -> Conversion:
    return Conversion(
        cls,
        "Fraction",
        tuple[int, int],
        lambda value: _of_sane_size((value.numerator, value.denominator)),
        lambda data: cls(*_of_sane_size(data)),
    )


def _date(cls: type[Any]) -> Conversion:
    return Conversion(cls, "date", int, cls.toordinal, cls.fromordinal)


def _timedelta(cls: type[Any]) -> Conversion:
    def encode(value: Any) -> int:
        return (int(value.days) * 86_400 + int(value.seconds)) * 1_000_000 + int(value.microseconds)

    return Conversion(cls, "timedelta", int, encode, lambda microseconds: cls(0, 0, microseconds))


def _time(cls: type[Any]) -> Conversion:
    from datetime import timedelta, timezone

    microsecond = timedelta(microseconds=1)

    def encode(value: Any) -> tuple[int, int, int | None, str | None]:
        of_day = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
        if value.tzinfo is None:
            return of_day, value.fold, None, None
        if (key := zone_key(value.tzinfo)) is not None:
            return of_day, value.fold, None, key
        offset = value.utcoffset()
        if offset is None:
            raise ValueError(f"the offset of the time zone {value.tzinfo} depends on the date")
        return of_day, value.fold, offset // microsecond, None

    def decode(data: tuple[int, int, int | None, str | None]) -> Any:
        of_day, fold, offset, key = data
        zone: Any = None
        if key is not None:
            zone = zone_of(key)
        elif offset is not None:
            zone = timezone(timedelta(microseconds=offset))
        minutes, of_minute = divmod(of_day, 60_000_000)
        return cls(minutes // 60, minutes % 60, of_minute // 1_000_000, of_minute % 1_000_000, zone, fold=fold)

    return Conversion(cls, "time", tuple[int, int, int | None, str | None], encode, decode)


def zone_key(tzinfo: object) -> str | None:
    """The name of a ``zoneinfo`` time zone; None for any other one, and for one that was not made by its name."""
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is not None and isinstance(tzinfo, zoneinfo.ZoneInfo):
        key = getattr(tzinfo, "key", None)
        return key if isinstance(key, str) else None
    return None


_zones: Final[dict[str, Any]] = {}
_unknown_zones: Final[set[str]] = set()
MAX_UNKNOWN_ZONES: Final = 64
"""Names of time zones that a peer may have looked for in vain. Each costs as much as a thousand values."""


def zone_of(key: str) -> Any:
    """The ``zoneinfo`` time zone with this name. Raises ValueError where this system does not know it."""
    zone = _zones.get(key)
    if zone is None and _may_be_known(key):
        import zoneinfo  # imported when used: 3 ms that most programs do not need

        try:
            zone = _zones[key] = zoneinfo.ZoneInfo(key)
        except Exception:  # what it raises for a name that is no file depends on the system
            _unknown_zones.add(key)
    if zone is None:
        raise ValueError(f"the time zone {key[:40]!r}, which is not known here; installing the package tzdata may help")
    return zone


def _may_be_known(key: str) -> bool:
    if key in _unknown_zones or len(key) > 100:  # the longest known has 32
        return False
    if len(_unknown_zones) < MAX_UNKNOWN_ZONES:
        return True
    import zoneinfo

    if not _known_zones:
        _known_zones.update(zoneinfo.available_timezones())
    return key in _known_zones


_known_zones: Final[set[str]] = set()


_STANDARD: Final[Mapping[str, tuple[str, Maker]]] = {
    "date": ("datetime", _date),
    "time": ("datetime", _time),
    "timedelta": ("datetime", _timedelta),
    "complex": ("builtins", _complex),
    "range": ("builtins", _range),
    "Decimal": ("decimal", _by_text),
    "Fraction": ("fractions", _fraction),
    "UUID": ("uuid", _uuid),
    "PurePath": ("pathlib", _path),
    "PurePosixPath": ("pathlib", _path),
    "PureWindowsPath": ("pathlib", _path),
    "Path": ("pathlib", _path),
    "PosixPath": ("pathlib", _path),
    "IPv4Address": ("ipaddress", _by_text),
    "IPv6Address": ("ipaddress", _by_text),
    "IPv4Network": ("ipaddress", _by_text),
    "IPv6Network": ("ipaddress", _by_text),
    "IPv4Interface": ("ipaddress", _by_text),
    "IPv6Interface": ("ipaddress", _by_text),
}
STANDARD: Final = frozenset(_STANDARD)
"""The names of the standard library's types that are converted."""
