"""The calls of threads on a connection that belongs to an event loop."""

import subprocess
import sys
from pathlib import Path

from tests.support import PATIENCE

# In a process of its own: what it leaves behind on purpose, its loop would warn of in other tests.
PROGRAM = """
import asyncio
from tests.support import Running, Workshop
from typedrpc import aio
from typedrpc.aio import calling

calling.CHECK_TIME = 0.01
workshop = Workshop()

async def main():
    server = await aio.Server(workshop, url="tcp://127.0.0.1:0").start()
    client = await aio.connect(Workshop, server.url)
    running = Running(client.proxy(Workshop).wait, "job")
    await asyncio.to_thread(workshop.started["job"].wait)
    return running

print(type(asyncio.run(main()).error()).__name__)
workshop.gates.open_all()
"""


def test_a_thread_that_waits_learns_that_the_loop_is_closed() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "OutcomeUnknown\n", done.stderr
