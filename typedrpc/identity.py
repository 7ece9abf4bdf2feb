"""Who a peer is, once it has proved it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

Means: TypeAlias = Literal["secret", "token", "certificate", "user"]
"""By what a peer has proved who it is: a shared secret, a token, a certificate; or the system says so."""


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is: ``current_call().peer.identity``.

    Attributes:
        name: Of the peer: the name of its secret, what the function that checks tokens has returned, the common name of
            its certificate, or the user that runs it.
        means: By what it has proved that.
        certificate: What its certificate says, where it has shown one, as ``ssl.SSLSocket.getpeercert`` gives it.
        claims: What the function that checks tokens wants to be known beside.
    """

    name: str
    means: Means
    certificate: Mapping[str, Any] | None = None
    claims: Any = None
