"""The contract of the nested proofs, which both ends serve: calls that run back and forth, to a number known before."""

import faulthandler
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic, sleep
from typing import Any, Final

from caller import expect

from typedrpc import ConnectionLost, Service, current_call, rpc
from typedrpc.peer import Peer

STILL: Final = 20.0
"""Seconds without a call that was begun, after which the rest is held to hang."""


def step(value: int) -> int:
    """What becomes of the value on each leg of the way."""
    return (value * 1_103_515_245 + 12_345) & 0x7FFF_FFFF


def result_after(legs: int, value: int) -> int:
    """What becomes of the value after so many legs, whoever went them."""
    for _ in range(legs):
        value = step(value)
    return value


class Relay(Service, name="relay"):
    """Goes a leg, and has the peer go the rest: sometimes by a callback, now and then with something heavy.

    Attributes:
        handled: Calls and callbacks that were run here.
        most_threads: The most threads that were seen in this process.
        resting: Set when somebody has come to rest here.
    """

    def __init__(self) -> None:
        self._counter = count(1)
        self.handled = 0
        self.most_threads = 0
        self.resting = threading.Event()

    def _note(self) -> None:
        # next() of a counter is one step; who stores an older number is overtaken by the next who stores.
        self.handled = max(self.handled, next(self._counter))
        self.most_threads = max(self.most_threads, threading.active_count())

    @rpc(id=1)
    def go(self, legs: int, value: int) -> int:
        """Go so many legs."""
        self._note()
        return self._on(current_call().peer, legs, value)

    @rpc(id=2)
    def go_by(self, legs: int, value: int, function: Callable[[int], int]) -> int:
        """Let a function of the caller's go the first of so many legs."""
        self._note()
        return self._on(current_call().peer, legs - 1, function(value))

    @rpc(id=3)
    def carry(self, load: bytes, legs: int, value: int) -> bytes:
        """Go with something heavy: the result, and as much again."""
        self._note()
        reached = self._on(current_call().peer, legs, value)
        return reached.to_bytes(8, "big") + load

    @rpc(id=4)
    def rest(self, seconds: float) -> None:
        """Take a while."""
        self.resting.set()
        sleep(seconds)

    def _on(self, peer: Peer, legs: int, value: int) -> int:
        return self.travel(peer.proxy(Relay), legs, value)

    def travel(self, other: "Relay", legs: int, value: int) -> int:
        """Go one leg here, and the rest from the other end on."""
        if legs == 0:
            return value
        legs, value = legs - 1, step(value)
        if legs >= 1 and value % 8 == 0:
            return other.go_by(legs, value, self._leg)
        if legs >= 2 and value % 8 == 1:
            return other.go_by(legs, value, self._leg_there)
        if value % 256 == 2:
            load = value.to_bytes(4, "big") * (50_000 + value % 50_000)
            answer = other.carry(load, legs, value)
            expect(answer[8:] == load, True)
            return int.from_bytes(answer[:8], "big")
        return other.go(legs, value)

    def _leg(self, value: int) -> int:
        self._note()
        return step(value)

    def _leg_there(self, value: int) -> int:
        """The same leg, gone at the other end: a call that is nested in a callback."""
        self._note()
        return current_call().peer.proxy(Relay).go_by(1, value, self._leg)


class Runners:
    """Threads that go from this end to the other, again and again."""

    def __init__(self, relay: Relay, other: Callable[[], Relay], threads: int, trips: int, most_legs: int) -> None:
        self.errors: deque[str] = deque()
        self._relay = relay
        self._other = other
        self._trips = trips
        self._most_legs = most_legs
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"runner-{number}") for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until all are back."""
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        dice = random.Random(number)
        try:
            for _ in range(self._trips):
                legs, value = dice.randint(1, self._most_legs), dice.getrandbits(31)
                expect(self._relay.travel(self._other(), legs, value), result_after(legs, value))
        except BaseException as error:
            self.errors.append(f"{type(error).__name__}: {error}")


class Referee(Service, name="referee"):
    """Has the runners of the server go, and tells how it went."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._runners: Runners | None = None

    @rpc(id=10)
    def start(self, threads: int, trips: int, most_legs: int, caller: int) -> int:
        """Start runners; the process of the caller goes in, the own one comes out."""
        call = current_call()
        peer = call.peer
        self._runners = Runners(self._relay, lambda: peer.proxy(Relay), threads, trips, most_legs)
        self._runners.start()
        Watchdog(self._relay, lambda: [peer.link], caller)
        return os.getpid()

    @rpc(id=12)
    def send_to_rest(self, seconds: float) -> None:
        """Have the caller rest for so long, by a call that has nothing to do with this one."""
        rest = current_call().peer.proxy(Relay).rest

        def send() -> None:
            with suppress(ConnectionLost):  # the caller has measured, and leaves
                rest(seconds)

        threading.Thread(target=send, daemon=True).start()

    @rpc(id=11)
    def finish(self) -> "Report":
        """Wait for the runners."""
        assert self._runners is not None
        self._runners.wait()
        return report_of(self._relay, self._runners)


@dataclass
class Report:
    """How it went at one end."""

    handled: int
    most_threads: int
    errors: list[str]


def report_of(relay: Relay, runners: "Runners") -> Report:
    """How it went at this end, when the runners are back."""
    return Report(relay.handled, relay.most_threads, list(runners.errors))


class Watchdog:
    """Ends both processes when nothing moves any more, and prints where each thread is and what it waits for."""

    def __init__(self, relay: Relay, links: Callable[[], Iterable[Any]], other: int) -> None:
        """
        Args:
            relay: What moves.
            links: Gives those to the connections whose state is printed.
            other: The other process, which is told to print its stacks, too.
        """
        self._relay = relay
        self._links = links
        self._other = other
        self._over = threading.Event()
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """All are back."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, since = -1, monotonic()
        while not self._over.wait(0.5):
            if seen != self._relay.handled:
                seen, since = self._relay.handled, monotonic()
            elif monotonic() - since > STILL:
                print(f"process {os.getpid()}: nothing moved for {STILL:g} s", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(all_threads=True)
                for link in self._links():
                    _print_state(link.connection)
                os.kill(self._other, signal.SIGUSR1)
                self._over.wait(3.0)  # the other one prints, too
                os._exit(3)


def _print_state(connection: Any) -> None:
    for part in (connection, *(getattr(connection, field) for field in ("role", "threads", "core", "_writer"))):
        names = getattr(part, "__slots__", None) or list(vars(part))
        shown = {name: value for name in names if not callable(value := getattr(part, name))}
        print(f"{type(part).__name__}: {shown}"[:4000], file=sys.stderr, flush=True)
