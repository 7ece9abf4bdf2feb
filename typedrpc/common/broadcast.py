"""One command to many peers: one-way to all who expose it, or asked of all at once.

Nothing here waits for one peer: frames are left for whoever can write them, and a peer that does not read is cut off
when too much waits for it. What is the same for all peers is found out once: with hundreds of them, the loop is what
takes the time.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from time import monotonic
from typing import Any, Final, final

from typedrpc.agreement import Agreement, Route
from typedrpc.call import get_call
from typedrpc.codec import Payload, Segmented
from typedrpc.command import Command
from typedrpc.common.agreements import nesting
from typedrpc.common.caller import PeerLink, completion
from typedrpc.common.tokens import Pending
from typedrpc.deadlines import is_duration
from typedrpc.errors import ConnectionLost, DeadlineExceeded, DefinitionError, RpcError
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing, State
from typedrpc.schema import NONE
from typedrpc.service import check_carried, services_of
from typedrpc.transport import LONGEST_WAIT
from typedrpc.wire import Kind, copied, encode, payload_size

logger = logging.getLogger("typedrpc")

MAX_BACKLOG: Final = 16 * 1024 * 1024
"""Bytes of broadcasts, and of whatever else, that may wait to be written to a peer before it is cut off."""

MAX_BACKLOG_FRAMES: Final = 4096
"""Frames that may."""

_SMALL: Final = 64 * 1024
_COUNTED: Final = 64
"""The bytes that wait are counted with every frame of more than _SMALL bytes, and now and then with others."""


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


def gather(
    command: Command[Any],
    peers: Iterable[Peer],
    timeout: float | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[Peer, Any]:
    """Ask every peer that exposes a command, all at once, and wait for the answers.

    Args:
        command: What is asked.
        peers: Who.
        timeout: Seconds that they have.
        args: The arguments by position.
        kwargs: The arguments by name.

    Returns:
        Peer to result, or to the exception with which its call ended.

    Raises:
        DefinitionError: The command takes callbacks, or is none of a service.
        ArgumentError: The arguments do not fit.
    """
    commands = _commands_beside(command)
    payload = _shared(command, args, kwargs)
    size = payload_size(payload)
    deadline = None if timeout is None else monotonic() + timeout
    futures: dict[Peer, Future[Any]] = {}

    def send(link: PeerLink, future: Future[Any], agreement: Agreement) -> bool:
        connection, what = link.connection, command.qualified_name
        try:
            route: Route = agreement.route_of(command)
            parent, depth = nesting(connection)
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False  # nobody waits any more
            extension = route.extension(left, parent, depth)
            token = Pending(completion(future, command, route))
            connection.submit(route.id, payload, what, token, deadline, extension, parent != 0, at_once=True)
        except (RpcError, RuntimeError) as error:  # a RuntimeError: there is no thread to read the answer
            future.set_exception(error)
        return True

    links = _links(command, peers)
    _resolve(command, commands, links)
    come_back = _hand_over()
    try:
        for link in links:
            future = futures[link.peer] = Future()
            link.agreements.soon(commands, partial(send, link, future), future.set_exception, size)
            _check_backlog(link, size)
        done, _ = wait(futures.values(), None if deadline is None else max(0.0, deadline - monotonic()))
    finally:
        come_back()
    late = f"{command.qualified_name}: no answer in time"
    return {peer: _outcome(future) if future in done else DeadlineExceeded(late) for peer, future in futures.items()}


def check_timeout(timeout: float | None) -> None:
    """Check what ``gather`` is given.

    Raises:
        ValueError: It is no number of seconds.
    """
    if timeout is not None and not (is_duration(timeout) and timeout <= LONGEST_WAIT):
        raise ValueError(f"timeout must be None or a number of seconds from 0 up to a day, not {timeout!r}")


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
        return Segmented(payload.body, list(copied(payload.segments)))
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
