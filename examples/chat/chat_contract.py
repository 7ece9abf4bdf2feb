"""What the chat server and its clients agree on: what a client may call, and what the server calls at the clients."""

from abc import abstractmethod

from typedrpc import Service, rpc


class NameTaken(Exception):
    """Declared by `join`, so it arrives at the client as itself, with its fields: the parameters of `__init__`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"somebody here is called {name} already")
        self.name = name


class Room(Service):
    """Served by the server."""

    @rpc(raises=[NameTaken])
    @abstractmethod
    def join(self, name: str) -> list[str]:
        """Come in, under a name. From now on this client is told what happens, if it exposes a `Listener`.

        Returns:
            The names of those who are there already.

        Raises:
            NameTaken: Somebody has the name; capitals make no difference.
            ValueError: It is no name, or this client is in already.
        """

    @rpc
    @abstractmethod
    def say(self, text: str) -> int:
        """Tell all others something; returns how many they are.

        Raises:
            PermissionError: This client has not joined.
        """

    @rpc
    @abstractmethod
    def who(self) -> list[str]:
        """The names of those who are there, in the order in which they came."""


class Listener(Service):
    """Exposed by the clients: `connect(Room, url, expose=[...])`. All of it returns None, so it can be broadcast."""

    @rpc
    @abstractmethod
    def on_join(self, name: str) -> None: ...

    @rpc
    @abstractmethod
    def on_leave(self, name: str) -> None: ...

    @rpc
    @abstractmethod
    def on_text(self, name: str, text: str) -> None: ...
