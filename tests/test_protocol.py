import itertools
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.back_to_back import Pair, feed, frame, frames, joined, kinds, said, take
from typedrpc.codec import Payload, Segmented, pack_plain, unpack_plain
from typedrpc.errors import ConnectionLost, MessageTooLarge, OutcomeUnknown, ProtocolError, RemoteError, ServerBusy
from typedrpc.failure import Code, unpack_failure
from typedrpc.inflight import MAX_CALL
from typedrpc.messages import (
    MAX_REASON,
    MAX_TIME_LEFT,
    MIN_MESSAGE_SIZE,
    Extension,
    Hello,
    Leave,
    Limits,
    pack_extension,
    pack_goodbye,
)
from typedrpc.parts import pack_array, pack_outcomes, pack_parts, split_outcomes
from typedrpc.protocol import (
    HELLO_LIMIT,
    MAX_BATCH,
    MAX_PING,
    PING_RATE,
    PINGS_AT_ONCE,
    BatchRequest,
    Closed,
    Event,
    Greeted,
    Opened,
    Outcome,
    Outgoing,
    Protocol,
    Released,
    Request,
    State,
)
from typedrpc.rate import Bucket, CallRate
from typedrpc.wire import MAX_FRAME_SIZE, PREAMBLE, RECEIVE_SIZE, Frame, Kind, encode

NONE: Final = pack_plain(None)
HELLO: Final = {"max_message_size": 100_000, "max_calls": 7, "features": []}


def client() -> Protocol[str]:
    return Protocol(client=True, hello=Hello(Limits()))


def server() -> Protocol[str]:
    return Protocol(client=False, hello=Hello(Limits()))


def hello(**values: object) -> bytes:
    return frame(Kind.HELLO, pack_plain({**HELLO, **values}))


def opened(*, client: bool, limits: Limits | None = None, **values: object) -> Protocol[str]:
    """A core that has shaken hands with a peer that says what a test makes it say; it has nothing left to say."""
    core: Protocol[str] = Protocol(client=client, hello=Hello(limits or Limits()))
    welcome = frame(Kind.WELCOME) if client else b""
    assert feed(core, PREAMBLE + hello(**values) + welcome) == [Greeted(), *([Opened()] if client else ())]
    core.outgoing.clear()
    core.welcome()
    return core


def call_of(client: bool) -> int:
    """The first id of a call that this side receives."""
    return 2 if client else 1


def cause(core: Protocol[str]) -> str:
    """Why a core has closed: what broke the protocol, if anything did, else what it says of the end."""
    assert core.state is State.CLOSED
    assert core.error is not None
    return str(core.error.__cause__ or core.error)


def payload_of(outgoing: Frame) -> object:
    return unpack_plain(outgoing.payload)


def error_of(outgoing: Frame) -> Exception:
    assert outgoing.kind == Kind.ERROR
    return unpack_failure(outgoing.payload, "Store.put")


def only_request(events: list[Event[str]]) -> Request:
    (event,) = events
    assert isinstance(event, Request)
    return event


# The handshake


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_two_cores_shake_hands(size: int) -> None:
    pair = Pair(Limits(2000, 3), Limits(5000, 1), size=size)
    assert {pair.client.state, pair.server.state} == {State.GREETING}
    pair.open()
    assert {pair.client.state, pair.server.state} == {State.OPEN}
    assert pair.client.peer_limits == Limits(5000, 1)
    assert pair.server.peer_limits == Limits(2000, 3)


def test_the_client_speaks_first_and_the_server_only_when_it_has_seen_a_hello() -> None:
    pair = Pair()
    assert take(pair.server) == b""
    greeting = take(pair.client)
    assert pair.to_server(greeting[:-1]) == []
    assert take(pair.server) == b""
    assert pair.to_server(greeting[-1:]) == [Greeted()]
    assert kinds(frames(take(pair.server), preamble=True)) == [Kind.HELLO]


def test_a_hello_says_the_limits() -> None:
    core: Protocol[str] = Protocol(client=True, hello=Hello(Limits(2000, 3)))
    (greeting,) = frames(take(core), preamble=True)
    assert payload_of(greeting) == {"max_message_size": 2000, "max_calls": 3, "features": []}


def test_unknown_keys_of_a_hello_are_ignored() -> None:
    core = opened(client=False, session=b"abc", features=["later"], **{"": None})
    assert core.peer_limits == Limits(100_000, 7)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "a hello that cannot be read: "),
        (b"\xc1", "a hello that cannot be read: "),
        (b"\x80\x80", "a hello that cannot be read: "),
        (b"\x91" * 1000 + b"\xc0", "a hello that cannot be read: "),
        (b"\x91" * 40 + b"\xc0", "a hello that cannot be read: plain data: expected at most 32 levels, got more"),
        (Segmented(b"\x80", []), "a hello that cannot be read: plain data: expected plain data, got segments"),
        (pack_plain([]), "a hello that is no map"),
        (pack_plain({}), "a hello without max_message_size"),
        (pack_plain({"max_message_size": 2000}), "a hello without max_calls"),
        (pack_plain({"max_message_size": True, "max_calls": 1}), "a hello without max_message_size"),
        (pack_plain({"max_message_size": 2000.0, "max_calls": 1}), "a hello without max_message_size"),
        (pack_plain({"max_message_size": 2000, "max_calls": "1"}), "a hello without max_calls"),
        (
            pack_plain({"max_message_size": MIN_MESSAGE_SIZE - 1, "max_calls": 1}),
            "a hello with a limit out of range: max_message_size must be 1024 to 2147483647, not 1023",
        ),
        (
            pack_plain({"max_message_size": MAX_FRAME_SIZE + 1, "max_calls": 1}),
            "a hello with a limit out of range: max_message_size must be 1024 to 2147483647, not 2147483648",
        ),
        (pack_plain({"max_message_size": 2000, "max_calls": 0}), "a hello with a limit out of range: max_calls must"),
        (pack_plain({"max_message_size": 2000, "max_calls": -1}), "a hello with a limit out of range: max_calls must"),
        (
            pack_plain({"max_message_size": 2000, "max_calls": 2**31}),
            "a hello with a limit out of range: max_calls must be 1 to 2147483647: 2147483648",
        ),
        (pack_plain({"max_message_size": 1 << 20_000, "max_calls": 1}), "a hello with a limit out of range: "),
    ],
)
@pytest.mark.parametrize("side", [client, server])
def test_a_bad_hello(side: Callable[[], Protocol[str]], payload: Payload, reason: str) -> None:
    core = side()
    core.outgoing.clear()
    assert feed(core, PREAMBLE + frame(Kind.HELLO, payload)) == [Closed()]
    assert cause(core).startswith(reason)
    assert kinds(said(core)) == ([Kind.GOODBYE] if core.client else [])


@pytest.mark.parametrize("kind", [*(kind for kind in Kind if kind not in (Kind.HELLO, Kind.GOODBYE)), 0x00, 0x80, 0xFF])
@pytest.mark.parametrize("side", [client, server])
def test_nothing_else_is_legal_before_the_hello(side: Callable[[], Protocol[str]], kind: int) -> None:
    core = side()
    assert feed(core, PREAMBLE + frame(kind, b"\x90", call=call_of(core.client))) == [Closed()]
    assert cause(core) == f"a frame of kind {kind:#04x} before the hello"


def test_a_client_that_speaks_tls_is_told_so_in_its_own_terms() -> None:
    core = server()
    assert feed(core, bytes.fromhex("1603010200010001fc0303")) == [Closed()]
    assert str(core.error) == "the peer broke the protocol: it speaks TLS, which begins another way"
    assert core.outgoing == [bytes.fromhex("1503010002020a")]  # fatal: an unexpected message


def test_a_stranger_is_told_nothing() -> None:
    core = server()
    assert feed(core, b"GET / HTTP/1.1\r\n") == [Closed()]
    assert cause(core) == "not typedrpc: the first bytes are b'GET / HT'"
    assert str(core.error) == "the peer broke the protocol: not typedrpc: the first bytes are b'GET / HT'"
    assert core.outgoing == []


def test_a_client_tells_a_peer_that_is_no_server() -> None:
    core = client()
    core.outgoing.clear()
    assert feed(core, b"HTTP/1.1 400 Bad Request\r\n") == [Closed()]
    (goodbye,) = said(core)
    assert payload_of(goodbye) == [0, "not typedrpc: the first bytes are b'HTTP/1.1'"]


def test_before_the_hello_no_large_frame_is_accepted() -> None:
    core = server()
    head = frame(Kind.HELLO, bytes(HELLO_LIMIT + 1))[:12]
    assert feed(core, PREAMBLE + head) == [Closed()]
    assert cause(core) == f"a frame of kind 0x01 announces {HELLO_LIMIT + 1} bytes, the limit is {HELLO_LIMIT}"


def test_a_hello_of_the_largest_size() -> None:
    core = server()
    filler = HELLO_LIMIT - len(pack_plain({**HELLO, "filler": bytes(300)})) + 300
    data = hello(filler=bytes(filler))
    assert len(data) == HELLO_LIMIT + 12
    assert feed(core, PREAMBLE + data) == [Greeted()]


def test_a_goodbye_instead_of_a_hello() -> None:
    core = client()
    assert feed(core, PREAMBLE + frame(Kind.GOODBYE, pack_plain([0, "no room"]))) == [Closed()]
    assert cause(core) == "the peer closed the connection: no room"
    core = server()
    assert feed(core, PREAMBLE + frame(Kind.GOODBYE)) == [Closed()]
    assert cause(core) == "the peer closed the connection"
    assert core.outgoing == []


@pytest.mark.parametrize("client", [True, False])
def test_frames_that_come_with_the_hello_are_read(client: bool) -> None:
    core: Protocol[str] = Protocol(client=client, hello=Hello(Limits()))
    call = call_of(client)
    if not client:
        assert feed(core, PREAMBLE + hello() + frame(Kind.PING)) == [Greeted()]
        assert kinds(frames(take(core), preamble=True)) == [Kind.HELLO, Kind.PONG]
        return
    data = PREAMBLE + hello() + frame(Kind.REQUEST, b"\x90", command=5, call=call) + frame(Kind.WELCOME)
    first, second, third = feed(core, data)
    assert (first, third) == (Greeted(), Opened())
    assert only_request([second]).call == call


# Calls


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_call_there_and_back(size: int) -> None:
    pair = Pair(size=size).open()
    call, data = pair.client.start(0x1234, b"\x91\x01", "Store.get")
    pair.client.calls.insert(call, "waits")
    request = only_request(pair.to_server(data))
    assert (request.command, request.call, request.payload, request.extras.time_left) == (
        0x1234,
        call,
        b"\x91\x01",
        None,
    )
    assert pair.server.running == 1
    (outcome,) = pair.to_client(pair.server.response(request, b"\x02", "the result"))
    assert isinstance(outcome, Outcome)
    assert (outcome.token, outcome.frame.kind, outcome.frame.payload) == ("waits", Kind.RESPONSE, b"\x02")
    assert pair.server.running == 0
    assert len(pair.client.calls) == 0


def test_both_sides_call_at_once() -> None:
    pair = Pair().open()
    from_client, data = pair.client.start(1, b"\x90", "a")
    from_server, back = pair.server.start(2, b"\x90", "b")
    assert (from_client, from_server) == (1, 2)
    assert only_request(pair.to_server(data)).command == 1
    assert only_request(pair.to_client(back)).command == 2


def test_a_call_that_fails() -> None:
    pair = Pair().open()
    call, data = pair.client.start(1, b"\x90", "a")
    pair.client.calls.insert(call, "waits")
    request = only_request(pair.to_server(data))
    (outcome,) = pair.to_client(pair.server.failure(request, pack_plain([Code.BUSY, "no", []])))
    assert isinstance(outcome, Outcome)
    assert isinstance(error_of(outcome.frame), ServerBusy)
    assert pair.server.running == 0


@pytest.mark.parametrize("size", [0, 1, RECEIVE_SIZE - 13, RECEIVE_SIZE - 12, RECEIVE_SIZE, 3_000_000])
@pytest.mark.parametrize("extension", [b"", pack_extension(time_left=2.5)])
def test_payloads_of_any_size_there_and_back(size: int, extension: bytes) -> None:
    pair = Pair().open()
    payload = bytes(size)
    for sent in (payload, bytearray(payload), Segmented(b"\x90", [payload])):
        call, data = pair.client.start(1, sent, "a", extension)
        pair.client.calls.insert(call, "waits")
        request = only_request(pair.to_server(data))
        assert comparable(request.payload) == sent
        assert request.extras.time_left == (2.5 if extension else None)
        (outcome,) = pair.to_client(pair.server.response(request, sent, "b"))
        assert isinstance(outcome, Outcome)
        assert comparable(outcome.frame.payload) == sent


def comparable(payload: Payload) -> Payload:
    """The payload with all that was received as bytes."""
    return payload._replace(segments=[*map(bytes, payload.segments)]) if isinstance(payload, Segmented) else payload


def test_a_one_way_call() -> None:
    pair = Pair().open()
    request = only_request(pair.to_server(pair.client.notify(5, b"\x91\x01", "a")))
    assert (request.command, request.call, request.payload, request.extras.time_left) == (5, 0, b"\x91\x01", None)
    assert pair.server.running == 0


def test_the_call_id_of_a_one_way_call_is_ignored() -> None:
    core = opened(client=False)
    assert only_request(feed(core, frame(Kind.NOTIFY, b"\x90", command=5, call=77))).call == 0


@pytest.mark.parametrize(("client", "call"), [(True, 0), (True, 1), (True, MAX_CALL), (False, 0), (False, 2)])
@pytest.mark.parametrize("together", [True, False], ids=["with another frame", "alone"])
def test_a_request_under_an_id_that_is_not_the_peers(client: bool, call: int, together: bool) -> None:
    core = opened(client=client)
    before = frame(Kind.PONG) if together else b""
    assert feed(core, before + frame(Kind.REQUEST, b"\x90", call=call)) == [Closed()]
    assert cause(core) == f"a request with the call id {call}, which is not the peer's to give"
    (goodbye,) = said(core)
    assert payload_of(goodbye) == [0, cause(core)]


@pytest.mark.parametrize("client", [True, False])
def test_a_second_request_under_the_id_of_one_that_runs(client: bool) -> None:
    core = opened(client=client)
    data = frame(Kind.REQUEST, b"\x90", call=call_of(client))
    request = only_request(feed(core, data))
    assert feed(core, data) == [Closed()]
    assert cause(core).startswith(f"a second request with the call id {request.call}")


def test_an_id_may_be_used_again_once_its_call_is_answered() -> None:
    core = opened(client=False)
    data = frame(Kind.REQUEST, b"\x90", call=1)
    for _ in range(3):
        core.response(only_request(feed(core, data)), NONE, "a")
        core.failure(only_request(feed(core, data)), NONE)
    assert core.state is State.OPEN


def test_calls_above_the_limit_are_refused() -> None:
    core = opened(client=False, limits=Limits(max_calls=2))
    first, second = (only_request(feed(core, frame(Kind.REQUEST, b"\x90", call=call))) for call in (1, 3))
    assert feed(core, frame(Kind.REQUEST, b"\x90", call=5)) == []
    (refusal,) = said(core)
    assert refusal.call == 5
    error = error_of(refusal)
    assert isinstance(error, ServerBusy)
    assert str(error) == "2 calls are in flight on this connection, which is the limit"
    core.response(first, NONE, "a")
    third = only_request(feed(core, frame(Kind.REQUEST, b"\x90", call=5)))
    assert core.running == 2
    assert core.last_accepted == 5
    core.failure(second, NONE)
    core.failure(third, NONE)
    assert core.running == 0


def test_one_way_calls_have_no_such_limit() -> None:
    core = opened(client=False, limits=Limits(max_calls=1))
    assert len(feed(core, frame(Kind.NOTIFY, b"\x90") * 5)) == 5


def test_replies_that_nobody_waits_for_are_counted() -> None:
    core = opened(client=True)
    core.calls.insert(1, "waits")
    late = frame(Kind.RESPONSE, NONE, call=3) + frame(Kind.ERROR, NONE, call=5) + frame(Kind.RESPONSE, NONE, call=0)
    (outcome,) = feed(core, late + frame(Kind.RESPONSE, NONE, call=1) + frame(Kind.RESPONSE, NONE, call=1))
    assert isinstance(outcome, Outcome)
    assert core.late_replies == 4
    assert core.state is State.OPEN


def test_ids_wrap_around_and_skip_those_in_flight() -> None:
    core = opened(client=True)
    core.calls.insert(1, "waits")
    core.calls.next_number = itertools.count(MAX_CALL, 2).__next__
    assert [core.new_call() for _ in range(3)] == [MAX_CALL, 3, 5]
    assert core.start(1, b"\x90", "a")[0] == 7
    peer = opened(client=False)
    request = only_request(feed(peer, joined(core.request(MAX_CALL, 1, b"\x90", "a"))))
    assert request.call == MAX_CALL


# Extensions


def with_extension(extension: object, call: int = 1) -> bytes:
    packed = extension if isinstance(extension, bytes) else pack_plain(extension)
    return frame(Kind.REQUEST if call else Kind.NOTIFY, b"\x90", call=call, extension=packed)


@pytest.mark.parametrize(
    ("seconds", "arrives"),
    [
        (0.0, 0.0),
        (-3.0, 0.0),
        (1e-9, 0.0),
        (1e-6, 1e-6),
        (0.25, 0.25),
        (86_400.0, 86_400.0),
        (float(MAX_TIME_LEFT), float(MAX_TIME_LEFT)),
        (1e300, float(MAX_TIME_LEFT)),
    ],
)
def test_a_deadline_travels_as_time_left(seconds: float, arrives: float) -> None:
    extension = pack_extension(time_left=seconds)
    core = opened(client=False)
    assert only_request(feed(core, with_extension(extension))).extras.time_left == arrives
    assert only_request(feed(core, with_extension(extension, call=0))).extras.time_left == arrives


@pytest.mark.parametrize("extension", [{}, {99: "later"}, {Extension.METADATA: {"a": b"b"}, 2**31 - 1: []}])
def test_unknown_extensions_are_ignored(extension: object) -> None:
    core = opened(client=False)
    assert only_request(feed(core, with_extension(extension))).extras.time_left is None
    assert only_request(feed(core, with_extension(extension, call=0))).extras.time_left is None


BAD_EXTENSIONS: Final[list[tuple[object, str]]] = [
    (b"\xc1", "an extension map that cannot be read"),
    (b"\x80\x80", "an extension map that cannot be read"),
    ([], "an extension that is no map"),
    ({"1": 1}, "an extension map with a key that is no 32-bit integer"),
    ({True: 1}, "an extension map with a key that is no 32-bit integer"),
    ({2**31: 1}, "an extension map with a key that is no 32-bit integer"),
    ({-(2**31) - 1: 1}, "an extension map with a key that is no 32-bit integer"),
    ({-(1 << 20_000): 1}, "an extension map with a key that is no 32-bit integer"),
    ({-2: 1}, "the extension -2 is critical and not known here"),
    ({Extension.DEADLINE: 5, -(2**31): 1}, f"the extension {-(2**31)} is critical and not known here"),
    ({Extension.DEADLINE: -1}, "a deadline that is no duration in microseconds"),
    ({Extension.DEADLINE: 1.5}, "a deadline that is no duration in microseconds"),
    ({Extension.DEADLINE: True}, "a deadline that is no duration in microseconds"),
    ({Extension.DEADLINE: "1"}, "a deadline that is no duration in microseconds"),
    ({Extension.DEADLINE: MAX_TIME_LEFT * 1_000_000 + 1}, "a deadline that is no duration in microseconds"),
    ({Extension.DEADLINE: 1 << 20_000}, "a deadline that is no duration in microseconds"),
    ({Extension.PARENT: -2}, "a parent or a depth that is no number"),
    ({Extension.PARENT: 2**32}, "a parent or a depth that is no number"),
    ({Extension.DEPTH: True}, "a parent or a depth that is no number"),
    ({Extension.PARENT: 2, Extension.DEPTH: "1"}, "a parent or a depth that is no number"),
    ({Extension.TARGET: 1}, "a target that is no callback"),
    ({Extension.TARGET: [1, -2.0]}, "a target that is no callback"),
]


@pytest.mark.parametrize(("extension", "reason"), BAD_EXTENSIONS)
def test_a_call_with_an_extension_that_cannot_be_obeyed_is_refused(extension: object, reason: str) -> None:
    core = opened(client=False)
    assert feed(core, with_extension(extension)) == []
    (refusal,) = said(core)
    error = error_of(refusal)
    assert isinstance(error, RemoteError)
    assert error.type_name == "ProtocolError"
    assert reason in str(error)
    assert core.running == 0
    assert only_request(feed(core, with_extension({}))).call == 1


@pytest.mark.parametrize(("extension", "reason"), BAD_EXTENSIONS)
def test_a_one_way_call_with_an_extension_that_cannot_be_obeyed_is_dropped_and_counted(
    extension: object, reason: str
) -> None:
    core = opened(client=False)
    assert feed(core, with_extension(extension, call=0)) == []
    assert core.dropped_notifies == 1
    assert core.outgoing == []
    assert core.state is State.OPEN


# Calls that are nested in others


def within(parent: int, call: int, depth: int = 1) -> bytes:
    """A request that is nested in a call of the side that it is for."""
    return frame(Kind.REQUEST, NONE, command=7, call=call, extension=pack_extension(parent=parent, depth=depth))


@pytest.mark.parametrize("size", [1, 1 << 30])
def test_a_call_within_a_call_within_a_call(size: int) -> None:
    """Each side sees which of its own calls a request is nested in, and all answers find their way back."""
    pair = Pair(size=size).open()
    first, data = pair.client.start(7, NONE, "Store.put")
    pair.client.calls.insert(first, "first")
    outer = only_request(pair.to_server(data))
    second, data = pair.server.start(8, NONE, "Store.put", pack_extension(parent=outer.call, depth=1))
    pair.server.calls.insert(second, "second")
    middle = only_request(pair.to_client(data))
    assert (middle.extras.parent, middle.extras.depth) == (first, 1)
    third, data = pair.client.start(9, NONE, "Store.put", pack_extension(parent=middle.call, depth=2))
    pair.client.calls.insert(third, "third")
    inner = only_request(pair.to_server(data))
    assert (inner.extras.parent, inner.extras.depth) == (second, 2)
    for core, request, deliver, token in (
        (pair.server, inner, pair.to_client, "third"),
        (pair.client, middle, pair.to_server, "second"),
        (pair.server, outer, pair.to_client, "first"),
    ):
        (outcome,) = deliver(core.response(request, NONE, "what"))
        assert isinstance(outcome, Outcome)
        assert outcome.token == token
    assert (pair.client.running, pair.server.running, len(pair.client.calls), len(pair.server.calls)) == (0, 0, 0, 0)


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("max_calls", [1, 3])
def test_nested_calls_do_not_take_the_room_of_others(client: bool, max_calls: int) -> None:
    """Whoever makes one of those has counted only their like, and was told that there is room."""
    core = opened(client=client, limits=Limits(max_calls=max_calls))
    parent = core.new_call()
    core.calls.insert(parent, "parent")
    first = call_of(client)
    calls = [first + 2 * number for number in range(2 * max_calls)]
    nested = [only_request(feed(core, within(parent, call))) for call in calls[:max_calls]]
    for call in calls[max_calls:]:
        only_request(feed(core, frame(Kind.REQUEST, NONE, command=7, call=call)))
    further = first + 2 * len(calls)
    core.response(nested[0], NONE, "what")
    assert feed(core, frame(Kind.REQUEST, NONE, command=7, call=further)) == []
    assert isinstance(error_of(said(core)[0]), ServerBusy)
    only_request(feed(core, within(parent, further)))


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("max_calls", [1, 3])
def test_nested_calls_have_as_much_room_again(client: bool, max_calls: int) -> None:
    core = opened(client=client, limits=Limits(max_calls=max_calls))
    parent = core.new_call()
    core.calls.insert(parent, "parent")
    first = call_of(client)
    calls = [first + 2 * number for number in range(2 * max_calls)]
    for call in calls[:max_calls]:
        only_request(feed(core, frame(Kind.REQUEST, NONE, command=7, call=call)))
    assert feed(core, frame(Kind.REQUEST, NONE, command=7, call=calls[max_calls])) == []
    refused = error_of(said(core)[0])
    assert isinstance(refused, ServerBusy)
    requests = [only_request(feed(core, within(parent, call))) for call in calls[max_calls:]]
    further = first + 2 * len(calls)
    assert feed(core, within(parent, further)) == []
    assert isinstance(error_of(said(core)[0]), ServerBusy)
    assert core.running == 2 * max_calls
    core.response(requests[0], NONE, "what")
    only_request(feed(core, within(parent, further)))
    assert core.state is State.OPEN


@pytest.mark.parametrize("client", [True, False])
def test_a_parent_that_is_not_in_flight_makes_no_room(client: bool) -> None:
    core = opened(client=client, limits=Limits(max_calls=1))
    parent, first = core.new_call(), call_of(client)
    assert only_request(feed(core, within(parent, first))).extras.parent == parent
    for number, stranger in enumerate((parent, 0, 2**32 - 1, first), 1):
        assert feed(core, within(stranger, first + 2 * number)) == []
        assert isinstance(error_of(said(core)[0]), ServerBusy)
    core.calls.insert(parent, "parent")
    only_request(feed(core, within(parent, first + 2)))
    core.calls.pop(parent)
    assert feed(core, within(parent, first + 4)) == []
    assert isinstance(error_of(said(core)[0]), ServerBusy)


def test_a_client_that_is_not_let_in_yet_calls_within_a_call_of_the_servers_alone() -> None:
    def greeted() -> Protocol[str]:
        core = server()
        assert feed(core, PREAMBLE + hello()) == [Greeted()]
        core.outgoing.clear()
        parent, _ = core.start(7, NONE, "Hall.enter")
        core.calls.insert(parent, "parent")
        return core

    core = greeted()
    assert only_request(feed(core, within(2, 1))).call == 1
    for bad in (within(4, 3), within(0, 3), frame(Kind.REQUEST, NONE, command=7, call=3), frame(Kind.NOTIFY, NONE)):
        core = greeted()
        assert feed(core, bad) == [Closed()]
        assert cause(core) == "a call before the welcome"


# Limits that change, and callbacks that are dropped


@pytest.mark.parametrize("client", [True, False])
def test_a_limit_that_is_raised(client: bool) -> None:
    """What the peer is told it may send is accepted, and it sends what it could not before."""
    pair = Pair(Limits(2000), Limits(2000)).open()
    ours, theirs = (pair.client, pair.server) if client else (pair.server, pair.client)
    to_ours, to_theirs = (pair.to_client, pair.to_server) if client else (pair.to_server, pair.to_client)
    payload = pack_plain(b"x" * 3000)
    with pytest.raises(MessageTooLarge, match=f"what: {len(payload)} bytes, the limit is 2000 "):
        theirs.start(7, payload, "what")
    told = ours.set_limit(4000)
    assert ours.limits == Limits(4000)
    assert to_theirs(told) == []
    assert theirs.peer_limits == Limits(4000)
    _, data = theirs.start(7, payload, "what")
    assert only_request(to_ours(data)).payload == payload
    assert theirs.limits == Limits(2000), "the other direction has its own"
    with pytest.raises(MessageTooLarge, match="the limit is 2000 "):
        ours.start(7, payload, "what")


@pytest.mark.parametrize("client", [True, False])
def test_a_limit_that_is_lowered_while_messages_are_on_their_way(client: bool) -> None:
    """Each of them is refused for itself, with size and limit; the connection goes on."""
    pair = Pair(Limits(9000), Limits(9000)).open()
    ours, theirs = (pair.client, pair.server) if client else (pair.server, pair.client)
    to_ours, to_theirs = (pair.to_client, pair.to_server) if client else (pair.to_server, pair.to_client)
    payload = pack_plain(b"x" * 3000)
    # On their way: a call, a one-way call, and the answer to a call of this side's.
    asked, data = ours.start(7, NONE, "Store.get")
    ours.calls.insert(asked, "asked")
    question = only_request(to_theirs(data))
    call, first = theirs.start(7, payload, "Store.put")
    theirs.calls.insert(call, "first")
    one_way = theirs.notify(7, payload, "Store.put")
    answer = theirs.response(question, payload, "the result of Store.get")

    told = ours.set_limit(2000)
    assert to_ours(first) == []
    assert to_ours(one_way) == []
    assert ours.dropped_notifies == 1
    assert ours.running == 0
    (outcome,) = to_ours(answer)
    assert isinstance(outcome, Outcome)
    late = error_of(outcome.frame)
    assert isinstance(late, MessageTooLarge)
    assert (late.size, late.limit) == (len(payload), 2000)

    released, outcome = to_theirs(joined(take(ours), told))
    assert isinstance(released, Released)  # nobody has looked whether callbacks came with it
    assert (released.call, released.index) == (call, 0xFFFF)
    assert isinstance(outcome, Outcome)
    refused = error_of(outcome.frame)
    assert isinstance(refused, MessageTooLarge)
    assert (refused.size, refused.limit) == (len(payload), 2000)
    with pytest.raises(MessageTooLarge, match=f"Store.put: {len(payload)} bytes, the limit is 2000 "):
        theirs.start(7, payload, "Store.put")
    fits = pack_plain(b"x" * 1900)
    _, data = theirs.start(7, fits, "Store.put")
    assert only_request(to_ours(data)).payload == fits

    # Raised again, what fits is taken again.
    to_theirs(ours.set_limit(5000))
    _, data = theirs.start(7, payload, "Store.put")
    assert only_request(to_ours(data)).payload == payload


def test_a_limit_that_is_lowered_cuts_off_who_goes_beyond_what_was_ever_allowed() -> None:
    core = opened(client=False, limits=Limits(4000))
    core.set_limit(2000)
    assert feed(core, frame(Kind.REQUEST, pack_plain(b"x" * 5000), command=7, call=1)) == [Closed()]


@pytest.mark.parametrize("size", [MIN_MESSAGE_SIZE - 1, MAX_FRAME_SIZE + 1, True, None])
def test_a_limit_out_of_range_changes_nothing(size: Any) -> None:
    core = opened(client=True, limits=Limits(4000))
    with pytest.raises(ValueError, match="max_message_size"):
        core.set_limit(size)
    assert core.limits == Limits(4000)
    assert core.outgoing == []


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("payload", [b"\xc1", pack_plain([]), pack_plain({"max_message_size": 5})])
def test_limits_that_cannot_be_obeyed_end_the_connection(client: bool, payload: bytes) -> None:
    core = opened(client=client)
    assert feed(core, frame(Kind.LIMITS, payload)) == [Closed()]
    assert kinds(said(core)) == [Kind.GOODBYE]


@pytest.mark.parametrize("client", [True, False])
def test_a_callback_is_dropped(client: bool) -> None:
    pair = Pair().open()
    ours, to_theirs = (pair.client, pair.to_server) if client else (pair.server, pair.to_client)
    (released,) = to_theirs(ours.release(0xFFFF_FFFE, 0xFFFF))
    assert isinstance(released, Released)
    assert (released.call, released.index) == (0xFFFF_FFFE, 0xFFFF)


# Everything else that may come


@pytest.mark.parametrize("payload", [b"", b"ping", bytes(MAX_PING)])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    pair = Pair().open()
    assert pair.to_server(pair.client.ping(payload)) == []
    (pong,) = frames(joined(*pair.server.outgoing))
    assert (pong.kind, pong.payload) == (Kind.PONG, payload)
    assert pair.exchange() == ([], [])


@pytest.mark.parametrize("payload", [bytes(MAX_PING + 1), Segmented(b"", [bytes(MAX_PING - 5)]), bytes(100_000)])
def test_a_ping_is_small(payload: Payload) -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.PING, payload)) == [Closed()]
    assert cause(core).endswith(f"the limit is {MAX_PING}")


@pytest.mark.parametrize("client", [True, False])
def test_a_second_hello(client: bool) -> None:
    core = opened(client=client)
    assert feed(core, hello()) == [Closed()]
    assert cause(core) == "a second hello"


@pytest.mark.parametrize("kind", [0x00, 0x1A, 0x23, 0x7F])
def test_an_unknown_kind_below_0x80_ends_the_connection(kind: int) -> None:
    core = opened(client=False)
    assert feed(core, frame(kind)) == [Closed()]
    assert cause(core) == f"a frame of unknown kind {kind:#04x}"
    assert kinds(said(core)) == [Kind.GOODBYE]


@pytest.mark.parametrize("kind", [0x80, 0x91, 0xFF])
def test_an_unknown_kind_from_0x80_up_is_ignored(kind: int) -> None:
    core = opened(client=False)
    data = frame(kind, b"\xc1", command=9, call=4) + frame(Kind.REQUEST, b"\x90", call=1)
    assert only_request(feed(core, data)).call == 1


def test_a_fault_of_framing_ends_the_connection_after_what_came_before() -> None:
    core = opened(client=False, limits=Limits(max_message_size=2000))
    request, closed = feed(core, frame(Kind.REQUEST, b"\x90", call=1) + frame(Kind.REQUEST, bytes(2001), call=3))
    assert isinstance(request, Request)
    assert closed == Closed()
    (goodbye,) = said(core)
    assert payload_of(goodbye) == [1, "a frame of kind 0x10 announces 2001 bytes, the limit is 2000"]
    assert isinstance(core.error, ConnectionLost)
    assert isinstance(core.error.__cause__, ProtocolError)


def test_what_comes_after_the_end_is_not_looked_at() -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.HELLO) + frame(Kind.REQUEST, b"\x90", call=1)) == [Closed()]
    assert core.running == 0
    data = frame(Kind.REQUEST, b"\x90", call=1) + frame(Kind.NOTIFY, b"\x90") + frame(Kind.PING)
    core.outgoing.clear()
    for piece in (data, data[:12]):
        core.reader.get_buffer()[: len(piece)] = piece
        assert core.receive(len(piece)) == []
    assert core.outgoing == []


# The end


def test_the_end_of_the_peers_bytes() -> None:
    for core in (client(), server(), opened(client=True), opened(client=False)):
        assert core.receive_eof() == [Closed()]
        assert cause(core) == "the peer closed the connection without a goodbye"
        assert core.receive_eof() == []


def test_a_peer_that_has_said_goodbye_may_reset_the_connection() -> None:
    broken = ConnectionResetError(104, "Connection reset by peer")
    for core in (client(), server(), opened(client=True), opened(client=False)):
        assert core.receive_error(broken) == [Closed()]
        assert str(core.lost()) == "the connection broke: Connection reset by peer"
        assert core.receive_error(broken) == []
    core = opened(client=True)
    core.calls.insert(1, "waits")
    assert feed(core, frame(Kind.GOODBYE, pack_plain([1, "good night"]))) == []
    assert core.receive_error(broken) == [Closed()]
    assert str(core.lost()) == "the peer closed the connection: good night"
    assert core.lost().__cause__ is broken


def test_the_end_of_the_peers_bytes_within_a_frame() -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.REQUEST, b"\x90", call=1)[:-1]) == []
    assert core.receive_eof() == [Closed()]
    assert cause(core) == "a truncated frame"
    assert str(core.error) == "the peer closed the connection in the middle of a frame"


def test_close_is_for_the_first_cause() -> None:
    core = opened(client=True)
    core.close(ConnectionLost("first"))
    core.close(ConnectionLost("second"))
    assert cause(core) == "first"
    assert core.receive_eof() == []


def test_each_caller_is_given_an_error_of_his_own() -> None:
    core = opened(client=True)
    error = ConnectionLost("why")
    error.__cause__ = OSError("deeper")
    core.close(error)
    first, second = core.lost(), core.lost()
    assert first is not second
    assert str(first) == str(second) == "why"
    assert first.__cause__ is error.__cause__


@pytest.mark.parametrize("make", [client, lambda: opened(client=True)], ids=["greeting", "closed"])
def test_no_call_begins_where_there_is_no_connection(make: Callable[[], Protocol[str]]) -> None:
    core = make()
    if core.state is State.OPEN:
        core.close(ConnectionLost("it has ended"))
    with pytest.raises(ConnectionLost):
        core.new_call()
    with pytest.raises(ConnectionLost):
        core.start(1, b"\x90", "a")


def test_a_client_says_goodbye() -> None:
    pair = Pair().open()
    assert pair.to_server(pair.client.goodbye("enough")) == [Closed()]
    assert str(pair.server.error) == "the peer closed the connection: enough"
    assert pair.server.outgoing == []


def test_a_server_drains() -> None:
    pair = Pair().open()
    call, data = pair.client.start(1, b"\x90", "a")
    pair.client.calls.insert(call, "waits")
    request = only_request(pair.to_server(data))

    goodbye = pair.server.drain("it is late")
    assert goodbye is not None
    assert pair.server.state is State.DRAINING
    assert pair.server.drain("again") is None
    crossing = joined(pair.client.request(3, 1, b"\x90", "a"))
    assert pair.to_server(crossing + frame(Kind.PING)) == []
    assert pair.server.running == 1
    refusal, pong = said(pair.server)
    assert (refusal.kind, refusal.call, pong.kind) == (Kind.ERROR, 3, Kind.PONG)
    late = unpack_failure(refusal.payload, "a")
    assert type(late) is ConnectionLost
    assert str(late) == "the call came when no more were accepted: it did not run"

    assert pair.to_client(goodbye) == []
    assert pair.client.state is State.DRAINING
    with pytest.raises(ConnectionLost, match=r"^the peer closed the connection: it is late$"):
        pair.client.new_call()
    outcome, closed = pair.to_client(pair.server.response(request, NONE, "a"))
    assert isinstance(outcome, Outcome)
    assert closed == Closed()
    assert cause(pair.client) == "the peer closed the connection: it is late"
    with pytest.raises(ConnectionLost):
        pair.server.new_call()
    assert pair.server.receive_eof() == [Closed()]
    assert cause(pair.server) == "the connection is being closed"


def test_one_way_calls_are_taken_while_draining() -> None:
    pair = Pair().open()
    assert pair.server.drain("") is not None
    assert only_request(pair.to_server(pair.client.notify(5, b"\x90", "a"))).command == 5


def test_a_client_without_calls_ends_at_a_goodbye() -> None:
    pair = Pair().open()
    assert pair.to_client(pair.server.goodbye("it is late")) == [Closed()]
    assert cause(pair.client) == "the peer closed the connection: it is late"


def test_a_draining_client_leaves_with_its_last_answer() -> None:
    core = opened(client=True)
    core.calls.insert(1, "waits")
    goodbye = frame(Kind.GOODBYE, pack_plain([1, "soon"]))
    assert feed(core, goodbye) == []
    assert feed(core, goodbye) == []
    assert core.state is State.DRAINING
    assert feed(core, frame(Kind.RESPONSE, NONE, call=1))[1:] == [Closed()]


def test_a_client_leaves_a_draining_server() -> None:
    pair = Pair().open()
    assert pair.server.drain("") is not None
    assert pair.to_server(pair.client.goodbye("")) == [Closed()]


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", pack_plain(None), pack_plain([]), pack_plain([1, ""]), pack_plain(["a", "b"])]
)
def test_a_goodbye_without_a_reason(payload: bytes) -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.GOODBYE, payload)) == [Closed()]
    assert cause(core) == "the peer closed the connection"


def test_the_reason_of_a_peers_goodbye_is_cut() -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.GOODBYE, pack_plain([1, "x" * 1_000_000]))) == [Closed()]
    assert len(cause(core)) < 2 * MAX_REASON


def test_a_goodbye_names_the_highest_call_that_was_accepted() -> None:
    core = opened(client=False)
    for call in (5, 3, 9, 7):
        feed(core, frame(Kind.REQUEST, b"\x90", call=call))
    (goodbye,) = frames(joined(core.goodbye("")))
    assert payload_of(goodbye) == [9, ""]


@pytest.mark.parametrize("reason", ["", "x" * 1000, "\N{GRINNING FACE}" * 1000, "\udcff" * 1000, "\0"])
def test_any_goodbye_fits_the_smallest_peer(reason: str) -> None:
    core = opened(client=False)
    data = joined(core.goodbye(reason))
    assert len(data) <= 12 + MIN_MESSAGE_SIZE
    peer = opened(client=True, limits=Limits(max_message_size=MIN_MESSAGE_SIZE))
    assert feed(peer, data) == [Closed()]
    assert cause(peer).startswith("the peer closed the connection")


# Sizes


def test_what_the_peer_would_not_accept_is_not_sent() -> None:
    core = opened(client=True, max_message_size=2000)
    call, data = core.start(1, bytes(2000), "Store.put")
    assert len(joined(data)) == 2012
    with pytest.raises(MessageTooLarge) as raised:
        core.start(1, bytes(2001), "Store.put")
    assert (raised.value.what, raised.value.size, raised.value.limit) == ("Store.put", 2001, 2000)
    extension = pack_extension(time_left=1.0)
    core.request(call, 1, bytes(2000 - 2 - len(extension)), "Store.put", extension)
    with pytest.raises(MessageTooLarge):
        core.request(call, 1, bytes(2001 - 2 - len(extension)), "Store.put", extension)
    core.request(call, 1, Segmented(b"", [bytes(1000), bytes(990)]), "Store.put")
    with pytest.raises(MessageTooLarge):
        core.request(call, 1, Segmented(b"", [bytes(1000), bytes(991)]), "Store.put")
    with pytest.raises(MessageTooLarge):
        core.notify(1, bytes(2001), "Store.put")


def test_a_result_that_is_too_large_leaves_the_call_to_be_answered() -> None:
    core = opened(client=False, max_message_size=2000)
    request = only_request(feed(core, frame(Kind.REQUEST, b"\x90", call=1)))
    with pytest.raises(MessageTooLarge):
        core.response(request, bytes(2001), "the result")
    assert core.running == 1
    core.response(request, bytes(2000), "the result")
    assert core.running == 0


def test_a_failure_that_is_too_large_is_replaced() -> None:
    core = opened(client=False, max_message_size=MIN_MESSAGE_SIZE)
    request = only_request(feed(core, frame(Kind.REQUEST, b"\x90", call=1)))
    payload = pack_plain([Code.REMOTE, "x" * 2000, ["KeyError", ""]])
    data = joined(core.failure(request, payload))
    assert len(data) <= 12 + MIN_MESSAGE_SIZE
    (answer,) = frames(data)
    error = error_of(answer)
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit) == (len(payload), MIN_MESSAGE_SIZE)
    assert core.running == 0


def test_the_largest_message_that_is_accepted() -> None:
    core = opened(client=False, limits=Limits(max_message_size=MIN_MESSAGE_SIZE))
    assert only_request(feed(core, frame(Kind.REQUEST, bytes(MIN_MESSAGE_SIZE), call=1))).call == 1
    assert feed(core, frame(Kind.REQUEST, bytes(MIN_MESSAGE_SIZE + 1), call=3)) == [Closed()]


@pytest.mark.parametrize(
    "values",
    [(MIN_MESSAGE_SIZE - 1, 1), (MAX_FRAME_SIZE + 1, 1), (2000, 0), (2000, 2**31), (-1, 1), (2000, -1)],
)
def test_limits_out_of_range(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^max_"):
        Limits(*values)


def test_limits_in_range() -> None:
    assert Limits(MIN_MESSAGE_SIZE, 1).max_calls == 1
    assert Limits(MAX_FRAME_SIZE, 2**31 - 1).max_message_size == MAX_FRAME_SIZE


# Whatever comes

DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(-3, 7) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
).map(pack_plain)
# An int that Python refuses to print, where an int may be.
HUGE = st.sampled_from([pack_plain(data) for data in ({-(1 << 20_000): 1}, {1: 1 << 20_000}, [1 << 20_000, "", []])])
PAYLOAD = st.one_of(
    DATA, st.binary(max_size=30), st.builds(Segmented, DATA, st.lists(st.binary(max_size=9), max_size=3))
)
ANY_FRAME = st.builds(
    lambda kind, payload, command, call, extension: frame(
        kind, payload, command=command, call=call, extension=extension
    ),
    st.sampled_from([*Kind, *(int(kind) for kind in Kind), 0x00, 0x30, 0x80, 0xFF]),
    PAYLOAD,
    st.integers(0, 0xFFFF),
    st.integers(0, 12) | st.integers(0, MAX_CALL),
    st.just(b"") | DATA | HUGE | st.binary(max_size=9),
)


def check_end(core: Protocol[str], events: list[Event[str]]) -> None:
    """Closed comes last if it comes, and exactly where the core has closed."""
    closed = [index for index, event in enumerate(events) if isinstance(event, Closed)]
    assert closed == ([len(events) - 1] if core.state is State.CLOSED else [])
    assert (core.error is not None) == (core.state is State.CLOSED)


@settings(max_examples=120, deadline=None)
@given(
    client=st.booleans(),
    greeted=st.booleans(),
    parts=st.lists(ANY_FRAME | st.binary(max_size=30), max_size=10),
    size=st.sampled_from([1, 13, 1 << 20]),
)
def test_nothing_that_a_peer_sends_makes_a_core_raise(
    client: bool, greeted: bool, parts: list[bytes], size: int
) -> None:
    core: Protocol[str] = Protocol(client=client, hello=Hello(Limits(2000, 3)))
    for call in range(1 if client else 2, 9, 2):
        core.calls.insert(call, f"call {call}")
    events = feed(core, PREAMBLE + (hello() if greeted else b"") + b"".join(parts), size)
    check_end(core, events)
    if core.state is not State.CLOSED:
        check_end(core, events + core.receive_eof())
    answers = take(core)
    frames(answers, preamble=answers.startswith(PREAMBLE))


class Talker:
    """One end of a conversation that does what it is told, and knows which of its calls wait."""

    def __init__(self, core: Protocol[str]) -> None:
        self.core = core
        self.pipe = bytearray()
        self.requests: list[Request] = []
        self.waiting: set[str] = set()
        self.events: list[Event[str]] = []

    def send(self, *data: Any) -> None:
        self.pipe += joined(*data)

    def act(self, action: str) -> None:
        core = self.core
        if action == "ping":
            self.send(core.ping(b"?"))
        elif action == "notify":
            self.send(core.notify(1, b"\x90", "a"))
        elif action == "call":
            try:
                call, data = core.start(1, b"\x90", "a")
            except ConnectionLost:
                assert core.state is not State.OPEN
                return
            core.calls.insert(call, f"call {call}")
            self.waiting.add(f"call {call}")
            self.send(data)
        elif action == "drain" and (goodbye := core.drain("drained")) is not None:
            self.send(goodbye)
        elif action in ("answer", "fail") and self.requests:
            request = self.requests.pop()
            self.send(core.response(request, NONE, "a") if action == "answer" else core.failure(request, NONE))

    def hear(self, data: bytes) -> None:
        for event in feed(self.core, data):
            self.events.append(event)
            if isinstance(event, Request) and event.call:
                self.requests.append(event)
            elif isinstance(event, Outcome):
                self.waiting.remove(event.token)
        self.send(take(self.core))
        check_end(self.core, self.events)


ACTIONS = st.sampled_from(["ping", "notify", "call", "call", "answer", "fail", "drain", "deliver", "deliver"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ACTIONS, st.integers(1, 200)), max_size=60))
def test_two_cores_never_fault_each_other(steps: list[tuple[bool, str, int]]) -> None:
    pair = Pair(Limits(max_calls=50), Limits(max_calls=50)).open()
    ends = [Talker(pair.client), Talker(pair.server)]

    def deliver(source: Talker, target: Talker, count: int) -> None:
        data = bytes(source.pipe[:count])
        del source.pipe[:count]
        target.hear(data)

    for from_server, action, count in steps:
        source, target = ends[from_server], ends[not from_server]
        if action == "deliver":
            deliver(source, target, count)
        elif source.core.state is not State.CLOSED:
            source.act(action)
    for _ in range(3):
        for source, target in (ends, ends[::-1]):
            while source.requests:
                source.act("answer")
            while source.pipe:
                deliver(source, target, 1 << 20)
    for end in ends:
        assert end.core.late_replies == 0
        if end.core.error is not None:
            assert end.core.error.__cause__ is None, "nobody broke the protocol"
    if all(end.core.state is State.OPEN for end in ends):
        assert not any(end.waiting for end in ends)


# Being let in


def greeted(*, client: bool) -> Protocol[str]:
    core: Protocol[str] = Protocol(client=client, hello=Hello(Limits()))
    assert feed(core, PREAMBLE + hello()) == [Greeted()]
    assert core.state is State.GREETED
    core.outgoing.clear()
    return core


def test_a_client_that_has_to_wait_knows_how_many_are_in() -> None:
    core = greeted(client=True)
    queued = server().queued(2, 3)
    assert isinstance(queued, bytes)
    assert feed(core, queued) == []
    assert core.queue == (2, 3)
    assert feed(core, frame(Kind.QUEUED, b"\xc1")) == []
    assert feed(core, frame(Kind.WELCOME)) == [Opened()]
    assert core.state is State.OPEN


@pytest.mark.parametrize(("code", "cause"), [(Leave.OTHER, type(None)), (Leave.BUSY, ServerBusy), (77, type(None))])
def test_a_client_that_is_turned_away_knows_why(code: int, cause: type[BaseException | None]) -> None:
    core = greeted(client=True)
    assert feed(core, frame(Kind.GOODBYE, pack_plain([0, "no", code]))) == [Closed()]
    assert core.leave == code
    assert core.error is not None
    assert isinstance(core.error.__cause__, cause)


def test_a_server_lets_a_client_in_once() -> None:
    core = greeted(client=False)
    assert core.welcome() == frame(Kind.WELCOME)
    assert core.welcome() is None
    leaving = greeted(client=False)
    assert leaving.drain("it is late") is not None
    assert leaving.welcome() is None


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY, Kind.WELCOME])
def test_what_a_client_must_not_say_before_it_is_let_in(kind: Kind) -> None:
    core = greeted(client=False)
    assert feed(core, frame(kind, b"\x90", call=1)) == [Closed()]
    assert isinstance(core.error and core.error.__cause__, ProtocolError)


def test_a_failure_of_a_stream_that_is_too_large_is_a_failure_all_the_same() -> None:
    core = opened(client=True, max_message_size=MIN_MESSAGE_SIZE)
    (end,) = frames(joined(core.end_of_stream(1, 1, bytes(MIN_MESSAGE_SIZE + 1))))
    error = unpack_failure(end.payload, "Store.put")
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit) == (MIN_MESSAGE_SIZE + 1, MIN_MESSAGE_SIZE)
    (whole,) = frames(joined(core.end_of_stream(1, 1, bytes(MIN_MESSAGE_SIZE))))
    assert whole.payload == bytes(MIN_MESSAGE_SIZE)


# Batches


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_batch_is_one_call(client: bool, size: int) -> None:
    core = opened(client=client)
    call = call_of(client)
    (event,) = feed(core, frame(Kind.BATCH, pack_array([b"\x90", b"\x05", b"\x91\x01"]), command=7, call=call), size)
    assert isinstance(event, BatchRequest)
    assert (event.command, event.call, event.origin) == (7, call, call)
    assert [event.parts[index] for index in range(len(event.parts))] == [b"\x90", b"\x05", b"\x91\x01"]
    assert core.running == 1
    assert core.last_accepted == call


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (pack_array([]), "a batch of no calls"),
        (pack_parts([b"\x90"]), "no array of calls in 9 bytes"),
        (b"\x93\x90", "no array of calls in 2 bytes"),
        (b"\xdc\x00", "no array of calls in 2 bytes"),
        (b"\xdd" + b"\xff" * 9, "no array of calls in 10 bytes"),
        (b"\xc1", "no array of calls in 1 bytes"),
        (b"", "no array of calls in 0 bytes"),
        (pack_array([b"\x90"] * (MAX_BATCH + 1)), "a batch of 1025 calls, the limit is 1024"),
        (Segmented(pack_array([b"\x90"]), [b"x"]), "a batch with segments"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(payload: Any, text: str) -> None:
    core = opened(client=False)
    assert feed(core, frame(Kind.BATCH, payload, command=7, call=1)) == []
    (answer,) = said(core)
    assert answer.call == 1
    assert text in str(error_of(answer))
    assert core.running == 0
    assert only_request(feed(core, frame(Kind.REQUEST, b"\x90", call=3))).call == 3


def test_the_largest_batch() -> None:
    core = opened(client=False)
    (event,) = feed(core, frame(Kind.BATCH, pack_array([b"\x90"] * MAX_BATCH), command=7, call=1))
    assert isinstance(event, BatchRequest)
    assert len(event.parts) == MAX_BATCH


def test_a_batch_needs_room_as_a_request_does() -> None:
    core = opened(client=False, limits=Limits(max_calls=1))
    batch = pack_array([b"\x90"] * 5)
    assert len(feed(core, frame(Kind.BATCH, batch, call=1))) == 1
    assert feed(core, frame(Kind.BATCH, batch, call=3)) == []
    (answer,) = said(core)
    assert isinstance(error_of(answer), ServerBusy)


def test_a_batch_under_an_id_in_use_is_a_fault() -> None:
    core = opened(client=False)
    data = frame(Kind.BATCH, pack_array([b"\x90"]), call=1)
    assert feed(core, data + data)[1:] == [Closed()]
    assert cause(core) == "a second request with the call id 1 while the first is running"


def test_a_batch_to_a_server_that_drains_is_refused() -> None:
    core = opened(client=False)
    core.drain("enough")
    assert feed(core, frame(Kind.BATCH, pack_array([b"\x90"]), call=1)) == []
    assert kinds(said(core)) == [Kind.ERROR]
    assert (core.last_accepted, core.running) == (0, 0)


def sent_batch(core: Protocol[str], count: int) -> int:
    """A batch that this side has sent, and waits for as "token"."""
    call = core.new_call()
    (sent,) = frames(joined(core.batch(call, 7, pack_array([b"\x90"] * count), "Store.put", pack_extension(depth=3))))
    assert (sent.kind, sent.command, sent.call) == (Kind.BATCH, 7, call)
    assert sent.payload == pack_array([b"\x90"] * count)
    assert sent.extension == pack_extension(depth=3)
    core.calls.insert(call, "token")
    core.batches[call] = count
    return call


def answer_to(call: int, *bodies: bytes) -> bytes:
    return frame(Kind.BATCH, pack_outcomes([(False, body) for body in bodies]), call=call)


@pytest.mark.parametrize("client", [True, False])
def test_the_token_of_a_batch_stays_until_the_last_outcome(client: bool) -> None:
    core = opened(client=client)
    call = sent_batch(core, 3)
    for data, left in [(answer_to(call, b"1", b"2"), 1), (answer_to(call, b"3"), 0)]:
        (event,) = feed(core, data)
        assert isinstance(event, Outcome)
        assert (event.token, event.frame.kind) == ("token", Kind.BATCH)
        assert (len(core.calls), core.batches.get(call, 0)) == (left, left)
        assert core.leaving == ["token"]
    assert core.late_replies == 0


def test_an_error_ends_a_batch() -> None:
    core = opened(client=True)
    call = sent_batch(core, 3)
    feed(core, answer_to(call, b"1"))
    (event,) = feed(core, frame(Kind.ERROR, b"", call=call))
    assert isinstance(event, Outcome)
    assert event.frame.kind == Kind.ERROR
    assert (len(core.calls), core.batches) == (0, {})


@pytest.mark.parametrize("count", [0, 3])
def test_more_outcomes_than_calls_or_none_is_a_fault(count: int) -> None:
    core = opened(client=True)
    call = sent_batch(core, 2)
    assert feed(core, answer_to(call, *[b"1"] * count)) == [Closed()]
    assert cause(core) == f"{count} outcomes of a batch that has 2 calls without one"


def test_outcomes_too_short_to_be_any_are_a_fault() -> None:
    core = opened(client=True)
    call = sent_batch(core, 2)
    assert feed(core, frame(Kind.BATCH, b"ab", call=call)) == [Closed()]


def test_a_batch_that_was_given_up_is_one_late_reply() -> None:
    core = opened(client=True)
    call = sent_batch(core, 3)
    core.calls.pop(call)
    assert feed(core, answer_to(call, b"1")) == []
    assert core.late_replies == 0
    assert feed(core, answer_to(call, b"1", b"2")) == []
    assert (core.late_replies, core.batches) == (1, {})


def test_outcomes_of_what_was_never_sent_are_ignored() -> None:
    core = opened(client=True)
    assert feed(core, answer_to(9, b"1")) == []
    assert core.late_replies == 1


def test_outcomes_sent_before_a_limit_was_lowered_count_as_errors() -> None:
    core = opened(client=True)
    call = sent_batch(core, 3)
    core.set_limit(2000)
    (event,) = feed(core, answer_to(call, bytes(1500), bytes(1500)))
    assert isinstance(event, Outcome)
    assert not isinstance(event.frame.payload, Segmented)
    told = split_outcomes(event.frame.payload)
    assert not isinstance(told, str)
    assert [is_error for is_error, _ in told] == [True, True]
    (event,) = feed(core, answer_to(call, bytes(3000)))
    assert isinstance(event, Outcome)
    assert isinstance(error_of(event.frame), MessageTooLarge)


def test_a_batch_that_the_peer_would_not_accept() -> None:
    core = opened(client=True, max_message_size=2000)
    with pytest.raises(MessageTooLarge, match=re.escape("Store.put")):
        core.batch(core.new_call(), 7, bytes(2001), "Store.put")


def test_outcomes_go_out_until_the_last() -> None:
    pair = Pair().open()
    call = sent_batch(pair.client, 2)
    (event,) = feed(pair.server, joined(pair.client.batch(call, 7, pack_array([b"\x90"] * 2), "Store.put")))
    assert isinstance(event, BatchRequest)
    for body, last in [(b"1", False), (b"2", True)]:
        data = joined(pair.server.outcomes(event, pack_outcomes([(False, body)]), last=last))
        assert pair.server.is_running(call) is not last
        (outcome,) = feed(pair.client, data)
        assert isinstance(outcome, Outcome)
    assert len(pair.client.calls) == 0


# Keep-alive, and how many calls a peer may make


def test_a_peer_that_is_silent_is_told_and_taken_for_dead() -> None:
    core = opened(client=False)
    assert core.receive_nothing(60.0) == [Closed()]
    assert str(core.error) == "nothing came from the peer for 60 s, though it was asked"
    assert core.error is not None
    assert isinstance(core.error.__cause__, TimeoutError)
    assert kinds(said(core)) == [Kind.GOODBYE]
    assert core.receive_nothing(60.0) == []


def test_who_is_asked_for_a_sign_of_life() -> None:
    assert opened(client=True).may_ask
    assert opened(client=False, features=["reads"]).may_ask
    core = opened(client=False)
    assert not core.may_ask
    core.calls.insert(core.new_call(), "a call")
    assert core.may_ask


def test_a_sign_of_life_is_a_pong_that_nobody_waits_for() -> None:
    pair = Pair().open()
    assert feed(pair.client, joined(pair.server.sign_of_life())) == []
    assert pair.client.state is State.OPEN


def test_too_many_pings_are_a_fault() -> None:
    core = opened(client=False)
    core.pings = Bucket(PING_RATE, PINGS_AT_ONCE, lambda: 0.0)
    ping = joined(core.ping())
    assert feed(core, ping * PINGS_AT_ONCE) == []
    assert kinds(said(core)) == [Kind.PONG] * PINGS_AT_ONCE
    assert feed(core, ping) == [Closed()]
    assert cause(core) == "more than 100 pings at once, or 10 a second"


def test_pings_now_and_then_are_none() -> None:
    core = opened(client=False)
    now = itertools.count()
    core.pings = Bucket(PING_RATE, PINGS_AT_ONCE, lambda: next(now) / PING_RATE)
    for _ in range(3 * PINGS_AT_ONCE):
        assert feed(core, joined(core.ping())) == []


def rated(limit: float) -> Protocol[str]:
    """A server's core that lets its peer make so many calls, in a world without time."""
    core: Protocol[str] = Protocol(
        client=False, hello=Hello(Limits()), rate=CallRate(Bucket(limit, limit, lambda: 0.0))
    )
    feed(core, PREAMBLE + hello())
    core.welcome()
    core.outgoing.clear()
    return core


def test_calls_beyond_the_rate_are_refused() -> None:
    core = rated(2)
    events = feed(core, b"".join(frame(Kind.REQUEST, b"\x90", call=call, command=7) for call in (1, 3, 5)))
    assert [event.call for event in events if isinstance(event, Request)] == [1, 3]
    refused = [answer for answer in said(core) if answer.kind == Kind.ERROR]
    assert [answer.call for answer in refused] == [5]
    assert isinstance(error_of(refused[0]), ServerBusy)
    assert core.running == 2


def test_one_way_calls_beyond_the_rate_are_dropped_with_their_callbacks() -> None:
    core = rated(1)
    sent = frame(Kind.NOTIFY, b"\x90", command=7) + frame(Kind.NOTIFY, b"\x90", command=7, call=9)
    assert len(feed(core, sent)) == 1
    assert core.dropped_notifies == 1
    assert core.rate is not None
    assert core.rate.dropped == 1
    assert kinds(said(core)) == [Kind.RELEASE]


def test_a_batch_counts_its_calls() -> None:
    core = rated(3)
    batch = frame(Kind.BATCH, pack_array([b"\x90"] * 10), call=1, command=7)
    (event,) = feed(core, batch)
    assert isinstance(event, BatchRequest)  # as a whole, and the next has to wait for it
    assert feed(core, frame(Kind.REQUEST, b"\x90", call=3, command=7)) == []


def test_what_the_protocol_itself_asks_is_not_counted() -> None:
    core = rated(1)
    asked = b"".join(frame(Kind.REQUEST, b"\x90", call=call, command=0xFF00) for call in (1, 3, 5))
    assert len(feed(core, asked)) == 3


# What becomes of calls in flight


def lost(core: Protocol[str], call: int) -> type[ConnectionLost]:
    """What a call that is in flight when the connection ends raises."""
    return type(core.lost_call(call))


@pytest.mark.parametrize(
    ("goodbyes", "unknown"),
    [
        ([], [1, 3, 5]),
        ([pack_goodbye(3, "soon")], [1, 3]),
        ([pack_goodbye(0, "soon")], []),
        ([pack_goodbye(3, "soon"), pack_goodbye(5, "soon")], [1, 3, 5]),
        ([pack_goodbye(5, "soon"), pack_goodbye(5, "soon", Leave.FINISHED)], []),
        ([b"\xc1"], [1, 3, 5]),
    ],
)
def test_what_a_goodbye_says_of_the_calls_in_flight(goodbyes: list[bytes], unknown: list[int]) -> None:
    core = opened(client=True)
    for call in (1, 3, 5):
        core.calls.insert(call, "waits")
    for payload in goodbyes:
        feed(core, frame(Kind.GOODBYE, payload))
    core.receive_eof()
    assert [call for call in (1, 3, 5) if lost(core, call) is OutcomeUnknown] == unknown
    assert {lost(core, call) for call in (1, 3, 5) if call not in unknown} <= {ConnectionLost}
    assert lost(core, 0) is OutcomeUnknown  # of which it is not known which one it was
    assert type(core.lost()) is ConnectionLost
    assert str(core.lost_call(1)) == str(core.lost())


def test_why_a_connection_ended_is_the_cause_of_an_unknown_outcome_too() -> None:
    core = opened(client=True)
    cause = ConnectionResetError("reset")
    core.receive_error(cause)
    assert core.lost_call(1).__cause__ is cause


def test_a_nested_call_may_have_been_accepted_after_the_goodbye() -> None:
    core = opened(client=True)
    for call in (1, 3):
        core.calls.insert(call, "waits")
    core.nested_calls.add(3)
    feed(core, frame(Kind.GOODBYE, pack_goodbye(1, "soon")))
    core.receive_eof()
    assert lost(core, 3) is OutcomeUnknown


def test_what_was_nested_is_forgotten_with_the_answer() -> None:
    core = opened(client=True)
    core.calls.insert(1, "waits")
    core.nested_calls.add(1)
    feed(core, frame(Kind.RESPONSE, NONE, call=1))
    assert core.nested_calls == set()


def test_a_server_finishes_when_all_is_answered() -> None:
    pair = Pair().open()
    assert pair.server.finish("early") is None
    call, data = pair.client.start(1, b"\x90", "a")
    pair.client.calls.insert(call, "waits")
    request = only_request(pair.to_server(data))
    assert pair.server.drain("it is late") is not None
    assert pair.server.peer_waits
    assert pair.server.finish("it is late") is None
    pair.server.response(request, NONE, "a")
    finished = pair.server.finish("it is late")
    assert finished is not None
    crossing = joined(pair.client.request(3, 1, b"\x90", "a"))
    pair.client.calls.insert(3, "waits")
    assert pair.to_client(finished) == [Closed()]
    assert lost(pair.client, call) is ConnectionLost
    assert lost(pair.client, 3) is ConnectionLost
    assert pair.to_server(crossing) == []
    assert kinds(said(pair.server)) == [Kind.ERROR]
    assert pair.server.receive_eof() == [Closed()]
    assert pair.server.finish("too late") is None


def test_once_all_is_finished_nothing_nested_is_accepted() -> None:
    core = opened(client=False)
    core.drain("it is late")
    core.calls.insert(2, "waits")
    parent = pack_extension(parent=2)
    assert isinstance(feed(core, joined(encode(Kind.REQUEST, 1, 1, b"\x90", parent)))[0], Request)
    assert core.finish("it is late") is None
    core.forget(1)
    assert core.finish("it is late") is not None
    assert feed(core, joined(encode(Kind.REQUEST, 1, 3, b"\x90", parent))) == []
    assert kinds(said(core)) == [Kind.ERROR]
    assert core.running == 0


class DrainsMeanwhile(set[int]):
    """Running calls of a core that another thread has drain just when one is entered."""

    def __init__(self, core: Protocol[str]) -> None:
        super().__init__()
        self.core = core
        self.goodbye: Outgoing | None = None

    def add(self, call: int) -> None:
        if self.goodbye is None:
            self.goodbye = self.core.drain("it is late")
        super().add(call)


def test_a_call_that_comes_while_a_goodbye_is_made_is_named_or_refused() -> None:
    core = opened(client=False)
    core._running = running = DrainsMeanwhile(core)
    assert feed(core, frame(Kind.REQUEST, b"\x90", call=1)) == []
    assert running.goodbye is not None
    (goodbye,) = frames(joined(running.goodbye))
    assert unpack_plain(goodbye.payload) == [0, "it is late"]
    assert kinds(said(core)) == [Kind.ERROR]
    assert core.running == 0


def test_a_client_that_drains_stays_until_it_has_answered() -> None:
    core = opened(client=True)
    assert isinstance(feed(core, frame(Kind.REQUEST, b"\x90", call=2))[0], Request)
    assert feed(core, frame(Kind.GOODBYE, pack_goodbye(0, "soon"))) == []
    assert core.state is State.DRAINING
    core.forget(2)
    assert feed(core, frame(Kind.PING)) == [Closed()]
