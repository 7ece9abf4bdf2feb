"""Exceptions of signal handlers, ``KeyboardInterrupt`` first of all, wherever in a call they come.

The interpreter runs signal handlers between two bytecodes of the main thread. The tests that sweep a call raise at each
of these points in turn; the others send real signals.
"""

import dis
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import CodeType, FrameType
from typing import Any, Final

import pytest

import typedrpc
from tests.certificates import of_client, of_server
from tests.support import Gate, Program, Running, Workshop, handling, serving_process
from typedrpc import Client, ConnectionLost, Peer, Retry, Server, Tls, connect

pytestmark = pytest.mark.usefixtures("no_leaks")

LIBRARY: Final = os.path.dirname(typedrpc.__file__)
CODEC: Final = os.path.join(LIBRARY, "codec")
CHECKED_AFTER: Final = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME"}
"""Bytecodes after which the interpreter looks for signals."""


def traces_opcodes_at_once() -> bool:
    """Whether a function's opcodes are traced the first time that it runs. CPython 3.13 begins the second time."""

    def traced() -> list[int]:
        return [len("a"), len("b")]

    counts = []
    for _ in range(2):
        opcodes: list[int] = []

        def step(frame: FrameType, event: str, argument: object, seen: list[int] = opcodes) -> Any:
            seen.append(frame.f_lasti)
            return step

        def enter(frame: FrameType, event: str, argument: object, step: Any = step) -> Any:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return step

        before = sys.gettrace()
        sys.settrace(enter)
        traced()
        sys.settrace(before)
        counts.append(len(opcodes))
    return counts[0] == counts[1]


# Asked once, for code that was not traced before, as that of each test is.
RELIABLE: Final = traces_opcodes_at_once()


def sweep(test: Callable[..., None]) -> Callable[..., None]:
    """A test that raises at every point.

    In a thread of its own: an exception that a trace function raises where the interpreter leaves an ``except`` makes
    the thread believe for good that it handles another one, which later exceptions are then chained to.
    """

    @functools.wraps(test)
    def in_a_thread(*args: Any, **kwargs: Any) -> None:
        outcome: Future[None] = Future()

        def run() -> None:
            try:
                test(*args, **kwargs)
                outcome.set_result(None)
            except BaseException as error:
                outcome.set_exception(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()  # what hangs is ended by the suite's time-out
        outcome.result()

    reliable = pytest.mark.skipif(
        not RELIABLE,
        reason="this interpreter does not trace opcodes reliably, which is how an exception is put at every point; the "
        "tests that send real signals run on every interpreter",
    )
    marked: Callable[..., None] = pytest.mark.unmeasured(reliable(in_a_thread))
    return marked


class Interruption(Exception):
    """What a signal handler raises."""


class Injector:
    """Raises at the n-th point at which the library's code could be interrupted in this thread."""

    def __init__(self, point: int, error: BaseException) -> None:
        self._left = point
        self._error = error
        self._last: dict[FrameType, int] = {}
        self._names: dict[CodeType, dict[int, str]] = {}
        self.where = ""

    def __enter__(self) -> "Injector":
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        if self.where or not file.startswith(LIBRARY) or file.startswith(CODEC):
            return None
        if frame.f_code.co_name == "__del__":  # whatever comes out of it goes nowhere
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode" and not self.where:
            if self._is_checked(frame):
                self._left -= 1
                if not self._left:
                    self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"
                    raise self._error
            self._last[frame] = frame.f_lasti
        elif event == "return" and frame.f_back is not None:
            # No signal is looked for when a Python function returns.
            self._last[frame.f_back] = -1
        return self._step

    def _is_checked(self, frame: FrameType) -> bool:
        last = self._last.get(frame)
        if last is None:
            return True
        names = self._names.get(frame.f_code)
        if names is None:
            names = {item.offset: item.opname for item in dis.get_instructions(frame.f_code)}
            self._names[frame.f_code] = names
        return names.get(last) in CHECKED_AFTER


def call(proxy: Workshop) -> object:
    return proxy.add(1, 2)


def call_in_time(proxy: Workshop) -> object:
    return proxy.add.with_options(timeout=60)(1, 2)


def call_much(proxy: Workshop) -> object:
    return len(proxy.echo(bytes(140_000)))


def submit(proxy: Workshop) -> object:
    return proxy.add.submit(1, 2)


def notify(proxy: Workshop) -> object:
    proxy.note.notify("n")
    return None


def call_many(proxy: Workshop) -> object:
    return list(proxy.add.map([1, 2, 3]))


FORMS = [call, call_in_time, call_much, submit, notify, call_many]


def stride(form: Callable[[Workshop], object]) -> int:
    """From point to point: those of the forms with most of them lie dense enough when two of three are left out."""
    return 3 if form in (call_much, call_many) else 1


def check_use(client: Client[Workshop], proxy: Workshop, before: Peer, error: type[BaseException]) -> bool:
    """The connection works, or has ended and says why, and the client dials again. Returns whether it works.

    Args:
        client: Whose call was interrupted.
        proxy: What it gives.
        before: The other end of the connection that the call was made on.
        error: What interrupted it.
    """
    probes: list[Callable[[], int]] = [lambda: proxy.add(3, 4), lambda: proxy.add.submit(3, 4).result(10)]
    for probe in probes:
        assert Running(probe).result() == 7
    if client.peer is before:
        return True
    with pytest.raises(ConnectionLost, match="interrupted") as caught:
        before.set_limit(max_message_size=1_000_000)
    assert isinstance(caught.value.__cause__, error)
    return False


@sweep
@pytest.mark.parametrize(
    ("form", "error"),
    [
        *((form, KeyboardInterrupt) for form in FORMS),
        (call, Interruption),
        (call, TimeoutError),
        (call_in_time, TimeoutError),
    ],
    ids=lambda value: value.__name__,
)
def test_an_interrupt_anywhere_in_a_call(form: Callable[[Workshop], object], error: type[BaseException]) -> None:
    interrupt_at_points(form, error, stride(form))


@sweep
@pytest.mark.parametrize(
    ("form", "every"),
    [(call, 1), (call_in_time, 5), (call_much, 11)],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_interrupt_anywhere_in_a_call_with_tls(form: Callable[[Workshop], object], every: int) -> None:
    interrupt_at_points(form, KeyboardInterrupt, every, "tls://127.0.0.1:0", of_server(), of_client())


def interrupt_at_points(
    form: Callable[[Workshop], object],
    error: type[BaseException],
    every: int,
    url: str = "tcp://127.0.0.1:0",
    of_server: Tls | None = None,
    of_client: Tls | None = None,
) -> None:
    with Server(Workshop(), url=url, tls=of_server) as server:
        point, survived = 1 - every, 0
        while True:
            point += every
            client = connect(Workshop, server.url, tls=of_client)
            peer = client.peer
            with client as proxy:
                form(proxy)
                if form in (submit, notify):
                    proxy.add(1)
                with Injector(point, error("injected")) as injector:
                    try:
                        form(proxy)
                    except error:
                        assert injector.where
                    except ConnectionLost as lost:
                        assert isinstance(lost.__cause__, error), injector.where
                if not injector.where:
                    break
                try:
                    survived += check_use(client, proxy, peer, error)
                except BaseException as problem:
                    problem.add_note(f"after point {point}, {injector.where}")
                    raise
        assert point > 10
        assert survived


@sweep
@pytest.mark.parametrize(
    ("form", "retry"),
    [*((form, None) for form in FORMS), (call, Retry()), (submit, Retry())],
    ids=lambda value: value.__name__ if callable(value) else "retry" if value else "",
)
def test_an_interrupt_anywhere_in_a_call_that_dials_again(
    form: Callable[[Workshop], object], retry: Retry | None
) -> None:
    """At every seventh point. Nobody is left waiting for a connection that nobody makes."""
    with Server(Workshop(), url="tcp://127.0.0.1:0") as server:
        point = -6
        while True:
            point += 7
            client = connect(Workshop, server.url, retry=retry)
            with client as proxy:
                proxy.add(1)
                for peer in server.peers:
                    peer.close("that is enough")
                with Injector(point, KeyboardInterrupt()) as injector:
                    try:
                        form(proxy)
                    except KeyboardInterrupt:
                        assert injector.where
                    except ConnectionLost as lost:
                        assert isinstance(lost.__cause__, KeyboardInterrupt), injector.where
                try:
                    assert Running(proxy.add, 3, 4).result() == 7
                    assert Running(proxy.add.submit(3, 4).result, 10).result() == 7
                except BaseException as problem:
                    problem.add_note(f"after point {point}, {injector.where}")
                    raise
            if not injector.where:
                break
        assert point > 50


@sweep
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_an_interrupt_anywhere_while_another_thread_waits(form: Callable[[Workshop], object]) -> None:
    workshop = Workshop()
    with Server(workshop, url="tcp://127.0.0.1:0") as server:
        point = 1 - stride(form)
        while True:
            point += stride(form)
            name = str(point)
            client = connect(Workshop, server.url)
            peer = client.peer
            with client as proxy:
                waiting = Running(proxy.wait, name)
                future = proxy.wait.submit(name)
                workshop.started[name].wait()
                with Injector(point, KeyboardInterrupt()) as injector:
                    try:
                        form(proxy)
                    except KeyboardInterrupt:
                        assert injector.where
                    except ConnectionLost as lost:
                        assert isinstance(lost.__cause__, KeyboardInterrupt), injector.where
                try:
                    works = check_use(client, proxy, peer, KeyboardInterrupt)
                    workshop.gates[name].open()
                    if works:
                        assert waiting.result() == name
                        assert future.result(10) == name
                    else:
                        assert isinstance(waiting.error(), ConnectionLost)
                        assert isinstance(future.exception(10), ConnectionLost)
                except BaseException as problem:
                    problem.add_note(f"after point {point}, {injector.where}")
                    raise
                if not injector.where:
                    break
        assert point > 10


@sweep
@pytest.mark.parametrize(("timeout", "first"), [(None, 1), (60.0, 2)])
def test_an_interrupt_anywhere_in_a_thread_that_reads_for_others(timeout: float | None, first: int) -> None:
    """It reads what others wait for, and hands the role over to one of them at the end. At every second point each."""
    workshop = Workshop()
    with Server(workshop, url="tcp://127.0.0.1:0") as server:
        point = first - 2
        while True:
            point += 2
            names = [f"{point}{letter}" for letter in "abc"]
            client = connect(Workshop, server.url)
            peer = client.peer
            with client as proxy:

                def others(names: list[str] = names, proxy: Workshop = proxy) -> list[object]:
                    """Two calls and a future, begun when the main thread reads; then its own call is let finish."""
                    workshop.started[names[0]].wait()
                    first, second = Running(proxy.wait, names[1]), Running(proxy.wait, names[2])
                    try:
                        future = proxy.add.submit(1)
                    except ConnectionLost as lost:
                        return [lost, first.error(), second.error()]
                    results: list[object] = []
                    try:
                        workshop.started[names[1]].wait()
                        workshop.started[names[2]].wait()
                    finally:
                        for name in (names[1], names[0], names[2]):
                            workshop.gates[name].open()
                    for one in (first, second):
                        error = one.error()
                        results.append(error or one.result())
                    results.append(future.exception(10) or future.result())
                    return results

                helping: Running[list[object]] = Running(others)
                with Injector(point, KeyboardInterrupt()) as injector:
                    try:
                        proxy.wait.with_options(timeout=timeout)(names[0])
                    except KeyboardInterrupt:
                        assert injector.where
                    except ConnectionLost as lost:
                        assert isinstance(lost.__cause__, KeyboardInterrupt), injector.where
                try:
                    for name in names:
                        workshop.gates[name].open()
                        workshop.started[name].open()
                    results = helping.result()
                    if check_use(client, proxy, peer, KeyboardInterrupt):
                        assert results == [names[1], names[2], 1]
                    else:
                        assert all(
                            isinstance(result, ConnectionLost) or result in (names[1], names[2], 1)
                            for result in results
                        )
                except BaseException as problem:
                    problem.add_note(f"after point {point}, {injector.where}")
                    raise
            if not injector.where:
                break
        assert point > 30


# A socket that no variable has yet can only be closed by the garbage collector.
@sweep
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", [1, 4, 7])
def test_an_interrupt_anywhere_while_connecting(first: int) -> None:
    """At every ninth point, from this one on, and so at every third of some thousands altogether."""
    with Server(Workshop(), url="tcp://127.0.0.1:0") as server:
        point = first - 9
        while True:
            point += 9
            client: Client[Workshop] | None = None
            with Injector(point, KeyboardInterrupt()) as injector:
                try:
                    client = connect(Workshop, server.url)
                except KeyboardInterrupt:
                    assert injector.where
            if client is not None:
                client.close()
            if not injector.where:
                break
        gc.collect()
        with connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1


def raise_interruption(number: int, frame: FrameType | None) -> None:
    raise Interruption


def raise_time_out(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("my own time-out")


def raise_keyboard_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (raise_keyboard_interrupt, KeyboardInterrupt),
        (raise_interruption, Interruption),
        (raise_time_out, TimeoutError),
    ],
)
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("place", ["reading", "parked"])
def test_a_signal_while_a_call_waits(
    handler: Callable[[int, FrameType | None], object],
    error: type[BaseException],
    timeout: float | None,
    place: str,
) -> None:
    """The call is given up, and nothing else, if it came while nothing was sent or read; mostly it does."""
    main = threading.main_thread().ident
    assert main is not None
    survived = 0
    for _ in range(20):
        workshop = Workshop()
        with Server(workshop, url="tcp://127.0.0.1:0") as server, connect(server.url) as client:
            proxy, peer = client.proxy(Workshop), client.peer
            other = Running(proxy.wait, "other") if place == "parked" else None
            if other is not None:
                workshop.started["other"].wait()

            def interrupt(workshop: Workshop = workshop) -> None:
                workshop.started["mine"].wait()
                signal.pthread_kill(main, signal.SIGUSR1)

            with handling(signal.SIGUSR1, handler):
                interrupting = Running(interrupt)
                with pytest.raises(error):
                    proxy.wait.with_options(timeout=timeout)("mine")
            interrupting.result()
            works = check_use(client, proxy, peer, error)
            survived += works
            workshop.gates["mine"].open()
            workshop.gates["other"].open()
            if other is not None:
                error_of_other = other.error()
                assert error_of_other is None if works else isinstance(error_of_other, ConnectionLost)
            if works:
                assert proxy.add(2) == 2
        if survived > 3:
            break
    assert survived


def test_a_signal_handler_that_raises_nothing_disturbs_nothing() -> None:
    workshop = Workshop()
    with Server(workshop, url="tcp://127.0.0.1:0") as server, connect(Workshop, server.url) as proxy:
        main = threading.main_thread().ident
        assert main is not None
        seen = []
        gate = Gate()

        def disturb() -> None:
            workshop.started["a"].wait()
            for _ in range(20):
                signal.pthread_kill(main, signal.SIGUSR1)
            workshop.gates["a"].open()
            gate.open()

        with handling(signal.SIGUSR1, lambda number, frame: seen.append(number)):
            disturbing = Running(disturb)
            assert proxy.wait("a") == "a"
            gate.wait()
            disturbing.result()
        assert seen


CTRL_C = """
    import signal, threading
    from tests.support import Running, Workshop, handling
    from typedrpc import ConnectionLost, connect
    url = hear()
    def ask(proxy, stop):
        count = 0
        while not stop.is_set():
            try:
                assert proxy.add(count, 1) == count + 1
            except ConnectionLost:
                return -1
            count += 1
        return count
    survived = 0
    with handling(signal.SIGINT, signal.default_int_handler):
        for _ in range(20):
            with connect(url) as client:
                proxy, peer = client.proxy(Workshop), client.peer
                stop = threading.Event()
                asking = [Running(ask, proxy, stop) for _ in range(3)]
                try:
                    say("waiting")
                    proxy.stay()
                except KeyboardInterrupt:
                    pass
                stop.set()
                counts = [one.result() for one in asking]
                assert proxy.add(1) == 1
                if client.peer is peer:
                    assert -1 not in counts, "the connection was lost for some"
                    survived += 1
                else:
                    try:
                        peer.set_limit(max_message_size=1_000_000)
                    except ConnectionLost as lost:
                        assert isinstance(lost.__cause__, KeyboardInterrupt), lost
                    else:
                        raise AssertionError("there are two connections")
    say(survived)
"""


def test_ctrl_c_in_a_process_that_waits_in_a_call() -> None:
    """Others of its threads call on, on this connection; or that has ended, which is why, and there is another one."""
    with serving_process("max_workers=200") as (url, _), Program(CTRL_C, measured=False) as program:
        program.say(url)
        for _ in range(20):
            assert program.hear() == "waiting"
            program.signal(signal.SIGINT)
        assert int(program.expect_success()) > 0
