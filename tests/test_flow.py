from collections.abc import Callable

import pytest

from typedrpc.codec import Segmented
from typedrpc.flow import (
    BATCH_SIZE,
    FIRST_CREDIT,
    MAX_ITEMS,
    MAX_WINDOW,
    Inflow,
    ItemBatch,
    Outflow,
    alone,
    items_of,
)
from typedrpc.parts import PART_OVERHEAD, pack_parts
from typedrpc.wire import payload_size


class Notices:
    """Counts how often somebody was told."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


# What comes in


def test_what_came_is_taken_in_order_and_then_there_is_the_end() -> None:
    flow = Inflow()
    assert flow.take() == (None, False)
    assert flow.receive(b"one")
    assert flow.receive(b"three")
    assert flow.held == 8
    assert flow.take() == (b"one", False)
    assert flow.held == 5
    flow.end()
    assert flow.take() == (b"three", False)
    assert flow.take() == (None, True)
    assert (flow.held, flow.failure, flow.lost) == (0, None, False)


def test_how_a_stream_ended_is_kept() -> None:
    failed, lost = Inflow(), Inflow()
    failed.end(b"why")
    lost.end(lost=True)
    assert (failed.failure, failed.lost, failed.ended) == (b"why", False, True)
    assert (lost.failure, lost.lost, lost.ended) == (None, True, True)


def test_the_consumer_is_told_of_what_comes_and_of_the_end() -> None:
    flow = Inflow()
    flow.notify = told = Notices()
    flow.receive(b"x")
    flow.receive(b"x")
    flow.end()
    assert told.count == 3


def test_more_than_what_was_granted_may_come_once() -> None:
    flow = Inflow()
    assert flow.receive(bytes(FIRST_CREDIT - 1))
    assert flow.receive(bytes(10 * FIRST_CREDIT))
    assert not flow.receive(b"x")


def test_segments_count_too() -> None:
    flow = Inflow()
    item = Segmented(b"body", [bytes(FIRST_CREDIT)])
    assert flow.receive(item)
    assert flow.held == payload_size(item) > FIRST_CREDIT
    assert not flow.receive(b"x")


def test_credit_is_granted_when_half_of_the_window_is_used_and_the_window_doubles_up_to_its_limit() -> None:
    flow = Inflow()
    granted = FIRST_CREDIT
    assert flow.receive(bytes(FIRST_CREDIT // 2 - 1))
    flow.take()
    assert flow.grant() == 0
    assert flow.receive(b"x")
    flow.take()
    windows = []
    taken = FIRST_CREDIT // 2
    for _ in range(6):
        more = flow.grant()
        assert more > 0
        granted += more
        windows.append(granted - taken)
        assert flow.grant() == 0, "there is enough"
        assert flow.receive(bytes(granted - taken))
        flow.take()
        taken = granted
    assert windows == [2**17, 2**18, 2**19, MAX_WINDOW, MAX_WINDOW, MAX_WINDOW]


def test_who_does_not_take_grants_nothing() -> None:
    flow = Inflow()
    flow.receive(bytes(FIRST_CREDIT))
    assert flow.grant() == 0
    assert not flow.receive(b"x")


@pytest.mark.parametrize("over", [Inflow.end, Inflow.close])
def test_nothing_is_granted_when_it_is_over(over: Callable[[Inflow], None]) -> None:
    flow = Inflow()
    flow.receive(bytes(FIRST_CREDIT))
    flow.take()
    over(flow)
    assert flow.grant() == 0


def test_what_comes_after_it_was_closed_is_dropped_and_still_counted() -> None:
    flow = Inflow()
    flow.receive(b"before")
    flow.close()
    assert flow.take() == (None, False)
    assert flow.receive(bytes(FIRST_CREDIT))
    assert flow.take() == (None, False)
    assert flow.held == 0
    assert not flow.receive(b"x")


# What goes out


def test_a_frame_may_be_sent_while_there_is_credit_and_may_overdraw_it() -> None:
    flow = Outflow()
    flow.notify = told = Notices()
    seen = [flow.may_send]
    for size in (FIRST_CREDIT - 1, 1000):
        flow.sent(bytes(size))
        seen.append(flow.may_send)
    for more in (999, 1):
        flow.grant(more)
        seen.append(flow.may_send)
    assert seen == [True, True, False, False, True]
    assert told.count == 2


def test_who_is_stopped_is_told() -> None:
    flow = Outflow()
    flow.notify = told = Notices()
    flow.stop()
    assert (flow.stopped, told.count) == (True, 1)


# Items


def test_items_leave_together_as_long_as_they_fit() -> None:
    batch = ItemBatch(2**20)
    assert not batch
    size = (BATCH_SIZE - PART_OVERHEAD) // 4 - PART_OVERHEAD
    for number in range(4):
        assert batch.has_room(bytes(size))
        batch.add(bytes([number]) * size)
    assert batch.size == BATCH_SIZE
    assert not batch.has_room(b"")
    payload = batch.take()
    assert len(payload) == BATCH_SIZE
    assert items_of(payload) == [bytes([number]) * size for number in range(4)]
    assert (bool(batch), batch.size) == (False, PART_OVERHEAD)
    assert batch.has_room(b"")


def test_so_many_items_leave_together_at_most() -> None:
    batch = ItemBatch(2**20)
    for _ in range(MAX_ITEMS):
        assert batch.has_room(b"x")
        batch.add(b"x")
    assert not batch.has_room(b"x")
    assert items_of(batch.take()) == [b"x"] * MAX_ITEMS


def test_a_peer_that_takes_less_gets_less() -> None:
    batch = ItemBatch(1024)
    assert batch.has_room(bytes(1024 - 2 * PART_OVERHEAD))
    assert not batch.has_room(bytes(1024 - 2 * PART_OVERHEAD + 1))


def test_an_item_with_segments_leaves_alone() -> None:
    item = Segmented(b"body", [b"one", b"two"])
    assert not ItemBatch(2**20).has_room(item)
    payload = alone(item)
    assert isinstance(payload, Segmented)
    assert (payload.body, payload.segments) == (pack_parts([b"body"]), [b"one", b"two"])
    items = items_of(payload)
    assert isinstance(items, list)
    (found,) = items
    assert isinstance(found, Segmented)
    assert (found.body, found.segments) == (b"body", [b"one", b"two"])
    assert items_of(alone(b"plain")) == [b"plain"]


@pytest.mark.parametrize("count", [0, 2])
def test_with_segments_there_is_one_item(count: int) -> None:
    payload = Segmented(pack_parts([b"body"] * count), [b"one"])
    assert items_of(payload) == f"{count} items with segments"


@pytest.mark.parametrize("payload", [b"", b"\x00\x00\x00\x02", Segmented(b"\x00", [b"one"])])
def test_what_is_no_table_of_items_is_told_in_words(payload: bytes | Segmented) -> None:
    fault = items_of(payload)
    assert isinstance(fault, str)
    assert fault.startswith("a table of ")
