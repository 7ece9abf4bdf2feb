"""What the weather stations and who asks them agree on."""

from abc import abstractmethod
from dataclasses import dataclass

from typedrpc import Service, rpc


@dataclass(frozen=True)
class Weather:
    station: str
    celsius: float


class Station(Service):
    @rpc
    @abstractmethod
    async def measure(self) -> Weather:
        """What it is like there now. Some instruments take longer than others."""
