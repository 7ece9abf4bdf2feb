"""The extension point: registered classes, finders, and the standard library's types that are converted."""

import datetime
import decimal
import fractions
import functools
import ipaddress
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest

from typedrpc import schema as package
from typedrpc.schema import (
    Conversion,
    ConvertedNode,
    Record,
    RecordField,
    RecordNode,
    Schema,
    SignatureFaults,
    UnresolvedNames,
    conversions,
    node_of,
    register,
    register_finder,
)
from typedrpc.schema.conversions import MAX_UNKNOWN_ZONES, STANDARD, conversion_of, find, zone_key, zone_of

T = TypeVar("T")


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(conversions, "_registered", dict(conversions._registered))
    monkeypatch.setattr(conversions, "_finders", list(conversions._finders))


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def to_cents(self) -> int:
        return self.cents

    @classmethod
    def from_cents(cls, cents: int) -> "Money":
        return cls(cents)


def wire(cls: Any) -> str:
    """What a class travels as, by the node."""
    node = node_of(cls)
    assert isinstance(node, ConvertedNode)
    assert Schema.from_data(Schema((), node).to_data()).result == node
    return str(node.wire)


# Registering


def test_the_annotations_of_encode_say_what_travels() -> None:
    register(Money, encode=Money.to_cents, decode=Money.from_cents)
    node = node_of(list[Money])
    assert str(node) == "list[Money]"
    assert wire(Money) == "int"
    found = conversion_of(Money)
    assert found is not None
    assert found.decode(found.encode(Money(7))).cents == 7
    assert found.instances == {Money}


def test_the_annotations_of_decode_say_it_where_encode_has_none() -> None:
    register(Money, encode=lambda money: money.cents, decode=Money.from_cents)
    assert wire(Money) == "int"


def test_travels_as_says_it_and_comes_first() -> None:
    register(Money, encode=lambda money: money.cents, decode=Money, travels_as=int)
    assert wire(Money) == "int"

    class Names:
        pass

    register(Names, encode=lambda _: [], decode=lambda _: Names(), travels_as=list[str] | None)
    assert wire(Names) == "list[str] | None"


def test_string_annotations_of_encode_are_resolved() -> None:
    class Holder:
        pass

    def encode(holder: Holder) -> "list[Money]":
        return []

    register(Money, encode=Money.to_cents, decode=Money.from_cents)
    register(Holder, encode=encode, decode=lambda _: Holder())
    assert wire(Holder) == "list[Money]"


def test_a_string_that_does_not_resolve_says_nothing() -> None:
    def encode(money: Money) -> "NotThere":  # type: ignore[name-defined]  # noqa: F821
        return 0

    def decode(cents: "sys.NotThere") -> Money:  # type: ignore[name-defined]
        return Money(0)

    with pytest.raises(TypeError, match="annotate the result of encode"):
        register(Money, encode=encode, decode=decode)


def test_what_travels_has_to_be_known() -> None:
    with pytest.raises(TypeError, match=r"codec.register\(Money\): annotate the result of encode, or say what travels"):
        register(Money, encode=lambda money: money.cents, decode=lambda cents: Money(cents))
    untyped: Any = functools.partial(getattr, Money(1))
    with pytest.raises(TypeError, match="annotate the result of encode"):
        register(Money, encode=untyped, decode=Money)


def test_only_a_class_can_be_registered() -> None:
    anything: Any = list[int]
    with pytest.raises(TypeError, match=r"codec.register takes a class, got list\[int\]"):
        register(anything, encode=str, decode=str, travels_as=str)
    anything = "Money"
    with pytest.raises(TypeError, match=r"codec.register takes a class, got 'Money'"):
        register(anything, encode=str, decode=str, travels_as=str)


def test_registering_twice_in_the_same_way_is_fine_and_in_another_way_an_error() -> None:
    for _ in range(2):
        register(Money, encode=Money.to_cents, decode=Money.from_cents)
    with pytest.raises(TypeError, match=r"codec.register\(Money\): the class is registered already, in another way"):
        register(Money, encode=Money.to_cents, decode=Money.from_cents, name="Cash")
    assert str(node_of(Money)) == "Money"


def test_a_name_of_one_s_own() -> None:
    register(Money, encode=Money.to_cents, decode=Money.from_cents, name="shop.Money")
    assert str(node_of(Money)) == "shop.Money"


def test_a_subclass_is_a_class_of_its_own() -> None:
    class Cash(Money):
        pass

    register(Money, encode=Money.to_cents, decode=Money.from_cents)
    with pytest.raises(SignatureFaults, match="Cash cannot travel: its attributes have no declared types"):
        node_of(Cash)


def test_a_registered_dataclass_is_converted() -> None:
    @dataclass
    class Point:
        x: int

    register(Point, encode=lambda point: point.x, decode=Point, travels_as=int)
    assert wire(Point) == "int"


def test_what_travels_is_looked_at_as_any_annotation() -> None:
    anything: Any = object
    register(Money, encode=lambda money: money, decode=lambda _: Money(1), travels_as=anything)
    with pytest.raises(SignatureFaults) as caught:
        node_of(list[Money], "the result")
    (fault,) = caught.value.faults
    assert fault.startswith("the result, in list[Money], in what Money travels as: object cannot travel")


class Branch:
    """Two of its kind within one, which is where reading each of them would never end."""


@dataclass
class Twig:
    left: Branch
    right: Branch


def test_what_travels_may_hold_the_class_only_within_a_dataclass() -> None:
    register(Branch, encode=lambda it: (it, it), decode=lambda _: Branch(), travels_as=tuple[Branch, Branch])
    with pytest.raises(SignatureFaults) as caught:
        node_of(Branch)
    assert len(caught.value.faults) == 2
    assert "Branch cannot travel: what it travels as holds it again; put a dataclass between" in str(caught.value)


def test_a_dataclass_between_ends_the_cycle() -> None:
    register(Branch, encode=lambda _: Twig(Branch(), Branch()), decode=lambda _: Branch(), travels_as=Twig)
    assert wire(Branch) == "Twig"
    assert node_of(Branch) == node_of(Branch)


def test_strings_in_what_travels_mean_the_module_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("module_of_a_class")
    monkeypatch.setitem(sys.modules, "module_of_a_class", module)
    exec("Kind = str\nclass Holder: pass\n", vars(module))
    register(module.Holder, encode=list, decode=lambda _: module.Holder(), travels_as=list["Kind"])  # type: ignore[name-defined]  # noqa: F821
    assert wire(module.Holder) == "list[str]"


# Finders


class Crate(Generic[T]):
    def __init__(self, item: Any) -> None:
        self.item = item


def test_a_finder_is_asked_for_what_nobody_knows() -> None:
    asked: list[Any] = []

    def finder(hint: Any) -> Conversion | Record | None:
        asked.append(hint)
        if getattr(hint, "__origin__", None) is Crate:
            (item,) = hint.__args__
            return Conversion(Crate, f"Crate[{item.__name__}]", item, lambda crate: crate.item, Crate)
        return None

    register_finder(finder)
    register_finder(finder)
    assert wire(Crate[int]) == "int"
    assert str(node_of(list[Crate[str]])) == "list[Crate[str]]"
    assert asked == [Crate[int], Crate[str]]
    with pytest.raises(SignatureFaults, match="Money cannot travel: its attributes have no declared types"):
        node_of(Money)
    assert asked[-1] is Money
    node_of(dict[str, int | None])
    assert asked[-1] is Money


def test_a_finder_may_give_a_record() -> None:
    def finder(hint: Any) -> Record | None:
        if hint is Money:
            return Record(Money, "Money", (RecordField("cents", int, True), RecordField("more", "Money | None", False)))
        return None

    register_finder(finder)
    node = node_of(Money)
    assert isinstance(node, RecordNode)
    assert node.cls is Money
    assert [(one.name, str(one.node), one.required) for one in node.fields] == [
        ("cents", "int", True),
        ("more", "Money | None", False),
    ]
    assert Schema.from_data(Schema((), node).to_data()).result == node


def test_a_finder_may_refuse() -> None:
    def finder(hint: Any) -> None:
        if hint is Money:
            raise TypeError("money is no object; send it as int")

    register_finder(finder)
    with pytest.raises(SignatureFaults, match="Money cannot travel: money is no object; send it as int"):
        node_of(Money)


def test_the_first_finder_that_knows_counts() -> None:
    def finder_of(kind: Any) -> Any:
        return lambda hint: Conversion(Money, "Money", kind, kind, Money) if hint is Money else None

    register_finder(lambda hint: None)
    register_finder(finder_of(int))
    register_finder(finder_of(str))
    assert wire(Money) == "int"
    assert find(3, None) is None


def test_the_package_exports_what_users_need() -> None:
    assert package.register is register
    assert package.register_finder is register_finder


# The standard library

STANDARD_VALUES: list[tuple[Any, str, list[Any]]] = [
    (datetime.date, "int", [datetime.date.min, datetime.date(2024, 2, 29), datetime.date.max]),
    (
        datetime.timedelta,
        "int",
        [
            datetime.timedelta.min,
            datetime.timedelta.max,
            datetime.timedelta(0),
            datetime.timedelta(microseconds=-1),
            datetime.timedelta(days=999_999_999, microseconds=1),
        ],
    ),
    (
        datetime.time,
        "tuple[int, int, int | None, str | None]",
        [
            datetime.time.min,
            datetime.time.max,
            datetime.time(1, 2, 3, 4, fold=1),
            datetime.time(1, tzinfo=datetime.UTC),
            datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(seconds=-1))),
            datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(microseconds=7))),
            datetime.time(1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        ],
    ),
    (complex, "tuple[float, float]", [0j, 1 + 2j, complex("inf"), complex(-0.0, -0.0)]),
    (range, "tuple[int, int, int]", [range(0), range(1, 10, 3), range(10, 0, -1), range(2**70)]),
    (decimal.Decimal, "str", [decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), decimal.Decimal("1E+999")]),
    (fractions.Fraction, "tuple[int, int]", [fractions.Fraction(1, 3), fractions.Fraction(-(2**70), 3)]),
    (uuid.UUID, "bytes", [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)]),
    (pathlib.Path, "str", [pathlib.Path(), pathlib.Path("/a/b")]),
    (type(pathlib.Path()), "str", [pathlib.Path("/a/b")]),
    (pathlib.PurePath, "str", [pathlib.PurePath("a")]),
    (pathlib.PurePosixPath, "str", [pathlib.PurePosixPath("a/b")]),
    (pathlib.PureWindowsPath, "str", [pathlib.PureWindowsPath("c:\\a")]),
    (ipaddress.IPv4Address, "str", [ipaddress.IPv4Address("127.0.0.1")]),
    (ipaddress.IPv6Address, "str", [ipaddress.IPv6Address("fe80::1%eth0")]),
    (ipaddress.IPv4Network, "str", [ipaddress.IPv4Network("10.0.0.0/8")]),
    (ipaddress.IPv6Network, "str", [ipaddress.IPv6Network("fe80::/10")]),
    (ipaddress.IPv4Interface, "str", [ipaddress.IPv4Interface("10.0.0.1/8")]),
    (ipaddress.IPv6Interface, "str", [ipaddress.IPv6Interface("fe80::1/10")]),
]


@pytest.mark.parametrize(
    ("cls", "travels_as", "values"), STANDARD_VALUES, ids=[cls.__name__ for cls, _, _ in STANDARD_VALUES]
)
def test_the_standard_library_s_types(cls: Any, travels_as: str, values: list[Any]) -> None:
    assert wire(cls) == travels_as
    assert str(node_of(cls)) == cls.__name__
    conversion = conversion_of(cls)
    assert conversion is not None
    for value in values:
        copy = conversion.decode(conversion.encode(value))
        assert copy == value
        assert type(copy) is type(value)
        assert repr(copy) == repr(value)
        assert type(value) in conversion.instances


def test_every_standard_type_is_tested() -> None:
    other_system = {"PosixPath", "WindowsPath"}
    assert {cls.__name__ for cls, _, _ in STANDARD_VALUES} | other_system == STANDARD | other_system


def test_a_class_of_the_same_name_is_no_standard_type() -> None:
    impostor: Any = type("Decimal", (), {})
    assert conversion_of(impostor) is None
    with pytest.raises(SignatureFaults, match="Decimal cannot travel: its attributes have no declared types"):
        node_of(impostor)


def test_text_of_a_subclass_is_not_asked_for() -> None:
    class Loud(decimal.Decimal):
        def __str__(self) -> str:
            return "LOUD"

    conversion = conversion_of(decimal.Decimal)
    assert conversion is not None
    assert conversion.encode(Loud("1.5")) == "1.5"


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (datetime.date, 0),
        (datetime.date, 10**30),
        (datetime.timedelta, 10**30),
        (datetime.time, (-1, 0, None, None)),
        (datetime.time, (86_400_000_000, 0, None, None)),
        (datetime.time, (0, 2, None, None)),
        (datetime.time, (0, 0, 10**20, None)),
        (datetime.time, (0, 0, None, "No/Where")),
        (range, (0, 0, 0)),
        (fractions.Fraction, (1, 0)),
        (uuid.UUID, b"short"),
        (decimal.Decimal, "no number"),
        (ipaddress.IPv4Address, "1.2.3"),
        (ipaddress.IPv4Network, "10.0.0.1/8"),
    ],
)
def test_data_that_is_no_value_raises(cls: Any, data: Any) -> None:
    conversion = conversion_of(cls)
    assert conversion is not None
    with pytest.raises((ValueError, ArithmeticError)):
        conversion.decode(data)


# Time zones


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Empty tables of zones, and the names that `zoneinfo` was asked for."""
    asked: list[str] = []

    def counted(key: str) -> zoneinfo.ZoneInfo:
        asked.append(key)
        return original(key)

    original = zoneinfo.ZoneInfo
    for name, value in (("_zones", {}), ("_unknown_zones", set()), ("_known_zones", set())):
        monkeypatch.setattr(conversions, name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoneinfo, "ZoneInfo", counted)
        yield asked


def test_zones_by_name(zones: list[str]) -> None:
    assert zone_of("UTC") is zone_of("UTC")
    assert zones == ["UTC"]
    for key in ("No/Where", "../../etc/passwd", "", "/etc/passwd", "UTC\0", "\ud800"):
        for _ in range(2):
            with pytest.raises(ValueError, match="which is not known here; installing the package tzdata may help"):
                zone_of(key)
        assert zones.count(key) <= 1


def test_a_long_name_is_not_looked_for_and_cut_in_the_error(zones: list[str]) -> None:
    with pytest.raises(ValueError, match=r"the time zone 'x{40}', which is not known here") as caught:
        zone_of("x" * 1_000_000)
    assert len(str(caught.value)) < 200
    assert zones == []


def test_only_so_many_unknown_names_are_looked_for(zones: list[str]) -> None:
    for number in range(MAX_UNKNOWN_ZONES + 50):
        with pytest.raises(ValueError, match="not known here"):
            zone_of(f"No/Where{number}")
    assert len(zones) == MAX_UNKNOWN_ZONES
    assert len(conversions._unknown_zones) == MAX_UNKNOWN_ZONES
    known = min(zoneinfo.available_timezones())
    assert zone_of(known).key == known
    assert zones[-1] == known


def test_the_key_of_a_zone() -> None:
    assert zone_key(zoneinfo.ZoneInfo("UTC")) == "UTC"
    assert zone_key(datetime.UTC) is None
    assert zone_key(None) is None
    key = zoneinfo.ZoneInfo("UTC")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "zoneinfo")
        assert zone_key(key) is None


def test_a_zone_without_a_name_has_no_key() -> None:
    path = next(
        (pathlib.Path(folder, "UTC") for folder in zoneinfo.TZPATH if pathlib.Path(folder, "UTC").is_file()), None
    )
    if path is None:
        pytest.skip("this system has no files of time zones")
    with path.open("rb") as file:
        assert zone_key(zoneinfo.ZoneInfo.from_file(file)) is None


def test_the_offset_of_a_time_has_to_be_known_without_the_date() -> None:
    class Moving(datetime.tzinfo):
        def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta | None:
            return None if when is None else datetime.timedelta(0)

        def dst(self, when: datetime.datetime | None) -> None:
            return None

        def tzname(self, when: datetime.datetime | None) -> str:
            return "moving"

        def __str__(self) -> str:
            return "moving"

    conversion = conversion_of(datetime.time)
    assert conversion is not None
    with pytest.raises(ValueError, match="the offset of the time zone moving depends on the date"):
        conversion.encode(datetime.time(1, tzinfo=Moving()))


def test_a_finder_that_misses_a_name() -> None:
    def finder(hint: Any) -> None:
        if hint is Money:
            raise NameError("name 'Cents' is not defined")

    register_finder(finder)
    with pytest.raises(UnresolvedNames) as caught:
        node_of(list[Money], "the result")
    words = "in Money: an annotation does not resolve: name 'Cents' is not defined"
    assert caught.value.unresolved == [f"the result, in list[Money], {words}"]


@pytest.mark.parametrize("cls", [int, str, bytes, datetime.datetime, datetime.date, decimal.Decimal, pathlib.Path])
def test_a_type_that_is_known_is_not_registered_again(cls: type) -> None:
    with pytest.raises(TypeError, match=rf"codec.register\({cls.__name__}\): this type is known; register a subclass"):
        register(cls, encode=str, decode=cls, travels_as=str)
