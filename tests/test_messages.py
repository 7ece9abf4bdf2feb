import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.codec import Segmented, pack_plain
from typedrpc.messages import (
    MAX_REASON,
    MAX_TIME_LEFT,
    Extension,
    Extras,
    Hello,
    Leave,
    Limits,
    pack_extension,
    pack_goodbye,
    pack_hello,
    read_extension,
    read_goodbye,
    read_hello,
    read_limits,
    read_queued,
)


def test_a_hello_comes_back() -> None:
    limits = Limits(max_message_size=5000, max_calls=7)
    assert read_hello(pack_hello(limits)) == Hello(limits)
    services = {"Store": b"0123456789abcdef"}
    assert read_hello(pack_hello(limits, services)) == Hello(limits, services)


def test_what_a_hello_says_beside_is_ignored() -> None:
    hello = {"max_message_size": 5000, "max_calls": 7, "later": [1]}
    assert read_hello(pack_plain(hello)) == Hello(Limits(5000, 7))


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", "a hello that cannot be read: "),
        (b"\xc1", "a hello that cannot be read: "),
        (Segmented(b"\x80", [b"x"]), "a hello that cannot be read: "),
        (pack_plain([]), "a hello that is no map"),
        (pack_plain({}), "a hello without max_message_size"),
        (pack_plain({"max_message_size": 5000}), "a hello without max_calls"),
        (pack_plain({"max_message_size": True, "max_calls": 1}), "a hello without max_message_size"),
        (pack_plain({"max_message_size": 1, "max_calls": 1}), "a hello with a limit out of range: max_message_size"),
        (pack_plain({"max_message_size": 5000, "max_calls": 1, "services": []}), "a hello with services that are"),
        (pack_plain({"max_message_size": 5000, "max_calls": 1, "services": {"a": 1}}), "a hello with services that"),
        (pack_plain({"max_message_size": 5000, "max_calls": 0}), "a hello with a limit out of range: max_calls"),
    ],
)
def test_a_hello_that_is_none(payload: bytes, fault: str) -> None:
    read = read_hello(payload)
    assert isinstance(read, str)
    assert read.startswith(fault)


def test_a_goodbye_comes_back_cut() -> None:
    assert read_goodbye(pack_goodbye(3, "enough")) == ("enough", Leave.OTHER)
    assert read_goodbye(pack_goodbye(3, "full", Leave.BUSY)) == ("full", Leave.BUSY)
    assert read_goodbye(pack_plain([3, "later", 77, "more"])) == ("later", 77)
    assert read_goodbye(pack_goodbye(3, "")) == ("", Leave.OTHER)
    assert len(read_goodbye(pack_goodbye(3, "x" * 10_000))[0]) == MAX_REASON
    assert read_goodbye(pack_plain([3, "x" * 10_000])) == ("x" * MAX_REASON, Leave.OTHER)


@pytest.mark.parametrize("payload", [b"", b"\xc1", pack_plain([]), pack_plain(["last", "reason"]), pack_plain([1, 2])])
def test_a_goodbye_that_says_nothing(payload: bytes) -> None:
    assert read_goodbye(payload) == ("", Leave.OTHER)


@pytest.mark.parametrize(
    ("seconds", "read"), [(0, 0.0), (-1, 0.0), (1.5, 1.5), (1e-7, 0.0), (1e300, float(MAX_TIME_LEFT))]
)
def test_the_time_left_comes_back(seconds: float, read: float) -> None:
    assert read_extension(pack_extension(time_left=seconds)) == Extras(time_left=read)


def test_the_number_of_a_schema_comes_back() -> None:
    assert read_extension(pack_extension(schema=7)) == Extras(schema=7)
    assert read_extension(pack_extension(time_left=1.5, schema=0)) == Extras(1.5, 0)


@pytest.mark.parametrize("number", [-1, True, "1", 1.0, [1]])
def test_a_schema_that_is_no_number(number: object) -> None:
    assert read_extension(pack_plain({Extension.SCHEMA: number})) == "a schema that is no number"


def test_an_extension_without_a_deadline() -> None:
    assert read_extension(pack_plain({})) == Extras()
    assert read_extension(pack_plain({Extension.METADATA: {"a": "b"}, 77: None})) == Extras()


@given(st.binary(max_size=200))
def test_whatever_the_bytes_reading_raises_nothing(data: bytes) -> None:
    assert isinstance(read_hello(data), str | Hello)
    assert isinstance(read_goodbye(data), tuple)
    assert isinstance(read_limits(data, Limits()), str | Limits)
    assert isinstance(read_queued(data), tuple | None)
    assert isinstance(read_extension(data), str | Extras)
