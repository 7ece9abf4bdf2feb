"""Exceptions that commands declare: what the checkers say of the list, and that it changes nothing else."""

from dataclasses import dataclass
from typing import reveal_type

from typedrpc.command import rpc
from typedrpc.service import FunctionService, Service


class OutOfStock(Exception):
    def __init__(self, item: str, left: int = 0) -> None:
        self.item = item
        self.left = left


@dataclass
class NotSold(Exception):
    reasons: list[str]


class Shop(Service):
    @rpc
    def plain(self, item: str) -> int:
        return 1

    @rpc(raises=[OutOfStock])
    def one(self, item: str) -> int:
        raise OutOfStock(item)

    @rpc(id=7, raises=(OutOfStock, NotSold))
    def two(self, item: str) -> int:
        raise NotSold([item])

    @rpc(raises=[])
    def none(self, item: str) -> int:
        return 1


class Implements(Shop):
    @rpc(raises=[OutOfStock])
    def one(self, item: str) -> int:
        return 1

    @rpc
    def two(self, item: str) -> int:
        return 1


def verdicts(shop: Shop) -> None:
    reveal_type(shop.plain)  # R: BoundCommand[def (item: str) -> int] | BoundCommand[(item: str) -> int]
    reveal_type(shop.one)  # R: BoundCommand[def (item: str) -> int] | BoundCommand[(item: str) -> int]
    reveal_type(shop.two)  # R: BoundCommand[def (item: str) -> int] | BoundCommand[(item: str) -> int]
    reveal_type(Shop.none)  # R: Command[def (item: str) -> int] | Command[(item: str) -> int]
    reveal_type(shop.one("apple"))  # R: int | int
    shop.one(1)  # E: arg-type | reportArgumentType
    shop.two.submit(b"apple")  # E: arg-type | reportArgumentType
    try:
        shop.one("apple")
    except OutOfStock as error:
        reveal_type(error.left)  # R: int | int


goods = FunctionService("goods")


@goods.rpc(raises=[OutOfStock, NotSold])
def find(item: str) -> int:
    return 1


reveal_type(find)  # R: FunctionCommand[def (item: str) -> int] | FunctionCommand[(item: str) -> int]


class Wrong(Service):
    @rpc(raises=[int])  # E: list-item | reportArgumentType
    def number(self) -> None: ...

    @rpc(raises=[OutOfStock, "NotSold"])  # E: list-item | reportArgumentType
    def text(self) -> None: ...

    @rpc(raises=OutOfStock)  # E: call-overload | reportArgumentType
    def no_list(self) -> None: ...

    @rpc(raises=[OutOfStock("apple")])  # E: list-item | reportArgumentType
    def instance(self) -> None: ...

    @rpc(raises=[SystemExit])  # E: list-item | reportArgumentType
    def ends(self) -> None: ...


@goods.rpc(raises=[int])  # E: list-item | reportArgumentType
def wrong() -> None: ...
