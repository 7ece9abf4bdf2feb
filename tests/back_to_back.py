"""Cores without sockets: bytes in, events out, and two of them back to back."""

from collections.abc import Iterable
from typing import Any

from typedrpc.messages import Hello, Limits
from typedrpc.protocol import Event, Greeted, Opened, Outgoing, Protocol, State
from typedrpc.wire import Buffer, Frame, FrameReader, Kind, encode


def joined(*parts: Outgoing) -> bytes:
    """What is to be sent, as the bytes that travel."""
    return b"".join(part if isinstance(part, bytes) else b"".join(part) for part in parts)


def frame(kind: int, payload: Any = b"", *, command: int = 0, call: int = 0, extension: bytes = b"") -> bytes:
    """One frame as it travels."""
    return joined(encode(kind, command, call, payload, extension))


def frames(data: Buffer, *, preamble: bool = False) -> list[Frame]:
    """The frames of some bytes, which must be whole frames."""
    reader = FrameReader(0x7FFF_FFFF, preamble=preamble)
    found = list(reader.feed(data))
    assert reader.fault is None, reader.fault
    assert not reader.in_frame, "the bytes end in the middle of a frame"
    return found


def feed(core: Protocol[str], data: Buffer, size: int = 1 << 30) -> list[Event[str]]:
    """Give bytes to a core as an I/O layer does, at most ``size`` at a time."""
    events: list[Event[str]] = []
    rest = memoryview(data)
    while rest and core.state is not State.CLOSED:
        buffer = core.reader.get_buffer()
        assert len(buffer), "a core that is not closed has room for more"
        count = min(len(buffer), len(rest), size)
        buffer[:count] = rest[:count]
        events += core.receive(count)
        rest = rest[count:]
    return events


def take(core: Protocol[str]) -> bytes:
    """What a core has to say by itself; it is said then."""
    data = joined(*core.outgoing)
    core.outgoing.clear()
    return data


def said(core: Protocol[str]) -> list[Frame]:
    """The frames of what a core has to say by itself, without a greeting."""
    return frames(take(core))


def kinds(found: Iterable[Frame]) -> list[Kind]:
    return [Kind(one.kind) for one in found]


class Pair:
    """A client and a server back to back."""

    def __init__(self, client: Limits | None = None, server: Limits | None = None, *, size: int = 1 << 30) -> None:
        self.client: Protocol[str] = Protocol(client=True, hello=Hello(client or Limits()))
        self.server: Protocol[str] = Protocol(client=False, hello=Hello(server or Limits()))
        self._size = size

    def exchange(self) -> tuple[list[Event[str]], list[Event[str]]]:
        """Pass on what the cores have to say by themselves until they are silent; the events at client and server."""
        at_client: list[Event[str]] = []
        at_server: list[Event[str]] = []
        while self.client.outgoing or self.server.outgoing:
            at_server += feed(self.server, take(self.client), self._size)
            at_client += feed(self.client, take(self.server), self._size)
        return at_client, at_server

    def open(self) -> "Pair":
        """Shake hands."""
        assert self.exchange() == ([Greeted()], [Greeted()])
        welcome = self.server.welcome()
        assert welcome is not None
        assert self.to_client(welcome) == [Opened()]
        return self

    def to_server(self, data: Outgoing) -> list[Event[str]]:
        return feed(self.server, joined(data), self._size)

    def to_client(self, data: Outgoing) -> list[Event[str]]:
        return feed(self.client, joined(data), self._size)
