"""Calls whose outcome goes to a future, and that are sent again where the loss of a connection cut them short."""

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeAlias, final

from typedrpc.agreement import Route
from typedrpc.common.connection import Connection
from typedrpc.common.redial import outcome_of
from typedrpc.common.retrying import ROOM_PAUSE, Again, Pursuit, error_in
from typedrpc.common.room import NoRoom
from typedrpc.errors import ConnectionLost, RpcError
from typedrpc.options import CallOptions
from typedrpc.wire import Frame

OnLost: TypeAlias = Callable[[Frame | RpcError, float | None], bool]
"""Is asked about an outcome that is no result, and the deadline of its call: whether it has seen to it."""

Resolve: TypeAlias = Callable[[float | None], tuple[Connection, Route]]
"""Gives the connection, and how the command is called there, within so many seconds. May block."""

Start: TypeAlias = Callable[[Connection, Route, CallOptions, OnLost, tuple[int, int, int] | None, bool], None]
"""Sends the call. The last argument says whether to wait for room at the peer."""


@final
class Submission:
    """One such call. After the first attempt a thread of the client's sends it, within the context of its caller."""

    __slots__ = ("_again", "_context", "_future", "_pursuit", "_resolve", "_start")

    def __init__(self, again: Again, pursuit: Pursuit, future: Future[Any], resolve: Resolve, start: Start) -> None:
        """
        Args:
            again: The client's.
            pursuit: The call.
            future: What its outcome goes to.
            resolve: Gives what to call it on.
            start: Sends it.
        """
        self._again = again
        self._pursuit = pursuit
        self._future = future
        self._resolve = resolve
        self._start = start
        self._context = copy_context()
        future.add_done_callback(lambda future: pursuit.over())

    def begin(self, connection: Connection, route: Route, *, patient: bool) -> None:
        """Send it for the first time. Raises what :meth:`typedrpc.common.calling.Calls.submit` does."""
        try:
            self._send(connection, route, patient=patient)
        except ConnectionLost as error:
            if not self._goes_on(error):
                self._pursuit.over()
                raise
        except BaseException:
            self._pursuit.over()
            raise

    def lost(self, outcome: Frame | RpcError, end: float | None = None) -> bool:
        """It has ended without a result. Returns whether it is sent again, or its future was told."""
        error = error_in(outcome, self._pursuit.command.qualified_name)
        if isinstance(error, ConnectionLost) and self._goes_on(error):
            return True
        if error is None or not self._pursuit.is_in_doubt(error):
            return False
        self._fail(error)
        return True

    def _fail(self, error: BaseException) -> None:
        """Nothing more is tried."""
        if self._pursuit.is_in_doubt(error):
            doubt = self._pursuit.doubt(error)
            doubt.__cause__ = error
            error = doubt
        if self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)

    def _send(self, connection: Connection, route: Route, *, patient: bool) -> None:
        options = self._pursuit.options
        self._start(connection, route, options, self.lost, self._pursuit.sent(connection), patient)

    def _goes_on(self, error: ConnectionLost) -> bool:
        if self._future.cancelled() or not self._pursuit.goes_on(error):
            return False
        try:
            self._again.resend(self._pursuit, self._send_again)
        except RuntimeError:  # the system has no more threads
            return False
        return True

    def _send_again(self, dialled: "Future[Any] | None") -> None:
        self._context.run(self._try_again, dialled)

    def _try_again(self, dialled: "Future[Any] | None") -> None:
        if self._future.cancelled():
            return
        try:
            if dialled is not None:
                outcome_of(dialled)
            connection, route = self._resolve(self._pursuit.options.timeout)
            try:
                self._send(connection, route, patient=False)  # there are others, which this thread is to send too
            except NoRoom:
                self._pursuit.pause = ROOM_PAUSE
                self._again.resend(self._pursuit, self._send_again)
        except BaseException as error:
            if isinstance(error, ConnectionLost) and self._goes_on(error):
                return
            self._fail(error)
