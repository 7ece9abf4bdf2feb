"""What `bench.py` compares: a module for each library, which says how it is used."""

from typing import Final

from . import bare_echo, capnp_loop, floor, grpc_sync, ours, pickles, pyro, rpyc_threads, thrift, vgi, xml, zero
from .base import Peer

OURS: Final = "typedrpc"
ECHO: Final = "bare echo"
FLOOR: Final = "floor"
PYRO_MSGPACK: Final = "Pyro5 msgpack"

PEERS: Final[dict[str, Peer]] = {
    OURS: ours.PEER,
    ECHO: bare_echo.PEER,
    FLOOR: floor.PEER,
    "thriftpy2": thrift.PEER,
    "thriftpy2, time-outs": thrift.WITH_TIME_OUTS,
    "Pyro5": pyro.peer("serpent"),
    PYRO_MSGPACK: pyro.peer("msgpack"),
    "RPyC": rpyc_threads.PEER,
    "gRPC": grpc_sync.PEER,
    "zerorpc": zero.PEER,
    "pycapnp": capnp_loop.PEER,
    "vgi-rpc": vgi.PEER,
    "multiprocessing": pickles.PEER,
    "pickled dataclasses": pickles.DATACLASSES,
    "xmlrpc": xml.PEER,
}
