"""What ``with_options`` sets for calls, and the limits of the metadata that goes with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from typedrpc.deadlines import is_duration

Metadata = Mapping[str, str | bytes]

MAX_METADATA: Final = 8192
"""Bytes of the keys and values of one metadata together, text as UTF-8."""

MAX_METADATA_ENTRIES: Final = 64

NO_METADATA: Final[Metadata] = MappingProxyType({})


class CallOptions(NamedTuple):
    """What ``with_options`` sets for the calls of one bound command.

    Attributes:
        timeout: Seconds until a call ends with ``DeadlineExceeded``; None leaves it to the connection's default.
        metadata: What goes with the call, for the handler's ``current_call().metadata``. Checked, and immutable.
        on_metadata: Called, before the call returns or raises, with what the handler left in
            ``current_call().reply_metadata``.
    """

    timeout: float | None = None
    metadata: Metadata = NO_METADATA
    on_metadata: Callable[[Metadata], object] | None = None


DEFAULT_OPTIONS: Final = CallOptions()
UNCHANGED: Any = object()


def changed(options: CallOptions, *, timeout: Any, metadata: Any, on_metadata: Any) -> CallOptions:
    """The options with others in place of those that are not ``UNCHANGED``.

    Raises:
        ValueError, TypeError: One cannot be so.
    """
    if timeout is not UNCHANGED:
        if timeout is not None and not is_duration(timeout):
            raise ValueError(f"timeout must be None or a number of seconds from 0 up, got {timeout!r}")
        options = options._replace(timeout=timeout)
    if metadata is not UNCHANGED:
        options = options._replace(metadata=checked_metadata(metadata))
    if on_metadata is not UNCHANGED:
        if on_metadata is not None and not callable(on_metadata):
            raise TypeError(f"on_metadata must be None or a function, got {type(on_metadata).__name__}")
        options = options._replace(on_metadata=on_metadata)
    return options


def checked_metadata(metadata: object) -> Metadata:
    """An immutable copy of metadata that can go with a call or a reply; subclasses of str and bytes become these.

    Raises:
        TypeError: It is no mapping of str to str or bytes.
        ValueError: It is above a limit, or text in it is no UTF-8.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of str to str or bytes, got {type(metadata).__name__}")
    copy: dict[str, str | bytes] = {}
    size = 0
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of metadata must be str, got {type(key).__name__}")
        if isinstance(value, str):
            value = str.__str__(value)
            size += _utf8_size(value)
        elif isinstance(value, bytes):
            value = bytes(memoryview(value))
            size += len(value)
        else:
            raise TypeError(f"the values of metadata must be str or bytes, got {type(value).__name__} for {key[:80]!r}")
        size += _utf8_size(key)
        copy[str.__str__(key)] = value
        if len(copy) > MAX_METADATA_ENTRIES:
            raise ValueError(f"metadata must have at most {MAX_METADATA_ENTRIES} entries")
        if size > MAX_METADATA:
            raise ValueError(f"the keys and values of metadata must have at most {MAX_METADATA} bytes together")
    return MappingProxyType(copy)


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"text in metadata must be UTF-8, got {text[:80]!r} with a lone surrogate") from None
