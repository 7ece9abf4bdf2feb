"""What gRPC's implementations show each other: its interop cases, by their names, as far as they apply here.

They do not apply where they are about what typedrpc does not have, or has in another place: compressed messages,
credentials, HTTP's caches. The sizes are those of the originals. What is a status code there is an error's class here.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ends import Colours, for_both
from tests.support import PATIENCE, Gate, Log, Tally, run_all, until
from typedrpc import (
    ArgumentValueError,
    Client,
    DeadlineExceeded,
    RemoteError,
    RpcError,
    Server,
    Service,
    UnknownCommand,
    current_call,
    rpc,
)

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]

LARGE_REQUEST: Final = 271_828
LARGE_RESPONSE: Final = 314_159
REQUEST_SIZES: Final[Sequence[int]] = (27_182, 8, 1_828, 45_904)
RESPONSE_SIZES: Final[Sequence[int]] = (31_415, 9, 2_653, 58_979)

UNKNOWN: Final = 2
"""The status code that the original asks for."""

INITIAL: Final = "x-grpc-test-echo-initial"
TRAILING: Final = "x-grpc-test-echo-trailing-bin"
METADATA: Final[Mapping[str, str | bytes]] = {INITIAL: "test_initial_metadata_value", TRAILING: b"\xab\xab\xab"}

WHITESPACE: Final = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
"""The text of the original."""

MAX_TEXT: Final = 4096
"""Characters of an error's text that travel."""


class Status(Exception):
    """An error with a code of its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Undeclared(Exception):
    pass


@dataclass
class Ask:
    """What the caller of a two-way stream sends."""

    sizes: list[int]
    body: bytes = b""
    status: tuple[int, str] | None = None


class Interop(Service):
    """The service of the originals, with typedrpc's own kinds of errors."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.gate = Gate()

    @rpc
    def empty_call(self) -> None:
        return None

    @rpc(raises=[Status])
    def unary_call(self, size: int, body: bytes = b"", status: tuple[int, str] | None = None) -> bytes:
        assert body.count(0) == len(body)
        echo_metadata()
        if status is not None:
            raise Status(*status)
        return bytes(size)

    @rpc
    def fail(self, kind: str, text: str) -> None:
        raise {"ValueError": ValueError, "Undeclared": Undeclared}[kind](text)

    @rpc
    def escape(self, kind: str, code_point: int) -> None:
        """Fail with one surrogate in the text."""
        self.fail(kind, f"<{chr(code_point)}>")

    @rpc(raises=[Status])
    def escape_declared(self, code_point: int) -> None:
        raise Status(UNKNOWN, chr(code_point))

    @rpc
    def streaming_input(self, bodies: Iterator[bytes]) -> int:
        with self.tally.running():
            return sum(map(len, bodies))

    @rpc
    def streaming_output(self, sizes: list[int]) -> Iterator[bytes]:
        yield from map(bytes, sizes)

    @rpc(raises=[Status])
    def full_duplex(self, asks: Iterator[Ask]) -> Iterator[bytes]:
        with self.tally.running():
            echo_metadata()
            for ask in asks:
                if ask.status is not None:
                    raise Status(*ask.status)
                yield from map(bytes, ask.sizes)

    @rpc
    async def full_duplex_async(self, asks: AsyncIterator[Ask]) -> AsyncIterator[bytes]:
        with self.tally.running():
            async for ask in asks:
                for size in ask.sizes:
                    yield bytes(size)

    @rpc
    def sleep(self, asks: Iterator[Ask]) -> Iterator[bytes]:
        """Sleep for as long as the caller wants an answer."""
        with self.tally.running():
            current_call().cancelled.wait()
            current_call().cancelled.check()
            yield b""


def echo_metadata() -> None:
    call = current_call()
    for key in (INITIAL, TRAILING):
        if key in call.metadata:
            call.reply_metadata[key] = call.metadata[key]


class Wider(Service, name="Interop"):
    """The same service as a later client knows it."""

    @rpc
    def empty_call(self) -> None: ...

    @rpc
    def unimplemented_call(self) -> None: ...


class Unimplemented(Service):
    @rpc
    def unimplemented_call(self) -> None: ...


@pytest.fixture
def served() -> Interop:
    return Interop()


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, served: Interop, tmp_path: Path, colours: Colours) -> Iterator[Server]:
    url = "tcp://127.0.0.1:0" if request.param == "tcp" else f"unix://{tmp_path}/server.sock"
    with colours.serve(served, url=url) as server:
        yield server
        served.gate.open()


@pytest.fixture
def client(server: Server, colours: Colours) -> Iterator[Client[Any]]:
    with colours.connect(server.url) as client:
        yield client


@pytest.fixture
def proxy(client: Client[Any]) -> Interop:
    return client.proxy(Interop)


def core_of(client: Client[Any]) -> Any:
    return client._link.connection.core


def large_unary(proxy: Interop) -> None:
    assert proxy.unary_call(LARGE_RESPONSE, bytes(LARGE_REQUEST)) == bytes(LARGE_RESPONSE)


class Asks:
    """The asks of one stream: each is given when the test has let it go; says when it was closed."""

    def __init__(self) -> None:
        self.closed = Gate()
        self.end = Gate()

    def __call__(self, *asks: Ask) -> Iterator[Ask]:
        try:
            yield from asks
            self.end.wait()
        finally:
            self.closed.open()


def test_empty_unary(proxy: Interop) -> None:
    """No arguments and no result: both go without a byte too many, and the call returns."""
    proxy.empty_call()
    assert proxy.empty_call.submit().result(PATIENCE) is None


def test_large_unary(proxy: Interop) -> None:
    """271 828 bytes there, 314 159 back. Both are above 64 KiB, and so go as segments, each read into its buffer."""
    large_unary(proxy)


def test_client_streaming(proxy: Interop) -> None:
    """Four messages of different sizes, the end of them, one answer: the sum."""
    assert proxy.streaming_input(map(bytes, REQUEST_SIZES)) == sum(REQUEST_SIZES) == 74_922


def test_server_streaming(proxy: Interop) -> None:
    """Exactly the four that were asked for, in order."""
    assert list(proxy.streaming_output(list(RESPONSE_SIZES))) == [bytes(size) for size in RESPONSE_SIZES]


def test_ping_pong(proxy: Interop) -> None:
    """Full duplex: each message is sent after the answer to the one before came, and the stream ends with theirs."""
    answered = Gate()
    answered.open()

    def asks() -> Iterator[Ask]:
        nonlocal answered
        for request, response in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
            answered.wait()
            answered = Gate()
            yield Ask([response], bytes(request))
        answered.wait()

    got = []
    for body in proxy.full_duplex(asks()):
        got.append(len(body))
        answered.open()
    assert tuple(got) == RESPONSE_SIZES


def test_ping_pong_of_async_iterators(proxy: Interop) -> None:
    """The same on an event loop, against a handler that runs on one."""

    async def main() -> list[int]:
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        async def asks() -> AsyncIterator[Ask]:
            for request, response in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
                yield Ask([response], bytes(request))
                assert len(await answers.get()) == response

        got = []
        async with asyncio.timeout(PATIENCE):
            async for body in proxy.full_duplex_async(asks()):
                got.append(len(body))
                answers.put_nowait(body)
        return got

    assert tuple(asyncio.run(main())) == RESPONSE_SIZES


def test_empty_stream(proxy: Interop) -> None:
    """No message in either direction: the stream ends, and is no error."""
    assert list(proxy.full_duplex(iter(()))) == []


def test_custom_metadata(proxy: Interop) -> None:
    """Text and bytes go with a call and come back with its answer. There is one answer, so initial and trailing
    metadata come together: with the result, for a stream with its end."""
    got: list[Mapping[str, str | bytes]] = []
    options: dict[str, Any] = {"metadata": METADATA, "on_metadata": got.append}
    body = bytes(LARGE_REQUEST)
    assert len(proxy.unary_call.with_options(**options)(LARGE_RESPONSE, body)) == LARGE_RESPONSE
    assert got == [METADATA]
    ask = Ask([LARGE_RESPONSE], body)
    assert [len(one) for one in proxy.full_duplex.with_options(**options)(iter([ask]))] == [LARGE_RESPONSE]
    assert got == [METADATA, METADATA]


def test_status_code_and_message(proxy: Interop) -> None:
    """A declared error has its fields at the caller, from a call and from a stream; its reply metadata come too."""
    status = (UNKNOWN, "test status message")
    with pytest.raises(Status) as caught:
        proxy.unary_call(1, status=status)
    assert (caught.value.code, caught.value.message) == status
    stream = proxy.full_duplex(iter([Ask([3]), Ask([], status=status)]))
    assert len(next(stream)) == 3
    with pytest.raises(Status) as caught:
        next(stream)
    assert (caught.value.code, caught.value.message) == status
    assert next(stream, None) is None
    got: list[Mapping[str, str | bytes]] = []
    with pytest.raises(Status):
        proxy.unary_call.with_options(metadata=METADATA, on_metadata=got.append)(1, status=status)
    assert got == [METADATA]


def all_of_unicode() -> Iterator[str]:
    """Every code point that text may have, in order and in texts that travel whole."""
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point <= 0xDFFF]
    for start in range(0, len(points), MAX_TEXT):
        yield "".join(map(chr, points[start : start + MAX_TEXT]))


SPECIAL: Final = {
    "the text of the original": WHITESPACE,
    "control characters": "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)])),
    "both directions": "\u202eabc\u202c \u2067\u05d0\u05d1\u2069 \u200f\u061c",
    "combining": "e\u0301 \u1e9b\u0323 " + "Z" + "\u0301" * 40,
    "joined": "\U0001f469\u200d\U0001f4bb \U0001f3f3\ufe0f\u200d\U0001f308",
    "not characters": "\ufdd0 \uffff \U0010ffff \ufeff",
    "lines": "a\x85b\u2028c\u2029d\x0be\x0cf\r\ng\rh\ni",
}


@pytest.mark.parametrize("text", SPECIAL.values(), ids=SPECIAL.keys())
def test_special_status_message(proxy: Interop, log: Log, text: str) -> None:
    """An error's text arrives as it was raised, whichever kind of error it is: nothing is normalised, nothing cut."""
    with pytest.raises(Status) as declared:
        proxy.unary_call(1, status=(UNKNOWN, text))
    assert declared.value.message == text
    with pytest.raises(ValueError) as builtin:  # noqa: PT011
        proxy.fail("ValueError", text)
    assert builtin.value.args == (text,)
    with pytest.raises(RemoteError) as remote:
        proxy.fail("Undeclared", text)
    assert log.line().startswith("Interop.fail failed in a call, error id ")
    stream = proxy.full_duplex(iter([Ask([], status=(UNKNOWN, text))]))
    with pytest.raises(Status) as streamed:
        next(stream)
    assert streamed.value.message == text
    assert remote.value.error_id


@for_both
def test_special_status_message_all_of_unicode(proxy: Interop) -> None:
    """Every code point of all 17 planes, assigned or not."""
    calls = [
        (text, proxy.unary_call.submit(1, status=(UNKNOWN, text)), proxy.fail.submit("ValueError", text))
        for text in all_of_unicode()
    ]
    assert sum(len(text) for text, _, _ in calls) == 0x110000 - 0x800
    for text, declared, builtin in calls:
        status, error = declared.exception(PATIENCE), builtin.exception(PATIENCE)
        assert isinstance(status, Status)
        assert status.message == text
        assert isinstance(error, ValueError)
        assert error.args == (text,)


@pytest.mark.parametrize("code_point", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_special_status_message_surrogates(proxy: Interop, log: Log, code_point: int) -> None:
    """Half a character is no text. As an argument it is refused in words, before anything is sent; in a handler's
    error it arrives escaped, or, where a declared field would have to carry it, as what could not travel."""
    with pytest.raises(ArgumentValueError, match=r"argument 'text': .*surrogate"):
        proxy.fail("ValueError", f"<{chr(code_point)}>")
    with pytest.raises(ValueError, match=rf"^<\\u{code_point:04x}>$"):
        proxy.escape("ValueError", code_point)
    with pytest.raises(RemoteError, match="Status"):
        proxy.escape_declared(code_point)
    assert "surrogate" in log.line()
    assert "Interop.escape_declared failed in a call" in log.line()


def test_unimplemented_method(client: Client[Any]) -> None:
    """The one command that the server does not have is refused by its name; the others of the contract are called."""
    wider = client.proxy(Wider)
    for _ in range(2):
        with pytest.raises(UnknownCommand, match=r"Interop\.unimplemented_call"):
            wider.unimplemented_call()
        wider.empty_call()


def test_unimplemented_service(client: Client[Any]) -> None:
    """A contract that the server does not serve: the connection goes on."""
    unimplemented = client.proxy(Unimplemented)
    with pytest.raises(UnknownCommand, match=r"Unimplemented\.unimplemented_call"):
        unimplemented.unimplemented_call()
    client.proxy(Interop).empty_call()


def test_cancel_after_begin(client: Client[Any], proxy: Interop, served: Interop) -> None:
    """Cancelled when the call has begun, and before a message of its stream went: the handler stops, and so does who
    makes the messages. The answer, which says so, is counted and dropped."""
    closed, end = Gate(), Gate()

    def bodies() -> Iterator[bytes]:
        try:
            end.wait()
            yield b""
        finally:
            closed.open()

    future = proxy.streaming_input.submit(bodies())
    served.tally.wait_for("running", 1)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    served.tally.wait_for("running", 0)
    end.open()
    closed.wait()
    until(lambda: not proxy.unary_call(0) and core_of(client).late_replies == 1)


def test_cancel_after_begin_at_once(client: Client[Any], proxy: Interop, served: Interop) -> None:
    """The cancel follows on the heels of the call, begun or not: nothing is left of either."""
    proxy.empty_call()
    for round in range(50):
        future = proxy.streaming_input.submit(map(bytes, REQUEST_SIZES))
        if future.cancel():
            assert future.cancelled()
        else:
            assert future.result(0) == sum(REQUEST_SIZES)
        assert future.done(), round
    proxy.empty_call()
    served.tally.wait_for("running", 0)
    core = core_of(client)
    until(lambda: not (core.calls.calls or core.inflows or core.outflows), "everything was forgotten")


@pytest.mark.parametrize("leave", ["close", "with", "collected"])
def test_cancel_after_first_response(proxy: Interop, served: Interop, leave: str) -> None:
    """After one message the caller has enough: the handler, which waits for the next of his, stops; so do his."""
    asks = Asks()
    stream = proxy.full_duplex(asks(Ask([31_415], bytes(27_182))))
    assert len(next(stream)) == 31_415
    served.tally.wait_for("running", 1)
    if leave == "close":
        stream.close()
        assert next(stream, None) is None
    elif leave == "with":
        with stream:
            pass
    else:
        del stream
    served.tally.wait_for("running", 0)
    asks.end.open()
    asks.closed.wait()
    proxy.empty_call()


@pytest.mark.parametrize("name", ["full_duplex", "full_duplex_async"])
def test_cancel_after_first_response_in_a_task(proxy: Interop, served: Interop, name: str) -> None:
    """The same by cancelling the task that waits for the second message."""
    closed = Gate()

    async def main() -> None:
        first = asyncio.Event()

        async def asks() -> AsyncIterator[Ask]:
            try:
                yield Ask([31_415], bytes(27_182))
                await asyncio.Event().wait()
            finally:
                closed.open()

        async def consume() -> None:
            async for _ in proxy.full_duplex_async(asks()):
                first.set()

        async def consume_plain() -> None:
            end = asks_plain(Ask([31_415], bytes(27_182)))
            async for _ in proxy.full_duplex.aio(end):
                first.set()

        task = asyncio.create_task(consume() if name == "full_duplex_async" else consume_plain())
        async with asyncio.timeout(PATIENCE):
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(served.tally.wait_for, "running", 0)
            asks_plain.end.open()
            await asyncio.to_thread((closed if name == "full_duplex_async" else asks_plain.closed).wait)

    asks_plain = Asks()
    asyncio.run(main())
    proxy.empty_call()


def test_timeout_on_sleeping_server(client: Client[Any], proxy: Interop, served: Interop) -> None:
    """A time-out of 1 ms, given to a stream, covers all of it: the error is raised by the call, if so much time passes
    before it is sent, or by the wait for the first message. The handler, if it began, ends."""
    proxy.empty_call()
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            next(proxy.sleep.with_options(timeout=0.001)(iter([Ask([], bytes(27_182))])))
    served.tally.wait_for("running", 0)
    proxy.empty_call()
    core = core_of(client)
    until(lambda: not (core.calls.calls or core.inflows or core.outflows), "everything was forgotten")


@for_both
def test_rpc_soak(client: Client[Any], proxy: Interop) -> None:
    """Large calls one after another on one connection, from one thread and from several: all succeed, and nothing is
    left. (The original counts failures and milliseconds.)"""
    for _ in range(200):
        large_unary(proxy)

    def some() -> None:
        for _ in range(50):
            large_unary(proxy)

    run_all([some] * 4)
    core = core_of(client)
    assert not core.calls.calls
    assert core.late_replies == 0


@for_both
def test_channel_soak(server: Server, colours: Colours) -> None:
    """The same with a connection for each call; the fixture looks for descriptors and threads that are left."""
    for _ in range(100):
        with colours.connect(Interop, server.url) as proxy:
            large_unary(proxy)
    until(lambda: not server.peers, "the server has let all of them go")


@for_both
@pytest.mark.parametrize("server", ["tcp"], indirect=True)
def test_concurrent_large_unary(proxy: Interop) -> None:
    """1 000 large calls at once on one connection: more than 250 MiB are on their way in each direction."""
    body = bytes(LARGE_REQUEST)
    futures: list[Future[bytes]] = [proxy.unary_call.submit(LARGE_RESPONSE, body) for _ in range(1000)]
    done, waiting = wait(futures, PATIENCE)
    assert not waiting
    assert all(future.result() == bytes(LARGE_RESPONSE) for future in done)


def test_concurrent_large_unary_from_threads(proxy: Interop) -> None:
    """The same from 20 threads that wait for each of theirs, while streams run beside them."""

    def some() -> None:
        for _ in range(10):
            large_unary(proxy)

    def stream() -> None:
        assert [len(body) for body in proxy.streaming_output([*RESPONSE_SIZES] * 20)] == [*RESPONSE_SIZES] * 20

    run_all([some] * 20 + [stream] * 4)


def test_each_error_is_of_the_one_root(proxy: Interop) -> None:
    """What is a status elsewhere is a class here, and whoever wants them all catches the root."""
    for make in (partial(proxy.unary_call.with_options(timeout=0), 1), partial(proxy.fail, "x", "\ud800")):
        with pytest.raises(RpcError):
            make()
