"""multiprocessing.connection: pickles over a Listener and its Clients, and the little that makes calls of them.

A request is the name of a function and its arguments; an answer says whether it went well. The server has a thread for
each connection, so there is no way for several calls at once. Nothing is checked, and whoever can connect can run
anything. TCP_NODELAY is set on either side, which takes a second look at the descriptor. Bytes go by `send_bytes`, not
into a pickle.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Client as dial
from multiprocessing.connection import Connection, Listener
from typing import Any

from .base import ITEMS, LOCALHOST, ROWS, Client, Peer, in_background, no_delay

FUNCTIONS: dict[str, Callable[..., Any]] = {"add": lambda a, b: a + b, "records": lambda items: items}


def _no_delay(connection: Any) -> None:
    if sys.platform != "win32":
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            no_delay(sock)


def _answer(connection: Any) -> None:
    _no_delay(connection)
    with connection:
        while True:
            try:
                name, arguments = connection.recv()
                if name == "echo":
                    connection.send_bytes(connection.recv_bytes())
                    continue
            except (EOFError, OSError):
                return
            try:
                outcome = True, FUNCTIONS[name](*arguments)
            except Exception as error:
                outcome = False, error
            connection.send(outcome)


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    with Listener((LOCALHOST, 0) if path is None else path, backlog=128) as listener:

        def accept() -> None:
            while True:
                in_background(_answer, listener.accept())

        in_background(accept)
        yield str(listener.address[1]) if path is None else path


@contextmanager
def _connect(address: str, items: Sequence[object] = ROWS) -> Iterator[Client]:
    connection: Connection[Any, Any]
    with dial((LOCALHOST, int(address)) if address.isdigit() else address) as connection:
        _no_delay(connection)
        send, receive = connection.send, connection.recv

        def call(name: str, *arguments: object) -> Any:
            send((name, arguments))
            succeeded, result = receive()
            if not succeeded:
                raise result
            return result

        def echo(data: bytes) -> bytes:
            send(("echo", ()))
            connection.send_bytes(data)
            return connection.recv_bytes()

        yield Client(
            add=lambda a, b: call("add", a, b), records=lambda items: call("records", items), items=items, echo=echo
        )


PEER = Peer(
    serve=_serve,
    connect=_connect,
    shared=False,
    left_out=dict.fromkeys(("map", "stream"), "it sends and receives, and has nothing of that kind"),
)
DATACLASSES = replace(
    PEER,
    connect=partial(_connect, items=ITEMS),
    left_out=dict.fromkeys((*PEER.left_out, "add", "threads", "1 MiB", "64 MiB", "connections", "unix"), "see above"),
    notes={"records": "pickles of the dataclasses themselves"},
)
