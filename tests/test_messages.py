import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.codec import Segmented, pack_plain
from typedrpc.messages import (
    MAX_RANDOM,
    MAX_REASON,
    MAX_TIME_LEFT,
    MIN_MESSAGE_SIZE,
    Extension,
    Extras,
    Hello,
    Leave,
    Limits,
    fault_of_metadata,
    pack_credit,
    pack_extension,
    pack_goodbye,
    pack_hello,
    pack_limits,
    read_credit,
    read_extension,
    read_goodbye,
    read_hello,
    read_last_accepted,
    read_limits,
    read_queued,
    read_reply_metadata,
)
from typedrpc.options import MAX_METADATA, MAX_METADATA_ENTRIES
from typedrpc.wire import MAX_FRAME_SIZE


def test_a_hello_comes_back() -> None:
    limits = Limits(max_message_size=5000, max_calls=7)
    assert read_hello(pack_hello(Hello(limits))) == Hello(limits)
    services = {"Store": b"0123456789abcdef"}
    assert read_hello(pack_hello(Hello(limits, services))) == Hello(limits, services)


def test_all_that_a_hello_says_comes_back() -> None:
    hello = Hello(
        Limits(max_message_size=5000, max_calls=7),
        {"Store": b"0123456789abcdef"},
        frozenset({"reads", "later"}),
        nonce=bytes(MAX_RANDOM),
        methods=("secret", "token"),
        session=b"s" * 16,
        next_key=2**40,
        incarnation=b"i" * 16,
    )
    assert read_hello(pack_hello(hello)) == hello


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"features": "reads"}, "a hello with features or methods that are no names"),
        ({"features": [1]}, "a hello with features or methods that are no names"),
        ({"methods": {"secret": 1}}, "a hello with features or methods that are no names"),
        ({"nonce": bytes(MAX_RANDOM + 1)}, f"a hello with random bytes that are none, or more than {MAX_RANDOM}"),
        ({"session": bytes(MAX_RANDOM + 1)}, f"a hello with random bytes that are none, or more than {MAX_RANDOM}"),
        ({"incarnation": "text"}, f"a hello with random bytes that are none, or more than {MAX_RANDOM}"),
        ({"next_key": -1}, "a hello with a key that is no number"),
        ({"next_key": 2**63}, "a hello with a key that is no number"),
        ({"next_key": 1.0}, "a hello with a key that is no number"),
    ],
)
def test_what_a_hello_may_not_say(said: dict[str, object], fault: str) -> None:
    assert read_hello(pack_plain({"max_message_size": 5000, "max_calls": 7, **said})) == fault


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
    assert read_extension(pack_plain({Extension.TRACE: {"a": "b"}, 77: None})) == Extras()


def test_where_a_call_is_nested_comes_back() -> None:
    assert read_extension(pack_extension(parent=4, depth=7)) == Extras(parent=4, depth=7)
    assert read_extension(pack_extension(parent=2**32 - 1, depth=2**32 - 1)) == Extras(
        parent=2**32 - 1, depth=2**32 - 1
    )
    assert read_extension(pack_extension(target=(3, 0))) == Extras(target=(3, 0))
    everything = pack_extension(time_left=1.5, schema=0, parent=4, depth=7, target=(3, 2))
    assert read_extension(everything) == Extras(1.5, 0, 4, 7, (3, 2))


def test_a_call_that_is_nested_in_none_says_nothing_of_it() -> None:
    assert pack_extension(parent=0, depth=0) == b""


@pytest.mark.parametrize("key", [Extension.PARENT, Extension.DEPTH])
@pytest.mark.parametrize("number", [-1, 2**32, True, None, "1", 1.0, [1], 1 << 5_000])
def test_a_parent_or_a_depth_that_is_no_number(key: int, number: object) -> None:
    assert read_extension(pack_plain({key: number})) == "a parent or a depth that is no number"


@pytest.mark.parametrize(
    "target", [0, "ab", b"ab", [], [1], [1, 2, 3], [1, "2"], [None, 1], {1: 2}, [1.0, 2], [True, 0]]
)
def test_a_target_that_is_no_callback(target: object) -> None:
    assert read_extension(pack_plain({Extension.TARGET: target})) == "a target that is no callback"


def test_limits_come_back() -> None:
    before = Limits(5000, 7)
    assert read_limits(pack_limits(Limits(9000, 3)), before) == Limits(9000, 7), "only the size can be changed"
    assert read_limits(pack_plain({}), before) == before
    assert read_limits(pack_plain({"later": [1], "max_message_size": 6000}), before) == Limits(6000, 7)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", "limits that cannot be read: "),
        (b"\xc1", "limits that cannot be read: "),
        (pack_plain([]), "limits that are no map of numbers"),
        (pack_plain({"max_message_size": "1"}), "limits that are no map of numbers"),
        (pack_plain({"max_message_size": True}), "limits that are no map of numbers"),
        (pack_plain({"max_message_size": None}), "limits that are no map of numbers"),
        (pack_plain({"max_message_size": MIN_MESSAGE_SIZE - 1}), "a limit out of range: max_message_size"),
        (pack_plain({"max_message_size": -1}), "a limit out of range: max_message_size"),
        (pack_plain({"max_message_size": 1 << 5_000}), "a limit out of range: max_message_size"),
    ],
)
def test_limits_that_are_none(payload: bytes, fault: str) -> None:
    read = read_limits(payload, Limits())
    assert isinstance(read, str)
    assert read.startswith(fault)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_reading_raises_nothing(data: bytes) -> None:
    assert isinstance(read_hello(data), str | Hello)
    assert isinstance(read_goodbye(data), tuple)
    assert isinstance(read_limits(data, Limits()), str | Limits)
    assert isinstance(read_queued(data), tuple | None)
    assert isinstance(read_extension(data), str | Extras)


@pytest.mark.parametrize("metadata", [{}, {"a": "b", "c": b"\x00"}, {"": ""}, {"a": "x" * (MAX_METADATA - 1)}])
def test_metadata_comes_back(metadata: dict[str, str | bytes]) -> None:
    packed = pack_extension(metadata=metadata)
    extras = read_extension(packed) if packed else Extras()
    assert isinstance(extras, Extras)
    assert dict(extras.metadata) == dict(read_reply_metadata(packed)) == metadata


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ([1], "metadata that is no map"),
        ({str(number): "" for number in range(MAX_METADATA_ENTRIES + 1)}, "metadata of 65 entries, the limit is 64"),
        ({1: "a"}, "metadata whose keys are not all str, or whose values are not all str or bytes"),
        ({"a": 1}, "metadata whose keys are not all str, or whose values are not all str or bytes"),
        ({"é": "x" * (MAX_METADATA - 1)}, "metadata of 8193 bytes, the limit is 8192"),
    ],
)
def test_metadata_that_cannot_be(metadata: object, fault: str) -> None:
    packed = pack_plain({Extension.METADATA: metadata})
    assert read_extension(packed) == fault
    assert not read_reply_metadata(packed), "what an answer says of it is not worth an error"
    assert fault_of_metadata({"a": "\ud800"}) == "metadata with a text that is no Unicode"


@pytest.mark.parametrize("packed", [b"", b"\xc1", pack_plain([1]), pack_plain({})])
def test_an_answer_without_metadata(packed: bytes) -> None:
    assert not read_reply_metadata(packed)


@pytest.mark.parametrize("more", [1, 65536, MAX_FRAME_SIZE])
def test_credit_comes_back(more: int) -> None:
    assert read_credit(pack_credit(more)) == more


@pytest.mark.parametrize("more", [0, -1, True, "1", 1.0, None, MAX_FRAME_SIZE + 1])
def test_a_credit_that_cannot_be(more: object) -> None:
    assert read_credit(pack_plain(more)) == "a credit that is no number of bytes"


def test_a_credit_that_cannot_be_read() -> None:
    assert str(read_credit(b"\xc1")).startswith("a credit that cannot be read: ")


@pytest.mark.parametrize(
    ("key", "read"), [((7, 0), (7, 0, 0)), ((7, 2, 5), (7, 2, 5)), ((2**63 - 1, 0), (2**63 - 1, 0, 0))]
)
def test_a_key(key: tuple[int, int], read: tuple[int, int, int]) -> None:
    assert read_extension(pack_extension(key=key)) == Extras(key=read)


@pytest.mark.parametrize(
    "key", [1, [], [1], [1, 2, 3, 4], [-1, 0], [0, -1], [0, 0, -1], [2**63, 0], [True, 0], ["1", 0]]
)
def test_a_key_that_names_no_call(key: object) -> None:
    assert read_extension(pack_plain({Extension.KEY: key})) == "a key that names no call"


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", pack_plain([-1, ""]), pack_plain([True, ""]), pack_plain(["1", ""]), pack_plain([1])]
)
def test_a_goodbye_that_does_not_say_what_was_accepted(payload: bytes) -> None:
    assert read_last_accepted(payload) is None


def test_a_goodbye_says_what_was_accepted() -> None:
    assert read_last_accepted(pack_goodbye(7, "", Leave.FINISHED)) == 7
