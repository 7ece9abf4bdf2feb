"""A proxy for tests, between clients and a server: it writes down all that passes, and breaks what a test says.

::

    with Proxy(server.url) as proxy, connect(Store, proxy.url) as store:
        passage = proxy.passage()
        passage.down.hold()                     # answers wait in the proxy
        asked = store.get.submit("key")
        passage.down.wait_for(17)               # until so many bytes have come in all
        passage.down.halve()                    # half of what waits is delivered, then the connection is cut

What has to hold from the first byte on is planned before the client connects: ``proxy.plan(up=Plan(cut_after=20))``.
``up`` is the way from the client to the server, ``down`` the way back.

One thread does everything, with sockets that do not block; the methods hand it what is to be done, and come back when
that is done. It knows nothing of the protocol: bytes are all it sees, encrypted ones too.
"""

import contextlib
import os
import selectors
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from tests.support import PATIENCE

T = TypeVar("T")

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
RESET: Final = struct.pack("ii", 1, 0)
"""Of the option SO_LINGER: closing the socket resets the connection."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the bytes of one way, from the first one on.

    Attributes:
        cut_after: The connection is cut when so many bytes have been delivered; with 0, at once.
        reset: Whether a cut is a reset; otherwise both ends see an end of file.
        held: What comes waits in the proxy until it is released.
        held_after: The same, from behind so many bytes on.
        clogged: Nothing is read, so that the sender's socket becomes full.
        lost: A black hole: all is read, nothing delivered, not even an end of file. With both ways lost, half-open.
        piece: Bytes that are delivered at a time, each time with a system call of its own.
    """

    cut_after: int | None = None
    reset: bool = True
    held: bool = False
    held_after: int | None = None
    clogged: bool = False
    lost: bool = False
    piece: int | None = None


class Way:
    """One direction of one connection.

    Attributes:
        came: All bytes that came from the sender.
        passed: How many of them were delivered.
    """

    def __init__(self, passage: "Passage", source: socket.socket, target: socket.socket, plan: Plan) -> None:
        self.came = bytearray()
        self.passed = 0
        self._passage = passage
        self._source = source
        self._target = target
        self._plan = plan
        self._waiting = bytearray()
        self._allowed: int | None = 0 if plan.held else plan.held_after  # bytes that may be delivered; None for all
        self._limit = plan.cut_after  # likewise, until the cut
        self._reset = plan.reset
        self._clogged = plan.clogged
        self._lost = plan.lost
        self._eof = False
        self._told = False  # the target was told of the end of file

    # For tests. Each comes back when it is done, in the proxy's thread.

    def hold(self) -> None:
        """Deliver nothing more; what comes waits here, however much it is."""
        self._do(lambda: setattr(self, "_allowed", 0))

    def release(self, count: int | None = None) -> None:
        """Deliver so many bytes more, whenever they come; without a number, all."""
        self._do(lambda: setattr(self, "_allowed", None if count is None else (self._allowed or 0) + count))

    def halve(self, *, reset: bool = True) -> None:
        """Deliver the first half of what waits, and cut the connection then."""

        def halve() -> None:
            self._limit, self._reset = len(self._waiting) // 2, reset
            self._allowed = None

        self._do(halve)

    def cut_after(self, count: int, *, reset: bool = True) -> None:
        """Cut the connection when so many bytes more were delivered; with 0, now."""

        def cut() -> None:
            self._limit, self._reset = count, reset

        self._do(cut)

    def lose(self) -> None:
        """Be a black hole from now on: what waits is lost too."""

        def lose() -> None:
            self._lost = True
            self._waiting.clear()

        self._do(lose)

    def clog(self) -> None:
        """Read nothing more, and deliver nothing: the sender's socket becomes full."""

        def clog() -> None:
            self._clogged, self._allowed = True, 0

        self._do(clog)

    def unclog(self) -> None:
        """Read again, and deliver."""

        def unclog() -> None:
            self._clogged, self._allowed = False, None

        self._do(unclog)

    def wait_for(self, count: int) -> None:
        """Until so many bytes have come in all, since the connection was made."""
        self._passage.proxy.wait(lambda: len(self.came) >= count, f"{count} bytes, {len(self.came)} came")

    def wait_until_passed(self, count: int) -> None:
        """Until so many bytes were delivered in all."""
        self._passage.proxy.wait(lambda: self.passed >= count, f"{count} bytes, {self.passed} passed")

    @property
    def waiting(self) -> int:
        """Bytes that came and were not delivered."""
        return len(self._waiting)

    # In the proxy's thread

    def _do(self, action: Callable[[], object]) -> None:
        def act() -> None:
            action()
            self._passage.move()

        self._passage.proxy.do(act)

    def wants_to_read(self) -> bool:
        return not (self._eof or self._clogged)

    def wants_to_write(self) -> bool:
        return bool(self._waiting) and self._room() > 0

    def _room(self) -> int:
        """How much may be delivered now."""
        limits = (limit for limit in (self._allowed, self._limit, self._plan.piece) if limit is not None)
        return min((len(self._waiting), *limits))

    def read(self) -> None:
        try:
            data = self._source.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        self._eof = not data
        self.came += data
        if not self._lost:
            self._waiting += data

    def deliver(self) -> bool:
        """Deliver what may be. Returns whether the connection is to be cut now."""
        while not self._is_at_limit() and (room := self._room()):
            try:
                count = self._target.send(self._waiting[:room])
            except (BlockingIOError, InterruptedError):
                return False
            del self._waiting[:count]
            self.passed += count
            if self._allowed is not None:
                self._allowed -= count
            if self._limit is not None:
                self._limit -= count
        if self._is_at_limit():
            return True
        if self._eof and not self._waiting and not self._told and not self._lost and self._allowed is None:
            self._told = True
            self._target.shutdown(socket.SHUT_WR)
        return False

    def _is_at_limit(self) -> bool:
        return self._limit is not None and self._limit <= 0

    @property
    def is_over(self) -> bool:
        return self._told

    @property
    def resets(self) -> bool:
        return self._reset


class Passage:
    """One connection through the proxy.

    Attributes:
        up: The way from the client to the server.
        down: The way back.
        was_cut: Whether the proxy has cut it.
        is_over: Whether nothing passes any more.
    """

    def __init__(self, proxy: "Proxy", client: socket.socket, server: socket.socket, up: Plan, down: Plan) -> None:
        self.proxy = proxy
        self.was_cut = False
        self.is_over = False
        self.up = Way(self, client, server, up)
        self.down = Way(self, server, client, down)
        self._ends = {client: (self.up, self.down), server: (self.down, self.up)}  # what reads, and what writes there
        self._finishing: set[socket.socket] = set()
        for sock in self._ends:
            sock.setblocking(False)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self, *, reset: bool = True) -> None:
        """Cut the connection now.

        Args:
            reset: Whether both ends get a reset; otherwise an end of file, behind what was delivered.
        """
        self.proxy.do(lambda: self._cut(reset))

    def wait(self) -> None:
        """Until it is over."""
        self.proxy.wait(lambda: self.is_over, "the end of a connection")

    # In the proxy's thread

    def handle(self, sock: socket.socket, events: int) -> None:
        """Something can be read from one of the sockets, or written to it."""
        if sock in self._finishing:
            self._drain(sock)
            return
        try:
            if events & READ:
                self._ends[sock][0].read()
        except OSError:  # an end has reset the connection
            self._end(reset=True)
            return
        self.move()

    def move(self) -> None:
        """Deliver what can be, and listen for what is wanted next."""
        if self.is_over or self._finishing:
            return
        for way in (self.up, self.down):
            try:
                to_cut = way.deliver()
            except OSError:
                self._end(reset=True)
                return
            if to_cut:
                self._cut(way.resets)
                return
        if self.up.is_over and self.down.is_over:
            self._end(reset=False)
            return
        for sock, (reading, writing) in self._ends.items():
            wanted = (READ if reading.wants_to_read() else 0) | (WRITE if writing.wants_to_write() else 0)
            self.proxy.listen(sock, wanted, self)

    def _cut(self, reset: bool) -> None:
        if self.is_over or self._finishing:
            return
        self.was_cut = True
        if reset:
            self._end(reset=True)
            return
        # A socket that is closed with bytes that nobody has read sends a reset: so they are read, and dropped.
        self._finishing = set(self._ends)
        for sock in self._ends:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            self.proxy.listen(sock, READ, self)

    def _drain(self, sock: socket.socket) -> None:
        try:
            if sock.recv(65536):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._finishing.discard(sock)
        self.proxy.listen(sock, 0, self)
        if not self._finishing:
            self._end(reset=False)

    def _end(self, reset: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        for sock in self._ends:
            self.proxy.listen(sock, 0, self)
            if reset and sock.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()

    def end(self) -> None:
        """The proxy ends."""
        self._end(reset=True)


class Proxy:
    """Listens, and passes on to a server what comes.

    Attributes:
        url: Where clients connect to; of the same scheme as the server's.
        target: The server's url. It may be changed, for the connections that come then.
        passages: The connections so far, the oldest first.
    """

    def __init__(self, target: str, *, up: Plan | None = None, down: Plan | None = None) -> None:
        """
        Args:
            target: The server's url: ``tcp://``, ``unix://``, or any other scheme over TCP.
            up: As for :meth:`plan`, as is ``down``.
            down: Likewise.
        """
        self.target = target
        self.passages: list[Passage] = []
        plans = (up or Plan(), down or Plan())
        self._make_plans: Callable[[], tuple[Plan, Plan]] = lambda: plans
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        scheme = target.partition("://")[0]
        if scheme == "unix":
            self._folder = tempfile.TemporaryDirectory()
            path = os.path.join(self._folder.name, "proxy.sock")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(1024)
            self.url = f"unix://{path}"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._actions: deque[tuple[Callable[[], object], Future[None]]] = deque()
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="test-proxy", daemon=True)

    def plan(self, *, up: Plan | None = None, down: Plan | None = None) -> None:
        """What becomes of the connections that come from now on; by default nothing happens to them."""
        plans = (up or Plan(), down or Plan())
        self.plan_each(lambda: plans)

    def plan_each(self, make: Callable[[], tuple[Plan, Plan]]) -> None:
        """As :meth:`plan`, with a function that gives each connection its plans: for the way up, and the way down.

        It is called in the proxy's thread.
        """
        self.do(lambda: setattr(self, "_make_plans", make))

    def passage(self, number: int = -1) -> Passage:
        """The connection of this number, from 0 up, which is waited for; by default the latest, or the first."""
        self.wait(lambda: len(self.passages) > max(number, 0), "a connection")
        return self.passages[number]

    def cut(self, *, reset: bool = True) -> None:
        """Cut all connections."""

        def cut() -> None:
            for passage in self.passages:
                passage._cut(reset)

        self.do(cut)

    def wait(self, condition: Callable[[], object], what: str = "it") -> None:
        """Until something is so with the proxy's connections; looked at whenever anything has happened there."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), f"it did not come about: {what}"

    def do(self, action: Callable[[], object]) -> None:
        """Have the proxy's thread do something; comes back when it is done."""
        future: Future[None] = Future()
        self._actions.append((action, future))
        self._wake.send(b"\0")
        future.result(PATIENCE)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, READ)
        self._selector.register(self._woken, READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(lambda: setattr(self, "_over", True))
        self._thread.join(PATIENCE)
        for sock in (self._listener, self._wake, self._woken):
            sock.close()
        self._selector.close()
        if self._folder is not None:
            self._folder.cleanup()

    # In the proxy's thread

    def listen(self, sock: socket.socket, events: int, passage: Passage) -> None:
        known = sock in self._selector.get_map()
        if events and known:
            self._selector.modify(sock, events, passage)
        elif events:
            self._selector.register(sock, events, passage)
        elif known:
            self._selector.unregister(sock)

    def _run(self) -> None:
        while not self._over:
            for key, events in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif sock is self._woken:
                    self._act()
                elif sock.fileno() >= 0:  # it may have been closed in this turn
                    key.data.handle(sock, events)
            with self._changed:
                self._changed.notify_all()
        for passage in self.passages:
            passage.end()
        self._act()

    def _act(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._actions:
            action, future = self._actions.popleft()
            try:
                action()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it is gone again
            return
        try:
            server = dial(self.target)
        except OSError:  # as a server that is down
            client.close()
            return
        passage = Passage(self, client, server, *self._make_plans())
        self.passages.append(passage)
        passage.move()


def dial(url: str) -> socket.socket:
    """A socket to a server, whatever it speaks there."""
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(rest)
        except BaseException:
            sock.close()
            raise
        return sock
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
