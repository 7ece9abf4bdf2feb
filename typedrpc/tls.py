"""TLS: which certificates a side shows and trusts, and in words what came of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from typedrpc.errors import ConnectFailed, TlsFailed
from typedrpc.identity import Identity

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import ssl

StrPath: TypeAlias = str | os.PathLike[str]

HANDSHAKE: Final = 0x16
"""The first byte of whoever begins with TLS."""

_NO_TLS: Final = "the server there speaks no TLS; write tcp://host:port"

_REASONS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the {other} does not trust whoever has signed the certificate of this side",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the {other} does not accept the certificate of this side",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the {other} does not accept the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the {other} does not accept the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate of this side has been revoked, as the {other} says",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate of this side has expired, as the {other} says",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the {other} wants a certificate of this side; pass tls=Tls(certificate=...)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the {other} does not agree: perhaps it wants a certificate of this side",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the {other} accepts no version of TLS that this side offers",
    "UNSUPPORTED_PROTOCOL": "the {other} offers no version of TLS that this side accepts",
    "NO_SHARED_CIPHER": "the two sides have no cipher in common",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the {other} has shown no certificate, which is wanted here",
    "SSLV3_ALERT_UNEXPECTED_MESSAGE": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
}
"""What OpenSSL calls by these names; where it says that there is no TLS, a client is told."""


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


class NoTls(OSError):
    """The other end speaks something else."""


def client_context(tls: "Tls | ssl.SSLContext | None") -> "ssl.SSLContext":
    """The context of a client.

    Args:
        tls: What was asked for. A context is taken as it is.

    Raises:
        ValueError: It cannot be made; says why.
    """
    import ssl

    if isinstance(tls, ssl.SSLContext):
        return tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls is None:
        context.load_default_certs()
    elif not isinstance(tls, Tls):
        raise ValueError(f"tls is a Tls or an ssl.SSLContext, not {type(tls).__name__}")
    elif tls.ca is None:
        context.load_default_certs()
    return _filled(context, tls)


def server_context(tls: "Tls | ssl.SSLContext | None") -> "ssl.SSLContext":
    """The context of a server.

    Args:
        tls: What was asked for. A context is taken as it is.

    Raises:
        ValueError: It cannot be made; says why.
    """
    import ssl

    if isinstance(tls, ssl.SSLContext):
        if tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("the context is one for clients; make it with ssl.PROTOCOL_TLS_SERVER")
        return tls
    if tls is not None and not isinstance(tls, Tls):
        raise ValueError(f"tls is a Tls or an ssl.SSLContext, not {type(tls).__name__}")
    if tls is None or tls.certificate is None:
        raise ValueError("a server with TLS needs a certificate: pass tls=Tls(certificate=..., key=...)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Nobody resumes sessions, and a client that closes at once would leave the tickets unread.
    context.num_tickets = 0
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, tls)


def _filled(context: "ssl.SSLContext", tls: Tls | None) -> "ssl.SSLContext":
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls is not None and tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except OSError as error:
            raise ValueError(_why_not_read(f"the roots in {os.fspath(tls.ca)!r}", error)) from error
    if tls is not None and tls.certificate is not None:
        # Without one OpenSSL would ask for it at the terminal.
        password = "" if tls.password is None else tls.password
        try:
            context.load_cert_chain(tls.certificate, tls.key, password)
        except OSError as error:
            files = repr(os.fspath(tls.certificate)) + (f" and {os.fspath(tls.key)!r}" if tls.key is not None else "")
            raise ValueError(_why_not_read(f"the certificate and its key in {files}", error)) from error
    elif tls is not None and tls.key is not None:
        raise ValueError("a key without a certificate: pass tls=Tls(certificate=..., key=...)")
    return context


def _why_not_read(what: str, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            reason = "there is no such file"
        case PermissionError():
            reason = "permission denied"
        case _:
            reason = {
                "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
                "BAD_DECRYPT": "the password is not that of the key",
                "NO_CERTIFICATE_OR_CRL_FOUND": "the file has no certificate in PEM",
            }.get(getattr(error, "reason", None) or "", "")
            reason = reason or f"no certificate, or no key, in PEM, or the wrong password ({error.strerror or error})"
    return f"{what} cannot be used: {reason}"


def name_of(tls: "Tls | ssl.SSLContext | None", host: str) -> str:
    """The name that the certificate of a server must have."""
    return tls.server_name if isinstance(tls, Tls) and tls.server_name is not None else host


def check_client(context: "ssl.SSLContext", name: str) -> None:
    """Check that a client can begin with these.

    Raises:
        ValueError: It cannot; says why.
    """
    import ssl

    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    except ssl.SSLError as error:
        raise ValueError(f"the context is not one for clients: {error.strerror or error}") from error
    except ValueError:
        raise ValueError(f"{name!r} is no name that a certificate can have") from None


def failure(where: str, error: BaseException | None, *, client: bool) -> ConnectFailed | None:
    """What an error of a socket during a handshake says in words; None where it has nothing to do with TLS.

    Args:
        where: A client's URL; at a server the address of the client.
        error: The error.
        client: Whether this side is a client.
    """
    import ssl

    if isinstance(error, NoTls):
        return TlsFailed(where, error.strerror or str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(where, _why_not_verified(error, "server" if client else "client"))
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        if not client:
            if not isinstance(error, ssl.SSLEOFError):
                return None
            return TlsFailed(where, "the client left during the handshake; perhaps it does not trust this server")
        # No `TlsFailed`: it may be a server that goes just now, and another may come.
        return ConnectFailed(
            where, "the other end left during the TLS handshake; where a server has no TLS, write tcp://host:port"
        )
    if isinstance(error, ssl.SSLError):
        name = getattr(error, "reason", None) or ""  # there is none where Python made it
        text = _REASONS.get(name, "")
        if not text or (text is _NO_TLS and not client):
            text = f"OpenSSL says {name or error.strerror or error}"
        return TlsFailed(where, text.format(other="server" if client else "client"))
    return None


def _why_not_verified(error: "ssl.SSLCertVerificationError", other: str) -> str:
    match error.verify_code:
        case 10:
            return f"the certificate of the {other} has expired"
        case 9:
            return f"the certificate of the {other} is not valid yet"
        case 18 | 19 | 20 | 21:
            how = "pass tls=Tls(ca=...) with the root that it comes from" if other == "server" else "see Tls(ca=...)"
            return f"the certificate of the {other} is of nobody who is trusted here ({error.verify_message}); {how}"
        case 62 | 64:
            return f"the certificate of the {other} is not for this host: {error.verify_message}"
    return f"the certificate of the {other} is not accepted: {error.verify_message}"


def identity_of(certificate: Mapping[str, Any] | None) -> Identity | None:
    """Who a peer with this certificate is; None where it has shown none, or one that was not checked.

    Args:
        certificate: As ``ssl.SSLSocket.getpeercert`` gives it.
    """
    if not certificate:
        return None
    subject = [entry for part in certificate.get("subject", ()) for entry in part]
    names = [value for key, value in subject if key == "commonName"]
    others = certificate.get("subjectAltName", ())
    names += [value for kind in ("DNS", "URI", "email", "IP Address") for key, value in others if key == kind]
    names.append(", ".join(f"{key}={value}" for key, value in subject))
    return Identity(names[0], "certificate", certificate)
