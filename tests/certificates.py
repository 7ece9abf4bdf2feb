"""Certificates for tests, made once in a process, in files in PEM."""

import datetime
import functools
import ssl
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import trustme

from typedrpc import Tls

LONG_AGO: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Certificates(NamedTuple):
    """Files.

    Attributes:
        ca: The root of all of them but for ``other_ca``.
        other_ca: Another root.
        server: Certificate and key, for ``localhost`` and ``127.0.0.1``.
        expired: The same, which has expired.
        client: Of a client, with the common name ``robot``.
        other_client: Of a client, of the other root.
        expired_client: Of a client, which has expired.
    """

    ca: Path
    other_ca: Path
    server: Path
    expired: Path
    client: Path
    other_client: Path
    expired_client: Path


@functools.cache
def _directory() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="typedrpc-certificates-")  # removed when the process ends


@functools.cache
def certificates() -> Certificates:
    made = Certificates(*(Path(_directory().name) / f"{name}.pem" for name in Certificates._fields))
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(made.ca)
    other.cert_pem.write_to_path(made.other_ca)
    names = ("localhost", "127.0.0.1")
    for path, issued in (
        (made.server, ca.issue_cert(*names)),
        (made.expired, ca.issue_cert(*names, not_after=LONG_AGO, not_before=LONG_AGO - datetime.timedelta(1))),
        (made.client, ca.issue_cert("robot@example.org", common_name="robot")),
        (made.other_client, other.issue_cert("robot@example.org", common_name="robot")),
        (
            made.expired_client,
            ca.issue_cert("a@example.org", not_after=LONG_AGO, not_before=LONG_AGO - datetime.timedelta(1)),
        ),
    ):
        issued.private_key_and_cert_chain_pem.write_to_path(path)
    return made


def of_server(*, mutual: bool = False) -> Tls:
    """What a server is given; if it is to be mutual, clients must show a certificate."""
    made = certificates()
    return Tls(certificate=made.server, ca=made.ca if mutual else None)


def of_client() -> Tls:
    """What a client is given that trusts it, and shows a certificate where it is asked for."""
    made = certificates()
    return Tls(certificate=made.client, ca=made.ca)


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a client and of a server, of the standard library's own."""
    made = certificates()
    client = ssl.create_default_context(cafile=str(made.ca))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.server)
    return client, server
