"""The cores while it is not known who the client is: what is legal, what is believed, who is told what."""

from collections.abc import Callable

import pytest

from tests.back_to_back import feed, frame, frames, joined, kinds, said, take
from tests.support import hello
from typedrpc.authentication import NOT_AUTHENTICATED, Claim, Credentials, Keys, read_claim
from typedrpc.codec import pack_plain
from typedrpc.errors import AuthenticationFailed
from typedrpc.messages import Hello, Leave, Limits, Method, pack_goodbye, read_goodbye
from typedrpc.protocol import HELLO_LIMIT, Claimed, Closed, Greeted, Opened, Protocol, State
from typedrpc.wire import PREAMBLE, Kind

SECRET = bytes(range(32))
NONCE = bytes(32)
KEYS = Keys({"ann": SECRET})


def make_client(credentials: Credentials | None) -> Protocol[str]:
    return Protocol(client=True, hello=Hello(Limits(), nonce=NONCE), credentials=credentials)


def make_server(*methods: str) -> Protocol[str]:
    return Protocol(client=False, hello=Hello(Limits(), nonce=NONCE[::-1] if methods else b"", methods=methods))


def with_secret() -> Credentials:
    return Credentials(secret=("ann", SECRET))


def claimed() -> tuple[Protocol[str], Protocol[str]]:
    """A client and a server to which it has just said who it is."""
    client, server = make_client(with_secret()), make_server(Method.SECRET)
    assert feed(server, take(client)) == []
    assert feed(client, take(server)) == []
    assert feed(server, take(client)) == [Claimed()]
    assert [client.state, server.state] == [State.AUTHENTICATING, State.CLAIMED]
    return client, server


def cause(core: Protocol[str]) -> str:
    assert core.state is State.CLOSED
    assert core.error is not None
    return str(core.error)


def last_words(core: Protocol[str]) -> tuple[str, int]:
    found = said(core)
    assert kinds(found) == [Kind.GOODBYE]
    return read_goodbye(found[0].payload)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_both_sides_prove_that_they_know_the_secret(size: int) -> None:
    client, server = make_client(with_secret()), make_server(Method.TOKEN, Method.SECRET)
    feed(server, take(client), size)
    feed(client, take(server), size)
    assert feed(server, take(client), size) == [Claimed()]
    assert client.hellos() == server.hellos()
    claim = server.claim
    assert claim is not None
    assert server.reader.limit == HELLO_LIMIT
    answer = server.accept(KEYS.answer(claim, server.hellos()))
    assert answer is not None
    assert server.claim is None
    assert server.reader.limit == Limits().max_message_size
    assert client.reader.limit == HELLO_LIMIT
    assert feed(client, joined(answer), size) == [Greeted()]
    welcome = server.welcome()
    assert welcome is not None
    assert feed(client, joined(welcome), size) == [Opened()]


def test_after_a_token_the_client_waits_for_no_more_than_the_welcome() -> None:
    client, server = make_client(Credentials(token="let me in")), make_server(Method.TOKEN)
    feed(server, take(client))
    assert feed(client, take(server)) == [Greeted()]
    assert feed(server, take(client)) == [Claimed()]
    assert server.claim is not None
    assert server.claim.token == "let me in"
    assert server.accept() is None
    assert server.state is State.GREETED
    assert feed(client, joined(server.welcome() or b"")) == [Opened()]


def test_a_token_is_not_sent_to_a_server_that_does_not_ask() -> None:
    client, server = make_client(Credentials(token="let me in")), make_server()
    assert feed(server, take(client)) == [Greeted()]
    assert feed(client, take(server)) == [Greeted()]
    assert said(client) == []


NOT_YET = {
    "request": frame(Kind.REQUEST, b"\x90", command=1, call=1),
    "notify": frame(Kind.NOTIFY, b"\x90", command=1),
    "batch": frame(Kind.BATCH, b"\x90", command=1, call=1),
    "limits": frame(Kind.LIMITS, pack_plain({})),
    "pong": frame(Kind.PONG),
    "second hello": hello(),
    "welcome": frame(Kind.WELCOME),
    "queued": frame(Kind.QUEUED, pack_plain([1, 1])),
    "what may be ignored later": frame(0x99),
}


@pytest.mark.parametrize("name", NOT_YET)
def test_nothing_else_is_legal_before_it_is_known_who_the_client_is(name: str) -> None:
    server = make_server(Method.SECRET)
    feed(server, PREAMBLE + hello(nonce=NONCE))
    take(server)
    assert feed(server, NOT_YET[name]) == [Closed()]
    assert cause(server).endswith("before it is known who the peer is")
    _, server = claimed()
    assert feed(server, NOT_YET[name]) == [Closed()]
    assert cause(server).endswith("before it is known who the peer is")


@pytest.mark.parametrize("name", NOT_YET)
def test_a_client_with_a_secret_believes_nothing_before_the_proof(name: str) -> None:
    client, _ = claimed()
    assert feed(client, NOT_YET[name]) == [Closed()]
    assert cause(client).endswith("before it is known who the peer is")


def test_a_ping_is_answered_meanwhile() -> None:
    client, server = claimed()
    for core in (client, server):
        assert feed(core, frame(Kind.PING, b"there?")) == []
        assert [(one.kind, one.payload) for one in said(core)] == [(Kind.PONG, b"there?")]


def test_a_frame_beyond_the_limit_of_strangers() -> None:
    server = make_server(Method.TOKEN)
    feed(server, PREAMBLE + hello(nonce=NONCE))
    take(server)
    assert feed(server, frame(Kind.AUTHENTICATE, bytes(HELLO_LIMIT + 1))) == [Closed()]
    assert f"the limit is {HELLO_LIMIT}" in cause(server)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xc1", "cannot be read"),
        (pack_plain({"method": "token", "token": "x"}), "a token, which was not asked for"),
    ],
)
def test_a_claim_that_is_none_is_a_fault(payload: bytes, reason: str) -> None:
    server = make_server(Method.SECRET)
    feed(server, PREAMBLE + hello(nonce=NONCE))
    take(server)
    assert feed(server, frame(Kind.AUTHENTICATE, payload)) == [Closed()]
    assert reason in cause(server)


def test_a_proof_without_a_nonce_is_a_fault() -> None:
    server = make_server(Method.SECRET)
    feed(server, PREAMBLE + hello())
    take(server)
    claim = pack_plain({"method": "secret", "name": "", "proof": bytes(32)})
    assert feed(server, frame(Kind.AUTHENTICATE, claim)) == [Closed()]
    assert "without a nonce" in cause(server)


def test_a_server_that_asks_without_a_nonce_is_told_so() -> None:
    client = make_client(with_secret())
    take(client)
    assert feed(client, PREAMBLE + hello(methods=["secret"])) == [Closed()]
    assert "without a nonce" in cause(client)


def test_a_second_claim_is_a_fault() -> None:
    _, server = claimed()
    claim = pack_plain({"method": "secret", "name": "ann", "proof": bytes(32)})
    assert feed(server, frame(Kind.AUTHENTICATE, claim)) == [Closed()]


REFUSALS: dict[str, tuple[Credentials | None, tuple[str, ...], str]] = {
    "a secret of a server that asks for none": (with_secret(), (), "did not prove that it knows the secret"),
    "a secret of a server that asks for a token": (with_secret(), ("token",), "did not prove that it knows the secret"),
    "a token of a server that asks for a secret": (
        Credentials(token="x"),
        ("secret",),
        "asks for a secret, and was gi",
    ),
    "nothing of a server that asks for either": (None, ("secret", "token"), "asks for a secret or a token, and was"),
    "nothing of a server that asks for something new": (None, ("x" * 9999,), "asks for a xxx"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_client_that_cannot_answer_says_so_and_leaves(name: str) -> None:
    credentials, methods, reason = REFUSALS[name]
    client = make_client(credentials)
    take(client)
    assert feed(client, PREAMBLE + hello(nonce=NONCE, methods=[*methods])) == [Closed()]
    assert reason in cause(client)
    assert len(cause(client)) < 200
    assert client.error is not None
    assert isinstance(client.error.__cause__, AuthenticationFailed)
    told, code = last_words(client)
    assert reason[:20] in told
    assert code == Leave.REFUSED


def reflected(client: Protocol[str], server: Protocol[str]) -> bytes:
    return with_secret().claim(client.hellos())


def replayed(client: Protocol[str], server: Protocol[str]) -> bytes:
    """What the server answered to another handshake of the same client."""
    assert server.claim is not None
    hellos = server.hellos()._replace(server=server.hellos().server + b"\0")
    claim = with_secret().claim(hellos)
    other = Keys({"ann": SECRET}).answer(_read(claim), hellos)
    assert other is not None
    return other


def _read(claim: bytes) -> Claim:
    read = read_claim(claim)
    assert isinstance(read, Claim)
    return read


@pytest.mark.parametrize(
    "make",
    [reflected, replayed, lambda client, server: b"\xc1", lambda client, server: pack_plain({"proof": bytes(32)})],
)
def test_a_server_that_does_not_know_the_secret_is_left(
    make: Callable[[Protocol[str], Protocol[str]], bytes],
) -> None:
    client, server = claimed()
    assert feed(client, frame(Kind.AUTHENTICATE, make(client, server)) + frame(Kind.WELCOME)) == [Closed()]
    assert cause(client) == "the server did not prove that it knows the secret"
    assert last_words(client) == ("the server did not prove that it knows the secret", Leave.REFUSED)


def test_who_is_refused_learns_no_more_than_that() -> None:
    client, server = claimed()
    assert feed(client, joined(server.goodbye(NOT_AUTHENTICATED, Leave.REFUSED))) == [Closed()]
    assert client.error is not None
    assert isinstance(client.error.__cause__, AuthenticationFailed)
    assert client.error.__cause__.reason == NOT_AUTHENTICATED
    assert client.leave == Leave.REFUSED


def test_a_refusal_without_a_reason() -> None:
    client, _ = claimed()
    feed(client, frame(Kind.GOODBYE, pack_goodbye(0, "", Leave.REFUSED)))
    assert client.error is not None
    assert isinstance(client.error.__cause__, AuthenticationFailed)
    assert client.error.__cause__.reason == NOT_AUTHENTICATED


def test_what_is_accepted_too_late_is_not_told() -> None:
    _, server = claimed()
    assert feed(server, frame(Kind.GOODBYE, pack_goodbye(0, "no time"))) == [Closed()]
    assert server.accept(pack_plain({"proof": bytes(32)})) is None
    assert server.welcome() is None


def test_a_claim_of_a_server_is_a_fault() -> None:
    client = make_client(None)
    take(client)
    assert feed(client, PREAMBLE + hello()) == [Greeted()]
    assert feed(client, frame(Kind.AUTHENTICATE, pack_plain({"proof": bytes(32)}))) == [Closed()]
    assert cause(client).endswith("an authentication out of place")


def test_a_client_that_is_not_heard_is_greeted_and_refused() -> None:
    server = make_server()
    server.turn_away()
    greeting = take(server)
    assert kinds(frames(greeting, preamble=True)) == [Kind.HELLO]
    assert server.state is State.CLAIMED
    client = make_client(None)
    assert feed(client, greeting + joined(server.goodbye(NOT_AUTHENTICATED, Leave.REFUSED))) == [Greeted(), Closed()]
    assert feed(server, b"whatever it says" + take(client)) == []
    assert server.state is State.CLAIMED
    server.turn_away()  # it is too late for a second one
    assert said(server) == []
