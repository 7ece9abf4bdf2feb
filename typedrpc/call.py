"""One call as its handler sees it: who makes it, how long it may take, and whether anybody still wants its result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from typedrpc.answers import Running
from typedrpc.codec import CommandCodec, Payload, StreamCodec
from typedrpc.deadlines import nearest
from typedrpc.declared import NO_ERRORS, DeclaredErrors
from typedrpc.errors import CallCancelled
from typedrpc.options import NO_METADATA, Metadata
from typedrpc.peer import Peer, PeerServer
from typedrpc.protocol import Protocol, Request
from typedrpc.service import Entry

logger = logging.getLogger("typedrpc")

LONGEST_SLEEP: Final = 86_400.0
"""Seconds that a thread sleeps at a time: what every system can take."""


class Opened(NamedTuple):
    """What the calls of a batch have in common, with everything looked up that they need."""

    row: Row
    function: Callable[..., Any]
    peer: Peer
    protocol: Protocol[Any]
    request: Request
    depth: int
    deadline: float | None
    is_observed: bool


class Call:
    """A call as its handler sees it; :func:`current_call` gives the one that is being handled.

    Attributes:
        peer: Who called.
        function: The handler.
        args: What it is called with, by position.
        kwargs: What it is called with, by name.
        deadline: When the caller stops waiting, on the clock of ``time.monotonic()``; None for never.
        metadata: What the caller sent beside the arguments, by ``with_options(metadata=...)``.
        reply_metadata: What the caller is told beside the result or the error, if it asks by
            ``with_options(on_metadata=...)``; yours to fill: ``str`` to ``str`` or ``bytes``, 8 KiB at most.
        depth: Calls that it is nested in: 0 where the caller was not handling a call itself.
    """

    __slots__ = (
        "_aborts",
        "_reply_metadata",
        "args",
        "deadline",
        "depth",
        "function",
        "id",
        "kwargs",
        "metadata",
        "peer",
        "protocol",
        "row",
        "running",
        "started",
        "why_cancelled",
    )

    def __init__(
        self,
        row: Row,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        peer: Peer,
        protocol: Protocol[Any],
        request: Request,
    ) -> None:
        self.row = row
        self.started: float  # set where somebody observes
        self.id = request.call
        self.protocol = protocol
        self.depth = 0
        self.deadline: float | None = None
        self.metadata: Metadata = NO_METADATA
        self.why_cancelled = ""  # empty while it is not
        self.running: Running | None = None  # what is to know what it comes to, where its caller may ask again
        self._aborts: dict[object, Callable[[], None]] | None = None
        self._reply_metadata: dict[str, str | bytes] | None = None
        self.function = row.function
        self.args = args
        self.kwargs = kwargs
        self.peer = peer

    @property
    def command(self) -> str:
        """Its name, ``"Service.command"``."""
        return self.row.name

    @property
    def cancelled(self) -> Cancellation:
        """Whether the caller still wants the result. A handler in a thread that takes long should look now and then."""
        # Not kept: it would be a cycle, and what a handler was given is to go when the handler has ended.
        return Cancellation(self)

    @property
    def reply_metadata(self) -> dict[str, str | bytes]:
        if self._reply_metadata is None:
            self._reply_metadata = {}
        return self._reply_metadata

    def cancel(self, why: str) -> None:
        """The caller has given the call up, or has left: whoever works for it is told. Must not be called twice."""
        # The flag first: who is added meanwhile looks at it afterwards.
        self.why_cancelled = why
        aborts = self._aborts
        while aborts:
            try:
                _, abort = aborts.popitem()
            except KeyError:  # has just ended
                return
            try:
                abort()
            except Exception:  # there are no threads, for one: others are to be told all the same
                logger.exception("something could not be told that %s was cancelled", self.command)

    def caller_left(self) -> None:
        """The connection of the caller has ended; as :meth:`cancel`, unless it may come back for the answer."""
        if self.running is None:
            self.cancel("its caller has left")
        else:
            self.running.caller_left()

    def on_cancel(self, key: object, abort: Callable[[], None]) -> None:
        """Have a function called when the call is cancelled, at once if it is; by another thread, so it must not block.

        Args:
            key: What :meth:`forget` is to be called with when the function is not needed any more.
            abort: May be called twice.
        """
        aborts: dict[object, Callable[[], None]] = {}
        if self._aborts is None:  # nothing comes between this and the next line: several threads may be here
            self._aborts = aborts
        self._aborts[key] = abort
        if self.why_cancelled:
            # Perhaps it is also called by who cancels; but who goes on here must not do so before it was.
            self._aborts.pop(key, None)
            abort()

    def forget(self, key: object) -> None:
        """Undo :meth:`on_cancel`."""
        if self._aborts is not None:
            self._aborts.pop(key, None)

    @property
    def server(self) -> PeerServer:
        """The server that handles the call.

        Raises:
            RuntimeError: A client does, which exposes the command.
        """
        server = self.peer.server
        if server is None:
            raise RuntimeError(f"{self.command} is handled by a client, there is no server")
        return server

    def __repr__(self) -> str:
        return f"<call of {self.command} from {self.peer!r}>"


@final
class CallOfBatch(Call):
    """One of the calls of a batch, whose arguments go by position: most of it is made when somebody asks for it.

    To make one, take :func:`new_call` and set ``opened`` and ``given``: what it has in common with the others, and its
    arguments. This takes a third of the time of a whole one. A class of its own, as looking at the attributes of one
    with a ``__getattr__`` takes longer.
    """

    __slots__ = ("given", "opened")

    given: Sequence[Any]
    opened: Opened

    if not TYPE_CHECKING:  # which would allow any attribute

        def __getattr__(self, name: str) -> Any:
            if name in _UNTIL_SET:
                return _UNTIL_SET[name]  # not kept: another thread may just set it
            if name not in _OF_BATCH:
                raise AttributeError(f"'Call' object has no attribute {name!r}", name=name, obj=self)
            opened = self.opened
            self.row, self.function, self.peer, self.protocol, request, self.depth, self.deadline, _ = opened
            self.id = request.call
            self.metadata = request.extras.metadata
            self.args = tuple(self.given)
            self.kwargs = {}
            return object.__getattribute__(self, name)


new_call: Final[Callable[[type[CallOfBatch]], CallOfBatch]] = CallOfBatch.__new__

_UNTIL_SET: Final = {"why_cancelled": "", "running": None, "_aborts": None, "_reply_metadata": None}
_OF_BATCH: Final = frozenset(
    ("args", "deadline", "depth", "function", "id", "kwargs", "metadata", "peer", "protocol", "row")
)


@final
class Cancellation:
    """Whether the caller of a call has given it up, was cancelled itself, or has left; or its deadline has passed.

    True where that is so: ``while not current_call().cancelled: ...``. Any thread may ask.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def __bool__(self) -> bool:
        call = self._call
        return bool(call.why_cancelled) or (call.deadline is not None and monotonic() >= call.deadline)

    def check(self) -> None:
        """Go on if the result is still wanted.

        Raises:
            CallCancelled: It is not.
        """
        if self:
            raise self.error()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call is cancelled: in place of ``time.sleep``.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            Whether it is.
        """
        call = self._call
        roused = Event()
        end = nearest(None if timeout is None else monotonic() + timeout, call.deadline)
        call.on_cancel(roused, roused.set)
        try:
            while not self:
                left = LONGEST_SLEEP if end is None else min(end - monotonic(), LONGEST_SLEEP)
                if left <= 0:
                    break
                roused.wait(left)
        finally:
            call.forget(roused)
        return bool(self)

    def error(self) -> CallCancelled:
        """What says so."""
        return CallCancelled(f"{self._call.command}: {self._call.why_cancelled or 'its deadline has passed'}")

    def __repr__(self) -> str:
        return f"<{'cancelled' if self else 'not cancelled'}>"


_current: Final[ContextVar[Call | None]] = ContextVar("typedrpc.current_call", default=None)
get_call = _current.get
enter_call = _current.set
leave_call = _current.reset


def current_call() -> Call:
    """The call that this thread or task is handling.

    Raises:
        RuntimeError: It handles none.
    """
    call = _current.get()
    if call is None:
        raise RuntimeError("current_call() works inside a handler only")
    return call


def handled_by(server: object) -> bool:
    """Whether this thread or task is handling a call of this server."""
    call = _current.get()
    return call is not None and call.peer.server is server


@final
class Row:
    """What one command id leads to, with everything looked up that the way of a call needs."""

    __slots__ = (
        "apart",
        "codec",
        "entry",
        "errors",
        "function",
        "has_callbacks",
        "is_async",
        "name",
        "pack",
        "plain",
        "result_name",
        "stream",
        "unpack",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        unpack: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]],
        pack: Callable[[Any], Payload],
        errors: DeclaredErrors = NO_ERRORS,
        has_callbacks: bool = False,
        entry: Entry | None = None,
        stream: StreamCodec | None = None,
        is_async: bool = False,
        apart: bool = False,
        plain: bool = True,
        codec: CommandCodec | None = None,
    ) -> None:
        """
        Args:
            name: The command's, ``"Service.command"``.
            function: The handler.
            unpack: Gives its arguments.
            pack: Packs its result.
            has_callbacks: Whether functions of the caller are among its arguments.
            entry: The command's entry, where the handler is another one for each peer.
            stream: The codec of the items, where the result is a stream.
            is_async: The handler gives an awaitable or an async iterator.
            apart: The handler takes a thread or a task of its own: it is async, has streams, or is not to hold up an
                event loop.
            plain: The handler may run in any thread that is no event loop's: it is not async, and has no streams.
            codec: The command's, if it unpacks the arguments as they come, so that it may do so for several calls.
        """
        self.name = name
        self.entry = entry
        self.result_name = f"the result of {name}"
        self.function = function
        self.unpack = unpack
        self.pack = pack
        self.errors = errors
        self.has_callbacks = has_callbacks
        self.stream = stream
        self.is_async = is_async
        self.apart = apart
        self.plain = plain
        self.codec = codec
