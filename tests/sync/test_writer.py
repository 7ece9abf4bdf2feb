"""The writer against a real pipe that is as small as the system makes it, with the rest of a connection played here."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

import pytest

from tests.support import PATIENCE, Gate, Log, Running
from typedrpc import transport, wire
from typedrpc.codec import Segmented
from typedrpc.common import outbox
from typedrpc.common.role import ReadRole
from typedrpc.errors import ConnectionLost
from typedrpc.protocol import Outgoing
from typedrpc.sync import writer as module
from typedrpc.sync.writer import Writer
from typedrpc.wire import CHUNK_SIZE, Buffer, Frame, FrameReader, Kind, encode, pack_header


class Rig:
    """A writer, the other end of its pipe, and what it asks of the connection."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport.prepare(self.sock)
        self.far.settimeout(PATIENCE)
        self.role = ReadRole()
        self.came = b""
        self.read_ahead = Gate()
        self.may_read_ahead = True
        self.ends: list[ConnectionLost] = []
        self.left = 0
        self.helped: list[threading.Thread] = []
        self.writer = Writer(
            self.sock,
            self.role,
            may_read_ahead=lambda: self.may_read_ahead,
            read_ahead=self._read_ahead,
            nothing_came=lambda: None,
            end=self._end,
            stop_leading=self.role.release,
            leave=self._leave,
            helper=self._help,
        )

    def _read_ahead(self) -> None:
        assert not self.role.free
        self.came += self.sock.recv(65536)
        self.read_ahead.open()

    def _end(self, error: ConnectionLost) -> None:
        self.writer.ended = True
        self.ends.append(error)

    def _leave(self) -> None:
        self.left += 1

    def _help(self, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body)
        thread.start()
        self.helped.append(thread)

    def send(self, *items: Outgoing) -> None:
        self.writer.queue.extend(items)
        self.writer.flush()

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (chunk := self.far.recv(count - len(data))):
            data += chunk
        return bytes(data)

    def close(self) -> None:
        for thread in self.helped:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self.sock.close()
        self.far.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# 2 MiB: more than the pipe holds; of a kind that does not travel in pieces.
BODY = bytes(range(256)) * 8192
HEAD = pack_header(len(BODY), Kind.LIMITS, 0, 0, 0)
BIG = HEAD + BODY
TWO = pack_header(2 * len(BODY), Kind.LIMITS, 0, 0, 0)


def test_frames_leave_in_order(rig: Rig) -> None:
    rig.send(b"one", (b"two", b"three"), b"four", b"five", (memoryview(b"six"),))
    assert rig.receive(22) == b"onetwothreefourfivesix"
    assert rig.writer.idle


def test_small_frames_leave_in_one_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[int]] = []

    class Counting:
        def send(self, data: bytes, flags: int = 0) -> int:
            sent.append([len(data)])
            return rig.sock.send(data)

        def sendmsg(self, buffers: list[bytes], ancillary: tuple[()], flags: int) -> int:
            sent.append([len(buffer) for buffer in buffers])
            return rig.sock.sendmsg(buffers)

    monkeypatch.setattr(rig.writer, "_sock", Counting())
    rig.send(*[b"x" * 10] * 100, (b"head", b"large"), *[b"y"] * 3)
    assert sent == [[1004, 5], [3]]
    assert rig.receive(1012) == b"x" * 1000 + b"headlarge" + b"yyy"


class TestWriteWhole:
    def test_a_small_frame_is_written_at_once(self, rig: Rig) -> None:
        assert rig.writer.write_whole(b"hello")
        assert rig.receive(5) == b"hello"
        assert rig.writer.idle

    @pytest.mark.parametrize("data", [(b"a", b"b")])
    def test_a_frame_in_pieces_is_for_the_queue(self, rig: Rig, data: Outgoing) -> None:
        assert not rig.writer.write_whole(data)

    def test_it_does_not_overtake_what_waits(self, rig: Rig) -> None:
        rig.writer.queue.append(b"first")
        assert not rig.writer.write_whole(b"second")

    def test_another_thread_has_the_pen(self, rig: Rig) -> None:
        assert rig.writer.try_take_pen()
        assert not rig.writer.try_take_pen()
        assert not rig.writer.write_whole(b"x")
        rig.writer.pen.append(True)
        assert rig.writer.write_whole(b"x")

    def test_what_does_not_fit_is_written_as_room_comes(self, rig: Rig) -> None:
        assert rig.role.try_take()  # another thread reads
        data = BODY[:CHUNK_SIZE]
        writing = Running(rig.writer.write_whole, data)
        assert rig.receive(len(data)) == data
        assert writing.result() is True
        assert rig.writer.idle

    def test_a_full_pipe_takes_nothing(self, rig: Rig) -> None:
        rig.sock.setblocking(False)
        while True:
            try:
                rig.sock.send(bytes(1024))
            except BlockingIOError:
                break
        assert not rig.writer.write_whole(b"x")
        assert rig.writer.idle

    def test_a_broken_pipe_is_for_who_writes_the_queue(self, rig: Rig) -> None:
        rig.far.close()
        assert not rig.writer.write_whole(b"x")
        assert not rig.ends
        rig.send(b"x")
        (error,) = rig.ends
        assert "the connection broke" in str(error)
        assert isinstance(error.__cause__, OSError)
        assert rig.left == 1
        assert rig.writer.idle


class TestFullPipe:
    def test_a_writer_reads_while_nobody_else_does(self, rig: Rig) -> None:
        writing = Running(rig.send, BIG)
        rig.far.sendall(b"news")
        rig.read_ahead.wait()
        assert rig.came == b"news"
        assert rig.receive(len(BIG)) == BIG
        writing.result()
        assert rig.role.free

    def test_a_writer_that_leads_keeps_the_role(self, rig: Rig) -> None:
        assert rig.role.try_take()
        rig.writer.queue.append(BIG)
        writing = Running(lambda: rig.writer.flush(leading=True))
        rig.far.sendall(b"news")
        rig.read_ahead.wait()
        assert rig.receive(len(BIG)) == BIG
        writing.result()
        assert not rig.role.free
        assert rig.role.progress == 0

    def test_a_writer_leaves_the_role_to_who_has_it(self, rig: Rig) -> None:
        assert rig.role.try_take()
        writing = Running(rig.send, BIG)
        rig.far.sendall(b"news")
        assert rig.receive(len(BIG)) == BIG
        writing.result()
        assert not rig.read_ahead.is_open
        assert rig.role.progress == 0

    def test_it_looks_less_and_less_often_whether_another_thread_still_reads(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many peers that do not read for long must not keep a processor busy."""
        assert rig.role.try_take()
        looks: list[float] = []
        now = 1000.0

        def wait(sock: object, *, write: bool, timeout: float) -> bool:
            nonlocal now
            looks.append(timeout)
            now += timeout
            if len(looks) == 60:
                rig.writer.ended = True
            return False

        monkeypatch.setattr(module, "monotonic", lambda: now)
        monkeypatch.setattr(transport, "wait", wait)
        rig.send(BIG)
        assert looks[0] == module.MIN_LOOK
        assert looks == sorted(looks)
        assert looks[-1] == module.MAX_LOOK
        for number, look in enumerate(looks):
            assert look <= module.MIN_LOOK + sum(looks[:number]) / 10 + 1e-6

    def test_who_must_not_wait_does_not_in_the_system_either(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        flags_seen: list[int] = []

        class Watching:
            def send(self, data: bytes, flags: int = 0) -> int:
                flags_seen.append(flags)
                return rig.sock.send(data, flags)

        monkeypatch.setattr(rig.writer, "_sock", Watching())
        rig.writer.queue.append(b"later")
        rig.writer.flush(monotonic() + PATIENCE)
        rig.writer.queue.append(b"now")
        rig.writer.flush(monotonic())
        rig.send(b"whenever")
        assert flags_seen == [0, transport.DONT_WAIT, 0]
        assert rig.receive(16) == b"laternowwhenever"

    def test_no_thread_can_be_started_for_the_rest(self, rig: Rig, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        def refuse(body: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(rig.writer, "_helper", refuse)
        assert rig.role.try_take()
        rig.writer.queue.append(BIG)
        rig.writer.flush(monotonic())
        (error,) = rig.ends
        assert "no thread could be started" in str(error)
        assert "no thread could be started to write to a peer" in log.line()
        assert rig.writer.pen

    def test_there_may_be_no_room_for_more(self, rig: Rig) -> None:
        rig.may_read_ahead = False
        writing = Running(rig.send, BIG)
        rig.far.sendall(b"news")
        assert rig.receive(len(BIG)) == BIG
        writing.result()
        assert not rig.read_ahead.is_open

    def test_past_the_deadline_another_thread_writes_the_rest(self, rig: Rig) -> None:
        rig.writer.queue.extend([(HEAD, BODY), b"tail"])
        rig.writer.flush(monotonic())
        assert len(rig.helped) == 1
        assert rig.receive(len(BIG) + 4) == BIG + b"tail"

    def test_at_the_end_the_rest_is_let_go(self, rig: Rig) -> None:
        rig.writer.queue.append(BIG)
        rig.writer.flush(monotonic(), last=True)
        assert not rig.helped
        assert rig.writer.pen
        assert rig.writer.queue

    def test_a_peer_that_never_reads_is_cut_off(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "STALL_TIME", 0.0)
        rig.send(BIG, b"never")
        (error,) = rig.ends
        assert str(error) == "the peer read nothing for 0 s"
        assert [record.getMessage() for record in caplog.records] == ["a peer that read nothing for 0 s was cut off"]
        assert rig.writer.idle


class TestBuffersThatChange:
    """Parts of a frame may be those of a bytearray, which its owner changes as soon as he has control again."""

    def test_nothing_is_copied_while_the_owner_waits(self, rig: Rig) -> None:
        buffer = bytearray(BODY)
        writing = Running(lambda: rig.writer.write_parts((HEAD, memoryview(buffer))))
        assert rig.receive(len(HEAD)) == HEAD
        buffer[-1] = 7  # far beyond what the pipe holds, so it is not written yet
        assert rig.receive(len(BODY)) == BODY[:-1] + b"\7"
        writing.result()
        assert rig.writer.idle

    def test_what_is_left_past_the_deadline(self, rig: Rig) -> None:
        buffer = bytearray(BODY)
        rig.writer.queue.append((HEAD, BODY))
        rig.writer.write_parts((TWO, memoryview(buffer), memoryview(buffer)), monotonic())
        buffer.clear()  # which could not be while anybody looked at it
        assert len(rig.helped) == 1
        expected = BIG + TWO + BODY + BODY
        assert rig.receive(len(expected)) == expected

    def test_what_is_left_of_the_frame_that_was_begun(self, rig: Rig) -> None:
        buffer = bytearray(BODY)
        rig.writer.write_parts((HEAD, memoryview(buffer)), monotonic())
        buffer.clear()
        assert rig.receive(len(BIG)) == BIG

    def test_what_waits_behind_another_threads_pen(self, rig: Rig) -> None:
        buffer = bytearray(b"old")
        assert rig.writer.try_take_pen()
        rig.writer.write_parts((b"head ", memoryview(buffer)))
        buffer[:] = b"new content"
        rig.writer.pen.append(True)
        rig.writer.flush()
        assert rig.receive(8) == b"head old"

    def test_bytes_are_never_copied(self, rig: Rig) -> None:
        view = memoryview(BIG)
        assert rig.writer.try_take_pen()
        rig.writer.write_parts((BIG, view))
        (item,) = rig.writer.queue
        assert isinstance(item, tuple)
        assert item[0] is BIG
        assert item[1] is not view
        assert isinstance(item[1], memoryview)
        assert item[1].obj is BIG

    def test_a_connection_that_ends_while_the_rest_is_copied(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        copied = wire.copied
        waiting = [(b"waits",), (b"as well",)]

        def copy_and_end(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
            if buffers is waiting[0]:
                rig.writer.ended = True
                rig.writer.queue.clear()
            return copied(buffers)

        rig.writer.queue.extend([(HEAD, BODY), *waiting])
        monkeypatch.setattr(outbox, "copied", copy_and_end)
        rig.writer.flush(monotonic())
        assert rig.writer.idle
        assert rig.left == 1

    def test_no_memory_for_a_copy_ends_the_connection(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
            raise MemoryError

        monkeypatch.setattr(module, "copied", fail)
        with pytest.raises(MemoryError):
            rig.writer.write_parts((HEAD, BODY), monotonic())
        assert rig.ends
        assert rig.writer.pen

    def test_a_connection_that_has_ended(self, rig: Rig) -> None:
        rig.writer.ended = True
        rig.writer.write_parts((b"head", memoryview(bytearray(b"x"))))
        assert rig.writer.idle
        assert rig.left == 1


class TestRoom:
    def test_little_is_no_reason_to_wait(self, rig: Rig) -> None:
        rig.writer.queue.append(b"x")
        rig.writer.make_room()
        assert rig.receive(1) == b"x"
        assert not rig.writer.full

    @pytest.mark.parametrize(
        ("name", "bound", "items"), [("QUEUED_FRAMES", 10, [b"x"] * 12), ("QUEUED_BYTES", 1000, [(b"h", b"x" * 2000)])]
    )
    def test_more_waits_for_the_pen(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str, bound: int, items: list[Outgoing]
    ) -> None:
        monkeypatch.setattr(outbox, name, bound)
        assert rig.writer.try_take_pen()  # another thread writes, and is stuck
        rig.writer.queue.extend(items)
        assert rig.writer.full
        waiting = Running(rig.writer.make_room)
        size = sum(len(b"".join(item)) if isinstance(item, tuple) else len(item) for item in items)
        rig.writer.pen.append(True)
        rig.writer.flush()
        assert len(rig.receive(size)) == size
        waiting.result()
        assert rig.writer.idle


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("whole", [True, False])
def test_an_interrupted_write_ends_the_connection(rig: Rig, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    class Interrupting:
        def send(self, data: bytes, flags: int = 0) -> int:
            raise Interrupt

    monkeypatch.setattr(rig.writer, "_sock", Interrupting())
    write = rig.writer.write_whole if whole else rig.send
    with pytest.raises(Interrupt):
        write(b"x")
    (error,) = rig.ends
    assert isinstance(error.__cause__, Interrupt)
    assert rig.writer.pen
    assert rig.left == 1


class TestLargeMessages:
    """They leave in pieces, and what is queued meanwhile goes in between."""

    @staticmethod
    def request(call: int, size: int = len(BODY)) -> Outgoing:
        return encode(Kind.REQUEST, 1, call, memoryview(BODY)[:size])

    @staticmethod
    def read_frames(rig: Rig, count: int) -> list[int]:
        """The call ids of so many messages, in the order in which they are complete."""
        reader, calls = FrameReader(len(BODY), preamble=False), list[int]()
        while len(calls) < count and (data := rig.far.recv(65536)):
            for frame in reader.feed(data):
                assert bytes(payload_of(frame)) == BODY[: len(payload_of(frame))]
                calls.append(frame.call)
        assert reader.fault is None
        assert not reader.in_frame
        return calls

    def test_a_small_frame_goes_in_between(self, rig: Rig) -> None:
        assert rig.role.try_take()  # another thread reads
        writing = Running(rig.send, self.request(1))
        assert rig.far.recv(1, socket.MSG_PEEK)  # it has begun, and cannot end
        rig.writer.queue.append(self.request(3, 10))
        assert self.read_frames(rig, 2) == [3, 1]
        writing.result()
        assert rig.writer.idle

    def test_large_ones_take_turns(self, rig: Rig) -> None:
        rig.writer.queue.extend([self.request(1), self.request(3, len(BODY) // 2), self.request(5, 9)])
        writing = Running(rig.writer.flush)
        assert self.read_frames(rig, 3) == [5, 3, 1]
        writing.result()

    @pytest.mark.parametrize("leading", [True, False])
    def test_who_has_no_time_leaves_them_to_a_thread_of_their_own(self, rig: Rig, leading: bool) -> None:
        assert rig.role.try_take()
        rig.writer.queue.append(self.request(1))
        rig.writer.queue.append(self.request(3, 9))
        far = Running(self.read_frames, rig, 2)
        rig.writer.flush(leading=leading, patient=False)
        assert len(rig.helped) == 1
        assert far.result() == [3, 1]

    def test_where_there_is_no_such_thread_it_writes_all_the_same(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(body: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(rig.writer, "_helper", refuse)
        assert rig.role.try_take()
        rig.writer.queue.append(self.request(1))
        far = Running(self.read_frames, rig, 1)
        rig.writer.flush(patient=False)
        assert far.result() == [1]
        assert not rig.ends

    def test_past_the_deadline_nothing_is_lost(self, rig: Rig) -> None:
        buffers = [bytearray(BODY), bytearray(BODY)]
        rig.writer.queue.append(encode(Kind.NOTIFY, 1, 1, memoryview(buffers[0])))
        rig.writer.queue.append(encode(Kind.NOTIFY, 1, 3, memoryview(buffers[1])))
        rig.writer.queue.append(encode(Kind.REQUEST, 1, 5, BODY[:9]))
        assert rig.role.try_take()
        rig.writer.flush(monotonic())
        for buffer in buffers:
            buffer.clear()  # which could not be while anybody looked at it
        assert self.read_frames(rig, 3) == [5, 1, 3]

    def test_what_is_held_back_counts_as_waiting(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        assert rig.role.try_take()
        rig.writer.queue.append(encode(Kind.NOTIFY, 1, 0, BODY))
        rig.writer.queue.append(encode(Kind.NOTIFY, 1, 0, BODY))
        rig.writer.flush(monotonic(), last=True)
        assert rig.writer.frames == 2  # the rest of the first, and the second
        assert rig.writer.size() > len(BODY)
        full = [rig.writer.full]
        monkeypatch.setattr(outbox, "QUEUED_BYTES", len(BODY))
        full.append(rig.writer.full)
        rig.writer.discard()
        full.append(rig.writer.full)
        assert full == [False, True, False]
        assert (rig.writer.frames, rig.writer.size()) == (0, 0)

    def test_nothing_is_left_when_the_connection_ends(self, rig: Rig) -> None:
        assert rig.role.try_take()
        buffer = bytearray(BODY)
        frame = encode(Kind.REQUEST, 1, 1, memoryview(buffer))
        assert isinstance(frame, tuple)
        writing = Running(rig.writer.write_parts, frame)
        del frame
        assert rig.far.recv(1, socket.MSG_PEEK)
        rig.writer.queue.append(encode(Kind.REQUEST, 1, 3, b""))
        rig.writer.ended = True
        rig.far.close()
        writing.result()
        buffer.clear()
        assert rig.writer.idle
        assert (rig.writer.frames, rig.writer.size()) == (0, 0)

    def test_the_rest_of_a_frame_is_never_overtaken(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who finds the pen free may find the rest of another's frame in the queue only then."""

        class Pen(list[bool]):
            def pop(self, index: object = -1) -> bool:
                rig.writer.queue.append(b"rest")
                return super().pop()

        monkeypatch.setattr(rig.writer, "pen", Pen([True]))
        assert not rig.writer.write_whole(b"frame")
        assert rig.writer.pen


def payload_of(frame: Frame) -> bytes:
    assert not isinstance(frame.payload, Segmented)
    return bytes(frame.payload)
