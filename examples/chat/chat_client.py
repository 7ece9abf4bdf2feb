"""The terminal client of the chat room: what you type is said to all, /who lists who is there, Ctrl-D leaves.

::

    python examples/chat/chat_client.py ann
"""

import argparse
import os
import signal
import sys

from chat_contract import Listener, NameTaken, Room
from terminal import Terminal

from typedrpc import ConnectionLost, MessageTooLarge, Peer, RpcError, connect, rpc


class TerminalListener(Listener):
    """What the server calls here. It comes one call after another, in a thread of the client's."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    @rpc
    def on_join(self, name: str) -> None:
        self._terminal.show(f"* {name} has joined")

    @rpc
    def on_leave(self, name: str) -> None:
        self._terminal.show(f"* {name} has left")

    @rpc
    def on_text(self, name: str, text: str) -> None:
        self._terminal.show(f"{name}: {text}")


class Chat:
    """One visit to the room."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = Terminal()
        self._leaving = False
        self._lost: ConnectionLost | None = None

    def visit(self, url: str, timeout: float) -> None:
        """Stay until the user or the server ends it.

        Raises:
            ConnectionLost: The server has ended it.
        """
        listener = TerminalListener(self._terminal)
        try:
            with connect(Room, url, timeout=timeout, expose=[listener], on_disconnect=self._on_disconnect) as room:
                try:
                    self._talk(room)
                finally:
                    self._leaving = True
        except (EOFError, KeyboardInterrupt):  # Ctrl-D, and Ctrl-C or what `_on_disconnect` makes of a loss
            pass
        if self._lost is not None:
            raise self._lost

    def _talk(self, room: Room) -> None:
        others = room.join(self._name)
        self._terminal.show(f"* here are {', '.join(others)}" if others else "* nobody else is here yet")
        # With this prompt your own lines look to you as they look to the others.
        while True:
            text = self._terminal.read(f"{self._name}: ").strip()
            if text == "/who":
                self._terminal.show(f"* here are {', '.join(room.who())}")
            elif text.startswith("/"):
                self._terminal.show("* there is /who, and Ctrl-D to leave")
            elif text:
                self._say(room, text)

    def _say(self, room: Room, text: str) -> None:
        try:
            heard = room.say(text)
        except MessageTooLarge as error:  # found out on this side: nothing was sent, and the connection goes on
            self._terminal.show(f"* not sent: {error}")
        else:
            if not heard:
                self._terminal.show("* nobody else is here")

    def _on_disconnect(self, server: Peer, cause: ConnectionLost) -> None:
        """The connection has ended. The main thread waits for a line, and would learn of it with the next one only."""
        if not self._leaving:
            self._lost = cause
            os.kill(os.getpid(), signal.SIGINT)  # as if Ctrl-C had been pressed


def main() -> int:
    parser = argparse.ArgumentParser(description="Visit a chat room.")
    parser.add_argument("name", help="what the others see")
    parser.add_argument("--url", default="tcp://127.0.0.1:9020", help="what chat_server.py printed (%(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the server (%(default)s)")
    arguments = parser.parse_args()
    try:
        Chat(arguments.name).visit(arguments.url, arguments.timeout)
    except NameTaken as error:
        print(f"{error}, take another name than {error.name}", file=sys.stderr)
        return 1
    except (RpcError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
