"""From a request to a handler and from its result to an answer: the halves before and after the one line that calls it.

They know nothing of threads or event loops, and raise nothing that a peer or a handler causes.
"""

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import lru_cache, partial
from inspect import isawaitable
from time import monotonic
from typing import Any, Final, final
from typing import Protocol as TypingProtocol

from typedrpc.agreement import BUILTIN_COMMANDS, MAX_DEPTH, MAX_SIGNATURE, BuiltinCommand
from typedrpc.answers import Answers, Kept, Waiting
from typedrpc.call import Call, CallOfBatch, Opened, Row, current_call, new_call
from typedrpc.callbacks import ALL_CALLBACKS
from typedrpc.codec import CodecError, CommandCodec, Payload, StreamCodec, pack_plain, unpack_plain
from typedrpc.command import Command
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import (
    ArgumentValueError,
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    NestedTooDeep,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RpcError,
    ServerBusy,
    UnknownCommand,
)
from typedrpc.failure import is_public, pack_handler_failure, pack_protocol_failure
from typedrpc.identity import Identity
from typedrpc.messages import NO_EXTRAS, ProtocolCommand, fault_of_metadata, pack_extension
from typedrpc.parts import Values
from typedrpc.peer import Peer, Versions
from typedrpc.protocol import QUESTION_RATE, QUESTIONS_AT_ONCE, Outgoing, Protocol, Request, State
from typedrpc.schema import Schema, compatible
from typedrpc.service import Entry, Table, function_for, implementation_for
from typedrpc.turns import Turns

logger = logging.getLogger("typedrpc")

_CLOSED: Final = State.CLOSED

MAX_NESTING: Final = 64
"""Calls that may be nested in each other, unless a side is told another number."""


class Observer(TypingProtocol):
    """Wants to know of the calls of one side, in the threads or tasks that handle them. Raises nothing."""

    def begins(self, call: Call, /) -> None:
        """The handler is about to run."""

    def ended(self, call: Call, result: object, error: BaseException | None, seconds: float, /) -> None:
        """The call has come to its result or error."""


@final
class Dispatcher:
    """Leads requests to what one side serves. One for each server or exposing client; thread-safe."""

    def __init__(
        self,
        table: Table,
        *,
        debug: bool = False,
        max_depth: int = MAX_NESTING,
        max_concurrent: int | None = None,
        apart: bool = False,
        authorize: Callable[[Identity | None, Command[Any]], object] | None = None,
        guard: Callable[[Call], object] | None = None,
    ) -> None:
        """
        Args:
            table: What is served.
            debug: Tell callers the traceback of an undeclared exception.
            max_depth: Calls that may be nested in each other.
            max_concurrent: Handlers that run at a time, nested ones and the protocol's own not counted; None for any.
            apart: Every handler takes a thread or a task of its own, as an event loop reads the requests.
            authorize: Asked before a call of a command that says ``requires``: whether this peer may call it.
            guard: Called before each handler of a service, in its thread: raises to refuse the call.

        Raises:
            ValueError: It is no number from 1 up.
        """
        self.turns: Final = None if max_concurrent is None else Turns(max_concurrent)
        self._table = table
        self._debug = debug
        self._max_depth = max_depth
        self._apart = apart
        self._authorize = authorize
        self._guard = guard
        self.observer: Observer | None = None
        self.answers: Answers | None = None
        """Where answers are kept, at a server."""
        self._rows: dict[int, Row] = {
            id: Row(builtin.name, partial(_answer, builtin.answer, table), partial(_unpack_plain, builtin), pack_plain)
            for id, builtin in BUILTIN_COMMANDS.items()
        }
        self._rows[ProtocolCommand.ADAPT].function = partial(_answer, self._adapt)
        # Of commands for which it is asked each time who calls. Apart, so that the others do not pay for the question.
        self._restricted: dict[int, Row] = {}

    def begin(self, protocol: Protocol[Any], request: Request, peer: Peer) -> Call | Outgoing | None:
        """The half before the handler: the call to run, or what to answer at once; None when nothing is to be done.

        To run it is ``call.function(*call.args, **call.kwargs)``.
        """
        extras = request.extras
        row: Row | None = None
        try:
            if extras is NO_EXTRAS:
                row = self._rows.get(request.command)
            if row is None:
                row = self._row_of(request, peer)
                if extras.key is not None and _has_kept_answer(request, row):
                    return self._begin_keyed(protocol, request, peer, row)
            if not request.call and row.stream is not None:
                raise ProtocolError(f"{row.name} streams its result, and cannot be called one-way")
            if row.has_callbacks:
                receive = partial(peer.link.receive_callback, request.origin)
                if not request.call:
                    receive = partial(_receive_no_stream, receive)
                args, kwargs = row.unpack(request.payload, receive)
            else:
                args, kwargs = row.unpack(request.payload)
        except RpcError as error:
            return self._refuse(protocol, request, row, error)
        call = Call(row, args, kwargs, peer, protocol, request)
        if row.entry is not None:
            function = self._function_of(row, row.entry, peer)
            if isinstance(function, RpcError):
                return self._refuse(protocol, request, row, function)
            call.function = function if self._guard is None else self._guarded(function)
        if extras is not NO_EXTRAS:
            call.depth = extras.depth
            if extras.depth >= self._max_depth:
                return self._refuse(protocol, request, row, _too_deep(row, extras.depth))
            call.metadata = extras.metadata
            if (running := extras.running) is not None:
                call.running = running
                running.begins(call)
            if extras.time_left is not None:
                call.deadline = monotonic() + extras.time_left
                if extras.time_left == 0:
                    return self._refuse(protocol, request, row, DeadlineExceeded(f"{row.name}: no time was left"))
        # As `Protocol.begin`, which is as long as a call of it.
        id = request.call
        if id and (protocol.handled.setdefault(id, call) is not call or protocol.state is _CLOSED):
            if protocol.state is _CLOSED:  # perhaps by a goodbye that is not written yet: the caller gave nothing up
                protocol.forget(id)
                return None
            return self._refuse(protocol, request, row, CallCancelled(f"{row.name}: the caller gave it up"))
        if self.observer is not None and (request.command < FIRST_RESERVED_ID or extras.target is not None):
            call.started = monotonic()
            self.observer.begins(call)
        return call

    # Calls that their clients may send again

    def _begin_keyed(self, protocol: Protocol[Any], request: Request, peer: Peer, row: Row) -> Call | Outgoing | None:
        """As :meth:`begin`, for a call with a key: it is run unless it was."""
        extras = request.extras
        assert extras.key is not None, "asked for requests with one"
        visit, answers = protocol.visit, self.answers
        if visit is None or answers is None:
            if extras.key[1]:
                unknown = f"{row.name}: it was sent before, and this side keeps no answers for its caller"
                return self._refuse(protocol, request, row, OutcomeUnknown(unknown))
            request.extras = extras._replace(key=None)
            return self.begin(protocol, request, peer)
        try:
            found = answers.begin(visit.session, row.name, extras.key, partial(_tell_again, protocol, request, row))
        except OutcomeUnknown as error:
            return self._refuse(protocol, request, row, error)
        if isinstance(found, Kept):
            return _again(protocol, request, row, found)
        if isinstance(found, Waiting):
            if protocol.handled.setdefault(request.call, found) is not found:
                found.cancel("its caller has given it up")
            elif protocol.state is _CLOSED:
                found.caller_left()
            elif not protocol.is_running(request.call):
                protocol.handled.pop(request.call, None)  # answered meanwhile
            return None
        request.extras = extras._replace(key=None, running=found)
        begun: Call | Outgoing | None = None
        try:
            begun = self.begin(protocol, request, peer)
        finally:
            if not isinstance(begun, Call):
                # Why is told to who asked first. Perhaps only that connection has ended, so others are to ask again.
                found.withdraw(Kept(True, pack_protocol_failure(ConnectionLost(f"{row.name}: it did not run"))))
        return begun

    # The same for the calls of a batch, whose outcomes are collected

    def open_batch(self, protocol: Protocol[Any], request: Request, peer: Peer, since: float) -> Opened | bytes:
        """What all the calls of a batch have in common, or the failure that all of them come to.

        Args:
            protocol: Of the connection.
            request: The batch.
            peer: Who calls.
            since: When it came, on the monotonic clock.
        """
        extras = request.extras
        try:
            row = self._row_of(request, peer)
            if row.has_callbacks or row.stream is not None:
                raise ProtocolError(
                    f"{row.name}: its calls cannot travel in a batch, as functions or streams go with them"
                )
            function = row.function
            if row.entry is not None:
                found = self._function_of(row, row.entry, peer)
                if isinstance(found, RpcError):
                    raise found
                function = self._guarded(found)
            if extras.depth >= self._max_depth:
                raise _too_deep(row, extras.depth)
        except RpcError as error:
            return pack_protocol_failure(error)
        deadline = None if extras.time_left is None else since + extras.time_left
        is_observed = request.command < FIRST_RESERVED_ID or extras.target is not None
        return Opened(row, function, peer, protocol, request, extras.depth, deadline, is_observed)

    def begin_part(
        self, opened: Opened | bytes, parts: Values, index: int, args: Sequence[Any] | None = None
    ) -> Call | bytes:
        """The half before the handler: the call to run, or the failure that it comes to.

        Args:
            opened: What :meth:`open_batch` gave.
            parts: The packed arguments of each call.
            index: Which one it is.
            args: Its arguments, if they are unpacked already.
        """
        if isinstance(opened, bytes):
            return opened
        row, function, peer, protocol, request, depth, deadline, is_observed = opened
        kwargs: dict[str, Any] = {}
        if args is None:
            try:
                args, kwargs = row.unpack(parts[index])
            except RpcError as error:
                return pack_protocol_failure(error)
        call = Call(row, tuple(args), kwargs, peer, protocol, request)
        call.function = function
        call.depth = depth
        call.metadata = request.extras.metadata
        if deadline is not None:
            call.deadline = deadline
            if deadline <= monotonic():
                return pack_protocol_failure(DeadlineExceeded(f"{row.name}: no time was left"))
        if self.observer is not None and is_observed:
            call.started = monotonic()
            self.observer.begins(call)
        return call

    def finish_part(self, protocol: Protocol[Any], call: Call, result: Any) -> tuple[bool, Payload]:
        """The half after a handler that returned: whether the call came to an error, and the packed outcome."""
        if (call.why_cancelled or call.deadline is not None) and call.cancelled:
            return self.fail_part(protocol, call, call.cancelled.error())
        try:
            payload = call.row.pack(result)
        except Exception as error:
            return self.unfit_part(protocol, call, error)
        if self.observer is not None:
            self._tell(call, result, None)
        return False, payload

    def finish_kept(self, protocol: Protocol[Any], opened: Opened, result: Any) -> tuple[bool, Payload]:
        """As :meth:`finish_part`, for the result of a call that nobody observes, long after its handler."""
        call = new_call(CallOfBatch)
        call.opened, call.given = opened, ()
        try:
            return False, opened.row.pack(result)
        except Exception as error:
            return self.unfit_part(protocol, call, error)

    def unfit_part(self, protocol: Protocol[Any], call: Call, error: BaseException) -> tuple[bool, Payload]:
        """The half after a handler whose result was not packed, for this reason."""
        if isinstance(error, CodecError):
            return True, self._misfit(call, error)
        return self.fail_part(protocol, call, error)  # a generator for an Iterable runs only now, and is the handler's

    def fail_part(
        self, protocol: Protocol[Any], call: Call, error: BaseException, *, raised_here: bool = False
    ) -> tuple[bool, Payload]:
        """The half after a handler that raised; see :meth:`fail`."""
        if self.observer is not None:
            self._tell(call, None, error)
        payload = self._failure_of(protocol, call, error, raised_here=raised_here)
        return True, payload or b""  # which nobody is told

    def finish(self, protocol: Protocol[Any], request: Request, call: Call, result: Any) -> Outgoing | None:
        """The half after a handler that returned: the answer."""
        if not request.call:
            if self.observer is not None:
                self._tell(call, result, None)
            return None
        row = call.row
        if (call.why_cancelled or call.deadline is not None) and call.cancelled:
            return self.fail(protocol, request, call, call.cancelled.error())
        try:
            payload = row.pack(result)
        except CodecError as error:
            return self.unfit(protocol, request, call, error)
        except Exception as error:  # a generator for an Iterable runs only now, and is the handler's
            return self.fail(protocol, request, call, error)
        if self.observer is not None:
            self._tell(call, result, None)
        try:
            extension = _reply_extension(call) if call._reply_metadata else b""
            if call.running is not None:
                call.running.settle(Kept(False, payload, extension))
            return protocol.response(request, payload, row.result_name, extension)
        except MessageTooLarge as error:
            logger.warning("%s", error)
            return protocol.failure(request, pack_protocol_failure(error))

    def fail(
        self, protocol: Protocol[Any], request: Request, call: Call, error: BaseException, *, raised_here: bool = False
    ) -> Outgoing | None:
        """The half after a handler that raised: the answer, and a line in the log where the caller is told little.

        Args:
            protocol: Of the connection.
            request: What is answered.
            call: What was run.
            error: What the handler raised.
            raised_here: It is raised on this side too, to whoever waits for a call: so it is not logged.
        """
        if self.observer is not None:
            self._tell(call, None, error)
        payload = self._failure_of(protocol, call, error, raised_here=raised_here)
        if payload is None:
            protocol.forget(request.call)
            return None
        extension = _reply_extension(call)
        if call.running is not None:
            call.running.settle(Kept(True, payload, extension))
        return protocol.failure(request, payload, extension)

    def _failure_of(
        self, protocol: Protocol[Any], call: Call, error: BaseException, *, raised_here: bool
    ) -> bytes | None:
        """What a caller is told of what a handler raised, and a line in the log; None where nobody is to be told."""
        name = call.row.name
        if type(error) is _Denied:
            logger.log(logging.DEBUG if call.id else logging.WARNING, "%s was denied: %s", name, error)
            return pack_protocol_failure(error) if call.id else None
        if type(error) is _AsksTooMuch:
            return pack_protocol_failure(error) if call.id else None
        if call.id and call.cancelled and _is_of_cancellation(error):
            # The caller knows, and asks for nothing.
            logger.debug("%s was cancelled: %s", name, call.cancelled.error())
            return pack_protocol_failure(_why_unanswered(call))
        if call.id and (payload := _pack_declared(call.row, error)) is not None:
            return payload
        if protocol.error is not None and isinstance(error, ConnectionLost) and call.running is None:
            # Its own call back told it, and there is nobody to be told anything.
            logger.info("%s ended, as its caller has left: %s", name, error)
            return None
        error_id = ""
        if not raised_here and (not is_public(error) or not call.id):
            error_id = os.urandom(4).hex()
            kind = "call" if call.id else "one-way call"
            logger.error("%s failed in a %s, error id %s", name, kind, error_id, exc_info=error)
        if not call.id:
            return None
        trace = "".join(traceback.format_exception(error)) if self._debug and not is_public(error) else ""
        return pack_handler_failure(error, error_id=error_id, trace=trace)

    def _misfit(self, call: Call, error: CodecError | MessageTooLarge) -> bytes:
        logger.error("the handler of %s does not keep to its annotations: %s", call.row.name, error)
        if self.observer is not None:
            self._tell(call, None, error)
        return pack_protocol_failure(error)

    def unfit(
        self, protocol: Protocol[Any], request: Request, call: Call, error: CodecError | MessageTooLarge
    ) -> Outgoing:
        """The half after a handler that returned or yielded what does not fit its annotation, or is too large."""
        payload = self._misfit(call, error)
        if call.running is not None:
            call.running.settle(Kept(True, payload))
        return protocol.failure(request, payload)

    def refused(self, call: Call, error: BaseException, failure: bytes) -> None:
        """A call that was begun is not run.

        Args:
            call: The call.
            error: Why.
            failure: What its caller is told.
        """
        if call.running is not None:
            call.running.withdraw(Kept(True, failure))
        if self.observer is not None:
            self._tell(call, None, error)

    def _tell(self, call: Call, result: object, error: BaseException | None) -> None:
        """A call is over that may have begun before anybody wanted to know."""
        started: float | None = getattr(call, "started", None)
        if self.observer is not None and started is not None:
            self.observer.ended(call, result, error, monotonic() - started)

    def _refuse(self, protocol: Protocol[Any], request: Request, row: Row | None, error: RpcError) -> Outgoing | None:
        # Callbacks that nobody has unpacked are dropped all the same; an answer that there is no such command says it.
        has_callbacks = row.has_callbacks if row is not None else request.origin and not request.call
        dropped = protocol.release(request.origin, ALL_CALLBACKS) if has_callbacks else b""
        if not request.call:
            logger.warning("a one-way call was dropped: %s", error)
            return dropped or None
        return dropped + protocol.failure(request, pack_protocol_failure(error))

    def _row_of(self, request: Request, peer: Peer) -> Row:
        row: Row | None
        if request.command == ProtocolCommand.CALLBACK:
            row = self._row_of_callback(request)
        else:
            row = self._rows.get(request.command)
            if row is None:
                row = self._restricted.get(request.command) or self._make_row(request.command)
                if request.command in self._restricted and request.extras.running is None:  # for which it was asked
                    self._check_authority(self._table.entries[request.command].implementation, peer)
        schema = request.extras.schema
        return row if schema is None else self._row_of_version(row, schema, peer)

    def _function_of(self, row: Row, entry: Entry, peer: Peer) -> Callable[..., Any] | RpcError:
        """The handler of a service that each peer has an instance of; where there is none for it, what says so."""
        if not peer.instances:
            return ServerBusy(f"{row.name}: the service of this client is not made yet")
        instance = peer.instances[entry.place or 0]
        own = implementation_for(entry.command, instance)
        if own.requires not in (None, entry.implementation.requires):  # of a class that says more than the served one
            try:
                self._check_authority(own, peer)
            except PermissionDenied as error:
                return error
        return function_for(entry.command, instance)

    def _check_authority(self, command: Command[Any], peer: Peer) -> None:
        """Raise ``PermissionDenied`` unless this peer may call this command."""
        why = f"{command.qualified_name}: it requires {command.requires!r}, which this caller may not"
        try:
            allowed = self._authorize is not None and _plain_answer(self._authorize(peer.identity, command))
        except PermissionDenied as error:
            allowed, why = False, str(error) or why
        except Exception:
            logger.exception("authorize failed for %s and %s: it was denied", peer, command.qualified_name)
            allowed = False
        if not allowed:
            raise PermissionDenied(why)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A handler that runs only if the guard lets it."""
        return function if self._guard is None else partial(_run_guarded, self._guard, function)

    def _row_of_callback(self, request: Request) -> Row:
        if request.callback is None:
            target = request.extras.target
            name = "" if target is None else "callback {1} of call {0}".format(*target)
            raise UnknownCommand(name, ProtocolCommand.CALLBACK)
        row: Row = request.callback.offer
        return row

    def _make_row(self, id: int) -> Row:
        entry: Entry | None = self._table.entries.get(id)
        if entry is None:
            raise UnknownCommand("", id)
        command, codec = entry.command, entry.command.codec
        unpack = codec.unpack_with_callbacks if codec.has_callbacks else codec.unpack_arguments
        row = Row(
            command.qualified_name,
            self._guarded(entry.function),
            unpack,
            codec.pack_result,
            command.errors,
            codec.has_callbacks,
            None if entry.place is None else entry,
            *self._how_to_run(command),
            None if codec.has_callbacks else codec,
        )
        rows = self._rows if self._authorize is None or entry.implementation.requires is None else self._restricted
        rows[id] = row
        return row

    # Callers with another version of a contract

    def _adapt(self, service: str, schemas: dict[str, Any]) -> dict[str, int]:
        """The numbers under which the calling peer may write its calls by schemas of its own."""
        versions = current_call().peer.versions
        numbers = {}
        for name, data in schemas.items():
            entry = self._table.services.get(service, {}).get(name)
            number = self._admit(versions, entry, data) if entry is not None else None
            if number is not None:
                numbers[name] = number
        return numbers

    def _admit(self, versions: Versions, entry: Entry, data: Any) -> int | None:
        """The number of a caller's schema, if all that differs is safe. Nothing is compiled for it yet."""
        command = entry.command
        packed = pack_plain(data)
        if len(packed) > MAX_SIGNATURE:
            return None
        try:
            caller = Schema.from_data(data)
        except ValueError:
            return None
        if not all(difference.safe for difference in compatible(caller, command.schema)):
            return None
        unpack = partial(_unpack_version, command.codec, packed)
        pack = partial(_pack_result, command.codec)
        own = None if entry.place is None else entry
        name, has_callbacks = command.qualified_name, caller.has_callbacks
        make = partial(
            Row,
            name,
            self._guarded(entry.function),
            unpack,
            pack,
            command.errors,
            has_callbacks,
            own,
            *self._how_to_run(command),
        )
        return versions.number_of(entry.id, packed, make)

    def _how_to_run(self, command: Command[Any]) -> tuple[StreamCodec | None, bool, bool, bool]:
        """What a row says of it: the codec of a stream, whether it is async, runs apart, and in any thread."""
        stream = command.codec.result_stream
        plain = not (command.is_async or stream is not None or command.schema.has_streams)
        return stream, command.is_async, self._apart or not plain, plain

    def _row_of_version(self, row: Row, number: int, peer: Peer) -> Row:
        rows: list[Row] = peer.versions.rows
        if number >= len(rows) or rows[number].name != row.name:
            raise ProtocolError(f"{row.name}: the schema {number} was not agreed about on this connection")
        return rows[number]


@final
class _Denied(PermissionDenied):
    """The guard has refused a call; one that a handler was told of by another server is none of these."""


@final
class _AsksTooMuch(ServerBusy):
    """As above: a peer asks about contracts again and again."""


def _answer(answer: Callable[..., Any], *args: Any) -> Any:
    """Answer what a peer asks about contracts, unless it asks all the time."""
    call = current_call()
    if not call.protocol.questions.take():
        at_once, often = f"{QUESTIONS_AT_ONCE} questions about contracts at once", f"{QUESTION_RATE:g} a second"
        raise _AsksTooMuch(f"{call.command}: more than {at_once}, or {often}")
    return answer(*args)


def _plain_answer(answer: object) -> object:
    """What a function returned of which the answer is needed now: a coroutine would pass for a yes."""
    if isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError("it gave something to be awaited, and must be a plain function")
    return answer


def _run_guarded(guard: Callable[[Call], object], function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    call = current_call()
    try:
        _plain_answer(guard(call))
    except PermissionDenied as error:
        raise _Denied(str(error) or f"{call.command}: not allowed") from error
    except Exception as error:
        logger.exception("the guard failed for %s: it was denied", call.command)
        raise _Denied(f"{call.command}: not allowed") from error
    return function(*args, **kwargs)


def _has_kept_answer(request: Request, row: Row) -> bool:
    """Whether the answer to a request with a key is kept: not where it is of no use on another connection."""
    return bool(request.call) and request.command < FIRST_RESERVED_ID and not row.has_callbacks and row.stream is None


def _again(protocol: Protocol[Any], request: Request, row: Row, kept: Kept) -> Outgoing:
    """The answer to a request whose call has come to this before."""
    if kept.is_error:
        assert isinstance(kept.payload, bytes), "an error has no segments"
        return protocol.failure(request, kept.payload, kept.extension)
    try:
        return protocol.response(request, kept.payload, row.result_name, kept.extension)
    except MessageTooLarge as error:  # for this connection
        return protocol.failure(request, pack_protocol_failure(error))


def _tell_again(protocol: Protocol[Any], request: Request, row: Row, kept: Kept) -> None:
    """A call is over whose caller has sent it again meanwhile."""
    protocol.visit.answer(lambda: _again(protocol, request, row, kept))


def _too_deep(row: Row, depth: int) -> NestedTooDeep:
    return NestedTooDeep(f"{row.name}: {depth} calls are nested in each other, which is the limit")


def _receive_no_stream(receive: Callable[[int, Any], Any], index: int, callback: Any) -> Any:
    """What goes with a one-way call: nothing would ever end a stream."""
    if isinstance(callback, StreamCodec):
        raise ProtocolError(f"{callback.name} is a stream, which cannot go with a one-way call")
    return receive(index, callback)


def _why_unanswered(call: Call) -> RpcError:
    """What a call is answered with that was cancelled, or was not done in time."""
    if call.why_cancelled:
        return call.cancelled.error()
    return DeadlineExceeded(f"{call.command}: it was not done in time")


def _is_of_cancellation(error: BaseException) -> bool:
    """Whether a handler that was cancelled, or out of time, has ended for this reason."""
    return isinstance(error, CancelledError | DeadlineExceeded) or type(error).__name__ == "CancelledError"


def _reply_extension(call: Call) -> bytes:
    """The extension map of the answer to a call; empty where it needs none."""
    metadata = call._reply_metadata
    if not metadata:
        return b""
    if (fault := fault_of_metadata(metadata)) is not None:
        logger.error("the handler of %s has set %s: it was not sent", call.command, fault)
        return b""
    return pack_extension(metadata=metadata)


def _pack_declared(row: Row, error: BaseException) -> bytes | None:
    """The payload for what a handler raised, if the command declares it and it can travel."""
    try:
        return row.errors.pack(row.name, error)
    except CodecError as problem:
        logger.error("an error that %s declares arrives as a RemoteError only: %s", row.name, problem)
        return None


def _pack_result(codec: CommandCodec, result: Any) -> Payload:
    return codec.pack_result(result)


def _unpack_version(
    codec: CommandCodec, packed: bytes, payload: Payload, make: Callable[[int, Any], Any] = lambda index, callback: None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return _adapter(codec, packed)(payload, make, lambda index: make(index, None))


MAX_ADAPTERS: Final = 1024
"""Versions of commands that are kept compiled."""


@lru_cache(maxsize=MAX_ADAPTERS)
def _adapter(codec: CommandCodec, packed: bytes) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """What unpacks the arguments by a caller's schema: compiled when first used, and shared by all connections."""
    return codec.unpack_with_callbacks_of(Schema.from_data(unpack_plain(packed, max_depth=MAX_DEPTH)))


def _unpack_plain(builtin: BuiltinCommand, payload: Payload) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        args = unpack_plain(payload, max_depth=MAX_DEPTH)
    except CodecError as error:
        raise ArgumentValueError(f"{builtin.name}: {error}") from error
    return builtin.read(args), {}
