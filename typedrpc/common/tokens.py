"""What waits for the outcome of a call: a thread that parks, or a function for a thread of the connection's own."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, final

from typedrpc.common.handlers import Handlers, Series
from typedrpc.common.role import ReadRole, Waiter
from typedrpc.errors import RpcError
from typedrpc.wire import Frame


class Owner(Protocol):
    """What a token needs of the connection that its call is made on."""

    @property
    def role(self) -> ReadRole: ...
    @property
    def handlers(self) -> Handlers: ...


class Token(Protocol):
    """What waits for the outcome of a call.

    Attributes:
        aborted: Why nobody wants the outcome any more; for calls that were not sent yet.
    """

    aborted: RpcError | None

    def complete(self, connection: Owner, frame: Frame) -> None:
        """The peer answered."""

    def fail(self, connection: Owner, error: RpcError) -> None:
        """There is no answer, unless there was one: what came first counts."""


class Submitted(Token, Protocol):
    """A token of a call that no thread waits for.

    Attributes:
        series: Of the callbacks that went with the call: those that were sent before the answer run before it is told.
    """

    series: Series | None


class CallWaiter(Waiter):
    """A thread that waits for its reply."""

    __slots__ = ("aborted", "error", "frame")

    def __init__(self, *, abortable: bool = False) -> None:
        Waiter.__init__(self, abortable=abortable)
        self.aborted: RpcError | None = None
        self.frame: Frame | None = None
        self.error: RpcError | None = None

    def complete(self, connection: Owner, frame: Frame) -> None:
        self.frame = frame
        self.done = True
        connection.role.rouse(self)
        connection.handlers.served_callers += 1

    def fail(self, connection: Owner, error: RpcError) -> None:
        if not self.done:
            self.error = error
            self.done = True
        connection.role.rouse_for_good(self)


class Failed(Exception):
    """How a call ends other than with a result. Whatever else comes out of one is of a signal handler."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class NotSent(Failed):
    """So that the peer has seen nothing of it."""


class Pending:
    """A call whose outcome goes to a function, in a thread of the connection's own."""

    __slots__ = ("_finish", "aborted", "series")

    def __init__(self, finish: Callable[[Frame | RpcError], None]) -> None:
        self._finish = [finish]
        self.aborted: RpcError | None = None
        self.series: Series | None = None

    def complete(self, connection: Owner, frame: Frame) -> None:
        connection.handlers.settle(partial(self._settle, frame), self.series)

    def fail(self, connection: Owner, error: RpcError) -> None:
        connection.handlers.settle(partial(self._settle, error))

    def _settle(self, outcome: Frame | RpcError) -> None:
        while self._finish:
            self._finish.pop()(outcome)


@final
class Batch:
    """A call of a map, or several in one frame, whose outcomes one thread fetches when it comes to them.

    Attributes:
        call: The id, once they are sent.
        frames: What came and was not looked at yet.
        error: What those come to that no frame brings. It is told after all that was brought.
        left: Calls whose outcomes were not fetched yet; the fetching thread's.
        since: When they were sent, on the monotonic clock.
        bytes: Of their arguments, or those of their results that were fetched.
    """

    __slots__ = (
        "_waiter",
        "aborted",
        "bytes",
        "call",
        "count",
        "deadline",
        "error",
        "frames",
        "left",
        "results",
        "since",
    )

    def __init__(self, waiter: Waiter, count: int, size: int, since: float, deadline: float | None) -> None:
        """
        Args:
            waiter: The thread that fetches; ``done`` says that there is something to look at.
            count: How many calls they are.
            size: Bytes of their arguments.
            since: The time now.
            deadline: When to stop waiting.
        """
        self.call = 0
        self.aborted: RpcError | None = None
        self.frames: Final[deque[Frame]] = deque()
        self.error: RpcError | None = None
        self.count = self.left = count
        self.bytes = size
        self.results = 0
        self.since = since
        self.deadline = deadline
        self._waiter = waiter

    @property
    def has_come(self) -> bool:
        """There is something to fetch."""
        return bool(self.frames) or self.error is not None

    def complete(self, connection: Owner, frame: Frame) -> None:
        self.frames.append(frame)
        self._waiter.done = True
        if connection.role.rouse(self._waiter):
            connection.handlers.served_callers += 1

    def fail(self, connection: Owner, error: RpcError) -> None:
        self.end(error)
        connection.role.rouse_for_good(self._waiter)

    def end(self, error: RpcError) -> None:
        """Nothing comes any more."""
        if self.error is None:
            self.error = error
        self._waiter.done = True
