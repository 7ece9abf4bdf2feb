"""Shows where the time of one call goes, layer by layer: at the client, at the server.

::

    make profile
    python benchmarks/profile.py               # a call with threads
    python benchmarks/profile.py --asyncio     # a call between event loops
    python benchmarks/profile.py --map         # an item of map
    python benchmarks/profile.py --stream      # an item of a stream that a handler yields

The whole is measured first: the CPU time of a client process and of a server process, pinned to one core. Beside it,
between the same two processes, a bare exchange of as many bytes: that much is the system's, for the calls of it and
the switch between processes. Then each layer by itself, with the objects of a real connection, again and again: CPU
time, the best of several rounds. What is left of the whole has a row of its own, so the rows add up to it: how the
parts hand on to each other, and that after a switch all of it runs from cold caches, while a layer that is measured by
itself has them warm. A remainder below zero says that the machine had other moods in between.

For ``import profile`` scripts of this directory find this module, and not the standard library's. What that one has,
this one gives too, so that ``cProfile`` works, which needs it; only `main` and what else is defined here is not its.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from statistics import median
from time import process_time, thread_time
from timeit import Timer
from typing import Any, Final, NamedTuple

A, B = 1000, 2000
SCRIPT: Final = "profile.py"
WORKS: Final = ("call", "asyncio", "map", "stream")
PARTS: Final = 256
"""Items in the frames of which the parts are measured."""

FLOORS: Final = {
    "call": "a bare exchange: send, recv, switch",
    "asyncio": "a bare echo on asyncio: the loop, send, recv, switch",
}
"""What is the system's. Of items that share a frame it is next to nothing, and stays in what is left."""

REST: Final = "what is left: handing on, cold caches"


class Layer(NamedTuple):
    """One row: microseconds of CPU time at each side."""

    name: str
    client: float = 0.0
    server: float = 0.0


def complete(layers: list[Layer], whole: Layer) -> list[Layer]:
    """The layers, with what is left of the whole, and the whole at the end: the rows before it add up to it."""
    client, server = (sum(column) for column in list(zip(*layers, strict=True))[1:]) if layers else (0.0, 0.0)
    return [*layers, Layer(REST, whole.client - client, whole.server - server), whole]


def lines_of(rows: list[Layer]) -> Iterator[str]:
    """The table; the last row is the whole."""
    whole = rows[-1].client + rows[-1].server
    yield f"{'layer':<56} {'client us':>10} {'server us':>10} {'share':>7}"
    for name, client, server in rows:
        yield f"{name:<56} {client:>10.2f} {server:>10.2f} {(client + server) / whole:>7.1%}"


# The processes


def serve() -> None:
    """Serve what is measured, and bare exchanges; answer each line with the CPU seconds used."""
    from contract_of_profile import Measured

    from typedrpc import Server

    bare = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=exchange_for_ever, args=(bare,), daemon=True).start()
    with Server(Measured(), url="tcp://127.0.0.1:0") as server:
        print(server.url, bare.getsockname()[1], flush=True)
        for _ in sys.stdin:
            print(process_time(), flush=True)


def exchange_for_ever(listener: socket.socket) -> None:
    """Answer what comes with as many bytes, for one connection after another."""
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(65536):
            sock.send(data)


def measure_whole(work: str, number: int, rounds: int) -> tuple[Layer, Layer | None]:
    """The CPU time of a unit in two processes, and the system's share of it: medians of the rounds."""
    if work == "asyncio":
        return measure_loops(rounds, number / 20_000)
    from contract_of_profile import Measured
    from processes import Process
    from workload import cores, pin

    from typedrpc import connect
    from typedrpc.wire import HEADER_SIZE

    core, _ = cores()
    pin(core)
    with Process(SCRIPT, "--role", "serve", *(() if core is None else ("--cpu", core))) as server:
        url, port = server.first_line.split()

        def taken(function: Callable[[int], object]) -> list[tuple[float, float]]:
            function(number)  # warm
            times = []
            for _ in range(rounds):
                there, here = float(server.ask("cpu")), process_time()
                function(number)
                here = process_time() - here
                times.append((1e6 * here / number, 1e6 * (float(server.ask("cpu")) - there) / number))
            return times

        with connect(Measured, url) as measured, socket.create_connection(("127.0.0.1", int(port))) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            add = measured.add
            data = bytes(HEADER_SIZE + 7)

            def calls(number: int) -> None:
                for _ in range(number):
                    add(A, B)

            def exchanges(number: int) -> None:
                for _ in range(number):
                    sock.send(data)
                    sock.recv(65536)

            def items(number: int) -> None:
                for _ in add.map([A] * number, [B] * number):
                    pass

            def stream(number: int) -> None:
                for _ in measured.count(number):
                    pass

            run = {"call": calls, "map": items, "stream": stream}[work]
            whole = Layer("the whole", *(median(column) for column in zip(*taken(run), strict=True)))
            if work != "call":
                return whole, None
            floor = Layer(FLOORS[work], *(median(column) for column in zip(*taken(exchanges), strict=True)))
            return whole, floor


def measure_loops(rounds: int, seconds: float) -> tuple[Layer, Layer]:
    """The same of asyncio's event loop, as ``make bench-asyncio`` measures it."""
    from asyncio_calls import OURS, WORKS, Pair, measure
    from asyncio_peers import FLOOR

    ours, floor = Pair(OURS, "asyncio"), Pair(FLOOR, "asyncio")
    turns = measure([ours, floor], rounds, max(0.02, seconds))[WORKS[0]]

    def of(name: str, pair: Pair) -> Layer:
        return Layer(
            name, *(1e6 * median(getattr(turn, side) for turn in turns[pair]) for side in ("client", "server"))
        )

    return of("the whole", ours), of(FLOORS["asyncio"], floor)


# The layers


class Clock:
    """Measures one function by itself."""

    def __init__(self, number: int, rounds: int) -> None:
        self._number, self._rounds = number, rounds
        self._nothing = 0.0
        self._nothing = self(lambda: None)

    def with_number(self, parts: int) -> "Clock":
        """One for what does so many parts at a time."""
        return Clock(max(1, self._number // parts), self._rounds)

    def __call__(self, function: Callable[[], object]) -> float:
        """CPU microseconds that it takes, without those of being called: the best of the rounds."""
        times = Timer(function, timer=thread_time).repeat(self._rounds, self._number)
        return max(0.0, 1e6 * min(times) / self._number - self._nothing)


def measure_layers(work: str, clock: Clock) -> list[Layer]:
    """The layers of a unit of work, each by itself."""
    from contract_of_profile import Measured

    from typedrpc import Server, connect

    with Server(Measured(), url="tcp://127.0.0.1:0") as server, connect(Measured, server.url) as measured:
        measured.add(A, B)
        sides = Sides()
        if work == "map":
            return layers_of_map(clock, sides)
        if work == "stream":
            return layers_of_stream(clock, sides)
        return layers_of_call(clock, sides, on_loop=work == "asyncio")


def plain(payload: object) -> bytes:
    """What a small value is packed to."""
    assert isinstance(payload, bytes)
    return payload


class Sides:
    """The two ends of the one connection in this process, and what a call of ``add`` consists of."""

    def __init__(self) -> None:
        from contract_of_profile import Measured

        from typedrpc.protocol import Request
        from typedrpc.service import commands_of
        from typedrpc.sync.connection import Connection

        found = {one.core.client: one for one in gc.get_objects() if type(one) is Connection and not one.ended}
        self.client, self.server = found[True], found[False]
        commands = commands_of(Measured)
        self.codec = commands["add"].codec
        self.stream = commands["count"].codec.result_stream
        self.arguments = plain(self.codec.pack_arguments(A, B))
        self.result = plain(self.codec.pack_result(A + B))
        self.id = 1
        self.request = Request(self.id, 2**31 + 1, bytearray(self.arguments))
        self.dispatcher: Any = self.server.handlers._dispatcher


def layers_of_call(clock: Clock, sides: Sides, *, on_loop: bool) -> list[Layer]:
    from typedrpc.call import enter_call, leave_call
    from typedrpc.wire import HEADER_SIZE, FrameReader, Kind, encode

    codec, dispatcher = sides.codec, sides.dispatcher
    client, core = sides.client.core, sides.server.core
    request, peer = sides.request, sides.server.handlers.peer
    packed, result = bytearray(sides.arguments), bytearray(sides.result)

    # A reader of its own: that of the connection is another thread's.
    reader = FrameReader(core.limits.max_message_size, preamble=False)

    def parse(kind: Kind, payload: bytes) -> Callable[[], object]:
        frame = encode(kind, sides.id if kind is Kind.REQUEST else 0, request.call, payload)
        assert isinstance(frame, bytes)
        count = HEADER_SIZE + len(payload)
        reader.get_buffer()[:count] = frame
        assert reader.sole_frame(count) is not None
        return lambda: reader.sole_frame(count)

    def begin_and_finish() -> None:
        call = dispatcher.begin(core, request, peer)
        dispatcher.finish(core, request, call, A + B)

    call = dispatcher.begin(core, request, peer)
    core.forget(request.call)

    def accept() -> None:
        core._accept(sides.id, request.call, packed)
        core.forget(request.call)

    def context() -> None:
        leave_call(enter_call(call))

    pack, unpack_arguments = clock(lambda: codec.pack_arguments(A, B)), clock(lambda: codec.unpack_arguments(packed))
    pack_result, unpack = clock(lambda: codec.pack_result(A + B)), clock(lambda: codec.unpack_result(result))
    forget = clock(lambda: core.forget(request.call))
    both = clock(begin_and_finish)
    layers = [
        Layer("codec: pack the arguments, unpack the result", pack + unpack, 0.0),
        Layer("codec: unpack the arguments, pack the result", 0.0, unpack_arguments + pack_result),
        Layer(
            "protocol: the id and the header of a call; accepting it",
            clock(lambda: client.start(sides.id, sides.arguments, "add")),
            max(0.0, clock(accept) - forget),
        ),
        Layer(
            "protocol: a frame out of what was read",
            clock(parse(Kind.RESPONSE, sides.result)),
            clock(parse(Kind.REQUEST, sides.arguments)),
        ),
        Layer("dispatch: from a request to a call, and to its answer", 0.0, both - unpack_arguments - pack_result),
        Layer("the context of the handler", 0.0, clock(context)),
        Layer("the handler itself", 0.0, clock(lambda: call.function(A, B))),
    ]
    if on_loop:
        return [*layers, Layer("the handler's task", 0.0, measure_task(clock))]
    both_taken = clock(ReadRoleAndPen().pass_on)
    return [*layers, Layer("the read role and the pen", both_taken, both_taken)]


class ReadRoleAndPen:
    """What a thread takes before it reads, and before it writes, and puts back."""

    def __init__(self) -> None:
        from typedrpc.common.role import ReadRole

        self._role = ReadRole()
        self._pen = [True]

    def pass_on(self) -> None:
        self._role.try_take()
        self._role.release()
        self._pen.pop()
        self._pen.append(True)


def measure_task(clock: Clock) -> float:
    """A task that ends in its first step, beside a turn of the loop without one."""

    async def nothing() -> None:
        pass

    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def turn() -> None:
            loop.call_soon(loop.stop)
            loop.run_forever()

        def turn_with_task() -> None:
            loop.create_task(nothing())
            turn()

        return max(0.0, clock(turn_with_task) - clock(turn))


def layers_of_map(clock: Clock, sides: Sides) -> list[Layer]:
    from typedrpc.batches import BatchRun
    from typedrpc.call import Call, enter_call, leave_call
    from typedrpc.parts import open_array, pack_array
    from typedrpc.protocol import BatchRequest

    codec, dispatcher, core = sides.codec, sides.dispatcher, sides.server.core
    few = clock.with_number(PARTS)
    inputs, values = [(A, B)] * PARTS, [A + B] * PARTS
    arguments = [sides.arguments] * PARTS
    frame, answer = pack_array(arguments), pack_array([sides.result] * PARTS)
    unpack_many, unpack_results, pack_results = codec.unpack_many, codec.unpack_results, codec.pack_results
    assert unpack_many is not None
    assert unpack_results is not None
    assert pack_results is not None
    opened = dispatcher.open_batch(core, sides.request, sides.server.handlers.peer, 0.0)
    values_of_frame = open_array(frame)
    assert not isinstance(values_of_frame, str)
    call = dispatcher.begin_part(opened, values_of_frame, 0)
    assert isinstance(call, Call)

    def take_and_note() -> None:
        run = BatchRun(core, BatchRequest(sides.request, values_of_frame))
        run.unpack = unpack_many
        while (taken := run.take()) is not None:
            run.settle(taken[0], (False, sides.result))

    def item(work: Callable[[], object]) -> float:
        return few(work) / PARTS

    unpacked = item(lambda: unpack_many(frame))
    return [
        Layer("codec: pack the arguments", item(lambda: list(codec.pack_each(iter(inputs), 2))), 0.0),
        Layer("codec: unpack the results", item(lambda: unpack_results(answer)), 0.0),
        Layer("codec: unpack the arguments", 0.0, unpacked),
        Layer("codec: pack the results", 0.0, item(lambda: pack_results(values))),
        Layer("frames: gather, and open", item(lambda: pack_array(arguments)), item(lambda: open_array(frame))),
        Layer("taking a call of the batch, noting its outcome", 0.0, max(0.0, item(take_and_note) - unpacked)),
        Layer("the context of the handler", 0.0, clock(lambda: leave_call(enter_call(call)))),
        Layer("the handler itself", 0.0, clock(lambda: call.function(A, B))),
    ]


def layers_of_stream(clock: Clock, sides: Sides) -> list[Layer]:
    from time import monotonic

    from typedrpc.flow import ItemBatch
    from typedrpc.parts import pack_parts, split_parts

    codec = sides.stream
    assert codec is not None
    body = plain(codec.pack_item(A))
    item = bytearray(body)
    few = clock.with_number(PARTS)
    frame = bytearray(pack_parts([body] * PARTS))

    def gather() -> None:
        batch = ItemBatch(1 << 20)
        for _ in range(PARTS):
            if batch.has_room(body):
                batch.add(body)
        batch.take()

    return [
        Layer(
            "codec: pack an item; unpack it", clock(lambda: codec.unpack_item(item)), clock(lambda: codec.pack_item(A))
        ),
        Layer("frames: split; gather", few(lambda: split_parts(frame)) / PARTS, few(gather) / PARTS),
        Layer("two looks at the clock", 0.0, 2 * clock(monotonic)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Show where the time of one call goes.")
    works = parser.add_mutually_exclusive_group()
    for work in WORKS[1:]:
        works.add_argument(f"--{work}", dest="work", action="store_const", const=work, default="call")
    parser.add_argument("--json", action="store_true", help="print a map instead of a table")
    parser.add_argument("--quick", action="store_true", help="short rounds: shows that it runs, not how fast")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each figure (15)")
    parser.add_argument("--role", choices=["serve"], help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from machine import machine, machine_line
    from workload import pin

    if arguments.role:
        pin(arguments.cpu)
        serve()
        return
    where = machine()  # all of it: before this process is pinned
    rounds = 2 if arguments.quick else arguments.rounds
    work = arguments.work
    whole, floor = measure_whole(work, 200 if arguments.quick else 4000, rounds)
    layers = measure_layers(work, Clock(200 if arguments.quick else 5000, rounds))
    rows = complete(layers if floor is None else [*layers, floor], whole)
    if arguments.json:
        print(json.dumps({"work": work, "machine": where, "layers": [row._asdict() for row in rows]}))
        return
    print(machine_line(where), f"{work}: CPU time at both ends of one connection", "", *lines_of(rows), sep="\n")


@lru_cache(maxsize=1)
def _of_the_standard_library() -> Any:
    path = Path(sysconfig.get_path("stdlib")) / "profile.py"
    spec = importlib.util.spec_from_file_location("profile_of_the_standard_library", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_of_the_standard_library(), name)


if __name__ == "__main__":
    main()
