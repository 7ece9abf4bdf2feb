"""Calls that are sent again: which, how often, and under which key, so that nothing runs twice.

A call that was cut short by the loss of its connection ends with a plain ``ConnectionLost`` where it did not run: that
may be sent again, whatever it is. It ends with ``OutcomeUnknown`` where it may have run. Then it is sent again if it is
idempotent, or has a key: by that the server knows it, and gives the answer that it has kept instead of running it a
second time. Another server, or another run of that one, does not know it, and does not get it.

A client without :class:`~typedrpc.retry.Retry` gives no keys, and sends once again only what did not run.
"""

import heapq
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from time import monotonic
from typing import Any, Final, TypeAlias, final

from typedrpc.call import get_call
from typedrpc.codec import Payload, Segmented
from typedrpc.command import CallOptions, Command
from typedrpc.common.connection import Connection
from typedrpc.common.redial import Redial, is_usable
from typedrpc.errors import (
    ArgumentError,
    BlockingCall,
    ConnectFailed,
    ConnectionLost,
    ContractMismatch,
    MessageTooLarge,
    NestedTooDeep,
    OutcomeUnknown,
    PermissionDenied,
    RpcError,
    ServerBusy,
    UnknownCommand,
)
from typedrpc.failure import unpack_failure
from typedrpc.retry import Retry
from typedrpc.transport import LONGEST_WAIT
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

ROOM_PAUSE: Final = 0.01
"""Seconds after which a call is sent again for which there was no room at the peer."""

_REFUSALS: Final = (
    ArgumentError,
    BlockingCall,
    ConnectFailed,
    ConnectionLost,
    ContractMismatch,
    MessageTooLarge,
    NestedTooDeep,
    PermissionDenied,
    ServerBusy,
    UnknownCommand,
)
"""What says of one attempt that it did not run, and nothing of those before it."""

Action: TypeAlias = "Callable[[Future[Any] | None], None]"


@final
class Keys:
    """The keys of one client's calls, by which its servers know them on whatever connection. Thread-safe."""

    def __init__(self) -> None:
        self.session: Final = os.urandom(16)
        """The name of the client for all its connections."""
        self._lock = threading.Lock()
        self._next = 0
        # In order. The first of a plain dict would be found behind the places of all that were taken before it.
        self._wanted: OrderedDict[int, None] = OrderedDict()

    @property
    def next(self) -> int:
        """The least key that was not given to a call yet."""
        return self._next

    def take(self) -> int:
        """A key for a new call."""
        with self._lock:
            key = self._next
            self._next = key + 1
            self._wanted[key] = None
            return key

    def drop(self, key: int) -> None:
        """Nobody wants the answer to this call any more."""
        with self._lock:
            self._wanted.pop(key, None)

    def wanted_from(self) -> int:
        """The least key of a call whose answer is still wanted."""
        with self._lock:
            least = next(iter(self._wanted), self._next)
        return least


@final
class Again:
    """How one client makes calls that last longer than a connection."""

    def __init__(self, retry: Retry | None, redial: Redial, start: Callable[[Callable[[], None]], object]) -> None:
        """
        Args:
            retry: How often, and after how long; None for once, at once, and only what did not run.
            redial: Makes a connection anew.
            start: Runs a function in a thread of its own.
        """
        self.retry: Final = retry
        self.redial: Final = redial
        self.keys = None if retry is None else Keys()
        self.closed: Final = threading.Event()
        """The client is closed: nothing is sent or dialled any more."""
        self._later = Later(self, start)

    def close(self) -> None:
        """Nothing is sent again any more; who waits for that learns it."""
        self.closed.set()
        self._later.wake()

    def forsake(self) -> None:
        """In a forked child, which is another client: locks may be held by threads that are not here."""
        self.redial.forsake()
        self.keys = None if self.retry is None else Keys()
        self._later = Later(self, self._later.start)

    def resend(self, pursuit: "Pursuit", action: Action) -> None:
        """Have a call sent again by a thread, after its pause, once there is a connection, or its deadline has passed.

        Args:
            pursuit: The call.
            action: Sends it. Called with what dialling has come to; with None where it is to look for itself.
        """
        self._later.add(pursuit, action)


@final
class Pursuit:
    """One call, over however many attempts. Used by one thread or task at a time.

    Attributes:
        connection: What it was sent on last; None where it was not sent, as there was no connection, or no contract.
        pause: Seconds to wait before it is sent again.
        end: When it is to be over, on the monotonic clock.
        key: What the server knows it by.
    """

    __slots__ = (
        "_again",
        "_barred",
        "_doubts",
        "_doubts_at",
        "_first_loss",
        "_options",
        "_pauses",
        "_tries",
        "command",
        "connection",
        "end",
        "key",
        "pause",
    )

    def __init__(
        self, again: Again, command: Command[Any], options: CallOptions, end: float | None, *, tries: int = 0
    ) -> None:
        """
        Args:
            again: The client's.
            command: What is called.
            options: Of the call.
            end: When it is to be over.
            tries: How often it was sent.
        """
        self._again = again
        self.command = command
        self._options = options
        self.end = end
        self._tries = tries
        self._doubts = 0  # attempts that may have run
        self._doubts_at = b""  # the incarnation of the server where they may have
        self._barred = False  # there is no server that it may be sent to
        self._first_loss: float | None = None
        self._pauses: Iterator[float] = iter(())
        self.pause = 0.0
        self.connection: Connection | None = None
        is_plain = not (command.codec.has_callbacks or command.streams or command.schema.has_streams)
        self.key: int | None = None
        if again.keys is not None and is_plain and not command.idempotent:
            self.key = again.keys.take()

    @property
    def options(self) -> CallOptions:
        """Those of the call, with the time that is left."""
        if self.end is None:
            return self._options
        return self._options._replace(timeout=max(0.0, self.end - monotonic()))

    def sent(self, connection: Connection) -> tuple[int, int, int] | None:
        """It is about to be sent: what its extension KEY is to say.

        Raises:
            OutcomeUnknown: It may have run, and the server at this connection is not the one that knows.
        """
        self.connection = connection
        self._tries += 1
        keys = self._again.keys
        if self.key is None or keys is None:
            return None
        if self._doubts and connection.core.peer_hello.incarnation != self._doubts_at:
            # It would have to say that it does not know. But if this was the server before that one, and has had this
            # call without running it, or has lost what it knew, it would run it.
            self._barred = True
            raise OutcomeUnknown(
                f"{self.command.qualified_name}: it may have run before the connection was lost, "
                "and the server that is there now does not know"
            )
        # An attempt that did not run is none to the server: a new one, which knows nothing of it, is to run the call.
        return self.key, self._doubts, keys.wanted_from()

    def goes_on(self, error: ConnectionLost) -> bool:
        """The connection was lost, or could not be made: whether the call is sent again, after :attr:`pause`."""
        again, sent_on, retry = self._again, self.connection, self._again.retry
        self.connection = None
        within = get_call()
        if self._barred or again.closed.is_set() or (within is not None and within.why_cancelled):
            return False
        if sent_on is None:
            # Whoever dials has tried as long as he may. But a contract may be asked for anew.
            if isinstance(error.__cause__, ConnectFailed | ServerBusy):
                return False
        elif sent_on.left or sent_on.forked or not self._may_run_again(error, sent_on):
            return False
        elif retry is None and is_usable(sent_on):
            return False  # the server said so, and there is no other yet
        if retry is None:
            self.pause = 0.0
            return self._tries < 2
        now = monotonic()
        if self._first_loss is None:
            self._first_loss, self._pauses = now, retry.pauses()
        pause = next(self._pauses, None)
        if pause is None or now + pause > self._first_loss + retry.total:
            return False
        self.pause = pause
        return True

    def _may_run_again(self, error: ConnectionLost, sent_on: Connection) -> bool:
        if not isinstance(error, OutcomeUnknown):
            # It did not run. But what was taken from an iterator that goes with it does not come again.
            return not self.command.schema.has_streams
        if is_usable(sent_on):
            return False  # the server said so, and says so again
        if self._again.retry is None:
            return False
        self._doubts += 1
        self._doubts_at = sent_on.core.peer_hello.incarnation
        if self.command.idempotent:
            return True
        return self.key is not None and bool(self._doubts_at)

    def is_in_doubt(self, error: BaseException) -> bool:
        """Whether what the last attempt ended with says less than :meth:`doubt`: an attempt before it may have run."""
        if not self._doubts or not isinstance(error, _REFUSALS):
            return False
        if isinstance(error, ArgumentError):
            return not error._from_call  # the server's word about this very call is one
        return not isinstance(error, OutcomeUnknown)

    def doubt(self, error: BaseException) -> OutcomeUnknown:
        """What is raised then, from that error."""
        what = self.command.qualified_name
        return OutcomeUnknown(f"{what}: it may have run before the connection was lost; then: {error}")

    def wait(self) -> None:
        """Wait for the pause, but not past the deadline, nor after the client was closed."""
        seconds = self.pause if self.end is None else min(self.pause, self.end - monotonic())
        self.pause = 0.0
        if seconds > 0:
            self._again.closed.wait(min(seconds, LONGEST_WAIT))

    def over(self) -> None:
        """Nobody waits for it any more. May be called again."""
        key, keys = self.key, self._again.keys
        if key is not None and keys is not None:
            keys.drop(key)


def error_in(outcome: Frame | RpcError, what: str) -> BaseException | None:
    """The error that an outcome is, as this side or the server says it; None for a result."""
    if isinstance(outcome, Exception):
        return outcome
    return unpack_failure(outcome.payload, what) if outcome.kind == Kind.ERROR else None


def loss_in(outcome: Frame | RpcError, what: str) -> ConnectionLost | None:
    """What an outcome has to do with a loss: that of the connection, or what the server says of one."""
    error = error_in(outcome, what)
    return error if isinstance(error, ConnectionLost) else None


def own(payload: Payload) -> Payload:
    """The same, to be sent again when the buffers of the caller may have changed."""
    if isinstance(payload, Segmented):
        return Segmented(bytes(payload.body), [bytes(segment) for segment in payload.segments])
    return payload if isinstance(payload, bytes) else bytes(payload)


_Waiting: TypeAlias = tuple[float, int, float | None, Action]
"""When a call may be sent again, the number that makes an order of them, its deadline, and what sends it."""


def _is_due(now: float) -> Callable[[_Waiting], bool]:
    return lambda entry: entry[0] <= now


def _has_ended(now: float) -> Callable[[_Waiting], bool]:
    return lambda entry: entry[2] is not None and entry[2] <= now


@final
class Later:
    """Calls that no thread waits for, and that are to be sent again: one thread sends them all, while there are any."""

    def __init__(self, again: Again, start: Callable[[Callable[[], None]], object]) -> None:
        self._again = again
        self.start: Final = start
        self._changed = threading.Condition()
        self._number = count()
        self._waiting: list[_Waiting] = []
        self._runs = False

    def add(self, pursuit: Pursuit, action: Action) -> None:
        """See :meth:`Again.resend`."""
        with self._changed:
            heapq.heappush(self._waiting, (monotonic() + pursuit.pause, next(self._number), pursuit.end, action))
            runs, self._runs = self._runs, True
            self._changed.notify_all()
        if not runs:
            try:
                self.start(self._run)
            except BaseException:
                with self._changed:
                    self._runs = False
                raise

    def wake(self) -> None:
        """There is a connection, or there will be none."""
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                dialled, actions = batch
                for action in actions:
                    self._act(action, dialled)
        except BaseException as error:
            with self._changed:
                self._runs = False  # whoever comes next tries with another thread
                actions = self._take(lambda entry: True)
            lost = ConnectionLost(f"nobody could send the call again: {type(error).__name__}")
            for action in actions:
                told: Future[Any] = Future()
                told.set_exception(lost)
                self._act(action, told)
            raise

    def _act(self, action: Action, dialled: "Future[Any] | None") -> None:
        try:
            action(dialled)
        except BaseException:  # what the callback of a future may raise does not keep the others from being sent
            logger.exception("what a call had come to could not be told")

    def _next(self) -> tuple["Future[Any] | None", list[Action]] | None:
        """What can be done now, in order, and what dialling has come to; waits for it. None when nothing is left."""
        dialled: Future[Any] | None = None
        while True:
            with self._changed:
                if not self._waiting:
                    self._runs = False
                    return None
                now = monotonic()
                if self._again.closed.is_set():
                    return None, self._take(lambda entry: True)
                if late := self._take(_has_ended(now)):
                    return None, late
                is_due = self._waiting[0][0] <= now
            if is_due and dialled is None:
                dialled = self._again.redial.join()
                dialled.add_done_callback(lambda future: self.wake())
            with self._changed:
                if dialled is not None and dialled.done():
                    return dialled, self._take(_is_due(now))
                until = [entry[2] for entry in self._waiting if entry[2] is not None]
                if dialled is None:
                    until.append(self._waiting[0][0])
                left = min(until, default=now + LONGEST_WAIT) - monotonic()
                if left > 0 and not self._again.closed.is_set():
                    self._changed.wait(min(left, LONGEST_WAIT))

    def _take(self, which: Callable[[_Waiting], bool]) -> list[Action]:
        """Take entries out. The lock is held."""
        taken = sorted(entry for entry in self._waiting if which(entry))
        if taken:
            self._waiting = [entry for entry in self._waiting if not which(entry)]
            heapq.heapify(self._waiting)
        return [entry[3] for entry in taken]
