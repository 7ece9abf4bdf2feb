"""Services: the classes and functions that are served, and the table of what one side serves.

A class may declare commands of its own, under its service name, and implement commands that its bases declare; these
keep the id, the service name and the signature of the declaration. So one class may serve several contracts.
"""

from __future__ import annotations

import functools
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, ParamSpec, TypeVar, cast, final, overload

from typedrpc.command import BoundCommand, Caller, Command, FunctionCommand, Proxy, find_in_class
from typedrpc.definition import (
    bound_signature,
    fault_of_changed_colour,
    fault_of_command_name,
    fault_of_id,
    fault_of_implementation,
    fault_of_service_name,
    free_id,
)
from typedrpc.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")
CallableT = TypeVar("CallableT", bound=Callable[..., Any])


_DIFFERS = "its signature is not that of the contract {contract}: take the class that declares it"


class Service(metaclass=ABCMeta):
    """The base of contracts and of their implementations.

    It has no public names, so that a command may be called anything. ``class Store(Service, name="store")`` sets the
    service name, which is the class's name otherwise. A subclass that overrides a command implements it; with
    ``@abstractmethod`` below ``@rpc`` a contract can be imported without its implementation.

    Raises:
        DefinitionError: At the definition of a subclass, with everything that is wrong with it.
    """

    __slots__ = ()
    __typedrpc__: ClassVar[_ClassContract]

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A decorator that makes the class again, as dataclass(slots=True) does, hands over the namespace, not `name`.
        twin: _ClassContract | None = cls.__dict__.get("__typedrpc__")
        if name is None and twin is not None:
            name = twin.given_name
        contract = _ClassContract(cls, name)
        if faults := contract.collect():
            raise DefinitionError(cls.__qualname__, faults)
        cls.__typedrpc__ = contract


ServiceT = TypeVar("ServiceT", bound=Service)


class FunctionService:
    """Functions that are served without a class::

        greet = FunctionService("greet")

        @greet.rpc
        def hello(name: str) -> str: ...

    Raises:
        DefinitionError: The name cannot be the name of a service.
    """

    def __init__(self, name: str) -> None:
        if (fault := fault_of_service_name(name)) is not None:
            raise DefinitionError("FunctionService", [fault])
        self._contract = _FunctionContract(name)

    @overload
    def rpc(self, function: Callable[P, R], /) -> FunctionCommand[Callable[P, R]]: ...
    @overload
    def rpc(
        self,
        *,
        id: int | None = None,
        raises: Sequence[type[Exception]] = (),
        idempotent: bool = False,
        requires: str | None = None,
    ) -> Callable[[Callable[P, R]], FunctionCommand[Callable[P, R]]]: ...
    def rpc(
        self,
        function: Any = None,
        *,
        id: int | None = None,
        raises: Sequence[type[Exception]] = (),
        idempotent: bool = False,
        requires: str | None = None,
    ) -> Any:
        """Make a function a command of this service. Its annotations are the contract.

        Args:
            id: The 16-bit command id, 0 to 0xFEFF; without it the id is derived from the names of service and command.
            raises: Classes of exceptions that arrive at the caller as themselves, as for ``rpc``.
            idempotent: It does no harm if a call runs twice, as for ``rpc``.
            requires: What a caller must be allowed, as for ``rpc``.

        Raises:
            DefinitionError: With everything that is wrong with the definition.
        """
        if function is None:
            return lambda function: self._contract.add(
                FunctionCommand(function, id=id, raises=raises, idempotent=idempotent, requires=requires)
            )
        return self._contract.add(FunctionCommand(function))

    def __repr__(self) -> str:
        return f"<FunctionService {self._contract.name!r}>"


class _Contract:
    """What a class or a function service declares and implements.

    Attributes:
        name: The service name of the commands that it declares itself.
        services: Service name to command name to the declared command, those of base classes among them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.services: dict[str, dict[str, Command[Any]]] = {}

    def declarations(self) -> Iterator[Command[Any]]:
        for commands in self.services.values():
            yield from commands.values()

    def resolve(self) -> None:
        """Read the signatures that could not be read at definition. Raises as `_resolve` does."""
        _resolve(self.name, self.declarations())


def _resolve(subject: str, commands: Iterable[Command[Any]]) -> None:
    """Read the signatures that could not be read at definition.

    Raises:
        DefinitionError: A name still does not resolve, or what it stands for cannot be carried.
    """
    faults = [
        f"{command.qualified_name}: {fault}"
        for command in commands
        if not command.is_resolved
        for fault in command.find_faults(final=True)
    ]
    if faults:
        raise DefinitionError(subject, faults)


@final
class _FunctionContract(_Contract):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.services[name] = {}
        self.by_id: dict[int, Command[Any]] = {}

    def implementation_of(self, declaration: Command[Any]) -> Command[Any]:
        return declaration

    def add(self, command: FunctionCommand[CallableT]) -> FunctionCommand[CallableT]:
        own = self.services[self.name]
        command.declare(self.name, command.name, own)
        faults = command.find_faults(final=False)
        if (fault := fault_of_command_name(command.name)) is not None:
            faults.append(fault)
        if command.name in own:
            faults.append("the service has another command of this name")
        elif (other := self.by_id.get(command.id)) is not None:
            faults.append(_clash(other, command, command.id, set(self.by_id), "@rpc(id={id})"))
        if faults:
            raise DefinitionError(command.qualified_name, faults)
        own[command.name] = command
        self.by_id[command.id] = command
        return command


@final
class _ClassContract(_Contract):
    """The contract of a ``Service`` subclass.

    Attributes:
        given_name: The service name that stands in the class statement, if any.
        declared: The commands that the class declares itself.
        implementations: Declared command to the command that implements it, where that is another one.
        unread: Declared commands whose signature was not known yet when an implementation was compared with it.
    """

    def __init__(self, cls: type[Service], name: str | None) -> None:
        self.fault_of_name = None if name is None else fault_of_service_name(name)
        super().__init__(cls.__name__ if name is None or self.fault_of_name else name)
        self.cls = cls
        self.given_name = name
        self.declared: dict[str, Command[Any]] = {}
        self.implementations: dict[Command[Any], Command[Any]] = {}
        self.unread: dict[Command[Any], None] = {}
        self.bases = [base.__dict__["__typedrpc__"] for base in cls.__mro__[1:] if "__typedrpc__" in base.__dict__]

    def collect(self) -> list[str]:
        """Find the commands of the class and of its bases, and everything that is wrong with them."""
        faults = [] if self.fault_of_name is None else [self.fault_of_name]
        faults += [
            f"{name}: {base.__qualname__}, which has this command, does not derive from Service"
            for base in self.cls.__mro__[1:]
            if not issubclass(base, Service)
            for name, value in base.__dict__.items()
            if isinstance(value, Command) and not isinstance(value, FunctionCommand)
        ]
        for base in self.bases:
            faults += self._merge(base.declared)
            self.unread.update(base.unread)
        for name, value in list(self.cls.__dict__.items()):
            if isinstance(value, Command):
                faults += [f"{name}: {fault}" for fault in self._add(name, value)]
            elif _covers_command(value):
                faults.append(
                    f"{name}: a {type(value).__name__} stands above @rpc, which must be the outermost decorator"
                )
        faults += self._merge(self.declared)
        for declaration in self.declarations() if self.bases else ():
            faults += [f"{declaration.name}: {fault}" for fault in self._find_implementation(declaration)]
        faults += self._find_clashes()
        if self.given_name is not None and self.bases and not self.declared and self.services:
            faults.append(f"name={self.given_name!r} has no effect: the class declares no command of its own")
        return faults

    def implementation_of(self, declaration: Command[Any]) -> Command[Any]:
        return self.implementations.get(declaration, declaration)

    def _add(self, name: str, command: Command[Any]) -> list[str]:
        """Complete a command that stands in the class itself."""
        declaration = next((base.declared[name] for base in self.bases if name in base.declared), None)
        if isinstance(command, FunctionCommand):
            return [f"a command of a FunctionService, {command.qualified_name}, cannot be a command of a class"]
        target = (self.name, name, command) if declaration is None else (declaration.service_name, name, declaration)
        if command.service_name and (command.service_name, command.name, command.declaration) != target:
            return [f"it is the command {command.qualified_name} already: define a function of its own"]
        if declaration is None:
            command.declare(self.name, name, self.services.setdefault(self.name, {}))
            self.declared[name] = command
            fault = fault_of_command_name(name)
            return [*command.find_faults(final=False), *([] if fault is None else [fault])]
        command.implement(declaration)
        faults = command.find_form_faults()
        if command.explicit_id not in (None, declaration.id):
            faults.append(
                f"the contract {declaration.qualified_name} has the id {declaration.id}, which an implementation "
                f"cannot change: leave id={command.explicit_id} out"
            )
        return faults

    def _merge(self, declared: Mapping[str, Command[Any]]) -> list[str]:
        faults = []
        for name, command in declared.items():
            commands = self.services.setdefault(command.service_name, {})
            other = commands.setdefault(name, command)
            if other is not command:
                faults.append(
                    f"{name}: two base classes declare {command.qualified_name}: give one of them another name="
                )
        return faults

    def _find_implementation(self, declaration: Command[Any]) -> list[str]:
        found = find_in_class(self.cls, declaration.name)
        if found is declaration:
            return []
        if not isinstance(found, Command):
            return [f"it implements the command {declaration.qualified_name}: put @rpc above it"]
        self.implementations[declaration] = found
        if any(base.implementations.get(declaration) is found for base in self.bases) or found.find_form_faults():
            return []
        result = declaration.schema.result if declaration.is_resolved else None
        if result is None:
            self.unread[declaration] = None
        fault = fault_of_changed_colour(declaration.function, found.function, result) or fault_of_implementation(
            bound_signature(declaration.function), bound_signature(found.function)
        )
        return [] if fault is None else [_misfit(declaration, fault)]

    def resolve(self) -> None:
        super().resolve()
        faults = []
        for declaration in list(self.unread):  # another thread may clear it
            found = self.implementation_of(declaration)
            fault = fault_of_changed_colour(declaration.function, found.function, declaration.schema.result)
            faults += [] if fault is None else [f"{found.name}: {_misfit(declaration, fault)}"]
        if faults:
            raise DefinitionError(self.cls.__qualname__, faults)
        self.unread.clear()

    def _find_clashes(self) -> list[str]:
        by_id: dict[int, Command[Any]] = {}
        clashing = [command for command in self.declarations() if by_id.setdefault(command.id, command) is not command]
        taken = set(by_id)
        return [_clash(by_id[command.id], command, command.id, taken, "@rpc(id={id})") for command in clashing]

    @functools.cached_property
    def proxy_class(self) -> type[Proxy]:
        """The class of the proxies of this contract, a virtual subclass of it.

        Raises:
            DefinitionError: An annotation does not resolve, or an implementation differs from its contract's signature.
        """
        self.resolve()
        # The checkers see the implementation's signature in the proxy; the peer need not have this implementation.
        faults = [
            f"{found.name}: {_DIFFERS.format(contract=declaration.qualified_name)}"
            for declaration, found in self.implementations.items()
            if not found.has_schema_of(declaration)
        ]
        if faults:
            raise DefinitionError(self.cls.__qualname__, faults)
        namespace = {"__typedrpc_contract__": self.cls, "__doc__": self.cls.__doc__, "__module__": self.cls.__module__}
        proxy_class = type(f"{self.cls.__name__}Proxy", (Proxy,), namespace)
        # Not self.cls.register, which may be a command.
        ABCMeta.register(self.cls, proxy_class)
        return proxy_class


def _misfit(declaration: Command[Any], fault: str) -> str:
    return f"it does not fit its contract {declaration.qualified_name}: {fault}"


def _covers_command(value: object) -> bool:
    """Whether another decorator was put above ``@rpc``: the command would be lost in silence."""
    covered = (getattr(value, name, None) for name in ("__func__", "fget", "__wrapped__"))
    return any(isinstance(inner, Command) for inner in covered)


def _clash(first: Command[Any], second: Command[Any], id: int, taken: set[int], remedy: str) -> str:
    """Two commands with one id, in words; the id that is proposed counts as taken from here on."""
    text = f"{first.qualified_name} and {second.qualified_name} both have the id {id} (0x{id:04X})"
    free = free_id(id, taken)
    if free is None:
        return f"{text} and no id is free"
    taken.add(free)
    return f"{text}: give one of them a free one, as {remedy.format(id=free, command=second.qualified_name)}"


def _contract_of(subject: object) -> _ClassContract | _FunctionContract:
    """The contract of a class, of an instance of it, of a proxy's class or of a function service.

    Raises:
        DefinitionError: It is none of these.
    """
    if isinstance(subject, FunctionService):
        return subject._contract
    cls = subject if isinstance(subject, type) else type(subject)
    if issubclass(cls, Proxy):
        cls = cls.__typedrpc_contract__
    contract = cls.__dict__.get("__typedrpc__")
    if isinstance(contract, _ClassContract):
        return contract
    if issubclass(cls, Service) and cls is not Service:
        raise DefinitionError(cls.__qualname__, ["an __init_subclass__ of its bases does not call super's"])
    raise DefinitionError(repr(subject), ["it is neither a subclass of Service nor a FunctionService"])


def commands_of(subject: object) -> Mapping[str, Command[Any]]:
    """The commands of a contract, a service, a proxy or a ``FunctionService``: command name to command.

    Of a class that implements two contracts with a command of the same name, the one that its instances have.

    Raises:
        DefinitionError: It is none of these.
    """
    contract = _contract_of(subject)
    if isinstance(contract, _FunctionContract):
        return MappingProxyType(contract.services[contract.name])
    commands = {command.name: find_in_class(contract.cls, command.name) for command in contract.declarations()}
    return MappingProxyType(cast("dict[str, Command[Any]]", commands))


def services_of(subject: object) -> Mapping[str, Mapping[str, Command[Any]]]:
    """The services that a contract consists of: service name to command name to the command as it is declared.

    Of a command, it is the whole service that declares it. This is what two peers compare: see ``contract_digest``.

    Raises:
        DefinitionError: It is neither a contract, a service, a proxy, a ``FunctionService`` nor a command of one, or an
            annotation that did not resolve at definition still does not.
    """
    if isinstance(subject, Command) and subject.siblings:
        _resolve(subject.service_name, subject.siblings.values())
        return MappingProxyType({subject.service_name: subject.siblings})
    contract = _contract_of(subject)
    contract.resolve()
    return MappingProxyType(contract.services)


def service_name_of(subject: object) -> str:
    """The name under which a class or ``FunctionService`` declares its commands.

    A class that only implements commands has the name of the first contract that it implements.

    Raises:
        DefinitionError: It is neither a contract, a service, a proxy nor a ``FunctionService``.
    """
    contract = _contract_of(subject)
    return contract.name if contract.name in contract.services else next(iter(contract.services), contract.name)


def make_proxy(contract: Callable[..., ServiceT], caller: Caller) -> ServiceT:
    """A proxy of a contract, whose commands go through the caller. The contract may be abstract.

    ``isinstance(proxy, contract)`` holds. Nothing but the commands is there: other methods and attributes of the class
    raise ``AttributeError``, as what they need is at the peer.

    Raises:
        DefinitionError: It is not a contract, or the contract cannot be carried.
    """
    if not isinstance(contract, type) or not issubclass(contract, Service) or issubclass(contract, Proxy):
        raise DefinitionError(repr(contract), ["a proxy is made from a subclass of Service"])
    found = _contract_of(contract)
    assert isinstance(found, _ClassContract)
    proxy = object.__new__(found.proxy_class)
    object.__setattr__(proxy, "__typedrpc_caller__", caller)
    return cast(ServiceT, proxy)


def bind(command: Command[CallableT], caller: Caller) -> BoundCommand[CallableT]:
    """A command whose calls go through the caller, without a proxy around it.

    Raises:
        DefinitionError: No service has the command, or its signature cannot be carried.
    """
    check_carried(command)
    return BoundCommand(command, caller)


def check_carried(command: Command[Any]) -> None:
    """Check that a command can be called at a peer.

    Raises:
        DefinitionError: No service has it, or its signature cannot be carried.
    """
    if not command.service_name:
        raise DefinitionError(
            command.qualified_name, ["it belongs to no service: its class does not derive from Service"]
        )
    declaration = command.declaration
    if faults := [] if declaration.is_resolved else declaration.find_faults(final=True):
        raise DefinitionError(command.qualified_name, faults)
    if declaration is not command and not command.has_schema_of(declaration):
        raise DefinitionError(command.qualified_name, [_DIFFERS.format(contract=declaration.qualified_name)])


def contract_digest(commands: Iterable[tuple[str, int, bytes]]) -> bytes:
    """16 bytes that are equal where the commands of a service are: the start of a SHA-256.

    Args:
        commands: Name, id and fingerprint of the signature of each command, in any order. What is hashed is, sorted by
            name: the name in UTF-8, a zero byte, the id as two bytes big-endian, the 8 bytes of the fingerprint.
    """
    import hashlib  # imported when used: it costs 4 ms, mostly to load libcrypto

    digest = hashlib.sha256()
    for name, id, fingerprint in sorted(commands):
        digest.update(b"%s\0%s%s" % (name.encode(), id.to_bytes(2, "big"), fingerprint))
    return digest.digest()[:16]


@final
class PerPeer:
    """Stands in a table for the instances of a class of which each peer has its own.

    Attributes:
        cls: The class, or one that theirs derive from.
        place: Which of a peer's instances it is.
    """

    __slots__ = ("cls", "place")

    def __init__(self, cls: type[Service], place: int) -> None:
        self.cls = cls
        self.place = place


def implementation_for(command: Command[Any], instance: Service) -> Command[Any]:
    """The command by which an instance implements a declared one."""
    return _contract_of(instance).implementation_of(command)


def function_for(command: Command[Any], instance: Service) -> Callable[..., Any]:
    """What runs a declared command on an instance."""
    function: Callable[..., Any] = implementation_for(command, instance).function
    bound: Callable[..., Any] = function.__get__(instance)
    return bound


@final
class Entry:
    """One row of a table: a command that is served.

    Attributes:
        command: The command as it is declared: its signature and codec count.
        implementation: The command that implements it, or itself: what it requires counts.
        function: What runs it, bound to the served instance; where each peer has its own, it is not bound.
        id: The id under which this side serves it.
        place: Which of a peer's own instances runs it; None where all peers share one.
    """

    __slots__ = ("command", "function", "id", "implementation", "place")

    def __init__(
        self,
        command: Command[Any],
        implementation: Command[Any],
        function: Callable[..., Any],
        id: int,
        place: int | None = None,
    ) -> None:
        self.command = command
        self.implementation = implementation
        self.function = function
        self.id = id
        self.place = place

    def __repr__(self) -> str:
        return f"<entry {self.id:#06x} {self.command.qualified_name}>"


@final
class Table:
    """What one side serves, as it was when the table was made.

    Attributes:
        entries: Command id to entry.
        services: Service name to command name to entry.

    Raises:
        DefinitionError: With everything that keeps these services from being served together.
    """

    def __init__(
        self, services: Iterable[Service | FunctionService | PerPeer], ids: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """
        Args:
            services: Instances of ``Service`` subclasses, what stands for those of the peers, and function services.
            ids: Other ids for some commands: ``{"Greeter.add": 7}``.
        """
        self.entries: dict[int, Entry] = {}
        self.services: dict[str, dict[str, Entry]] = {}
        self._digests: dict[str, bytes] = {}
        usable = {name: id for name, id in ids.items() if fault_of_id(id) is None}
        faults = [fault for service in services for fault in self._add(service, usable)]
        served = {entry.command.qualified_name for entries in self.services.values() for entry in entries.values()}
        faults += [f"ids: no command {name!r} is served" for name in ids if name not in served]
        faults += [f"ids: {name}: {fault}" for name, id in ids.items() if (fault := fault_of_id(id)) is not None]
        faults += self._number()
        if faults:
            raise DefinitionError("services served together", faults)

    def contract(self, service_name: str) -> dict[str, tuple[int, bytes]] | None:
        """Command name to id and fingerprint of the signature; None if there is no such service."""
        if (entries := self.services.get(service_name)) is None:
            return None
        return {name: (entry.id, entry.command.schema.fingerprint) for name, entry in entries.items()}

    def digest(self, service_name: str) -> bytes | None:
        """The ``contract_digest`` of a service; None if there is no such service."""
        if (known := self._digests.get(service_name)) is not None:
            return known
        if (contract := self.contract(service_name)) is None:
            return None
        digest = contract_digest((name, id, fingerprint) for name, (id, fingerprint) in contract.items())
        self._digests[service_name] = digest
        return digest

    def digests(self) -> dict[str, bytes]:
        """The ``contract_digest`` of each service."""
        return {name: digest for name in self.services if (digest := self.digest(name)) is not None}

    def signatures(self, service_name: str, names: Iterable[str]) -> dict[str, Any]:
        """The signatures of those of the named commands that there are, as plain data."""
        entries = self.services.get(service_name, {})
        return {name: entries[name].command.schema.to_data() for name in names if name in entries}

    def _add(self, service: object, ids: Mapping[str, int]) -> list[str]:
        """Make the entries of one service; its faults in words."""
        place = service.place if isinstance(service, PerPeer) else None
        if not isinstance(service, Service | FunctionService | PerPeer):
            return [f"{service!r} is neither an instance of a Service subclass nor a FunctionService"]
        if isinstance(service, Proxy):
            return [f"{service!r} is a proxy: what it stands for is served by the peer"]
        try:
            contract = _contract_of(service.cls if isinstance(service, PerPeer) else service)
            contract.resolve()
        except DefinitionError as problem:
            return list(problem.faults)
        faults = []
        for service_name, commands in contract.services.items():
            entries: dict[str, Entry] = {}
            if self.services.setdefault(service_name, entries) is not entries:
                faults.append(f"two services have the name {service_name!r}: give one of their classes another name=")
                continue
            for name, command in commands.items():
                implementation = contract.implementation_of(command)
                function = implementation.function
                if isinstance(service, Service):
                    function = function.__get__(service)
                entries[name] = Entry(
                    command, implementation, function, ids.get(command.qualified_name, command.id), place
                )
        return faults

    def _number(self) -> list[str]:
        """Fill in `entries`; the ids that clash in words."""
        rows = [entry for entries in self.services.values() for entry in entries.values()]
        clashing = [entry for entry in rows if self.entries.setdefault(entry.id, entry) is not entry]
        taken = set(self.entries)
        return [
            _clash(self.entries[entry.id].command, entry.command, entry.id, taken, 'ids={{"{command}": {id}}}')
            for entry in clashing
        ]
