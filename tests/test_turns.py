"""Turns: how many there are, and who is next."""

import pytest

from typedrpc.turns import Turns


def test_turns_are_handed_out_in_order() -> None:
    turns, went = Turns(2), []

    def stand(name: str, wanted: bool = True) -> bool:
        def go() -> bool:
            went.append(name)
            return wanted

        return turns.take(go)

    assert [stand("a"), stand("b"), stand("c"), stand("d", wanted=False), stand("e")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert went == []
    turns.give_back()
    assert went == ["c"]
    turns.give_back()
    assert went == ["c", "d", "e"]
    for _ in range(2):
        turns.give_back()
    assert [stand("f"), stand("g"), stand("h")] == [True, True, False]


def test_a_long_line_that_nobody_wants_any_more() -> None:
    turns, went = Turns(1), []

    def go() -> bool:
        went.append(1)
        return False

    for _ in range(10_000):
        turns.take(go)
    turns.give_back()
    assert len(went) == 9_999
    assert turns.take(go)


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "1"])
def test_limits_without_sense(limit: object) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be None or a number"):
        Turns(limit)  # type: ignore[arg-type]
