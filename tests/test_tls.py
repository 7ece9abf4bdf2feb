"""Certificates and contexts, and what came of a handshake, in words. What both ends do is in both/test_tls.py."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificates, contexts
from typedrpc import ConnectFailed, Identity, Tls, TlsFailed
from typedrpc.tls import NoTls, client_context, failure, identity_of, name_of, server_context


def test_a_configuration_is_a_value_that_names_its_fields() -> None:
    assert Tls(certificate="a.pem", ca="b.pem") == Tls(certificate="a.pem", ca="b.pem", key=None)
    assert Tls(server_name="a") != Tls(server_name="b")


def test_a_client_trusts_what_it_is_told_and_checks_the_name() -> None:
    context = client_context(Tls(ca=certificates().ca))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("tls", [None, Tls()])
def test_a_client_that_is_told_nothing_trusts_what_the_system_trusts(
    tls: Tls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda context: loaded.append(context))
    assert loaded == [client_context(tls)]


def test_tls_1_2_is_the_least() -> None:
    made = certificates()
    for context in (client_context(None), server_context(Tls(certificate=made.server))):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_server_wants_certificates_where_it_has_a_root_for_them() -> None:
    made = certificates()
    assert server_context(Tls(certificate=made.server)).verify_mode is ssl.CERT_NONE
    assert server_context(Tls(certificate=made.server, ca=made.ca)).verify_mode is ssl.CERT_REQUIRED


def test_a_context_is_taken_as_it_is() -> None:
    client, server = contexts()
    assert client_context(client) is client
    assert server_context(server) is server
    with pytest.raises(ValueError, match="PROTOCOL_TLS_SERVER"):
        server_context(client)


@pytest.mark.parametrize("tls", [None, Tls()])
def test_a_server_needs_a_certificate(tls: Tls | None) -> None:
    with pytest.raises(ValueError, match=r"needs a certificate: pass tls=Tls\(certificate="):
        server_context(tls)


@pytest.mark.parametrize("make", [client_context, server_context])
def test_what_is_no_configuration_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="not str"):
        make("server.pem")


def why_not(tls: Tls) -> str:
    with pytest.raises(ValueError, match="cannot be used") as caught:
        server_context(tls)
    return str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    made = certificates()
    nothing = tmp_path / "nothing.pem"
    assert why_not(Tls(certificate=nothing)) == (
        f"the certificate and its key in {str(nothing)!r} cannot be used: there is no such file"
    )
    assert why_not(Tls(certificate=made.server, key=made.client)).endswith("the key is not that of the certificate")
    assert why_not(Tls(certificate=made.ca)).startswith(f"the certificate and its key in {str(made.ca)!r}")
    nothing.write_text("nothing", encoding="utf-8")
    assert why_not(Tls(certificate=made.server, ca=nothing)).startswith(f"the roots in {str(nothing)!r}")
    with pytest.raises(ValueError, match="a key without a certificate"):
        client_context(Tls(key=made.client))


def test_a_key_may_have_a_password(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    made = certificates()
    key = serialization.load_pem_private_key(made.server.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    server_context(Tls(certificate=made.server, key=locked, password="open sesame"))
    for password in ("open", None):  # and without one nobody is asked at the terminal
        assert "password" in why_not(Tls(certificate=made.server, key=locked, password=password))


def test_the_name_that_a_server_must_have() -> None:
    assert name_of(None, "a.example") == name_of(Tls(), "a.example") == "a.example"
    assert name_of(Tls(server_name="b.example"), "a.example") == "b.example"
    assert name_of(contexts()[0], "a.example") == "a.example"


def error_of(kind: type[ssl.SSLError], reason: str) -> ssl.SSLError:
    error = kind(1, "said by OpenSSL")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "client", "server"),
    [
        (NoTls(71, "it speaks something else"), "it speaks something else", "it speaks something else"),
        (
            error_of(ssl.SSLError, "TLSV1_ALERT_UNKNOWN_CA"),
            "the server does not trust whoever has signed the certificate of this side",
            "the client does not trust whoever has signed the certificate of this side",
        ),
        (
            error_of(ssl.SSLError, "WRONG_VERSION_NUMBER"),
            "the server there speaks no TLS; write tcp://host:port",
            "OpenSSL says WRONG_VERSION_NUMBER",
        ),
        (error_of(ssl.SSLError, "SOMETHING_NEW"), "OpenSSL says SOMETHING_NEW", "OpenSSL says SOMETHING_NEW"),
        (ssl.SSLError(1, "nameless"), "OpenSSL says nameless", "OpenSSL says nameless"),
    ],
)
def test_a_failure_in_words(error: OSError, client: str, server: str) -> None:
    for is_client, words in ((True, client), (False, server)):
        failed = failure("there", error, client=is_client)
        assert type(failed) is TlsFailed
        assert (failed.url, failed.reason) == ("there", words)


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "is not valid yet"), (10, "has expired"), (20, "is of nobody who is trusted here"), (26, "is not accepted")],
)
def test_a_certificate_that_is_not_accepted(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "no")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    for client, other in ((True, "server"), (False, "client")):
        failed = failure("there", error, client=client)
        assert type(failed) is TlsFailed
        assert failed.reason.startswith(f"the certificate of the {other} {words}")


@pytest.mark.parametrize("error", [ssl.SSLEOFError(8, "end"), ConnectionResetError(104, "reset"), BrokenPipeError()])
def test_an_end_within_the_handshake_may_be_a_server_that_goes(error: OSError) -> None:
    failed = failure("there", error, client=True)
    assert type(failed) is ConnectFailed  # which is tried again
    assert "write tcp://host:port" in failed.reason


def test_other_errors_have_nothing_to_do_with_it() -> None:
    assert failure("there", None, client=True) is None
    assert failure("there", ValueError(), client=True) is None
    assert failure("there", TimeoutError(), client=False) is None
    assert failure("there", ConnectionResetError(), client=False) is None  # long after the handshake, perhaps


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({"subject": ((("commonName", "robot"),),), "subjectAltName": (("DNS", "a.example"),)}, "robot"),
        ({"subject": (), "subjectAltName": (("email", "a@example.org"), ("DNS", "a.example"))}, "a.example"),
        ({"subjectAltName": (("URI", "spiffe://a/b"), ("email", "a@example.org"))}, "spiffe://a/b"),
        ({"subjectAltName": (("email", "a@example.org"),)}, "a@example.org"),
        ({"subject": ((("organizationName", "x"),),)}, "organizationName=x"),
    ],
)
def test_who_has_a_certificate(certificate: dict[str, Any], name: str) -> None:
    assert identity_of(certificate) == Identity(name, "certificate", certificate)


@pytest.mark.parametrize("certificate", [None, {}])
def test_a_certificate_that_was_not_shown_or_not_checked_is_nobodys(certificate: dict[str, Any] | None) -> None:
    assert identity_of(certificate) is None
