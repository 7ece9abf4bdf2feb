from types import SimpleNamespace
from typing import Any


def asked(name: str, argument: Any) -> Any:
    attribute = {"MinLen": "min_length", "MaxLen": "max_length", "MultipleOf": "multiple_of", "Predicate": "func"}
    kind = type(name, (SimpleNamespace,), {"__module__": "annotated_types", "__hash__": object.__hash__})
    return kind(**{attribute.get(name, name.lower()): argument})
