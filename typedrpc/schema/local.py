"""The names of the functions around a contract, for string annotations of what is local to them.

Python keeps no trace of them: ``from __future__ import annotations`` makes each annotation a string, and the names in
it are local variables of a function that runs. So they are looked for on the stack, where the function is found by its
qualified name, when a class is defined and again when its annotations are first needed. What was found is kept (the
values, never a frame) until all annotations are resolved.

What this does not find: a name that is defined after the contract, in a function that has returned, or that runs in
another thread, when the annotation is first needed; the names of a function that the contract is not local to. The
remedy is to define what a contract names before it, or in a module.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from typing import Any

_WITHIN = ".<locals>."


class LocalNames:
    """The local variables of the functions around a definition, by the qualified names of these functions."""

    __slots__ = ("_functions", "_module")

    def __init__(self, module: str, functions: Mapping[str, Mapping[str, Any]]) -> None:
        self._module = module
        self._functions = functions

    def of(self, owner: Any) -> list[Mapping[str, Any]]:
        """What annotations of a function or a class see, from the inside out; nothing where it is local to others."""
        if owner.__module__ != self._module:
            return []
        return [self._functions[name] for name in enclosing(owner) if name in self._functions]

    def kept(self) -> LocalNames:
        """The same names with the values of now, which hold no frame."""
        return LocalNames(self._module, {name: dict(values) for name, values in self._functions.items()})

    def completed(self, other: LocalNames | None) -> LocalNames:
        """These names, and those of `other` that are not among them."""
        if other is None:
            return self
        both = {
            name: {**other._functions.get(name, {}), **self._functions.get(name, {})}
            for name in {**self._functions, **other._functions}
        }
        return LocalNames(self._module, both)


def is_local(owner: Any) -> bool:
    """Whether a function, or whatever it is, was defined within a function."""
    return _WITHIN in getattr(owner, "__qualname__", "")


def enclosing(owner: Any) -> list[str]:
    """The qualified names of the functions that `owner` is local to, from the inside out."""
    parts = owner.__qualname__.split(_WITHIN)
    return [_WITHIN.join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def running_around(function: Any, frame: FrameType | None, *, holding: tuple[object, ...] = ()) -> LocalNames | None:
    """The names of the functions around `function` that run now, on the stack from `frame` outwards.

    Args:
        function: A function that is no wrapper.
        frame: Where to begin.
        holding: The innermost function has one of these as a local variable, which tells it from other calls of the
            same function. Without it the first one is taken, which is right while the definition runs.

    Returns:
        None if the innermost one does not run.
    """
    wanted = enclosing(function)
    globals = getattr(function, "__globals__", None)
    found: dict[str, Mapping[str, Any]] = {}
    while frame is not None and len(found) < len(wanted):
        name = frame.f_code.co_qualname
        if name in wanted and name not in found and frame.f_globals is globals:
            names = frame.f_locals
            if found or (name == wanted[0] and _holds(names, holding)):
                found[name] = names
        frame = frame.f_back
    return LocalNames(function.__module__, found) if found else None


def _holds(names: Mapping[str, Any], wanted: tuple[object, ...]) -> bool:
    return not wanted or any(value is one for value in names.values() for one in wanted)
