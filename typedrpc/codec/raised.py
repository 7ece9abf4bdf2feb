"""The coder of an exception that a command declares.

Its fields travel as a map from their names to their values, so that either side may add some that have defaults. It is
packed on its own, without segments: whoever reads the frame around it need not know the types in it.

The types of the fields are not agreed about. A value whose form says what it is needs no more. Where records or unions
are within, one version could be taken for another, so the fingerprints of such fields go with them.
"""

from __future__ import annotations

from typing import Final, cast

from typedrpc.codec.base import Coders
from typedrpc.codec.body import MAX_SEGMENTS, NO_SEGMENTS, CodecError, Packing, pack_body, unpack_body
from typedrpc.codec.faults import Fault, cut, told, too_deep, type_name
from typedrpc.schema import (
    CollectionNode,
    EnumNode,
    LiteralNode,
    MappingNode,
    Node,
    RecordNode,
    ScalarNode,
    Schema,
    UnionNode,
    children,
)

_FINGERPRINTS: Final = ""
"""The key under which they stand: no field has this name."""

# For a packing: there is no room beside the body any more.
_FULL: Final[list[bytes | bytearray | memoryview]] = [b""] * MAX_SEGMENTS


class ErrorCodec:
    """Turns exceptions of one class into bytes and back, for one command.

    Nothing is generated for it: errors are few.

    Args:
        command: The command's name for error texts.
        node: The class with its fields.
    """

    def __init__(self, command: str, node: RecordNode) -> None:
        coders = Coders()
        self._command = command
        self._cls = node.cls
        self._fields = [(field, coders.of(field.node)) for field in node.fields]
        self._fingerprints = {
            field.name: Schema((), field.node).fingerprint for field in node.fields if not _tells_itself(field.node)
        }

    def pack(self, error: Exception) -> bytes:
        """The fields of an exception of the class, or of one that is derived from it.

        Raises:
            CodecError: One is not kept as an attribute of its name, or does not fit its annotation.
        """
        packing = Packing()
        packing.segments = _FULL
        packed = {}
        try:
            for field, coder in self._fields:
                try:
                    packed[field.name] = coder.pack(_attribute(error, field.name), packing)
                except Fault as fault:
                    raise fault.within(f".{field.name}") from None
            if self._fingerprints:
                packed[_FINGERPRINTS] = self._fingerprints
            return pack_body(packed)
        except Fault as fault:
            raise self._error(fault) from None
        except RecursionError:
            raise self._error(too_deep()) from None

    def unpack(self, data: bytes) -> Exception:
        """An exception of the class. Fields that are not known here are left out, as are those that are not there.

        Raises:
            CodecError: The data are no fields of this class, or it refuses them. Nothing else is raised.
        """
        try:
            return self._make(unpack_body(data))
        except Fault as fault:
            raise self._error(fault) from None
        except RecursionError:
            raise self._error(too_deep()) from None

    def _make(self, data: object) -> Exception:
        if type(data) is not dict:
            raise Fault("a map of fields", type_name(data))
        positional: list[object] = []
        named: dict[str, object] = {}
        gap = False
        theirs = data.get(_FINGERPRINTS)
        for field, coder in self._fields:
            if field.name not in data:
                if field.required:
                    raise Fault(f"a field {field.name!r}", "none")
                gap = True
                continue
            ours = self._fingerprints.get(field.name)
            if ours is not None and (type(theirs) is not dict or theirs.get(field.name) != ours):
                raise Fault("the fields or members that its type has here", "others").within(f".{field.name}")
            try:
                value = coder.unpack(data[field.name], NO_SEGMENTS)
            except Fault as fault:
                raise fault.within(f".{field.name}") from None
            # By position as long as none is left out: that is what fills in `args`.
            if field.argument is None and not gap:
                positional.append(value)
            else:
                named[field.argument or field.name] = value
        try:
            return cast(Exception, self._cls(*positional, **named))
        except Exception as error:
            raise Fault("fields that it takes", told(error), is_type=False) from error

    def _error(self, fault: Fault) -> CodecError:
        return CodecError(self._command, f"error {self._cls.__name__}{cut(fault.path)}", fault.expected, fault.got)


def _tells_itself(node: Node) -> bool:
    """Whether a value of another type is not taken for one of this."""
    match node:
        case ScalarNode() | LiteralNode() | EnumNode():
            return True
        case UnionNode(members=members):
            return all(isinstance(member, ScalarNode | LiteralNode) for member in members)
        case CollectionNode() | MappingNode():
            return all(map(_tells_itself, children(node)))
        case _:
            return False


def _attribute(error: Exception, name: str) -> object:
    try:
        return getattr(error, name)
    except Exception as problem:  # a property is anybody's code
        text = told(problem)
        raise Fault("an attribute that keeps what the constructor was given", text, is_type=False) from problem
