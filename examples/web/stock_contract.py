"""What the warehouse and the web application agree on."""

from abc import abstractmethod
from collections.abc import AsyncIterator

from typedrpc import Service, rpc


class NoSuchProduct(Exception):
    """Declared below, so it arrives in the web application as itself."""

    def __init__(self, product: str) -> None:
        super().__init__(f"there is no {product}")
        self.product = product


class OutOfStock(Exception):
    def __init__(self, product: str, left: int) -> None:
        super().__init__(f"only {left} of {product} left")
        self.product = product
        self.left = left


class Stock(Service):
    @rpc(raises=[NoSuchProduct])
    @abstractmethod
    async def left(self, product: str) -> int:
        """How many there are.

        Raises:
            NoSuchProduct: There never were any.
        """

    @rpc(raises=[NoSuchProduct, OutOfStock])
    @abstractmethod
    async def reserve(self, product: str, count: int) -> int:
        """Take some of them. Returns how many are left.

        Raises:
            NoSuchProduct: There never were any.
            OutOfStock: There are not so many.
            ValueError: The count is not 1 or more.
        """

    @rpc(raises=[NoSuchProduct])
    @abstractmethod
    def watch(self, product: str) -> AsyncIterator[int]:
        """How many are left: now, and after each change, until there are none.

        Raises:
            NoSuchProduct: There never were any.
        """
