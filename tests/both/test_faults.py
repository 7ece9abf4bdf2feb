"""Each step of a conversation, and each way in which it can break: no hang, the documented error, nothing run twice.

A handler counts its runs by the key that it was given. What the caller believes is compared with that at the end: what
was answered has run once, whatever else was asked for has run once or not at all. After every fault the server serves
another client.

The places where a connection is cut are counted: a run without a fault is written down by the proxy, and its frames
give the offsets.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.ends import Ends, alike_ends
from tests.proxy import Passage, Plan, Proxy, Way
from tests.support import PATIENCE, Gate, Gates, Program, RawPeer, Running, Tally, until
from typedrpc import ConnectFailed, ConnectionLost, DeadlineExceeded, Service, deadline, rpc
from typedrpc.codec import pack_plain
from typedrpc.wire import HEADER_SIZE, PREAMBLE, Kind, unpack_header

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]
ends = alike_ends

URL: Final = "tcp://127.0.0.1:0"
LARGE: Final = 300_000
"""Bytes of a large argument and result: three pieces."""
HUGE: Final = 12 << 20
"""Bytes that no socket holds."""
COUNT: Final = 4
"""Items of a stream, calls of a map."""
BRIEF: Final = 0.1
"""Seconds of a deadline that has to pass, as no answer can come."""


class Ledger(Service):
    """Counts what runs, by key.

    Attributes:
        runs: How often each key has run; under ``"<key>: items"`` what its stream has given or taken.
        begun: Told of each run; what it does there, the handler waits for.
    """

    def __init__(self, begun: Callable[[str], object] = lambda key: None) -> None:
        self.runs = Tally()
        self.begun = begun

    def _run(self, key: str) -> None:
        self.runs.add(key)
        self.begun(key)

    @rpc
    def call(self, key: str) -> str:
        self._run(key)
        return key[::-1]

    @rpc
    def large(self, key: str, data: bytes) -> bytes:
        self._run(key)
        return data

    @rpc
    def pull(self, key: str, count: int) -> Iterator[int]:
        self._run(key)
        for number in range(count):
            self.runs.add(f"{key}: items")
            yield number

    @rpc
    def push(self, key: str, items: Iterator[int]) -> int:
        self._run(key)
        total = 0
        for item in items:
            self.runs.add(f"{key}: items")
            total += item
        return total

    @rpc
    def swallow(self, key: str, items: Iterator[bytes]) -> int:
        self._run(key)
        return sum(map(len, items))

    @rpc
    def pour(self, key: str, size: int) -> Iterator[bytes]:
        self._run(key)
        while True:
            yield bytes(size)

    @rpc
    def back(self, key: str, ask: Callable[[int], int]) -> int:
        self._run(key)
        return ask(1) + ask(2)

    @rpc
    def note(self, key: str) -> None:
        self._run(key)

    @rpc
    def note_large(self, key: str, data: bytes) -> None:
        self._run(key)

    @rpc
    def count(self, key: str) -> int:
        return self.runs[key]


class Belief:
    """What a caller knows of the keys that he has asked for.

    Attributes:
        answered: Those that were answered, which must have run.
        asked: All of them.
        errors: What he was told of the others.
        items: Items that he got of a stream, by key.
        callbacks: How often his callback has run, by argument.
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.answered: set[str] = set()
        self.asked: set[str] = {tag}
        self.errors: list[BaseException] = []
        self.items = Tally()
        self.callbacks = Tally()

    def check(self, runs: Callable[[str], int]) -> None:
        """Compare with what has run."""
        for key in self.asked:
            allowed = (1,) if key in self.answered else (0, 1)
            assert runs(key) in allowed, f"{key} ran {runs(key)} times; answered: {key in self.answered}"
            assert self.items[key] <= runs(f"{key}: items"), f"{key}: items that nobody gave"
        for argument in ("1", "2"):
            assert self.callbacks[argument] <= runs(self.tag), f"the callback ran too often: {argument}"

    def expect(self, *kinds: type[BaseException]) -> None:
        """It has failed, with such an error; a one-way call cannot be told."""
        (error,) = self.errors
        assert isinstance(error, kinds), repr(error)


def call(ledger: Ledger, belief: Belief) -> None:
    assert ledger.call(belief.tag) == belief.tag[::-1]
    belief.answered.add(belief.tag)


def large(ledger: Ledger, belief: Belief) -> None:
    assert ledger.large(belief.tag, bytes(LARGE)) == bytes(LARGE)
    belief.answered.add(belief.tag)


def future(ledger: Ledger, belief: Belief) -> None:
    assert ledger.call.submit(belief.tag).result(PATIENCE) == belief.tag[::-1]
    belief.answered.add(belief.tag)


def awaited(ledger: Ledger, belief: Belief) -> None:
    async def main() -> str:
        return await ledger.call.aio(belief.tag)

    assert asyncio.run(main()) == belief.tag[::-1]
    belief.answered.add(belief.tag)


def mapped(ledger: Ledger, belief: Belief) -> None:
    keys = [f"{belief.tag}.{number}" for number in range(COUNT)]
    belief.asked.update(keys)
    results = ledger.call.map(keys)
    for key in keys:
        assert next(results) == key[::-1]
        belief.answered.add(key)
    belief.asked.remove(belief.tag)


def pull(ledger: Ledger, belief: Belief) -> None:
    items = ledger.pull(belief.tag, COUNT)
    for number, item in enumerate(items):
        assert item == number
        belief.items.add(belief.tag)
    assert belief.items[belief.tag] == COUNT
    belief.answered.add(belief.tag)


def push(ledger: Ledger, belief: Belief) -> None:
    assert ledger.push(belief.tag, iter(range(COUNT))) == sum(range(COUNT))
    belief.answered.add(belief.tag)


def back(ledger: Ledger, belief: Belief) -> None:
    def ask(number: int) -> int:
        belief.callbacks.add(str(number))
        return 10 * number

    assert ledger.back(belief.tag, ask) == 30
    assert [belief.callbacks[argument] for argument in ("1", "2")] == [1, 1]
    belief.answered.add(belief.tag)


def note(ledger: Ledger, belief: Belief) -> None:
    ledger.note.notify(belief.tag)


Step = Callable[[Ledger, Belief], None]
STEPS: Final[dict[str, Step]] = {
    "call": call,
    "large call": large,
    "future": future,
    "awaited": awaited,
    "map": mapped,
    "stream out": pull,
    "stream in": push,
    "callback": back,
    "one-way": note,
}
ANSWERED: Final = [name for name in STEPS if name != "one-way"]
for_steps: Final = pytest.mark.parametrize("step", STEPS)


def attempt(step: str, ledger: Ledger, tag: str) -> Belief:
    """Take a step that may fail; what is known then."""
    belief = Belief(tag)
    try:
        STEPS[step](ledger, belief)
    except (ConnectionLost, ConnectFailed, DeadlineExceeded) as error:
        belief.errors.append(error)
    return belief


def offsets_in(data: bytes) -> list[int]:
    """Where it is worth cutting: around the ends of frames and headers, and amid them."""
    found: set[int] = set()
    start = 0
    if data.startswith(PREAMBLE):
        found.update(range(0, len(PREAMBLE), 3))
        start = len(PREAMBLE)
    while start < len(data):
        end = start + HEADER_SIZE + unpack_header(data, start)[0]
        body = start + HEADER_SIZE
        found.update((start, start + 1, body - 1, body, body + 1, (body + end) // 2, end - 1))
        start = end
    assert start == len(data), "a run without a fault ends with a whole frame"
    return sorted(offset for offset in found if offset < len(data))


def serves_on(ends: Ends, url: str, belief: Belief) -> None:
    """Another client is served."""
    with ends.connect(Ledger, url) as ledger:
        call(ledger, belief)


class Scene:
    """A server with a proxy in front of it, and what was believed in the course of a test."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self.ledger = Ledger()
        self.beliefs: list[Belief] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Scene":
        self.server = self._stack.enter_context(self.ends.Server(self.ledger, url=URL))
        self.proxy = self._stack.enter_context(Proxy(self.server.url))
        return self

    def __exit__(self, *exception: object) -> None:
        with self._stack:
            if exception[0] is None:
                self.proxy.cut()
                self.serves_on()
                until(lambda: not self.server.peers, "the end of all connections")
        if exception[0] is None:  # nothing runs any more
            for belief in self.beliefs:
                belief.check(self.ledger.runs.__getitem__)

    def connect(self) -> Any:
        return self.ends.connect(Ledger, self.proxy.url)

    def attempt(self, step: str, ledger: Ledger) -> Belief:
        belief = attempt(step, ledger, f"key {len(self.beliefs)}")
        self.beliefs.append(belief)
        return belief

    def serves_on(self) -> bool:
        """Others are served; returns False, to be done while something is waited for."""
        belief = Belief(f"key {len(self.beliefs)}")
        serves_on(self.ends, self.server.url, belief)
        self.beliefs.append(belief)
        return False

    def count(self, step: str) -> tuple[bytes, bytes]:
        """What passes each way in a step without a fault, once all that is said only once has been said."""
        with self.connect() as ledger:
            passage = self.proxy.passage()
            self.attempt(step, ledger)
            self._settle(passage, step)
            before = len(passage.up.came), len(passage.down.came)
            belief = self.attempt(step, ledger)
            self._settle(passage, step)
            up, down = bytes(passage.up.came[before[0] :]), bytes(passage.down.came[before[1] :])
        assert not belief.errors
        return up, down

    def _settle(self, passage: Passage, step: str) -> None:
        """Until the last frame has come: nobody waits for it where it asks for no answer."""
        if step == "one-way":
            self.ledger.runs.wait_for(self.beliefs[-1].tag, 1)


def test_the_handshake_is_cut(ends: Ends) -> None:
    with Scene(ends) as scene:
        with scene.connect() as ledger:
            scene.attempt("call", ledger)
            passage = scene.proxy.passage()
            sent, got = bytes(passage.up.came), bytes(passage.down.came)
        failed = 0
        for way, data in (("up", sent), ("down", got)):
            for number, offset in enumerate(offsets_in(data)):
                plan = Plan(cut_after=offset, reset=number % 2 == 0)
                scene.proxy.plan(**{way: plan})
                try:
                    with scene.connect() as ledger:
                        scene.attempt("call", ledger).expect(ConnectionLost, ConnectFailed)
                except ConnectFailed:
                    failed += 1
        assert failed > 10
        scene.proxy.plan()
        scene.serves_on()


def places(scene: Scene, step: str, way: str) -> list[int]:
    up, down = scene.count(step)
    return offsets_in(up if way == "up" else down)


@pytest.mark.parametrize("way", ["up", "down"])
@for_steps
def test_the_connection_is_cut_at_each_place(step: str, way: str, ends: Ends) -> None:
    with Scene(ends) as scene:
        offsets = places(scene, step, way)
        assert offsets or (step, way) == ("one-way", "down")
        for number, offset in enumerate(offsets):
            with scene.connect() as ledger:
                scene.attempt(step, ledger)  # what is said only once is said
                passage = scene.proxy.passage()
                if step == "one-way":
                    scene.ledger.runs.wait_for(scene.beliefs[-1].tag, 1)
                cut: Way = getattr(passage, way)
                cut.cut_after(offset, reset=(number // 7) % 2 == 0)
                belief = scene.attempt(step, ledger)
                is_plain = step in ("call", "large call", "future", "awaited")
                if belief.errors:
                    belief.expect(ConnectionLost)
                elif is_plain:
                    # It did not run: it was sent after the cut, or not as a whole. Then it goes by another connection.
                    assert way == "up" or offset == 0
                    assert scene.proxy.passage() is not passage
                # Otherwise fewer frames, as more went into each; or one that comes behind the answer.
                if is_plain:
                    assert passage.was_cut


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("step", ANSWERED)
def test_half_of_what_is_on_its_way_arrives(step: str, way: str, ends: Ends) -> None:
    with Scene(ends) as scene, scene.connect() as ledger:
        scene.attempt(step, ledger)
        passage = scene.proxy.passage()
        halved: Way = getattr(passage, way)
        halved.hold()
        before = len(halved.came)
        taking = Running(scene.attempt, step, ledger)
        halved.wait_for(before + 2)
        halved.halve()
        taking.result().expect(ConnectionLost)
        passage.wait()


@for_steps
def test_pieces_change_nothing(step: str, ends: Ends) -> None:
    with Scene(ends) as scene:
        for size in (1, 13) if step != "large call" else (4099,):
            scene.proxy.plan(up=Plan(piece=size), down=Plan(piece=size))
            with scene.connect() as ledger:
                belief = scene.attempt(step, ledger)
                assert not belief.errors
                assert step == "one-way" or belief.answered
                if step == "one-way":
                    scene.ledger.runs.wait_for(belief.tag, 1)


@pytest.mark.parametrize("lost", ["up", "down", "both"])
@for_steps
def test_a_peer_that_is_half_open(step: str, lost: str, ends: Ends) -> None:
    with Scene(ends) as scene:
        with scene.connect() as ledger:
            scene.attempt("call", ledger)
            passage = scene.proxy.passage()
            for way in ("up", "down"):
                if lost in (way, "both"):
                    getattr(passage, way).lose()
            with deadline(BRIEF):
                belief = scene.attempt(step, ledger)
            if step == "one-way":
                assert not belief.errors
            else:
                belief.expect(DeadlineExceeded)
            scene.serves_on()
            passage.cut()


def test_a_half_open_server_does_not_shake_hands(ends: Ends) -> None:
    with Scene(ends) as scene:
        for plan in ({"up": Plan(lost=True)}, {"down": Plan(lost=True)}, {"up": Plan(clogged=True)}):
            scene.proxy.plan(**plan)
            with pytest.raises(ConnectFailed):
                ends.connect(Ledger, scene.proxy.url, timeout=BRIEF)
        scene.proxy.plan()


# Sockets that are full


def huge(ledger: Ledger) -> object:
    return ledger.large("huge", bytes(HUGE))


def huge_stream(ledger: Ledger) -> object:
    return ledger.swallow("huge stream", iter(lambda: bytes(1 << 20), None))


def huge_map(ledger: Ledger) -> object:
    keys = [f"huge map {number}" for number in range(COUNT)]
    return list(ledger.large.map(keys, [bytes(HUGE)] * COUNT))


def huge_result(ledger: Ledger) -> object:
    return sum(map(len, ledger.pour("pour", 1 << 20)))


@pytest.mark.parametrize("work", [huge, huge_stream, huge_map])
def test_a_server_that_does_not_read(work: Callable[[Ledger], object], ends: Ends) -> None:
    with Scene(ends) as scene:
        with scene.connect() as ledger:
            scene.attempt("call", ledger)
            passage = scene.proxy.passage()
            passage.up.clog()
            with pytest.raises(DeadlineExceeded), deadline(BRIEF):
                work(ledger)
            scene.serves_on()
            passage.cut()
        for key in ("huge", "huge stream", *(f"huge map {number}" for number in range(COUNT))):
            assert scene.ledger.runs[key] <= 1


def test_a_server_that_does_not_read_and_reads_again(ends: Ends) -> None:
    with Scene(ends) as scene, scene.connect() as ledger:
        scene.attempt("call", ledger)
        passage = scene.proxy.passage()
        passage.up.clog()
        with pytest.raises(DeadlineExceeded), deadline(BRIEF):
            huge(ledger)
        passage.up.unclog()
        assert not scene.attempt("large call", ledger).errors


@pytest.mark.parametrize("work", [huge, huge_map, huge_result])
def test_a_client_that_does_not_read(work: Callable[[Ledger], object], ends: Ends) -> None:
    with Scene(ends) as scene:
        with scene.connect() as ledger:
            scene.attempt("call", ledger)
            passage = scene.proxy.passage()
            passage.down.clog()
            with pytest.raises(DeadlineExceeded), deadline(BRIEF):
                work(ledger)
            scene.serves_on()
            passage.cut()


def test_a_peer_that_asks_and_never_reads(ends: Ends) -> None:
    """What it asked for has run once, or not yet; and others are served while its socket is full."""
    asked = 40
    with Scene(ends) as scene:
        with RawPeer.dial(scene.server.url, receive_buffer=4096) as peer:
            peer.shake_hands()

            def ask() -> None:
                for number in range(asked):
                    payload = pack_plain([f"raw {number}", bytes(1 << 20)])
                    peer.send_frame(Kind.REQUEST, Ledger.large.id, 2 * number + 1, payload)

            asking = Running(ask)
            until(lambda: scene.serves_on() or scene.ledger.runs["raw 4"], "more answers than its socket takes")
            for _ in range(10):
                scene.serves_on()
            peer.sock.shutdown(socket.SHUT_RDWR)
            asking.error()
        until(lambda: not scene.server.peers, "its end")
        assert all(scene.ledger.runs[f"raw {number}"] <= 1 for number in range(asked))


# Processes that are killed, and that are stopped

SERVING: Final = """
    import threading
    from tests.ends import Ends
    from tests.both.test_faults import Ledger, URL
    lock = threading.Lock()
    def begun(key):
        with lock:
            say(key)
        threading.Event().wait()
    ledger = Ledger(begun if {halts} else lambda key: None)
    with Ends(server={server!r}).Server(ledger, url=URL) as server:
        say(server.url)
        hear()
"""


def test_the_server_is_killed_within_each_step(ends: Ends) -> None:
    with Program(SERVING.format(server=ends.server, halts=True), measured=False) as program, ExitStack() as stack:
        url = program.hear()
        ledgers = {step: stack.enter_context(ends.connect(Ledger, url)) for step in STEPS}
        running = {step: Running(attempt, step, ledger, step) for step, ledger in ledgers.items()}
        begun: list[str] = []
        while {key.partition(".")[0] for key in begun} != set(STEPS):
            begun.append(program.hear())
        program.process.kill()
        beliefs = {step: one.result() for step, one in running.items()}
        for step in ANSWERED:
            beliefs[step].expect(ConnectionLost)
            assert not beliefs[step].answered
        rest, _ = program.process.communicate()
        begun += rest.split("\n")[:-1]
        for belief in beliefs.values():
            belief.check(lambda key: begun.count(key.removesuffix(": items")))


CALLING: Final = """
    from contextlib import ExitStack
    import threading
    from tests.ends import Ends
    from tests.both.test_faults import STEPS, Belief, Ledger
    for step in STEPS:
        opened = Ends(client={client!r}).connect(Ledger, {url!r})
        ledger = opened.__enter__()
        threading.Thread(target=STEPS[step], args=(ledger, Belief(step)), daemon=True).start()
    say("all have begun")
    threading.Event().wait()
"""


def test_the_client_is_killed_within_each_step(ends: Ends) -> None:
    go = Gate()
    with Scene(ends) as scene:
        started = Gates()

        def begun(key: str) -> None:
            started[key.partition(".")[0]].open()  # of a map, by the first of its calls
            go.wait()

        scene.ledger.begun = begun
        with Program(CALLING.format(client=ends.client, url=scene.server.url), measured=False) as program:
            assert program.hear() == "all have begun"
            for step in STEPS:
                started[step].wait()
            program.process.kill()
            program.process.wait(PATIENCE)
            scene.ledger.begun = lambda key: None
            go.open()
            until(lambda: not scene.server.peers, "the end of its connections")
        for step in STEPS:
            keys = [f"{step}.{number}" for number in range(COUNT)] if step == "map" else [step]
            assert [scene.ledger.runs[key] <= 1 for key in keys] == [True] * len(keys)


def test_the_server_is_stopped_and_goes_on(ends: Ends) -> None:
    with Program(SERVING.format(server=ends.server, halts=False), measured=False) as program, ExitStack() as stack:
        url = program.hear()
        ledgers = {step: stack.enter_context(ends.connect(Ledger, url)) for step in STEPS}
        for step, ledger in ledgers.items():
            assert not attempt(step, ledger, f"{step} before").errors
        program.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.process.pid, os.WSTOPPED)  # until all its threads stand still
        try:

            def take(step: str) -> Belief:
                with deadline(BRIEF):
                    return attempt(step, ledgers[step], step)

            running = {step: Running(take, step) for step in STEPS}
            beliefs = {step: one.result() for step, one in running.items()}
            with pytest.raises(ConnectFailed):
                ends.connect(Ledger, url, timeout=BRIEF)
        finally:
            program.signal(signal.SIGCONT)
        for step in ANSWERED:
            beliefs[step].expect(DeadlineExceeded)
        for step, ledger in ledgers.items():
            again = attempt(step, ledger, f"{step} after")
            assert not again.errors
            again.check(ledger.count)
            if step == "one-way":
                assert ledger.count(step) == 1  # it is not answered, so nothing ends it
        serves_on(ends, url, fresh := Belief("fresh"))
        with ends.connect(Ledger, url) as ledger:
            for belief in (*beliefs.values(), fresh):
                belief.check(ledger.count)
