"""What `bench.py` compares: a module for each library, which says how it is used."""

from typing import Final

from . import bare_echo, floor, ours, pickles, pyro, thrift
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
    "Pyro5": pyro.peer("serpent"),
    PYRO_MSGPACK: pyro.peer("msgpack"),
    "multiprocessing": pickles.PEER,
}
