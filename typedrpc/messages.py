"""What the protocol itself says, as data: hello, goodbye, the extension map, and commands of its own.

Reading trusts nothing and never raises: what is wrong with a message comes back as a sentence.
"""

from typing import Final, NamedTuple

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.failure import cut
from typedrpc.wire import MAX_FRAME_SIZE, Buffer

MIN_MESSAGE_SIZE: Final = 1024
"""The least ``max_message_size``: the protocol's own messages must fit."""

MAX_REASON: Final = 200
"""Characters of a goodbye's reason: in UTF-8 they fit the least ``max_message_size``."""

MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024
MAX_CALLS: Final = 1024
"""The limits that a side has unless it is told others."""


MAX_TIME_LEFT: Final = 2**32
"""Seconds that a deadline may be away: more than a century."""


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


class Extension:
    """Keys of the extension map. An unknown key is ignored, unless it is negative: then the call is refused."""

    SCHEMA: Final = -1
    """The number of the schema that the arguments are written by; without it, by that of the callee."""

    DEADLINE: Final = 1
    """Time left for the call, in microseconds, as the sender saw it."""

    PARENT: Final = 2  # reserved: the call of the receiver that this call is nested in
    METADATA: Final = 3  # reserved
    TRACE: Final = 4  # reserved
    KEY: Final = 5  # reserved: names a call that may be sent again
    TARGET: Final = 6  # reserved


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


def pack_hello(limits: Limits) -> bytes:
    """The payload of a hello."""
    return pack_plain({"max_message_size": limits.max_message_size, "max_calls": limits.max_calls, "features": []})


def read_hello(payload: Payload) -> Limits | str:
    """The limits that a hello announces; a sentence when it is none. Unknown keys are ignored."""
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
    try:
        return Limits(**values)
    except ValueError as error:
        return f"a hello with a limit out of range: {error}"


def pack_goodbye(last_accepted: int, reason: str) -> bytes:
    """The payload of a goodbye, which names the highest call that was accepted."""
    return pack_plain([last_accepted, cut(reason, MAX_REASON)])


def read_goodbye(payload: Payload) -> str:
    """The reason that a goodbye gives; empty where there is none to be read: the peer leaves all the same."""
    try:
        match unpack_plain(payload):
            case [int(), str(reason)]:
                return reason[:MAX_REASON]
    except CodecError:
        pass
    return ""


def pack_extension(*, time_left: float | None = None, schema: int | None = None) -> bytes:
    """The extension map of a request.

    Args:
        time_left: Seconds until its deadline. Durations travel, since clocks need not agree. More than a receiver takes
            travels as the most that it does.
        schema: The number of the schema that the arguments are written by, if it is not the callee's own.
    """
    extension: dict[int, int] = {}
    if schema is not None:
        extension[Extension.SCHEMA] = schema
    if time_left is not None:
        extension[Extension.DEADLINE] = max(0, round(min(time_left, MAX_TIME_LEFT) * 1_000_000))
    return pack_plain(extension)


class Extras(NamedTuple):
    """What an extension map says of a call."""

    time_left: float | None = None
    schema: int | None = None


NO_EXTRAS: Final = Extras()


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
    return Extras(None if left is None else left / 1_000_000, schema)
