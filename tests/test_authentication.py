"""Secrets and tokens without any I/O: what proves them, what is refused, what becomes of wrong ones."""

import hashlib
import hmac

import pytest

from typedrpc.authentication import (
    FIRST_DELAY,
    LINES,
    MAX_ADDRESSES,
    MAX_DELAY,
    MAX_NAME,
    MAX_TOKEN,
    MIN_SECRET,
    PROOF_SIZE,
    QUIET_TIME,
    Claim,
    Credentials,
    Failures,
    Hellos,
    Keys,
    check_secret,
    check_token_given,
    host_of,
    prove,
    read_claim,
    source_of,
    travels_alone,
)
from typedrpc.codec import Segmented, pack_plain, unpack_plain

SECRET = bytes(range(32))
HELLOS = Hellos(b"the client's hello", b"the server's hello")


def claim_of(credentials: Credentials, hellos: Hellos = HELLOS) -> Claim:
    claim = read_claim(credentials.claim(hellos))
    assert isinstance(claim, Claim)
    return claim


def test_a_proof_is_what_the_protocol_says() -> None:
    parts = (b"typedrpc client", b"ann", *HELLOS)
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert prove(SECRET, b"typedrpc client", "ann", HELLOS) == hmac.new(SECRET, text, hashlib.sha256).digest()


def test_two_sides_that_know_a_secret_believe_each_other() -> None:
    credentials, keys = Credentials(secret=("ann", SECRET)), Keys({"ann": SECRET, "bob": SECRET[::-1]})
    answer = keys.answer(claim_of(credentials), HELLOS)
    assert answer is not None
    assert credentials.is_answered(answer, HELLOS)


@pytest.mark.parametrize(
    "keys",
    [Keys({"ann": SECRET[::-1]}), Keys({"bob": SECRET}), Keys(SECRET)],
    ids=["another secret", "of another name", "without a name"],
)
def test_a_server_that_knows_another_secret_does_not_believe(keys: Keys) -> None:
    assert keys.answer(claim_of(Credentials(secret=("ann", SECRET))), HELLOS) is None


@pytest.mark.parametrize(
    "hellos",
    [
        Hellos(HELLOS.client + b"!", HELLOS.server),
        Hellos(HELLOS.client, HELLOS.server + b"!"),
        Hellos(HELLOS.client + HELLOS.server[:1], HELLOS.server[1:]),
        Hellos(HELLOS.server, HELLOS.client),
    ],
)
def test_a_proof_is_of_these_hellos_alone(hellos: Hellos) -> None:
    credentials, keys = Credentials(secret=("", SECRET)), Keys(SECRET)
    assert keys.answer(claim_of(credentials), hellos) is None
    answer = keys.answer(claim_of(credentials), HELLOS)
    assert answer is not None
    assert not credentials.is_answered(answer, hellos)


def test_nobody_is_answered_with_his_own_proof() -> None:
    credentials = Credentials(secret=("", SECRET))
    own = credentials.claim(HELLOS)
    assert not credentials.is_answered(own, HELLOS)


@pytest.mark.parametrize("payload", [b"", b"\xc1", pack_plain([]), pack_plain({}), pack_plain({"proof": "text"})])
def test_an_answer_that_is_none(payload: bytes) -> None:
    assert not Credentials(secret=("", SECRET)).is_answered(payload, HELLOS)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"\xc1", "cannot be read"),
        (pack_plain(["secret"]), "cannot be read"),
        (Segmented(pack_plain({}), ()), "cannot be read"),
        (pack_plain({}), "unknown method"),
        (pack_plain({"method": ["secret"]}), "unknown method"),
        (pack_plain({"method": "password"}), "unknown method"),
        (pack_plain({"method": "secret", "name": "ann"}), "a name or a proof"),
        (pack_plain({"method": "secret", "proof": bytes(PROOF_SIZE)}), "a name or a proof"),
        (pack_plain({"method": "secret", "name": "ann", "proof": bytes(PROOF_SIZE - 1)}), "a name or a proof"),
        (pack_plain({"method": "secret", "name": "x" * (MAX_NAME + 1), "proof": bytes(PROOF_SIZE)}), "a name or a"),
        (pack_plain({"method": "token"}), "a token"),
        (pack_plain({"method": "token", "token": ""}), "a token"),
        (pack_plain({"method": "token", "token": b"bytes"}), "a token"),
    ],
)
def test_a_claim_that_is_none(said: bytes, fault: str) -> None:
    read = read_claim(said)
    assert isinstance(read, str)
    assert fault in read


def test_a_token_travels_as_it_is_and_what_is_not_known_is_ignored() -> None:
    payload = Credentials(token="let me in").claim(HELLOS)
    assert unpack_plain(payload) == {"method": "token", "token": "let me in"}
    claim = read_claim(pack_plain({"method": "token", "token": "let me in", "more": 1}))
    assert isinstance(claim, Claim)
    assert claim.token == "let me in"


def test_what_may_be_logged_does_not_show_a_secret() -> None:
    keys = Keys({"ann": SECRET})
    shown = [
        Credentials(secret=("ann", SECRET)),
        Credentials(token="let me in"),
        Claim("token", token="let me in"),
        keys,
    ]
    for one in shown:
        assert "let me in" not in repr(one)
        assert repr(SECRET)[2:-1] not in repr(one)


@pytest.mark.parametrize(
    ("name", "key", "fault"),
    [
        ("", bytes(MIN_SECRET - 1), "not 15 bytes"),
        ("", "a text of more than 16 characters", "not str"),
        (b"ann", SECRET, "is a str, not bytes"),
        ("\ud800", SECRET, "no Unicode"),
        ("é" * (MAX_NAME // 2 + 1), SECRET, f"has {MAX_NAME + 2} bytes"),
    ],
)
def test_a_secret_that_is_none(name: object, key: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_secret(name, key)


def test_a_secret_may_be_a_bytearray_which_is_copied() -> None:
    given = bytearray(SECRET)
    name, key = check_secret("x" * MAX_NAME, given)
    given[0] = 255
    assert (name, key) == ("x" * MAX_NAME, SECRET)


def test_a_server_of_nobody() -> None:
    with pytest.raises(ValueError, match="names nobody"):
        Keys({})


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        (b"bytes", "not bytes"),
        ("", "not empty"),
        ("\ud800", "no Unicode"),
        ("x" * (MAX_TOKEN + 1), "the limit is 16384"),
    ],
)
def test_a_token_that_is_none(token: object, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        check_token_given(token)
    assert "xxx" not in str(caught.value)


def test_the_longest_token() -> None:
    assert check_token_given("x" * MAX_TOKEN)


@pytest.mark.parametrize(
    ("url", "alone"),
    [("tcp://127.0.0.1:1", False), ("tls://host:1", True), ("TLS://host:1", True), ("unix:///s", True), ("", False)],
)
def test_where_a_token_may_travel(url: str, alone: bool) -> None:
    assert travels_alone(url) is alone


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:80", "127.0.0.1"), ("[::1]:80", "[::1]"), ("unix", "unix"), ("unix:/a", "unix")]
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[2001:db8:1:2:3::4]:80", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
        ("[what]:80", "[what]"),
        ("unix", "unix"),
    ],
)
def test_the_origin_of_an_address(address: str, source: str) -> None:
    assert source_of(address) == source


class TestFailures:
    def test_nothing_from_there_is_looked_at_before_the_time(self) -> None:
        failures = Failures()
        assert failures.penalty("here", 0.0) == 0
        failures.add("here", 0.0)
        failures.add("here", 1.0)
        assert failures.penalty("here", 1.0) == pytest.approx(2 * FIRST_DELAY)
        assert failures.penalty("there", 1.0) == 0
        assert failures.penalty("here", 2.0) == 0

    def test_each_takes_twice_as_long_up_to_a_limit(self) -> None:
        failures = Failures()
        delays = [failures.add("here", float(second)) for second in range(40)]
        assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
        assert delays[-1] == MAX_DELAY == max(delays)
        assert failures.count == 40

    def test_addresses_do_not_pay_for_each_other(self) -> None:
        failures = Failures()
        assert [failures.add("here", 0.0), failures.add("here", 0.0)][-1] > FIRST_DELAY
        assert failures.add("there", 0.0) == FIRST_DELAY

    def test_who_is_quiet_for_a_while_is_forgotten(self) -> None:
        failures = Failures()
        failures.add("here", 0.0)
        assert failures.add("here", QUIET_TIME) == 2 * FIRST_DELAY
        assert failures.add("here", 2 * QUIET_TIME + 1.0) == FIRST_DELAY

    def test_who_was_quiet_for_longest_goes_first_where_there_are_too_many(self) -> None:
        failures = Failures()
        failures.add("first", 0.0)
        failures.add("second", 0.0)
        failures.add("first", 0.0)
        for number in range(MAX_ADDRESSES - 1):
            failures.add(f"address {number}", 0.0)
        assert failures.add("first", 0.0) == 4 * FIRST_DELAY
        assert failures.add("second", 0.0) == FIRST_DELAY

    def test_so_many_lines_a_minute_and_then_how_many_there_were(self) -> None:
        failures, lines = Failures(), list[str]()
        for number in range(LINES + 5):
            failures.log(lines.append, f"line {number}", 0.0)
        assert lines == [f"line {number}" for number in range(LINES)]
        failures.log(lines.append, "later", 60.0)
        assert lines[LINES:] == ["5 more clients were refused meanwhile, as they did not prove who they are", "later"]
        failures.log(lines.append, "much later", 120.0)
        assert lines[LINES + 2 :] == ["much later"]
