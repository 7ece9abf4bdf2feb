"""How many calls go into a frame, and how outcomes are collected, without a socket."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.back_to_back import Pair, feed, frames, joined
from typedrpc import batches
from typedrpc.batches import FRAME_BYTES, MAX_WINDOW, MIN_WINDOW, TARGET_TIME, WINDOW_BYTES, BatchRun, Pace
from typedrpc.codec import Payload, Segmented, pack_plain
from typedrpc.errors import MessageTooLarge
from typedrpc.failure import unpack_failure
from typedrpc.messages import Limits
from typedrpc.parts import pack_array, pack_outcomes, split_outcomes
from typedrpc.protocol import MAX_BATCH, BatchRequest, Outgoing
from typedrpc.wire import Frame, Kind

# The pace


def test_the_first_frames_double_until_something_is_known() -> None:
    pace, sizes = Pace(), []
    for _ in range(8):
        sizes.append(pace.size)
        pace.sent()
    assert sizes == [1, 2, 4, 8, 16, 32, 32, 32]
    assert pace.window == MIN_WINDOW


def test_quick_calls_share_larger_and_larger_frames() -> None:
    pace = Pace()
    for _ in range(20):
        before = pace.size
        pace.done(pace.size, TARGET_TIME / MAX_BATCH / 2 * pace.size, pace.size)
        assert pace.size <= 2 * before
    assert pace.size == MAX_BATCH
    assert pace.window == MAX_WINDOW == 2 * MAX_BATCH


def test_slow_calls_travel_alone_and_many_at_a_time() -> None:
    pace = Pace()
    pace.size = MAX_BATCH
    for _ in range(10):
        pace.done(pace.size, 10.0 * pace.size, pace.size)
    assert pace.size == 1
    assert pace.window == MIN_WINDOW


def test_large_calls_share_few_frames() -> None:
    pace = Pace()
    pace.size = MAX_BATCH
    for _ in range(10):
        pace.done(pace.size, 0.0, 10_000 * pace.size)
    assert 1 <= pace.size <= WINDOW_BYTES // 10_000


def test_the_pace_that_fits_is_kept() -> None:
    pace = Pace()
    for _ in range(20):
        pace.done(pace.size, TARGET_TIME / 100 * pace.size, pace.size)
    assert pace.size == pytest.approx(100, abs=2)


def test_what_was_held_up_once_does_not_end_it() -> None:
    pace = Pace()
    pace.size = 400
    pace.done(400, 1000.0, 400)
    assert pace.size == 100


# Batches that are run


def run_of(count: int, *, accepts: int = 16 * 1024 * 1024) -> tuple[Pair, BatchRun]:
    """A batch that a server has accepted, and the pair of cores between which it travels."""
    pair = Pair(client=Limits(max_message_size=accepts)).open()
    call = pair.client.new_call()
    pair.client.calls.insert(call, "token")
    pair.client.batches[call] = count
    (event,) = feed(pair.server, joined(pair.client.batch(call, 5, pack_array([b"\x90"] * count), "W.add")))
    assert isinstance(event, BatchRequest)
    return pair, BatchRun(pair.server, event)


def value_of(size: int) -> bytes:
    """A value of msgpack that takes so many bytes."""
    if size < 3:
        return bytes([0xCC] * (size - 1) + [0x00])
    return b"\xc5" + (size - 3).to_bytes(2, "big") + bytes(size - 3)


def taken(run: BatchRun) -> int:
    """Which call was the next one."""
    item = run.take()
    assert item is not None
    return item[0]


def reply(run: BatchRun) -> tuple[bool, list[Frame]]:
    sent: list[Outgoing] = []
    is_whole = run.reply(sent.append)
    return is_whole, frames(joined(*sent))


def outcomes(found: list[Frame]) -> list[tuple[bool, bytes]]:
    told = []
    for frame in found:
        assert frame.kind == Kind.BATCH
        assert not isinstance(frame.payload, Segmented)
        parts = split_outcomes(frame.payload)
        assert not isinstance(parts, str)
        told += [(is_error, bytes(body)) for is_error, body in parts]
    return told


def test_outcomes_leave_in_order_up_to_the_first_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "REPLY_TIME", 1e9)
    pair, run = run_of(4)
    assert [run.take() for _ in range(5)] == [(0, None), (1, None), (2, None), (3, None), None]
    assert run.is_taken
    assert not run.settle(2, (False, b"\x02"))
    assert reply(run) == (False, [])
    assert not run.settle(0, (True, b"\x00"))
    is_whole, sent = reply(run)
    assert (is_whole, outcomes(sent)) == (False, [(True, b"\x00")])
    assert pair.server.is_running(run._request.call)
    assert not run.settle(1, (False, b"\x01"))
    assert run.settle(3, (False, b"\x03"))
    is_whole, sent = reply(run)
    assert (is_whole, outcomes(sent)) == (True, [(False, b"\x01"), (False, b"\x02"), (False, b"\x03")])
    assert not pair.server.is_running(run._request.call)
    assert reply(run) == (True, [])


def test_outcomes_leave_when_the_last_ones_left_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "REPLY_TIME", 0.0)
    _, run = run_of(2)
    assert run.settle(taken(run), (False, b"\x00"))


def test_the_rest_is_refused_at_once() -> None:
    _, run = run_of(3)
    run.settle(taken(run), (False, b"\x00"))
    run.settle_rest((True, b"no"))
    is_whole, sent = reply(run)
    assert (is_whole, outcomes(sent)) == (True, [(False, b"\x00"), (True, b"no"), (True, b"no")])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 1500)), min_size=1, max_size=30),
    st.integers(1024, 5000),
)
def test_no_frame_is_larger_than_the_peer_accepts(sizes: list[tuple[bool, int]], accepts: int) -> None:
    _, run = run_of(len(sizes), accepts=accepts)
    run.opened = Named()
    for is_error, size in sizes:
        run.settle(taken(run), (is_error, value_of(size)))
    is_whole, sent = reply(run)
    assert is_whole
    assert all(len(frame.payload) <= accepts for frame in sent)
    for (is_error, size), (told, body) in zip(sizes, outcomes(sent), strict=True):
        if size + 8 > accepts:
            assert isinstance(unpack_failure(body, "W.add"), MessageTooLarge)
            assert told
        else:
            assert (told, body) == (is_error, value_of(size))


def test_results_that_are_kept_are_packed_together() -> None:
    _, run = run_of(4)
    packed: list[list[int]] = []

    def pack(values: list[int]) -> bytes:
        packed.append(values)
        return pack_plain(values)

    run.kept, run.pack_kept = int, pack
    for number in range(4):
        run.outcomes[taken(run)] = 300 + number
        run.unsettled.pop()
    is_whole, sent = reply(run)
    assert (is_whole, packed) == (True, [[300, 301, 302, 303]])
    assert [frame.payload for frame in sent] == [pack_plain([300, 301, 302, 303])]


@pytest.mark.parametrize("fits", [True, False])
def test_results_that_are_kept_are_packed_alone_where_one_does_not_fit_or_has_failed(fits: bool) -> None:
    _, run = run_of(4)
    run.kept = int
    run.finish = lambda value: (False, pack_plain(value)) if value else (True, b"misfit")
    run.outcomes[:] = [1, 0, 2, (True, b"raised") if fits else 3]
    run.unsettled.clear()
    is_whole, sent = reply(run)
    last = (True, b"raised") if fits else (False, b"\x03")
    assert (is_whole, outcomes(sent)) == (True, [(False, b"\x01"), (True, b"misfit"), (False, b"\x02"), last])


def test_results_that_are_kept_take_several_frames_where_they_are_large() -> None:
    _, run = run_of(3, accepts=2000)
    run.kept, run.pack_kept = str, pack_plain
    run.finish = lambda value: (False, pack_plain(value))
    run.outcomes[:] = ["x" * 900] * 3
    run.unsettled.clear()
    is_whole, sent = reply(run)
    assert (is_whole, outcomes(sent)) == (True, [(False, pack_plain("x" * 900))] * 3)
    assert [len(frame.payload) <= 2000 for frame in sent] == [True] * 2


class Named:
    """What the dispatcher looks up, as far as it is needed here."""

    class row:
        result_name = "the result of W.add"


def test_many_outcomes_are_split_into_frames_that_are_read_at_once() -> None:
    _, run = run_of(300)
    for _ in range(300):
        run.settle(taken(run), (False, value_of(1000)))
    _, sent = reply(run)
    assert len(sent) == 5
    assert all(len(frame.payload) <= FRAME_BYTES for frame in sent)
    assert outcomes(sent) == [(False, value_of(1000))] * 300


def whole(payload: Payload) -> Payload:
    """The payload with all that was received as bytes."""
    return payload._replace(segments=[*map(bytes, payload.segments)]) if isinstance(payload, Segmented) else payload


def test_an_outcome_with_segments_travels_alone() -> None:
    _, run = run_of(3)
    large: Payload = Segmented(b"\xc7", [bytes(100_000)])
    results: list[Any] = [(False, b"\x00"), (False, large), (True, b"\x02")]
    for result in results:
        run.settle(taken(run), result)
    _, sent = reply(run)
    assert [whole(frame.payload) for frame in sent] == [
        pack_outcomes([(False, b"\x00")]),
        Segmented(pack_outcomes([(False, b"\xc7")]), [bytes(100_000)]),
        pack_outcomes([(True, b"\x02")]),
    ]


def test_a_large_outcome_that_is_accepted_travels_whole() -> None:
    _, run = run_of(2)
    run.settle(taken(run), (False, bytes(200_000)))
    run.settle(taken(run), (False, b"\x01"))
    _, sent = reply(run)
    assert outcomes(sent) == [(False, bytes(200_000)), (False, b"\x01")]
    assert len(sent) == 2
