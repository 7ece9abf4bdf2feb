"""What the core does with the frames of streams, and of calls that are given up: ITEM, END, CREDIT, CANCEL."""

from typing import Any

import pytest

from tests.back_to_back import Pair, feed, frame, frames, joined, kinds, said
from tests.test_protocol import call_of, cause, only_request, opened
from typedrpc.codec import Payload, Segmented, pack_plain
from typedrpc.errors import ConnectionLost, MessageTooLarge
from typedrpc.flow import FIRST_CREDIT, MAX_WINDOW, Inflow
from typedrpc.messages import Hello, Limits
from typedrpc.parts import pack_parts
from typedrpc.protocol import MAX_HELD, MAX_STREAMS, Closed, GivenUp, Outcome, Protocol, Request, State
from typedrpc.wire import MAX_FRAME_SIZE, PREAMBLE, RECEIVE_SIZE, Kind, payload_size

NONE = pack_plain(None)


def item(call: int, number: int = 0, payload: Payload = b"") -> bytes:
    return frame(Kind.ITEM, payload or pack_parts([b"\x07"]), command=number, call=call)


def credit(call: int, number: int = 0, payload: Any = 1000) -> bytes:
    return frame(Kind.CREDIT, payload if isinstance(payload, bytes) else pack_plain(payload), command=number, call=call)


def request(call: int) -> bytes:
    return frame(Kind.REQUEST, b"\x90", command=7, call=call)


def streaming(*, client: bool = True, limits: Limits | None = None) -> tuple[Protocol[str], int, Inflow]:
    """A core that has called, with a result that streams: core, call and stream."""
    core = opened(client=client, limits=limits)
    call, _ = core.start(7, b"\x90", "S.f")
    core.calls.insert(call, "token")
    return core, call, core.inflow(call, 0)


def serving(*, client: bool = False, limits: Limits | None = None) -> tuple[Protocol[str], Request]:
    """A core that handles a call."""
    core = opened(client=client, limits=limits)
    return core, only_request(feed(core, request(call_of(client))))


def drain(flow: Inflow) -> list[Any]:
    found = []
    while (payload := flow.take()[0]) is not None:
        found.append(payload)
    return found


# Items


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("size", [1, 13, 1 << 20])
def test_items_of_a_result_wait_in_order_until_they_are_taken_and_the_response_ends_them(
    client: bool, size: int
) -> None:
    core, call, flow = streaming(client=client)
    told: list[bool] = []
    flow.notify = lambda: told.append(flow.ended)
    first, second = pack_parts([b"\x01", b"\x02"]), pack_parts([b"\x03"])
    data = item(call, 0, first) + item(call, 0, second) + frame(Kind.RESPONSE, NONE, call=call)
    (outcome,) = feed(core, data, size)
    assert isinstance(outcome, Outcome)
    assert (outcome.token, outcome.frame.payload) == ("token", NONE)
    assert told == [False, False]  # the token ends it
    flow.end()
    assert drain(flow) == [first, second]
    assert flow.take() == (None, True)
    assert not core.inflows


def test_two_cores_stream_both_ways_within_one_call() -> None:
    pair = Pair().open()
    call, data = pair.client.start(7, b"\x90", "S.f")
    pair.client.calls.insert(call, "token")
    result, argument = pair.client.inflow(call, 0), pair.client.outflow(call, 1)
    handled = only_request(pair.to_server(data))
    there, back = pair.server.inflow(call, 1), pair.server.outflow(call, 0)
    payload = pack_parts([b"\x01"])
    assert pair.to_server(pair.client.item(call, 1, payload, "rows")) == []
    assert pair.to_client(pair.server.item(call, 0, payload, "rows")) == []
    assert drain(there) == drain(result) == [payload]
    assert pair.to_server(pair.client.end_of_stream(call, 1)) == []
    assert (there.ended, there.failure, there.lost) == (True, None, False)
    assert pair.to_client(pair.server.response(handled, NONE, "the result")) != []
    assert [argument.stopped, back.stopped] == [True, False]
    tables = (pair.client.inflows, pair.client.outflows, pair.server.inflows, pair.server.outflows)
    assert tables == ({}, {}, {}, {})


def test_items_of_an_argument_may_come_before_anybody_looks_for_them() -> None:
    core, handled = serving()
    assert feed(core, item(1, 3) + frame(Kind.END, command=3, call=1)) == []
    flow = core.inflow(1, 3)
    assert drain(flow) == [pack_parts([b"\x07"])]
    assert flow.ended
    core.response(handled, NONE, "the result")
    assert not core.inflows


def test_a_failure_of_an_argument_is_kept_for_the_handler_and_the_first_end_counts() -> None:
    core, _ = serving()
    feed(core, frame(Kind.END, b"\x90", command=1, call=1) + frame(Kind.END, command=1, call=1))
    flow = core.inflow(1, 1)
    assert (flow.ended, flow.failure) == (True, b"\x90")


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda call: item(call + 2), id="items of a call that is over"),
        pytest.param(lambda call: item(call + 2, 5), id="items of its argument"),
        pytest.param(lambda call: item(call ^ 3), id="a result of the peer's own call"),
        pytest.param(lambda call: item(call, 1), id="items of a stream that this side sends"),
        pytest.param(lambda call: item(0), id="items of no call"),
        pytest.param(lambda call: frame(Kind.END, command=0, call=call), id="an end of a result"),
        pytest.param(lambda call: frame(Kind.END, command=1, call=call + 2), id="an end of a call that is over"),
        pytest.param(lambda call: credit(call + 2), id="credit of a call that is over"),
        pytest.param(lambda call: credit(call, 9), id="credit of a stream that there is not"),
        pytest.param(lambda call: frame(Kind.CANCEL, command=9, call=call), id="cancel of a stream that there is not"),
        pytest.param(lambda call: frame(Kind.CANCEL, call=call + 2), id="cancel of a call that is over"),
    ],
)
def test_frames_that_nobody_wants_any_more_are_ignored(client: bool, data: Any) -> None:
    core, call, flow = streaming(client=client)
    before = {call: {0: flow}}
    for _ in range(3):
        assert feed(core, data(call)) == []
    assert (core.state, core.inflows, core.outflows, flow.held, flow.ended) == (State.OPEN, before, {}, 0, False)


def test_items_with_segments() -> None:
    core, call, flow = streaming()
    payload = Segmented(pack_parts([b"\x01"]), [b"x" * 90_000])
    feed(core, joined(core.item(call, 0, payload, "rows")), 5000)
    (found,) = drain(flow)
    assert isinstance(found, Segmented)
    assert [bytes(segment) for segment in found.segments] == [b"x" * 90_000]


def test_an_item_that_is_larger_than_the_peer_accepts_is_not_sent() -> None:
    core, call, _ = streaming()
    with pytest.raises(MessageTooLarge, match="rows"):
        core.item(call, 0, bytes(100_001), "rows")


# Credit


def test_a_sender_has_credit_to_begin_with_and_one_frame_may_overdraw_it() -> None:
    core, handled = serving()
    flow = core.outflow(handled.call, 0)
    payload = bytes(FIRST_CREDIT - 1)
    flow.sent(payload)
    found = [flow.may_send]
    flow.sent(payload)
    assert [*found, flow.may_send] == [True, False]
    told: list[bool] = []
    flow.notify = lambda: told.append(flow.may_send)
    assert feed(core, credit(1, 0, FIRST_CREDIT - 2)) == []
    assert feed(core, credit(1, 0, 1)) == []
    assert told == [False, True]


def test_a_consumer_grants_what_it_takes_and_the_window_grows() -> None:
    flow = Inflow()
    granted = FIRST_CREDIT
    came = 0
    for _ in range(1000):
        while came < granted:
            assert flow.receive(bytes(10_000))
            came += 10_000
        assert not flow.receive(b"x")
        drain(flow)
        more = flow.grant()
        assert more > 0
        granted += more
        assert granted - came <= MAX_WINDOW
    assert granted - came > MAX_WINDOW - 20_000


def test_nothing_is_granted_before_anything_is_taken_nor_when_it_has_ended() -> None:
    flow = Inflow()
    flow.receive(bytes(FIRST_CREDIT))
    assert flow.grant() == 0
    flow.end()
    drain(flow)
    assert flow.grant() == 0


@pytest.mark.parametrize("client", [True, False])
def test_a_peer_that_sends_beyond_its_credit_breaks_the_protocol(client: bool) -> None:
    core, call, flow = streaming(client=client)
    frame_of_half = item(call, 0, bytes(FIRST_CREDIT // 2))
    assert feed(core, frame_of_half * 2) == []
    assert feed(core, frame_of_half) == [Closed()]
    assert cause(core) == f"items of stream 0 of call {call} beyond what was asked for"
    assert kinds(said(core)) == [Kind.GOODBYE]
    assert flow.held == FIRST_CREDIT


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\xc1", pack_plain(1) * 2),
        *map(pack_plain, (0, -1, 1.0, True, MAX_FRAME_SIZE + 1, None, [1])),
    ],
)
def test_a_credit_that_is_no_number_of_bytes_breaks_the_protocol(payload: bytes) -> None:
    core, _ = serving()
    core.outflow(1, 0)
    assert feed(core, credit(1, 0, payload)) == [Closed()]
    assert "a credit that" in cause(core)


def test_credit_may_be_as_large_as_it_likes_and_as_often() -> None:
    core, _ = serving()
    flow = core.outflow(1, 0)
    assert feed(core, credit(1, 0, MAX_FRAME_SIZE) * 100) == []
    assert flow.may_send


# What a peer may make this side hold


def test_a_peer_that_opens_too_many_streams_in_one_call_breaks_the_protocol() -> None:
    core, _ = serving()
    for number in range(1, MAX_STREAMS + 1):
        assert feed(core, item(1, number)) == []
    assert feed(core, item(1, MAX_STREAMS + 1)) == [Closed()]
    assert cause(core) == f"{MAX_STREAMS + 1} streams at a time, the limit is {MAX_STREAMS}"


def test_ends_open_streams_too() -> None:
    core, _ = serving()
    ends = [frame(Kind.END, command=number, call=1) for number in range(1, MAX_STREAMS + 2)]
    assert feed(core, b"".join(ends[:-1])) == []
    assert feed(core, ends[-1]) == [Closed()]


def test_a_peer_that_opens_too_many_streams_in_many_calls_breaks_the_protocol() -> None:
    core = opened(client=False, limits=Limits(max_calls=100))
    calls = range(1, 101, 2)
    feed(core, b"".join(map(request, calls)))
    pairs = [(call, number) for number in range(1, MAX_STREAMS) for call in calls][: MAX_STREAMS + 1]
    assert feed(core, b"".join(item(call, number) for call, number in pairs[:-1])) == []
    assert feed(core, item(*pairs[-1])) == [Closed()]


@pytest.mark.parametrize("size", [RECEIVE_SIZE - 100, 200_000])
def test_what_all_streams_hold_together_is_limited_whatever_the_size_of_the_frames(size: int) -> None:
    core, _ = serving(limits=Limits(1_000_000))
    payload = bytes(size)
    events: list[Any] = []
    sent = 0
    for number in range(1, MAX_STREAMS + 1):
        for _ in range(1 + (size < FIRST_CREDIT)):
            if not events:
                events += feed(core, item(1, number, payload))
                sent += size
    assert events == [Closed()]
    assert "were not taken yet" in cause(core)
    assert sent <= MAX_HELD + 4_000_000


@pytest.mark.parametrize("client", [True, False])
def test_results_that_this_side_has_asked_for_are_limited_by_their_credit_alone(client: bool) -> None:
    core, _, _ = streaming(client=client, limits=Limits(10_000_000))
    calls = range(1 if client else 2, 60, 2)
    flows = [core.inflow(call, 0) for call in calls]
    for call in calls:
        assert feed(core, item(call, 0, bytes(9_000_000))) == []
    assert sum(flow.held for flow in flows) > max(MAX_HELD, 160_000_000)


def test_what_was_taken_is_not_held() -> None:
    core, handled = serving(limits=Limits(1_000_000))
    flow = core.inflow(handled.call, 1)
    for _ in range(MAX_HELD // 100_000 + 100):
        assert feed(core, item(handled.call, 1, bytes(100_000))) == []
        drain(flow)
        flow.grant()
    assert flow.held == 0


# The end of calls and connections


def test_a_call_that_is_answered_has_no_streams_any_more_at_the_callee() -> None:
    core, handled = serving()
    flow, out = core.inflow(1, 1), core.outflow(1, 0)
    told: list[None] = []
    flow.notify = lambda: told.append(None)
    core.failure(handled, b"\x90")
    assert (flow.ended, flow.lost, told) == (True, True, [None])
    assert (core.inflows, core.outflows, core.handled, core.running) == ({}, {}, {}, 0)
    assert feed(core, item(1, 1) * 3 + frame(Kind.END, command=1, call=1)) == []
    assert not core.inflows
    assert not out.stopped  # its producer is who has answered


class RunningUntilLooked(set[int]):
    """Calls that are answered by another thread just after it was seen that they are not."""

    def __init__(self, core: Protocol[str], handled: Request) -> None:
        super().__init__([handled.call])
        self._core, self._handled = core, handled

    def __contains__(self, call: object) -> bool:
        found = super().__contains__(call)
        if found:
            self._core.failure(self._handled, b"\x90")
        return found


def test_items_that_come_while_their_call_is_answered_leave_nothing() -> None:
    core, handled = serving()
    core._running = RunningUntilLooked(core, handled)
    assert feed(core, item(1, 1)) == []
    assert (core.inflows, core.running) == ({}, 0)


def test_cancel_of_a_stream_stops_its_producer_and_not_the_call() -> None:
    core, call, flow = streaming()
    out = core.outflow(call, 1)
    told: list[None] = []
    out.notify = lambda: told.append(None)
    assert feed(core, frame(Kind.CANCEL, command=1, call=call)) == []
    assert (out.stopped, told, flow.ended, core.calls.get(call)) == (True, [None], False, "token")


@pytest.mark.parametrize("client", [True, False])
def test_cancel_of_a_call_is_told_and_it_is_answered_all_the_same(client: bool) -> None:
    core, handled = serving(client=client)
    (event,) = feed(core, frame(Kind.CANCEL, call=handled.call))
    assert isinstance(event, GivenUp)
    assert event.call == handled.call
    assert core.is_running(handled.call)
    assert kinds(frames(core.failure(handled, b"\x90"))) == [Kind.ERROR]
    assert feed(core, frame(Kind.CANCEL, call=handled.call)) == []


def test_cancel_before_anybody_handles_the_call() -> None:
    core, handled = serving()
    feed(core, frame(Kind.CANCEL, call=1))
    assert core.give_up(1) is None
    assert not core.begin(1, "handling")
    core.failure(handled, b"\x90")
    assert not core.handled


def test_what_begins_when_the_connection_has_ended_is_not_begun() -> None:
    """Who ends it tells those that are being handled: this one came too late for that."""
    core, handled = serving()
    core.close(ConnectionLost("gone"))
    assert not core.begin(handled.call, "handling")
    core.failure(handled, b"\x90")
    assert not core.handled


def test_a_call_of_this_side_that_is_given_up_is_forgotten_and_its_answer_counted() -> None:
    core, call, flow = streaming()
    out = core.outflow(call, 1)
    assert core.calls.pop(call) == "token"
    core.end_flows(call)
    assert (out.stopped, core.inflows, core.outflows) == (True, {}, {})
    (found,) = frames(core.cancel(call))
    assert (found.kind, found.command, found.call, payload_size(found.payload)) == (Kind.CANCEL, 0, call, 0)
    assert feed(core, item(call) + frame(Kind.ERROR, b"\x90", call=call)) == []
    assert (core.late_replies, flow.held) == (1, 0)


def test_the_end_of_the_connection_ends_all_streams_also_those_that_are_opened_then() -> None:
    core, call, flow = streaming()
    out = core.outflow(call, 1)
    ended = core.inflow(call, 2)
    ended.end()
    core.close(ConnectionLost("cut"))
    core.end_all_flows()
    assert (flow.ended, flow.lost, out.stopped, ended.lost) == (True, True, True, False)
    assert (core.inflows, core.outflows) == ({}, {})
    late, later = core.inflow(5, 0), core.outflow(5, 1)
    assert (late.ended, late.lost, later.stopped) == (True, True, True)


@pytest.mark.parametrize("kind", [Kind.ITEM, Kind.END, Kind.CREDIT, Kind.CANCEL])
@pytest.mark.parametrize("client", [True, False])
def test_none_of_these_comes_before_a_hello(client: bool, kind: Kind) -> None:
    core: Protocol[str] = Protocol(client=client, hello=Hello(Limits()))
    core.outgoing.clear()
    assert feed(core, PREAMBLE + frame(kind, pack_plain(1), call=1))[-1] == Closed()
    assert "before the hello" in cause(core)
