"""What a process of the soak holds: descriptors, threads, memory, and the tables of every connection and server."""

import asyncio
import ctypes
import gc
import heapq
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from workload import memory_of

from typedrpc import ConnectionLost
from typedrpc.answers import Answers
from typedrpc.common.client import BaseClient
from typedrpc.common.connection import Connection
from typedrpc.common.server import BaseServer
from typedrpc.common.workers import Workers

OF_CONNECTIONS: Final[dict[str, Callable[[Any], int]]] = {
    "calls": lambda connection: len(connection.core.calls),
    "handled": lambda connection: len(connection.core.handled),
    "running": lambda connection: connection.core.running,
    "batches": lambda connection: len(connection.core.batches),
    "inflows": lambda connection: len(connection.core.inflows),
    "outflows": lambda connection: len(connection.core.outflows),
    "callbacks": lambda connection: len(connection.callbacks.groups),
    "partial messages": lambda connection: len(connection.core.reader._partial),
    "to write": lambda connection: connection.waiting_frames,
    "to handle": lambda connection: len(connection.handlers.ready),
    "room": lambda connection: connection._room.waiting + len(connection._room._line),
    "parked": lambda connection: len(connection.role.parked),
    "left behind": lambda connection: len(connection._left_behind) + len(connection._failing),
    "senders": lambda connection: len(connection.streams._held),
}
"""Tables of a connection, each of which is empty when nothing is under way."""

OF_SERVERS: Final[dict[str, Callable[[Any], int]]] = {
    "in line": lambda server: server._admission.waiting,
    "left, but in": lambda server: server._admission.inside - len(server.peers),
    "begun, not in": lambda server: len(server._connections) - len(server.peers),
    "places": lambda server: len(server._places) - len(server._connections),
    "at the threshold": lambda server: len(
        server._greeting if hasattr(server, "_greeting") else server._greeter._visitors
    ),
    "greeted": lambda server: 0 if hasattr(server, "_greeting") else len(server._greeter._greeted),
}
OF_ANSWERS: Final[dict[str, Callable[[Any], int]]] = {
    "calls with a key": lambda answers: sum(len(session.calls) for session in answers._sessions.values()),
    "bytes of nobody's answers": lambda answers: answers.size - sum(one.size for one in answers._sessions.values()),
}
OF_CLIENTS: Final[dict[str, Callable[[Any], int]]] = {
    "keys": lambda client: 0 if client._again.keys is None else len(client._again.keys._wanted),
}
EXPECTED: Final = (
    "the peer closed the connection in the middle of a frame",
    "the client left during the handshake; perhaps it does not trust this server",
)
"""What is said of a client that was killed while it wrote, or while it connected."""

CALLING_BACK: Final = tuple(f"soak.{name} failed" for name in ("bounce", "abounce", "fold", "afold", "use"))
"""Of handlers that call their caller."""

OF_WORKERS: Final[dict[str, Callable[[Any], int]]] = {
    "jobs": lambda workers: len(workers._waiting),
    "tasks": lambda workers: workers._tasks,
}
KINDS: Final[tuple[tuple[type, dict[str, Callable[[Any], int]]], ...]] = (
    (Connection, OF_CONNECTIONS),
    (BaseServer, OF_SERVERS),
    (BaseClient, OF_CLIENTS),
    (Answers, OF_ANSWERS),
    (Workers, OF_WORKERS),
)


def sample() -> dict[str, Any]:
    """What there is now. Whatever the garbage collector knows is found, whoever has forgotten it."""
    tables: Counter[str] = Counter()
    connections = wakers = 0
    for thing in gc.get_objects():
        for kind, rows in KINDS:
            if issubclass(type(thing), kind):
                if kind is Connection and thing.ended:
                    tables["ended connections"] += 1
                    continue
                if kind is Connection:
                    connections += 1
                    wakers += getattr(getattr(thing, "_reader", None), "_waker", None) is not None
                for name, count in rows.items():
                    tables[name] += _count(count, thing)
    memory = memory_of(os.getpid())
    return {
        # A connection makes a pair of sockets when somebody is first to be woken there, which dice decide.
        "descriptors": len(descriptors()) - 2 * wakers,
        "threads": threading.active_count(),
        "rss": 0.0 if memory is None else memory.now,
        "connections": connections,
        "tables": dict(tables),
    }


def _count(count: Callable[[Any], int], thing: Any) -> int:
    try:
        return count(thing)
    except (AttributeError, RuntimeError):  # it is being made, or changes size while it is counted
        return 0


def quiet_sample() -> dict[str, Any]:
    """The same, after a collection; with the objects of the library by class, and the names of what is there."""
    forget_who_left()
    forget_timers()
    gc.collect()
    give_back()
    objects = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for thing in gc.get_objects()
        if str((kind := type(thing)).__module__).startswith("typedrpc")
    )
    return {
        **sample(),
        "objects": dict(objects),
        "names": sorted([*descriptors(), *(thread.name for thread in threading.enumerate())]),
    }


def forget_who_left() -> None:
    """Have servers forget the sessions of clients that have left, which otherwise takes them minutes.

    Nobody is about to come back: all rest.
    """
    for thing in gc.get_objects():
        if isinstance(thing, Answers):
            with thing._lock:
                for session in list(thing._idle.values()):
                    thing._forget(session)


def forget_timers() -> None:
    """Have the loop, if this is its thread, drop timers that were cancelled: it keeps them until they are due."""
    try:
        loop: Any = asyncio.get_running_loop()
    except RuntimeError:
        return
    timers = loop._scheduled
    for timer in timers:
        if timer.cancelled():
            timer._scheduled = False
    timers[:] = [timer for timer in timers if timer._scheduled]
    heapq.heapify(timers)
    loop._timer_cancelled_count = 0


def give_back() -> None:
    """Have the allocator give back to the system what is free: what is resident then is what is held."""
    with suppress(OSError, AttributeError):  # it is not that of glibc
        ctypes.CDLL(None).malloc_trim(0)


def descriptors() -> list[str]:
    """What the descriptors of this process lead to."""
    folder = Path("/proc/self/fd")
    found = []
    for entry in folder.iterdir() if folder.exists() else ():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


class Faults(logging.Handler):
    """What went wrong in this process: wrong answers, errors that nobody expects, and whatever the library warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []
        logging.getLogger().addHandler(self)
        threading.excepthook = lambda arguments: self.note(f"thread {arguments.thread}", arguments.exc_value)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # A handler that calls back whoever was killed: of a call with a key, the failure is kept, and so it is logged.
        calls_back = isinstance(error, ConnectionLost) and record.getMessage().startswith(CALLING_BACK)
        if not calls_back and not record.getMessage().endswith(EXPECTED):
            self.found.append(f"log: {record.getMessage()}{_last_line(record)}")

    def note(self, where: str, error: BaseException | None) -> None:
        self.found.append(f"{where}: {type(error).__name__}: {error}")
        print(self.found[-1], file=sys.stderr, flush=True)


def _last_line(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return "" if error is None else f" ({type(error).__name__}: {error})"
