"""Who a peer is."""

import pytest

from typedrpc import Identity


def test_an_identity_is_a_value() -> None:
    assert Identity("robot", "token") == Identity("robot", "token")
    assert len({Identity("robot", "token"), Identity("robot", "secret")}) == 2
    with pytest.raises(AttributeError):
        Identity("robot", "token").name = "other"  # type: ignore[misc]
