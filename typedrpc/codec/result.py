"""The result of a call, or an item of a stream: checked and packed, and back. Its payload is the value alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typedrpc.codec.base import Coders
from typedrpc.codec.body import CodecError, Packing, Payload, open_payload, pack_body
from typedrpc.codec.containers import listed
from typedrpc.codec.faults import Fault, cut, too_deep
from typedrpc.codec.source import Source, emit_packed, emit_unpacked
from typedrpc.schema import NONE, Schema


class ResultCoder:
    """Packs and unpacks the results of one command.

    Args:
        command: Its name for error texts.
        schema: Its schema; the result is no stream.
        coders: Makes the coders.
        what: What the values are called in error texts.
    """

    def __init__(self, command: str, schema: Schema, coders: Coders, what: str = "result") -> None:
        self._command = command
        self._what = what
        self._is_none = schema.result == NONE
        self._coder = coders.of(schema.result)

    @property
    def exact(self) -> frozenset[type]:
        """The types whose values travel just as they are, whatever they are."""
        return self._coder.exact("pack")

    def compile_pack(self) -> Callable[[Any], Payload]:
        """``pack(value)``, which raises CodecError where the value does not fit the annotation."""
        out = Source(f"pack the {self._what} of {self._command}")
        with out.block("def pack(value):"):
            if self._is_none:
                with out.block("if value is None:"):
                    out.line(r"return b'\xc0'")
            else:
                if self._coder.one_shot:
                    out.line(f"value = {out.constant(listed)}(value)")
                with out.block("try:"):
                    if self._coder.uses_segments:
                        out.line("segments = []")
                    packed = self._coder.emit(out, "pack", "value")
                    emit_packed(out, packed, bounded=self._coder.bounded, segments=self._coder.uses_segments)
                with out.block("except Exception:"):
                    out.line("pass")
            out.line(f"return {out.constant(self._pack_slowly)}(value)")
        return out.build("pack")

    def compile_unpack(self) -> Callable[[Payload], Any]:
        """``unpack(payload)``, which raises CodecError where the payload holds no such value."""
        out = Source(f"unpack the {self._what} of {self._command}")
        with out.block("def unpack(payload):"):
            if self._is_none:
                with out.block(r"if payload == b'\xc0':"):
                    out.line("return None")
            else:
                with out.block("try:"):
                    data = emit_unpacked(out, bare=self._coder.bare, segments=self._coder.uses_segments)
                    value = self._coder.emit(out, "unpack", data)
                    if self._coder.uses_segments:
                        out.line("segments.finish()")
                    out.line(f"return {value}")
                with out.block("except Exception:"):
                    out.line("pass")
            out.line(f"return {out.constant(self._unpack_slowly)}(payload)")
        return out.build("unpack")

    def _pack_slowly(self, value: object) -> Payload:
        packing = Packing()
        try:
            body = pack_body(self._coder.pack(value, packing))
        except Fault as fault:
            raise self._error(fault) from None
        except RecursionError:
            raise self._error(too_deep()) from None
        return packing.payload(body)

    def _unpack_slowly(self, payload: Payload) -> object:
        try:
            data, segments = open_payload(payload)
            value = self._coder.unpack(data, segments)
            segments.finish()
        except Fault as fault:
            raise self._error(fault) from None
        except RecursionError:
            raise self._error(too_deep()) from None
        return value

    def _error(self, fault: Fault) -> CodecError:
        return CodecError(self._command, f"{self._what}{cut(fault.path)}", fault.expected, fault.got)
