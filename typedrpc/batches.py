"""Many calls of one command in one frame: how many are sent at a time, and how their outcomes are sent back.

Nothing here knows of threads or event loops, beyond that several may run calls of one batch.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any, Final, TypeAlias, final

from typedrpc.call import Call
from typedrpc.codec import Payload, Segmented
from typedrpc.errors import MessageTooLarge
from typedrpc.failure import pack_protocol_failure
from typedrpc.parts import PART_OVERHEAD, Values, pack_array, pack_outcomes
from typedrpc.protocol import MAX_BATCH, BatchRequest, Outgoing, Protocol
from typedrpc.wire import HEADER_SIZE, RECEIVE_SIZE, Buffer, payload_size

logger = logging.getLogger("typedrpc")

REPLY_TIME: Final = 0.002
"""Seconds after which outcomes leave although calls of their batch are still to be run."""

GATHER_TIME: Final = 0.002
"""Seconds in which the calls of a batch are gathered, where their arguments come slowly."""

TARGET_TIME: Final = 0.002
"""Seconds that a batch should take: so long that the price of a frame does not count, and no longer."""

MIN_WINDOW: Final = 64
"""Calls of one map that may be in flight, however slow they are."""

MAX_WINDOW: Final = 2 * MAX_BATCH
"""Calls of one map that may be in flight, or have a result that was not taken yet, however quick they are."""

WINDOW_BYTES: Final = 256 * 1024
"""Bytes of arguments, or of results, of more than ``MIN_WINDOW`` calls that may."""

FRAME_BYTES: Final = RECEIVE_SIZE - HEADER_SIZE
"""The payload of a frame with several calls or outcomes: what a receiver reads at once."""

AHEAD: Final = 128
"""Calls of a batch whose arguments are unpacked together, before the first of them is run."""

AHEAD_BYTES: Final = 4096
"""Bytes of their arguments, unless it is one call: what is unpacked takes more room, and many batches may be begun."""

WHOLE_BYTES: Final = 8192
"""Bytes of the arguments of a batch that is unpacked as a whole: up to here that is cheaper than to look for a part."""

Result: TypeAlias = tuple[bool, Payload]
"""What a call came to: whether it is an error, and the packed error or result."""

Taken: TypeAlias = tuple[int, Sequence[Any] | None]
"""A call of a batch: which one it is, and its arguments if they are unpacked already."""


@final
class Pace:
    """How many calls of one map go into the next frame, and how many may be on their way. Not thread-safe.

    Attributes:
        size: Calls for the next frame.
        window: Calls that may be ahead of the consumer.
    """

    __slots__ = ("_sized", "size", "window")

    def __init__(self) -> None:
        self.size = 1
        self.window = MIN_WINDOW
        self._sized = False  # by what was measured

    def sent(self) -> None:
        """A frame was sent. Until something is known, each takes twice as many calls as the one before."""
        if not self._sized:
            self.size = min(2 * self.size, MIN_WINDOW // 2)

    def done(self, calls: int, seconds: float, size: int) -> None:
        """The calls of a frame are over.

        Args:
            calls: How many they were.
            seconds: How long they took, beyond those of the frame before.
            size: Bytes of their arguments or of their results, whichever are more.
        """
        fitting = TARGET_TIME * calls / max(seconds, 1e-6)
        affordable = WINDOW_BYTES * calls // (2 * max(size, 1))
        # One that was quick, or held up, by chance must not make the next ones far too large, or small.
        self.size = int(max(1, self.size // 4, min(fitting, affordable, 2 * max(self.size, calls), MAX_BATCH)))
        self.window = min(max(MIN_WINDOW, 2 * self.size), MAX_WINDOW)
        self._sized = True


def _refuse(value: object) -> Any:
    raise AssertionError(f"{value!r} was kept as a result")


@final
class BatchRun:
    """A batch of the peer's while its calls are run, by whichever threads.

    Attributes:
        parts: The packed arguments of each call.
        opened: What the dispatcher has looked up for all of them, once it has.
        since: When it came, on the monotonic clock.
        why_cancelled: Why nobody wants the outcomes any more; empty while that is not so.
        unpack: Unpacks the arguments of several calls together, see :class:`~typedrpc.codec.CommandCodec`; None where
            those of each are unpacked by themselves.
        count: How many calls there are.
        next: The first call that is neither taken nor in ``ahead``.
        ahead: Calls that nobody has taken, in order, with their arguments where they are unpacked.
        running: Calls that run, by any key of who runs them.
        outcomes: What each has come to, a :data:`Result`, or a value of the type ``kept``; None while it has not. Who
            sets one pops one of ``unsettled``.
        kept: The type of results that are packed when they are sent; None where each is packed at once.
        pack_kept: Packs several of them, as an array. Raises what it likes where one does not fit.
        finish: Packs one of them.
        unsettled: One for each call without an outcome; popping needs no lock.
        reply_at: When outcomes are to leave, on the monotonic clock, if not all have come before.
    """

    __slots__ = (
        "_core",
        "_lock",
        "_request",
        "_taking",
        "_told",
        "ahead",
        "count",
        "finish",
        "kept",
        "next",
        "opened",
        "outcomes",
        "pack_kept",
        "parts",
        "reply_at",
        "running",
        "since",
        "unpack",
        "unsettled",
        "why_cancelled",
    )

    def __init__(self, core: Protocol[Any], request: BatchRequest) -> None:
        self.count = count = len(request.parts)
        self.parts: Final[Values] = request.parts
        self.opened: Any = None
        self.unpack: Callable[[Buffer], list[Sequence[Any]] | None] | None = None
        self.next = 0
        self.ahead: Final[deque[Taken]] = deque()
        self.since = now = monotonic()
        self.reply_at = now + REPLY_TIME
        self._core = core
        self._request = request
        self.outcomes: Final[list[Any]] = [None] * count
        self.kept: type | None = None
        self.pack_kept: Callable[[list[Any]], Payload] = _refuse
        self.finish: Callable[[Any], Result] = _refuse
        self.unsettled: Final[list[None]] = [None] * count
        self._told = 0
        self._lock = Lock()
        self._taking = Lock()
        self.running: Final[dict[object, Call]] = {}
        self.why_cancelled = ""

    def cancel(self, why: str) -> None:
        """Nobody wants the outcomes any more: as :meth:`typedrpc.dispatch.Call.cancel`."""
        self.why_cancelled = why
        for call in tuple(self.running.values()):
            if not call.why_cancelled:
                call.cancel(why)

    def caller_left(self) -> None:
        """The connection of the caller has ended; as :meth:`cancel`."""
        self.cancel("its caller has left")

    def begun(self, call: Call) -> None:
        """The handler of one of the calls is about to run."""
        self.running[call] = call
        if self.why_cancelled and not call.why_cancelled:
            call.cancel(self.why_cancelled)

    def ended(self, call: Call) -> None:
        """It has run."""
        self.running.pop(call, None)

    @property
    def is_taken(self) -> bool:
        """No call is left to be taken."""
        return self.next == self.count and not self.ahead

    @property
    def taken(self) -> int:
        """Calls that were taken."""
        return self.next - len(self.ahead)

    def take(self) -> Taken | None:
        """The next call, and its arguments if they are unpacked already; None where all are taken. Thread-safe."""
        try:
            return self.ahead.popleft()
        except IndexError:
            return self._look_ahead()

    def _look_ahead(self) -> Taken | None:
        """The next call; those after it have their arguments unpacked with it."""
        with self._taking:
            with suppress(IndexError):
                return self.ahead.popleft()
            start = self.next
            if self.unpack is None or start >= self.count - 1:
                if start == self.count:
                    return None
                self.next = start + 1
                return start, None
            parts, stop = self.parts, self.count
            found: Sequence[Sequence[Any] | None] | None = None
            if start == 0 and len(parts.array) <= WHOLE_BYTES:
                found = self.unpack(parts.array)
            if found is None:
                stop = min(start + AHEAD, stop)
                while stop > start + 1 and parts.size(start, stop) > AHEAD_BYTES:
                    stop = (start + stop) // 2
                if stop > start + 1:
                    found = self.unpack(parts.as_array(start, stop))
            if found is None:
                found = [None] * (stop - start)
            self.ahead.extend(zip(range(start + 1, stop), found[1:], strict=True))
            self.next = stop  # after they were added: it must not seem as if all were taken
            return start, found[0]

    def settle(self, index: int, result: Result) -> bool:
        """A call is over. Returns whether it is time to :meth:`reply`."""
        self.outcomes[index] = result
        self.unsettled.pop()
        return not self.unsettled or monotonic() >= self.reply_at

    def settle_rest(self, result: Result) -> None:
        """All the calls that nobody has taken come to this."""
        while (item := self.take()) is not None:
            self.settle(item[0], result)

    def reply(self, send: Callable[[Outgoing], object]) -> bool:
        """Send the outcomes up to the first call that is not over.

        Args:
            send: Is given frame after frame, which may hold buffers of the handlers'; must not block.

        Returns:
            Whether all has been sent.
        """
        outcomes = self.outcomes
        with self._lock:
            start = self._told
            if start == len(outcomes):
                return True
            try:
                end = outcomes.index(None, start)
            except ValueError:
                end = len(outcomes)
            self.reply_at = monotonic() + REPLY_TIME
            frames = self._pack(outcomes[start:end])
            for index, payload in enumerate(frames, 1):
                is_last = end == len(outcomes) and index == len(frames)
                send(self._core.outcomes(self._request, payload, last=is_last))
            self._told = end
        return end == len(outcomes)

    def _pack(self, results: list[Any]) -> list[Payload]:
        """The payloads of frames that hold these outcomes, none of them larger than the peer accepts."""
        most = self._core.peer_limits.max_message_size
        limit = min(most, FRAME_BYTES)
        if not results:
            return []
        array = None if tuple in set(map(type, results)) else self._pack_kept(results)
        if array is not None and len(array) <= limit:
            return [array]
        for index, value in enumerate(results):
            if type(value) is not tuple:
                results[index] = self.finish(value)
        failed, bodies = zip(*results, strict=True)
        if set(map(type, bodies)) == {bytes} and PART_OVERHEAD * (len(bodies) + 1) + sum(map(len, bodies)) <= limit:
            return [pack_outcomes(results) if True in failed else pack_array(bodies)]
        frames: list[Payload] = []
        gathered: list[tuple[bool, Any]] = []
        size = PART_OVERHEAD
        for is_error, payload in results:
            alone = payload_size(payload) + 2 * PART_OVERHEAD
            if alone > most:
                is_error, payload = True, self._too_large(is_error, alone, most)
                alone = len(payload) + 2 * PART_OVERHEAD
            segmented = isinstance(payload, Segmented)
            if gathered and (segmented or size + alone - PART_OVERHEAD > limit):
                frames.append(pack_outcomes(gathered))
                gathered, size = [], PART_OVERHEAD
            if isinstance(payload, Segmented):
                frames.append(Segmented(pack_outcomes([(is_error, payload.body)]), payload.segments))
            else:
                gathered.append((is_error, payload))
                size += alone - PART_OVERHEAD
        if gathered:
            frames.append(pack_outcomes(gathered))
        return frames

    def _pack_kept(self, values: list[Any]) -> bytes | None:
        """The payload of these results; None where they have to be packed one by one."""
        try:
            array = self.pack_kept(values)
        except Exception:
            return None
        return array if isinstance(array, bytes) else None

    def _too_large(self, is_error: bool, size: int, limit: int) -> bytes:
        what = "the error that a call ended with" if is_error else self.opened.row.result_name
        error = MessageTooLarge(what, size, limit)
        if not is_error:
            logger.warning("%s", error)
        return pack_protocol_failure(error)
