"""One command to many peers: one-way to all who expose it, or asked of all at once.

Nothing here waits for one peer: frames are left for whoever can write them, and a peer that does not read is cut off
when too much waits for it. What is the same for all peers is found out once: with hundreds of them, the loop is what
takes the time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import count
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, final

from typedrpc.agreement import Agreement, Route
from typedrpc.call import get_call
from typedrpc.codec import Payload, Segmented
from typedrpc.command import Command
from typedrpc.common.agreements import nesting
from typedrpc.common.caller import PeerLink, completion
from typedrpc.common.calling import cancelled_with
from typedrpc.common.connection import Connection
from typedrpc.common.tokens import Pending
from typedrpc.deadlines import get_limit, is_duration, nearest
from typedrpc.errors import CallCancelled, ConnectionLost, DeadlineExceeded, DefinitionError, RpcError
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing, State
from typedrpc.schema import NONE
from typedrpc.service import check_carried, services_of
from typedrpc.transport import LONGEST_WAIT
from typedrpc.wire import Kind, copied, encode, payload_size, sent_segments

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("typedrpc")

MAX_BACKLOG: Final = 16 * 1024 * 1024
"""Bytes of broadcasts, and of whatever else, that may wait to be written to a peer before it is cut off."""

MAX_BACKLOG_FRAMES: Final = 4096
"""Frames that may."""

_SMALL: Final = 64 * 1024
_COUNTED: Final = 64
"""The bytes that wait are counted with every frame of more than _SMALL bytes, and now and then with others."""

_RIGHT_WAY: Final = "await server.gather(...).aio(...)"
"""Where waiting would block the thread of an event loop."""


def broadcast(command: Command[Any], peers: Iterable[Peer], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Call a command of every peer that exposes it, one-way.

    Returns:
        How many it went to.

    Raises:
        DefinitionError: The command has a result, takes callbacks, or is none of a service.
        ArgumentError: The arguments do not fit.
    """
    commands = _commands_beside(command)
    if command.schema.result != NONE:
        raise DefinitionError(
            command.qualified_name, ["a broadcast has no results: it takes commands that return None"]
        )
    cast = _Cast(command, _shared(command, args, kwargs))
    links = _links(command, peers)
    _resolve(command, commands, links)
    count = 0
    for link in links:
        agreement = link.agreements.now(commands)
        if agreement is not None:
            count += cast.send(link, agreement)
        else:
            count += link.agreements.soon(commands, partial(cast.send, link), _ignore, cast.size)
            _check_backlog(link, cast.size)
    return count


@final
class _Cast:
    """One broadcast: its frames, which are made once for all peers that take the same ones.

    Attributes:
        size: Bytes of the payload.
    """

    __slots__ = ("_command", "_frames", "_payload", "size")

    def __init__(self, command: Command[Any], payload: Payload) -> None:
        self._command = command
        self._payload = payload
        self._frames: dict[tuple[int, int | None], tuple[Outgoing, int]] = {}
        self.size = payload_size(payload)

    def send(self, link: PeerLink, agreement: Agreement) -> bool:
        """Send it to one peer, without waiting for anything. Returns whether it is one for it."""
        connection, command = link.connection, self._command
        state = connection.core.state
        if not (state is State.OPEN or state is State.GREETED):  # it has left meanwhile
            return False
        try:
            route = agreement.route_of(command)
        except RpcError as error:
            _log_once(link, command, "a broadcast of %s does not reach %s: %s", error)
            return False
        found = self._frames.get(route[:2])
        if found is None:
            extension = route.extension(None)
            frame = encode(Kind.NOTIFY, route.id, 0, self._payload, extension)
            found = (
                frame if isinstance(frame, bytes) else copied(frame),
                self.size + (len(extension) + 2 if extension else 0),
            )
            self._frames[route[:2]] = found
        frame, size = found
        limit = connection.core.peer_limits.max_message_size
        if size > limit:
            _log_once(link, command, "a broadcast of %s is too large for %s: %s", f"{size} bytes, it takes {limit}")
            return False
        connection.post(frame)
        if connection.waiting_frames:
            _check_backlog(link, size)
        return not connection.ended


@final
class Gather(Generic[P, R]):
    """See :class:`typedrpc.peer.Gather`."""

    __slots__ = ("_command", "_peers", "_timeout", "_why_not_wait")

    def __init__(
        self,
        command: Command[Any],
        peers: Callable[[], Iterable[Peer]],
        timeout: float | None,
        why_not_wait: Callable[[str, str], RpcError | None],
    ) -> None:
        """
        Args:
            command: What is asked.
            peers: Gives who, when it is asked.
            timeout: Seconds that they have.
            why_not_wait: Says what is wrong with a thread that is about to wait for the answers, given the name of the
                command and the right way.

        Raises:
            ValueError: The time-out is no number of seconds.
        """
        if timeout is not None and not (is_duration(timeout) and timeout <= LONGEST_WAIT):
            raise ValueError(f"timeout must be None or a number of seconds from 0 up to a day, not {timeout!r}")
        self._command = command
        self._peers = peers
        self._timeout = timeout
        self._why_not_wait = why_not_wait

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> dict[Peer, R | Exception]:
        question = _Question(self._command, self._timeout, args, kwargs)
        links = question.links(self._peers())
        refused = self._why_not_wait(question.what, _RIGHT_WAY)
        for link in links:
            refused = refused or link.connection.why_not_wait(question.what, _RIGHT_WAY)
        if refused is not None:
            raise refused
        come_back = _hand_over()
        try:
            with question:
                question.ask(links)
                wait(question.futures.values(), question.time_left())
        finally:
            come_back()
        return question.outcomes()

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> dict[Peer, R | Exception]:
        import asyncio  # whoever awaits has it

        question = _Question(self._command, self._timeout, args, kwargs)
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        links = question.links(self._peers())
        with question:
            question.ask(links)
            question.when_answered(lambda: _call_soon(loop, answered.cancel))
            left = question.time_left()
            # That of asyncio.wait would have the context of this call, and be kept until it is due, though cancelled.
            timer = None if left is None else loop.call_later(max(0.0, left), answered.cancel, context=Context())
            try:
                await asyncio.wait([answered])
            finally:
                if timer is not None:
                    timer.cancel()
        return question.outcomes()


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(function)


@final
class _Question:
    """What is asked of many peers at once, and what they answer.

    Attributes:
        what: Names the command.
        futures: The answer of each peer.
    """

    __slots__ = (
        "_asked",
        "_command",
        "_commands",
        "_deadline",
        "_given_up",
        "_lock",
        "_payload",
        "_within",
        "futures",
        "what",
    )

    def __init__(
        self, command: Command[Any], timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """
        Raises:
            DefinitionError: The command takes callbacks, or is none of a service.
            ArgumentError: The arguments do not fit.
        """
        self._commands = _commands_beside(command)
        self._command = command
        self._payload = _shared(command, args, kwargs)
        self.what = command.qualified_name
        self._within = within = get_call()
        own = None if timeout is None else monotonic() + timeout
        self._deadline = nearest(nearest(own, get_limit()), None if within is None else within.deadline)
        self._lock = Lock()
        self._given_up: CallCancelled | None = None
        # None while it is just being asked.
        self._asked: dict[Future[Any], tuple[Connection, int, Pending] | None] = {}
        self.futures: dict[Peer, Future[Any]] = {}

    def links(self, peers: Iterable[Peer]) -> list[PeerLink]:
        """Those who are to be asked."""
        links = _links(self._command, peers)
        _resolve(self._command, self._commands, links)
        self.futures = {link.peer: Future() for link in links}
        return links

    def ask(self, links: Iterable[PeerLink]) -> None:
        """Ask, without waiting for anybody."""
        size = payload_size(self._payload)
        for link in links:
            future = self.futures[link.peer]
            link.agreements.soon(
                self._commands, partial(self._send, link, future), partial(self._not_sent, future), size
            )
            _check_backlog(link, size)

    def _send(self, link: PeerLink, future: Future[Any], agreement: Agreement) -> bool:
        left = self.time_left()
        if left is not None and left <= 0:
            return False  # nobody waits any more
        if not self._begin(future):
            return False
        connection, command = link.connection, self._command
        try:
            route: Route = agreement.route_of(command)
            parent, depth = nesting(connection)
            extension = route.extension(left, parent, depth)
            token = Pending(completion(future, command, route))
            call = connection.submit(
                route.id, self._payload, self.what, token, self._deadline, extension, parent != 0, at_once=True
            )
        except (RpcError, RuntimeError) as error:  # a RuntimeError: there is no thread to read the answer
            future.set_exception(error)
            return True
        with self._lock:
            given_up = self._given_up
            self._asked[future] = connection, call, token
        if given_up is not None:  # meanwhile
            connection.abort(call, token, given_up)
        return True

    def _begin(self, future: Future[Any]) -> bool:
        """Whether a peer is still to be asked."""
        with self._lock:
            if self._given_up is None:
                self._asked[future] = None
            return self._given_up is None

    def _not_sent(self, future: Future[Any], error: RpcError) -> None:
        """The peer did not tell its contract."""
        with self._lock:
            if self._given_up is None:
                future.set_exception(error)

    def time_left(self) -> float | None:
        """Seconds that are left for the answers; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def when_answered(self, function: Callable[[], None]) -> None:
        """Have a function called once, by whatever thread, when all have answered."""
        left = count(len(self.futures), -1)

        def answered(future: Future[Any]) -> None:
            if next(left) == 1:
                function()

        for future in self.futures.values():
            future.add_done_callback(answered)
        if not self.futures:
            function()

    def give_up(self, error: CallCancelled) -> None:
        """Nobody waits for the answers any more: those who have not answered are told. May be called again."""
        with self._lock:
            if self._given_up is not None:
                return
            self._given_up = error
            asked = dict(self._asked)
            waiting = [future for future in self.futures.values() if not (future in asked or future.done())]
        for future in waiting:
            future.set_exception(error)
        for one in asked.values():
            if one is not None:
                connection, call, token = one
                connection.abort(call, token, error)

    def __enter__(self) -> None:
        """From now on the call that is being handled takes what is asked with it when it is cancelled."""
        if (within := self._within) is not None:
            within.on_cancel(self, lambda: self.give_up(cancelled_with(within, self.what)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._within is not None:
            self._within.forget(self)
        if error is not None:  # Ctrl-C, a cancelled task
            self.give_up(CallCancelled(f"{self.what}: whoever asked was interrupted"))

    def outcomes(self) -> dict[Peer, Any]:
        """Peer to answer, or to the exception with which its call ended, as far as is known now."""
        late = f"{self.what}: no answer in time"
        return {
            peer: _outcome(future) if future.done() else DeadlineExceeded(late) for peer, future in self.futures.items()
        }


def _outcome(future: Future[Any]) -> Any:
    error = future.exception()
    return future.result() if error is None else error


def _hand_over() -> Callable[[], None]:
    """Where a handler waits for many answers, another thread takes its place at its connection until this is called.

    Others may wait for what comes there, in handlers that wait as this one does.
    """
    call = get_call()
    link = None if call is None else call.peer.link
    return link.connection.handlers.hand_over() if isinstance(link, PeerLink) else lambda: None


def _commands_beside(command: Command[Any]) -> Mapping[str, Command[Any]]:
    """The commands of the service that a command belongs to, by name."""
    if not isinstance(command, Command):
        raise DefinitionError(repr(command), ["it is no command: give one of a contract, such as Listener.on_text"])
    check_carried(command)
    return command.declaration.siblings


def _resolve(command: Command[Any], commands: Mapping[str, Command[Any]], links: list[PeerLink]) -> None:
    """Read the signatures that could not be read at definition, unless that was done when a peer was asked about them.

    Raises:
        DefinitionError: A name still does not resolve.
    """
    if any(link.agreements.now(commands) is None for link in links):
        services_of(command.declaration)


def _shared(command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    """The packed arguments, which nobody can change while they wait to be written to one peer or the other."""
    codec = command.codec
    if codec.has_callbacks:
        raise DefinitionError(
            command.qualified_name, ["it takes callbacks, which belong to one peer: call each by itself"]
        )
    payload = codec.pack_arguments(*args, **kwargs)
    if isinstance(payload, Segmented):
        return Segmented(payload.body, list(copied(sent_segments(payload))))
    return payload


def _links(command: Command[Any], peers: Iterable[Peer]) -> list[PeerLink]:
    """The connections to those that expose the service, each once."""
    name = command.declaration.service_name
    links = [peer.link for peer in dict.fromkeys(peers)]
    return [link for link in links if isinstance(link, PeerLink) and name in link.services()]


def _ignore(error: RpcError) -> None:
    """It is logged already, and nobody waits for it."""


def _log_once(link: PeerLink, command: Command[Any], text: str, reason: object) -> None:
    """For each message would be for ever, at the pace of whoever broadcasts."""
    if link.is_first_time((command, text)):
        logger.warning(text, command.qualified_name, link.peer, reason)


def _check_backlog(link: PeerLink, size: int) -> None:
    """Cut a peer off if too much waits for it: for room in its pipe, or for it to tell its contract."""
    connection, agreements = link.connection, link.agreements
    waiting = connection.waiting_frames + agreements.waiting
    if not waiting:
        return
    counted = size > _SMALL or waiting % _COUNTED == 0
    if waiting <= MAX_BACKLOG_FRAMES and not (
        counted and connection.waiting_bytes + agreements.waiting_bytes > MAX_BACKLOG
    ):
        return
    fault = "does not tell its contract" if agreements.waiting else "does not read what is sent to it"
    if link.is_first_time("cut off"):
        logger.warning("%s was cut off: it %s, %d messages wait for it", link.peer, fault, waiting)
    connection.end(ConnectionLost(f"the peer {fault}"))
