"""Whoever has left a server is forgotten there, though nobody else comes, and nothing else happens."""

import gc
import weakref
from typing import Any

import pytest

from tests.certificates import of_client, of_server
from tests.ends import Colours, for_servers
from tests.support import until
from typedrpc import ConnectionLost, Service, current_call, rpc

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")


class Door(Service):
    def __init__(self) -> None:
        self.seen: list[weakref.ref[Any]] = []

    @rpc
    def knock(self) -> None:
        link: Any = current_call().peer.link
        self.seen.append(weakref.ref(link.connection))

    @rpc
    def knock_in_vain(self) -> None:
        self.knock()
        current_call().peer.close()

    @rpc
    async def knock_in_vain_at_once(self) -> None:
        self.knock_in_vain()


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize("command", [Door.knock, Door.knock_in_vain, Door.knock_in_vain_at_once])
@for_servers
def test_who_has_left_is_forgotten(scheme: str, command: Any, colours: Colours) -> None:
    door = Door()
    secured: dict[str, Any] = {"tls": of_server()} if scheme == "tls" else {}
    trusting: dict[str, Any] = {"tls": of_client()} if scheme == "tls" else {}
    with colours.serve(door, url=f"{scheme}://localhost:0", **secured) as server:
        with colours.connect(server.url, **trusting) as client:
            try:
                client.proxy(command).call()
            except ConnectionLost:
                assert command is not Door.knock
        (seen,) = door.seen

        def is_forgotten() -> bool:
            gc.collect()
            return seen() is None

        until(is_forgotten, "its end")
