"""The contract that ``profile.py`` calls: a module of its own, so that client and server process have the same one."""

from collections.abc import Iterator

from typedrpc import Service, rpc


class Measured(Service, name="measured"):
    """Handlers that do next to nothing: what is measured is the way to them and back."""

    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    def count(self, until: int) -> Iterator[int]:
        yield from range(until)
