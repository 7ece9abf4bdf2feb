"""What was agreed with the peer of one connection, and how that is found out."""

import logging
import threading
from collections.abc import Callable, Generator, Mapping
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, final

from typedrpc.agreement import Agreement, Question, Route, agree, agreement_of_equals, digest_of, proceed
from typedrpc.call import get_call
from typedrpc.codec import Payload
from typedrpc.command import Command
from typedrpc.common.connection import Connection
from typedrpc.common.tokens import Pending
from typedrpc.errors import ConnectionLost, MessageTooLarge, ProtocolError, RpcError, UnknownCommand
from typedrpc.failure import unpack_failure
from typedrpc.peer import Peer
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

AGREE_TIME: Final = 10.0
"""Seconds that a peer has to tell its contract."""


def nesting(connection: Connection) -> tuple[int, int]:
    """The peer's call in which a call on this connection would be made, 0 for none, and how deep it would be."""
    call = get_call()
    if call is None:
        return 0, 0
    core = connection.core
    # A thread may have the context of a call that is over: what it calls waits for room like any other.
    return (call.id if call.protocol is core and core.is_running(call.id) else 0), call.depth + 1


class _Interested(NamedTuple):
    then: Callable[[Agreement], bool]
    fail: Callable[[RpcError], object]
    size: int


@final
class Agreements:
    """What was agreed with the peer of one connection. Thread-safe."""

    __slots__ = ("_agreed", "_asking", "_lock", "_untold", "connection", "peer")

    def __init__(self, connection: Connection, peer: Peer) -> None:
        self.connection = connection
        self.peer = peer
        self._lock = threading.Lock()
        # By the id() of the commands too: who waits for what is being asked in the background.
        self._asking: dict[int, list[_Interested]] = {}
        self._untold: dict[str, object] = {}  # services that the peer did not tell about
        # By the id() of the commands they are about, which they keep alive; and how many there were, as a
        # FunctionService may grow.
        self._agreed: dict[int, tuple[Mapping[str, Command[Any]], int, Agreement]] = {}

    def known(self, commands: Mapping[str, Command[Any]]) -> Agreement | None:
        """What can be called of a service, given by its commands, if that is known without asking the peer."""
        row = self._agreed.get(id(commands))
        if row is not None and row[1] == len(commands):
            return row[2]
        core = self.connection.core
        digest = core.peer_hello.services.get(_name_of(commands))
        if digest is None and not core.client:
            return Agreement({}, {})  # a client has said all that it exposes
        if digest is None or digest != digest_of(commands):
            return None
        return self.keep(commands, agreement_of_equals(commands))

    def keep(self, commands: Mapping[str, Command[Any]], agreement: Agreement) -> Agreement:
        """From now on this is known."""
        self._agreed[id(commands)] = (commands, len(commands), agreement)
        return agreement

    def about(self, commands: Mapping[str, Command[Any]], deadline: float) -> Agreement:
        """What can be called of a service. The peer is asked if it is not known.

        Args:
            commands: Those of the service, by name.
            deadline: When to stop waiting, on the monotonic clock.

        Raises:
            ConnectionLost, DeadlineExceeded, ProtocolError: The peer did not tell.
        """
        agreement = self.known(commands)
        if agreement is not None:
            return agreement
        name = _name_of(commands)
        conversation = agree(name, commands)
        step: Question | Agreement = proceed(conversation, None)
        while not isinstance(step, Agreement):
            try:
                answer: Any = self._ask(step, f"the contract {name}", deadline)
            except (MessageTooLarge, UnknownCommand) as error:
                answer = error
            step = proceed(conversation, answer)
        return self.keep(commands, step)

    def now(self, commands: Mapping[str, Command[Any]]) -> Agreement | None:
        """What was agreed about before, unless somebody still waits for it in :meth:`soon`: he comes first."""
        # Whose function is still to be called sees that somebody waits; so nobody overtakes himself.
        row = self._agreed.get(id(commands))
        return row[2] if row is not None and row[1] == len(commands) and not self._asking else None

    def soon(
        self,
        commands: Mapping[str, Command[Any]],
        then: Callable[[Agreement], bool],
        fail: Callable[[RpcError], object],
        size: int = 0,
    ) -> bool:
        """Have a function called with what can be called of a service: now if it is known, else when the peer has told.

        Functions are called one after another in the order in which they came; nothing waits for the peer here.

        Args:
            commands: Those of the service, by name.
            then: Must not block, nor raise.
            fail: Called instead where the peer does not tell.
            size: Bytes that are kept while it waits.

        Returns:
            What the function returned; True where it is still to be called.
        """
        one = _Interested(then, fail, size)
        with self._lock:
            asking = self._asking.get(id(commands))
            if asking is not None:
                asking.append(one)
                return True
            agreement = self.known(commands)
            if agreement is None:
                self._asking[id(commands)] = [one]
        if agreement is not None:
            return then(agreement)
        self._go_on(commands, agree(_name_of(commands), commands), None)
        return True

    @property
    def waiting(self) -> int:
        """Functions that are still to be called, of :meth:`soon`."""
        if not self._asking:
            return 0
        with self._lock:
            return sum(map(len, self._asking.values()))

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are kept for them."""
        with self._lock:
            return sum(one.size for asking in self._asking.values() for one in asking)

    def _go_on(
        self,
        commands: Mapping[str, Command[Any]],
        conversation: Generator[Question, Payload, Agreement],
        outcome: Frame | RpcError | None,
    ) -> None:
        """One step of a conversation in the background."""
        what = f"the contract {_name_of(commands)}"
        try:
            answer: Any = outcome
            if isinstance(outcome, Frame):
                answer = outcome.payload
                if outcome.kind != Kind.RESPONSE:
                    answer = unpack_failure(outcome.payload, what)
            if isinstance(answer, Exception) and not isinstance(answer, MessageTooLarge | UnknownCommand):
                raise answer
            step = proceed(conversation, answer)
            if isinstance(step, Agreement):
                self._tell(commands, step)
                return
            id_, payload = step
            token = Pending(partial(self._go_on, commands, conversation))
            self.connection.submit(id_, payload, what, token, monotonic() + AGREE_TIME, at_once=True)
        except BaseException as error:
            self._give_up(commands, error)
            if not isinstance(error, Exception):
                raise

    def _give_up(self, commands: Mapping[str, Command[Any]], cause: BaseException) -> None:
        """The peer has not told; those that wait learn it, those that come later ask again."""
        # A handler's errors are never an answer to this, but who answers so is free to.
        error = cause if isinstance(cause, RpcError) else ProtocolError(f"the peer did not tell: {cause!r}")
        # Said once: a peer that answers nonsense would fill the log at the pace in which it is asked.
        name, mark = _name_of(commands), object()
        if not isinstance(error, ConnectionLost) and self._untold.setdefault(name, mark) is mark:
            logger.warning("%s does not tell its contract %s: %s", self.peer, name, error)
        with self._lock:
            interested = self._asking.pop(id(commands), [])
        for one in interested:
            one.fail(error)

    def _tell(self, commands: Mapping[str, Command[Any]], agreement: Agreement) -> None:
        while True:
            with self._lock:
                interested = self._asking[id(commands)]
                if not interested:
                    # Only now may others go ahead by themselves: those that waited were first.
                    self.keep(commands, agreement)
                    del self._asking[id(commands)]
                    return
                self._asking[id(commands)] = []
            for one in interested:
                one.then(agreement)

    def _ask(self, question: Question, what: str, deadline: float) -> Payload:
        id_, payload = question
        parent, depth = nesting(self.connection)
        extension = Route(id_).extension(None, parent, depth)
        return self.connection.call(id_, payload, what, deadline, extension, nested=parent != 0)


def _name_of(commands: Mapping[str, Command[Any]]) -> str:
    return next(iter(commands.values())).service_name
