"""Promises about servers that are restarted: clients with ``retry`` go on without an error, and nothing runs twice."""

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from time import monotonic, perf_counter, sleep

from figures import Figure
from serve_books import Books

from typedrpc import Retry, connect

HERE = Path(__file__).resolve().parent

RATE = 1000
CLIENTS = 10
PAUSE = 2.0
"""Seconds between two restarts."""


class Server:
    """A process that is ended by SIGTERM, as an operator ends it."""

    def __init__(self, url: str, colour: str) -> None:
        options = ["--asyncio"] if colour == "asyncio" else []
        command = [sys.executable, str(HERE / "serve_books.py"), url, *options]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def stop(self) -> Counter[int]:
        """How often it has booked what."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=30)
        if self._process.returncode:
            raise RuntimeError(f"the server ended with {self._process.returncode}")
        return Counter(dict(json.loads(output)))


class Load:
    """Clients that make so many calls a second together, in turns a keyed and an idempotent one."""

    def __init__(self, url: str) -> None:
        self.errors: list[BaseException] = []
        self.slowest = 0.0
        self.calls = 0
        self.asked: set[int] = set()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str) -> None:
        with connect(Books, url, retry=Retry()) as books:
            due = monotonic()
            while not self._stopped.is_set():
                due += 2 * CLIENTS / RATE
                sleep(max(0.0, due - monotonic()))
                number = next(self._numbers)
                started = perf_counter()
                try:
                    if books.book(number) != -number or books.double(number) != 2 * number:
                        raise AssertionError("a wrong answer")
                except BaseException as error:
                    self.errors.append(error)
                with self._lock:
                    self.asked.add(number)
                    self.calls += 2
                    self.slowest = max(self.slowest, perf_counter() - started)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def restart(quick: bool) -> list[Figure]:
    """A server that is restarted again and again while it is called a thousand times a second."""
    return [figure for colour in ("threads", "asyncio") for figure in _restart(colour, 2 if quick else 6)]


def _restart(colour: str, restarts: int) -> list[Figure]:
    server = Server("tcp://127.0.0.1:0", colour)
    url = server.url
    booked: Counter[int] = Counter()
    started = monotonic()
    load = Load(url)
    for _ in range(restarts):
        sleep(PAUSE)
        booked += server.stop()
        server = Server(url, colour)
    sleep(PAUSE)
    load.stop()
    rate = load.calls / (monotonic() - started)
    booked += server.stop()
    wrong = sum(booked[number] != 1 for number in load.asked)
    texts = ", ".join(sorted({repr(error) for error in load.errors}))
    return [
        Figure(
            promise=f"{restarts} restarts ({colour}) under {RATE} calls a second: calls that fail",
            measured=len(load.errors),
            limit=0,
            note=f"{load.calls:,} calls, {rate:,.0f} a second; the slowest two took {1000 * load.slowest:.0f} ms",
            fault=texts,
        ),
        Figure(
            promise=f"the same: calls that did not run exactly once, of {len(load.asked):,}", measured=wrong, limit=0
        ),
    ]
