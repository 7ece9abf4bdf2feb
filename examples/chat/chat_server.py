"""A chat room: who has joined sees who comes and goes, and what the others say.

::

    python examples/chat/chat_server.py
    python examples/chat/chat_client.py ann     # and more of these, each in a terminal of its own
"""

import argparse
import logging
from threading import Lock

from chat_contract import Listener, NameTaken, Room

from typedrpc import ConnectionLost, Peer, Server, current_call, rpc, serve

logger = logging.getLogger("chat")

MAX_NAME = 20
MAX_MESSAGE = 64 * 1024


class ChatRoom(Room):
    """One room, the same for all clients. A client that has joined has its name in `peer.state`."""

    def __init__(self) -> None:
        # Handlers run in many threads. One lock for coming, going and talking means that everybody is told everything
        # in the same order, and that nobody takes a name between somebody else's look at it and his taking it. It may
        # be held while others are told, because a broadcast waits for none of them.
        self._lock = Lock()
        self._guests: dict[str, Peer] = {}  # by their names without capitals, in the order in which they came

    @rpc
    def join(self, name: str) -> list[str]:
        if not name.isprintable() or not 1 <= len(name) <= MAX_NAME or " " in name:
            raise ValueError(f"a name has 1 to {MAX_NAME} characters and no spaces: {name!r}")
        call = current_call()
        peer = call.peer
        with self._lock:
            if peer.state is not None:
                raise ValueError(f"this client is here already, as {peer.state}")
            if name.casefold() in self._guests:
                raise NameTaken(name)
            others = list(self._guests.values())
            # It may be gone already, and `left` may have been here before us: then nobody would tell that it has left.
            if peer in call.server.peers:
                peer.state = name
                self._guests[name.casefold()] = peer
                call.server.broadcast(Listener.on_join, to=others)(name)
                logger.info("%s has joined from %s, %d in the room", name, peer.address, len(self._guests))
            return [other.state_as(str) for other in others]

    @rpc
    def say(self, text: str) -> int:
        call = current_call()
        with self._lock:
            if call.peer.state is None:
                raise PermissionError("join the room before you say something")
            name = call.peer.state_as(str)
            others = [guest for guest in self._guests.values() if guest is not call.peer]
            return call.server.broadcast(Listener.on_text, to=others)(name, text)

    @rpc
    def who(self) -> list[str]:
        with self._lock:
            return [guest.state_as(str) for guest in self._guests.values()]

    def left(self, peer: Peer, cause: ConnectionLost) -> None:
        """The `on_disconnect` hook: a client is gone, in whatever way. It is not among `server.peers` any more."""
        with self._lock:
            if peer.state is None or peer.server is None:  # it never joined; there is always a server at a server
                return
            name = peer.state_as(str)
            peer.state = None  # should something that it said last still wait for the lock, it comes too late
            del self._guests[name.casefold()]
            peer.server.broadcast(Listener.on_leave, to=self._guests.values())(name)
            logger.info("%s has left, %d in the room: %s", name, len(self._guests), cause)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a chat room until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9020", help="where to listen (%(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # The library logs to "typedrpc". Here its warnings are enough, such as that a client did not read and was cut off.
    logging.getLogger("typedrpc").setLevel(logging.WARNING)

    def on_start(server: Server) -> None:
        print(f"serving the room at {server.url}", flush=True)

    room = ChatRoom()
    serve(room, url=arguments.url, on_start=on_start, on_disconnect=room.left, max_message_size=MAX_MESSAGE)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
