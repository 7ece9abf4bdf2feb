"""`map` over a connection: calls leave in batches, a bounded number of them ahead of the consumer.

The consuming thread packs, sends, reads and unpacks; no future and no hand-over per item. While it is elsewhere,
somebody else reads what comes: see :class:`typedrpc.common.handlers.Attendance`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final, NamedTuple, final

from typedrpc.agreement import Route
from typedrpc.batches import FRAME_BYTES, GATHER_TIME, MIN_WINDOW, WINDOW_BYTES, Pace
from typedrpc.call import Call, get_call
from typedrpc.codec import CodecError, Payload, Segmented
from typedrpc.command import Command
from typedrpc.common.agreements import nesting
from typedrpc.common.connection import Connection
from typedrpc.common.role import Waiter
from typedrpc.common.tokens import Batch
from typedrpc.errors import ConnectionLost, DeadlineExceeded, ProtocolError, RpcError
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.parts import ARRAY_OVERHEAD, count_parts, is_array, split_outcomes
from typedrpc.wire import Frame, Kind, payload_size

_RESPONSE: Final = int(Kind.RESPONSE)
_BATCH: Final = int(Kind.BATCH)
_EXTENSION_ROOM: Final = 32
"""Bytes that the extension of one frame may be longer than that of the frame before."""


class NotMade(NamedTuple):
    """Calls that could not be sent. ``is_final`` where the inputs failed, or the connection has: that ends the map."""

    error: Exception
    calls: int = 1
    is_final: bool = False

    @property
    def has_come(self) -> bool:
        return True


class Plan(NamedTuple):
    """What goes for a call, or a batch of them, beside the arguments.

    Attributes:
        deadline: When it ends at the latest, on the monotonic clock.
        extension: The packed extension map.
        nested: Whether it is made by a handler of a call that came on the same connection.
        within: The call that is being handled, if one is: it is cancelled with it.
    """

    deadline: float | None
    extension: bytes
    nested: bool
    within: Call | None


@final
class Mapping:
    """One map, while somebody consumes it. Used by one thread at a time.

    Attributes:
        waiter: The thread that consumes it.
    """

    def __init__(
        self,
        resolve: Callable[[], tuple[Connection, Route]],
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        plan: Callable[[Connection, Route], Plan],
    ) -> None:
        """
        Args:
            resolve: Gives the connection to call on, and how the command is called there.
            command: What is called.
            iterables: Give its arguments.
            plan: Gives what goes with each batch.
        """
        self.what: Final = command.qualified_name
        self.unpack: Callable[[Payload], Any] = command.codec.unpack_result
        self._unpack_results: Callable[[Payload], list[Any]] | None = None
        self._command = command
        self._resolve = resolve
        self._inputs = zip(*iterables, strict=False)  # as map does, it ends with the shortest
        self._inputs_of_each = len(iterables)
        self._payloads = self._begin_packing()
        self._plan = plan
        self._waiter = Waiter()
        self._pace = Pace()
        self._line: Final[deque[Batch | NotMade]] = deque()  # what was sent, and what could not be, in order
        self._ahead = 0  # calls in it, with those that are being consumed
        self._ahead_bytes = 0
        self._last_done = 0.0
        self._ended = False  # the inputs have
        # What was packed and not sent yet: it did not fit, or there was no room for it. And what comes after that.
        self._packed: list[Payload] = []
        self._packed_bytes = 0
        self._held: Payload | None = None
        self._failed: NotMade | None = None
        self._connection: Connection | None = None
        self._route: Route
        self._limit = FRAME_BYTES  # bytes that several calls in a frame may have

    # Sending

    def fill(self) -> Batch | NotMade | None:
        """Send what may be sent: what is to be consumed next; None when all has been."""
        line = self._line
        sent = False
        while self._has_more() and self._has_window() and not (sent and line[0].has_come):
            if not self._send_next():
                break
            sent = True
        return line[0] if line else None

    def _has_more(self) -> bool:
        return bool(self._packed or self._failed is not None or not self._ended or self._held is not None)

    def _has_window(self) -> bool:
        ahead = self._ahead
        return ahead < MIN_WINDOW or (
            self._ahead_bytes < WINDOW_BYTES and ahead + min(self._pace.size, MIN_WINDOW) <= self._pace.window
        )

    def _send_next(self) -> bool:
        """Send a frame, or note what failed. Returns whether there was room at the peer."""
        if not self._packed and self._failed is None:
            self._gather()
        if self._packed:
            return self._send(self._packed)
        if self._failed is not None:
            self._note(self._failed)
            self._failed = None
        return True

    def _gather(self) -> None:
        """Pack the calls for a frame, as many as are to go into one and come in time."""
        packed, size = self._packed, ARRAY_OVERHEAD
        most = max(1, min(self._pace.size, self._pace.window - self._ahead))
        if self._held is not None:
            packed.append(self._held)
            size += payload_size(self._held)
            self._held = None
            if isinstance(packed[0], Segmented):
                most = 1
        until, limit = monotonic() + GATHER_TIME, self._limit
        if len(packed) < most:
            try:
                for payload in self._payloads:
                    segmented = type(payload) is not bytes and isinstance(payload, Segmented)
                    more = size + (payload_size(payload) if segmented else len(payload))
                    if packed and (more > limit or segmented):
                        self._held = payload
                        break
                    packed.append(payload)
                    size = more
                    if len(packed) >= most or segmented or monotonic() > until:
                        break
                else:
                    self._ended = True
            except RpcError as error:
                self._failed = NotMade(error)
                self._payloads = self._begin_packing()
            except Exception as error:  # of the inputs
                self._failed = NotMade(error, is_final=True)
                self._ended = True
        self._packed_bytes = size

    def _begin_packing(self) -> Iterator[Payload]:
        return self._command.codec.pack_each(self._inputs, self._inputs_of_each)

    def _send(self, packed: list[Payload]) -> bool:
        now = monotonic()
        try:
            connection = self._connect()
            deadline, extension, nested, _ = self._plan(connection, self._route)
            most = connection.core.peer_limits.max_message_size
            self._limit = min(FRAME_BYTES, most) - len(extension) - _EXTENSION_ROOM
            batch = Batch(self._waiter, len(packed), self._packed_bytes, now, deadline)
            wait = not self._line
            if not connection.send_batch(batch, self._route.id, packed, self.what, extension, nested, wait=wait):
                return False
            self._line.append(batch)
            self._pace.sent()
        except RpcError as error:
            self._line.append(NotMade(error, len(packed), is_final=isinstance(error, ConnectionLost)))
        self._ahead += len(packed)
        self._ahead_bytes += self._packed_bytes
        self._packed = []
        return True

    def _note(self, failed: NotMade) -> None:
        self._line.append(failed)
        self._ahead += failed.calls

    def _connect(self) -> Connection:
        """The connection; another one in a forked child."""
        connection = self._connection
        if connection is None or connection.forked:
            connection, self._route = self._resolve()
            if self._route.unpack_adapted is not None:
                self.unpack = self._route.unpack_adapted
                self._unpack_results = None
            else:
                self._unpack_results = self._command.codec.unpack_results
            connection.handlers.stand_by()
            self._connection = connection
        return connection

    # Consuming

    def fetch(self, batch: Batch) -> tuple[list[Any], list[Any]]:
        """The next of the batch that is first in line, once there is something.

        Returns:
            Results; and outcomes that have to be looked at one by one, payloads and exceptions. One of them is empty.
        """
        connection = self._connection
        assert connection is not None, "what is in line was sent"
        nested = get_call() is not None and nesting(connection)[0] != 0
        frame = connection.fetch(batch, self._waiter, self.what, nested=nested)
        results: list[Any] = []
        outcomes: list[Any] = []
        if isinstance(frame, Frame):
            results = self._read_results(frame)
            if not results:
                outcomes = self._read(frame, batch.left)
            batch.results += payload_size(frame.payload)
        else:
            outcomes = [self._again(connection, frame) for _ in range(batch.left)]
        count = len(results) + len(outcomes)
        batch.left -= count
        if not batch.left:
            now = monotonic()
            self._pace.done(batch.count, now - max(batch.since, self._last_done), max(batch.bytes, batch.results))
            self._last_done = now
            self._line.popleft()
            self._ahead_bytes -= batch.bytes
        self._ahead -= count
        return results, outcomes

    def _read_results(self, frame: Frame) -> list[Any]:
        """The results in a frame of nothing else; none where they have to be unpacked one by one."""
        payload = frame.payload
        if frame.kind != _BATCH or self._unpack_results is None or isinstance(payload, Segmented):
            return []
        if len(payload) > FRAME_BYTES or not is_array(payload):
            return []
        try:
            return self._unpack_results(payload)
        except CodecError:
            return []

    def drop(self, failed: NotMade) -> None:
        """What is first in line, and could not be sent, has been told."""
        self._line.popleft()
        self._ahead -= failed.calls

    def _read(self, frame: Frame, left: int) -> list[Any]:
        payload, what = frame.payload, self.what
        if frame.kind == _BATCH:
            body, segments = (payload.body, payload.segments) if isinstance(payload, Segmented) else (payload, [])
            parts = split_outcomes(body)
            if isinstance(parts, str) or (segments and len(parts) != 1):
                reason = parts if isinstance(parts, str) else f"segments beside {len(parts)} outcomes"
                return [_nonsense(what, reason) for _ in range(min(left, count_parts(body)))]
            if segments and not parts[0][0]:
                return [Segmented(parts[0][1], segments)]
            return [unpack_failure(body, what) if is_error else body for is_error, body in parts]
        if frame.kind != _RESPONSE:
            return [unpack_failure(payload, what) for _ in range(left)]
        if left == 1:
            return [payload]
        return [_nonsense(what, "one result for several calls") for _ in range(left)]

    def _again(self, connection: Connection, error: RpcError) -> RpcError:
        """An error of its own for each call."""
        if isinstance(error, DeadlineExceeded):
            return DeadlineExceeded(f"{self.what}: {error}")
        if not isinstance(error, ConnectionLost):
            return error
        again = type(error)(*error.args)
        again.__cause__ = error.__cause__
        return again

    def told(self, error: Exception) -> Exception:
        """What a user is told of what went wrong with a call."""
        if isinstance(error, CodecError):
            bad = ProtocolError(f"the peer answered with what the contract does not allow: {error}")
            bad.__cause__ = error
            return bad
        return self._command.errors.rebuild(error) if isinstance(error, DeclaredFailure) else error

    # The end

    def finish(self) -> None:
        """All was consumed."""
        if self._connection is not None:
            self._connection.handlers.stand_down()
            self._connection = None

    def abandon(self) -> None:
        """Whoever consumed it has left, perhaps long ago: this may run in the garbage collector."""
        if self._connection is not None:
            self._connection.abandon([batch for batch in self._line if isinstance(batch, Batch)])


def mapped(
    resolve: Callable[[], tuple[Connection, Route]],
    command: Command[Any],
    iterables: tuple[Iterable[Any], ...],
    plan: Callable[[Connection, Route], Plan],
    return_exceptions: bool,
) -> Iterator[Any]:
    """The results of calls of a command, in order; takes what :class:`Mapping` does.

    Args:
        return_exceptions: Give the error of a call as its result, instead of raising it when its turn has come.
    """
    mapping = Mapping(resolve, command, iterables, plan)
    try:
        while (head := mapping.fill()) is not None:
            if isinstance(head, NotMade):
                mapping.drop(head)
                for _ in range(head.calls):
                    if head.is_final or not return_exceptions:
                        raise head.error
                    yield head.error
                continue
            unpack = mapping.unpack
            results, outcomes = mapping.fetch(head)
            yield from results
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    error = mapping.told(outcome)
                else:
                    try:
                        result = unpack(outcome)
                    except CodecError as misfit:
                        error = mapping.told(misfit)
                    else:
                        yield result
                        continue
                if not return_exceptions:
                    raise error
                yield error
        mapping.finish()
    finally:
        mapping.abandon()


def _nonsense(what: str, reason: str) -> ProtocolError:
    return ProtocolError(f"{what}: the peer answered with what makes no sense: {reason}")
