"""Promises about waiting: who waits for whom, how long, and what ends it."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import monotonic, perf_counter, sleep

from caller import expect, in_threads
from figures import Figure
from processes import serve_workload
from workload import Workload

from typedrpc import ConnectFailed, ConnectionLost, connect

TOGETHER_LIMIT = 250.0
BESIDE_LIMIT = 50.0
LOSS_LIMIT = 1000.0
CONNECT_TIMEOUT = 0.5
WAITING_CALLS = 100


def parallel(quick: bool) -> list[Figure]:
    """Slow handlers of one connection run side by side."""
    rounds = 2 if quick else 10
    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        times = [1000 * in_threads([lambda: workload.wait(0.1)] * 8) for _ in range(rounds)]
    note = f"the slowest of {rounds} rounds; median {median(times):.0f} ms"
    promise = "8 calls of 100 ms, from 8 threads over one connection"
    return [Figure(promise=promise, measured=max(times), unit="ms", limit=TOGETHER_LIMIT, note=note)]


def slow_handler(quick: bool) -> list[Figure]:
    """A slow handler does not hold up the other calls of its connection."""
    rounds = 1 if quick else 4
    dice = random.Random(1)
    times: list[float] = []
    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        workload.add(1, 2)
        for _ in range(rounds):
            slow = threading.Thread(target=workload.wait, args=(1.0,))
            slow.start()
            while slow.is_alive():
                start = perf_counter()
                got = workload.add(1, 2)
                times.append(1000 * (perf_counter() - start))
                expect(got, 3)
                if not dice.randrange(50):  # now in a row, now after a while
                    sleep(dice.random() / 50)
            slow.join()
            sleep(0 if quick else 1.1)  # until the thread that was lent has gone: the next round starts afresh
    times.sort()
    note = f"the slowest of {len(times):,} calls; {rounds} times beside one; median {median(times):.2f} ms"
    promise = "a call beside a handler that takes 1 s, on the same connection"
    return [Figure(promise=promise, measured=times[-1], unit="ms", limit=BESIDE_LIMIT, note=note)]


def killed(quick: bool) -> list[Figure]:
    """A server that is killed: whoever waits for it learns it."""
    rounds = 1 if quick else 3
    figures = []
    for form, wait_for in (("threads", _wait_in_threads), ("futures", _wait_for_futures)):
        delays: list[float] = []
        wrong: list[str] = []
        for _ in range(rounds):
            for ended, outcome in wait_for():
                delays.append(ended)
                if not isinstance(outcome, ConnectionLost):
                    wrong.append(repr(outcome))
        texts = ", ".join(sorted(set(wrong)))
        figures.append(
            Figure(
                promise=f"server killed while {WAITING_CALLS} {form} wait: the last ConnectionLost",
                measured=1000 * max(delays),
                unit="ms",
                limit=LOSS_LIMIT,
                note=f"the slowest of {rounds}; median {1000 * median(delays):.0f} ms",
                fault=f"{len(wrong)} calls ended otherwise: {texts}" if wrong else "",
            )
        )
    return figures


def _wait_in_threads() -> list[tuple[float, object]]:
    """Kill a server while calls wait, each in a thread: after how many seconds each ended, and how."""
    outcomes: list[tuple[float, object]] = []
    with serve_workload("--max-workers", 2 * WAITING_CALLS) as server, connect(Workload, server.first_line) as workload:

        def hold() -> None:
            try:
                outcome: object = workload.hold()
            except BaseException as error:
                outcome = error
            outcomes.append((monotonic(), outcome))

        threads = [threading.Thread(target=hold) for _ in range(WAITING_CALLS)]
        for thread in threads:
            thread.start()
        _until_all_wait(workload.held)
        start = monotonic()
        server.kill()
        for thread in threads:
            thread.join()
    return [(ended - start, outcome) for ended, outcome in outcomes]


def _wait_for_futures() -> list[tuple[float, object]]:
    """The same with futures."""
    outcomes: list[tuple[float, object]] = []
    all_done = threading.Semaphore(0)

    def note(outcome: object) -> None:
        outcomes.append((monotonic(), outcome))
        all_done.release()

    with serve_workload("--max-workers", 2 * WAITING_CALLS) as server, connect(Workload, server.first_line) as workload:
        futures = [workload.hold.submit() for _ in range(WAITING_CALLS)]
        for future in futures:
            future.add_done_callback(lambda future: note(future.exception()))
        _until_all_wait(workload.held)
        start = monotonic()
        server.kill()
        for _ in futures:
            all_done.acquire()
    return [(ended - start, outcome) for ended, outcome in outcomes]


def _until_all_wait(held: Callable[[], int]) -> None:
    while held() < WAITING_CALLS:
        sleep(0.005)


def no_server(quick: bool) -> list[Figure]:
    """Connecting to what is no server ends in time."""
    figures = []
    for what, url_of in (("a closed port", _closed_port), ("a server that never answers", _silent_server)):
        with url_of() as url:
            start = monotonic()
            try:
                connect(Workload, url, timeout=CONNECT_TIMEOUT).close()
                fault, said = "it connected", ""
            except ConnectFailed as error:
                fault, said = "", str(error)
            passed = 1000 * (monotonic() - start)
        promise = f"connect to {what}, timeout={CONNECT_TIMEOUT:g}: ConnectFailed"
        limit = 1000 * CONNECT_TIMEOUT + 100
        said = said.replace(url, "URL")
        figures.append(Figure(promise=promise, measured=passed, unit="ms", limit=limit, note=said, fault=fault))
    return figures


@contextmanager
def _closed_port() -> Iterator[str]:
    # A port that is bound but does not listen: nobody else can take it meanwhile.
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def _silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
