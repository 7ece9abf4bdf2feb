"""Contracts that change: how two versions of a schema differ, and how one side reads what the other writes.

A change is safe where the reader can read everything that the writer may write. All others are breaking.
"""

from __future__ import annotations

from collections.abc import Sequence

from typedrpc.schema.nodes import IGNORED, Node
from typedrpc.schema.resolution import Difference, Resolution
from typedrpc.schema.signature import Parameter, ParameterKind, Schema


def compatible(writer: Schema, reader: Schema) -> list[Difference]:
    """What is different when a caller with one version of a command calls a callee with another.

    Both directions are looked at: the caller writes the arguments and the callee reads them, the callee writes the
    result and the caller reads it.

    Args:
        writer: The schema of the caller, who writes the call.
        reader: The schema of the callee, who reads it.

    Returns:
        The differences, in the order of the callee's signature; none where the two agree. The call works if all of them
        are safe.
    """
    return Adaptation(writer, reader).differences + adapt_result(reader.result, writer.result)[1]


class Adaptation:
    """How the callee reads the arguments of a caller with another version of the command.

    Attributes:
        parameters: Those of the caller, in the caller's order, each with the type that reads its argument.
        places: For each of these the index of the callee's parameter that it is for; None where there is none.
        differences: What is different; with a breaking one among them the rest must not be used.
    """

    def __init__(self, caller: Schema, callee: Schema) -> None:
        self.parameters: list[Parameter] = []
        self.places: list[int | None] = []
        resolution = Resolution()
        with resolution.limited():
            for parameter, place in _pairs(caller.parameters, callee.parameters):
                own = None if place is None else callee.parameters[place]
                self.parameters.append(
                    parameter._replace(node=_read_parameter(resolution, parameter, own, callees=callee.parameters))
                )
                self.places.append(place)
            _check_missing(resolution, callee.parameters, self.places)
            _check_binding(resolution, caller.parameters, callee.parameters, self.places)
        self.differences = resolution.differences


def adapt_result(writer: Node, reader: Node) -> tuple[Node, list[Difference]]:
    """The node that reads, as `reader`, a result written as `writer`; and what is different."""
    resolution = Resolution()
    node: Node = IGNORED
    with resolution.limited():
        node = resolution.read(writer, reader, "the result")
    return node, resolution.differences


def _pairs(callers: Sequence[Parameter], callees: Sequence[Parameter]) -> list[tuple[Parameter, int | None]]:
    """The caller's parameters, each with the index of the callee's that its argument is for.

    By name; those with stars, which have no name for callers, by their kind.
    """
    by_name = {own.name: index for index, own in enumerate(callees) if not own.kind.variadic}
    by_kind = {own.kind: index for index, own in enumerate(callees) if own.kind.variadic}
    return [
        (parameter, by_kind.get(parameter.kind) if parameter.kind.variadic else by_name.get(parameter.name))
        for parameter in callers
    ]


def _name(parameter: Parameter) -> str:
    return f"'{parameter.kind.stars}{parameter.name}'"


def _where(parameter: Parameter) -> str:
    return f"parameter {_name(parameter)}"


def _read_parameter(
    resolution: Resolution, parameter: Parameter, own: Parameter | None, callees: Sequence[Parameter]
) -> Node:
    """The type that reads the argument for a parameter of the caller, which is for `own` of the callee's."""
    where = _where(own or parameter)
    if own is None:
        if parameter.required or parameter.kind.variadic:
            return resolution.break_(where, "the callee does not take it")
        for other in callees:
            if other.kind.variadic:
                return resolution.break_(where, f"the callee does not take it, or takes it among {_name(other)}")
        resolution.note(where, "the callee does not take it, and ignores it where it is given")
        return IGNORED
    node = resolution.read(parameter.node, own.node, where)
    if own.required and not parameter.required:
        resolution.break_(where, "the callee requires it, and the caller may leave it out")
    elif parameter.required and not own.required:
        resolution.note(where, "it has a default at the callee")
    if parameter.kind is not own.kind:
        resolution.note(where, "it is given in another way")
    return node


def _check_missing(resolution: Resolution, callees: Sequence[Parameter], places: Sequence[int | None]) -> None:
    for place, own in enumerate(callees):
        if place in places:
            continue
        if own.required:
            resolution.break_(_where(own), "it is required, and the caller does not give it")
        elif own.kind.variadic:
            resolution.note(_where(own), "the caller does not have it")
        else:
            resolution.note(_where(own), "the caller does not give it, and its default counts")
    taken = [place for place in places if place is not None]
    if taken != sorted(taken):
        resolution.note("the parameters", "they stand in another order")


def _check_binding(
    resolution: Resolution, callers: Sequence[Parameter], callees: Sequence[Parameter], places: Sequence[int | None]
) -> None:
    """Find the calls that fit the caller's parameters, and that Python cannot bind to the callee's."""
    giver = {place: index for index, place in enumerate(places) if place is not None}
    for place, own in enumerate(callees):
        index = giver.get(place)
        if own.kind is ParameterKind.VAR_KEYWORD and index is not None:
            names = {parameter.name for parameter in callers if parameter.kind.by_name}
            for other in callees:
                if other.kind.by_name and other.name not in names:
                    resolution.break_(_where(other), f"the caller may give it among {_name(own)}")
        elif own.kind in (ParameterKind.POSITIONAL_ONLY, ParameterKind.VAR_POSITIONAL) and index is not None:
            for before in range(place):
                if not _always_given(callers, callees[before], giver.get(before), index):
                    resolution.break_(
                        _where(own), f"it goes by position, and the caller may leave out {_name(callees[before])}"
                    )


def _always_given(callers: Sequence[Parameter], own: Parameter, before: int | None, after: int) -> bool:
    """Whether a caller that gives the parameter with the index `after` also gives the one that is for `own`."""
    if own.required:
        return True
    if before is None:
        return False
    return callers[before].required or (
        # Who gives arguments by position gives all those before them.
        callers[after].kind in (ParameterKind.POSITIONAL_ONLY, ParameterKind.VAR_POSITIONAL)
        and callers[before].kind <= ParameterKind.POSITIONAL_OR_KEYWORD
        and before < after
    )
