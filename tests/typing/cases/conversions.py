"""What the checkers say of classes that users register."""

from typing import Annotated, Any

from typedrpc.codec import Conversion, Record, RecordField, register, register_finder


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def to_cents(self) -> int:
        return self.cents

    @classmethod
    def from_cents(cls, cents: int) -> "Money":
        return cls(cents)


class Other: ...


def to_text(money: Money) -> str:
    return str(money.cents)


def from_text(text: str) -> Money:
    return Money(int(text))


def to_other(text: str) -> Other:
    return Other()


def to_maybe(money: Money) -> int | None:
    return money.cents or None


def from_maybe(cents: int | None) -> Money:
    return Money(cents or 0)


def to_small(money: Money) -> Annotated[int, "small"]:
    return money.cents


# What fits
register(Money, encode=Money.to_cents, decode=Money.from_cents)
register(Money, encode=Money.to_cents, decode=Money)
register(Money, encode=Money.to_cents, decode=Money, travels_as=int, name="Cents")
register(Money, encode=to_text, decode=from_text)
register(Money, encode=str, decode=from_text)
register(Money, encode=to_maybe, decode=from_maybe)
register(Money, encode=to_small, decode=from_maybe)
register(Money, encode=lambda money: money.cents, decode=Money, travels_as=int)
register(Money, encode=lambda money: money.cents, decode=lambda cents: Money(cents), travels_as=int)
register(Money, encode=lambda money: [money.cents], decode=lambda cents: Money(cents[0]), travels_as=list[int])
register(Money, travels_as=tuple[int, str], encode=lambda money: (money.cents, "c"), decode=lambda it: Money(it[0]))
register(Money, encode=lambda money: money.cents, decode=lambda cents: Money(cents or 0), travels_as=int | None)

# What one gives, the other does not take
register(Money, encode=to_text, decode=Money.from_cents)  # E: misc, arg-type | reportArgumentType
register(Money, encode=Money.to_cents, decode=from_text)  # E: misc, arg-type | reportArgumentType
register(Money, encode=to_maybe, decode=Money)  # E: misc, arg-type | reportArgumentType

# Another class
register(Money, encode=to_text, decode=to_other)  # E: arg-type | reportArgumentType
register(Other, encode=Money.to_cents, decode=Money)  # E: arg-type | reportArgumentType
register(Money(1), encode=to_text, decode=from_text)  # E: arg-type | reportArgumentType

# Another type travels
register(Money, encode=Money.to_cents, decode=Money.from_cents, travels_as=str)  # E: arg-type | reportArgumentType
register(Money, encode=lambda _: 1, decode=Money, travels_as=str)  # E: arg-type, return-value | reportArgumentType

# What is not there
register(Money, encode=to_text)  # E: call-arg | reportCallIssue


def find(hint: Any) -> Conversion | Record | None:
    return Record(Money, "Money", (RecordField("cents", int, required=True),)) if hint is Money else None


def finds_a_number(hint: Any) -> int:
    return 1


register_finder(find)
register_finder(finds_a_number)  # E: arg-type | reportArgumentType
