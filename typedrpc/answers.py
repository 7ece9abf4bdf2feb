"""Answers that are kept for clients that may ask again: a call that was sent twice runs at most once.

A client that sends calls again names its session, the same for all its connections, and gives each such call a key.
What a call came to is kept here until the client says that it wants it no more, or until there is too much of it.
Nothing here knows of threads, event loops or sockets, beyond that any thread may call any method.

What is known of a key, and what becomes of a request with it::

    nothing, and it is new     it is run, and what it comes to is kept
    it runs                    the request waits for its answer
    it was answered            the same answer
    it ran, the answer is gone OutcomeUnknown
    nothing, and it is old     OutcomeUnknown: it may have run before this server knew of the session

A key is new if it is the first time that it is sent, or if the session had not given it to a call yet when this server
came to know of the session.
"""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any, Final, NamedTuple, final
from typing import Protocol as TypingProtocol

from typedrpc.codec import Payload, Segmented
from typedrpc.errors import OutcomeUnknown
from typedrpc.wire import payload_size

MAX_ANSWERS: Final = 1024
"""Answers that are kept for one session."""

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Their bytes."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of the answers that are kept for all sessions."""

MAX_GONE: Final = 4096
"""Calls of one session of which only that they ran is remembered, one by one."""

MAX_SESSIONS: Final = 1024
"""Sessions of which anything is remembered."""

KEEP_TIME: Final = 300.0
"""Seconds after the end of its last connection in which a session is remembered."""

MAX_UNATTENDED: Final = 1024
"""Calls of one session that go on though the connections on which they came have ended."""

MAX_ALL_UNATTENDED: Final = 4096
"""The same of all sessions."""

_OVERHEAD: Final = 256
"""Bytes that an answer takes beside its payload, about."""

_HAS_LEFT: Final = "its caller has left"
_TOO_MANY: Final = "its caller has left, and too many calls go on for callers that have"


class Kept(NamedTuple):
    """What a call has come to: whether it is an error, the packed error or result, and the packed extension map."""

    is_error: bool
    payload: Payload
    extension: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return _OVERHEAD + payload_size(self.payload) + len(self.extension)

    def owned(self) -> "Kept":
        """The same, in buffers that no handler can change."""
        if not isinstance(self.payload, Segmented):
            return self if isinstance(self.payload, bytes) else self._replace(payload=bytes(self.payload))
        segments = [segment if isinstance(segment, bytes) else bytes(segment) for segment in self.payload.segments]
        return self._replace(payload=Segmented(bytes(self.payload.body), segments))


class Cancellable(TypingProtocol):
    """The handler of a call."""

    why_cancelled: str

    def cancel(self, why: str, /) -> None: ...


@final
class Running:
    """A call with a key, from when it is accepted until its answer is known. Whoever is given it has to settle it."""

    __slots__ = ("_answers", "_session", "_why_cancelled", "call", "is_left", "key", "waiting")

    def __init__(self, answers: "Answers", session: "Session", key: int) -> None:
        self._answers = answers
        self._session = session
        self.key = key
        self.call: Cancellable | None = None
        self._why_cancelled = ""
        self.waiting: list[Waiting] = []
        self.is_left = False  # the connection has ended on which it came first

    def begins(self, call: Cancellable) -> None:
        """Its handler is about to run."""
        self.call = call
        if self._why_cancelled and not call.why_cancelled:
            call.cancel(self._why_cancelled)

    def cancel(self, why: str) -> None:
        """Nobody wants the answer any more."""
        self._why_cancelled = why  # the flag first, as above
        call = self.call
        if call is not None and not call.why_cancelled:
            call.cancel(why)

    def caller_left(self) -> None:
        """The connection on which it came first has ended: it goes on, unless too many do."""
        self._answers._caller_left(self._session, self)

    def forget(self, waiting: "Waiting") -> None:
        """A request need not be answered any more."""
        self._answers._forget_waiting(self._session, self, waiting)

    def settle(self, kept: Kept) -> None:
        """It has run, and come to this: whoever waits for it is told, and whoever asks from now on."""
        self._answers._settle(self._session, self, kept)

    def withdraw(self, kept: Kept) -> None:
        """It has not run, and will not: who waits for it is told this, who asks from now on has it run."""
        self._answers._withdraw(self._session, self, kept)


@final
class Waiting:
    """A request whose call runs already, for another one that came before. ``why_cancelled`` as for a call."""

    __slots__ = ("_running", "tell", "why_cancelled")

    def __init__(self, running: Running, tell: Callable[[Kept], None]) -> None:
        self._running = running
        self.tell = tell
        self.why_cancelled = ""

    def cancel(self, why: str) -> None:
        """The caller has given it up, whichever of its requests it named."""
        self.why_cancelled = why
        self._running.cancel(why)

    def caller_left(self) -> None:
        """The connection has ended: the call goes on, the caller may come back."""
        self._running.forget(self)


@final
class Session:
    """What is remembered of the calls of one client. Belongs to its :class:`Answers`, and is guarded by its lock."""

    __slots__ = (
        "calls",
        "connections",
        "done",
        "floor",
        "gone",
        "is_over",
        "left_at",
        "name",
        "size",
        "unattended",
        "unwanted",
    )

    def __init__(self, name: tuple[str, bytes], floor: int) -> None:
        self.name = name
        self.floor = floor
        """Keys from here on were given to calls only when this side knew of the session."""
        self.unwanted = 0
        """Below this the client wants no answer any more, or nothing is remembered of what ran."""
        self.calls: dict[int, Running] = {}
        self.unattended: dict[Running, None] = {}  # those that nobody waits for now; who was left first comes first
        self.is_over = False  # the client has said that it does not come back
        self.done: dict[int, Kept] = {}  # in the order in which they were answered
        self.gone: dict[int, None] = {}  # what ran, and has no answer here any more; in the order in which it went
        self.size = 0
        self.connections = 0
        self.left_at = 0.0


class Visit(NamedTuple):
    """One connection of a session: what is remembered of it, and what makes a frame and sends it to the client."""

    session: Session
    answer: Callable[[Callable[[], Any]], None]


@final
class Answers:
    """The kept answers of one server. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._sessions: dict[tuple[str, bytes], Session] = {}
        self._idle: dict[tuple[str, bytes], Session] = {}  # those without a connection, who left first comes first
        self._bytes = 0
        self._running: dict[Running, None] = {}  # of sessions that were forgotten too
        self._unattended: dict[Running, None] = {}  # those of all sessions

    def forsake(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes of all the answers that are kept."""
        return self._bytes

    @property
    def sessions(self) -> int:
        """Sessions of which something is remembered."""
        return len(self._sessions)

    # Connections

    def enter(
        self, identity: str, session: bytes, next_key: int, answer: Callable[[Callable[[], Any]], None]
    ) -> Visit | None:
        """A client is let in. To each call of this belongs one of :meth:`leave`.

        Args:
            identity: Who it is; empty where nobody knows.
            session: What it calls its session: only with the same identity it is the same one.
            next_key: The least key that it has not given to a call yet.
            answer: Makes a frame and sends it, unless it is too late; may be called by any thread.

        Returns:
            What is remembered of it; None where there is no room for it.
        """
        name = (identity, session)
        with self._lock:
            self._forget_idle()
            known = self._sessions.get(name)
            if known is None:
                if len(self._sessions) >= MAX_SESSIONS:
                    if not self._idle:
                        return None
                    self._forget(next(iter(self._idle.values())))
                self._sessions[name] = known = Session(name, next_key)
            known.connections += 1
            known.is_over = False
            self._idle.pop(name, None)
            return Visit(known, answer)

    @property
    def unattended(self) -> int:
        """Calls that go on though nobody waits for them now."""
        return len(self._unattended)

    def leave(self, visit: Visit, *, for_good: bool = False) -> None:
        """A connection has ended.

        Args:
            visit: What was made of it.
            for_good: The client does not come back: what runs for it is cancelled when its last connection has ended.
        """
        session = visit.session
        abandoned: list[Running] = []
        with self._lock:
            session.connections -= 1
            session.is_over = session.is_over or for_good
            if session.is_over and not session.connections:
                abandoned = list(session.calls.values())
            if not session.connections and self._sessions.get(session.name) is session:
                session.left_at = self._clock()
                self._idle[session.name] = session
            self._forget_idle()
        for call in abandoned:
            call.cancel(_HAS_LEFT)

    def close(self, why: str) -> None:
        """The server is closing: what still runs is cancelled."""
        with self._lock:
            running = list(self._running)
        for call in running:
            call.cancel(why)

    # Calls

    def begin(
        self, session: Session, what: str, key: tuple[int, int, int], tell: Callable[[Kept], None]
    ) -> Running | Waiting | Kept:
        """A request with a key came.

        Args:
            session: Whose.
            what: Names the command in errors.
            key: The call's key, how often it was sent before, and the least key that an answer is still wanted for.
            tell: Called with what the call has come to, perhaps by another thread, where it runs already.

        Returns:
            The call, which is to be run; or who waits for it, where it runs already; or what it has come to.

        Raises:
            OutcomeUnknown: It may have run, or has, and nobody knows any more what it came to.
        """
        number, attempt, wanted_from = key
        with self._lock:
            if wanted_from > session.unwanted:
                self._drop_unwanted(session, wanted_from)
            running = session.calls.get(number)
            if running is not None:
                waiting = Waiting(running, tell)
                running.waiting.append(waiting)
                self._attend(session, running)
                return waiting
            kept = session.done.get(number)
            if kept is not None:
                return kept
            if number in session.gone or number < session.unwanted:
                raise OutcomeUnknown(f"{what}: it ran, or was given up, and its answer is kept no more")
            if attempt and number < session.floor:
                raise OutcomeUnknown(f"{what}: it was sent before, and this server does not know what became of it")
            session.calls[number] = running = Running(self, session, number)
            self._running[running] = None
            return running

    def _forget_waiting(self, session: Session, running: Running, waiting: Waiting) -> None:
        with self._lock:
            if waiting in running.waiting:
                running.waiting.remove(waiting)
            too_many = self._look_who_waits(session, running)
        for call in too_many:
            call.cancel(_TOO_MANY)

    def _caller_left(self, session: Session, running: Running) -> None:
        with self._lock:
            running.is_left = True
            too_many = self._look_who_waits(session, running)
        for call in too_many:
            call.cancel(_TOO_MANY)

    def _settle(self, session: Session, running: Running, kept: Kept) -> None:
        kept = kept.owned()
        with self._lock:
            self._is_over(session, running)
            if self._sessions.get(session.name) is session and running.key >= session.unwanted:
                self._keep(session, running.key, kept)
            waiting, running.waiting = running.waiting, []
        for request in waiting:
            request.tell(kept)

    def _withdraw(self, session: Session, running: Running, kept: Kept) -> None:
        with self._lock:
            self._is_over(session, running)
            waiting, running.waiting = running.waiting, []
        for request in waiting:
            request.tell(kept)

    # Calls that nobody waits for; the lock is held

    def _look_who_waits(self, session: Session, running: Running) -> list[Running]:
        """Somebody waits no longer for a call. Returns which are to be cancelled, as too many go on for nobody."""
        if not running.is_left or running.waiting or running not in self._running:
            return []
        session.unattended[running] = self._unattended[running] = None
        found = []
        while len(session.unattended) > MAX_UNATTENDED:
            found.append(next(iter(session.unattended)))
            self._attend(session, found[-1])
        while len(self._unattended) > MAX_ALL_UNATTENDED:
            found.append(next(iter(self._unattended)))
            self._attend(found[-1]._session, found[-1])
        return found

    def _attend(self, session: Session, running: Running) -> None:
        """A call is none of those any more."""
        session.unattended.pop(running, None)
        self._unattended.pop(running, None)

    def _is_over(self, session: Session, running: Running) -> None:
        session.calls.pop(running.key, None)
        self._running.pop(running, None)
        self._attend(session, running)

    # What is kept; the lock is held

    def _keep(self, session: Session, key: int, kept: Kept) -> None:
        size = kept.size
        if size > MAX_ANSWER_BYTES:
            self._mark_gone(session, key)
            return
        session.done[key] = kept
        session.size += size
        self._bytes += size
        while len(session.done) > MAX_ANSWERS or session.size > MAX_ANSWER_BYTES:
            self._drop_oldest(session)
        while self._bytes > MAX_BYTES:
            of_idle = next((left for left in self._idle.values() if left.done), None)
            self._drop_oldest(of_idle or max(self._sessions.values(), key=lambda found: found.size))

    def _drop_oldest(self, session: Session) -> None:
        key = next(iter(session.done))
        self._drop(session, key)
        self._mark_gone(session, key)

    def _drop(self, session: Session, key: int) -> None:
        size = session.done.pop(key).size
        session.size -= size
        self._bytes -= size

    def _mark_gone(self, session: Session, key: int) -> None:
        session.gone[key] = None
        if len(session.gone) > MAX_GONE:  # of the oldest it is only remembered that nothing is
            self._drop_unwanted(session, sorted(session.gone)[MAX_GONE // 4])

    def _drop_unwanted(self, session: Session, wanted_from: int) -> None:
        session.unwanted = wanted_from
        for key in [key for key in session.done if key < wanted_from]:
            self._drop(session, key)
        for key in [key for key in session.gone if key < wanted_from]:
            del session.gone[key]

    def _forget_idle(self) -> None:
        """Forget the sessions whose last connection ended long ago."""
        now = self._clock()
        while self._idle:
            session = next(iter(self._idle.values()))
            if now - session.left_at < KEEP_TIME:
                break
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._idle.pop(session.name, None)
        del self._sessions[session.name]
        self._bytes -= session.size
        session.size = 0
        session.done.clear()
        session.gone.clear()
