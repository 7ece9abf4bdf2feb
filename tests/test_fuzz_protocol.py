"""The core against whatever a peer sends, and two cores that keep the rules: only what is listed here may come of it.

What must never happen: an exception out of ``receive``, an event after ``Closed``, an answer to a call that was not
made, a second answer, an answer that nobody gave, and tables that grow with what the peer says.
"""

from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.back_to_back import feed, frame, frames, joined
from tests.codec.invented import thorough
from tests.frames import MAX_PAYLOAD, conversations, lies, raw, sequences
from tests.support import hello
from typedrpc.authentication import Credentials, Keys
from typedrpc.codec import Segmented, pack_plain
from typedrpc.errors import AuthenticationFailed, ConnectionLost, ProtocolError
from typedrpc.failure import unpack_failure
from typedrpc.messages import Hello, Limits, Method, pack_extension
from typedrpc.parts import count_parts, pack_array, pack_outcomes, pack_parts, split_outcomes
from typedrpc.protocol import (
    MAX_STREAMS,
    BatchRequest,
    Claimed,
    Closed,
    Event,
    GivenUp,
    Greeted,
    Opened,
    Outcome,
    Outgoing,
    Protocol,
    Released,
    Request,
    State,
)
from typedrpc.wire import MAX_PARTIAL, PREAMBLE, TLS_ALERT, Kind

EVENTS: Final = (Request, BatchRequest, Outcome, Claimed, Greeted, Opened, Released, GivenUp, Closed)
UNASKED: Final = {Kind.HELLO, Kind.AUTHENTICATE, Kind.GOODBYE, Kind.PONG, Kind.ERROR, Kind.RELEASE}
"""What a core has to say by itself."""
MAX_CALLS: Final = 3
SECRET: Final = bytes(range(32))
COMMAND: Final = 7


def check_end(core: Protocol[Any]) -> None:
    """Why a closed core has closed: in one of the documented ways."""
    assert core.state is State.CLOSED
    error = core.error
    assert type(error) is ConnectionLost
    text = str(error)
    if text.startswith("the peer broke the protocol: "):
        assert type(error.__cause__) is ProtocolError
        assert len(text) < 1000
    elif isinstance(error.__cause__, AuthenticationFailed):
        assert core.client
        assert text == error.__cause__.reason
    else:
        assert text.startswith(("the peer closed the connection", "the connection is being closed")), text


def check_bounds(core: Protocol[Any], received: int) -> None:
    """What a core holds has its limits, whatever it was sent."""
    assert core.running - len(core._nested) <= core.limits.max_calls
    assert len(core._nested) <= 2 * core.limits.max_calls
    assert len(core.handled) <= core.running
    assert sum(len(flows) for flows in core.inflows.values()) <= MAX_STREAMS + core.running + len(core.calls)
    assert sum(flow.held for flows in core.inflows.values() for flow in flows.values()) <= received
    assert len(core.reader._partial) <= MAX_PARTIAL
    assert sum(part.tell() for large in core.reader._partial.values() for part in large._parts) <= received


def words(said: bytes | bytearray) -> set[int]:
    """The kinds of frames that a core had to say by itself. Who speaks TLS to it is told so as TLS does."""
    if said == TLS_ALERT:
        return set()
    return {one.kind for one in frames(said, preamble=said.startswith(PREAMBLE))}


class Watched:
    """A core of which every event and every byte is looked at."""

    def __init__(self, *, client: bool, limits: Limits | None = None, guarded: bool = False) -> None:
        """``guarded``: a server asks who the client is, a client has a secret."""
        methods = (Method.SECRET, Method.TOKEN) if guarded and not client else ()
        nonce = bytes(32) if guarded else b""
        said = Hello(limits or Limits(max_calls=MAX_CALLS), nonce=nonce, methods=methods)
        credentials = Credentials(secret=("", SECRET)) if guarded and client else None
        self.core: Protocol[str] = Protocol(client=client, hello=said, credentials=credentials)
        self.guarded = guarded
        self.received = 0
        self.said = bytearray()  # what it had to say by itself
        self.closed = False
        self.waiting: dict[str, int] = {}  # tokens, and how many outcomes are still to come
        self.running: dict[int, Request] = {}
        self.take_said()

    def take_said(self) -> bytes:
        data = joined(*self.core.outgoing)
        self.core.outgoing.clear()
        self.said += data
        return data

    def feed(self, data: bytes, size: int) -> list[Event[str]]:
        before = self.core.state
        events = feed(self.core, data, size)
        self.received += len(data)
        self._look_at(events, before)
        return events

    def end_of_file(self) -> list[Event[str]]:
        before = self.core.state
        events = self.core.receive_eof()
        self._look_at(events, before)
        return events

    def _look_at(self, events: list[Event[str]], before: State) -> None:
        if before is State.CLOSED:
            assert events == []
        for number, event in enumerate(events):
            assert isinstance(event, EVENTS)
            assert not self.closed
            if isinstance(event, Closed):
                assert number == len(events) - 1
                self.closed = True
            elif isinstance(event, Greeted):
                assert before in (State.GREETING, State.AUTHENTICATING)
                assert not self.guarded, "nobody here knows the secret"
            elif isinstance(event, Claimed):
                assert self.guarded
                assert not self.core.client
                self._check_claim()
            elif isinstance(event, Opened):
                assert self.core.client
            elif isinstance(event, Request) and event.call:
                assert event.call not in self.running, "one call that runs twice"
                assert event.call & 1 != self.core.client
                self.running[event.call] = event
            elif isinstance(event, Outcome):
                self._take_outcome(event)
        assert self.closed == (self.core.state is State.CLOSED)
        if self.closed:
            check_end(self.core)
            assert self.core.receive_eof() == []
            assert self.core.receive(0) == []
        check_bounds(self.core, self.received)

    def _check_claim(self) -> None:
        """A server looks whether a claim is right. None is: who has no secret has to guess 32 bytes."""
        assert self.core.claim is not None
        if self.core.claim.method == Method.SECRET:
            assert Keys(SECRET).answer(self.core.claim, self.core.hellos()) is None

    def _take_outcome(self, outcome: Outcome[str]) -> None:
        left = self.waiting[outcome.token]  # what is no token of this side's, or is over, fails here
        kind = outcome.frame.kind
        assert kind in (Kind.RESPONSE, Kind.ERROR, Kind.BATCH)
        over = True
        if kind == Kind.BATCH and outcome.token.startswith("batch"):
            payload = outcome.frame.payload
            count = count_parts(payload.body if isinstance(payload, Segmented) else payload)
            assert 0 < count <= left
            over = count == left
            self.waiting[outcome.token] = left - count
        if over:
            del self.waiting[outcome.token]

    def call(self, payload: bytes) -> Outgoing:
        call, data = self.core.start(COMMAND, payload, "S.f")
        token = f"call {call}"
        self.core.calls.insert(call, token)
        self.waiting[token] = 1
        return data

    def batch(self, payloads: list[bytes]) -> Outgoing:
        call = self.core.new_call()
        data = self.core.batch(call, COMMAND, pack_array(payloads), "S.f")
        token = f"batch {call}"
        self.core.calls.insert(call, token)
        self.core.batches[call] = len(payloads)
        self.waiting[token] = len(payloads)
        return data


sizes = st.sampled_from((1, 2, 3, 12, 13, 100, 1 << 20))


@given(data=st.data(), client=st.booleans(), guarded=st.booleans(), size=sizes)
@thorough(100)
def test_whatever_bytes_come(data: st.DataObject, client: bool, guarded: bool, size: int) -> None:
    said = data.draw(conversations(client=not client))
    watched = Watched(client=client, guarded=guarded)
    watched.feed(said, size)
    unasked = watched.take_said()
    watched.end_of_file()
    assert watched.core.state is State.CLOSED
    answer = bytes(watched.said)
    if not answer:  # a stranger is told nothing
        assert not client
    assert words(answer) <= UNASKED
    assert len(unasked) <= 1000 + 30 * len(said)


class FaithlessPeer(RuleBasedStateMachine):
    """A core that is used as it should be, with a peer that sends whatever it likes."""

    @initialize(client=st.booleans(), early=st.integers(0, 3))
    def begin(self, client: bool, early: int) -> None:
        self.shake_hands(client, early=early == 3)

    def shake_hands(self, client: bool, early: bool) -> None:
        self.watched = Watched(client=client)
        self.core = self.watched.core
        self.next_call = 2 if client else 1
        if not early:
            self.watched.feed(PREAMBLE + hello(), 1 << 20)
            self._let_in()

    def _let_in(self) -> None:
        if self.core.client:
            if self.core.state is State.GREETED:
                self.watched.feed(frame(Kind.WELCOME), 1 << 20)
        else:
            self.core.welcome()

    @rule(sent=sequences(), size=sizes)
    def send(self, sent: list[bytes], size: int) -> None:
        self.watched.feed(b"".join(sent), size)

    @rule(
        kind=st.sampled_from((Kind.REQUEST, Kind.BATCH)),
        count=st.integers(1, 3 * MAX_CALLS),
        twice=st.integers(0, 9),
        nested=st.booleans(),
    )
    def ask(self, kind: Kind, count: int, twice: int, nested: bool) -> None:
        """Calls in order, of which random frames make few; seldom with an id that is in use, often too many."""
        parent = next(iter(self.core.calls.calls), 0) if nested else 0
        payload = pack_array([b"\x90", b"\x91\x01"]) if kind == Kind.BATCH else b"\x90"
        for _ in range(count):
            call = min(self.watched.running, default=0) if twice == 9 else 0
            if not call:
                call, self.next_call = self.next_call, self.next_call + 2
            data = frame(kind, payload, command=COMMAND, call=call, extension=pack_extension(parent=parent))
            self.watched.feed(data, 1 << 20)

    @rule(
        kind=st.sampled_from((Kind.RESPONSE, Kind.ERROR, Kind.BATCH, Kind.ITEM, Kind.END, Kind.CREDIT)),
        which=st.integers(0, 3),
        payload=raw,
    )
    def say_of_a_call(self, kind: Kind, which: int, payload: bytes) -> None:
        """A frame of a call that there is."""
        calls = sorted(self.core.calls.calls) if which else sorted(self.watched.running)
        call = calls[which % len(calls)] if calls else 1
        self.watched.feed(frame(kind, payload, command=which % 2, call=call), 1 << 20)

    @precondition(lambda self: bool(self.core.batches))
    @rule(surplus=st.integers(0, 3))
    def answer_batch(self, surplus: int) -> None:
        """Outcomes of a batch, sometimes one more than it has calls."""
        call, left = next(iter(self.core.batches.items()))
        count = left + 1 if surplus == 3 else 1 + surplus % left
        payload = pack_outcomes([(False, b"\x90")] * count)
        self.watched.feed(frame(Kind.BATCH, payload, call=call), 1 << 20)

    @rule()
    def let_in(self) -> None:
        if self.core.state is State.GREETED:
            self._let_in()

    @precondition(lambda self: self.core.state is State.OPEN)
    @rule(payload=raw, stream=st.booleans())
    def call(self, payload: bytes, stream: bool) -> None:
        self.watched.call(payload)
        if stream:
            call = max(self.core.calls.calls)
            self.core.inflow(call, 0)
            self.core.outflow(call, 1)

    @precondition(lambda self: self.core.state is State.OPEN)
    @rule(payloads=st.lists(raw, min_size=1, max_size=3))
    def batch(self, payloads: list[bytes]) -> None:
        self.watched.batch(payloads)

    @precondition(lambda self: bool(self.watched.running))
    @rule(fails=st.booleans())
    def answer(self, fails: bool) -> None:
        call, request = self.watched.running.popitem()
        if self.core.state is State.CLOSED:
            self.core.forget(call)
        elif isinstance(request, BatchRequest):
            outcomes = [(fails, b"\xc0")] * len(request.parts)
            self.core.outcomes(request, pack_outcomes(outcomes), last=True)
        elif fails:
            self.core.failure(request, b"\x90")
        else:
            self.core.response(request, b"\xc0", "the result")

    @rule()
    def take_items(self) -> None:
        for flows in self.core.inflows.values():
            for flow in flows.values():
                while flow.take()[0] is not None:
                    pass
                flow.grant()

    @rule(size=st.integers(1024, 4096))
    def set_limit(self, size: int) -> None:
        if self.core.state is State.OPEN:
            self.core.set_limit(size)

    @rule()
    def drain(self) -> None:
        self.core.drain("enough")

    @rule(sent=lies())
    def lie(self, sent: bytes) -> None:
        self.watched.feed(sent, 1 << 20)

    @invariant()
    def says_only_what_it_may(self) -> None:
        if hasattr(self, "watched"):
            said = self.watched.take_said()
            assert words(said) <= UNASKED
            if self.watched.closed:  # it soon is: the next peer comes
                self.shake_hands(not self.core.client, early=False)

    def teardown(self) -> None:
        if hasattr(self, "watched"):
            self.watched.end_of_file()
            assert self.core.state is State.CLOSED


class Honest(Watched):
    """One of two that keep the rules."""

    def __init__(self, *, client: bool, limits: Limits) -> None:
        self.way = bytearray()  # what is on its way to the other
        super().__init__(client=client, limits=limits)
        self.answers: dict[int, list[tuple[bool, bytes]]] = {}  # what was answered, by call
        self.notes = 0  # one-way calls that came

    def take_said(self) -> bytes:
        data = super().take_said()
        self.way += data
        return data

    def send(self, data: Outgoing) -> None:
        self.take_said()  # the core's own words first: they are older
        self.way += joined(data)

    def has_room(self) -> bool:
        return len(self.waiting) < self.core.peer_limits.max_calls


class TwoCores(RuleBasedStateMachine):
    """Two cores and the bytes between them: what is asked is answered, once, with what was given."""

    @initialize(client=st.integers(1, 3), server=st.integers(1, 3))
    def begin(self, client: int, server: int) -> None:
        self.client = Honest(client=True, limits=Limits(4096, client))
        self.server = Honest(client=False, limits=Limits(4096, server))
        self.sides = (self.client, self.server)
        self.ended = False
        self.notes = [0, 0]

    def other(self, side: Honest) -> Honest:
        return self.server if side is self.client else self.client

    def deliver(self, side: Honest, count: int, size: int) -> None:
        """Bytes on their way arrive."""
        target = self.other(side)
        side.take_said()
        data = bytes(side.way[:count])
        del side.way[:count]
        for event in target.feed(data, size):
            if isinstance(event, Outcome):
                self.compare(side, event)
            elif isinstance(event, Request) and not event.call:
                target.notes += 1
        target.take_said()

    def compare(self, answerer: Honest, outcome: Outcome[str]) -> None:
        """What came is what was given, in its order; or, of a call that came too late, that it did not run."""
        call = outcome.frame.call
        payload: Any = outcome.frame.payload
        if call not in answerer.answers:
            assert self.ended
            assert answerer is self.server
            assert call not in answerer.running
            assert outcome.frame.kind == Kind.ERROR
            assert type(unpack_failure(payload, "")) is ConnectionLost
            return
        given = answerer.answers[call]
        if outcome.frame.kind == Kind.BATCH:
            found = split_outcomes(payload)
            assert not isinstance(found, str)
            got = [(failed, bytes(part)) for failed, part in found]
        else:
            got = [(outcome.frame.kind == Kind.ERROR, bytes(payload))]
        assert given[: len(got)] == got
        del given[: len(got)]

    @rule(up=st.booleans(), count=st.integers(1, 300), size=sizes)
    def arrive(self, up: bool, count: int, size: int) -> None:
        self.deliver(self.sides[not up], count, size)

    @rule()
    def welcome(self) -> None:
        data = self.server.core.welcome()
        if data is not None:
            self.server.send(data)

    def may_call(self, side: Honest) -> bool:
        return side.core.state is State.OPEN and side.has_room()

    @rule(up=st.booleans(), payload=st.binary(max_size=MAX_PAYLOAD), stream=st.booleans())
    def call(self, up: bool, payload: bytes, stream: bool) -> None:
        side = self.sides[not up]
        if self.may_call(side):
            side.send(side.call(payload))
            if stream:
                call = max(side.core.calls.calls)
                side.core.inflow(call, 0)
                side.core.outflow(call, 1)

    @rule(up=st.booleans(), payloads=st.lists(raw, min_size=1, max_size=4))
    def batch(self, up: bool, payloads: list[bytes]) -> None:
        side = self.sides[not up]
        if self.may_call(side):
            side.send(side.batch([pack_plain([payload]) for payload in payloads]))

    @rule(up=st.booleans())
    def notify(self, up: bool) -> None:
        side = self.sides[not up]
        if side.core.state is State.OPEN:
            side.send(side.core.notify(COMMAND, b"\x90", "S.f"))
            self.notes[up] += 1

    @rule(up=st.booleans(), fails=st.booleans(), payload=st.binary(min_size=1, max_size=MAX_PAYLOAD))
    def answer(self, up: bool, fails: bool, payload: bytes) -> None:
        side = self.sides[not up]
        if not side.running:
            return
        call = next(iter(side.running))
        request = side.running.pop(call)
        if side.core.state is State.CLOSED:
            side.core.forget(call)
            return
        if isinstance(request, BatchRequest):
            outcomes = [(fails, payload)] * len(request.parts)
            half = len(outcomes) // 2
            side.answers[call] = list(outcomes)
            if half:
                side.send(side.core.outcomes(request, pack_outcomes(outcomes[:half]), last=False))
            side.send(side.core.outcomes(request, pack_outcomes(outcomes[half:]), last=True))
            return
        side.answers[call] = [(fails, payload)]
        side.send(side.core.failure(request, payload) if fails else side.core.response(request, payload, "the result"))

    @rule(up=st.booleans(), argument=st.booleans(), payload=st.binary(max_size=MAX_PAYLOAD))
    def send_item(self, up: bool, argument: bool, payload: bytes) -> None:
        side = self.sides[not up]
        call = next(iter(side.core.outflows if argument else side.running), None)
        if call is None or side.core.state is State.CLOSED:
            return
        number = int(argument)
        flow = side.core.outflows.get(call, {}).get(number)
        if flow is None and not argument:
            flow = side.core.outflow(call, 0)
        if flow is not None and flow.may_send and not flow.stopped:
            data = pack_parts([payload])
            flow.sent(data)
            side.send(side.core.item(call, number, data, "items"))

    @rule(up=st.booleans())
    def take_items(self, up: bool) -> None:
        side = self.sides[not up]
        for call, flows in side.core.inflows.items():
            for number, flow in flows.items():
                while flow.take()[0] is not None:
                    pass
                if (more := flow.grant()) and side.core.state is not State.CLOSED:
                    side.send(side.core.credit(call, number, more))

    @rule(up=st.booleans(), number=st.integers(0, 1))
    def cancel(self, up: bool, number: int) -> None:
        side = self.sides[not up]
        calls = side.core.calls.calls if not number else side.core.inflows
        if calls and side.core.state is not State.CLOSED:
            side.send(side.core.cancel(next(iter(calls)), number))

    @rule(up=st.booleans())
    def ping(self, up: bool) -> None:
        side = self.sides[not up]
        if side.core.state is State.OPEN:
            side.send(side.core.ping(b"sign"))

    @precondition(lambda self: not self.ended)
    @rule(eager=st.integers(0, 9))
    def drain(self, eager: int) -> None:
        """Seldom, or nothing else would be tried."""
        if eager == 0 and (data := self.server.core.drain("enough")) is not None:
            self.server.send(data)
            self.ended = True

    @invariant()
    def nobody_breaks_the_rules(self) -> None:
        for side in getattr(self, "sides", ()):
            if side.core.state is State.CLOSED:
                assert self.ended
                assert "broke the protocol" not in str(side.core.error)

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for _ in range(10):
            self.welcome()
            for up in (True, False):
                self.deliver(self.sides[not up], 1 << 20, 1 << 20)
                while self.sides[up].running:
                    self.answer(not up, False, b"\xc0")
        self.nobody_breaks_the_rules()
        for up, side in ((False, self.server), (True, self.client)):
            if not self.ended:
                assert side.waiting == {}, "calls that were never answered"
                assert side.notes == self.notes[not up]
                assert not side.core.calls
            assert self.other(side).running == {}
            assert side.core.running == 0


def test_a_call_of_which_the_server_says_that_it_came_too_late() -> None:
    state = TwoCores()
    state.begin(client=1, server=1)
    state.arrive(up=True, count=300, size=300)
    state.welcome()
    hello = len(state.server.way)
    state.drain(eager=0)
    state.arrive(up=False, count=hello, size=hello)  # and not the goodbye
    state.call(up=True, payload=b"", stream=False)
    assert state.client.waiting
    state.teardown()
    assert not state.client.waiting


def test_who_speaks_tls_is_told_so() -> None:
    watched = Watched(client=False)
    watched.feed(bytes.fromhex("16030102 00010001"), 1 << 20)
    assert watched.closed
    watched.take_said()
    assert watched.said
    assert words(watched.said) == set()


TestFaithlessPeer = FaithlessPeer.TestCase
TestFaithlessPeer.settings = settings(thorough(60), stateful_step_count=20)
TestTwoCores = TwoCores.TestCase
TestTwoCores.settings = settings(thorough(60), stateful_step_count=40)
