"""What is written next of what waits."""

import pytest

from tests.back_to_back import frames, joined
from typedrpc.common import outbox as module
from typedrpc.common.outbox import BATCH_SIZE, Outbox, Rest
from typedrpc.wire import CHUNK_SIZE, Buffer, Kind, encode

LARGE = encode(Kind.REQUEST, 1, 1, bytes(4 * CHUNK_SIZE))
SMALL = joined(encode(Kind.REQUEST, 1, 3, b"small"))


def filled(*items: bytes | tuple[Buffer, ...]) -> Outbox:
    outbox = Outbox()
    outbox.queue.extend(items)
    return outbox


def take_all(outbox: Outbox) -> list[bytes]:
    """Everything, write by write."""
    writes = []
    while buffers := outbox.take():
        writes.append(joined(tuple(buffers)))
    return writes


class TestTaking:
    def test_nothing(self) -> None:
        assert Outbox().take() == []

    def test_small_frames_are_joined(self) -> None:
        outbox = filled(b"a", b"b", b"c")
        assert outbox.take() == [b"abc"]
        assert outbox.take() == []

    def test_about_so_many_bytes_are_joined_at_a_time(self) -> None:
        outbox = filled(*[bytes(BATCH_SIZE // 4)] * 9)
        assert [len(joined(tuple(outbox.take()))) for _ in range(4)] == [BATCH_SIZE, BATCH_SIZE, BATCH_SIZE // 4, 0]

    def test_a_frame_in_several_buffers_is_joined_with_its_head_alone(self) -> None:
        body = memoryview(b"body")
        outbox = filled(b"a", b"b", (b"head", body), b"c")
        one, other = outbox.take()
        assert (one, other) == (b"abhead", body)
        assert other is body
        assert outbox.take() == [b"c"]

    def test_the_rest_of_a_write_comes_first_and_alone(self) -> None:
        assert filled(Rest((b"re", b"st")), b"a").take() == [b"re", b"st"]

    def test_a_large_message_leaves_in_pieces_and_what_is_small_in_between(self) -> None:
        outbox = filled(SMALL, LARGE)
        first = joined(tuple(outbox.take()))
        assert first.startswith(SMALL)
        assert len(first) > CHUNK_SIZE
        outbox.queue.append(SMALL)
        writes = [first, *take_all(outbox)]
        assert SMALL in writes[1]
        assert [frame.call for frame in frames(b"".join(writes))] == [3, 3, 1]
        assert not outbox.lanes.busy

    def test_the_rest_of_a_piece_comes_before_what_may_pass_it(self) -> None:
        outbox = filled(LARGE)
        piece = joined(tuple(outbox.take()))
        outbox.queue.extend([Rest(), Rest((piece[100:],)), SMALL])
        writes = [piece[:100], *take_all(outbox)]
        assert writes[1] == piece[100:]
        assert [frame.call for frame in frames(b"".join(writes))] == [3, 1]

    def test_what_must_stay_behind_a_large_message_does(self) -> None:
        outbox = filled(LARGE)
        begun = joined(tuple(outbox.take()))
        outbox.queue.append(joined(encode(Kind.CANCEL, 0, 1, b"")))
        kinds = [frame.kind for frame in frames(b"".join([begun, *take_all(outbox)]))]
        assert kinds == [Kind.REQUEST, Kind.CANCEL]


class TestOwning:
    def test_what_waits_may_be_changed_by_its_owner_afterwards(self) -> None:
        data = bytearray(b"before")
        outbox = filled(b"a", (b"head ", memoryview(data)))
        outbox.own()
        data[:] = b"after."
        assert joined(tuple(outbox.take())) == b"ahead before"

    def test_so_may_what_is_on_its_way(self) -> None:
        data = bytearray(b"x" * 4 * CHUNK_SIZE)
        outbox = filled(encode(Kind.REQUEST, 1, 1, memoryview(data)))
        begun = joined(tuple(outbox.take()))
        outbox.own()
        data[:] = bytes(len(data))
        (frame,) = frames(b"".join([begun, *take_all(outbox)]))
        assert frame.payload == b"x" * len(data)


class TestCounting:
    def test_frames_and_bytes(self) -> None:
        outbox = filled(b"a", (b"bc", b"def"))
        assert (outbox.frames, outbox.size()) == (2, 6)

    def test_a_message_on_its_way_does_not_count_and_what_waits_for_it_does(self) -> None:
        outbox = filled(LARGE)
        outbox.take()
        assert (outbox.frames, outbox.size()) == (0, 0)
        behind = joined(encode(Kind.CANCEL, 0, 1, b"x" * 100))
        outbox.queue.append(behind)
        outbox.take()
        assert outbox.frames == 1
        assert outbox.size() >= 100

    @pytest.mark.parametrize(
        ("limit", "items"), [("QUEUED_FRAMES", [b"x"] * 4), ("QUEUED_BYTES", [b"xx", (b"x", b"x")])]
    )
    def test_more_than_a_fair_amount(
        self, limit: str, items: list[bytes | tuple[Buffer, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, limit, 3)
        outbox = filled(*items[:-1])
        full = [outbox.full]
        outbox.queue.append(items[-1])
        full.append(outbox.full)
        take_all(outbox)
        assert [*full, outbox.full] == [False, True, False]

    def test_cleared_nothing_is_left(self) -> None:
        outbox = filled(LARGE)
        outbox.take()
        outbox.queue.append(SMALL)
        outbox.clear()
        assert (outbox.take(), outbox.frames, outbox.lanes.busy) == ([], 0, False)
