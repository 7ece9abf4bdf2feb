"""Services that each peer has an instance of its own of: from a class, or from a function that makes them."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, final, get_type_hints

from typedrpc.command import Proxy
from typedrpc.errors import DefinitionError
from typedrpc.peer import Peer
from typedrpc.schema import running_around
from typedrpc.service import FunctionService, PerPeer, Service

Servable: TypeAlias = Service | FunctionService | Callable[[], Service] | Callable[[Peer], Service]
"""What a server serves: instances and function services to all, instances of classes and of factories to one each."""


@final
class Factory:
    """Makes the instance of one peer.

    Attributes:
        cls: What it makes instances of.
    """

    __slots__ = ("_function", "_takes_peer", "cls")

    def __init__(self, function: Callable[..., Any]) -> None:
        """
        Args:
            function: A subclass of ``Service``, or a function with such a result. It is given the peer if it cannot be
                called without an argument.

        Raises:
            DefinitionError: It is neither, or wants something else.
        """
        self.cls = _made_by(function)
        self._function = function
        self._takes_peer = _takes_peer(function)

    def make(self, peer: Peer) -> Service:
        """A new instance. Raises what the function does, and ``TypeError`` if it made something else."""
        instance: Service = self._function(peer) if self._takes_peer else self._function()
        if not isinstance(instance, self.cls) or isinstance(instance, Proxy):
            raise TypeError(f"{self._function!r} is to make a {self.cls.__name__}, and made {instance!r}")
        return instance


def sort_out(services: Iterable[object]) -> tuple[list[Any], list[Factory]]:
    """What to put in a table, and the factories among it.

    Raises:
        DefinitionError: With everything that is wrong with the factories.
    """
    served: list[Any] = []
    factories: list[Factory] = []
    faults: list[str] = []
    for service in services:
        if isinstance(service, Service | FunctionService) or not callable(service):
            served.append(service)
            continue
        try:
            factory = Factory(service)
        except DefinitionError as problem:
            faults += [f"{problem.subject}: {fault}" for fault in problem.faults]
            continue
        served.append(PerPeer(factory.cls, len(factories)))
        factories.append(factory)
    if faults:
        raise DefinitionError("services served together", faults)
    return served, factories


def _made_by(function: Callable[..., object]) -> type[Service]:
    """The class of what a function makes."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if isinstance(inner, type):
        if not issubclass(inner, Service) or issubclass(inner, Proxy):
            raise DefinitionError(repr(inner), ["it is no subclass of Service"])
        if abstract := sorted(getattr(inner, "__abstractmethods__", ())):
            raise DefinitionError(
                inner.__qualname__, [f"it is abstract ({', '.join(abstract)}): pass the class that implements it"]
            )
        return inner
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    name = getattr(inner, "__qualname__", repr(function))
    if inspect.iscoroutinefunction(inner):
        how = "make the service at once, and give it __aenter__ for what is to be awaited before the client is let in"
        raise DefinitionError(name, [f"it is async: {how}"])
    if "return" not in getattr(inner, "__annotations__", {}):
        remedy = "annotate its result, as in `-> Session`, or pass the class of the service"
        raise DefinitionError(name, [f"nothing says which service it makes: {remedy}"])
    try:
        result = get_type_hints(inner, localns=_names_around(inner))["return"]
    except Exception as error:
        raise DefinitionError(name, [f"its annotations do not resolve: {error}"]) from error
    if not isinstance(result, type) or not issubclass(result, Service) or result is Service:
        raise DefinitionError(name, [f"what it makes is no subclass of Service but {result!r}"])
    return result


def _names_around(function: Any) -> dict[str, Any] | None:
    """The names of the functions that a factory is local to, as string annotations see them."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    found = running_around(function, sys._getframe(1))
    names: dict[str, Any] = {}
    for values in reversed(list(found.of(function)) if found is not None else []):
        names.update(values)
    return names or None


def _takes_peer(function: Callable[..., object]) -> bool:
    signature = inspect.signature(function)
    for args in ((), (None,)):
        try:
            signature.bind(*args)
        except TypeError:
            continue
        return bool(args)
    name, wanted = getattr(function, "__qualname__", repr(function)), ", ".join(signature.parameters)
    raise DefinitionError(name, [f"it is called with the peer, or with nothing, which ({wanted}) does not take"])
