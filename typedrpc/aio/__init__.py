"""The asyncio side: client and server on an event loop, with the names of the threads side."""

from typedrpc.aio.client import Client, Connecting, connect
from typedrpc.aio.server import Server, serve

__all__ = ["Client", "Connecting", "Server", "connect", "serve"]
