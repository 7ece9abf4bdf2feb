"""Places, and the line before them."""

import pytest

from typedrpc.admission import MAX_WAITING, Admission, Answer


def test_without_a_limit_everybody_is_in() -> None:
    admission: Admission[int] = Admission(None, "refuse")
    assert {admission.ask(number) for number in range(100)} == {Answer.IN}
    assert admission.inside == 100
    assert admission.leave(5) is None
    assert admission.inside == 99


def test_who_finds_no_place_is_refused() -> None:
    admission: Admission[str] = Admission(2, "refuse")
    assert [admission.ask(who) for who in "abc"] == [Answer.IN, Answer.IN, Answer.FULL]
    assert admission.why_full() == "2 of 2 clients are in"
    assert admission.leave("c") is None
    assert admission.inside == 2
    assert admission.leave("a") is None
    assert admission.ask("c") is Answer.IN


def test_the_line_is_let_in_in_order() -> None:
    admission: Admission[str] = Admission(1, "wait")
    assert [admission.ask(who) for who in "abcde"] == [Answer.IN, *[Answer.WAIT] * 4]
    assert (admission.inside, admission.waiting) == (1, 4)
    assert admission.why_full() == "1 of 1 clients are in, and 4 wait"
    admission.step_out("b")
    assert admission.leave("d") is None
    assert admission.leave("a") == "c"
    assert admission.leave("c") == "e"
    assert admission.leave("e") is None
    assert (admission.inside, admission.waiting) == (0, 0)
    assert admission.ask("f") is Answer.IN


def test_who_has_a_place_keeps_it_when_it_does_not_wait() -> None:
    admission: Admission[str] = Admission(1, "wait")
    admission.ask("a")
    admission.step_out("a")
    assert admission.inside == 1
    assert admission.leave("a") is None
    assert admission.leave("a") is None
    assert admission.inside == 0


def test_the_line_is_not_endless() -> None:
    admission: Admission[int] = Admission(1, "wait")
    assert [admission.ask(number) for number in range(MAX_WAITING + 1)] == [Answer.IN, *[Answer.WAIT] * MAX_WAITING]
    assert admission.ask(-1) is Answer.FULL
    assert admission.why_full() == f"1 of 1 clients are in, and {MAX_WAITING} wait"
    assert admission.leave(0) == 1
    assert admission.ask(-1) is Answer.WAIT


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "1"])
def test_limits_without_sense(limit: object) -> None:
    with pytest.raises(ValueError, match="max_clients must be None or a number"):
        Admission(limit, "wait")  # type: ignore[arg-type]


@pytest.mark.parametrize("when_full", ["", "queue", None])
def test_something_else_to_do_when_it_is_full(when_full: object) -> None:
    with pytest.raises(ValueError, match='must be "refuse" or "wait"'):
        Admission(1, when_full)  # type: ignore[arg-type]
