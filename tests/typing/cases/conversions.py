"""Registering classes of one's own: what the checkers say of encode and decode."""

from typing import Any

from typedrpc import codec


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def to_cents(self) -> int:
        return self.cents

    @classmethod
    def from_text(cls, text: str) -> "Money":
        return cls(int(text))


class Weight:
    def to_grams(self) -> int:
        return 1


codec.register(Money, encode=Money.to_cents, decode=Money)
codec.register(Money, encode=Money.to_cents, decode=Money, name="Cents")
codec.register(Money, encode=lambda money: money.cents, decode=lambda cents: Money(cents), travels_as=int)
codec.register(Money, encode=Money.to_cents, decode=Money.from_text)  # E: misc | reportArgumentType
codec.register(Money, encode=Weight.to_grams, decode=Money)  # E: arg-type | reportArgumentType
codec.register(Money, encode=Money.to_cents, decode=int)  # E: arg-type | reportArgumentType
codec.register(Money, encode=Money.to_cents)  # E: call-arg | reportCallIssue
codec.register(Money, Money.to_cents, Money)  # E: call-arg, misc | reportCallIssue
codec.register(Money(1), encode=Money.to_cents, decode=Money)  # E: arg-type | reportArgumentType


def find(hint: Any) -> codec.Conversion | codec.Record | None:
    return codec.Record(Money, "Money", (codec.RecordField("cents", int, required=True),)) if hint is Money else None


def wrong(hint: Any) -> int:
    return 1


codec.register_finder(find)
codec.register_finder(wrong)  # E: arg-type | reportArgumentType
