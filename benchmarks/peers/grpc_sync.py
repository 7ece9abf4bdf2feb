"""gRPC's blocking interface: messages that its compiler makes of `calls.proto`, a server with a pool of 16 threads.

`map` is a future for each call, up to 1,000 of them on their way. Threads share a channel. Each channel has its own
connection, where gRPC by itself would have all share one. The limit of a message is lifted. Messages are made of the
dataclasses, and dataclasses of the messages that come back. (`grpc.aio` is in `make bench-asyncio`.)
"""

import importlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from .base import LOCALHOST, Client, Item, Peer, count

OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
AHEAD: Final = 1000


def _generated() -> tuple[Any, Any]:
    """The modules of messages and of services."""
    messages, services = importlib.import_module("grpc").protos_and_services("peers/calls.proto")
    return messages, services


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    grpc: Any = importlib.import_module("grpc")
    messages, services = _generated()

    class Calls:
        def Add(self, numbers: Any, context: object) -> Any:
            return messages.Number(value=numbers.a + numbers.b)

        def Records(self, items: Any, context: object) -> Any:
            return items

        def Count(self, number: Any, context: object) -> Iterator[Any]:
            for value in count(number.value):
                yield messages.Number(value=value)

        def Echo(self, data: Any, context: object) -> Any:
            return data

    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
    services.add_CallsServicer_to_server(Calls(), server)
    port = server.add_insecure_port(f"unix:{path}" if path else f"{LOCALHOST}:0")
    server.start()
    yield f"unix:{path}" if path else f"{LOCALHOST}:{port}"
    server.stop(None)


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    grpc: Any = importlib.import_module("grpc")
    messages, services = _generated()
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = services.CallsStub(channel)
        call, numbers, item, data = stub.Add, messages.Numbers, messages.Item, messages.Data

        def map(xs: Sequence[int], ys: Sequence[int]) -> Iterator[int]:
            futures: deque[Any] = deque()
            for x, y in zip(xs, ys, strict=True):
                futures.append(call.future(numbers(a=x, b=y)))
                if len(futures) > AHEAD:
                    yield futures.popleft().result().value
            for future in futures:
                yield future.result().value

        def records(items: list[Item]) -> list[Item]:
            sent = [item(id=one.id, name=one.name, price=one.price, flag=one.flag) for one in items]
            returned: Iterable[Any] = stub.Records(messages.Items(items=sent)).items
            return [Item(one.id, one.name, one.price, one.flag) for one in returned]

        yield Client(
            add=lambda a, b: call(numbers(a=a, b=b)).value,
            map=map,
            records=records,
            stream=lambda number: (one.value for one in stub.Count(messages.Number(value=number))),
            echo=lambda content: stub.Echo(data(data=content)).data,
        )


PEER = Peer(serve=_serve, connect=_connect, packages=("grpc", "grpc_tools"))
