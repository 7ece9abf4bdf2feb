"""The coder of unions: members are told apart by the types of their data, or else by a tag, never by trying."""

from __future__ import annotations

import collections.abc

from typedrpc.codec.base import NO_TYPES, Coder, Coders, coder_for, lazily
from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import UnionNode


@coder_for(UnionNode)
class UnionCoder(Coder):
    """A union travels as the value alone where that tells which member it is, otherwise as ``[index, value]``."""

    small = plain = True

    def __init__(self, node: UnionNode, coders: Coders, *, keys: bool = False) -> None:
        super().__init__(node, coders)
        self._coders = coders
        self._keys = keys
        self.parts = tuple(coders.of(member) for member in node.members)

    @lazily
    def _members(self) -> list[Coder]:
        return [member.as_key() if self._keys else member for member in self.parts]

    @lazily
    def _tagged(self) -> bool:
        return _overlap(member.wire for member in self._members)

    @lazily
    def sends(self) -> frozenset[type]:
        return _all(member.sends for member in self._members)

    @lazily
    def also_sends(self) -> frozenset[type]:
        return _all(member.also_sends for member in self._members) - self.sends

    @lazily
    def wire(self) -> frozenset[type]:
        return frozenset({list}) if self._tagged else _all(member.wire for member in self._members)

    @lazily
    def also_wire(self) -> frozenset[type]:
        return NO_TYPES if self._tagged else _all(member.also_wire for member in self._members)

    @lazily
    def map_key(self) -> bool:
        return not self._tagged and all(member.map_key for member in self._members)

    @lazily
    def lenient(self) -> bool:
        return any(member.lenient for member in self._members)

    @lazily
    def _by_wire(self) -> dict[type, Coder]:
        soft = {kind: member for member in reversed(self._members) for kind in member.also_wire}
        return soft | {kind: member for member in self._members for kind in member.wire}

    def accepts(self, kind: type) -> int | None:
        return min((rank for member in self._members if (rank := member.accepts(kind)) is not None), default=None)

    def exact(self, way: Way) -> frozenset[type]:
        exacts = [member.exact(way) for member in self._members]
        return NO_TYPES if self._tagged or not all(exacts) else _all(exacts)

    def as_key(self) -> Coder:
        assert isinstance(self.node, UnionNode)
        return UnionCoder(self.node, self._coders, keys=True)

    def pack(self, value: object, packing: Packing) -> object:
        kind = type(value)
        ranked = sorted(
            (rank, index) for index, member in enumerate(self._members) if (rank := member.accepts(kind)) is not None
        )
        if not ranked:
            raise self.misfit(value)
        if len(ranked) == 1:
            return self._tag(ranked[0][1], self._members[ranked[0][1]].pack(value, packing))
        # Within a union whose members are tried in turn, this one is asked again for the same value, and so on down.
        return packing.remembered((self, id(value)), value, lambda: self._pack_nearest(value, ranked, packing))

    def _pack_nearest(self, value: object, ranked: list[tuple[int, int]], packing: Packing) -> object:
        """Packs a value that several members may take: by the nearest, of equally near ones by what keeps its types."""
        deepest: Fault | None = None
        nearest: tuple[int, int] | None = None
        used, adapted, given = len(packing.segments), packing.adapted, len(packing.callbacks)
        for position, (rank, index) in enumerate(ranked):
            if nearest is not None and rank > nearest[0]:
                break
            rivals = any(other == rank for other, _ in ranked[position + 1 :])
            try:
                packed = self._members[index].pack(value, packing)
            except Fault as fault:
                # The deepest fault tells most, and of those one of a value that has the right type.
                if deepest is None or (fault.depth, deepest.is_type) > (deepest.depth, fault.is_type):
                    deepest = fault
                # Another member of the same rank may be the same class with other types: Box[int] | Box[str].
                if self._members[index].decides and not rivals and nearest is None:
                    break
            else:
                if packing.adapted == adapted or (nearest is None and not rivals):
                    return self._tag(index, packed)
                nearest = nearest or (rank, index)
            del packing.segments[used:]
            del packing.callbacks[given:]
            packing.adapted = adapted
        if nearest is not None:
            return self._tag(nearest[1], self._members[nearest[1]].pack(value, packing))
        assert deepest is not None
        raise deepest if deepest.depth else self._none_fits(deepest)

    def _tag(self, index: int, packed: object) -> object:
        return [index, packed] if self._tagged else packed

    def _none_fits(self, fault: Fault) -> Fault:
        return Fault(self.node, fault.got, is_type=fault.is_type)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if self._tagged:
            match data:
                case [index, value] if type(index) is int and 0 <= index < len(self._members):
                    return self._members[index].unpack(value, segments)
                case _:
                    raise Fault(self.node, f"{type_name(data)} without the index of a member")
        member = self._by_wire.get(type(data))
        if member is None:
            raise self.misfit(data)
        return member.unpack(data, segments)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        result, kind = out.fresh(), out.fresh()
        if way == "unpack" and self._tagged:
            with out.block(f"if type({var}) is not list:"):
                out.line("raise misfit")
            value = out.fresh()
            out.line(f"{kind}, {value} = {var}")
            with out.block(f"if type({kind}) is not int:"):
                out.line("raise misfit")
            branches = [(f"{kind} == {index}", index) for index in range(len(self._members))]
        else:
            value = var
            out.line(f"{kind} = type({var})")
            branches = [
                (" or ".join(f"{kind} is {out.constant(claim)}" for claim in claims), index)
                for index, claims in enumerate(self._claims(way))
                if claims
            ]
        head = "if"
        for test, index in branches:
            with out.block(f"{head} {test}:"):
                inner = self._members[index].emit(out, way, value, typed=value == var)
                out.line(f"{result} = ({index}, {inner})" if way == "pack" and self._tagged else f"{result} = {inner}")
            head = "elif"
        with out.block("else:" if branches else "if True:"):
            out.line("raise misfit")
        return result

    def _claims(self, way: Way) -> list[list[type]]:
        """For each member, the types of value that the source gives to it without a look at anything else."""
        firm = [member.sends if way == "pack" else member.wire for member in self._members]
        soft = [member.also_sends if way == "pack" else member.also_wire for member in self._members]
        taken = _all(firm)
        claims: list[list[type]] = []
        for index, (types, more) in enumerate(zip(firm, soft, strict=True)):
            # A type that two members could take is left to the walk.
            others = _all(types for other, types in enumerate(firm) if other != index)
            rivals = taken | _all(types for other, types in enumerate(soft) if other != index)
            claims.append(sorted((types - others) | (more - rivals), key=lambda kind: kind.__name__))
        return claims


def _all(sets: collections.abc.Iterable[frozenset[type]]) -> frozenset[type]:
    return NO_TYPES.union(*sets)


def _overlap(sets: collections.abc.Iterable[frozenset[type]]) -> bool:
    seen: set[type] = set()
    for types in sets:
        if seen & types:
            return True
        seen |= types
    return False
