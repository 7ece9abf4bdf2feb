"""The exceptions that a command declares: ``@rpc(raises=[OutOfStock])``.

They are no part of the command's schema. An exception travels under the name of its class, with its fields by name;
what the peer names is looked up among the declared classes and nowhere else. So either side may declare more of them,
or give one more fields, and what the other does not know arrives there as a ``RemoteError``.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Final, final

from typedrpc import errors
from typedrpc.codec import CodecError, ErrorCodec
from typedrpc.failure import PUBLIC_BUILTINS, DeclaredFailure, pack_declared_failure
from typedrpc.schema import LocalNames, RecordNode, errors_of


@final
class DeclaredErrors:
    """What one command declares to raise.

    Attributes:
        classes: The classes, as far as they are exceptions that can be declared.
        faults: What is wrong with the list apart from the annotations, a sentence each.
    """

    def __init__(self, raises: object = ()) -> None:
        """
        Args:
            raises: What stands behind ``raises=``.
        """
        given: tuple[Any, ...] = ()
        self.faults: list[str] = []
        if isinstance(raises, Sequence) and not isinstance(raises, str):
            given = tuple(raises)
        else:
            self.faults.append(f"raises= takes a list of classes of exceptions, got {raises!r}")
        by_name: dict[str, type[Exception]] = {}
        for cls in given:
            if (fault := _fault_of(cls)) is not None:
                self.faults.append(f"raises: {fault}")
            elif by_name.setdefault(cls.__name__, cls) is not cls:
                self.faults.append(f"raises: two classes are named {cls.__name__}, by which they travel: rename one")
        self.classes: tuple[type[Exception], ...] = tuple(by_name.values())
        self._nodes: tuple[RecordNode, ...] | None = None if self.classes else ()
        self._codecs: dict[type[Any], ErrorCodec] = {}

    @property
    def is_read(self) -> bool:
        """Whether the annotations of the classes have been read."""
        return self._nodes is not None

    def read(self, names: LocalNames | None) -> None:
        """Read the annotations of the classes.

        Args:
            names: The names of the functions that the classes may be local to.

        Raises:
            SignatureFaults: A class has fields that cannot travel.
            UnresolvedNames: A name in the annotations does not resolve (yet).
        """
        if self._nodes is None:
            self._nodes = errors_of(self.classes, names)

    def fault_within(self, declared: DeclaredErrors, contract: str) -> str | None:
        """Why an implementation cannot declare these, whose contract declares those; None where it can."""
        more = [cls.__name__ for cls in self.classes if declared.find(cls) is None]
        if not more:
            return None
        return f"the contract {contract} does not declare {' and '.join(more)}: declare it there, where callers see it"

    def find(self, kind: type[BaseException]) -> type[Exception] | None:
        """The nearest base of a class of exceptions that is declared, which may be the class itself."""
        return next((base for base in kind.__mro__ if base in self.classes), None)

    def pack(self, command: str, error: BaseException) -> bytes | None:
        """The payload of the error frame for what a handler raised; None where it is not declared.

        Raises:
            CodecError: It is declared, and its fields do not fit their annotations.
        """
        cls = self.find(type(error)) if self.classes else None
        if cls is None or not isinstance(error, Exception):
            return None
        return pack_declared_failure(error, cls.__name__, self._codec(command, cls).pack(error))

    def rebuild(self, failure: DeclaredFailure) -> Exception:
        """The exception to be raised at the caller, with its cause. Never raises."""
        cls = next((cls for cls in self.classes if cls.__name__ == failure.type_name), None)
        if cls is None:
            return failure.plain(f"the contract here does not declare it: see raises= of {failure.command}")
        try:
            error = self._codec(failure.command, cls).unpack(failure.fields)
        except CodecError as problem:
            return failure.plain(f"its fields cannot be read here: {problem}")
        # Not by an assignment, which a frozen dataclass refuses.
        Exception.__setattr__(error, "__cause__", failure.origin())
        return error

    def _codec(self, command: str, cls: type[Exception]) -> ErrorCodec:
        codec = self._codecs.get(cls)
        if codec is None:
            assert self._nodes is not None, "a command is not called before it is read"
            node = next(node for node in self._nodes if node.cls is cls)
            codec = self._codecs[cls] = ErrorCodec(command, node)
        return codec


NO_ERRORS: Final = DeclaredErrors()


def _fault_of(cls: object) -> str | None:
    """Why this cannot be declared, whatever its fields, or None."""
    if not isinstance(cls, type):
        return f"{cls!r} is no class"
    name = cls.__name__
    if not issubclass(cls, BaseException):
        return f"{name} is no exception: derive it from Exception"
    if not issubclass(cls, Exception):
        return f"{name} does not derive from Exception: what ends a program is nothing to tell a caller"
    if PUBLIC_BUILTINS.get(name) is cls or cls.__module__ == errors.__name__:
        if issubclass(cls, errors.RpcError) and not issubclass(cls, errors.ArgumentError):
            return f"{name} is typedrpc's own, and callers would take it for theirs: derive a class from Exception"
        return f"{name} arrives as itself in any case: leave it out"
    if getattr(builtins, name, None) is cls:
        return f"{name} is Python's own, and callers would take it for theirs: derive a class from it and declare that"
    if not name.isidentifier():
        return f"a class is declared by its name, and {name!r} is none"
    return None
