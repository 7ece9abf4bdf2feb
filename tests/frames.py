"""Frame sequences that hypothesis invents, as bytes: such as a peer sends, and such as none would."""

import struct
from itertools import chain
from typing import Any, Final

from hypothesis import strategies as st

from tests.back_to_back import frame
from tests.support import hello
from typedrpc.codec import Segmented, pack_plain
from typedrpc.messages import Extension, pack_extension, pack_goodbye
from typedrpc.parts import pack_array, pack_parts
from typedrpc.wire import HEADER, HEADER_SIZE, MAY_BE_SPLIT, PREAMBLE, Flag, Kind, unpack_header

COMMANDS: Final = (0, 1, 2, 7, 0x1234, 0xFEFF, 0xFF00, 0xFF01, 0xFF02, 0xFF03, 0xFFFF)
CALLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF)
KINDS: Final = (*map(int, Kind), 0x00, 0x7F, 0x81, 0xFF)
MAX_PAYLOAD: Final = 300

SESSION: Final = bytes(range(16))

plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner),
    max_leaves=8,
)
packed = plain.map(pack_plain)
raw = st.binary(max_size=40)


keys = st.integers(0, 9) | st.integers(0, 2**63 - 1)
claims: st.SearchStrategy[bytes] = st.one_of(
    st.fixed_dictionaries({"method": st.just("secret"), "name": st.text(max_size=4), "proof": st.binary(max_size=40)}),
    st.fixed_dictionaries({"method": st.just("token"), "token": st.text(max_size=9)}),
    st.fixed_dictionaries({"proof": st.binary(min_size=32, max_size=32)}),
    st.dictionaries(st.sampled_from(("method", "name", "proof", "token")), plain),
).map(pack_plain)
"""Who a client says that it is, or a server."""


def payloads(arguments: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    """Payloads: of calls, of the protocol's own messages, and nonsense."""
    bodies = arguments | packed | raw
    return st.one_of(
        arguments,
        bodies,
        st.lists(bodies, max_size=5).map(pack_array),
        st.lists(bodies, max_size=5).map(pack_parts),
        st.integers(-1, 2**33).map(pack_plain),  # credit
        claims,
        st.builds(pack_goodbye, st.integers(0, 9), st.text(max_size=9), st.integers(0, 9)),
        st.builds(Segmented, bodies, st.lists(st.binary(max_size=30), max_size=4)),
    )


extensions: st.SearchStrategy[bytes] = st.one_of(
    st.just(b""),
    st.just(b""),
    st.builds(
        pack_extension,
        time_left=st.none() | st.floats(0.001, 9),
        parent=st.sampled_from(CALLS),
        target=st.none() | st.tuples(st.sampled_from(CALLS), st.integers(0, 2)),
        key=st.none() | st.tuples(keys, st.integers(0, 2)) | st.tuples(keys, st.integers(0, 2), keys),
    ),
    st.dictionaries(
        st.sampled_from([value for value in vars(Extension).values() if isinstance(value, int)]) | st.integers(-9, 20),
        plain,
        max_size=3,
    ).map(pack_plain),
    raw,
)


@st.composite
def whole_frames(draw: st.DrawFn, commands: tuple[int, ...], arguments: st.SearchStrategy[bytes]) -> bytes:
    """A frame whose header tells the truth."""
    kind = draw(st.sampled_from((Kind.REQUEST, Kind.REQUEST, Kind.NOTIFY, *KINDS)))
    command, call = draw(st.sampled_from(commands)), draw(st.sampled_from(CALLS))
    return frame(kind, draw(payloads(arguments)), command=command, call=call, extension=draw(extensions))


@st.composite
def in_pieces(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """The same in pieces, mostly of a kind that may be split."""
    data = draw(whole)
    size, kind, flags, command, call = unpack_header(data)
    if kind not in MAY_BE_SPLIT:
        kind = draw(st.sampled_from((kind, Kind.REQUEST, Kind.ITEM)))
    body = data[HEADER_SIZE:]
    cuts = sorted(draw(st.sets(st.integers(0, len(body)), max_size=3)))
    parts = [body[start:end] for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True)]
    found = []
    for number, part in enumerate(parts):
        said = struct.pack(">I", size) + part if number == 0 else part
        more = Flag.MORE if number < len(parts) - 1 else 0
        found.append(HEADER.pack(len(said), kind, (flags if number == 0 else 0) | more, command, call) + said)
    return found


@st.composite
def lies(draw: st.DrawFn) -> bytes:
    """A header that says anything, and some bytes."""
    length = draw(st.sampled_from((0, 1, 5, 100, 65_535, 70_000, 16 << 20, (16 << 20) + 1, 0xFFFF_FFFF)))
    kind, flags = draw(st.sampled_from(KINDS)), draw(st.integers(0, 15) | st.integers(0, 255))
    return HEADER.pack(length, kind, flags, draw(st.sampled_from(COMMANDS)), draw(st.sampled_from(CALLS))) + draw(raw)


hellos: st.SearchStrategy[bytes] = st.one_of(
    st.just(hello()),
    st.builds(hello, max_message_size=st.integers(1024, 1 << 24), max_calls=st.integers(1, 9)),
    st.builds(hello, max_message_size=plain, max_calls=plain, services=plain, features=plain),
    st.builds(hello, nonce=raw, session=raw, next_key=keys, incarnation=raw, methods=st.lists(st.text(max_size=6))),
    st.builds(hello, nonce=plain, session=plain, next_key=plain, incarnation=plain, methods=plain),
)


def sequences(
    commands: tuple[int, ...] = COMMANDS, arguments: st.SearchStrategy[bytes] = packed
) -> st.SearchStrategy[list[bytes]]:
    """Some frames, of which most are whole, and the pieces of some are mixed with others.

    Args:
        commands: Ids of commands that are called.
        arguments: Payloads for them.
    """
    whole = whole_frames(commands, arguments)
    honest = st.lists(st.one_of(whole.map(lambda data: [data]), in_pieces(whole)), max_size=6)
    wild = st.lists(lies() | raw, max_size=1)  # what comes after is mostly lost
    together = st.tuples(honest, wild, honest)
    return together.map(lambda found: [*chain(*found[0]), *found[1], *chain(*found[2])])


def conversations(
    *,
    client: bool,
    commands: tuple[int, ...] = COMMANDS,
    arguments: st.SearchStrategy[bytes] = packed,
) -> st.SearchStrategy[bytes]:
    """All that a peer sends: mostly a greeting in order, and some frames; sometimes cut.

    Args:
        client: Whether the peer is the client.
        commands: As for :func:`sequences`, as are ``arguments``.
        arguments: Likewise.
    """
    welcome = b"" if client else frame(Kind.WELCOME)
    keyed = hello(nonce=bytes(32), session=SESSION, next_key=0)
    good = st.just(PREAMBLE + hello() + welcome) | st.just(PREAMBLE + keyed + welcome)
    asked = claims.map(lambda claim: PREAMBLE + keyed + frame(Kind.AUTHENTICATE, claim) + welcome)
    odd = st.builds(lambda start, said, more: start + said + more, st.just(PREAMBLE) | raw, hellos, st.just(welcome))
    said = st.tuples(good | good | odd | asked, sequences(commands, arguments)).map(
        lambda found: found[0] + b"".join(found[1])
    )
    return st.one_of(said, said, st.tuples(said, st.integers(0, 400)).map(lambda found: found[0][: -found[1] or None]))
