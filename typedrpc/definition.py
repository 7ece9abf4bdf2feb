"""What a definition may look like: ids, names, functions that can be commands, implementations of a contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from types import FunctionType
from typing import Any

from typedrpc.schema import Node, fault_of_colour

# Ids from here on are the protocol's own.
FIRST_RESERVED_ID = 0xFF00

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def derived_id(service_name: str, name: str) -> int:
    """The id of a command that has no explicit one.

    The first 32 bits, big-endian, of SHA-256 over ``"<service name>.<command name>"`` in UTF-8, modulo 0xFF00. A
    command name is an identifier and has no dot, so that the text stands for one pair of names only.
    """
    import hashlib  # imported when used: it costs 4 ms, mostly to load libcrypto

    digest = hashlib.sha256(f"{service_name}.{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % FIRST_RESERVED_ID


def free_id(start: int, taken: Container[int]) -> int | None:
    """The first id after ``start``, going round, that is not taken; None if there is none."""
    for step in range(1, FIRST_RESERVED_ID):
        candidate = (start + step) % FIRST_RESERVED_ID
        if candidate not in taken:
            return candidate
    return None


def fault_of_id(id: object) -> str | None:
    """Why this cannot be the id of a user's command, or None."""
    if not isinstance(id, int) or isinstance(id, bool):
        return f"an id is an int, got {id!r}"
    if not 0 <= id < FIRST_RESERVED_ID:
        return f"id {id} is out of range: ids go from 0 to {FIRST_RESERVED_ID - 1} (0x{FIRST_RESERVED_ID - 1:04X})"
    return None


def fault_of_service_name(name: object) -> str | None:
    """Why this cannot be the name of a service, or None."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return f"a service name is a str of printable characters, got {name!r}"
    return None


def fault_of_command_name(name: str) -> str | None:
    """Why this cannot be the name of a command, or None."""
    if name.startswith("__"):
        return "a name that begins with two underscores is Python's own and cannot be a command's"
    if not name.isidentifier():
        return f"a command's name is an identifier, got {name!r}"
    return None


def fault_of_function(function: object, *, method: bool) -> str | None:
    """Why this object cannot be a command, whatever its annotations, or None."""
    if not isinstance(function, FunctionType):
        kind = type(function).__name__
        if isinstance(function, staticmethod | classmethod | property):
            return f"a {kind} cannot be a command: write a plain method"
        return f"@rpc goes above a function made with def, not above an object of type {kind}"
    if method and not takes_instance(function):
        return "it has no 'self': a command of a class is a method"
    return None


def is_coroutine_command(function: Callable[..., Any]) -> bool:
    """Whether a function is ``async def`` without ``yield``, so that a call of it is awaited."""
    return inspect.iscoroutinefunction(function)


def takes_instance(function: Callable[..., Any]) -> bool:
    """Whether a function has a first positional parameter, as a method does."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.kind in (*_POSITIONAL, first.VAR_POSITIONAL)


def bound_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method as its callers see it, without the instance."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind in _POSITIONAL:
        del parameters[0]
    return signature.replace(parameters=parameters)


def fault_of_implementation(contract: inspect.Signature, implementation: inspect.Signature) -> str | None:
    """Why a function cannot be called in every way in which its contract can, or None.

    Both signatures are without the instance. Types are the type checker's business; this looks at binding only, because
    a handler is called with what the contract lets through.
    """
    for kind, text in ((inspect.Parameter.VAR_POSITIONAL, "*args"), (inspect.Parameter.VAR_KEYWORD, "**kwargs")):
        if _has(contract, kind) and not _has(implementation, kind):
            return f"the contract takes {text}, the implementation does not"
    for args, kwargs in _ways_to_call(contract):
        try:
            implementation.bind(*args, **kwargs)
        except TypeError as problem:
            words = ", ".join([*args, *(f"{name}=..." for name in kwargs)])
            return f"the contract allows the call ({words}), the implementation does not: {problem}"
    return None


def fault_of_changed_colour(
    contract: Callable[..., Any], implementation: Callable[..., Any], result: Node | None
) -> str | None:
    """Why a function has not the colour of its contract, or None: those who call either of them await both, or none.

    Args:
        contract: The function that declares the command.
        implementation: The one that implements it.
        result: The declared result, which says what the implementation may yield; None where it is not known yet.
    """
    is_awaited = is_coroutine_command(contract)
    if is_awaited is not is_coroutine_command(implementation):
        if is_awaited and inspect.isasyncgenfunction(implementation):
            return "the contract is async def without yield, the implementation yields: leave the yield out"
        if is_awaited:
            return "the contract is async def, the implementation is def: write async def"
        if inspect.isasyncgenfunction(contract):
            return "the contract yields, the implementation is async def without yield: yield in it, or write def"
        return "the contract is def, the implementation is async def without yield: write def"
    fault = None if result is None else fault_of_colour(implementation, result)
    return None if fault is None else f"the implementation is another kind of function: {fault[0]}"


def _has(signature: inspect.Signature, kind: object) -> bool:
    return any(parameter.kind is kind for parameter in signature.parameters.values())


def _ways_to_call(signature: inspect.Signature) -> list[tuple[list[str], dict[str, str]]]:
    """Calls that between them use every name, every position and every default; each argument is its parameter's name.

    With and without what has a default, and for each number of arguments given by position the rest given by name.
    """
    ways = []
    for only_required in (True, False):
        wanted = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and not (only_required and parameter.default is not parameter.empty)
        ]
        by_position = [parameter.name for parameter in wanted if parameter.kind in _POSITIONAL]
        fewest = sum(parameter.kind is parameter.POSITIONAL_ONLY for parameter in wanted)
        for count in range(fewest, len(by_position) + 1):
            given = by_position[:count]
            ways.append((given, {p.name: p.name for p in wanted if p.name not in given}))
    return ways
