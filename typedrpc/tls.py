"""TLS: which certificates a side shows and trusts."""

import os
from dataclasses import dataclass
from typing import TypeAlias, final

StrPath: TypeAlias = str | os.PathLike[str]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Which certificate a side shows, and whose it trusts; files in PEM.

    Attributes:
        certificate: The certificate of this side, with those between it and the root. A server needs one.
        key: Its private key; None if it is in the same file.
        password: Of the key, if it has one.
        ca: The roots that are trusted. At a client None means those of the system; at a server a root means that
            clients must show a certificate of it (mutual TLS).
        server_name: At a client, the name that the server's certificate must have, if not that of the host in the URL.
    """

    certificate: StrPath | None = None
    key: StrPath | None = None
    password: str | None = None
    ca: StrPath | None = None
    server_name: str | None = None
