"""Which frames pass a large message, as bytes that a reader puts together again."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.back_to_back import joined
from typedrpc.codec import Segmented
from typedrpc.lanes import Lanes, is_large
from typedrpc.messages import ProtocolCommand, pack_extension
from typedrpc.protocol import Outgoing
from typedrpc.wire import CHUNK_SIZE, FEW_PARTIAL, MAX_PARTIAL, Buffer, Frame, FrameReader, Kind, encode

LARGE: Final = 3 * CHUNK_SIZE
LIMIT: Final = 1 << 24


class Sent(NamedTuple):
    """A frame to send; ``target`` and ``parent`` are in its extension."""

    kind: int
    call: int = 0
    size: int = 1
    target: int = 0
    parent: int = 0

    def frame(self, number: int = 0) -> Outgoing:
        target = (self.target, 0) if self.target else None
        extension = pack_extension(target=target, parent=self.parent)
        payload = number.to_bytes(2) + bytes(self.size)
        return encode(self.kind, ProtocolCommand.CALLBACK, self.call, payload, extension)

    @property
    def about(self) -> set[int]:
        return {self.call, self.target} - {0}


def order(sent: list[Sent], admit_next: Callable[[], bool] = lambda: True) -> list[int]:
    """The numbers of frames in the order in which they are complete at the other end."""
    lanes, reader = Lanes(), FrameReader(LIMIT, preamble=False)
    queue = deque(one.frame(number) for number, one in enumerate(sent))
    came: list[Frame] = []
    while queue or lanes.busy:
        if lanes.free:
            came += reader.feed(data_of(lanes.free.popleft()))
        elif queue and (not lanes.busy or admit_next()):
            frame = queue.popleft()
            if lanes.admit(frame):
                came += reader.feed(data_of(frame))
        else:
            came += reader.feed(joined(tuple(lanes.take())))
    assert reader.fault is None
    assert not reader.in_frame
    assert (lanes.frames, lanes.held) == (0, 0)
    return [int.from_bytes(frame.payload[:2]) for frame in came if not isinstance(frame.payload, Segmented)]


def data_of(frame: Outgoing) -> bytes:
    return joined(frame)


UPLOAD: Final = Sent(Kind.REQUEST, 1, LARGE)


@pytest.mark.parametrize(
    "passing",
    [
        Sent(Kind.REQUEST, 3),
        Sent(Kind.REQUEST, 3, CHUNK_SIZE - 2),
        Sent(Kind.REQUEST, 3, CHUNK_SIZE + 1),
        Sent(Kind.RESPONSE, 2),
        Sent(Kind.NOTIFY),
        Sent(Kind.PING, 1),
        Sent(Kind.PONG, 1),
        Sent(Kind.LIMITS),
        Sent(Kind.RELEASE, 2),
        Sent(Kind.REQUEST, 3, parent=2),
        Sent(Kind.REQUEST, 3, target=2),
    ],
)
def test_what_passes_a_large_request(passing: Sent) -> None:
    assert order([UPLOAD, passing]) == [1, 0]


@pytest.mark.parametrize(
    ("large", "stays"),
    [
        (UPLOAD, Sent(Kind.CREDIT, 1)),
        (UPLOAD, Sent(Kind.CANCEL, 1)),
        (UPLOAD, Sent(Kind.ITEM, 1)),
        (UPLOAD, Sent(Kind.END, 1)),
        (UPLOAD, Sent(Kind.GOODBYE)),
        (Sent(Kind.ITEM, 2, LARGE), Sent(Kind.RESPONSE, 2)),
        (Sent(Kind.BATCH, 2, LARGE), Sent(Kind.BATCH, 2, LARGE)),
        (Sent(Kind.NOTIFY, 0, LARGE), Sent(Kind.NOTIFY)),
        (Sent(Kind.NOTIFY, 0, LARGE), Sent(Kind.NOTIFY, 5)),
        (Sent(Kind.NOTIFY, 5, LARGE), Sent(Kind.RELEASE, 5)),
        (Sent(Kind.REQUEST, 3, LARGE, target=2), Sent(Kind.RESPONSE, 2)),
        (Sent(Kind.REQUEST, 3, LARGE, target=2), Sent(Kind.REQUEST, 5, target=2)),
        (Sent(Kind.NOTIFY, 0, LARGE, target=2), Sent(Kind.ERROR, 2)),
        (Sent(Kind.NOTIFY, 0, LARGE, target=2), Sent(Kind.RELEASE, 2)),
        (Sent(Kind.REQUEST, 3, LARGE, parent=2), Sent(Kind.RESPONSE, 2)),
    ],
)
def test_what_stays_behind(large: Sent, stays: Sent) -> None:
    assert order([large, stays]) == [0, 1]
    assert order([large, stays, Sent(Kind.REQUEST, 9)]) == [2, 0, 1]


def test_what_is_nested_in_one_call_takes_turns() -> None:
    assert order([Sent(Kind.REQUEST, 3, LARGE, parent=2), Sent(Kind.REQUEST, 5, parent=2)]) == [1, 0]


def test_what_waits_for_one_that_waits() -> None:
    sent = [Sent(Kind.NOTIFY, 0, LARGE), Sent(Kind.NOTIFY, 5), Sent(Kind.RELEASE, 5), Sent(Kind.GOODBYE)]
    assert order(sent) == [0, 1, 2, 3]


def test_large_messages_take_turns() -> None:
    assert order([Sent(Kind.REQUEST, 1, 8 * CHUNK_SIZE), Sent(Kind.REQUEST, 3, 2 * CHUNK_SIZE)]) == [1, 0]


def test_no_more_are_begun_than_the_other_side_takes() -> None:
    many = [Sent(Kind.REQUEST, 2 * number + 1, LARGE) for number in range(2 * MAX_PARTIAL)]
    assert order([*many, Sent(Kind.REQUEST, 999)])[0] == len(many)
    huge = [Sent(Kind.REQUEST, 2 * number + 1, LIMIT - 100) for number in range(FEW_PARTIAL + 2)]
    assert sorted(order(huge)) == list(range(FEW_PARTIAL + 2))


def test_what_is_held_is_counted_and_owned() -> None:
    lanes = Lanes()
    buffer = bytearray(LARGE)

    def notify(data: bytearray) -> Outgoing:
        return encode(Kind.NOTIFY, 1, 0, memoryview(data))

    def copied(buffers: object) -> tuple[Buffer, ...]:
        assert isinstance(buffers, tuple)
        return tuple(map(bytes, buffers))

    assert not lanes.admit(notify(buffer))
    assert (lanes.frames, lanes.held) == (0, 0)
    other = bytearray(b"x") * (CHUNK_SIZE - 1)
    assert not lanes.admit(notify(other))
    assert not lanes.admit(Sent(Kind.NOTIFY).frame())
    assert lanes.frames == 2
    assert lanes.held > CHUNK_SIZE
    lanes.take()
    lanes.own(copied)
    buffer[:] = bytes([7]) * len(buffer)
    buffer.clear()
    other.clear()
    rest = b"".join(joined(tuple(lanes.take())) for _ in range(2))
    assert b"\7" not in rest[1000:]
    while lanes.busy and not lanes.free:
        lanes.take()
    lanes.own(copied)
    assert joined(lanes.free[0]).endswith(b"xxx")
    lanes.clear()
    assert not lanes.busy
    assert lanes.admit(Sent(Kind.NOTIFY).frame())


def test_an_extension_that_cannot_be_read_says_nothing() -> None:
    lanes = Lanes()
    assert not lanes.admit(UPLOAD.frame())
    assert lanes.admit(encode(Kind.REQUEST, 1, 3, b"", b"\xc1"))


@pytest.mark.parametrize(
    ("frame", "large"),
    [
        (encode(Kind.REQUEST, 1, 1, bytes(CHUNK_SIZE)), False),
        (encode(Kind.REQUEST, 1, 1, bytes(CHUNK_SIZE + 1)), True),
        (joined(encode(Kind.ERROR, 1, 1, bytes(CHUNK_SIZE + 1))), True),
        (encode(Kind.PING, 1, 1, bytes(CHUNK_SIZE + 1)), False),
    ],
)
def test_what_is_large(frame: Outgoing, large: bool) -> None:
    assert is_large(frame) is large


CALLS = st.integers(1, 4)
SIZES = st.sampled_from([1, 1, CHUNK_SIZE - 4, CHUNK_SIZE + 1, 2 * CHUNK_SIZE])
NONE = st.just(0)
IDS = st.integers(0, 4)
FRAMES = st.one_of(
    st.builds(
        Sent, st.sampled_from([Kind.RESPONSE, Kind.ERROR, Kind.ITEM, Kind.END, Kind.BATCH]), CALLS, SIZES, NONE, NONE
    ),
    st.builds(Sent, st.sampled_from([Kind.CREDIT, Kind.CANCEL, Kind.RELEASE]), CALLS, st.just(1), NONE, NONE),
    st.builds(Sent, st.just(Kind.NOTIFY), IDS, SIZES, IDS, NONE),
    st.builds(Sent, st.just(Kind.REQUEST), st.integers(100, 200), SIZES, IDS, IDS),
    st.just(Sent(Kind.GOODBYE)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.data())
def test_whatever_is_sent_keeps_the_order_that_it_must_keep(sent: list[Sent], data: st.DataObject) -> None:
    came = order(sent, lambda: data.draw(st.booleans()))
    place = {number: at for at, number in enumerate(came)}
    assert sorted(came) == list(range(len(sent)))
    for late, second in enumerate(sent):
        for early, first in enumerate(sent[:late]):
            must = (
                second.kind == Kind.GOODBYE
                or first.kind == second.kind == Kind.NOTIFY
                or bool(first.about & second.about)
                or (first.parent != 0 and first.parent == second.call)
            )
            assert not must or place[early] < place[late], (first, second)
