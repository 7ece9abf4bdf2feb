"""Promises about one server with many peers: a broadcast of which some peers see nothing, and all ids in use."""

import logging
import os
import threading
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time, sleep

from figures import Figure
from listeners import STEP, Listener
from processes import Process
from workload import memory_of

from typedrpc import FunctionService, Server, connect
from typedrpc.agreement import digest_of
from typedrpc.command import Command
from typedrpc.messages import Hello, Limits, pack_hello
from typedrpc.service import services_of

GROWTH_LIMIT = 50.0
IDLE_LIMIT = 10.0
MESSAGES = 1400
SIZE = 16_000
AHEAD = 2 * STEP
"""Messages that the broadcast is ahead of the slowest of the peers that read: as a room is that goes at its pace."""

ALL_IDS = 0xFF00
HELLO_LIMIT = 200


class _CutOff(logging.Handler):
    """Counts the lines that say why a peer was cut off."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.slow = 0
        self.others: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if "was cut off: it does not read what is sent to it" in line:
            self.slow += 1
        else:
            self.others.append(line)


class _Progress:
    """What the process of the good peers says: how far all of them are, and at the end how many got everything."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._changed = threading.Condition()
        self._at = 0
        self.complete = -1
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while self.complete < 0 and (line := self._process.read_line()):
            with self._changed:
                if line.startswith("complete"):
                    self.complete = int(line.split()[1])
                else:
                    self._at = int(line)
                self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._at >= count, 60)

    def wait_for_end(self) -> None:
        self._thread.join(60)


def broadcast(quick: bool) -> list[Figure]:
    """To 500 peers, of which 50 do not read and 50 are killed half way."""
    lost = 2 if quick else 50
    good = 8 * lost
    log = _CutOff()
    library = logging.getLogger("typedrpc")
    library.addHandler(log)
    library.propagate = False
    times: list[float] = []
    with Server(url="tcp://127.0.0.1:0") as server:
        url = server.url
        what = ("--messages", MESSAGES, "--size", SIZE)
        with (
            Process("listeners.py", url, lost),
            Process("listeners.py", url, lost, *what) as killed,
            Process("listeners.py", url, good, *what) as reading,
        ):
            progress = _Progress(reading)
            send = server.broadcast(Listener.on_text)
            text = "x" * SIZE
            before = memory_of(os.getpid())
            busy = 0.0
            counts = []
            for number in range(MESSAGES):
                progress.wait_for(number // STEP * STEP - AHEAD)
                if number == MESSAGES // 2:
                    busy = _busy_while_waiting(0.5 if quick else 3.0)
                    killed.kill()
                start = perf_counter()
                counts.append(send(number, text))
                times.append(perf_counter() - start)
            after = memory_of(os.getpid())
            progress.wait_for_end()
    peers = f"{good + 2 * lost} peers, {lost} not reading, {lost} killed half way"
    fault = "" if (counts[0], counts[-1]) == (good + 2 * lost, good) else f"went to {counts[0]}, then to {counts[-1]}"
    growth = None if after is None or before is None else after.peak - before.now
    return [
        Figure(
            promise=f"broadcast to {peers}: others that missed anything",
            measured=good - progress.complete,
            limit=0,
            note=f"{MESSAGES:,} messages of {SIZE // 1000} kB, {AHEAD} ahead of the slowest of the {good} others",
            fault=fault,
        ),
        Figure(
            promise="growth of the broadcasting process, at its peak", measured=growth, unit="MiB", limit=GROWTH_LIMIT
        ),
        Figure(
            promise="slow peers that were cut off, each with one line in the log",
            measured=log.slow,
            limit=lost,
            at_least=True,
            fault="; ".join(log.others[:3]) or ("" if log.slow == lost else f"{log.slow} lines for {lost} peers"),
        ),
        Figure(
            promise=f"CPU of a server that only waits for {lost} peers that do not read",
            measured=100 * busy,
            unit="% of a core",
            limit=IDLE_LIMIT,
        ),
        Figure(
            promise=f"one broadcast to {good + 2 * lost} peers",
            measured=1000 * median(times),
            unit="ms",
            note=f"median; {1e6 * median(times) / (good + 2 * lost):.0f} us a peer, most of it in the system's send",
        ),
    ]


def _busy_while_waiting(seconds: float) -> float:
    sleep(1.0)  # what was sent is read
    cpu, start = process_time(), perf_counter()
    sleep(seconds)
    return (process_time() - cpu) / (perf_counter() - start)


def all_ids(quick: bool) -> list[Figure]:
    """A server that uses every id there is, and a client that exposes as many."""
    numbers = range(0, ALL_IDS, 16 if quick else 1)
    start = perf_counter()
    service = FunctionService("everything")
    commands = [service.rpc(id=number)(_adder(number)) for number in numbers]
    defined = perf_counter()
    tried = (commands[0], commands[1], commands[len(commands) // 2], commands[-1])
    with Server(service, url="tcp://127.0.0.1:0") as server:
        served = perf_counter()
        with connect(server.url, expose=[service]) as client:
            got = [client.proxy(command)(1000) - command.id for command in tried]
            connected = perf_counter()
            (peer,) = server.peers
            got += [peer.proxy(command)(1000) - command.id for command in tried]
            got += [outcome for command in tried for outcome in _asked(server, command)]
    digest = digest_of(services_of(service)["everything"])
    return [
        Figure(
            promise=f"{len(commands):,} commands on one server, on ids up to {commands[-1].id:#06x}: wrong answers",
            measured=sum(one != 1000 for one in got) + 3 * len(tried) - len(got),
            limit=0,
            note=f"define {defined - start:.1f} s, serve {served - defined:.1f} s, expose as many, connect and call"
            f" {connected - served:.1f} s",
        ),
        Figure(
            promise="the hello of a client that exposes as many",
            measured=len(pack_hello(Hello(Limits(), {"everything": digest}))),
            unit="bytes",
            limit=HELLO_LIMIT,
        ),
    ]


def _asked(server: Server, command: Command[Callable[[int], int]]) -> list[int]:
    outcomes = server.gather(command)(1000).values()
    return [outcome - command.id for outcome in outcomes if isinstance(outcome, int)]


def _adder(number: int) -> Callable[[int], int]:
    def add(value: int) -> int:
        return value + number

    add.__name__ = f"command_{number}"
    return add
