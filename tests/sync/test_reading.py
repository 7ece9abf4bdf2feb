"""What is read from a socket: without waiting, until a deadline, when told to stop, and at a peer's end."""

import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final

import pytest

from tests.back_to_back import Pair, feed, joined
from tests.support import PATIENCE, Running
from typedrpc.common.role import ReadRole
from typedrpc.errors import ConnectionLost
from typedrpc.messages import Leave
from typedrpc.protocol import Closed, Event, Outcome, Request, State
from typedrpc.sync.alive import KeepAlive
from typedrpc.sync.reading import Reader

NAME: Final = "Desk.run"


class Ends:
    """A client that reads from a socket, and the protocol's state of the server that writes to it."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        pair = Pair().open()
        self.core, self.server = pair.client, pair.server
        self.delivered: list[Event[Any]] = []
        role = ReadRole()
        writer: Any = None  # nothing is asked
        alive = KeepAlive(
            self.sock, self.core, role, writer, deliver=self.delivered.extend, stop_leading=lambda: role.release()
        )
        self.reading = Reader(self.sock, self.core, alive, deliver=self.delivered.extend)

    def answer(self, *calls: int) -> bytes:
        """The answers to calls of the client, each known by its number."""
        data = b""
        for number in calls:
            call, request = self.core.start(1, b"\xc0", NAME)
            self.core.calls.insert(call, str(number))
            (event,) = feed(self.server, joined(request))
            assert isinstance(event, Request)
            data += joined(self.server.response(event, b"\xc0", NAME))
        return data

    @property
    def answered(self) -> list[str]:
        return [event.token for event in self.delivered if isinstance(event, Outcome)]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    with ends.sock, ends.far:
        yield ends
        ends.reading.close()


def test_what_is_there(ends: Ends) -> None:
    assert ends.reading.read_now() == []
    ends.far.sendall(ends.answer(1, 2))
    ends.reading.read_and_deliver()
    assert ends.answered == ["1", "2"]


def test_until_a_deadline(ends: Ends) -> None:
    assert ends.reading.read(monotonic() - 1) == []
    ends.far.sendall(ends.answer(1))
    assert [event.token for event in ends.reading.read(monotonic() + PATIENCE) if isinstance(event, Outcome)] == ["1"]


def test_until_it_is_told_to_stop(ends: Ends) -> None:
    ends.reading.wake()  # nobody is there to be told
    waker = ends.reading.get_waker()
    assert waker is not None
    assert ends.reading.get_waker() is waker
    reading = Running(ends.reading.read, None, waker)
    ends.reading.wake()
    assert reading.result() == []


def test_the_rest(ends: Ends) -> None:
    ends.far.sendall(ends.answer(1))
    ends.far.sendall(ends.answer(2))
    ends.reading.read_rest()
    assert ends.answered == ["1", "2"]
    assert ends.core.state is State.OPEN
    ends.far.close()
    ends.reading.read_rest()
    assert isinstance(ends.delivered[-1], Closed)


def test_last_words_are_why(ends: Ends) -> None:
    ends.far.sendall(ends.answer(1) + joined(ends.server.goodbye("it is late", Leave.OTHER)))
    ends.far.close()
    ends.reading.read_last_words()
    assert ends.answered == ["1"]
    assert "it is late" in str(ends.core.lost())


def test_an_end_without_a_word_is_not_why(ends: Ends) -> None:
    """Whoever could not write says why: this is no more than that."""
    ends.far.sendall(ends.answer(1)[:-1])
    ends.far.close()
    ends.reading.read_last_words()
    assert ends.core.state is State.OPEN
    assert ends.delivered == []


def test_a_failure_of_the_socket_ends_it(ends: Ends) -> None:
    ends.sock.shutdown(socket.SHUT_RD)
    ends.reading.read_and_deliver()
    assert isinstance(ends.delivered[-1], Closed)
    assert isinstance(ends.core.lost(), ConnectionLost)
