"""A connection of either colour, as what stands above it sees it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from typedrpc.call import Call
from typedrpc.codec import Payload
from typedrpc.common.calling import Connection as CallsConnection
from typedrpc.common.calling import Going
from typedrpc.common.role import Waiter
from typedrpc.common.sending import Connection as StreamsConnection
from typedrpc.common.tokens import Batch, Pending, Token
from typedrpc.errors import ConnectionLost, RpcError
from typedrpc.flow import Inflow
from typedrpc.messages import Leave
from typedrpc.wire import Frame


class Connection(StreamsConnection, CallsConnection, Protocol):
    """One end of a connection. Every method may be called from any thread.

    What is no more than named here is described where it is done: the calls at :class:`typedrpc.common.calling.Calls`.
    """

    def call(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        going: Going | None = None,
        within: Call | None = None,
        on_reply: Callable[[Frame], None] | None = None,
    ) -> Payload: ...

    def submit(
        self,
        command: int,
        payload: Payload,
        what: str,
        token: Pending,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        going: Going | None = None,
        *,
        at_once: bool = False,
        patient: bool = True,
    ) -> int: ...

    def open_stream(
        self,
        command: int,
        payload: Payload,
        what: str,
        make: Callable[[int, Inflow], Token],
        deadline: float | None,
        extension: bytes,
        nested: bool,
        going: Going | None,
        *,
        patient: bool = True,
    ) -> None: ...

    def send_batch(
        self,
        batch: Batch,
        command: int,
        bodies: Sequence[Payload],
        what: str,
        extension: bytes = b"",
        nested: bool = False,
        *,
        wait: bool,
    ) -> bool: ...

    def fetch(self, batch: Batch, waiter: Waiter, what: str, *, nested: bool = False) -> Frame | RpcError: ...

    def abandon(self, batches: Sequence[Batch]) -> None:
        """A map is given up, after ``handlers.stand_by``, with what is in flight of it.

        May be called anywhere, within the garbage collector too.
        """

    def notify(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        going: Going | None = None,
    ) -> None: ...

    def abort(self, call: int, token: Token, error: RpcError) -> None: ...

    async def stand_in_line(self, what: str, deadline: float | None) -> None: ...

    def look_for_room(self) -> None: ...

    def drop_callback(self, origin: int, index: int) -> None:
        """A function of the peer's is not needed any more. May be called anywhere, within the garbage collector too."""

    def start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises ``RuntimeError`` where the system has no more."""

    def set_limit(self, max_message_size: int) -> None:
        """Change the size of the messages that are accepted, and tell the peer. Raises ``ConnectionLost``."""

    def welcome(self) -> bool:
        """Let the client in. Returns whether it was not too late for that."""

    def drain(self, reason: str) -> None:
        """Tell the peer that no more calls are accepted; those that run are still answered."""

    def close(self, reason: str = "", code: int = Leave.OTHER) -> None:
        """Say goodbye and end the connection. Calls that wait raise ``ConnectionLost``. May be called again."""

    def end(self, error: ConnectionLost) -> None:
        """End the connection: whoever waits for anything learns the cause."""

    @property
    def waiting_frames(self) -> int:
        """Frames that wait to be written."""

    @property
    def waiting_bytes(self) -> int:
        """Their bytes; takes time with their number."""
