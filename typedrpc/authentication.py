"""How a client proves who it is: secrets, tokens, and what a server makes of those that are wrong. Without any I/O.

With a secret neither side sends it. Each sends an HMAC over both hellos, which hold random bytes of both sides, so that
nothing which was heard before is of use, and nothing that was said before can have been changed::

    client                                       server
    hello, with a nonce               ---->
                                      <----      hello, with a nonce, and the methods that it asks for
    AUTHENTICATE {name, proof}        ---->
                                      <----      AUTHENTICATE {proof}, if that of the client is right
                                      <----      WELCOME

The server proves that it knows the secret only to who has proved it, and the client believes nothing before that. A
token is sent as it is, and is no more than that: so only over TLS, or on a unix socket.
"""

import os
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final, NamedTuple, final

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.messages import Method

NONCE_SIZE: Final = 32
"""Random bytes in the hello of each side that proves something, or asks for it."""

MIN_SECRET: Final = 16
"""The least bytes of a secret: whoever hears a handshake may try secrets on it for as long as he likes."""

PROOF_SIZE: Final = 32

MAX_NAME: Final = 256
"""Bytes of the name of who has a secret."""

MAX_TOKEN: Final = 16 * 1024
"""Bytes of a token."""

NOT_AUTHENTICATED: Final = "not authenticated"
"""All that a client is told which has not proved who it is."""

FIRST_DELAY: Final = 0.1
MAX_DELAY: Final = 5.0
"""Seconds after which a client is told so: doubled for each of its address, from the first to the longest."""

QUIET_TIME: Final = 60.0
"""Seconds after which an address is forgotten from which nothing wrong came."""

MAX_ADDRESSES: Final = 1024
"""Addresses that are remembered; the one that was quiet for longest goes first."""

MAX_PENDING: Final = 1024
"""Clients that wait to be told; further ones are told at once."""

MAX_CHECKS: Final = 64
"""Tokens that threads of a server check at a time; further ones wait."""

LINES: Final = 10
"""Lines in the log a minute about clients that have not proved who they are; the rest is counted."""

_CLIENT: Final = b"typedrpc client"
_SERVER: Final = b"typedrpc server"


class Hellos(NamedTuple):
    """The payloads of both hellos, as they travelled."""

    client: bytes
    server: bytes


@final
class Claim:
    """Who a client says that it is, and what is to prove it.

    Attributes:
        method: Of :class:`~typedrpc.messages.Method`.
        name: Of who has the secret.
        proof: That it knows the secret.
        token: What was presented.
    """

    __slots__ = ("method", "name", "proof", "token")

    def __init__(self, method: str, *, name: str = "", proof: bytes = b"", token: str = "") -> None:
        self.method = method
        self.name = name
        self.proof = proof
        self.token = token

    def __repr__(self) -> str:  # which may be logged
        return f"<claim by {self.method}>"


def read_claim(payload: Payload) -> Claim | str:
    """What a client claims; a sentence where that cannot be read. Unknown keys are ignored."""
    said = _read_map(payload)
    if isinstance(said, str):
        return said
    method = said.get("method")
    if method == Method.SECRET:
        name, proof = said.get("name"), said.get("proof")
        if type(name) is str and len(name.encode()) <= MAX_NAME and type(proof) is bytes and len(proof) == PROOF_SIZE:
            return Claim(method, name=name, proof=proof)
        return "a name or a proof that is none"
    if method == Method.TOKEN:
        token = said.get("token")
        return Claim(method, token=token) if type(token) is str and token else "a token that is none"
    return "an unknown method of authentication"


def _read_map(payload: Payload) -> dict[Any, Any] | str:
    try:
        said = unpack_plain(payload)
    except CodecError:  # its text may hold what was sent
        said = None
    return said if isinstance(said, dict) else "an authentication that cannot be read"


def prove(key: bytes, role: bytes, name: str, hellos: Hellos) -> bytes:
    """What proves that one side of a handshake knows a secret.

    Args:
        key: The secret.
        role: Of the side that proves it, so that nobody is answered with his own proof.
        name: Of who has the secret.
        hellos: What both sides have said before.
    """
    import hmac  # imported when used, as it loads libcrypto

    parts = (role, name.encode(), *hellos)
    return hmac.digest(key, b"".join(len(part).to_bytes(4, "big") + part for part in parts), "sha256")


def is_same(one: bytes, other: bytes) -> bool:
    """Whether two proofs are equal, in a time that does not tell where they differ."""
    import hmac

    return hmac.compare_digest(one, other)


def check_secret(name: object, key: object) -> tuple[str, bytes]:
    """A secret, and the name of who has it, as they are given.

    Raises:
        ValueError: They cannot be used; says why, without the secret.
    """
    if not isinstance(key, bytes | bytearray) or len(key) < MIN_SECRET:
        what = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else f"{type(key).__name__}"
        raise ValueError(
            f"a secret is bytes, at least {MIN_SECRET} of them and random, as secrets.token_bytes(32) gives: not {what}"
        )
    if not isinstance(name, str):
        raise ValueError(f"the name of who has a secret is a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of who has a secret is no Unicode: {name!r}") from None
    if size > MAX_NAME:
        raise ValueError(f"the name of who has a secret has {size} bytes, the limit is {MAX_NAME}")
    return name, bytes(key)


def check_token_given(token: object) -> str:
    """A token as it is given.

    Raises:
        ValueError: It cannot be used; says why, without the token.
    """
    if not isinstance(token, str) or not token:
        raise ValueError(f"a token is a str that is not empty, not {type(token).__name__}")
    try:
        size = len(token.encode())
    except UnicodeEncodeError:
        raise ValueError("the token is no Unicode") from None
    if size > MAX_TOKEN:
        raise ValueError(f"the token has {size} bytes, the limit is {MAX_TOKEN}")
    return token


def travels_alone(url: str) -> bool:
    """Whether what is sent to a URL is seen by its server alone, so that a token may be."""
    return url.lower().startswith(("tls:", "unix:"))


@final
class Credentials:
    """By what a client proves who it is: a secret, or a token. It cannot be changed."""

    __slots__ = ("_key", "_name", "_token", "method")

    def __init__(self, *, secret: tuple[str, bytes] | None = None, token: str = "") -> None:
        """
        Args:
            secret: The name of who has it, and the secret, from :func:`check_secret`.
            token: Instead: from :func:`check_token_given`.
        """
        self.method: Final = Method.TOKEN if secret is None else Method.SECRET
        self._name, self._key = ("", b"") if secret is None else secret
        self._token = token

    def claim(self, hellos: Hellos) -> bytes:
        """The payload of what the client says of itself."""
        if self.method == Method.TOKEN:
            return pack_plain({"method": Method.TOKEN, "token": self._token})
        proof = prove(self._key, _CLIENT, self._name, hellos)
        return pack_plain({"method": Method.SECRET, "name": self._name, "proof": proof})

    def is_answered(self, payload: Payload, hellos: Hellos) -> bool:
        """Whether the server has proved by this payload that it knows the secret too."""
        said = _read_map(payload)
        proof = None if isinstance(said, str) else said.get("proof")
        return type(proof) is bytes and is_same(proof, prove(self._key, _SERVER, self._name, hellos))

    def __repr__(self) -> str:
        return f"<credentials: a {self.method}>"


@final
class Keys:
    """The secrets that a server knows, by the names of who has them."""

    def __init__(self, secret: bytes | Mapping[str, bytes]) -> None:
        """
        Raises:
            ValueError: One cannot be used; says why, without it.
        """
        given = secret if isinstance(secret, Mapping) else {"": secret}
        if not given:
            raise ValueError("secret names nobody, so nobody could connect")
        self._keys = dict(check_secret(name, key) for name, key in given.items())
        # For names that there are not, so that they take as long.
        self._nobodys = os.urandom(max(map(len, self._keys.values())))

    def answer(self, claim: Claim, hellos: Hellos) -> bytes | None:
        """The payload that proves to a client that the server knows its secret; None if it does not know it itself."""
        key = self._keys.get(claim.name, self._nobodys)
        is_right = is_same(claim.proof, prove(key, _CLIENT, claim.name, hellos))
        if not is_right or claim.name not in self._keys:
            return None
        return pack_plain({"proof": prove(key, _SERVER, claim.name, hellos)})

    def __repr__(self) -> str:
        return f"<keys of {len(self._keys)}>"


@final
class Failures:
    """How often it was tried in vain, from where: for how long each has to wait, and what of it is logged. Thread-safe.

    Attributes:
        count: All of them.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[str, tuple[int, float]] = {}  # address: how often, and when last; in the order of the latter
        self.count = 0
        self._minute = float("-inf")  # when the minute began whose lines are counted
        self._lines = 0
        self._silent = 0  # failures without a line since

    def add(self, address: str, now: float) -> float:
        """Something was tried in vain: after how many seconds to say so.

        Args:
            address: From where, without what changes from connection to connection.
            now: On a monotonic clock.
        """
        with self._lock:
            self.count += 1
            often, last = self._seen.pop(address, (0, now))
            often = 1 if now - last > QUIET_TIME else often + 1
            while len(self._seen) >= MAX_ADDRESSES:
                del self._seen[next(iter(self._seen))]
            self._seen[address] = often, now
        return _delay_of(often)

    def penalty(self, address: str, now: float) -> float:
        """For how many seconds nothing that comes from an address is looked at, be it right or wrong.

        Otherwise who guesses need not wait for an answer: he would leave and guess again, and the right one is welcome.
        """
        with self._lock:
            often, last = self._seen.get(address, (0, now))
        return max(0.0, last + _delay_of(often) - now) if often else 0.0

    def log(self, write: Callable[[str], object], text: str, now: float) -> None:
        """Write a line about it, if there were not too many in this minute.

        Args:
            write: Writes a line.
            text: The line.
            now: On a monotonic clock.
        """
        with self._lock:
            silent = 0
            if now - self._minute >= 60.0:
                self._minute, self._lines = now, 0
                silent, self._silent = self._silent, 0
            self._lines += 1
            if self._lines > LINES:
                self._silent += 1
                return
        if silent:
            write(f"{silent} more clients were refused meanwhile, as they did not prove who they are")
        write(text)


def _delay_of(often: int) -> float:
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(often - 1, 16))


def source_of(address: str) -> str:
    """What an address of a peer has in common with others of the same origin: of IPv6 the network of 64 bits."""
    host = host_of(address)
    if not host.startswith("["):
        return host
    import ipaddress  # imported when used

    try:
        found = ipaddress.IPv6Address(host[1:-1].partition("%")[0])
    except ValueError:
        return host
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def host_of(address: str) -> str:
    """An address of a peer, for people, without the port."""
    return address.rpartition(":")[0] or address
