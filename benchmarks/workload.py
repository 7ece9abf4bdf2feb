"""The contract that the benchmarks call, and what its server says about its own process."""

import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typedrpc import Service, rpc

LARGE_MESSAGE = 257 * 1024 * 1024
"""The limit of a message where 256 MiB travel in one."""

ITEM_SIZE = 1000
"""Bytes of an item of an endless stream."""


@dataclass
class Usage:
    """What a process uses. A count is -1 where the system does not tell it."""

    threads: int
    descriptors: int
    sockets: int
    cpu_seconds: float
    warnings: int


class Workload(Service, name="workload"):
    """Handlers that do next to nothing, or wait: what is measured is the way to them and back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self._producing = 0
        self._for_ever = threading.Event()

    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @rpc(id=3)
    def hold(self) -> None:
        """Never return."""
        with self._lock:
            self._held += 1
        self._for_ever.wait()

    @rpc(id=4)
    def held(self) -> int:
        """How many calls of ``hold`` have begun."""
        with self._lock:
            return self._held

    @rpc(id=5)
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc(id=6)
    def take(self, data: bytes) -> int:
        return len(data)

    @rpc(id=7)
    def give(self, size: int) -> bytes:
        return bytes(size)

    @rpc(id=8)
    def usage(self) -> Usage:
        return own_usage()

    @rpc(id=9)
    def call_back(self, times: int, use: Callable[[int], int]) -> int:
        """Call a callback so often; the sum of what it gives."""
        return sum(use(number) for number in range(times))

    @rpc(id=10)
    def call_none(self, use: Callable[[int], int]) -> None:
        """Leave a callback alone."""

    @rpc(id=11)
    def endless(self) -> Iterator[bytes]:
        with self._counted():
            while True:
                yield bytes(ITEM_SIZE)

    @rpc(id=12)
    async def aendless(self) -> AsyncIterator[bytes]:
        with self._counted():
            while True:
                yield bytes(ITEM_SIZE)

    @rpc(id=13)
    def producing(self) -> int:
        """How many producers of endless streams have not stopped."""
        with self._lock:
            return self._producing

    @rpc(id=14)
    def take_slowly(self, items: Iterator[bytes], count: int, pause: float) -> int:
        """Take so many items, one after each pause, and leave."""
        taken = 0
        for _ in zip(range(count), items, strict=False):
            taken += 1
            time.sleep(pause)
        return taken

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._producing += 1
        try:
            yield
        finally:
            with self._lock:
                self._producing -= 1


class WarningCounter(logging.Handler):
    """Counts the library's log lines of level WARNING and above."""

    count = 0

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


warning_counter = WarningCounter()


def own_usage() -> Usage:
    """What this process uses at this moment."""
    descriptors = sockets = -1
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            numbers = os.listdir(folder)
            descriptors = len(numbers)
            if folder.startswith("/proc"):
                sockets = sum(_target(f"{folder}/{number}").startswith("socket:") for number in numbers)
            break
    return Usage(threading.active_count(), descriptors, sockets, time.process_time(), warning_counter.count)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # the descriptor of the listing itself
        return ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process, now and at its peak, in MiB."""

    now: float
    peak: float


def memory_of(pid: int) -> Memory | None:
    """The memory of a process; None where the system does not tell it this way."""
    path = Path(f"/proc/{pid}/status")
    if not path.exists():
        return None
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii", errors="replace").splitlines())
    return Memory(*(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")))


def pin(cpu: int | None) -> None:
    """Let this process run on one core only, where the system can do that. Before any thread is started."""
    if cpu is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {cpu})


def cores() -> tuple[int | None, int | None]:
    """The core to pin a whole pair of processes to, and the one for the other process where each has its own."""
    if sys.platform != "linux":
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


def allow_descriptors() -> None:
    """Let this process open as many files and sockets as the system lets it, where that has to be asked for."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
