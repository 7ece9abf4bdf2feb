"""Promises about connections that are held open: what one of them weighs, and that it can be called all the same."""

from contextlib import ExitStack

from figures import Figure
from processes import Process
from workload import memory_of

CONNECTIONS = 5_000
CLIENTS = 2
"""Processes that hold them."""

KIB_EACH = 40.0


def held(quick: bool) -> list[Figure]:
    """Many connections at one asyncio server, and a call on each in turn."""
    count = 100 if quick else CONNECTIONS
    with ExitStack() as stack:
        server = stack.enter_context(Process("held.py", "serve"))
        warm = stack.enter_context(Process("held.py", "hold", server.first_line, 1))
        warm.ask("call")  # what stays is made: compiled codecs, what was imported late
        before = memory_of(server.pid)
        clients = [
            stack.enter_context(Process("held.py", "hold", server.first_line, count // CLIENTS)) for _ in range(CLIENTS)
        ]
        connected = memory_of(server.pid)
        per_call = [float(client.ask("call")) for client in clients]
        called = memory_of(server.pid)
        seen = int(server.ask("peers")) - 1
    fault = "" if seen == count else f"{seen} of {count} are connected"
    figures = []
    for when, memory in (("idle", connected), ("that was called", called)):
        weight = None if before is None or memory is None else 1024 * (memory.now - before.now) / count
        figures.append(
            Figure(
                promise=f"{count:,} connections at an asyncio server: memory of one {when}",
                measured=weight,
                unit="KiB",
                limit=KIB_EACH,
                note="" if memory is None else f"{memory.now:.0f} MiB in all",
                fault=fault,
            )
        )
    promise = "a call on each of them in turn, the first one"
    note = f"opened in {sum(float(client.first_line) for client in clients):.1f} s"
    figures.append(Figure(promise=promise, measured=1e6 * sum(per_call) / CLIENTS, unit="us", note=note, fault=fault))
    return figures
