"""The threads side: client and server over blocking sockets."""

from typedrpc.sync.client import Client, connect
from typedrpc.sync.server import Server, serve

__all__ = ["Client", "Server", "connect", "serve"]
