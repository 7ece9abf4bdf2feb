"""Dialling: which address is tried when, and that a client whose connection was lost dials once for all its callers."""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any, Final, final

from typedrpc.common.agreements import nesting
from typedrpc.common.connection import Connection
from typedrpc.errors import AuthenticationFailed, ConnectionLost, DeadlineExceeded, RpcError, TlsFailed
from typedrpc.messages import Leave
from typedrpc.protocol import State

CONNECT_TIME: Final = 10.0
"""Seconds that one attempt to connect and shake hands may take when ``connect`` is given no time-out."""

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.25
"""Seconds between two attempts to reach a server that is not up yet: doubled from the first to the longest."""

LEAST_ATTEMPT: Final = 0.05
"""Seconds that an attempt is worth making in; what a hurried one says of the server would mislead."""

CHECK_TIME: Final = 1.0
"""Seconds after which a thread that waits for a connection looks whether anybody is left who makes it."""


def doubling() -> Iterator[float]:
    """The pauses of ``connect(timeout=)``."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


@final
class Dialling:
    """One way to a connection: addresses in turn, and pauses between the rounds. Used by one thread or task."""

    def __init__(
        self,
        urls: Sequence[str],
        first: int,
        deadline: float,
        pauses: Iterable[float] = (),
        *,
        stubborn: bool = False,
    ) -> None:
        """
        Args:
            urls: The addresses.
            first: The index of the one to begin with.
            deadline: When to give up, on the monotonic clock.
            pauses: Seconds to wait after each round that failed; at their end it is given up.
            stubborn: Whether a server that says goodbye, which may be about to close, is tried again; then no attempt
                takes more than :data:`CONNECT_TIME` of what may be a long time.
        """
        self._urls = urls
        self.index = first
        """Of the address that is tried now."""
        self.deadline: Final = deadline
        self._pauses = iter(pauses)
        self._stubborn = stubborn
        self._tried = 0  # addresses of this round
        self._hopeful = False  # one of them may become right with time
        self._final: list[RpcError] = []

    @property
    def url(self) -> str:
        return self._urls[self.index]

    def until(self) -> float:
        """When to give up the attempt at this address: each of those that are left has its share of the time."""
        now = monotonic()
        share = (self.deadline - now) / (len(self._urls) - self._tried)
        return now + max(0.001, min(share, CONNECT_TIME) if self._stubborn else share)

    def agree_until(self) -> float:
        """When to give up asking what the server serves."""
        return min(self.deadline, monotonic() + CONNECT_TIME) if self._stubborn else self.deadline

    def failed(self, error: RpcError, leave: int | None = None, *, final: bool = False) -> float | None:
        """The attempt has failed.

        Args:
            error: Why.
            leave: The code of the goodbye that the server said, if it did.
            final: Whether it is known that it fails again.

        Returns:
            Seconds to wait before the next attempt; None for no further one: then :meth:`give_up`.
        """
        refused = isinstance(error, AuthenticationFailed | TlsFailed) or leave == Leave.REFUSED
        # A server that says goodbye is up, and does not want this client.
        if final or refused or (leave is not None and not self._stubborn):
            self._final.append(error)
        else:
            self._hopeful = True
        self.index = (self.index + 1) % len(self._urls)
        self._tried += 1
        if self._tried < len(self._urls):
            return 0.0
        left = self.deadline - monotonic() - LEAST_ATTEMPT
        if not self._hopeful or left <= 0:
            return None
        pause = next(self._pauses, None)
        if pause is not None:
            self._tried, self._hopeful = 0, False
            self._final.clear()
        return None if pause is None else min(pause, left)

    def give_up(self, last: RpcError) -> RpcError:
        """What is raised at the end: what was refused for good says more than who was away."""
        error = self._final[0] if self._final else last
        self._final.clear()
        return error


def is_usable(connection: Connection) -> bool:
    """Whether new calls may be made on a connection that was opened once."""
    return connection.core.state is State.OPEN and not connection.ended


@final
class Dialled(Future[Any]):
    """What one dialling comes to: the link that was made, or the error."""

    def __init__(self) -> None:
        super().__init__()
        self._unclaimed: Final[list[None]] = [None]

    def claim(self) -> bool:
        """Whether it is this thread, the first that asks, that gives it its outcome."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True


@final
class Redial:
    """Makes a connection anew for whoever needs one: one at a time, the others wait for its outcome. Thread-safe."""

    def __init__(
        self,
        current: Callable[[], Any],
        may_renew: Callable[[Connection], bool],
        start: Callable[[Dialled], None],
    ) -> None:
        """
        Args:
            current: Gives the link of the client.
            may_renew: Whether another connection may be made instead of this one.
            start: Has somebody claim the future, dial, and give it the link that he made, or the error. Must not block.
        """
        self._lock = threading.Lock()
        self._current = current
        self.may_renew: Final = may_renew
        self._start = start
        self._future: Future[Any] | None = None

    def join(self) -> "Future[Any]":
        """The outcome of the dialling that goes on, which is begun if it is needed. Does not block."""
        future = Dialled()
        link = self._current()
        try:
            with self._lock:
                before = self._future
                if before is not None and not before.done():
                    return before
                self._future = future
                link = self._current()
                if is_usable(link.connection):  # made meanwhile
                    future.set_result(link)
                    return future
                if not self.may_renew(link.connection):
                    future.set_exception(link.connection.core.lost())
                    return future
            self._start(future)
        except BaseException as error:
            # Of a signal handler it may come anywhere: others may wait already, or somebody dial.
            if not future.done() and future.claim():
                lost = ConnectionLost(f"{link.connection.core.lost()}; and nobody could dial again: {error}")
                lost.__cause__ = error
                future.set_exception(lost)
            if not isinstance(error, RuntimeError):
                raise
        return future

    def is_over(self, connection: Connection) -> bool:
        """Whether new calls are to be made on another connection than this one, which the client has."""
        core = connection.core
        if core.state is State.OPEN or not self.may_renew(connection):
            return False
        # Before it leaves, a server waits for what its own calls call.
        return core.state is not State.DRAINING or nesting(connection)[0] == 0

    def forsake(self) -> None:
        """In a forked child: see :class:`typedrpc.common.retrying.Again`."""
        self._lock = threading.Lock()
        self._future = None

    def needed(self) -> "Future[Any] | None":
        """As :meth:`join`, where there is no connection to call on, and may be another one."""
        return self.join() if self.is_over(self._current().connection) else None


def wait_for_link(future: "Future[Any]", deadline: float | None, is_alive: Callable[[], bool]) -> Any:
    """What dialling comes to, in a thread that may wait.

    Args:
        future: From :meth:`Redial.join`.
        deadline: When to stop waiting, on the monotonic clock.
        is_alive: Whether there is still somebody who dials.

    Raises:
        DeadlineExceeded: It took longer.
        RpcError: No connection could be made.
    """
    while not future.done():
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            raise DeadlineExceeded("there was no connection in time")
        try:
            future.exception(CHECK_TIME if left is None else min(left, CHECK_TIME))
        except TimeoutError:
            if not future.done() and not is_alive():
                raise ConnectionLost("the event loop of the connection is closed") from None
    return outcome_of(future)


async def is_done_by(future: "Future[Any]", deadline: float | None) -> bool:
    """Wait as a task does, which leaves the future alone, until the deadline. Returns whether it is done."""
    import asyncio  # whoever awaits has it

    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    def tell_loop(future: "Future[Any]") -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)

    future.add_done_callback(tell_loop)
    with suppress(TimeoutError):
        async with asyncio.timeout(None if deadline is None else deadline - monotonic()):
            await told
    return future.done()


def outcome_of(future: "Future[Any]") -> Any:
    """What dialling has come to; every caller has an error of his own. Raises what it failed with."""
    error = future.exception(0)
    if error is None:
        return future.result(0)
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    try:
        raise own
    finally:
        del error, own  # no frame may have them


def not_renewed(before: Connection, error: RpcError) -> RpcError:
    """What calls raise where no connection could be made instead of one that was lost.

    What was refused for good is raised as it is.
    """
    if isinstance(error, AuthenticationFailed | TlsFailed):
        return error
    lost = ConnectionLost(f"{before.core.lost()}; then: {error}")
    lost.__cause__ = error
    return lost
