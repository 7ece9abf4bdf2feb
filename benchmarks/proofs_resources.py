"""Promises about what a process holds: nothing left behind, a fork, large contracts, the import."""

import os
import random
import subprocess
import sys
import types
from collections.abc import Callable
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter, sleep
from weakref import WeakSet

from caller import expect
from figures import Figure
from processes import serve_workload
from workload import Usage, Workload, memory_of, own_usage

from typedrpc import Server, Service, connect, rpc
from typedrpc.common.workers import LINGER

IMPORT_LIMIT = 60.0
COMMANDS = 16_000
SETTLE_TIME = 5.0
CALLBACK_GROWTH = 4.0


def reconnect(quick: bool) -> list[Figure]:
    """Nothing is left of connections that are closed."""
    count = 50 if quick else 1000
    with serve_workload() as server, connect(Workload, server.first_line) as observer:

        def connect_and_close(number: int) -> None:
            with connect(Workload, server.first_line) as workload:
                if number % 10 == 0:
                    expect(workload.add(number, 1), number + 1)
                if number % 50 == 1:  # a client has threads only once somebody asked for futures
                    expect(workload.add.submit(number, 1).result(), number + 1)

        # The first ones make what stays: compiled codecs, the selector of the standard library.
        for number in range(12):
            connect_and_close(number)
        sleep(LINGER + 0.2)  # then the threads that were lent have gone
        client_before, server_before = own_usage(), observer.usage()
        start = perf_counter()
        for number in range(count):
            connect_and_close(number)
        per_connect = 1000 * (perf_counter() - start) / count
        client_left = _left(client_before, _settled(own_usage, client_before))
        server_left = _left(server_before, _settled(observer.usage, server_before))
    figures = []
    for side, left in (("client", client_left), ("server", server_left)):
        promise = f"threads, descriptors, sockets left at the {side} after {count:,} connects"
        note = "threads {}, descriptors {}, sockets {}".format(*left)
        figures.append(Figure(promise=promise, measured=sum(left), limit=0, note=note))
    promise = "a connect and a close, with the contract compared"
    return [*figures, Figure(promise=promise, measured=per_connect, unit="ms", note=f"the mean of {count:,}")]


def callbacks(quick: bool) -> list[Figure]:
    """A callback may be called for ever, and calls with one leave nothing behind."""
    count = 2_000 if quick else 100_000
    figures = []
    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        seen = 0

        def use(number: int) -> int:
            nonlocal seen
            seen += 1
            return number

        workload.call_back(2_000, use)
        steps: dict[str, Callable[[], int]] = {
            f"one callback called {count:,} times": lambda: workload.call_back(count, use) - sum(range(count)),
            f"{count // 10:,} calls with a callback each": lambda: _give_callbacks(workload, count // 10),
        }
        for what, call in steps.items():
            memory_before = memory_of(os.getpid()), memory_of(server.pid)
            start = perf_counter()
            wrong = call()
            passed = perf_counter() - start
            memory = memory_of(os.getpid()), memory_of(server.pid)
            fault = f"{wrong} too much" if wrong else ""
            for side, before, after in zip(("client", "server"), memory_before, memory, strict=True):
                promise = f"{what}: growth of the {side}"
                growth = None if before is None or after is None else max(0.0, after.now - before.now)
                note = f"{1e6 * passed / count:.0f} us a callback" if "one" in what else f"{passed:.2f} s"
                figures.append(
                    Figure(promise=promise, measured=growth, unit="MiB", limit=CALLBACK_GROWTH, note=note, fault=fault)
                )
    return figures


def _give_callbacks(workload: Workload, count: int) -> int:
    """Calls each of which brings a callback of its own that the handler drops. Returns the callbacks that are left."""
    alive: WeakSet[object] = WeakSet()

    def give(number: int) -> None:
        def use(given: int) -> int:
            return number

        alive.add(use)
        workload.call_none(use)

    for number in range(count):
        give(number)
    deadline = monotonic() + SETTLE_TIME
    while len(alive) and monotonic() < deadline:
        sleep(0.05)
    return len(alive)


def _held(usage: Usage) -> tuple[int, int, int]:
    return usage.threads, usage.descriptors, usage.sockets


def _left(before: Usage, after: Usage) -> tuple[int, int, int]:
    """Threads, descriptors and sockets that are there now and were not before."""
    threads, descriptors, sockets = (max(0, b - a) for a, b in zip(_held(before), _held(after), strict=True))
    return threads, descriptors, sockets


def _settled(usage: Callable[[], Usage], before: Usage) -> Usage:
    """The usage as soon as it is no more than before, or after some seconds."""
    deadline = monotonic() + SETTLE_TIME
    while any(_left(before, now := usage())) and monotonic() < deadline:
        sleep(0.05)
    return now


def fork(quick: bool) -> list[Figure]:
    """Parent and child go on calling after a fork, each gets its own answers."""
    count = 100 if quick else 1000
    promise = f"parent and forked child call {count:,} times each: wrong answers"
    if not hasattr(os, "fork"):
        return [Figure(promise=promise, limit=0, note="no fork on this system")]
    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        workload.add(1, 2)
        start = perf_counter()
        child = os.fork()
        if not child:
            status = 255
            try:
                status = min(254, _wrong_answers(workload, 2_000_000_000, count))
            finally:
                os._exit(status)
        wrong = _wrong_answers(workload, 1_000_000_000, count)
        _, status = os.waitpid(child, 0)
        passed = perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    fault = "" if 0 <= code < 255 else "the child failed"
    return [Figure(promise=promise, measured=wrong + code, limit=0, note=f"{passed:.2f} s", fault=fault)]


def _wrong_answers(workload: Workload, tag: int, count: int) -> int:
    """Calls of which no two have the same answer, here or with another tag: how many were answered wrongly."""
    dice = random.Random(tag)
    return sum(workload.add(tag, 2 * number) != tag + 2 * number for number in dice.sample(range(count), count))


def ids(quick: bool) -> list[Figure]:
    """A service with as many explicit ids as one may want."""
    count = COMMANDS // 16 if quick else COMMANDS
    memory_before = memory_of(os.getpid())
    start = perf_counter()
    large = _define(count)
    defined = perf_counter()
    wrong = []
    with Server(large(), url="tcp://127.0.0.1:0") as server:
        served = perf_counter()
        with connect(large, server.url) as proxy:
            connected = perf_counter()
            for number in (0, count - 1):
                got = getattr(proxy, f"command_{number}")(1000)
                if got != 1000 + number:
                    wrong.append(f"command {number} answered {got!r}")
            called = perf_counter()
    memory = memory_of(os.getpid())
    note = f"in one process: serve {served - defined:.2f} s, connect {connected - served:.2f} s"
    if memory is not None and memory_before is not None:
        note += f", memory {memory.now - memory_before.now:.0f} MiB"
    return [
        Figure(promise=f"define a service with {count:,} explicit ids", measured=defined - start, unit="s", note=note),
        Figure(
            promise="call its first and its last command: wrong answers",
            measured=len(wrong),
            limit=0,
            note=f"{1000 * (called - connected):.1f} ms together, each for the first time",
            fault=", ".join(wrong),
        ),
    ]


def _define(count: int) -> Callable[[], Service]:
    """A service with commands ``command_0`` and so on, with ids from 0; each adds its number."""

    def fill(namespace: dict[str, object]) -> None:
        for number in range(count):

            def function(self: object, value: int, number: int = number) -> int:
                return value + number

            function.__name__ = f"command_{number}"
            namespace[function.__name__] = rpc(id=number)(function)

    return types.new_class("Large", (Service,), exec_body=fill)


def import_time(quick: bool) -> list[Figure]:
    """Importing the library costs little more than importing what it stands on."""
    runs = 3 if quick else 15
    program = (
        "from time import perf_counter as now, process_time as cpu; start = now();"
        "import msgpack, typing_extensions; between, before = now(), cpu();"
        "import typedrpc; print(between - start, now() - between, cpu() - before)"
    )
    both, more, busy = [], [], []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with TemporaryDirectory() as folder:
        # The first run writes the compiled files there, whatever this environment does with them, and does not count.
        environment["PYTHONPYCACHEPREFIX"] = folder
        for _ in range(runs + 1):
            run = subprocess.run(
                [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            first, second, third = map(float, run.stdout.split())
            both.append(1000 * first)
            more.append(1000 * second)
            busy.append(1000 * third)
    cpu = f"{median(busy[1:]):.0f} ms of it CPU"
    note = f"median of {runs} fresh interpreters, {cpu}; these two take {median(both[1:]):.0f} ms"
    promise = "import typedrpc, over the import of msgpack and typing_extensions"
    return [Figure(promise=promise, measured=median(more[1:]), unit="ms", limit=IMPORT_LIMIT, note=note)]
