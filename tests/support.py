"""What several tests need: a service with gates, peers that misbehave, servers in processes of their own.

Nothing here sleeps. What waits for another thread waits at a gate, and a gate that stays shut fails the test.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from tests.forks import mind_coverage
from typedrpc import Service, rpc
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE
from typedrpc.wire import HEADER, HEADER_SIZE, PREAMBLE, Frame, FrameReader, Kind, encode

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds after which what was to happen is held not to happen any more. No test gets near it unless it fails."""

TICK: Final = 0.2
"""Seconds after which a thread that waits for a signal is interrupted once more, see :func:`handling`."""

ROOT: Final = Path(__file__).resolve().parent.parent

mind_coverage()


class Gate:
    """An event that fails the test when it does not come."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(PATIENCE), "a gate stayed shut"

    @property
    def is_open(self) -> bool:
        return self._event.is_set()


class Gates:
    """Gates by name, made when first asked for, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[str, Gate] = {}

    def __getitem__(self, name: str) -> Gate:
        with self._lock:
            return self._gates.setdefault(name, Gate())

    def open_all(self) -> None:
        with self._lock:
            gates = list(self._gates.values())
        for gate in gates:
            gate.open()


class Tally:
    """Counts by name, in any thread; who waits for a number that does not come fails the test."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        with self._changed:
            self._counts[name] += number
            self._changed.notify_all()

    def __getitem__(self, name: str) -> int:
        with self._changed:
            return self._counts[name]

    def wait_for(self, name: str, number: int) -> None:
        with self._changed:
            reached = self._changed.wait_for(lambda: self._counts[name] == number, PATIENCE)
            assert reached, f"{name}: {self._counts[name]} instead of {number}"

    @contextlib.contextmanager
    def running(self, name: str = "running") -> Iterator[None]:
        """Count what runs, for as long as it does; and what has begun, under ``"<name>, begun"``."""
        with self._changed:
            self._counts[name] += 1
            self._counts[f"{name}, begun"] += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            self.add(name, -1)


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for what nobody tells: state of the library's own. Looks every millisecond."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, f"it did not come about: {what}"
        threading.Event().wait(0.001)


def in_time(attempt: Callable[[float], bool]) -> None:
    """Try with ever longer time-outs, until what has to happen before one passes has happened: machines may be slow.

    Args:
        attempt: Takes the seconds, and returns whether they were enough.
    """
    assert any(attempt(timeout) for timeout in (0.05, 0.5, 5.0)), "there was never time enough"


class Running(Generic[T]):
    """A function in a thread of its own; :meth:`result` gives what it returned or raises what it raised."""

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        self._future: Future[T] = Future()
        self.thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            self._future.set_result(function(*args))
        except BaseException as error:
            self._future.set_exception(error)

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self, patience: float = PATIENCE) -> T:
        try:
            return self._future.result(patience)
        finally:
            self.thread.join(patience)

    def error(self) -> BaseException | None:
        error = self._future.exception(PATIENCE)
        self.thread.join(PATIENCE)
        return error


def run_all(functions: Iterable[Callable[[], T]], patience: float = PATIENCE) -> list[T]:
    """Run functions at once, a thread each; their results in order.

    Args:
        functions: The functions.
        patience: Seconds to wait for each, where it has much to do.
    """
    running = [Running(function) for function in functions]
    return [one.result(patience) for one in running]


@contextlib.contextmanager
def handling(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle a signal, in the main thread.

    The interpreter does not see a signal that comes after its last look and before the system call in which the thread
    then waits, until something interrupts that call. So a second signal, of which nothing is done, comes again and
    again.
    """
    before = signal.signal(number, handler)
    before_tick = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_tick)
        signal.signal(number, before)


class Workshop(Service):
    """Commands that do little, and some that wait until the test lets them."""

    def __init__(self) -> None:
        self.gates = Gates()
        self.started = Gates()
        self.notes: list[str] = []
        self.noted = threading.Condition()

    @rpc
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @rpc
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc
    def swallow(self, data: bytes) -> int:
        return len(data)

    @rpc
    def blob(self, size: int) -> bytes:
        return bytes(size)

    @rpc
    def spell(self, text: str, times: int) -> str:
        return text * times

    @rpc
    def wait(self, name: str) -> str:
        """Say that it has begun, and come back when the gate is opened."""
        self.started[name].open()
        self.gates[name].wait()
        return name

    @rpc
    def stay(self) -> None:
        """Never come back, in a process that is killed."""
        threading.Event().wait()

    @rpc
    def note(self, text: str) -> None:
        with self.noted:
            self.notes.append(text)
            self.noted.notify_all()

    @rpc
    def process(self) -> int:
        return os.getpid()

    def wait_for_notes(self, count: int) -> list[str]:
        with self.noted:
            assert self.noted.wait_for(lambda: len(self.notes) >= count, PATIENCE), f"{len(self.notes)} notes came"
            return list(self.notes)


class StubLink:
    """A link that writes down why it was closed."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.limits: list[int] = []

    def proxy(self, contract: Any, /) -> Any:
        return ("proxy", contract)

    def close(self, reason: str, /) -> None:
        self.reasons.append(reason)

    def set_limit(self, max_message_size: int, /) -> None:
        self.limits.append(max_message_size)

    def services(self) -> Mapping[str, bytes]:
        return {"Listener": b"digest"}

    def receive_callback(self, origin: int, index: int, callback: Any, /) -> Any:
        raise NotImplementedError


class RawPeer:
    """One end of a connection that sends whatever a test says, and reads what comes back frame by frame."""

    def __init__(self, sock: socket.socket, *, client: bool = False) -> None:
        self.sock = sock
        self._client = client
        self._welcomed = False
        self.sock.settimeout(PATIENCE)
        self._reader = FrameReader(MAX_MESSAGE_SIZE)
        self._frames: list[Frame] = []

    @classmethod
    def dial(cls, url: str, *, receive_buffer: int | None = None) -> Self:
        if url.startswith("unix://"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(url.removeprefix("unix://"))
            return cls(sock, client=True)
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect((host, int(port)))
        return cls(sock, client=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_frame(self, kind: int, command: int, call: int, payload: bytes) -> None:
        encoded = encode(kind, command, call, payload)
        self.send(encoded if isinstance(encoded, bytes) else b"".join(encoded))

    def greet(self, *, max_message_size: int = MAX_MESSAGE_SIZE, max_calls: int = MAX_CALLS, **values: object) -> Self:
        """Say the preamble and the hello; as a server let the client in at once."""
        welcome = b"" if self._client else HEADER.pack(0, Kind.WELCOME, 0, 0, 0)
        self.send(PREAMBLE + hello(max_message_size=max_message_size, max_calls=max_calls, **values) + welcome)
        return self

    def shake_hands(self, *, welcome: bool = True) -> Self:
        """Exchange hellos; as a client wait for the welcome, unless none is to come yet."""
        self.greet()
        assert self.read_frame().kind == Kind.HELLO
        while self._client and welcome and not self._welcomed:
            data = self.sock.recv(65536)
            assert data, "the connection was closed instead of a welcome"
            self._take(data)
        return self

    def read_frame(self) -> Frame:
        while not self._frames:
            data = self.sock.recv(65536)
            assert data, "the connection was closed instead of a frame"
            self._take(data)
        return self._frames.pop(0)

    def _take(self, data: bytes) -> None:
        """Keep the frames of some bytes, without the welcome, which every server says."""
        for frame in self._reader.feed(data):
            if frame.kind == Kind.WELCOME:
                self._welcomed = True
            else:
                self._frames.append(frame)

    def read_to_end(self) -> bytes:
        """Everything until the peer closes."""
        received = bytearray()
        try:
            while data := self.sock.recv(65536):
                received += data
        except ConnectionResetError:
            pass
        return bytes(received)

    def read_frames_to_end(self) -> list[Frame]:
        self._take(self.read_to_end())
        frames, self._frames = self._frames, []
        return frames

    def question(self) -> Frame:
        """The next frame, which must be a request."""
        frame = self.read_frame()
        assert frame.kind == Kind.REQUEST, str(frame)
        return frame


class Visitor(RawPeer):
    """A client that says no more than hello, and hears whether it is let in."""

    def _take(self, data: bytes) -> None:
        """Keep the welcome too."""
        self._frames.extend(self._reader.feed(data))

    def is_let_in(self) -> bool:
        return self.read_frame().kind == Kind.WELCOME

    def hears_nothing(self) -> bool:
        self.sock.setblocking(False)
        try:
            return not self._frames and not self.sock.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)


def hello(**values: object) -> bytes:
    """The frame that opens a connection."""
    packed = pack_plain({"max_message_size": MAX_MESSAGE_SIZE, "max_calls": MAX_CALLS, "features": [], **values})
    return HEADER.pack(len(packed), Kind.HELLO, 0, 0, 0) + packed


def failure_of(frame: Frame) -> tuple[int, str]:
    """Code and text of an error frame."""
    assert frame.kind == Kind.ERROR, str(frame)
    payload = unpack_plain(frame.payload)
    assert isinstance(payload, list)
    return payload[0], payload[1]


class FakeServer:
    """A server that does with each connection what a test says."""

    def __init__(self, script: Callable[[RawPeer], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.errors: list[BaseException] = []
        self._stopping = False
        self._running: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()
        for thread in self._running:
            thread.join(PATIENCE)
        if error is None and self.errors:
            raise self.errors[0]

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(sock,), daemon=True)
            self._running.append(thread)
            thread.start()

    def _talk(self, sock: socket.socket) -> None:
        with sock:
            try:
                self._script(RawPeer(sock))
            except BaseException as error:
                self.errors.append(error)


def agree(peer: RawPeer) -> None:
    """As a server: shake hands, and say that the contract is the client's."""
    peer.shake_hands()
    question = peer.question()
    peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))


class Forwarder:
    """Passes on what a client and a server say to each other, and counts it. ``hold`` stops one direction."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        """What clients sent."""
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (self._listener, *self._socks):
            sock.close()

    def frames(self) -> list[Frame]:
        """The frames that clients sent, of one connection."""
        return list(FrameReader(MAX_MESSAGE_SIZE).feed(bytes(self.sent)))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = RawPeer.dial(self._target).sock
                server.settimeout(None)
                self._socks += [client, server]
                for source, target, record in ((client, server, self.sent), (server, client, None)):
                    thread = threading.Thread(target=self._pass_on, args=(source, target, record), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, record: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if record is not None:
                    record += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Program:
    """A Python program in a process of its own, from its source; it prints lines and reads lines.

    When it hangs, it prints all its stacks and ends, and the test that reads from it fails.
    """

    PROLOGUE = f"""
        import faulthandler, sys
        faulthandler.enable()
        faulthandler.dump_traceback_later({PATIENCE}, exit=True)
        sys.path.insert(0, {str(ROOT)!r})
        def say(*words):
            print(*words, flush=True)
        def hear():
            return sys.stdin.readline().strip()
    """

    def __init__(self, source: str, *, environment: Mapping[str, str] | None = None, measured: bool = True) -> None:
        """
        Args:
            source: The program.
            environment: What is added to the environment.
            measured: Whether coverage looks on where this test run is measured. It must not where signal handlers
                raise: an exception in its tracer leaves the lock of its data locked, and all threads stand still.
        """
        inherited = {name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE_")}
        text = textwrap.dedent(self.PROLOGUE) + textwrap.dedent(source)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, **(environment or {})},
        )
        self.errors = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        _, errors = self.process.communicate()
        if error is not None and errors:
            print(errors, file=sys.stderr)

    def hear(self) -> str:
        """The next line that the program prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, self.errors = self.process.communicate()
            raise AssertionError(f"the program ended with {self.process.returncode}:\n{self.errors}")
        return line.rstrip("\n")

    def say(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, the rest of its output, its complaints."""
        output, self.errors = self.process.communicate(timeout=2 * PATIENCE)
        return self.process.returncode, output, self.errors

    def expect_success(self) -> str:
        """Wait for its end, which must be a good one; the rest of its output."""
        code, output, errors = self.finish()
        assert code == 0, f"exit code {code}\n{output}\n{errors}"
        return output

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


SERVING: Final = """
    from tests.support import Workshop
    from typedrpc import Server
    with Server(Workshop(), url="tcp://127.0.0.1:0"{options}) as server:
        say(server.url)
        hear()
"""


@contextlib.contextmanager
def serving_process(options: str = "") -> Iterator[tuple[str, Program]]:
    """A server of a :class:`Workshop` in a process of its own; its URL, and the process, which a line ends.

    It does what servers in the tests' own process do, where it is measured.
    """
    with Program(SERVING.format(options=options and ", " + options), measured=False) as program:
        yield program.hear(), program


class Log(logging.Handler):
    """What an operator sees: the library's log from warnings up, line by line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._lines.append(record.getMessage())
            self._changed.notify_all()

    def line(self) -> str:
        """The next line; waits until it is written."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._lines, PATIENCE), "nothing was logged"
            return self._lines.pop(0)

    @property
    def unread(self) -> list[str]:
        with self._changed:
            return list(self._lines)


def read_header(data: bytes) -> tuple[int, int, int, int, int]:
    """Length, kind, flags, command and call of the frame at the start of ``data``."""
    return HEADER.unpack(data[:HEADER_SIZE])


def open_descriptors() -> dict[str, str]:
    """Descriptors of this process and what they are, so far as the system tells."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: target for name, target in found.items() if not target.startswith("/proc/")}
