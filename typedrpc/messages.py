"""What the protocol itself says, as data: hello, goodbye, the extension map, and commands of its own.

Reading trusts nothing and never raises: what is wrong with a message comes back as a sentence.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.failure import cut
from typedrpc.options import MAX_METADATA, MAX_METADATA_ENTRIES, NO_METADATA, Metadata
from typedrpc.wire import MAX_FRAME_SIZE, Buffer

MIN_MESSAGE_SIZE: Final = 1024
"""The least ``max_message_size``: the protocol's own messages must fit."""

MAX_REASON: Final = 200
"""Characters of a goodbye's reason: in UTF-8 they fit the least ``max_message_size``."""

MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024
MAX_CALLS: Final = 1024
"""The limits that a side has unless it is told others."""


MAX_RANDOM: Final = 64
"""Bytes of a nonce, and of what names a session or a run of a server."""

MAX_TIME_LEFT: Final = 2**32
"""Seconds that a deadline may be away: more than a century."""


def fault_of_metadata(metadata: object) -> str | None:
    """Why this cannot be the metadata of a call, or None."""
    if not isinstance(metadata, Mapping):
        return "metadata that is no map"
    if len(metadata) > MAX_METADATA_ENTRIES:
        return f"metadata of {len(metadata)} entries, the limit is {MAX_METADATA_ENTRIES}"
    size = 0
    for key, value in metadata.items():
        if type(key) is not str or not isinstance(value, str | bytes):
            return "metadata whose keys are not all str, or whose values are not all str or bytes"
        try:
            size += len(key.encode()) + len(value.encode() if isinstance(value, str) else value)
        except UnicodeEncodeError:
            return "metadata with a text that is no Unicode"
    return f"metadata of {size} bytes, the limit is {MAX_METADATA}" if size > MAX_METADATA else None


class ProtocolCommand:
    """Commands of the protocol itself, served by both sides."""

    CONTRACT: Final = 0xFF00
    """``[service, digest]`` -> None where the contract has this digest here, else ``{command: [id, fingerprint]}``."""

    SIGNATURES: Final = 0xFF01
    """``[service, [command, ...]]`` -> ``{command: schema as data}``."""

    ADAPT: Final = 0xFF02
    """``[service, {command: the caller's schema as data}]`` -> ``{command: number}``.

    With the number in the extension SCHEMA a call of the command is written by the caller's schema. A command that is
    left out cannot be called so.
    """

    CALLBACK: Final = 0xFF03
    """The arguments of a callback -> its result. Which one is in the extension TARGET."""


class Extension:
    """Keys of the extension map. An unknown key is ignored, unless it is negative: then the call is refused."""

    SCHEMA: Final = -1
    """The number of the schema that the arguments are written by; without it, by that of the callee."""

    DEADLINE: Final = 1
    """Time left for the call, in microseconds, as the sender saw it."""

    PARENT: Final = 2
    """The call of the receiver, in flight, whose handler makes this call."""

    METADATA: Final = 3
    """What the caller wants the handler to know beside the arguments, or the handler the caller beside the result."""

    TRACE: Final = 4  # reserved
    KEY: Final = 5
    """``[key, attempt, wanted_from]``: names a call of the client's session that may be sent again, and counts how
    often it was and may have run. To calls with a key below the last, which may be left out, the client wants no answer
    any more."""

    TARGET: Final = 6
    """``[call, index]``: the callback to run, by the call of the receiver that it went with and its place there."""

    DEPTH: Final = 7
    """Calls that this one is nested in, over however many connections."""


class Limits:
    """What this side accepts; told to the peer in the hello.

    Attributes:
        max_message_size: Bytes of a message's payload.
        max_calls: Calls of the peer that are in flight at a time.
    """

    __slots__ = ("max_calls", "max_message_size")

    def __init__(self, max_message_size: int = MAX_MESSAGE_SIZE, max_calls: int = MAX_CALLS) -> None:
        if type(max_message_size) is not int or type(max_calls) is not int:
            raise ValueError(f"max_message_size and max_calls must be ints: {max_message_size!r}, {max_calls!r}")
        if not MIN_MESSAGE_SIZE <= max_message_size <= MAX_FRAME_SIZE:
            raise ValueError(f"max_message_size must be {MIN_MESSAGE_SIZE} to {MAX_FRAME_SIZE}, not {max_message_size}")
        if not 1 <= max_calls <= 2**31 - 1:
            raise ValueError(f"max_calls must be 1 to {2**31 - 1}: {max_calls}")
        self.max_message_size = max_message_size
        self.max_calls = max_calls

    def __eq__(self, other: object) -> bool:
        mine = (self.max_message_size, self.max_calls)
        return isinstance(other, Limits) and mine == (other.max_message_size, other.max_calls)

    def __repr__(self) -> str:
        return f"Limits(max_message_size={self.max_message_size}, max_calls={self.max_calls})"


class Feature:
    """What a side can do beyond what every side must."""

    READS: Final = "reads"
    """It reads all the time, so a ping is answered whenever it comes."""


class Method:
    """How a client may prove who it is."""

    SECRET: Final = "secret"
    """By a secret that both sides know, and neither sends."""

    TOKEN: Final = "token"
    """By a token that it sends."""


class Hello(NamedTuple):
    """What a hello says.

    Attributes:
        limits: What its sender accepts.
        services: The services that a client exposes: name to ``contract_digest``.
        features: See :class:`Feature`.
        nonce: Random bytes that what proves its sender's peer is made of; empty where nobody has to prove anything.
        methods: How a client may prove who it is to the server that says this, one of which it must; see
            :class:`Method`. None where it need not.
        session: A client's name for all its connections, random bytes; empty where it sends no call again.
        next_key: The least key that the session has not given to a call yet.
        incarnation: A server's name for this run of it, random bytes.
    """

    limits: Limits
    services: Mapping[str, bytes] = MappingProxyType({})
    features: frozenset[str] = frozenset()
    nonce: bytes = b""
    methods: tuple[str, ...] = ()
    session: bytes = b""
    next_key: int = 0
    incarnation: bytes = b""


def pack_hello(hello: Hello) -> bytes:
    """The payload of a hello. What says nothing is left out."""
    said: dict[str, Any] = {
        "max_message_size": hello.limits.max_message_size,
        "max_calls": hello.limits.max_calls,
        "features": sorted(hello.features),
    }
    if hello.services:
        said["services"] = dict(hello.services)
    if hello.nonce:
        said["nonce"] = hello.nonce
    if hello.methods:
        said["methods"] = list(hello.methods)
    if hello.session:
        said["session"] = hello.session
        said["next_key"] = hello.next_key
    if hello.incarnation:
        said["incarnation"] = hello.incarnation
    return pack_plain(said)


def read_hello(payload: Payload) -> Hello | str:
    """What a hello says; a sentence when it is none. Unknown keys are ignored."""
    try:
        hello = unpack_plain(payload)
    except CodecError as error:
        return f"a hello that cannot be read: {error}"
    if not isinstance(hello, dict):
        return "a hello that is no map"
    values = {}
    for key in ("max_message_size", "max_calls"):
        value = hello.get(key)
        if type(value) is not int:
            return f"a hello without {key}"
        values[key] = value
    services = hello.get("services", {})
    if not isinstance(services, dict) or not all(
        type(name) is str and type(digest) is bytes for name, digest in services.items()
    ):
        return "a hello with services that are no map from names to digests"
    features, methods = hello.get("features", []), hello.get("methods", [])
    for names in (features, methods):
        if not isinstance(names, list) or not all(type(name) is str for name in names):
            return "a hello with features or methods that are no names"
    random = [hello.get(key, b"") for key in ("nonce", "session", "incarnation")]
    if not all(type(value) is bytes and len(value) <= MAX_RANDOM for value in random):
        return f"a hello with random bytes that are none, or more than {MAX_RANDOM}"
    next_key = hello.get("next_key", 0)
    if type(next_key) is not int or not 0 <= next_key < 2**63:
        return "a hello with a key that is no number"
    nonce, session, incarnation = random
    try:
        limits = Limits(**values)
    except ValueError as error:
        return f"a hello with a limit out of range: {error}"
    return Hello(limits, services, frozenset(features), nonce, tuple(methods), session, next_key, incarnation)


def pack_limits(limits: Limits) -> bytes:
    """The payload of a change of limits. Only the size of messages can be changed."""
    return pack_plain({"max_message_size": limits.max_message_size})


def read_limits(payload: Payload, before: Limits) -> Limits | str:
    """The limits after a change; a sentence when it is none. Unknown keys are ignored."""
    try:
        change = unpack_plain(payload)
    except CodecError as error:
        return f"limits that cannot be read: {error}"
    size = change.get("max_message_size", before.max_message_size) if isinstance(change, dict) else None
    if type(size) is not int:
        return "limits that are no map of numbers"
    try:
        return Limits(size, before.max_calls)
    except ValueError as error:
        return f"a limit out of range: {error}"


def pack_queued(inside: int, limit: int) -> bytes:
    """The payload of the notice to a client that it has to wait in line: how many are in, how many may be."""
    return pack_plain([inside, limit])


def read_queued(payload: Payload) -> tuple[int, int] | None:
    """How many clients are in, and how many may be; None where a notice cannot be read."""
    try:
        match unpack_plain(payload):
            case [int(inside), int(limit), *_]:
                return inside, limit
    except CodecError:
        pass
    return None


class Leave:
    """Why a goodbye is said, for programs."""

    OTHER: Final = 0
    BUSY: Final = 1
    """A server has no place for another client."""

    REFUSED: Final = 2
    """The other side did not prove who it is."""

    FINISHED: Final = 3
    """All calls that were accepted have been answered: those without an answer did not run."""

    GONE: Final = 4
    """A client is closed, and does not come back for answers."""


def pack_goodbye(last_accepted: int, reason: str, code: int = Leave.OTHER) -> bytes:
    """The payload of a goodbye, which names the highest call that was accepted."""
    return pack_plain([last_accepted, cut(reason, MAX_REASON), *([code] if code else ())])


def read_goodbye(payload: Payload) -> tuple[str, int]:
    """The reason that a goodbye gives, and its code; empty and 0 where there is none to be read: the peer leaves."""
    try:
        match unpack_plain(payload):
            case [int(), str(reason)]:
                return reason[:MAX_REASON], Leave.OTHER
            case [int(), str(reason), int(code), *_]:
                return reason[:MAX_REASON], code
    except CodecError:
        pass
    return "", Leave.OTHER


def read_last_accepted(payload: Payload) -> int | None:
    """The highest call that was accepted by who says a goodbye; None where it says nothing of the kind."""
    try:
        match unpack_plain(payload):
            case [int(last), str(), *_] if type(last) is int and last >= 0:
                return last
    except CodecError:
        pass
    return None


def pack_extension(
    *,
    time_left: float | None = None,
    schema: int | None = None,
    parent: int = 0,
    depth: int = 0,
    target: tuple[int, int] | None = None,
    metadata: Metadata = NO_METADATA,
    key: tuple[int, int] | tuple[int, int, int] | None = None,
) -> bytes:
    """The extension map of a request; empty where it would be.

    Args:
        time_left: Seconds until its deadline. Durations travel, since clocks need not agree. More than a receiver takes
            travels as the most that it does.
        schema: The number of the schema that the arguments are written by, if it is not the callee's own.
        parent: The call of the receiver in which this one is made; 0 for none.
        depth: Calls that this one is nested in.
        target: The callback to run, as the receiver's call that it went with and its index there.
        metadata: What goes beside the arguments, or beside a result.
        key: Names a call that may be sent again, how often it was, and perhaps the least key that the client still
            wants an answer for.
    """
    extension: dict[int, Any] = {}
    if schema is not None:
        extension[Extension.SCHEMA] = schema
    if time_left is not None:
        extension[Extension.DEADLINE] = max(0, round(min(time_left, MAX_TIME_LEFT) * 1_000_000))
    if parent:
        extension[Extension.PARENT] = parent
    if target is not None:
        extension[Extension.TARGET] = target
    if depth:
        extension[Extension.DEPTH] = depth
    if metadata:
        extension[Extension.METADATA] = dict(metadata)
    if key is not None:
        extension[Extension.KEY] = key
    return pack_plain(extension) if extension else b""


class Extras(NamedTuple):
    """What an extension map says of a call; see :func:`pack_extension`.

    ``running`` is for the dispatcher: what is to know what a call comes to that had a key.
    """

    time_left: float | None = None
    schema: int | None = None
    parent: int = 0
    depth: int = 0
    target: tuple[int, int] | None = None
    metadata: Metadata = NO_METADATA
    key: tuple[int, int, int] | None = None
    running: Any = None


NO_EXTRAS: Final = Extras()


def pack_credit(more: int) -> bytes:
    """The payload that lets the producer of a stream send so many bytes more."""
    return pack_plain(more)


def read_credit(payload: Payload) -> int | str:
    """How many bytes more may be sent; a sentence where that cannot be read."""
    try:
        more = unpack_plain(payload)
    except CodecError as error:
        return f"a credit that cannot be read: {error}"
    return more if type(more) is int and 0 < more <= MAX_FRAME_SIZE else "a credit that is no number of bytes"


def read_reply_metadata(packed: Buffer) -> Metadata:
    """What an answer's extension map holds of metadata; nothing where it cannot be read."""
    if not packed:
        return NO_METADATA
    try:
        extension = unpack_plain(packed)
    except CodecError:
        return NO_METADATA
    metadata = extension.get(Extension.METADATA, NO_METADATA) if isinstance(extension, dict) else NO_METADATA
    return NO_METADATA if fault_of_metadata(metadata) is not None else MappingProxyType(dict(metadata))


def read_extension(packed: Buffer) -> Extras | str:
    """What an extension map says; a sentence when the call cannot be taken."""
    try:
        extension = unpack_plain(packed)
    except CodecError as error:
        return f"an extension map that cannot be read: {error}"
    if not isinstance(extension, dict):
        return "an extension that is no map"
    for key in extension:
        if type(key) is not int or not -(2**31) <= key < 2**31:
            return "an extension map with a key that is no 32-bit integer"
        if key < 0 and key != Extension.SCHEMA:
            return f"the extension {key} is critical and not known here"
    left, schema = extension.get(Extension.DEADLINE), extension.get(Extension.SCHEMA)
    if left is not None and (type(left) is not int or not 0 <= left <= MAX_TIME_LEFT * 1_000_000):
        return "a deadline that is no duration in microseconds"
    if schema is not None and (type(schema) is not int or schema < 0):
        return "a schema that is no number"
    parent, depth = extension.get(Extension.PARENT, 0), extension.get(Extension.DEPTH, 0)
    if type(parent) is not int or type(depth) is not int or not 0 <= parent < 2**32 or not 0 <= depth < 2**32:
        return "a parent or a depth that is no number"
    target = None
    match extension.get(Extension.TARGET):
        case None:
            pass
        case [call, index] if type(call) is int and type(index) is int:
            target = (call, index)
        case _:
            return "a target that is no callback"
    metadata = extension.get(Extension.METADATA, NO_METADATA)
    if metadata is not NO_METADATA and (fault := fault_of_metadata(metadata)) is not None:
        return fault
    key = None
    match extension.get(Extension.KEY):
        case None:
            pass
        case [number, attempt] if _are_keys(number, attempt):
            key = (number, attempt, 0)
        case [number, attempt, wanted_from] if _are_keys(number, attempt, wanted_from):
            key = (number, attempt, wanted_from)
        case _:
            return "a key that names no call"
    return Extras(None if left is None else left / 1_000_000, schema, parent, depth, target, metadata, key)


def _are_keys(*numbers: object) -> bool:
    """Whether these may name a call of a session."""
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)
