"""One command to many peers: one-way to all who expose it, or asked of all at once.

Nothing here waits for one peer: frames are left for whoever can write them, and a peer that does not read is cut off
when too much waits for it.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from time import monotonic
from typing import Any, Final

from typedrpc.agreement import Agreement, Route
from typedrpc.codec import Payload, Segmented
from typedrpc.command import Command
from typedrpc.errors import ConnectionLost, DeadlineExceeded, DefinitionError, RpcError
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing
from typedrpc.schema import NONE
from typedrpc.service import services_of
from typedrpc.sync.agreements import nesting
from typedrpc.sync.caller import PeerLink, completion
from typedrpc.sync.tokens import Pending
from typedrpc.sync.writer import copied
from typedrpc.wire import payload_size

logger = logging.getLogger("typedrpc")

MAX_BACKLOG: Final = 16 * 1024 * 1024
"""Bytes of broadcasts, and of whatever else, that may wait to be written to a peer before it is cut off."""

MAX_BACKLOG_FRAMES: Final = 4096
"""Frames that may."""

_SMALL: Final = 4096
_COUNTED: Final = 64
"""The bytes that wait are counted with every frame of more than _SMALL bytes, and now and then with others."""


def broadcast(command: Command[Any], peers: Iterable[Peer], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Call a command of every peer that exposes it, one-way.

    Returns:
        How many it went to.

    Raises:
        DefinitionError: The command has a result, or takes callbacks.
        ArgumentError: The arguments do not fit.
    """
    if command.schema.result != NONE:
        raise DefinitionError(
            command.qualified_name, ["a broadcast has no results: it takes commands that return None"]
        )
    payload = _shared(command, args, kwargs)
    frames: dict[tuple[int, int | None], Outgoing] = {}

    def send(link: PeerLink, agreement: Agreement) -> bool:
        try:
            route = agreement.route_of(command)
            size, limit = payload_size(payload), link.connection.core.peer_limits.max_message_size
            if size > limit:
                logger.warning(
                    "a broadcast of %s has %d bytes, %s takes %d", command.qualified_name, size, link.peer, limit
                )
                return False
            link.connection.check()
            frame = frames.get((route.id, route.schema))
            if frame is None:
                extension = route.extension(None)
                frame = link.connection.core.notify(route.id, payload, command.qualified_name, extension)
                frames[route.id, route.schema] = frame if isinstance(frame, bytes) else copied(frame)
            _post(link, frames[route.id, route.schema])
        except ConnectionLost:  # it has left meanwhile
            return False
        except RpcError as error:
            logger.warning("a broadcast does not reach %s: %s", link.peer, error)
            return False
        return True

    return sum(_with_agreement(link, command, partial(send, link), _ignore) for link in _links(command, peers))


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
        DefinitionError: The command takes callbacks.
        ArgumentError: The arguments do not fit.
    """
    payload = _shared(command, args, kwargs)
    deadline = None if timeout is None else monotonic() + timeout
    futures: dict[Peer, Future[Any]] = {}

    def send(link: PeerLink, future: Future[Any], agreement: Agreement) -> bool:
        try:
            route: Route = agreement.route_of(command)
            parent, depth = nesting(link.connection)
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False  # nobody waits any more
            extension = route.extension(left, parent, depth)
            token = Pending(completion(future, command, route))
            what = command.qualified_name
            link.connection.submit(route.id, payload, what, token, deadline, extension, parent != 0, at_once=True)
        except RpcError as error:
            future.set_exception(error)
        return True

    for link in _links(command, peers):
        future = futures[link.peer] = Future()
        _with_agreement(link, command, partial(send, link, future), future.set_exception)
    done, _ = wait(futures.values(), None if deadline is None else max(0.0, deadline - monotonic()))
    late = f"{command.qualified_name}: no answer in time"
    return {
        peer: (future.exception() or future.result()) if future in done else DeadlineExceeded(late)
        for peer, future in futures.items()
    }


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


def _links(command: Command[Any], peers: Iterable[Peer]) -> Iterable[PeerLink]:
    return [peer.link for peer in peers if isinstance(peer.link, PeerLink) and peer.exposes(command)]


def _with_agreement(
    link: PeerLink, command: Command[Any], send: Callable[[Agreement], bool], fail: Callable[[RpcError], object]
) -> bool:
    """Send now, or as soon as the peer has told what it exposes; returns whether it was, or may be, sent."""
    (commands,) = services_of(command).values()
    return link.agreements.soon(commands, send, fail)


def _ignore(error: RpcError) -> None:
    """It is logged already, and nobody waits for it."""


def _post(link: PeerLink, frame: Outgoing) -> None:
    connection = link.connection
    connection.post(frame)
    waiting = connection.waiting_frames
    if not waiting:
        return
    small = isinstance(frame, bytes) and len(frame) <= _SMALL
    counted = not small or waiting % _COUNTED == 0
    if waiting > MAX_BACKLOG_FRAMES or (counted and connection.waiting_bytes > MAX_BACKLOG):
        logger.warning("%s was cut off: it does not read what is broadcast, %d frames wait for it", link.peer, waiting)
        connection.end(ConnectionLost("the peer does not read what is broadcast"))
