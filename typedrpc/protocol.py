"""The sans-I/O peer: what one end of a connection knows and may do, without a socket, a thread or a clock.

Bytes go in by :meth:`Protocol.receive`, events come out of it; the methods that start or answer something return the
bytes to send, and what the protocol itself has to say waits in ``outgoing``. Both sides run the same class.

The states of a connection::

    GREETING --(preamble, hello)--> GREETED --(welcome)--> OPEN --(goodbye of either side)--> DRAINING --> CLOSED
        |  `--> AUTHENTICATING --(a claim)--> CLAIMED --^                                                    ^
        `------------ any fault, end of file, time-out ------------------------------------------------------'

- GREETING: the client sends preamble and hello at once; the server says nothing before it has seen both of the
  client's, so that a stranger learns nothing. Only hello and goodbye are legal.
- AUTHENTICATING, where the server asks for it: it waits for the client to claim who it is; a client that has a secret,
  to which it is GREETED otherwise, waits for the server's proof. Only that, ping and goodbye are legal.
- CLAIMED: the server looks whether the claim is right. Only ping and goodbye are legal.
- GREETED: the server decides whether, and when, the client may come in. It may call the client already; the client
  calls only from within such a call.
- OPEN: everything else is legal, in both directions.
- DRAINING: no new calls, except by and within those that were accepted, which are still answered; others are told that
  they do not run. A server that has answered all of them says so in a last goodbye, and a client that has all answers
  leaves.
- CLOSED: nothing is sent or received any more; ``error`` says why.

A fault of the peer is never raised: the protocol queues a goodbye that says what was wrong, closes, and the last
event is :class:`Closed`.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from typedrpc.authentication import NOT_AUTHENTICATED, Claim, Credentials, Hellos, read_claim
from typedrpc.callbacks import ALL_CALLBACKS
from typedrpc.codec import Payload, Segmented
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import (
    AuthenticationFailed,
    ConnectionLost,
    MessageTooLarge,
    OutcomeUnknown,
    ProtocolError,
    ServerBusy,
)
from typedrpc.failure import cut, pack_protocol_failure
from typedrpc.flow import Inflow, Outflow
from typedrpc.inflight import MAX_CALL, InFlight
from typedrpc.messages import (
    NO_EXTRAS,
    Extras,
    Feature,
    Hello,
    Leave,
    Limits,
    Method,
    pack_credit,
    pack_goodbye,
    pack_hello,
    pack_limits,
    pack_queued,
    read_credit,
    read_extension,
    read_goodbye,
    read_hello,
    read_last_accepted,
    read_limits,
    read_queued,
)
from typedrpc.parts import Values, count_parts, open_array, pack_outcomes
from typedrpc.rate import Bucket, CallRate
from typedrpc.wire import (
    HEADER_SIZE,
    IGNORABLE,
    PREAMBLE,
    RECEIVE_SIZE,
    SPEAKS_TLS,
    TLS_ALERT,
    Buffer,
    Frame,
    FrameReader,
    Kind,
    encode,
    new_frame,
    pack_header,
    payload_size,
)

TokenT = TypeVar("TokenT")
Outgoing: TypeAlias = bytes | tuple[Buffer, ...]

MAX_STREAMS: Final = 4096
"""Streams that the peer may send at a time with calls of its own."""

MAX_HELD: Final = 64 * 1024 * 1024
MESSAGES_HELD: Final = 16
"""Bytes of such streams that may have come and not been taken yet; so many messages of the largest size, if that is
more."""

HELD_STEP: Final = 1024 * 1024
"""Bytes of streams after which it is looked how many are held."""

_NO_FLOWS: Final[Mapping[int, Any]] = MappingProxyType({})

HELLO_LIMIT: Final = 64 * 1024
"""Bytes a frame may have before the peer is let in."""

MAX_PING: Final = 64
"""Bytes that a ping may carry: its pong is queued before the peer reads anything."""

PINGS_AT_ONCE: Final = 100
PING_RATE: Final = 10.0
"""Pings of the peer: so many at once, and so many a second on average."""

QUESTIONS_AT_ONCE: Final = 1000
QUESTION_RATE: Final = 100.0
"""Questions of the peer about contracts: so many at once, and so many a second on average."""

MAX_BATCH: Final = 1024
"""Calls that a batch may hold. It counts as one call in flight."""

# For the paths that run for each call: to look a member up in its enumeration costs more than the rest of a line.
_REQUEST: Final = int(Kind.REQUEST)
_RESPONSE: Final = int(Kind.RESPONSE)


class State(Enum):
    """Of a connection; see the module's docstring."""

    GREETING = auto()
    AUTHENTICATING = auto()
    CLAIMED = auto()
    GREETED = auto()
    OPEN = auto()
    DRAINING = auto()
    CLOSED = auto()


_OPEN: Final = State.OPEN
_GREETED: Final = State.GREETED
_DRAINING: Final = State.DRAINING


class Request:
    """Event: the peer calls. ``call`` is 0 for a one-way call, which is not answered.

    ``origin`` is the number by which the peer knows the callbacks that came with it. ``callback`` is for the I/O
    layer: what it found, when the request came, of the callback that is called.
    """

    __slots__ = ("call", "callback", "command", "extras", "origin", "payload")

    def __init__(self, command: int, call: int, payload: Payload, extras: Extras = NO_EXTRAS, origin: int = 0) -> None:
        self.command = command
        self.call = call
        self.origin = origin or call
        self.payload = payload
        self.extras = extras
        self.callback: Any = None


class BatchRequest(Request):
    """Event: the peer calls a command several times. ``parts`` are the arguments of each call, in order.

    ``progress`` is for the I/O layer: what it knows of how far they have come.
    """

    __slots__ = ("parts", "progress")

    def __init__(self, request: Request, parts: Values) -> None:
        super().__init__(request.command, request.call, request.payload, request.extras)
        self.parts = parts
        self.progress: Any = None


class Outcome(Generic[TokenT]):
    """Event: a call of this side is over. ``frame`` is its response or error frame.

    A batch may have several, of which each is the next of its calls: frames of the kind BATCH, whose payload is
    outcomes, one at least; and at last perhaps an error frame, which is what all the rest came to.
    """

    __slots__ = ("frame", "token")

    def __init__(self, token: TokenT, frame: Frame) -> None:
        self.token = token
        self.frame = frame


class _Turn:
    """An event that says all by its class."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Greeted(_Turn):
    """Event: the peer has said hello."""

    __slots__ = ()


class Claimed(_Turn):
    """Event, at the server: the client has said who it is, see ``Protocol.claim``. The owner looks whether it is."""

    __slots__ = ()


class Opened(_Turn):
    """Event, at the client: the server has let it in, calls may be made."""

    __slots__ = ()


class Released:
    """Event: the peer has dropped a callback: the one at ``index`` of those that went with ``call``."""

    __slots__ = ("call", "index")

    def __init__(self, call: int, index: int) -> None:
        self.call = call
        self.index = index


class GivenUp:
    """Event: the caller does not wait for a call any more. It is answered all the same."""

    __slots__ = ("call",)

    def __init__(self, call: int) -> None:
        self.call = call


class Closed(_Turn):
    """Event, always the last: the connection is over, because of ``Protocol.error``."""

    __slots__ = ()


Event: TypeAlias = Request | Outcome[TokenT] | Greeted | Claimed | Opened | Released | GivenUp | Closed


class Protocol(Generic[TokenT]):
    """One end of a connection.

    Tokens are whatever the I/O layer waits with; :class:`Outcome` gives them back.

    Thread safety: :meth:`receive` and :meth:`receive_eof` belong to the holder of the read role; :meth:`close` needs
    the owner's state lock. The rest are single operations on dicts and sets.
    """

    def __init__(
        self,
        *,
        client: bool,
        hello: Hello,
        rate: CallRate | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """
        Args:
            client: Whether this side opened the connection.
            hello: What it says of itself, with the limits of what it accepts. A server whose hello has methods lets
                nobody in who has not proved who he is by one of them.
            rate: How many calls the peer may make; None for any number.
            credentials: By what a client proves who it is.
        """
        self.client = client
        self.hello = hello
        self.credentials = credentials
        self.claim: Claim | None = None
        """At a server: who the client says that it is, until that is decided."""
        self.limits = limits = hello.limits
        self.peer_limits = Limits()
        self.peer_hello = Hello(self.peer_limits)
        """What the peer has said of itself."""
        self.leave: int | None = None
        """The code of the goodbye that the peer has said, see :class:`~typedrpc.messages.Leave`."""
        self.queue: tuple[int, int] | None = None
        """At a client that has to wait in line: how many are in, how many may be."""
        self.state = State.GREETING
        self.error: ConnectionLost | None = None
        self.reader = FrameReader(min(HELLO_LIMIT, limits.max_message_size))
        self.calls: InFlight[TokenT] = InFlight(1 if client else 2)
        self.leaving: list[TokenT] = []
        """The tokens whose outcomes the last :meth:`receive` brought, for an owner that was interrupted in between."""
        self.outgoing: list[Outgoing] = []
        self.late_replies = 0
        """Replies that came when nobody waited for them any more."""
        self.dropped_notifies = 0
        """One-way calls of the peer with an extension that this side does not know and may not ignore, or too large."""
        self.last_accepted = 0
        self.handled: dict[int, Any] = {}
        """Calls of the peer that are being handled, by id: for the dispatcher, see :meth:`begin`."""
        self.inflows: dict[int, dict[int, Inflow]] = {}
        """Streams that the peer sends, or may: call and number of the stream to each."""
        self.outflows: dict[int, dict[int, Outflow]] = {}
        """Streams that this side sends, likewise."""
        self._opened = 0  # streams of the peer, at least since they were counted
        self._unlooked = 0  # bytes of streams since it was looked how many are held
        self.visit: Any = None
        """Where answers are kept for the peer, a client that may send calls again: for the dispatcher."""
        self.peer_waits = False
        """While this side drains: the peer has, or had, calls here. So it reads, and leaves when it knows all."""
        self.nested_calls: set[int] = set()
        """At a client, calls that a handler of the server's calls made: a server that drains still accepts them."""
        self._peer_last: int | None = None  # the last call that a peer which has said goodbye had accepted by then
        self._finished = False  # all is answered, and nothing is accepted any more, nested or not
        self.batches: dict[int, int] = {}
        """Outcomes that are still to come of the batches of this side, whether or not anybody waits for them."""
        self.pings = Bucket(PING_RATE, PINGS_AT_ONCE)
        """What is left of the pings that the peer may send."""
        self.questions = Bucket(QUESTION_RATE, QUESTIONS_AT_ONCE)
        """The same of what it may ask about contracts."""
        self.rate = rate
        """How many calls the peer may make; None for any number."""
        self._running: set[int] = set()
        self._nested: set[int] = set()  # of these, the ones that are nested in a call of this side
        self._hello = self._peer_hello = b""  # the payloads, as they travelled
        self._is_early = True  # until the peer may say more than who it is
        self._is_deaf = False  # at a server that has turned its client away
        self._lowered = False  # the limit of sizes: messages that were on their way may be larger, and do no harm
        self._farewell = "the connection is being closed"
        self._small = 0  # payloads up to this size need no look at limits and make one buffer with their header
        self._handlers: dict[int, Callable[[Frame], Event[TokenT] | None]] = {
            Kind.REQUEST: self._on_request,
            Kind.NOTIFY: self._on_notify,
            Kind.RESPONSE: self._on_outcome,
            Kind.ERROR: self._on_outcome,
            Kind.BATCH: self._on_batch,
            Kind.PING: self._on_ping,
            Kind.PONG: self._on_nothing,
            Kind.GOODBYE: self._on_goodbye,
            Kind.WELCOME: self._on_welcome,
            Kind.LIMITS: self._on_limits,
            Kind.RELEASE: self._on_release,
            Kind.CANCEL: self._on_cancel,
            Kind.ITEM: self._on_item,
            Kind.END: self._on_end,
            Kind.CREDIT: self._on_credit,
            Kind.QUEUED: self._on_queued,
        }
        if client:
            self._greet()

    @property
    def running(self) -> int:
        """Calls of the peer that were accepted and not answered yet."""
        return len(self._running)

    def is_running(self, call: int) -> bool:
        """Whether a call of the peer was accepted and not answered yet."""
        return call in self._running

    # Receiving

    def receive(self, count: int) -> list[Event[TokenT]]:
        """``count`` bytes were read into ``reader.get_buffer()``: what follows from them, in order."""
        reader = self.reader
        if self.state is _OPEN:
            sole = reader.sole_frame(count)
            if sole is not None:
                kind, command, call, payload = sole
                if kind == _REQUEST:
                    request = self._accept(command, call, payload)
                    return [] if request is None else [request]
                if kind == _RESPONSE:
                    self.leaving.clear()
                    outcome = self._on_outcome(new_frame((kind, command, call, payload, b"")))
                    return [] if outcome is None else [outcome]
        elif self.state is State.CLOSED or self._is_deaf:
            return []
        reader.received(count)
        self.leaving.clear()
        events: list[Event[TokenT]] = []
        while (frame := reader.next_frame()) is not None:
            if self._is_early:
                event = self._on_early(frame)
            else:
                handler = self._handlers.get(frame.kind)
                event = handler(frame) if handler is not None else self._on_unknown(frame)
            if event is not None:
                events.append(event)
                if type(event) is Closed:
                    return events
        reader.keep()
        if reader.fault is not None:
            events.append(self._break(str(reader.fault)))
        elif self.state is _DRAINING and self.client and not (self.calls.calls or self._running):
            events.append(self.close(ConnectionLost(self._farewell)))  # nothing is left to come
        return events

    def receive_eof(self) -> list[Event[TokenT]]:
        """The peer's bytes have ended."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.DRAINING:
            return [self.close(ConnectionLost(self._farewell))]
        if not self.reader.in_frame:
            return [self.close(ConnectionLost("the peer closed the connection without a goodbye"))]
        error = ConnectionLost("the peer closed the connection in the middle of a frame")
        error.__cause__ = ProtocolError("a truncated frame")
        return [self.close(error)]

    def receive_error(self, error: OSError) -> list[Event[TokenT]]:
        """Nothing can be read any more. A peer that has said goodbye may reset what was still on its way to it."""
        if self.state is State.CLOSED:
            return []
        reason = f"the connection broke: {error.strerror or error}"
        lost = ConnectionLost(self._farewell if self.state is State.DRAINING else reason)
        lost.__cause__ = error
        return [self.close(lost)]

    def receive_nothing(self, period: float) -> list[Event[TokenT]]:
        """Nothing has come for so many seconds, although the peer was asked: it is taken for dead."""
        if self.state is State.CLOSED:
            return []
        reason = f"nothing came from the peer for {period:g} s, though it was asked"
        self.outgoing.append(self.goodbye(reason))  # it may only have been stopped for a while
        error = ConnectionLost(reason)
        error.__cause__ = TimeoutError(reason)
        return [self.close(error)]

    @property
    def may_ask(self) -> bool:
        """Whether the peer reads now, so that it answers a ping.

        A server reads all the time, and so does who says so. Others do while they have a call to answer.
        """
        return self.client or Feature.READS in self.peer_hello.features or bool(self.calls)

    def close(self, error: ConnectionLost) -> Closed:
        """End the connection: nothing is received any more. The owner then completes what :attr:`calls` still holds."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.error = error
        return Closed()

    def _break(self, reason: str) -> Closed:
        """The peer broke the protocol: tell it, and end. A stranger is told nothing."""
        if self.client or self.state is not State.GREETING:
            self.outgoing.append(self.goodbye(reason))
        elif reason == SPEAKS_TLS:
            self.outgoing.append(TLS_ALERT)
        error = ConnectionLost(f"the peer broke the protocol: {reason}")
        error.__cause__ = ProtocolError(reason)
        return self.close(error)

    def _on_early(self, frame: Frame) -> Event[TokenT] | None:
        """A frame of a peer that has not said, or not proved, who it is."""
        if frame.kind == Kind.GOODBYE:
            return self._on_goodbye(frame)
        if self.state is State.GREETING:
            return self._on_greeting(frame)
        if frame.kind == Kind.PING:
            return self._on_ping(frame)
        if frame.kind == Kind.AUTHENTICATE and self.state is State.AUTHENTICATING:
            return self._on_proof(frame) if self.client else self._on_claim(frame)
        return self._break(f"a frame of kind {frame.kind:#04x} before it is known who the peer is")

    def _on_greeting(self, frame: Frame) -> Event[TokenT] | None:
        if frame.kind != Kind.HELLO:
            return self._break(f"a frame of kind {frame.kind:#04x} before the hello")
        hello = read_hello(frame.payload)
        if isinstance(hello, str):
            return self._break(hello)
        self._set_peer_limits(hello.limits)
        self.peer_hello = hello
        assert not isinstance(frame.payload, Segmented)  # it could be read
        self._peer_hello = bytes(frame.payload)
        if self.client:
            return self._authenticate()
        self._greet()
        if self.hello.methods:
            self.state = State.AUTHENTICATING
            return None
        return self._become_greeted()

    def _become_greeted(self) -> Greeted:
        self._is_early = False
        self.state = _GREETED
        self.reader.limit = self.limits.max_message_size
        return Greeted()

    # Who the peer is

    def hellos(self) -> Hellos:
        """What both sides have said, which proofs are made of."""
        return Hellos(self._hello, self._peer_hello) if self.client else Hellos(self._peer_hello, self._hello)

    def _authenticate(self) -> Event[TokenT] | None:
        """At the client: the server has said how it wants to be told who this is."""
        credentials, methods = self.credentials, self.peer_hello.methods
        if credentials is None or credentials.method not in methods:
            if credentials is not None and credentials.method == Method.SECRET:
                return self._refuse_peer("the server did not prove that it knows the secret: it asks for none")
            if not methods:
                return self._become_greeted()
            asked = cut(" or a ".join(methods), 64)
            given = "none" if credentials is None else f"a {credentials.method}"
            return self._refuse_peer(f"the server asks for a {asked}, and was given {given}")
        if not self.peer_hello.nonce:
            return self._break("a hello that asks for a proof, without a nonce")
        self.outgoing.append(encode(Kind.AUTHENTICATE, 0, 0, credentials.claim(self.hellos())))
        if credentials.method == Method.SECRET:
            self.state = State.AUTHENTICATING
            return None
        return self._become_greeted()

    def _on_proof(self, frame: Frame) -> Event[TokenT] | None:
        if self.credentials is None or not self.credentials.is_answered(frame.payload, self.hellos()):
            return self._refuse_peer("the server did not prove that it knows the secret")
        return self._become_greeted()

    def _refuse_peer(self, reason: str) -> Closed:
        """The server has not proved who it is, or asks what this side cannot answer: tell it, and end."""
        self.outgoing.append(self.goodbye(reason, Leave.REFUSED))
        error = ConnectionLost(reason)
        error.__cause__ = AuthenticationFailed("", reason)
        return self.close(error)

    def _on_claim(self, frame: Frame) -> Event[TokenT] | None:
        claim = read_claim(frame.payload)
        if isinstance(claim, str):
            return self._break(claim)
        if claim.method not in self.hello.methods:
            return self._break(f"a {claim.method}, which was not asked for")
        if claim.method == Method.SECRET and not self.peer_hello.nonce:
            return self._break("a proof without a nonce in the hello")
        self.claim = claim
        self.state = State.CLAIMED
        return Claimed()

    def accept(self, proof: bytes | None = None) -> Outgoing | None:
        """At a server: the claim is right.

        Args:
            proof: What proves to the client that this side knows the secret.

        Returns:
            The bytes that tell it; None if there is nothing to tell, or it is too late, which the state says.
        """
        self.claim = None
        if self.state is not State.CLAIMED:
            return None
        self._become_greeted()
        return None if proof is None else encode(Kind.AUTHENTICATE, 0, 0, proof)

    def turn_away(self) -> None:
        """At a server: greet a client that is not heard, as it may not come in whatever it says."""
        if self.state is State.GREETING:
            self._is_deaf = True
            self._greet()
            self.state = State.CLAIMED

    def _set_peer_limits(self, limits: Limits) -> None:
        self.peer_limits = limits
        self._small = min(limits.max_message_size, RECEIVE_SIZE - HEADER_SIZE)

    def _on_welcome(self, frame: Frame) -> Event[TokenT] | None:
        if not self.client or self.state not in (_GREETED, _DRAINING):
            return self._break("a welcome out of place")
        if self.state is _DRAINING:
            return None
        self.state = _OPEN
        return Opened()

    def _on_queued(self, frame: Frame) -> None:
        self.queue = read_queued(frame.payload)

    def _on_limits(self, frame: Frame) -> Event[TokenT] | None:
        limits = read_limits(frame.payload, self.peer_limits)
        if isinstance(limits, str):
            return self._break(limits)
        self._set_peer_limits(limits)
        return None

    def _on_release(self, frame: Frame) -> Event[TokenT]:
        return Released(frame.call, frame.command)

    def _on_cancel(self, frame: Frame) -> Event[TokenT] | None:
        if frame.command:
            outflow = self.outflows.get(frame.call, _NO_FLOWS).get(frame.command)
            if outflow is not None:
                outflow.stop()
            return None
        return GivenUp(frame.call) if frame.call in self._running else None

    def _on_item(self, frame: Frame) -> Event[TokenT] | None:
        inflow = self._inflow_of(frame)
        if inflow is None:
            return None
        if not inflow.receive(frame.payload):
            return self._break(f"items of stream {frame.command} of call {frame.call} beyond what was asked for")
        if frame.call & 1 == self.client:
            return None  # this side has asked for as many results as it likes: each is limited by its credit
        self._unlooked += payload_size(frame.payload)
        if self._unlooked >= HELD_STEP:
            self._unlooked = 0
            inflows = tuple(self.inflows.items())
            of_peer = [tuple(flows.values()) for call, flows in inflows if call & 1 != self.client]
            held = sum(flow.held for flows in of_peer for flow in flows)
            limit = max(MAX_HELD, MESSAGES_HELD * self.limits.max_message_size)
            if held > limit:
                return self._break(f"streams of which {held} bytes were not taken yet, the limit is {limit}")
        return self._check_streams()

    def _on_end(self, frame: Frame) -> Event[TokenT] | None:
        inflow = self._inflow_of(frame) if frame.command else None
        if inflow is not None and not inflow.ended:
            inflow.end(frame.payload if payload_size(frame.payload) else None)
        return self._check_streams()

    def _inflow_of(self, frame: Frame) -> Inflow | None:
        """The stream that a frame is of; None where nobody wants it any more."""
        call, number = frame.call, frame.command
        flows = self.inflows.get(call)
        inflow = None if flows is None else flows.get(number)
        if inflow is None and number and call in self._running:
            # It may come before anybody has looked at the call's arguments.
            inflow = self.inflow(call, number)
            self._opened += 1
            if call not in self._running:  # answered meanwhile, and perhaps not seen there
                self.inflows.pop(call, None)
        return inflow

    def _check_streams(self) -> Event[TokenT] | None:
        """Counts the peer's streams, when it has opened so many since the last time that it may be too many."""
        if self._opened <= MAX_STREAMS:
            return None
        flows = tuple(self.inflows.items())
        self._opened = sum(len(numbers) for call, numbers in flows if call & 1 != self.client)
        if self._opened <= MAX_STREAMS:
            return None
        return self._break(f"{self._opened} streams at a time, the limit is {MAX_STREAMS}")

    def _on_credit(self, frame: Frame) -> Event[TokenT] | None:
        more = read_credit(frame.payload)
        if isinstance(more, str):
            return self._break(more)
        outflow = self.outflows.get(frame.call, _NO_FLOWS).get(frame.command)
        if outflow is not None:
            outflow.grant(more)
        return None

    def _greet(self) -> None:
        hello = self._hello = pack_hello(self.hello)
        self.outgoing.append(PREAMBLE + pack_header(len(hello), Kind.HELLO, 0, 0, 0) + hello)

    def _on_request(self, frame: Frame) -> Event[TokenT] | None:
        return self._accept(frame.command, frame.call, frame.payload, frame.extension)

    def _accept(self, command: int, call: int, payload: Payload, extension: Buffer = b"") -> Request | Closed | None:
        if call & 1 == self.client or not call:
            return self._break(f"a request with the call id {call}, which is not the peer's to give")
        if call in self._running:
            return self._break(f"a second request with the call id {call} while the first is running")
        extras = NO_EXTRAS
        if extension:
            read = read_extension(extension)
            if isinstance(read, str):
                self.outgoing.append(self._failure(call, ProtocolError(read)))
                return None
            extras = read
        nested = extras.parent and self.calls.get(extras.parent) is not None
        if self.state is not _OPEN:
            if self.state is _GREETED and not self.client and not nested:
                return self._break("a call before the welcome")
            if self._is_too_late(nested=bool(nested)):
                self._turn_away(call)
                return None
        # Nested calls do not wait for room at the caller, who waits for nothing else: so they have room of their own.
        # Those do not take that of others, who have counted only their own.
        if len(self._running) >= self.limits.max_calls and self._is_full(nested=bool(nested)):
            error = ServerBusy(f"{self.limits.max_calls} calls are in flight on this connection, which is the limit")
            self.outgoing.append(self._failure(call, error))
            return None
        if self.rate is not None and command < FIRST_RESERVED_ID and not self.rate.may_call():
            self.outgoing += (self.release(call, ALL_CALLBACKS), self._failure(call, ServerBusy(self.rate.why())))
            return None
        if self._lowered and (too_large := self._too_large(payload)) is not None:
            self.outgoing += (self.release(call, ALL_CALLBACKS), self._failure(call, too_large))
            return None
        self._running.add(call)
        if nested:
            self._nested.add(call)
        if call > self.last_accepted:
            self.last_accepted = call
        # Entered first, looked at the state then: who drains or closes does it the other way round, so that no goodbye
        # names a call as the last accepted one that is lower than one that is run.
        if self.state is not _OPEN and self._is_too_late(nested=bool(nested)):
            self._answered(call)
            self._turn_away(call)
            return None
        return Request(command, call, payload, extras)

    def _turn_away(self, call: int) -> None:
        """A call came too late."""
        self.peer_waits = True
        late = ConnectionLost("the call came when no more were accepted: it did not run")
        self.outgoing.append(self._failure(call, late))

    def _is_too_late(self, *, nested: bool) -> bool:
        """Whether a call is not accepted because this side drains."""
        return self.state is _DRAINING and not self.client and (self._finished or not nested)

    def _on_batch(self, frame: Frame) -> Event[TokenT] | None:
        if frame.call & 1 == self.client:
            return self._on_outcomes(frame)
        request = self._accept(frame.command, frame.call, frame.payload, frame.extension)
        if not isinstance(request, Request):
            return request
        parts = _read_batch(frame.payload)
        if isinstance(parts, str):
            self.outgoing.append(self.failure(request, pack_protocol_failure(ProtocolError(parts))))
            return None
        if self.rate is not None and frame.command < FIRST_RESERVED_ID:
            self.rate.charge(len(parts) - 1)
        return BatchRequest(request, parts)

    def _on_outcomes(self, frame: Frame) -> Event[TokenT] | None:
        """Some calls of a batch of this side are over."""
        left = self.batches.get(frame.call)
        if left is None:
            return self._on_outcome(frame)  # of a call that is no batch, or over
        payload = frame.payload
        count = count_parts(payload.body if isinstance(payload, Segmented) else payload)
        if not 0 < count <= left:
            return self._break(f"{count} outcomes of a batch that has {left} calls without one")
        if count == left:
            return self._on_outcome(frame)
        self.batches[frame.call] = left - count
        token = self.calls.get(frame.call)
        if token is None:
            return None
        self.leaving.append(token)
        if self._lowered and (too_large := self._too_large(payload)) is not None:
            frame = frame._replace(payload=pack_outcomes([(True, pack_protocol_failure(too_large))] * count))
        return Outcome(token, frame)

    def _is_full(self, *, nested: bool) -> bool:
        """Whether there is no room for a further call of the peer."""
        if nested:
            return len(self._running) >= 2 * self.limits.max_calls
        return len(self._running) - len(self._nested) >= self.limits.max_calls

    def _too_large(self, payload: Payload) -> MessageTooLarge | None:
        """What a payload is that was sent before its sender knew of a lower limit."""
        size, limit = payload_size(payload), self.limits.max_message_size
        return MessageTooLarge("a message sent before the limit was lowered", size, limit) if size > limit else None

    def _on_notify(self, frame: Frame) -> Event[TokenT] | None:
        extras = NO_EXTRAS
        if frame.extension:
            read = read_extension(frame.extension)
            if isinstance(read, str):
                self._drop_notify(frame)
                return None
            extras = read
        if self.state is _GREETED and not self.client:
            return self._break("a call before the welcome")
        if self._lowered and self._too_large(frame.payload) is not None:
            self._drop_notify(frame)
            return None
        if self.rate is not None and frame.command < FIRST_RESERVED_ID and not self.rate.may_notify():
            self._drop_notify(frame)
            return None
        return Request(frame.command, 0, frame.payload, extras, frame.call)

    def _drop_notify(self, frame: Frame) -> None:
        self.dropped_notifies += 1
        if frame.call:
            self.outgoing.append(self.release(frame.call, ALL_CALLBACKS))

    def _on_outcome(self, frame: Frame) -> Event[TokenT] | None:
        calls = self.calls.calls
        token = calls.get(frame.call)
        if token is not None:
            self.leaving.append(token)
            token = calls.pop(frame.call, None)
        if self.outflows or self.inflows:
            self.end_flows(frame.call)
        if self.batches:
            self.batches.pop(frame.call, None)
        if self.nested_calls:
            self.nested_calls.discard(frame.call)
        if token is None:
            self.late_replies += 1
            return None
        if self._lowered and (too_large := self._too_large(frame.payload)) is not None:
            frame = Frame(Kind.ERROR, 0, frame.call, pack_protocol_failure(too_large))
        return Outcome(token, frame)

    def _on_ping(self, frame: Frame) -> Event[TokenT] | None:
        size = payload_size(frame.payload)
        if size > MAX_PING:
            return self._break(f"a ping of {size} bytes, the limit is {MAX_PING}")
        if not self.pings.take():
            return self._break(f"more than {PINGS_AT_ONCE} pings at once, or {PING_RATE:g} a second")
        self.outgoing.append(encode(Kind.PONG, 0, frame.call, frame.payload))
        return None

    def _on_nothing(self, frame: Frame) -> None:
        pass

    def _on_goodbye(self, frame: Frame) -> Event[TokenT] | None:
        said, code = read_goodbye(frame.payload)
        self.leave = code
        self._peer_last = read_last_accepted(frame.payload)
        error = ConnectionLost(f"the peer closed the connection{': ' if said else ''}{said}")
        if code == Leave.BUSY:
            error.__cause__ = ServerBusy(said)
        elif code == Leave.REFUSED:
            error.__cause__ = AuthenticationFailed("", said or NOT_AUTHENTICATED)
        waits = self.client and self.state is not State.GREETING and (self.calls.calls or self._running)
        if waits and code != Leave.FINISHED:
            # A server that says goodbye still answers what it accepted, and wants what it asked; its end follows.
            self.state = State.DRAINING
            self._farewell = str(error)
            return None
        return self.close(error)

    def _on_unknown(self, frame: Frame) -> Event[TokenT] | None:
        if frame.kind >= IGNORABLE:
            return None
        if frame.kind == Kind.HELLO:
            return self._break("a second hello")
        if frame.kind == Kind.AUTHENTICATE:
            return self._break("an authentication out of place")
        return self._break(f"a frame of unknown kind {frame.kind:#04x}")

    # Sending

    def start(
        self, command: int, payload: Payload, what: str, extension: bytes = b"", nested: bool = False
    ) -> tuple[int, Outgoing]:
        """A new call: its id, and the bytes that make it.

        Args:
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            extension: From :func:`~typedrpc.messages.pack_extension`.
            nested: Whether it is made within a call of the peer's.

        Raises:
            ConnectionLost: The connection is closed, or about to be.
            MessageTooLarge: The peer would not accept it.
        """
        if self.state is not _OPEN and not self.may_call(nested):
            raise self.lost()
        call = self.calls.next_number()
        if call > MAX_CALL:
            call = self.calls.reuse(call)
        if type(payload) is bytes and len(payload) <= self._small and not extension:
            return call, pack_header(len(payload), _REQUEST, 0, command, call) + payload
        return call, self.request(call, command, payload, what, extension)

    def new_call(self, nested: bool = False) -> int:
        """The id of a new call.

        Args:
            nested: Whether it is made within a call of the peer's.

        Raises:
            ConnectionLost: The connection is closed, or about to be.
        """
        if self.state is not _OPEN and not self.may_call(nested):
            raise self.lost()
        return self.calls.new_id()

    def may_call(self, nested: bool = False) -> bool:
        """Whether this side may call. While a server drains, the handlers that run still may, and what they call."""
        if self.state is _DRAINING:
            return nested if self.client else bool(self._running)
        return self.state is _OPEN or self.state is _GREETED

    def lost(self) -> ConnectionLost:
        """A fresh error that says why there is no connection; each caller is given his own."""
        if self.error is None:
            return ConnectionLost(self._farewell)
        error = ConnectionLost(*self.error.args)
        error.__cause__ = self.error.__cause__
        return error

    def lost_call(self, call: int) -> ConnectionLost:
        """As :meth:`lost`, for a call in flight: ``OutcomeUnknown`` unless it certainly did not run.

        Args:
            call: Its id; 0 where that is not known.
        """
        lost = self.lost()
        if call and self._did_not_run(call):
            return lost
        error = OutcomeUnknown(*lost.args)
        error.__cause__ = lost.__cause__
        return error

    def _did_not_run(self, call: int) -> bool:
        """Whether the peer has said that it does not run a call that was sent and not answered."""
        if self.leave == Leave.FINISHED:
            return True
        return self._peer_last is not None and call > self._peer_last and call not in self.nested_calls

    def request(self, call: int, command: int, payload: Payload, what: str, extension: bytes = b"") -> Outgoing:
        """The bytes of a call.

        Args:
            call: An id from :meth:`new_call`.
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            extension: From :func:`~typedrpc.messages.pack_extension`.

        Raises:
            MessageTooLarge: The peer would not accept it.
        """
        self._check_size(payload, what, len(extension))
        return encode(Kind.REQUEST, command, call, payload, extension)

    def batch(self, call: int, command: int, payload: bytes, what: str, extension: bytes = b"") -> Outgoing:
        """The bytes of several calls of a command; raises and takes what :meth:`request` does.

        Args:
            call: An id from :meth:`new_call`. Whoever enters it into ``calls`` enters it into ``batches`` too.
            command: The peer's id of the command.
            payload: An array of the arguments of each, ``MAX_BATCH`` at most, see :func:`~typedrpc.parts.pack_array`.
            what: Names the command in errors.
            extension: From :func:`~typedrpc.messages.pack_extension`; it holds for all of them.
        """
        self._check_size(payload, what, len(extension))
        return encode(Kind.BATCH, command, call, payload, extension)

    def outcomes(self, request: BatchRequest, payload: Payload, *, last: bool) -> Outgoing:
        """The bytes that answer the next calls of a batch.

        Args:
            request: The batch.
            payload: From :func:`~typedrpc.parts.pack_outcomes`; not more than the peer accepts. With segments, one.
            last: Whether they are the last ones.
        """
        if last:
            self._answered(request.call)
        return encode(Kind.BATCH, 0, request.call, payload)

    def notify(self, command: int, payload: Payload, what: str, extension: bytes = b"", origin: int = 0) -> Outgoing:
        """The bytes of a one-way call; raises and takes what :meth:`request` does.

        Args:
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            extension: From :func:`~typedrpc.messages.pack_extension`.
            origin: Where callbacks go with it, the id from :meth:`new_call` that names them.
        """
        self._check_size(payload, what, len(extension))
        return encode(Kind.NOTIFY, command, origin, payload, extension)

    def begin(self, call: int, handling: Any) -> bool:
        """A call of the peer's is about to be handled. Returns False where the peer has given it up, or has left.

        Args:
            call: The id.
            handling: What :class:`GivenUp` events of the call are for, to be found in :attr:`handled`.
        """
        # Entered first, looked at the state then: who ends the connection does it the other way round.
        return self.handled.setdefault(call, handling) is handling and self.state is not State.CLOSED

    def give_up(self, call: int) -> Any:
        """What handles a call that the peer has given up; None if nothing does, and nothing will."""
        found = self.handled.setdefault(call, None)
        if found is None and call not in self._running:
            self.handled.pop(call, None)  # answered meanwhile
        return found

    def forget(self, call: int) -> None:
        """A call of the peer's is over, and nobody is left to be answered."""
        self._answered(call)

    def _answered(self, call: int) -> None:
        # In this order, for `give_up`.
        self._running.discard(call)
        self.handled.pop(call, None)
        if self._nested:
            self._nested.discard(call)
        if self.inflows:
            for inflow in tuple(self.inflows.pop(call, _NO_FLOWS).values()):  # who reads may just add one
                if not inflow.ended:
                    inflow.end(lost=True)
        if self.outflows:
            self.outflows.pop(call, None)

    def response(self, request: Request, payload: Payload, what: str, extension: bytes = b"") -> Outgoing:
        """The bytes that answer a call with its result.

        Args:
            request: The call.
            payload: The packed result.
            what: Names the result in errors.
            extension: From :func:`~typedrpc.messages.pack_extension`.

        Raises:
            MessageTooLarge: The peer would not accept it; the call still waits for an answer.
        """
        call = request.call
        if type(payload) is bytes and len(payload) <= self._small and not extension:
            if self._nested or self.inflows or self.outflows:
                self._answered(call)
            else:  # the same, as far as it goes then
                self._running.discard(call)
                self.handled.pop(call, None)
            return pack_header(len(payload), _RESPONSE, 0, 0, call) + payload
        self._check_size(payload, what, len(extension))
        self._answered(call)
        return encode(Kind.RESPONSE, 0, call, payload, extension)

    def failure(self, request: Request, payload: bytes, extension: bytes = b"") -> bytes:
        """The bytes that answer a call with a failure (see :mod:`typedrpc.failure`).

        One that the peer would not accept is replaced by one that says so.
        """
        self._answered(request.call)
        limit = self.peer_limits.max_message_size
        if len(payload) + len(extension) + 2 > limit:
            error = MessageTooLarge("the error that a call ended with", len(payload) + len(extension), limit)
            payload, extension = pack_protocol_failure(error), b""
        data = encode(Kind.ERROR, 0, request.call, payload, extension)
        return data if isinstance(data, bytes) else b"".join(data)

    # Streams and calls that are given up

    def inflow(self, call: int, number: int) -> Inflow:
        """The stream of this number that the peer sends with a call: 0 is the result, from 1 up an argument.

        Of a call of the peer's it may be asked for by the thread that reads and by one that handles the call.
        """
        flow = self.inflows.setdefault(call, {}).setdefault(number, Inflow())
        if self.state is State.CLOSED and not flow.ended:  # perhaps nobody will end it any more
            flow.end(lost=True)
        return flow

    def outflow(self, call: int, number: int) -> Outflow:
        """A stream that this side is about to send with a call."""
        flow = Outflow()
        self.outflows.setdefault(call, {})[number] = flow
        if self.state is State.CLOSED:
            flow.stop()
        return flow

    def end_flows(self, call: int) -> None:
        """A call of this side is over: its streams are."""
        for outflow in self.outflows.pop(call, _NO_FLOWS).values():
            outflow.stop()
        self.inflows.pop(call, None)

    def end_all_flows(self) -> None:
        """The connection has ended."""
        for outflows in tuple(self.outflows.values()):
            for outflow in tuple(outflows.values()):
                outflow.stop()
        for inflows in tuple(self.inflows.values()):
            for inflow in tuple(inflows.values()):
                if not inflow.ended:
                    inflow.end(lost=True)
        for call in (*self.inflows, *self.outflows):
            if call & 1 == self.client:  # those of the peer's calls go when their handlers have ended
                self.end_flows(call)

    def forsake_flows(self) -> None:
        """In a forked child: nobody else is here to be told."""
        for inflows in self.inflows.values():
            for inflow in inflows.values():
                inflow.lost = inflow.ended = True
        for outflows in self.outflows.values():
            for outflow in outflows.values():
                outflow.stopped = True

    def item(self, call: int, number: int, payload: Payload, what: str) -> Outgoing:
        """The bytes of some items of a stream.

        Args:
            call: The call that it belongs to.
            number: Of the stream.
            payload: The items, as :mod:`typedrpc.parts`.
            what: Names the stream in errors.

        Raises:
            MessageTooLarge: The peer would not accept it.
        """
        self._check_size(payload, what)
        return encode(Kind.ITEM, number, call, payload)

    def end_of_stream(self, call: int, number: int, failure: bytes = b"") -> Outgoing:
        """The bytes that end an argument's stream, with the payload of an error frame where its producer failed.

        One that the peer would not accept is replaced by one that says so: no failure looks like the end.
        """
        limit = self.peer_limits.max_message_size
        if len(failure) > limit:
            error = MessageTooLarge("the error that a stream ended with", len(failure), limit)
            failure = pack_protocol_failure(error)
        return encode(Kind.END, number, call, failure)

    def credit(self, call: int, number: int, more: int) -> bytes:
        """The bytes that let the peer send more of a stream."""
        payload = pack_credit(more)
        return pack_header(len(payload), Kind.CREDIT, 0, number, call) + payload

    def cancel(self, call: int, number: int = 0) -> bytes:
        """The bytes that give up a call of this side; or, of a call of the peer's, the stream of this number."""
        return pack_header(0, Kind.CANCEL, 0, number, call)

    def drain(self, reason: str) -> Outgoing | None:
        """Stop accepting calls; what was accepted is still answered.

        Returns:
            The bytes that tell the peer; None when it is too late.
        """
        if self.state is not State.OPEN and self.state is not _GREETED:
            return None
        self.peer_waits = bool(self._running)
        self.state = State.DRAINING  # before the goodbye is made, for `_accept`
        return self.goodbye(reason)

    def finish(self, reason: str) -> Outgoing | None:
        """While this side drains: all that was accepted has been answered, and the answers are on their way.

        Args:
            reason: As for :meth:`drain`.

        Returns:
            The bytes that tell the peer; None when that is not so, or it is too late.
        """
        if self.state is not State.DRAINING or self.client:
            return None
        # As in `_accept`: what is nested in a call of this side's may just come.
        self._finished = True
        if self._running:
            self._finished = False
            return None
        return self.goodbye(reason, Leave.FINISHED)

    def goodbye(self, reason: str, code: int = Leave.OTHER) -> Outgoing:
        """The bytes that announce the end of the connection; they name the highest call that was accepted.

        Args:
            reason: Why, for people.
            code: Of :class:`~typedrpc.messages.Leave`, for programs.
        """
        return encode(Kind.GOODBYE, 0, 0, pack_goodbye(self.last_accepted, reason, code))

    def welcome(self) -> Outgoing | None:
        """Let the client in: from now on it may call. Returns the bytes that tell it; None when it is too late."""
        if self.state is not _GREETED:
            return None
        self.state = _OPEN
        return encode(Kind.WELCOME, 0, 0, b"")

    def queued(self, inside: int, limit: int) -> Outgoing:
        """The bytes that tell a client that it has to wait in line: how many are in, and how many may be."""
        return encode(Kind.QUEUED, 0, 0, pack_queued(inside, limit))

    def set_limit(self, max_message_size: int) -> Outgoing:
        """Change the size of the messages that this side accepts: the bytes that tell the peer.

        Messages that were sent before it knew of a lower limit are refused one by one.

        Raises:
            ValueError: It is out of range.
        """
        limits = Limits(max_message_size, self.limits.max_calls)
        self.limits = limits
        self.reader.limit = max(self.reader.limit, max_message_size)
        self._lowered = max_message_size < self.reader.limit
        return encode(Kind.LIMITS, 0, 0, pack_limits(limits))

    def release(self, call: int, index: int) -> bytes:
        """The bytes that tell the peer that a callback which went with its call is not needed any more."""
        return pack_header(0, Kind.RELEASE, 0, index, call)

    def ping(self, payload: bytes = b"") -> Outgoing:
        """The bytes that ask the peer for a sign of life, which repeats the payload: ``MAX_PING`` bytes at most."""
        return encode(Kind.PING, 0, 0, payload)

    def sign_of_life(self) -> Outgoing:
        """The bytes that answer a ping which was not read yet, and perhaps not sent."""
        return encode(Kind.PONG, 0, 0, b"")

    def _failure(self, call: int, error: Exception) -> Outgoing:
        return encode(Kind.ERROR, 0, call, pack_protocol_failure(error))

    def _check_size(self, payload: Payload, what: str, more: int = 0) -> None:
        limit = self.peer_limits.max_message_size
        size = payload_size(payload) + (more + 2 if more else 0)
        if size > limit:
            raise MessageTooLarge(what, size, limit)


def _read_batch(payload: Payload) -> Values | str:
    """The arguments of the calls of a batch; a sentence where it is none."""
    if isinstance(payload, Segmented):
        return "a batch with segments"
    values = open_array(payload)
    if not isinstance(values, str) and len(values) > MAX_BATCH:
        return f"a batch of {len(values)} calls, the limit is {MAX_BATCH}"
    return values
