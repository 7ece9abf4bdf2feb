"""Each step of shaking hands by TLS, with a secret, or both, and each way in which it can break: no hang, the
documented error at both ends, and the server serves whoever comes then.

The places are counted as in :mod:`tests.both.test_faults`: a handshake without a fault is written down by the proxy,
and its frames, or the records of TLS, give the offsets.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, Self

import pytest

from tests.both.test_faults import Belief, Ledger, call, offsets_in
from tests.certificates import of_client, of_server
from tests.ends import Ends, alike_ends
from tests.proxy import Plan, Proxy, Way
from tests.support import PATIENCE, Running, until
from typedrpc import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    RpcError,
    TlsFailed,
    deadline,
)
from typedrpc.wire import HEADER_SIZE, PREAMBLE, unpack_header

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]
ends = alike_ends

SECRET: Final = bytes(range(32))
BRIEF: Final = 0.1
"""Seconds that have to pass, as nothing can come."""
RECORD_HEADER: Final = 5
SLACK: Final = 16
"""Bytes by which handshakes of TLS differ: signatures are not all of one size."""


class Guard:
    """What guards a server.

    Attributes:
        scheme: Of its URL.
        server: Options of the server.
        client: Options of a client that is let in.
        offsets: Finds the places in what went one way, of which none is at its end.
    """

    def __init__(self, *, tls: bool, secret: bool) -> None:
        self.scheme = "tls" if tls else "tcp"
        self.server: dict[str, Any] = {"tls": of_server(mutual=True)} if tls else {}
        self.client: dict[str, Any] = {"tls": of_client()} if tls else {}
        if secret:
            self.server["secret"] = self.client["secret"] = SECRET
        self.starts: Callable[[bytes], list[int]] = records_of if tls else frames_of
        self.offsets: Callable[[bytes], list[int]] = offsets_in_records if tls else offsets_in


def records_of(data: bytes) -> list[int]:
    """Where the records of TLS begin."""
    found, start = [], 0
    while start < len(data):
        found.append(start)
        start += RECORD_HEADER + int.from_bytes(data[start + 3 : start + RECORD_HEADER], "big")
    assert start == len(data), "a run without a fault ends with a whole record"
    return found


def offsets_in_records(data: bytes) -> list[int]:
    """Where it is worth cutting."""
    starts = records_of(data)
    found: set[int] = set()
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        body = start + RECORD_HEADER
        found.update((start, start + 1, body, (body + end) // 2, end - 1))
    return sorted(offset for offset in found if offset < len(data) - SLACK)


def frames_of(data: bytes) -> list[int]:
    """Where frames begin, and what comes before them."""
    found, start = [0], len(PREAMBLE)
    while start < len(data):
        found.append(start)
        start += HEADER_SIZE + unpack_header(data, start)[0]
    return found


GUARDS: Final = {
    "tls": Guard(tls=True, secret=False),
    "secret": Guard(tls=False, secret=True),
    "both": Guard(tls=True, secret=True),
}


class Complaints(logging.Handler):
    """Lines of the log with a traceback: of what nobody has foreseen."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(record.getMessage())


class Scene:
    """A server that is guarded, with a proxy in front of it."""

    def __init__(self, ends: Ends, guard: Guard) -> None:
        self.ends = ends
        self.guard = guard
        self.ledger = Ledger()
        self.beliefs: list[Belief] = []
        self.told: list[RpcError] = []
        self._complaints = Complaints()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        logging.getLogger("typedrpc").addHandler(self._complaints)
        self._stack.callback(logging.getLogger("typedrpc").removeHandler, self._complaints)
        url = f"{self.guard.scheme}://127.0.0.1:0"
        options = {"on_connect_failed": self.told.append, **self.guard.server}
        self.server = self._stack.enter_context(self.ends.Server(self.ledger, url=url, **options))
        self.proxy = self._stack.enter_context(Proxy(self.server.url))
        return self

    def __exit__(self, *exception: object) -> None:
        with self._stack:
            if exception[0] is None:
                self.proxy.plan()
                assert not self.attempt().errors, "a fresh client is not served"
                self.proxy.cut()
                until(lambda: not self.server.peers, "the end of all connections")
        if exception[0] is None:  # nothing runs any more
            assert self._complaints.texts == []
            assert all(isinstance(error, ConnectionLost | TlsFailed | AuthenticationFailed) for error in self.told)
            for belief in self.beliefs:
                belief.check(self.ledger.runs.__getitem__)

    def attempt(self, **options: Any) -> Belief:
        """A client comes and calls; what it knows then."""
        belief = Belief(f"key {len(self.beliefs)}")
        self.beliefs.append(belief)
        try:
            with self.ends.connect(Ledger, self.proxy.url, **self.guard.client, **options) as ledger:
                with deadline(options.get("timeout", PATIENCE)):
                    call(ledger, belief)
        except (ConnectionLost, ConnectFailed, DeadlineExceeded) as error:
            belief.errors.append(error)
        return belief

    def has_come(self, number: int) -> bool:
        """Whether there is a connection of this number, from 0 up."""
        return len(self.proxy.passages) > number

    def sample(self) -> dict[str, bytes]:
        """What goes either way until the first call is answered."""
        with self.ends.connect(Ledger, self.proxy.url, **self.guard.client) as ledger:
            belief = Belief("sample")
            call(ledger, belief)
            self.beliefs.append(belief)
            passage = self.proxy.passage()
            return {"up": bytes(passage.up.came), "down": bytes(passage.down.came)}


@pytest.fixture(params=GUARDS)
def scene(request: pytest.FixtureRequest, ends: Ends) -> Iterator[Scene]:
    with Scene(ends, GUARDS[request.param]) as scene:
        yield scene


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_handshake_is_cut_at_each_place(way: str, scene: Scene) -> None:
    offsets = scene.guard.offsets(scene.sample()[way])
    failed = 0
    for number, offset in enumerate(offsets):
        scene.proxy.plan(**{way: Plan(cut_after=offset, reset=number % 2 == 0)})
        belief = scene.attempt()
        belief.expect(ConnectFailed, ConnectionLost)
        failed += isinstance(belief.errors[0], ConnectFailed)
    assert failed > 5


def _has_more(proxy: Proxy, count: int) -> bool:
    return len(proxy.passages) > count


@pytest.mark.parametrize("way", ["up", "down"])
def test_half_of_each_step_arrives(way: str, scene: Scene) -> None:
    starts = scene.guard.starts(scene.sample()[way])
    for start in starts:
        scene.proxy.plan(**{way: Plan(held_after=start)})
        count = len(scene.proxy.passages)
        coming = Running(scene.attempt)
        scene.proxy.wait(partial(_has_more, scene.proxy, count), "a connection")
        halved: Way = getattr(scene.proxy.passage(count), way)
        halved.wait_for(start + 1)  # records of TLS may be a little longer than before
        halved.halve()
        coming.result().expect(ConnectFailed, ConnectionLost)


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_rest_is_lost_in_a_black_hole(way: str, scene: Scene) -> None:
    """The client does not wait for longer than it was told."""
    for start in scene.guard.starts(scene.sample()[way])[:-1]:
        scene.proxy.plan(**{way: Plan(held_after=start + 1)})
        scene.attempt(timeout=BRIEF).expect(ConnectFailed, DeadlineExceeded)
        scene.proxy.cut()


def test_the_server_waits_no_longer_than_it_was_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for a client that is lost in the middle of shaking hands."""
    sent = scene.sample()["up"]
    until(lambda: not scene.server.peers, "the end of the first client")
    for start in scene.guard.starts(sent)[:2]:  # what comes later may be behind the handshake
        with monkeypatch.context() as patched:
            server: Any = scene.ends.itself(scene.server)
            patched.setattr(server, "_handshake_timeout", BRIEF)
            if server._acceptor is not None and getattr(server._acceptor, "_secure", None) is not None:
                patched.setattr(server._acceptor._secure, "_time", BRIEF)
            scene.proxy.plan(up=Plan(held_after=start + 1))
            scene.attempt().expect(ConnectFailed, ConnectionLost)
