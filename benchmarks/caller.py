"""The client process of the benchmarks that need a fresh one: measures, and prints a map in JSON."""

import argparse
import json
import sys
import threading
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time

import bare
from bare import Purpose
from workload import LARGE_MESSAGE, Workload, pin

from typedrpc import connect
from typedrpc.service import commands_of
from typedrpc.wire import HEADER_SIZE, payload_size

THREADS = 8
A, B = 1000, 2000


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def in_threads(works: list[Callable[[], object]]) -> float:
    """How long they take together, from when all threads stand ready until the last has ended."""
    ready = threading.Barrier(len(works) + 1)
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            ready.wait()
            work()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    ready.wait()
    start = perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return perf_counter() - start


def expect(got: object, wanted: object) -> None:
    """A figure for wrong answers is none."""
    if got != wanted:
        raise AssertionError(f"a wrong answer: {got!r}, not {wanted!r}")


def sequence(url: str, bare_port: int, calls: int, slices: int, inputs: int) -> dict[str, float]:
    """``add`` one after another, from threads, and mapped; in turns with a bare exchange of frames of the same size."""
    codec = commands_of(Workload)["add"].codec
    there = HEADER_SIZE + payload_size(codec.pack_arguments(A, B))
    back = HEADER_SIZE + payload_size(codec.pack_result(A + B))
    request = bytes(there)
    with connect(Workload, url) as workload, bare.dial(bare_port, Purpose.EXCHANGE, there, back) as sock:

        def call(count: int) -> None:
            got = 0
            for _ in range(count):
                got = workload.add(A, B)
            expect(got, A + B)

        call(calls // 4)
        bare.exchange(sock, request, calls // 4)
        bare_times, typed_times, thread_times = [], [], []
        client_cpu = server_cpu = 0.0
        for _ in range(slices):
            bare_times.append(seconds(lambda: bare.exchange(sock, request, calls)))
            server_before, client_before = workload.usage().cpu_seconds, process_time()
            typed_times.append(seconds(lambda: call(calls)))
            client_cpu += process_time() - client_before
            server_cpu += workload.usage().cpu_seconds - server_before
            thread_times.append(in_threads([lambda: call(calls // THREADS)] * THREADS))
        numbers = range(inputs)
        start = perf_counter()
        got = list(workload.add.map(numbers, numbers))
        map_time = perf_counter() - start
        expect(got, [2 * number for number in numbers])
    per_call = 1e6 / (calls * slices)
    in_threads_calls = calls // THREADS * THREADS
    return {
        "bare": calls / median(bare_times),
        "typed": calls / median(typed_times),
        # Neighbours in time share what else the machine was doing.
        "ratio": median(b / t for b, t in zip(bare_times, typed_times, strict=True)),
        "threads": in_threads_calls / median(thread_times),
        "threads_ratio": median(
            (b / calls) / (t / in_threads_calls) for b, t in zip(bare_times, thread_times, strict=True)
        ),
        "client_cpu": client_cpu * per_call,
        "server_cpu": server_cpu * per_call,
        "map": inputs / map_time,
    }


def there_and_back(url: str, bare_port: int, size: int, rounds: int) -> dict[str, float]:
    """``size`` bytes there, and when they have come, back."""
    data = bytes(size)
    buffer = bytearray(size)
    bare_times, typed_times = [], []
    with (
        connect(Workload, url, max_message_size=LARGE_MESSAGE) as workload,
        bare.dial(bare_port, Purpose.RETURN, size, size) as sock,
    ):

        def by_bare_socket() -> None:
            sock.sendall(data)
            expect(bare.receive_exactly(sock, buffer), True)

        for _ in range(rounds + 1):
            bare_times.append(seconds(by_bare_socket))
            typed_times.append(seconds(lambda: expect(len(workload.echo(data)), size)))
    return _compared(bare_times, typed_times)


def crossing(url: str, bare_port: int, size: int, rounds: int) -> dict[str, float]:
    """``size`` bytes each way at the same time, over one connection."""
    data = bytes(size)
    buffer = bytearray(size)
    bare_times, typed_times = [], []
    with (
        connect(Workload, url, max_message_size=LARGE_MESSAGE) as workload,
        bare.dial(bare_port, Purpose.CROSS, size, size) as sock,
    ):

        def by_bare_socket() -> None:
            sock.sendall(b"!")
            expect(bare.cross(sock, data, buffer), True)

        def take() -> None:
            expect(workload.take(data), size)

        def give() -> None:
            expect(len(workload.give(size)), size)

        for _ in range(rounds + 1):
            bare_times.append(seconds(by_bare_socket))
            typed_times.append(in_threads([take, give]))
    return _compared(bare_times, typed_times)


def beside(url: str, size: int, calls: int) -> dict[str, float]:
    """Calls of 1 KiB alone, and while ``size`` bytes go there, or come back, in one message: medians, in seconds."""
    data, blob = bytes(1024), bytes(size)
    with connect(Workload, url, max_message_size=LARGE_MESSAGE) as workload:

        def one() -> float:
            return seconds(lambda: expect(workload.echo(data), data))

        def upload() -> None:
            expect(workload.take(blob), size)

        def download() -> None:
            expect(len(workload.give(size)), size)

        for _ in range(calls):
            one()
        result = {"alone": median(one() for _ in range(calls))}
        for transfer in (upload, download):
            times = _beside(one, transfer, calls)
            result |= {transfer.__name__: median(times), f"{transfer.__name__}_slowest": max(times)}
    return result


def _beside(one: Callable[[], float], transfer: Callable[[], None], calls: int) -> list[float]:
    """The times of so many calls that were made while a transfer was on its way."""
    times: list[float] = []
    turns = [0]  # odd while a transfer is on its way
    complete = threading.Event()

    def go_on() -> None:
        while not complete.is_set():
            turns[0] += 1
            transfer()
            turns[0] += 1

    def measure() -> None:
        try:
            while len(times) < calls:
                before = turns[0]
                time = one()
                if before % 2 and before == turns[0]:
                    times.append(time)
        finally:
            complete.set()

    in_threads([go_on, measure])
    return times


def _compared(bare_times: list[float], typed_times: list[float]) -> dict[str, float]:
    """The first round has warmed both up, and does not count, except as the slowest."""
    return {
        "bare": median(bare_times[1:]),
        "typed": median(typed_times[1:]),
        "slowest": max(typed_times),
        "ratio": median(b / t for b, t in zip(bare_times[1:], typed_times[1:], strict=True)),
    }


def steady(url: str) -> dict[str, float]:
    """Call ``add`` a thousand times a second until the standard input ends: how many calls, and the slowest, in ms."""
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    slowest, count = 0.0, 0
    with connect(Workload, url) as workload:
        workload.add(A, B)
        print("calling", flush=True)
        threading.Thread(target=watch, daemon=True).start()
        while not count or not stop.wait(0.001):
            start = perf_counter()
            got = workload.add(A, B)
            slowest = max(slowest, perf_counter() - start)
            expect(got, A + B)
            count += 1
    return {"calls": count, "slowest": slowest * 1000}


MEASURES: dict[str, tuple[Callable[..., dict[str, float]], list[str]]] = {
    "sequence": (sequence, ["bare_port", "calls", "slices", "inputs"]),
    "there_and_back": (there_and_back, ["bare_port", "size", "rounds"]),
    "crossing": (crossing, ["bare_port", "size", "rounds"]),
    "beside": (beside, ["size", "calls"]),
    "steady": (steady, []),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    commands = parser.add_subparsers(dest="measure", required=True)
    for name, (_, numbers) in MEASURES.items():
        command = commands.add_parser(name)
        command.add_argument("url")
        for number in numbers:
            command.add_argument(number, type=int)
    arguments = vars(parser.parse_args())
    pin(arguments.pop("cpu"))
    measure, _ = MEASURES[arguments.pop("measure")]
    print(json.dumps(measure(**arguments)), flush=True)


if __name__ == "__main__":
    main()
