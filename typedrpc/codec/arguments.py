"""The arguments of a call: bound as Python binds them, checked and packed; and back.

Wire form. The parameters of a command are numbered in the order of declaration, whatever their kind. The payload is

- an array of the arguments for the parameters 0, 1, ... n-1, where just these are given, or
- a map from a parameter's number to its argument, where one in between is not given.

The argument for ``*args`` is an array and that for ``**kwargs`` a map from names, left out when they are empty. An
argument that is not given is not sent; the callee's default counts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from typedrpc.codec.base import Coder, Coders
from typedrpc.codec.body import (
    NO_CALLBACKS,
    SEGMENT_THRESHOLD,
    Buffer,
    CallbackReader,
    Packing,
    Payload,
    SegmentReader,
    open_payload,
    pack_body,
)
from typedrpc.codec.containers import CollectionCoder, listed
from typedrpc.codec.faults import Fault, cut, index_step, short, too_deep
from typedrpc.codec.source import Source, emit_packed, emit_unpacked
from typedrpc.errors import ArgumentError, ArgumentMissing, ArgumentTypeError, ArgumentValueError
from typedrpc.schema import (
    NONE,
    Adaptation,
    CollectionNode,
    Companion,
    MappingNode,
    Parameter,
    ParameterKind,
    ScalarNode,
    Schema,
    companion_of,
)

MAX_FAULTS = 20
"""Faults of one call that its error lists."""


class _Missing(enum.Enum):
    MISSING = "not given"


MISSING: Any = _Missing.MISSING
"""Stands for an argument that is not given. Fits no type."""


class ArgumentsCoder:
    """Packs and unpacks the arguments of one command.

    Args:
        command: Its name for error texts.
        schema: Its schema.
        coders: Makes the coders.
        companion: Gives what is handed out with the functions or iterators of a parameter with this name. Where there
            is one, the functions that are compiled take what they need for callbacks besides, and for streams, which
            go the same way.
    """

    def __init__(
        self,
        command: str,
        schema: Schema,
        coders: Coders,
        companion: Callable[[str, Companion], Any] | None = None,
    ) -> None:
        self._command = command
        self._parameters = schema.parameters
        self._callbacks = companion is not None
        self._coders = [_coder(parameter, coders, companion) for parameter in self._parameters]
        kinds = [parameter.kind for parameter in self._parameters]
        self._positional = sum(kind <= ParameterKind.POSITIONAL_OR_KEYWORD for kind in kinds)
        self._star = _index(kinds, ParameterKind.VAR_POSITIONAL)
        self._star_star = _index(kinds, ParameterKind.VAR_KEYWORD)
        self._by_name = {
            parameter.name: index for index, parameter in enumerate(self._parameters) if parameter.kind.by_name
        }
        self._names = frozenset(self._by_name)
        self._uses_segments = any(coder.uses_segments for coder in self._coders)

    # Packing.

    def compile_pack(self) -> Callable[..., Payload]:
        """``pack(*args, **kwargs)``, to be called as the command is.

        With callbacks it is ``pack(callbacks, *args, **kwargs)``, which appends the functions to this empty list, each
        with what is handed out with it.
        """
        out = Source(f"pack the arguments of {self._command}")
        names = [out.fresh(parameter.name) for parameter in self._parameters]
        star = names[self._star] if self._star is not None else out.fresh("extra")
        named = names[self._star_star] if self._star_star is not None else out.fresh("unknown")
        missing = out.constant(MISSING, "missing")
        values = ", ".join(name for index, name in enumerate(names) if index not in (self._star, self._star_star))
        callbacks = ", callbacks" if self._callbacks else ""
        failed = f"{out.constant(self._pack_slowly)}([{values}], {star}, {named}{callbacks})"
        heads = ["callbacks"] if self._callbacks else []
        heads += [f"{names[index]}={missing}" for index in range(self._positional)]
        keyword_only = [
            name
            for name, parameter in zip(names, self._parameters, strict=True)
            if parameter.kind is ParameterKind.KEYWORD_ONLY
        ]
        with out.block(f"def pack({', '.join([*heads, *(['/'] if heads else []), f'*{star}', f'**{named}'])}):"):
            for name in keyword_only:
                out.line(f"{name} = {missing}")
            if self._by_name:
                with out.block(f"if {named}:"):
                    for text, index in self._by_name.items():
                        with out.block(f"if {names[index]} is {missing}:"):
                            out.line(f"{names[index]} = {named}.pop({text!r}, {missing})")
                    if self._star_star is not None:
                        # What is left and is the name of a parameter was given twice.
                        with out.block(f"if not {out.constant(self._names, 'names')}.isdisjoint({named}):"):
                            out.line(f"return {failed}")
            for name, coder in zip(names, self._coders, strict=True):
                if coder.one_shot:
                    out.line(f"{name} = {out.constant(listed)}({name})")
            with out.block("try:"):
                refused = [extra for extra in (star, named) if extra not in names]
                if refused:
                    with out.block(f"if {' or '.join(refused)}:"):
                        out.line("raise misfit")
                if self._uses_segments:
                    out.line("segments = []")
                self._emit_pack(out, names, missing)
            with out.block("except Exception:"):
                out.line("pass")
            out.line(f"return {failed}")
        return out.build("pack")

    def compile_pack_each(self) -> Callable[[Iterable[tuple[Any, ...]]], Iterator[Payload]] | None:
        """``pack_each(inputs)``: an iterator over the payloads of calls, each with all arguments, by position.

        It raises what ``pack`` does, or the inputs, and is of no use any more then. There is no such function where
        something may be given by name alone, or callbacks may.
        """
        if self._callbacks or self._positional < len(self._parameters) or not self._parameters:
            return None
        out = Source(f"pack the arguments of calls of {self._command}")
        names = [out.fresh(parameter.name) for parameter in self._parameters]
        packer, packed = out.fresh(), out.fresh()
        # A packer keeps the buffer that its largest value needed.
        bounded = all(coder.bounded for coder in self._coders)
        with out.block("def pack_each(inputs):"):
            out.line(f"{packer} = new_packer()")
            with out.block(f"for {_tuple(names)} in inputs:"):
                for name, coder in zip(names, self._coders, strict=True):
                    if coder.one_shot:
                        out.line(f"{name} = {out.constant(listed)}({name})")
                with out.block("try:"):
                    if self._uses_segments:
                        out.line("segments = []")
                    value = _tuple(
                        [coder.emit(out, "pack", name) for name, coder in zip(names, self._coders, strict=True)]
                    )
                    out.line(f"{packed} = {packer}({value})")
                    if not bounded:
                        with out.block(f"if len({packed}) >= {SEGMENT_THRESHOLD}:"):
                            out.line(f"{packer} = new_packer()")
                    if self._uses_segments:
                        with out.block("if segments:"):
                            out.line(f"{packed} = Segmented({packed}, segments)")
                with out.block("except Exception:"):
                    out.line(f"{packer} = new_packer()")
                    out.line(f"{packed} = None")
                with out.block(f"if {packed} is None:"):
                    out.line(f"{packed} = {out.constant(self._pack_slowly)}([{', '.join(names)}], (), {{}})")
                out.line(f"yield {packed}")
        return out.build("pack_each")

    def _emit_pack(self, out: Source, names: list[str], missing: str) -> None:
        outcomes: list[str] = []
        optional: set[int] = set()
        for index, (parameter, name, coder) in enumerate(zip(self._parameters, names, self._coders, strict=True)):
            if parameter.required:
                outcomes.append(coder.emit(out, "pack", name))  # MISSING fits no type
                continue
            optional.add(index)
            variadic = index in (self._star, self._star_star)
            with out.block(f"if {name}:" if variadic else f"if {name} is not {missing}:"):
                outcome = coder.emit(out, "pack", name)
                if variadic or outcome != name:
                    out.line(f"{(converted := out.fresh())} = {outcome}")
                    outcome = converted
            if outcome != name:
                with out.block("else:"):
                    out.line(f"{outcome} = {missing}")
            outcomes.append(outcome)
        value = self._emit_given(out, outcomes, optional, missing) if optional else _tuple(outcomes)
        bounded = all(coder.bounded for coder in self._coders)
        emit_packed(out, value, bounded=bounded, segments=self._uses_segments)

    def _emit_given(self, out: Source, outcomes: list[str], optional: set[int], missing: str) -> str:
        """Writes the choice between an array of the first arguments, for each length it can have, and a map."""
        value, total = out.fresh(), len(outcomes)
        lengths = [total, *(index for index in range(total - 1, -1, -1) if optional.issuperset(range(index, total)))]
        for length in lengths:
            tests = [f"{outcomes[index]} is not {missing}" for index in range(length) if index in optional]
            tests += [f"{outcomes[index]} is {missing}" for index in range(length, total)]
            head = f"{'if' if length == total else 'elif'} {' and '.join(tests)}:"
            # A single optional parameter is either given or not.
            with out.block("else:" if len(optional) == 1 and length < total else head):
                out.line(f"{value} = {_tuple(outcomes[:length])}")
        if len(optional) > 1 or len(lengths) == 1:
            with out.block("else:"):
                out.line(f"{value} = {{i: v for i, v in enumerate({_tuple(outcomes)}) if v is not {missing}}}")
        return value

    def _pack_slowly(
        self,
        values: list[object],
        star: tuple[object, ...],
        named: dict[str, object],
        callbacks: list[tuple[Any, Any]] | None = None,
    ) -> Payload:
        """The walk over the arguments: finds all that is wrong with them, or packs what the source left to it."""
        if self._star is not None:
            values.insert(self._star, star or MISSING)
        if self._star_star is not None:
            values.insert(self._star_star, named or MISSING)
        faults = _Faults(self._command)
        self._check_binding(faults, values, star, named)
        packed: dict[int, object] = {}
        if callbacks is not None:
            callbacks.clear()  # of what the source has given up
        packing = Packing(callbacks)
        for index, (parameter, coder, value) in enumerate(zip(self._parameters, self._coders, values, strict=True)):
            if value is not MISSING:
                given = len(packing.callbacks)
                try:
                    packed[index] = coder.pack(value, packing)
                except Fault as fault:
                    del packing.callbacks[given:]
                    self._add_faults(faults, index, value, fault, lambda part, item: part.pack(item, packing))
                except RecursionError:
                    faults.add_fault(parameter.name, too_deep())
            elif parameter.required:
                faults.add_missing(parameter.name)
        faults.raise_any()
        dense = list(packed) == list(range(len(packed)))
        try:
            body = pack_body(list(packed.values()) if dense else packed)
        except Fault as fault:
            faults.add(ArgumentValueError, f"the arguments: expected {fault.expected}, got {fault.got}")
            raise faults.error() from None
        return packing.payload(body)

    def _add_faults(
        self, faults: _Faults, index: int, value: Any, fault: Fault, walk: Callable[[Coder, Any], object]
    ) -> None:
        """Adds the fault of a parameter; of a variadic one those of all its arguments."""
        name, parts = self._parameters[index].name, self._coders[index].parts
        found = []
        if index in (self._star, self._star_star) and fault.depth:
            for key, item in value.items() if index == self._star_star else enumerate(value):
                try:
                    walk(parts[-1], item)
                except Fault as other:
                    found.append(other.within(index_step(key)))
        for each in found or [fault]:
            faults.add_fault(name, each)

    def _check_binding(
        self, faults: _Faults, values: list[object], star: tuple[object, ...], named: dict[str, object]
    ) -> None:
        if star and self._star is None:
            count = self._positional + len(star)
            taken = "1 positional argument" if self._positional == 1 else f"{self._positional} positional arguments"
            faults.add(ArgumentTypeError, f"takes {taken}, {count} {'was' if count == 1 else 'were'} given")
        for name in named:
            index = self._by_name.get(name)
            if index is not None:
                faults.add(ArgumentTypeError, f"argument {name!r} was given twice")
            elif self._star_star is None:
                positional = any(parameter.name == name for parameter in self._parameters[: self._positional])
                faults.add(
                    ArgumentTypeError,
                    f"argument {name!r} is positional-only and was given by name"
                    if positional
                    else f"unknown argument {short(name)}",
                )

    # Unpacking.

    def compile_unpack(self) -> Callable[[Payload], tuple[tuple[Any, ...], dict[str, Any]]]:
        """``unpack(payload)``: the args and kwargs for the handler. With callbacks, ``unpack(payload, callbacks)``."""
        out = Source(f"unpack the arguments of {self._command}")
        slow = out.constant(self._unpack_slowly)
        callbacks = ", callbacks" if self._callbacks else ""
        with out.block(f"def unpack(payload{callbacks}):"):
            with out.block("try:"):
                if self._parameters:
                    self._emit_unpack(out)
                else:
                    with out.block(r"if payload == b'\x90':"):
                        out.line("return (), {}")
            with out.block("except Exception:"):
                out.line("pass")
            out.line(f"return {slow}(payload{callbacks})")
        return out.build("unpack")

    def compile_unpack_many(self) -> Callable[[Buffer], list[Sequence[Any]] | None] | None:
        """``unpack_many(payload)``: of an array of the arguments of several calls, the args of each.

        It gives None where one does not fit, or needs the walk: then each is to be unpacked by itself. There is no such
        function where something may be given by name alone, or callbacks may.
        """
        if self._callbacks or self._positional < len(self._parameters):
            return None
        out = Source(f"unpack the arguments of calls of {self._command}")
        with out.block("def unpack_many(payload):"):
            with out.block("try:"):
                every = self._emit_data(out)
                found, data = out.assign("[]"), out.fresh()
                if not self._parameters:
                    with out.block(f"if {every}.count([]) == len({every}):"):
                        out.line(f"return {every}")
                    out.line("raise misfit")
                else:
                    with out.block(f"for {data} in {every}:"):
                        count, before, after = self._emit_values(out, data, by_number=False)
                        given = "" if all(parameter.required for parameter in self._parameters) else f"[:{count}]"
                        if before != after or given:
                            out.line(f"{found}.append({_tuple(after)}{given})")
                            every = found
                    out.line(f"return {every}")
            with out.block("except Exception:"):
                out.line("return None")
        return out.build("unpack_many")

    def _emit_data(self, out: Source) -> str:
        required = all(parameter.required for parameter in self._parameters)
        bare = all(coder.bare for coder in self._coders)
        return emit_unpacked(
            out, bare=bare, any_key=not required, segments=self._uses_segments, callbacks=self._callbacks
        )

    def _emit_unpack(self, out: Source) -> None:
        count, _, values = self._emit_values(out, self._emit_data(out), by_number=True)
        self._emit_binding(out, values, count, out.constant(MISSING, "missing"))

    def _emit_values(self, out: Source, data: str, *, by_number: bool) -> tuple[str, list[str], list[str]]:
        """Writes what checks the arguments in a variable, an array or, if that is allowed, a map by number.

        Returns:
            The variables with how many there are, below 0 for a map, and with each as it came and as it is given on.
        """
        total, missing = len(self._parameters), out.constant(MISSING, "missing")
        before = [out.fresh(parameter.name) for parameter in self._parameters]
        count = out.assign(f"len({data}) if type({data}) is list else -1")
        least = max((index for index, parameter in enumerate(self._parameters, 1) if parameter.required), default=0)
        head = "if"
        for length in range(total, least - 1, -1):
            with out.block(f"{head} {count} == {length}:"):
                if length:
                    out.line(f"{_tuple(before[:length])} = {data}")
                if length < total:
                    out.line(f"{' = '.join(before[length:])} = {missing}")
            head = "elif"
        if by_number:
            with out.block(f"elif {count} < 0:"):
                out.line(f"{_tuple(before)} = {out.constant(self._spread)}({data})")
        with out.block("else:"):
            out.line("raise misfit")
        after: list[str] = []
        for parameter, name, coder in zip(self._parameters, before, self._coders, strict=True):
            with nullcontext() if parameter.required else out.block(f"if {name} is not {missing}:"):
                outcome = coder.emit(out, "unpack", name)
                if not parameter.required and outcome != name:
                    out.line(f"{name} = {outcome}")
            after.append(outcome if parameter.required else name)
        if self._uses_segments:
            out.line("segments.finish()")
        return count, before, after

    def _emit_binding(self, out: Source, values: list[str], count: str, missing: str) -> None:
        """Writes the args and kwargs that bind `values`."""
        args = _tuple(values[: self._positional])
        if not all(parameter.required for parameter in self._parameters[: self._positional]):
            if self._positional == len(values):
                with out.block(f"if {count} == {len(values)}:"):
                    out.line(f"return {args}, {{}}")
            with out.block(f"if {count} < 0:"):
                out.line(f"return {out.constant(self._assemble)}({_tuple(values)})")
            args += f"[:{count}]"
        if self._star is not None:
            star = values[self._star]
            args = f"{args} + {star} if {star} is not {missing} else {args}"
        if self._positional == len(values):
            out.line(f"return {args}, {{}}")
            return
        kwargs = out.assign("{}")
        for parameter, value in zip(self._parameters, values, strict=True):
            if parameter.kind < ParameterKind.KEYWORD_ONLY:
                continue
            with nullcontext() if parameter.required else out.block(f"if {value} is not {missing}:"):
                if parameter.kind is ParameterKind.KEYWORD_ONLY:
                    out.line(f"{kwargs}[{parameter.name!r}] = {value}")
                else:
                    with out.block(f"if not {out.constant(self._names, 'names')}.isdisjoint({value}):"):
                        out.line("raise misfit")
                    out.line(f"{kwargs}.update({value})")
        out.line(f"return ({args}), {kwargs}")

    def _spread(self, data: object) -> list[object]:
        """The arguments by number, with MISSING where there is none."""
        if type(data) is not dict:
            raise Fault("an array or a map of arguments", f"{short(data)}")
        values: list[object] = [MISSING] * len(self._parameters)
        for index, value in data.items():
            if type(index) is not int or not 0 <= index < len(values):
                raise Fault("numbers of parameters", f"a parameter {short(index)}")
            values[index] = value
        return values

    def _assemble(self, values: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return assemble(self._parameters, values)

    def _unpack_slowly(
        self, payload: Payload, callbacks: CallbackReader = NO_CALLBACKS
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The walk over a payload. Finds what is wrong with it; ArgumentError is all that it raises."""
        faults = _Faults(self._command)
        try:
            data, segments = open_payload(payload, callbacks.again())
            if type(data) is list:
                if len(data) > len(self._parameters):
                    raise Fault(f"at most {len(self._parameters)} arguments", f"{len(data)}")
                values: list[object] = data + [MISSING] * (len(self._parameters) - len(data))
            else:
                values = self._spread(data)
            self._unpack_each(values, segments, faults)
            faults.raise_any()
            segments.finish()
            return self._assemble(tuple(values))
        except Fault as fault:
            faults.add(
                ArgumentTypeError if fault.is_type else ArgumentValueError,
                f"the arguments: expected {fault.expected}, got {fault.got}",
            )
            raise faults.error() from None

    def _unpack_each(self, values: list[object], segments: SegmentReader, faults: _Faults) -> None:
        for index, (parameter, coder) in enumerate(zip(self._parameters, self._coders, strict=True)):
            if values[index] is not MISSING:
                # The arguments of a variadic parameter are walked again where one of them does not fit.
                before = segments.copy() if parameter.kind.variadic else segments
                try:
                    values[index] = coder.unpack(values[index], segments)
                except Fault as fault:
                    given: Any = values[index]
                    if isinstance(coder, CollectionCoder) and fault.depth:
                        given = coder.rows(given)
                    self._add_faults(faults, index, given, fault, partial(_unpack_again, before))
                except RecursionError:
                    faults.add_fault(parameter.name, too_deep())
            elif parameter.required:
                faults.add_missing(parameter.name)


class AdaptedArgumentsCoder(ArgumentsCoder):
    """Unpacks the arguments of a caller that has another version of the command.

    Args:
        command: The command's name for error texts.
        adaptation: What is different; nothing breaking.
        parameters: The parameters that the handler has.
        coders: Makes the coders.
        companion: As with others; of a parameter by the handler's name.
    """

    def __init__(
        self,
        command: str,
        adaptation: Adaptation,
        parameters: tuple[Parameter, ...],
        coders: Coders,
        companion: Callable[[str, Companion], Any] | None = None,
    ) -> None:
        read = [
            parameter if place is None else parameter._replace(name=parameters[place].name)
            for parameter, place in zip(adaptation.parameters, adaptation.places, strict=True)
        ]
        super().__init__(command, Schema(tuple(read), NONE), coders, companion)
        self._places = adaptation.places
        self._own = parameters

    def _emit_binding(self, out: Source, values: list[str], count: str, missing: str) -> None:
        taken = [
            (parameter, value)
            for parameter, value, place in zip(self._parameters, values, self._places, strict=True)
            if place is not None
        ]
        if all(not parameter.kind.variadic for parameter, _ in taken):
            optional = [value for parameter, value in taken if not parameter.required]
            self._emit_bound(out, values, [f"{value} is not {missing}" for value in optional])
            if optional:
                without = [MISSING if value in optional else value for value in values]
                self._emit_bound(out, without, [f"{value} is {missing}" for value in optional])
        out.line(f"return {out.constant(self._assemble)}({_tuple(values)})")

    def _emit_bound(self, out: Source, values: list[str], tests: list[str]) -> None:
        """Writes what binds these variables, where it is known which of them there are."""
        try:
            args, kwargs = self._assemble(values)
        except Fault:
            return
        with out.block(f"if {' and '.join(tests) or True}:"):
            named = ", ".join(f"{name!r}: {value}" for name, value in kwargs.items())
            out.line(f"return {_tuple(list(args))}, {{{named}}}")

    def _assemble(self, values: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        placed: list[object] = [MISSING] * len(self._own)
        for place, value in zip(self._places, values, strict=True):
            if place is not None:
                placed[place] = value
        return assemble(self._own, placed)


def assemble(parameters: Sequence[Parameter], values: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The args and kwargs that bind `values` to the parameters. Raises Fault where they cannot be bound."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    gap = False
    for parameter, value in zip(parameters, values, strict=True):
        if value is MISSING:
            gap = True
        elif parameter.kind is ParameterKind.VAR_KEYWORD:
            assert isinstance(value, dict)
            names = {other.name for other in parameters if other.kind.by_name}
            if taken := names.intersection(value):
                raise Fault("names of no parameter", f"{short(min(taken))}")
            kwargs.update(value)
        elif parameter.kind is ParameterKind.KEYWORD_ONLY or (
            gap and parameter.kind is ParameterKind.POSITIONAL_OR_KEYWORD
        ):
            kwargs[parameter.name] = value
        elif gap:
            raise Fault("the arguments before it", f"{parameter.name!r} alone")
        elif parameter.kind is ParameterKind.VAR_POSITIONAL:
            assert isinstance(value, tuple)
            args += value
        else:
            args.append(value)
    return tuple(args), kwargs


class _Faults:
    """Collects everything that is wrong with one call."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._faults: list[tuple[type[ArgumentError], str]] = []

    def add(self, kind: type[ArgumentError], text: str) -> None:
        self._faults.append((kind, text))

    def add_missing(self, name: str) -> None:
        self.add(ArgumentMissing, f"argument {name!r} is missing")

    def add_fault(self, name: str, fault: Fault) -> None:
        kind = ArgumentTypeError if fault.is_type else ArgumentValueError
        self.add(kind, f"argument {name!r}{cut(fault.path)}: expected {fault.expected}, got {fault.got}")

    def raise_any(self) -> None:
        if self._faults:
            raise self.error()

    def error(self) -> ArgumentError:
        """The one error for all the faults."""
        kinds = {kind for kind, _ in self._faults}
        worst = next(kind for kind in (ArgumentTypeError, ArgumentMissing, ArgumentValueError) if kind in kinds)
        texts = [text for _, text in self._faults]
        lines = [f"{self._command}: {texts[0]}"]
        if len(texts) > 1:
            more = [f"- and {len(texts) - MAX_FAULTS} more"] if len(texts) > MAX_FAULTS else []
            lines = [f"{self._command}: {len(texts)} faults", *(f"- {text}" for text in texts[:MAX_FAULTS]), *more]
        error = worst("\n".join(lines))
        error._from_call = True
        return error


def _unpack_again(segments: SegmentReader, coder: Coder, data: object) -> object:
    return coder.unpack(data, segments)


def _coder(parameter: Parameter, coders: Coders, companion: Callable[[str, Companion], Any] | None) -> Coder:
    """The coder of what travels for a parameter: all of it for a variadic one."""
    if companion is not None and companion_of(parameter.node):
        coders = Coders(partial(companion, parameter.name))  # types may be shared between parameters
    if parameter.kind is ParameterKind.VAR_POSITIONAL:
        return coders.of(CollectionNode("tuple", parameter.node))
    if parameter.kind is ParameterKind.VAR_KEYWORD:
        return coders.of(MappingNode("dict", ScalarNode("str"), parameter.node))
    return coders.of(parameter.node)


def _index(kinds: list[ParameterKind], kind: ParameterKind) -> int | None:
    return kinds.index(kind) if kind in kinds else None


def _tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if names else ''})"
