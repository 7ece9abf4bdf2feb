"""What makes the services of each peer: classes and functions, and what they are called with."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from typedrpc import DefinitionError, FunctionService, Peer, Service, rpc
from typedrpc.factories import Factory, sort_out
from typedrpc.service import PerPeer


class Store(Service):
    @rpc
    @abstractmethod
    def get(self) -> str: ...


class Disk(Store):
    def __init__(self, peer: object = "nobody") -> None:
        self.peer = peer

    @rpc
    def get(self) -> str:
        return f"for {self.peer}"


class Wanting(Disk):
    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)


def make_without() -> Store:
    return Disk()


def make_with(peer: Peer) -> Disk:
    return Disk(peer)


def make_quoted(peer: "Peer") -> "Disk":
    return Disk(peer)


class Maker:
    def __call__(self, peer: Peer) -> Disk:
        return Disk(peer)

    def make(self) -> Disk:
        return Disk("maker")


PEER: Any = "peer"


@pytest.mark.parametrize(
    ("function", "cls", "for_whom"),
    [
        (Disk, Disk, "nobody"),
        (Wanting, Wanting, "peer"),
        (make_without, Store, "nobody"),
        (make_with, Disk, "peer"),
        (make_quoted, Disk, "peer"),
        (Maker(), Disk, "peer"),
        (Maker().make, Disk, "maker"),
        (partial(Disk, "part"), Disk, "part"),
        (partial(make_with, PEER), Disk, "peer"),
    ],
)
def test_what_makes_services(function: Callable[..., Service], cls: type[Service], for_whom: str) -> None:
    factory = Factory(function)
    assert factory.cls is cls
    made = factory.make(PEER)
    assert isinstance(made, Disk)
    assert made.peer == for_whom


def test_a_factory_that_is_local() -> None:
    class Local(Disk):
        pass

    def make() -> "Local":
        return Local()

    assert Factory(make).cls is Local


def unannotated():  # type: ignore[no-untyped-def]
    return Disk()


def unresolved() -> "Missing":  # type: ignore[name-defined]  # noqa: F821
    return Disk()


def something_else() -> int:
    return 5


def any_service() -> Service:
    return Disk()


def wants_more(peer: Peer, size: int) -> Disk:
    return Disk(peer)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (unannotated, r"unannotated: nothing says which service it makes: annotate its result, as in `-> Session`, or"),
        (lambda: Disk(), "nothing says which service it makes"),
        (partial(unannotated), "nothing says which service it makes"),
        (unresolved, "unresolved: its annotations do not resolve: name 'Missing'"),
        (something_else, "something_else: what it makes is no subclass of Service but <class 'int'>"),
        (any_service, "any_service: what it makes is no subclass of Service but"),
        (wants_more, r"wants_more: it is called with the peer, or with nothing, which \(peer, size\) does not take"),
        (Store, r"Store: it is abstract \(get\): pass the class that implements it"),
        (int, "<class 'int'>: it is no subclass of Service"),
    ],
)
def test_what_makes_none(function: Any, fault: str) -> None:
    with pytest.raises(DefinitionError, match=fault):
        Factory(function)


def test_a_function_that_does_not_keep_to_its_annotation() -> None:
    def make() -> Disk:
        return 5  # type: ignore[return-value]

    with pytest.raises(TypeError, match="is to make a Disk, and made 5"):
        Factory(make).make(PEER)


def test_what_is_served_to_all_is_left_alone() -> None:
    greet, disk = FunctionService("greet"), Disk()
    served, factories = sort_out([greet, Disk, disk, make_without, 5])
    assert [served[0], served[2], served[4]] == [greet, disk, 5]
    assert [factory.cls for factory in factories] == [Disk, Store]
    for place, one in enumerate([served[1], served[3]]):
        assert isinstance(one, PerPeer)
        assert (one.cls, one.place) == (factories[place].cls, place)


def test_all_faults_together() -> None:
    with pytest.raises(DefinitionError) as caught:
        sort_out([Store, unannotated])
    assert len(caught.value.faults) == 2
