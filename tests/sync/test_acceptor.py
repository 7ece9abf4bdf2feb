import errno
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from typedrpc import transport
from typedrpc.common.arrivals import Arrivals, Place
from typedrpc.sync.acceptor import Acceptor
from typedrpc.sync.greeter import Greeter


@pytest.fixture
def welcomed() -> "queue.Queue[socket.socket]":
    return queue.Queue()


class Listener:
    """A listening socket whose accept() first fails as it is told to."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.failures: list[OSError] = []
        self.setblocking = real.setblocking
        self.fileno = real.fileno
        self.close = real.close

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise self.failures.pop(0)
        return self.real.accept()


@pytest.fixture
def listener() -> tuple[Listener, transport.Address]:
    real, address = transport.listen("tcp://127.0.0.1:0", insecure=False)
    return Listener(real), address


def accept(listener: Any, address: transport.Address, welcome: Callable[[socket.socket, Place], None]) -> Acceptor:
    """An acceptor of connections that nobody shakes hands with."""
    return Acceptor(
        listener, address, welcome, arrivals=Arrivals(None), greeter=Greeter(lambda connection, stay, deadline: None)
    )


@pytest.fixture
def acceptor(
    listener: tuple[Listener, transport.Address], welcomed: "queue.Queue[socket.socket]"
) -> Iterator[Acceptor]:
    acceptor = accept(listener[0], listener[1], lambda sock, place: welcomed.put(sock))
    yield acceptor
    acceptor.close()
    while not welcomed.empty():
        welcomed.get().close()


def dial(address: transport.Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=10)


def test_welcomes_who_connects(
    acceptor: Acceptor, listener: tuple[Listener, transport.Address], welcomed: "queue.Queue[socket.socket]"
) -> None:
    for _ in range(3):
        with dial(listener[1]) as client, welcomed.get(timeout=10) as sock:
            client.sendall(b"x")
            sock.settimeout(10)
            assert sock.recv(1) == b"x"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_waits_out_a_lack_of_resources_with_a_line_in_the_log(
    acceptor: Acceptor,
    listener: tuple[Listener, transport.Address],
    welcomed: "queue.Queue[socket.socket]",
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener[0].failures = [OSError(number, "no more"), OSError(number, "no more")]
    with caplog.at_level(logging.WARNING, "typedrpc"), dial(listener[1]), welcomed.get(timeout=10):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "cannot accept connections now, trying again and again: no more"
    ]


def test_a_client_that_left_again_is_no_news(
    acceptor: Acceptor,
    listener: tuple[Listener, transport.Address],
    welcomed: "queue.Queue[socket.socket]",
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener[0].failures = [ConnectionAbortedError(errno.ECONNABORTED, "left")]
    with dial(listener[1]), welcomed.get(timeout=10):
        pass
    assert not caplog.records


@pytest.mark.parametrize(("error", "lines"), [(OSError("left"), 0), (RuntimeError("broken"), 1)])
def test_a_welcome_that_fails_costs_that_connection_only(
    error: Exception, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Exception | None] = [error, None]
    done = threading.Event()

    def welcome(sock: socket.socket, place: Place) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        sock.close()
        done.set()

    listener, address = transport.listen("tcp://127.0.0.1:0", insecure=False)
    acceptor = accept(listener, address, welcome)
    try:
        with dial(address) as first, dial(address) as second:
            assert done.wait(10)
            assert first.recv(1) == b""
            assert second.recv(1) == b""
    finally:
        acceptor.close()
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == lines


def test_close_ends_the_thread_and_the_socket(listener: tuple[Listener, transport.Address]) -> None:
    acceptor = accept(listener[0], listener[1], lambda sock, place: sock.close())
    acceptor.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "typedrpc-accept"]
    with pytest.raises(ConnectionRefusedError):
        dial(listener[1])
