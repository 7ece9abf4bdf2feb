"""xmlrpc of the standard library: a server with a thread for each connection, and connections that are kept.

Connections are kept because the server speaks HTTP/1.1, which it does not by itself; TCP_NODELAY is set. Answers are
not packed by gzip. `map` is a MultiCall: all calls in one message. Bytes travel in base64. Ints are of 32 bits.
"""

import sys
import xmlrpc.client
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, cast
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from .base import LOCALHOST, ROWS, Client, Peer, in_background


class _Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    encode_threshold = sys.maxsize
    wbufsize = -1


class _Server(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    with _Server((LOCALHOST, 0), _Handler, logRequests=False, use_builtin_types=True) as server:
        server.register_function(lambda a, b: cast(int, a) + cast(int, b), "add")
        server.register_function(lambda rows: rows, "records")
        server.register_function(lambda data: data, "echo")
        server.register_multicall_functions()
        in_background(server.serve_forever)
        yield f"http://{LOCALHOST}:{server.server_address[1]}"


@contextmanager
def _connect(url: str) -> Iterator[Client]:
    with xmlrpc.client.ServerProxy(url, use_builtin_types=True) as proxy:

        def map(xs: Sequence[int], ys: Sequence[int]) -> Iterable[int]:
            calls: Any = xmlrpc.client.MultiCall(proxy)
            for x, y in zip(xs, ys, strict=True):
                calls.add(x, y)
            results: Iterable[int] = calls()
            return results

        yield Client(add=proxy.add, map=map, records=proxy.records, items=ROWS, echo=proxy.echo)


PEER = Peer(
    serve=_serve,
    connect=_connect,
    shared=False,
    left_out={"stream": "it has none", "unix": "its client speaks HTTP over TCP alone"},
)
