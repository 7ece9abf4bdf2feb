"""TLS: which certificates a side shows and trusts."""

import pytest

from typedrpc import Tls


def test_a_config_is_a_value() -> None:
    assert Tls(ca="ca.pem") == Tls(ca="ca.pem")
    with pytest.raises(AttributeError):
        Tls().ca = "other"  # type: ignore[misc]
