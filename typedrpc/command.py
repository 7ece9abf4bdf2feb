"""A function with its annotations as a command, and the same command bound to an instance.

``@rpc`` turns a method into a ``Command``. On an instance the command yields a ``BoundCommand``, whose call forms are
typed as the function is. What a bound command does when it is called is up to its ``Caller``: a proxy's caller sends
the call to the peer; that of a plain instance runs the function itself.

Both classes are generic and covariant in the callable, not in its parameters and result apart: type checkers refuse a
compatible override of a command otherwise.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    Never,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    final,
    overload,
)

from typedrpc.codec import CommandCodec
from typedrpc.declared import NO_ERRORS, DeclaredErrors
from typedrpc.definition import (
    bound_signature,
    derived_id,
    fault_of_function,
    fault_of_id,
    is_coroutine_command,
    takes_instance,
)
from typedrpc.errors import DefinitionError
from typedrpc.options import DEFAULT_OPTIONS, UNCHANGED, Metadata, changed
from typedrpc.options import CallOptions as CallOptions
from typedrpc.schema import (
    LocalNames,
    Schema,
    SignatureFaults,
    StreamNode,
    UnresolvedNames,
    is_local,
    running_around,
    schema_of,
)
from typedrpc.stream import AsyncStream, LocalAsyncStream, LocalStream, Stream, wait_for

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
A1 = TypeVar("A1")
A1_contra = TypeVar("A1_contra", contravariant=True)
A2 = TypeVar("A2")
A2_contra = TypeVar("A2_contra", contravariant=True)
A3 = TypeVar("A3")
A3_contra = TypeVar("A3_contra", contravariant=True)
A4 = TypeVar("A4")
A4_contra = TypeVar("A4_contra", contravariant=True)
A5 = TypeVar("A5")
A5_contra = TypeVar("A5_contra", contravariant=True)
CallableT_co = TypeVar("CallableT_co", bound=Callable[..., Any], covariant=True)

logger = logging.getLogger("typedrpc")


class Caller(Protocol):
    """How bound commands reach the side that runs them.

    A bound command asks for what its command needs: ``stream`` and ``astream`` are for commands that stream their
    result, in whichever colour it is declared; the others are for all others.

    ``invoker`` gives the function that makes a blocking call: ``invoker(command, options)(*args, **kwargs) -> result``,
    also of a coroutine command. It is asked once for each bound command, when that is first called; if it raises, the
    next call asks again. ``awaiter`` gives the coroutine function of a call likewise: what that gives starts when it is
    awaited, on whatever event loop runs. ``submit`` starts a call and returns its future, ``notify`` sends a one-way
    call. ``map`` calls once for each tuple of items and yields the results in order; there is at least one iterable;
    the last argument asks for the ``Exception`` of a call that fails in its place. ``stream`` and ``astream`` start a
    call and return its stream, for threads and for whatever event loop runs.
    """

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]: ...

    def awaiter(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Coroutine[Any, Any, Any]]: ...

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]: ...

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None: ...

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool,
        /,
    ) -> Iterator[Any]: ...

    def stream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Stream[Any]: ...

    def astream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> AsyncStream[Any]: ...


class Command(Generic[CallableT_co]):
    """A function that can be called from another process.

    Made by ``@rpc`` and completed by the service that it is in. A command which implements one that a base class
    declares has the declaration's id, service name and signature.

    Attributes:
        function: The function as it was written.
        name: The name of the command.
        service_name: The name of the service that declares it, ``""`` while there is none.
        id: The 16-bit command id, -1 while there is none.
        explicit_id: The id that was given with ``id=``, if any.
        declaration: The command that this one implements, or itself.
        siblings: All commands that the service which declares this one has, by name.
    """

    _is_method: ClassVar[bool] = True

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        id: int | None = None,
        raises: Sequence[type[Exception]] = (),
        idempotent: bool = False,
        requires: str | None = None,
        replaces: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = getattr(function, "__name__", "")
        self.service_name = ""
        self.id = -1
        self.explicit_id = id
        # Annotated here and not in the class body, where type checkers take a command for the descriptor that it is.
        self.declaration: Command[Any] = self
        self.siblings: Mapping[str, Command[Any]] = {}
        self._idempotent = idempotent
        self._requires = requires
        self._errors = NO_ERRORS if raises == () else DeclaredErrors(raises)
        self._replaces = replaces
        self._owner: type[Any] | None = None
        self._names: LocalNames | None = None
        self._schema: Schema | None = None
        self._codec: CommandCodec | None = None
        self._colour: tuple[bool, bool] | None = None  # whether it streams, whether it is async

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._owner = owner

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> BoundCommand[CallableT_co]: ...
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self | BoundCommand[CallableT_co]:
        if instance is None:
            return self
        return BoundCommand(self, LocalCaller(instance))

    # The first overload is for a result of any type: it alone fits what the next ones would fit by chance.
    @overload
    def __call__(self: Command[Callable[P, Never]], instance: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def __call__(
        self: Command[Callable[P, AsyncIterator[T]]], instance: Any, /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    @overload
    def __call__(
        self: Command[Callable[P, Iterator[T]]], instance: Any, /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def __call__(self: Command[Callable[P, R]], instance: Any, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the command of an instance or of a proxy, as ``Greeter.hello(greeter, "Robert")``."""
        if isinstance(instance, Proxy):
            return getattr(instance, self.name)(*args, **kwargs)
        return self._as_declared(self.function(instance, *args, **kwargs))

    def _as_declared(self, result: Any) -> Any:
        """What the function here has returned, as a proxy would give it."""
        if not self.streams:
            return result
        return LocalAsyncStream(result) if self.is_async else LocalStream(result)

    def __repr__(self) -> str:
        return f"<command {self.qualified_name}, id {self.id}>"

    @property
    def qualified_name(self) -> str:
        """``"Greeter.hello"``: service name and command name."""
        return f"{self.service_name}.{self.name}" if self.service_name else self.name

    @property
    def schema(self) -> Schema:
        """The signature that callers and handlers agree on: that of the declaration.

        Raises:
            DefinitionError: A name in the annotations does still not resolve, or an annotation cannot be carried.
        """
        declaration = self.declaration
        if declaration._schema is None and (faults := declaration.find_faults(final=True)):
            raise DefinitionError(declaration.qualified_name, faults)
        assert declaration._schema is not None, "no faults means that there is a signature"
        return declaration._schema

    @property
    def codec(self) -> CommandCodec:
        """The codec of the declaration's signature. Raises as ``signature`` does."""
        declaration = self.declaration
        if declaration._codec is None:
            declaration._codec = CommandCodec(declaration.qualified_name, self.schema)
        return declaration._codec

    @property
    def errors(self) -> DeclaredErrors:
        """The exceptions that the declaration declares. Raises as ``schema`` does."""
        declaration = self.declaration
        if not declaration._errors.is_read and (faults := declaration.find_faults(final=True)):
            raise DefinitionError(declaration.qualified_name, faults)
        return declaration._errors

    @property
    def idempotent(self) -> bool:
        """Whether it does no harm if a call runs twice: the declaration says so."""
        return self.declaration._idempotent

    @property
    def requires(self) -> str | None:
        """What a caller must be allowed, for the server's ``authorize``; the declaration's where this says nothing."""
        return self.declaration._requires if self._requires is None else self._requires

    @property
    def streams(self) -> bool:
        """Whether the declaration streams its result. Does not raise: no, where its signature cannot be read."""
        declaration = self.declaration
        return (declaration._colour or declaration._read_colour())[0]

    @property
    def is_async(self) -> bool:
        """Whether a call as declared gives what is awaited, or iterated over with ``async for``."""
        declaration = self.declaration
        return (declaration._colour or declaration._read_colour())[1]

    def _read_colour(self) -> tuple[bool, bool]:
        try:
            result = self.schema.result
        except DefinitionError:  # which does not keep a plain instance from its function; its names may come yet
            return False, is_coroutine_command(self.function)
        if isinstance(result, StreamNode):
            self._colour = True, result.is_async
        else:
            self._colour = False, is_coroutine_command(self.function)
        return self._colour

    @property
    def is_resolved(self) -> bool:
        """Whether all annotations have been read; they have not while a name in them does not resolve yet."""
        return self.declaration._is_read

    @property
    def _is_read(self) -> bool:
        return self._schema is not None and self._errors.is_read

    def find_faults(self, *, final: bool) -> list[str]:
        """What is wrong with the function as a command that a service declares, a sentence each; reads the signature.

        Args:
            final: Report a name that does not resolve; otherwise that is left for a later look.
        """
        faults = self.find_form_faults()
        readable = inspect.isfunction(self.function) and (not self._is_method or takes_instance(self.function))
        if self._is_read or not readable:
            return faults
        for read in (self._read, self._read_errors):
            try:
                read(defining=not final)
            except SignatureFaults as problem:
                faults.extend(problem.faults)
                faults.extend(problem.unresolved if final else ())
            except UnresolvedNames as problem:
                faults.extend(problem.unresolved if final else ())
        return faults

    def _read(self, *, defining: bool) -> Schema:
        """The signature of the function itself.

        Args:
            defining: The definition runs, so that the functions which the command is local to are those on the stack.

        Raises:
            SignatureFaults: It cannot be carried.
            UnresolvedNames: A name in the annotations does not resolve (yet).
        """
        if self._schema is None:
            with self._local_names(defining=defining) as names:
                self._schema = schema_of(self.function, method=self._is_method, names=names, owner=self._owner)
        return self._schema

    def _read_errors(self, *, defining: bool) -> None:
        """As ``_read``, for the exceptions that are declared."""
        if not self._errors.is_read:
            with self._local_names(defining=defining) as names:
                self._errors.read(names)

    @contextmanager
    def _local_names(self, *, defining: bool) -> Iterator[LocalNames | None]:
        """The names of the functions that the command is local to, which are kept until everything is read."""
        function = inspect.unwrap(self.function)
        names = self._names
        if is_local(function):
            holding = () if defining else (self if self._owner is None else self._owner,)
            running = running_around(function, sys._getframe(1), holding=holding)
            names = running if names is None else names.completed(running)
        try:
            yield names
        except UnresolvedNames:
            self._names = names and names.kept()
            raise
        if self._is_read:
            self._names = None

    def find_form_faults(self) -> list[str]:
        """What is wrong with the command apart from its annotations, a sentence each."""
        faults = []
        if self._replaces:
            faults.append("the class has two commands of this name")
        if self.explicit_id is not None and (fault := fault_of_id(self.explicit_id)) is not None:
            faults.append(fault)
        if (fault := fault_of_function(self.function, method=self._is_method)) is not None:
            faults.append(fault)
        faults += self._errors.faults
        if self.declaration is not self:
            declared = self.declaration
            if (fault := self._errors.fault_within(declared._errors, declared.qualified_name)) is not None:
                faults.append(fault)
        return faults

    def has_schema_of(self, declaration: Command[Any]) -> bool:
        """Whether the function itself, and not only the command that it implements, has the declared signature."""
        try:
            return self._read(defining=False) == declaration.schema
        except (SignatureFaults, UnresolvedNames):
            return False

    def declare(self, service_name: str, name: str, siblings: Mapping[str, Command[Any]]) -> None:
        """Complete the command as one that the service declares."""
        self.service_name = service_name
        self.name = name
        self.siblings = siblings
        given = self.explicit_id
        self.id = derived_id(service_name, name) if given is None or fault_of_id(given) is not None else given

    def implement(self, declaration: Command[Any]) -> None:
        """Complete the command as the implementation of a declared one."""
        self.service_name = declaration.service_name
        self.name = declaration.name
        self.id = declaration.id
        self.siblings = declaration.siblings
        self.declaration = declaration
        if is_local(self.function):  # its names may be gone when it is compared with its contract
            with suppress(SignatureFaults, UnresolvedNames):
                self._read(defining=True)


class FunctionCommand(Command[CallableT_co]):
    """A function of a ``FunctionService`` that can be called from another process, and here as the function it is."""

    _is_method = False

    @overload
    def __call__(self: FunctionCommand[Callable[P, Never]], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def __call__(
        self: FunctionCommand[Callable[P, AsyncIterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    @overload
    def __call__(
        self: FunctionCommand[Callable[P, Iterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def __call__(self: FunctionCommand[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._as_declared(self.function(*args, **kwargs))

    # There is no instance to bind to, also where the command is an attribute of some class.
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self:  # type: ignore[override]
        return self


class CallbackCommand(Command[CallableT_co]):
    """A function that came as an argument, as a command of the peer's."""

    _is_method = False

    def __init__(self, name: str, codec: CommandCodec, *, is_async: bool) -> None:
        def callback(*args: Any) -> Any:
            """A function of the caller, which runs there."""

        super().__init__(callback)
        self.name = name
        self._schema = codec.schema
        self._codec = codec
        self._colour = False, is_async


@final
class _GivenFunction(FunctionCommand[CallableT_co]):
    """A function that ``remote`` was given, with or without annotations."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._colour = False, True  # it may be async: what it returns will tell


class _FunctionDocs:
    """Gives instances of a class with slots the docstring of their command, and the class its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: BoundCommand[Any] | None, owner: type[Any]) -> str | None:
        return self.text if instance is None else instance.command.function.__doc__


class _Call1(Protocol[A1_contra, S_co]):
    """What ``map`` asks of the bound command: that its blocking form takes one argument by position."""

    def call(self, a: A1_contra, /) -> S_co: ...


class _Call2(Protocol[A1_contra, A2_contra, S_co]):
    def call(self, a: A1_contra, b: A2_contra, /) -> S_co: ...


class _Call3(Protocol[A1_contra, A2_contra, A3_contra, S_co]):
    def call(self, a: A1_contra, b: A2_contra, c: A3_contra, /) -> S_co: ...


class _Call4(Protocol[A1_contra, A2_contra, A3_contra, A4_contra, S_co]):
    def call(self, a: A1_contra, b: A2_contra, c: A3_contra, d: A4_contra, /) -> S_co: ...


class _Call5(Protocol[A1_contra, A2_contra, A3_contra, A4_contra, A5_contra, S_co]):
    def call(self, a: A1_contra, b: A2_contra, c: A3_contra, d: A4_contra, e: A5_contra, /) -> S_co: ...


class BoundCommand(Generic[CallableT_co]):
    __slots__ = ("__weakref__", "_await", "_block", "_caller", "_invoke", "_options", "_streams", "command")
    __doc__ = _FunctionDocs(  # pyright: ignore[reportAssignmentType]  # a descriptor, where the checker knows only str
        "A command of one instance or one proxy: call it as its function, or in its other forms."
    )

    def __init__(self, command: Command[CallableT_co], caller: Caller, options: CallOptions = DEFAULT_OPTIONS) -> None:
        self.command: Command[CallableT_co] = command
        self._caller = caller
        self._options = options

    if not TYPE_CHECKING:  # pragma: no branch
        # These are empty slots until the first call, which ends up here: later calls find them filled, and branch on
        # nothing where they go by `_invoke`, `_block` or `_await`. Hidden from type checkers, for which any attribute
        # would exist otherwise.
        def __getattr__(self, name: str) -> Any:
            if name == "_invoke":
                self._invoke = found = self._coloured()
            elif name == "_block":
                self._block = found = self._blocking()
            elif name == "_await":
                self._await = found = self._awaiting()
            elif name == "_streams":
                self._streams = found = self.command.streams
            else:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return found

    _invoke: Callable[..., Any]
    _block: Callable[..., Any]
    _await: Callable[..., Any]
    _streams: bool

    def _coloured(self) -> Callable[..., Any]:
        """What calls the command in the colour in which it is declared."""
        command, caller, options = self.command, self._caller, self._options
        if command.streams:
            start = caller.astream if command.is_async else caller.stream
            return lambda *args, **kwargs: start(command, args, kwargs, options)
        if command.is_async:
            return self._await
        return caller.invoker(command, options)

    def _awaiting(self) -> Callable[..., Any]:
        """What gives the coroutine, or the stream for ``async for``, of a call, whatever its colour."""
        command, caller, options = self.command, self._caller, self._options
        if command.streams:
            return lambda *args, **kwargs: caller.astream(command, args, kwargs, options)
        return caller.awaiter(command, options)

    def _blocking(self) -> Callable[..., Any]:
        """What calls the command and waits, whatever its colour."""
        command, caller, options = self.command, self._caller, self._options
        if command.streams:
            return lambda *args, **kwargs: caller.stream(command, args, kwargs, options)
        return caller.invoker(command, options) if command.is_async else self._invoke

    # The first overload is for a result of any type: it alone fits what the next ones would fit by chance.
    @overload
    def __call__(self: BoundCommand[Callable[P, Never]], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    @overload
    def __call__(
        self: BoundCommand[Callable[P, AsyncIterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    @overload
    def __call__(self: BoundCommand[Callable[P, Iterator[T]]], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]: ...
    @overload
    def __call__(self: BoundCommand[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the command as its function: wait for its result, or get the coroutine or the stream of it."""
        return self._invoke(*args, **kwargs) if kwargs else self._invoke(*args)

    @overload
    def call(self: BoundCommand[Callable[P, Coroutine[Any, Any, T]]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def call(self: BoundCommand[Callable[P, AsyncIterator[T]]], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]: ...
    @overload
    def call(self: BoundCommand[Callable[P, Iterator[T]]], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]: ...
    @overload
    def call(self: BoundCommand[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the command and wait for its result, whether it is declared with ``def`` or ``async def``.

        A stream of either colour comes as one for ``for``.
        """
        return self._block(*args, **kwargs)

    @overload
    def submit(
        self: BoundCommand[Callable[P, Coroutine[Any, Any, T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(
        self: BoundCommand[Callable[P, AsyncIterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Stream[T]]: ...
    @overload
    def submit(
        self: BoundCommand[Callable[P, Iterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Stream[T]]: ...
    @overload
    def submit(self: BoundCommand[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call and return its future. On a local instance the future is done when this returns.

        So it is with a stream, whose items come to whoever takes it from the future.
        """
        if not self._streams:
            return self._caller.submit(self.command, args, kwargs, self._options)
        future: Future[Any] = Future()
        future.set_result(self._caller.stream(self.command, args, kwargs, self._options))
        return future

    @overload
    def aio(
        self: BoundCommand[Callable[P, Coroutine[Any, Any, T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    # What returns a stream returns something else than what does not, though one is a case of the other.
    @overload
    def aio(  # type: ignore[overload-overlap]
        self: BoundCommand[Callable[P, AsyncIterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    @overload
    def aio(  # type: ignore[overload-overlap]
        self: BoundCommand[Callable[P, Iterator[T]]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    @overload
    def aio(self: BoundCommand[Callable[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the command and await its result, on whatever event loop runs; it starts when it is awaited.

        A stream of either colour comes as one for ``async for``.
        """
        return self._await(*args, **kwargs)

    def notify(self: BoundCommand[Callable[P, Any]], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call one-way: no result and no error of the handler comes back. A local instance logs the error.

        Raises:
            TypeError: The command streams its result, which would go nowhere.
        """
        if self._streams:
            raise TypeError(f"{self.command.qualified_name} streams its result and cannot be called one-way")
        self._caller.notify(self.command, args, kwargs, self._options)

    @overload
    def map(self: _Call1[A1, S], a: Iterable[A1], /, *, return_exceptions: Literal[False] = False) -> Iterator[S]: ...
    @overload
    def map(
        self: _Call2[A1, A2, S], a: Iterable[A1], b: Iterable[A2], /, *, return_exceptions: Literal[False] = False
    ) -> Iterator[S]: ...
    @overload
    def map(
        self: _Call3[A1, A2, A3, S],
        a: Iterable[A1],
        b: Iterable[A2],
        c: Iterable[A3],
        /,
        *,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[S]: ...
    @overload
    def map(
        self: _Call4[A1, A2, A3, A4, S],
        a: Iterable[A1],
        b: Iterable[A2],
        c: Iterable[A3],
        d: Iterable[A4],
        /,
        *,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[S]: ...
    @overload
    def map(
        self: _Call5[A1, A2, A3, A4, A5, S],
        a: Iterable[A1],
        b: Iterable[A2],
        c: Iterable[A3],
        d: Iterable[A4],
        e: Iterable[A5],
        /,
        *,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[S]: ...
    @overload
    def map(self: _Call1[A1, S], a: Iterable[A1], /, *, return_exceptions: bool) -> Iterator[S | Exception]: ...
    @overload
    def map(
        self: _Call2[A1, A2, S], a: Iterable[A1], b: Iterable[A2], /, *, return_exceptions: bool
    ) -> Iterator[S | Exception]: ...
    @overload
    def map(
        self: _Call3[A1, A2, A3, S], a: Iterable[A1], b: Iterable[A2], c: Iterable[A3], /, *, return_exceptions: bool
    ) -> Iterator[S | Exception]: ...
    @overload
    def map(
        self: _Call4[A1, A2, A3, A4, S],
        a: Iterable[A1],
        b: Iterable[A2],
        c: Iterable[A3],
        d: Iterable[A4],
        /,
        *,
        return_exceptions: bool,
    ) -> Iterator[S | Exception]: ...
    @overload
    def map(
        self: _Call5[A1, A2, A3, A4, A5, S],
        a: Iterable[A1],
        b: Iterable[A2],
        c: Iterable[A3],
        d: Iterable[A4],
        e: Iterable[A5],
        /,
        *,
        return_exceptions: bool,
    ) -> Iterator[S | Exception]: ...
    def map(self, *iterables: Iterable[Any], return_exceptions: bool = False) -> Iterator[Any]:
        """Call once for each tuple of items, as the builtin ``map`` does; results in order, ends with the shortest.

        Of a command that streams, each call starts when its stream is asked for.

        Args:
            iterables: One to five, for as many arguments by position.
            return_exceptions: Yield the exception of a call that fails in place of its result, and go on.
        """
        if not iterables:
            raise TypeError("map() takes at least one iterable")
        if self._streams:
            return map_outcomes(self._block, iterables, return_exceptions)
        return self._caller.map(self.command, iterables, self._options, return_exceptions)

    def with_options(
        self,
        *,
        timeout: float | None = UNCHANGED,
        metadata: Metadata = UNCHANGED,
        on_metadata: Callable[[Metadata], object] | None = UNCHANGED,
    ) -> Self:
        """The same command with other options; those that are not given stay as they are.

        Args:
            timeout: Seconds until a call ends with ``DeadlineExceeded``; None for the connection's default. Calls on a
                local instance are not timed.
            metadata: What goes with each call, for the handler's ``current_call().metadata``; copied at once.
            on_metadata: Called, before a call returns or raises, with what the handler left in
                ``current_call().reply_metadata``. Calls on a local instance have neither.

        Raises:
            ValueError: The time-out is negative or not finite; the metadata is larger than 8192 bytes or 64 entries.
            TypeError: Something is of another type; metadata is of str to str or bytes.
        """
        options = changed(self._options, timeout=timeout, metadata=metadata, on_metadata=on_metadata)
        return type(self)(self.command, self._caller, options)

    def __repr__(self) -> str:
        return f"<bound command {self.command.qualified_name} of {self._caller!r}>"

    @property
    def __name__(self) -> str:
        return self.command.name

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.command.function

    @property
    def __signature__(self) -> inspect.Signature:
        command = self.command
        return bound_signature(command.function) if command._is_method else inspect.signature(command.function)


def map_outcomes(
    invoke: Callable[..., Any], iterables: tuple[Iterable[Any], ...], return_exceptions: bool
) -> Iterator[Any]:
    """As the builtin ``map``, if asked with the exceptions of calls that fail in place of their results."""
    if not return_exceptions:
        return map(invoke, *iterables)

    def outcome(*args: Any) -> Any:
        try:
            return invoke(*args)
        except Exception as problem:
            return problem

    return map(outcome, *iterables)


class LocalCaller:
    """The caller of a plain instance: its commands run the function itself, in the calling thread.

    A coroutine that is to be waited for runs on an event loop of its own.
    """

    __slots__ = ("_instance",)

    def __init__(self, instance: object) -> None:
        self._instance = instance

    def _function_of(self, command: Command[Any]) -> Callable[..., Any]:
        bound: Callable[..., Any] = command.function.__get__(self._instance)
        return bound

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        function = self._function_of(command)
        if not command.is_async:
            return function

        def wait(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return wait_for(result) if inspect.isawaitable(result) else result

        return wait

    def awaiter(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Coroutine[Any, Any, Any]]:
        function = self._function_of(command)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return awaited

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(self.invoker(command, options)(*args, **kwargs))
        except Exception as problem:
            future.set_exception(problem)
        return future

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None:
        try:
            self.invoker(command, options)(*args, **kwargs)
        except Exception:
            logger.exception("%s failed in a one-way call", command.qualified_name)

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool,
        /,
    ) -> Iterator[Any]:
        return map_outcomes(self.invoker(command, options), iterables, return_exceptions)

    def stream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Stream[Any]:
        return LocalStream(self._function_of(command)(*args, **kwargs))

    def astream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> AsyncStream[Any]:
        return LocalAsyncStream(self._function_of(command)(*args, **kwargs))

    def __repr__(self) -> str:
        return repr(self._instance)


@final
class _FunctionCaller(LocalCaller):
    """The caller of a function that is here."""

    __slots__ = ()

    def _function_of(self, command: Command[Any]) -> Callable[..., Any]:
        return command.function


@final
class _BoundFunction(BoundCommand[CallableT_co]):
    """A function that is here, of which nobody has said whether what it returns is awaited."""

    __slots__ = ()

    def _coloured(self) -> Callable[..., Any]:
        return self.command.function


@overload
def remote(callback: Callable[P, Awaitable[T]], /) -> BoundCommand[Callable[P, Coroutine[Any, Any, T]]]: ...
@overload
def remote(callback: Callable[P, R], /) -> BoundCommand[Callable[P, R]]: ...
def remote(callback: Callable[..., Any], /) -> BoundCommand[Any]:
    """The other call forms of a callback, in the handler that was given it::

        @rpc
        def train(self, steps: int, progress: Callable[[float], None]) -> Model:
            remote(progress).notify(0.0)

    A function that did not come from a peer, as in a test of the handler, is called here.
    """
    if isinstance(callback, BoundCommand):
        return callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, BoundCommand) and getattr(callback, "__name__", "") == "aio":
        return owner
    return _BoundFunction(_GivenFunction(callback), _FunctionCaller(callback))


def find_in_class(cls: type[Any], name: str) -> object:
    """What a class or its bases have under a name, as it stands there; None if there is nothing."""
    for base in cls.__mro__:
        if name in base.__dict__:
            found: object = base.__dict__[name]
            return found
    return None


class Proxy:
    """What every proxy is an instance of: it has the commands of its contract, and nothing else.

    The first access to a command keeps the bound command in the instance, where the next access finds it.
    """

    # Commands may have any name that does not begin with two underscores; so these cannot meet one.
    __typedrpc_contract__: type[Any]
    __typedrpc_caller__: Caller

    def __getattr__(self, name: str) -> BoundCommand[Any]:
        contract = self.__typedrpc_contract__
        found = find_in_class(contract, name)
        if isinstance(found, Command):
            bound: BoundCommand[Any] = BoundCommand(found, self.__typedrpc_caller__)
            object.__setattr__(self, name, bound)
            return bound
        if found is None:
            raise AttributeError(f"{contract.__name__} has no command {name!r}")
        raise AttributeError(
            f"{name!r} is not a command of {contract.__name__}: a proxy has only what @rpc stands above"
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot set {name!r}: a proxy of {self.__typedrpc_contract__.__name__} has only commands")

    def __dir__(self) -> Iterable[str]:
        contract = self.__typedrpc_contract__
        commands = [name for name in dir(contract) if isinstance(find_in_class(contract, name), Command)]
        return [*object.__dir__(self), *commands]

    def __repr__(self) -> str:
        return f"<proxy of {self.__typedrpc_contract__.__name__} via {self.__typedrpc_caller__!r}>"


@overload
def rpc(function: Callable[Concatenate[Any, P], R], /) -> Command[Callable[P, R]]: ...
@overload
def rpc(
    *,
    id: int | None = None,
    raises: Sequence[type[Exception]] = (),
    idempotent: bool = False,
    requires: str | None = None,
) -> Callable[[Callable[Concatenate[Any, P], R]], Command[Callable[P, R]]]: ...
def rpc(
    function: Any = None,
    /,
    *,
    id: int | None = None,
    raises: Sequence[type[Exception]] = (),
    idempotent: bool = False,
    requires: str | None = None,
) -> Any:
    """Make a method of a ``Service`` a command. Its annotations are the contract.

    Args:
        id: The 16-bit command id, 0 to 0xFEFF; without it the id is derived from the names of service and command.
        raises: Classes of exceptions that arrive at the caller as themselves, with their fields: what the annotated
            parameters of ``__init__`` are named, each kept in an attribute of that name, or those of a dataclass. An
            exception of a derived class arrives as the nearest one of these.
        idempotent: It does no harm if a call runs twice, so that a client with ``retry`` may send it again whatever has
            become of it.
        requires: What the server's ``authorize`` is to look for before a caller is let to it, such as ``"admin"``.

    Whatever is wrong with the definition is reported when the class is made.
    """
    if function is None:
        # A decorator with arguments is called from the class body as one without is.
        return lambda function: Command(
            function,
            id=id,
            raises=raises,
            idempotent=idempotent,
            requires=requires,
            replaces=_replaces_command(function, sys._getframe(1).f_locals),
        )
    return Command(function, replaces=_replaces_command(function, sys._getframe(1).f_locals))


def _replaces_command(function: object, namespace: dict[str, Any]) -> bool:
    """Whether a class body has a command of this name already, which would be overwritten in silence."""
    return isinstance(namespace.get(getattr(function, "__name__", "")), Command)
