"""Answers that are kept: what becomes of a request with a key, and that none of it grows."""

from typing import Any

import pytest

from typedrpc import answers as module
from typedrpc.answers import Answers, Kept, Running, Session, Visit, Waiting
from typedrpc.codec import Segmented
from typedrpc.errors import OutcomeUnknown

NO_POST: Any = None
SOME = Kept(False, b"\x01")


class Clock:
    """One that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """One session, as a server knows it."""

    def __init__(self, answers: Answers, name: bytes = b"s", next_key: int = 0, *, identity: str = "") -> None:
        self.answers = answers
        found = answers.enter(identity, name, next_key, NO_POST)
        assert found is not None
        self.visit: Visit = found
        self.told: list[Kept] = []

    @property
    def session(self) -> Session:
        return self.visit.session

    def begin(self, key: int, attempt: int = 0, wanted_from: int = 0) -> Running | Waiting | Kept:
        return self.answers.begin(self.session, "Store.put", (key, attempt, wanted_from), self.told.append)

    def run(self, key: int, attempt: int = 0, wanted_from: int = 0) -> Running:
        """A request whose call is to be run."""
        found = self.begin(key, attempt, wanted_from)
        assert isinstance(found, Running)
        return found

    def answer(self, key: int, kept: Kept = SOME, wanted_from: int = 0) -> None:
        self.run(key, 0, wanted_from).settle(kept)

    def leave(self) -> None:
        self.answers.leave(self.visit)


class Handler:
    """Of a call; it notes why it was cancelled."""

    def __init__(self) -> None:
        self.why_cancelled = ""

    def cancel(self, why: str) -> None:
        assert not self.why_cancelled, "a call is cancelled once"
        self.why_cancelled = why


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> Answers:
    return Answers(clock)


def test_a_call_that_is_sent_again_gets_the_kept_answer(answers: Answers) -> None:
    client = Client(answers)
    client.run(0).settle(Kept(False, b"\x07", b"\x80"))
    assert client.begin(0, 1) == Kept(False, b"\x07", b"\x80")
    assert client.begin(0, 2) == Kept(False, b"\x07", b"\x80")


def test_another_connection_of_the_session_gets_it_too(answers: Answers) -> None:
    first = Client(answers)
    first.answer(0)
    first.leave()
    assert Client(answers, next_key=1).begin(0, 1) == SOME


def test_an_error_is_kept_as_well(answers: Answers) -> None:
    client = Client(answers)
    client.run(0).settle(Kept(True, b"\x93"))
    assert client.begin(0, 1) == Kept(True, b"\x93")


def test_a_call_that_runs_is_waited_for(answers: Answers) -> None:
    client, again = Client(answers), Client(answers, next_key=1)
    running = client.run(0)
    assert isinstance(again.begin(0, 1), Waiting)
    assert again.told == []
    running.settle(SOME)
    assert (client.told, again.told) == ([], [SOME])


def test_who_has_left_is_not_told(answers: Answers) -> None:
    client = Client(answers)
    running = client.run(0)
    waiting = client.begin(0, 1)
    assert isinstance(waiting, Waiting)
    waiting.caller_left()
    waiting.caller_left()
    running.settle(SOME)
    assert client.told == []


def test_a_call_that_was_withdrawn_is_run_when_it_is_sent_again(answers: Answers) -> None:
    client = Client(answers)
    running = client.run(0)
    client.begin(0, 1)
    running.withdraw(Kept(True, b"not run"))
    assert client.told == [Kept(True, b"not run")]
    client.run(0, 2)


def test_sessions_and_identities_are_kept_apart(answers: Answers) -> None:
    Client(answers).answer(0)
    Client(answers, b"other").run(0)
    Client(answers, identity="ann").run(0)


# When nobody knows


def test_a_call_from_before_the_session_was_known_is_not_run_again(answers: Answers) -> None:
    client = Client(answers, next_key=5)
    with pytest.raises(OutcomeUnknown, match=r"^Store\.put: it was sent before, and this server does not know"):
        client.begin(4, 1)
    client.run(4)  # the first time
    client.run(5, 1)  # given to a call when the session was known here, and not seen


def test_a_call_whose_answer_is_not_wanted_any_more_is_not_run(answers: Answers) -> None:
    client = Client(answers)
    client.answer(0)
    client.answer(1)
    client.answer(2, wanted_from=1)
    assert client.begin(1, 1) == SOME
    for attempt in (0, 1):  # the first may be late, on a connection that is long lost
        with pytest.raises(OutcomeUnknown, match=r"its answer is kept no more$"):
            client.begin(0, attempt)
    assert answers.size == 2 * SOME.size


def test_what_is_not_wanted_when_it_is_over_is_not_kept(answers: Answers) -> None:
    client = Client(answers)
    running = client.run(0)
    client.answer(1, wanted_from=1)
    running.settle(SOME)
    assert answers.size == SOME.size
    with pytest.raises(OutcomeUnknown):
        client.begin(0, 1)


def test_an_older_acknowledgement_changes_nothing(answers: Answers) -> None:
    client = Client(answers)
    client.answer(0)
    client.answer(1, wanted_from=1)
    client.answer(2, wanted_from=0)
    assert (client.begin(1, 1), client.begin(2, 1)) == (SOME, SOME)
    with pytest.raises(OutcomeUnknown):
        client.begin(0, 1)


# Cancelling


def test_a_request_that_is_given_up_cancels_the_call_that_it_waits_for(answers: Answers) -> None:
    client, handler = Client(answers), Handler()
    running = client.run(0)
    running.begins(handler)
    waiting = client.begin(0, 1)
    assert isinstance(waiting, Waiting)
    waiting.cancel("enough")
    assert (waiting.why_cancelled, handler.why_cancelled) == ("enough", "enough")
    running.cancel("again")
    assert handler.why_cancelled == "enough"


def test_a_call_may_be_cancelled_before_its_handler_is_known(answers: Answers) -> None:
    handler = Handler()
    running = Client(answers).run(0)
    running.cancel("enough")
    running.begins(handler)
    assert handler.why_cancelled == "enough"


def test_closing_cancels_what_runs(answers: Answers) -> None:
    handler = Handler()
    client = Client(answers)
    client.run(0).begins(handler)
    client.leave()
    answers.close("the server is closing")
    assert handler.why_cancelled == "the server is closing"


def test_a_client_that_leaves_for_good_has_its_calls_cancelled_with_its_last_connection(answers: Answers) -> None:
    first, last, other = Client(answers), Client(answers), Client(answers, b"other")
    handlers = [Handler() for _ in range(2)]
    first.run(0).begins(handlers[0])
    other.run(0).begins(handlers[1])
    answers.leave(first.visit, for_good=True)
    assert not handlers[0].why_cancelled
    last.leave()
    assert [handler.why_cancelled for handler in handlers] == ["its caller has left", ""]


def test_closing_cancels_what_runs_for_sessions_that_are_forgotten(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 1)
    handler, client = Handler(), Client(answers)
    client.run(0).begins(handler)
    client.leave()
    Client(answers, b"other")
    assert answers.sessions == 1
    answers.close("the server is closing")
    assert handler.why_cancelled == "the server is closing"


# Bounds


def left(client: Client, key: int) -> tuple[Running, Handler]:
    """A call whose connection has ended."""
    running, handler = client.run(key), Handler()
    running.begins(handler)
    running.caller_left()
    return running, handler


def test_the_calls_that_go_on_for_nobody_are_bounded(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNATTENDED", 2)
    client = Client(answers)
    found = [left(client, key) for key in range(3)]
    assert [bool(handler.why_cancelled) for _, handler in found] == [True, False, False]
    assert "too many calls" in found[0][1].why_cancelled
    assert answers.unattended == 2
    waiting = client.begin(1, 1)  # somebody waits for it again
    assert isinstance(waiting, Waiting)
    found.append(left(client, 3))
    assert answers.unattended == 2
    assert not found[1][1].why_cancelled
    waiting.caller_left()  # now the one that was left last
    assert [bool(handler.why_cancelled) for _, handler in found] == [True, False, True, False]
    for running, _ in found:
        running.settle(SOME)
        running.caller_left()  # too late to count
    assert answers.unattended == 0


def test_and_those_of_all_sessions(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ALL_UNATTENDED", 2)
    found = [left(Client(answers, bytes([number])), 0) for number in range(4)]
    assert [bool(handler.why_cancelled) for _, handler in found] == [True, True, False, False]
    assert answers.unattended == 2


def test_the_answers_of_a_session_are_bounded_by_number(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 3)
    client = Client(answers)
    for key in range(5):
        client.answer(key)
    assert answers.size == 3 * SOME.size
    for key in (0, 1):
        with pytest.raises(OutcomeUnknown):  # never a second run
            client.begin(key, 1)
    assert [client.begin(key, 1) for key in (2, 3, 4)] == [SOME] * 3


def test_the_answers_of_a_session_are_bounded_by_size(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    big = Kept(False, bytes(1000))
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 2 * big.size)
    client = Client(answers)
    for key in range(3):
        client.answer(key, big)
    with pytest.raises(OutcomeUnknown):
        client.begin(0, 1)
    assert client.begin(1, 1) == big
    client.answer(3, Kept(False, bytes(3000)))
    with pytest.raises(OutcomeUnknown):  # too large by itself
        client.begin(3, 1)
    assert client.begin(2, 1) == big
    assert answers.size == 2 * big.size


def test_the_answers_of_all_are_bounded_by_size(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 4 * SOME.size)
    left, large, small = Client(answers, b"left"), Client(answers, b"large"), Client(answers, b"small")
    left.answer(0)
    left.leave()
    for key in range(3):
        large.answer(key)
    small.answer(0)
    assert left.session.done == {}  # whose client has left goes first
    small.answer(1)
    assert (sorted(large.session.done), sorted(small.session.done)) == ([1, 2], [0, 1])
    assert answers.size == 4 * SOME.size


def test_what_is_remembered_of_answers_that_are_gone_is_bounded(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 1)
    monkeypatch.setattr(module, "MAX_GONE", 8)
    client = Client(answers)
    for key in range(100):
        client.answer(key)
    assert len(client.session.gone) <= 8
    for key in range(99):
        with pytest.raises(OutcomeUnknown):
            client.begin(key, 1)
    assert client.begin(99, 1) == SOME


def test_sessions_are_bounded(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    first, second = Client(answers, b"1"), Client(answers, b"2")
    first.answer(0)
    assert answers.enter("", b"3", 0, NO_POST) is None  # those who are here stay
    second.leave()
    first.leave()
    Client(answers, b"3")  # who left first goes first
    assert Client(answers, b"1", next_key=1).begin(0, 1) == SOME
    assert (answers.sessions, answers.enter("", b"2", 0, NO_POST)) == (2, None)


def test_a_session_is_forgotten_some_time_after_its_last_connection(answers: Answers, clock: Clock) -> None:
    first, second = Client(answers), Client(answers)
    first.answer(0)
    first.leave()
    clock.now += 2 * module.KEEP_TIME
    second.leave()
    clock.now += module.KEEP_TIME - 1
    third = Client(answers, next_key=1)
    assert third.begin(0, 1) == SOME
    running = third.run(1)
    third.leave()
    clock.now += module.KEEP_TIME
    last = Client(answers, next_key=2)
    assert (answers.sessions, answers.size) == (1, 0)
    for key in (0, 1):
        with pytest.raises(OutcomeUnknown):
            last.begin(key, 1)
    running.settle(SOME)  # for nobody
    third.answers._forget_idle()
    assert answers.size == 0


def test_a_connection_that_ends_after_its_session_was_forgotten_does_no_harm(answers: Answers) -> None:
    client = Client(answers)
    client.leave()
    answers._forget(client.session)
    other = Client(answers)
    client.visit.session.connections = 1
    client.leave()
    assert (answers.sessions, other.session.connections) == (1, 1)


# What is kept


def test_kept_buffers_are_nobody_elses(answers: Answers) -> None:
    body, segment = bytearray(b"body"), bytearray(b"segment")
    client = Client(answers)
    client.answer(0, Kept(False, Segmented(memoryview(body), [memoryview(segment), b"bytes"])))
    client.answer(1, Kept(False, memoryview(body)))
    client.answer(2, Kept(False, body))
    body[:], segment[:] = b"BODY", b"SEGMENT"
    assert client.begin(0, 1) == Kept(False, Segmented(b"body", [b"segment", b"bytes"]))
    assert client.begin(1, 1) == Kept(False, b"body")
    assert client.begin(2, 1) == Kept(False, b"body")


def test_a_lock_that_was_held_in_the_parent_is_free_in_the_child(answers: Answers) -> None:
    answers._lock.acquire()
    answers.forsake()
    Client(answers)
