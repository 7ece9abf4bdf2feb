"""Small calls pass large messages on the same connection, whatever stands still in the pipe."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from tests.ends import Colours, alike, for_clients, for_servers
from tests.support import PATIENCE, FakeServer, Gate, RawPeer, Running, Workshop, agree, read_header
from typedrpc import ConnectionLost, aio
from typedrpc.aio.outlet import Outlet
from typedrpc.codec import Segmented, pack_plain
from typedrpc.protocol import Outgoing
from typedrpc.sync.writer import Writer
from typedrpc.wire import HEADER, HEADER_SIZE, Frame, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike

MIB = 1 << 20
LARGE = 15 * MIB


def response(call: int, value: Any) -> bytes:
    packed = pack_plain(value)
    return HEADER.pack(len(packed), Kind.RESPONSE, 0, 0, call) + packed


def size_of(frame: Frame) -> int:
    return len(frame.payload.segments[0]) if isinstance(frame.payload, Segmented) else len(frame.payload)


def is_of_a_call(data: Outgoing) -> bool:
    """Whether a frame that waits is one that may pass large messages, and no one-way call."""
    return isinstance(data, bytes) and len(data) >= HEADER_SIZE and read_header(data)[1] != Kind.NOTIFY


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Opened when a thread has left a call, or an answer, to another one that is writing, or to a loop that is."""
    gate, flush, add = Gate(), Writer.flush, Outlet.add

    def flush_and_look(writer: Writer, *args: Any, **options: Any) -> None:
        flush(writer, *args, **options)
        if any(map(is_of_a_call, writer.queue.copy())) and not writer.pen:
            gate.open()

    def add_and_look(outlet: Outlet, data: Outgoing) -> None:
        add(outlet, data)
        if is_of_a_call(data) and outlet.outbox.lanes.turns:
            gate.open()

    monkeypatch.setattr(Writer, "flush", flush_and_look)
    monkeypatch.setattr(Outlet, "add", add_and_look)
    return gate


@for_clients
def test_a_small_call_is_answered_before_a_large_request_is_complete(queued: Gate, colours: Colours) -> None:
    stuck, answered = Gate(), Gate()

    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.sock.recv(1, socket.MSG_PEEK)
        stuck.open()
        queued.wait()
        small = peer.question()
        assert small.command == Workshop.add.id
        peer.send(response(small.call, 3))
        answered.wait()
        large = peer.question()
        peer.send(response(large.call, size_of(large)))
        peer.read_to_end()

    with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
        upload = Running(proxy.swallow, bytes(LARGE))
        stuck.wait()
        assert proxy.add(1, 2) == 3
        assert not upload.done
        answered.open()
        assert upload.result() == LARGE


@for_servers
def test_a_small_call_is_answered_before_a_large_response_is_complete(queued: Gate, colours: Colours) -> None:
    with (
        colours.serve(Workshop(), url="tcp://127.0.0.1:0") as server,
        RawPeer.dial(server.url, receive_buffer=4096) as peer,
    ):
        peer.shake_hands()
        peer.send_frame(Kind.REQUEST, Workshop.blob.id, 1, pack_plain([LARGE]))
        assert peer.sock.recv(1, socket.MSG_PEEK)
        peer.send_frame(Kind.REQUEST, Workshop.add.id, 3, pack_plain([1, 2]))
        queued.wait()
        small, large = peer.read_frame(), peer.read_frame()
        assert (small.call, large.call) == (3, 1)
        assert bytes(small.payload if not isinstance(small.payload, Segmented) else b"") == pack_plain(3)
        assert size_of(large) == LARGE


@for_clients
def test_one_way_calls_keep_their_order_beside_a_call_that_passes(queued: Gate, colours: Colours) -> None:
    stuck, came = Gate(), Gate()
    frames: list[Frame] = []

    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.sock.recv(1, socket.MSG_PEEK)
        stuck.open()
        queued.wait()
        while len(frames) < 3:
            frames.append(peer.read_frame())
            if frames[-1].call:
                peer.send(response(frames[-1].call, 3))
        came.open()
        peer.read_to_end()

    with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
        upload = Running(proxy.swallow.notify, bytes(LARGE))
        stuck.wait()
        noting = Running(proxy.note.notify, "later")
        noting.result()
        assert proxy.add(1, 2) == 3
        upload.result()
        proxy.note.notify("last")
        came.wait()
    kinds = [(frame.kind, frame.command) for frame in frames]
    assert kinds[-2:] == [(Kind.NOTIFY, Workshop.swallow.id), (Kind.NOTIFY, Workshop.note.id)]


@for_clients
def test_what_is_on_its_way_when_the_connection_ends_is_let_go(colours: Colours) -> None:
    stuck = Gate()

    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.sock.recv(1, socket.MSG_PEEK)
        stuck.wait()

    with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
        uploads = [Running(proxy.swallow, bytes(LARGE)) for _ in range(3)]
        threading.Thread(target=stuck.open).start()
        assert all(isinstance(upload.error(), ConnectionLost) for upload in uploads)


@pytest.mark.unmeasured
def test_large_calls_from_both_ends_and_small_ones_between(colours: Colours) -> None:
    limit = 80 * MIB
    with (
        colours.serve(Workshop(), url="tcp://127.0.0.1:0", max_message_size=limit) as server,
        colours.connect(Workshop, server.url, max_message_size=limit) as proxy,
    ):
        data = bytes(64 * MIB)
        crossing = [Running(proxy.swallow, data), Running(lambda: len(proxy.blob(64 * MIB)))]
        sums = [proxy.add.submit(number, 1).result(PATIENCE) for number in range(50)]
        assert sums == list(range(1, 51))
        assert [one.result() for one in crossing] == [64 * MIB, 64 * MIB]


def test_a_task_of_a_loop_calls_beside_a_large_message(queued: Gate) -> None:
    """A transport that is paused, again and again, until a large message is through holds up no small call."""
    stuck, answered = Gate(), Gate()

    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.sock.recv(1, socket.MSG_PEEK)
        stuck.open()
        queued.wait()
        small = peer.question()
        assert small.command == Workshop.add.id
        peer.send(response(small.call, 3))
        answered.wait()
        large = peer.question()
        peer.send(response(large.call, size_of(large)))
        peer.read_to_end()

    async def main(url: str) -> None:
        async with asyncio.timeout(PATIENCE), aio.connect(Workshop, url) as proxy:
            upload = asyncio.create_task(proxy.swallow.aio(bytes(LARGE)))
            await asyncio.to_thread(stuck.wait)
            assert await proxy.add.aio(1, 2) == 3
            assert not upload.done()
            answered.open()
            assert await upload == LARGE

    with FakeServer(script) as fake:
        asyncio.run(main(fake.url))
