"""The two processes of a peer that `bench.py` starts: they are told what to do by lines of standard input.

The server prints its addresses, and for each line the CPU seconds that it has used. The client prints that it is ready,
and for each line, which is an order in JSON, what it took, or what went wrong. Either ends when its input does.
"""

import argparse
import faulthandler
import gc
import json
import logging
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from time import process_time
from typing import Final

from bench_works import Order, Worker
from peers import PEERS
from peers.base import Peer
from workload import allow_descriptors, pin

PATIENCE: Final = 180.0
"""Seconds that a turn may take beyond its time before it counts as hung, and the process ends with all stacks. A pass
of 20,000 or of 64 MiB takes some of them 10 s, on a busy machine many times that."""


def serve(peer: Peer, folder: str) -> None:
    with ExitStack() as stack:
        addresses: dict[str, str | None] = {"tcp": stack.enter_context(peer.serve(None)), "unix": None}
        if "unix" not in peer.left_out and hasattr(socket, "AF_UNIX"):
            addresses["unix"] = stack.enter_context(peer.serve(str(Path(folder) / f"{os.getpid()}")))
        _without_garbage()
        print(json.dumps(addresses), flush=True)
        for _ in sys.stdin:
            print(process_time(), flush=True)
        os._exit(0)  # what its threads still do is of no interest


def call(peer: Peer, addresses: dict[str, str | None]) -> None:
    with ExitStack() as stack:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        worker = Worker(peer, addresses, stack)
        worker.verify()
        _without_garbage()
        faulthandler.cancel_dump_traceback_later()
        print("ready", flush=True)
        for line in sys.stdin:
            order: Order = json.loads(line)
            faulthandler.dump_traceback_later(order["seconds"] + PATIENCE, exit=True)
            try:
                answer = json.dumps(worker.take_turn(order))
            except Exception as error:
                answer = json.dumps({"error": f"{type(error).__name__}: {str(error).strip()[:200]}"})
            faulthandler.cancel_dump_traceback_later()
            print(answer, flush=True)
        os._exit(0)


def _without_garbage() -> None:
    """What was made until now is not looked through again by the garbage collector."""
    gc.collect()
    gc.freeze()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    parser.add_argument("role", choices=("serve", "call"))
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("where", help="a folder for sockets, or the addresses that the server printed")
    arguments = parser.parse_args()
    pin(arguments.cpu)
    allow_descriptors()
    logging.disable()  # connections end in all ways that there are
    peer = PEERS[arguments.peer]
    if arguments.role == "serve":
        serve(peer, arguments.where)
    else:
        call(peer, json.loads(arguments.where))


if __name__ == "__main__":
    main()
