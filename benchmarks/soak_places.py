"""The servers of the soak, and how clients connect to them: one table. A further kind of connection is a row.

Options are made in each process, from the folder of the run, where a row may keep what it needs, such as a socket. What
is made once for all processes, such as certificates, :func:`furnish` puts there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from typedrpc import Retry, Tls
from typedrpc.common.client import ConnectOptions
from typedrpc.common.server import ServerOptions

TCP: Final = "tcp://127.0.0.1:0"
TLS: Final = "tls://127.0.0.1:0"
PATIENCE: Final = 60.0
"""Seconds to connect: the machine is busy."""


RETRY: Final = Retry(first_delay=0.01, max_delay=0.5)
"""Of clients whose connections are cut: they are soon back."""

CA: Final = "ca.pem"
SERVER: Final = "server.pem"
CLIENT: Final = "client.pem"
"""Files in the folder of the run: a root, and what it has signed, with its key."""

SECRET: Final = b"a secret of the soak, not of anybody else"


def furnish(folder: Path) -> None:
    """Put there what processes share."""
    import trustme  # only who makes certificates has it

    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / CA)
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / SERVER)
    ca.issue_cert("soak@example.org", common_name="soak").private_key_and_cert_chain_pem.write_to_path(folder / CLIENT)


def no_server_options(folder: Path) -> ServerOptions:
    return {}


def no_connect_options(folder: Path) -> ConnectOptions:
    return {}


def mutual_tls(folder: Path) -> ServerOptions:
    return {"tls": Tls(certificate=folder / SERVER, ca=folder / CA)}


def with_certificate(folder: Path) -> ConnectOptions:
    return {"tls": Tls(certificate=folder / CLIENT, ca=folder / CA)}


def who_has_the_secret(folder: Path) -> ServerOptions:
    return {"secret": SECRET}


def with_secret_and_retry(folder: Path) -> ConnectOptions:
    return {"secret": SECRET, "retry": RETRY}


class Place(NamedTuple):
    """A server, in a process of its own, and how to reach it.

    Attributes:
        name: For the table.
        colour: ``threads`` or ``asyncio``.
        url: Where it listens; ``{folder}`` is that of the run.
        server: Further options of ``Server``, from the folder.
        connect: Further options of ``connect`` at all clients, from the folder. What they expose and how long they try
            is given already.
    """

    name: str
    colour: str
    url: str = TCP
    server: Callable[[Path], ServerOptions] = no_server_options
    connect: Callable[[Path], ConnectOptions] = no_connect_options


PLACES: Final = {
    place.name: place
    for place in (
        Place("threads-tcp", "threads"),
        Place("threads-unix", "threads", "unix://{folder}/threads.sock"),
        Place("asyncio-tcp", "asyncio"),
        Place("asyncio-unix", "asyncio", "unix://{folder}/asyncio.sock"),
        Place("threads-tls", "threads", TLS, mutual_tls, with_certificate),
        Place("asyncio-tls", "asyncio", TLS, mutual_tls, with_certificate),
        Place("threads-secret", "threads", TCP, who_has_the_secret, with_secret_and_retry),
        Place("asyncio-secret", "asyncio", TCP, who_has_the_secret, with_secret_and_retry),
    )
}
