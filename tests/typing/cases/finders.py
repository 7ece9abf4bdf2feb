"""What the checkers say of finders, which let whole families of classes stand in contracts."""

from typing import Any

from typedrpc import codec


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def find(hint: Any) -> codec.Conversion | codec.Record | None:
    return codec.Record(Money, "Money", (codec.RecordField("cents", int, required=True),)) if hint is Money else None


def wrong(hint: Any) -> int:
    return 1


codec.register_finder(find)
codec.register_finder(wrong)  # E: arg-type | reportArgumentType
