"""A library is imported by who uses it, never by typedrpc; and its adapter where one of its classes is used."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.unmeasured

PROGRAM = """
import sys
{before}
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, NamedTuple, TypedDict
from typedrpc import Service, rpc

@dataclass
class Point:
    x: int

class Pair(NamedTuple):
    a: Decimal
    b: "list[Point]"

class Options(TypedDict):
    name: str

class Store(Service):
    @rpc
    def get(self, pair: Pair, options: Options | None = None) -> Annotated[bytes, "large"]: ...
{contract}

Store.get.codec.pack_arguments(Pair(Decimal(1), [Point(1)]))
libraries = {{"attr", "attrs", "pydantic", "msgspec", "numpy", "annotated_types"}}
adapters = "typedrpc.schema.adapters."
print(*sorted(name for name in sys.modules if name in libraries or name.startswith(adapters)))
"""

CONTRACTS = {
    "attrs": ("import attrs", "attrs.make_class('A', {'x': attrs.field(type=int)})", {"attr", "attrs"}),
    "msgspec": ("import msgspec", "msgspec.defstruct('A', [('x', int)])", {"msgspec"}),
    "pydantic": ("import pydantic", "pydantic.create_model('A', x=(int, ...))", {"annotated_types", "pydantic"}),
    "numpy": ("import numpy", "numpy.float32", {"numpy"}),
}


def imported(before: str, contract: str) -> set[str]:
    program = PROGRAM.format(before=before, contract=contract)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_contracts_without_their_classes_import_none() -> None:
    assert imported("", "") == set()


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_library_that_is_there_is_no_reason_for_its_adapter(name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not here: pip install 'typedrpc[adapters]'")
    before, _, libraries = CONTRACTS[name]
    assert imported(before, "") <= libraries


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_class_of_a_library_is(name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not here: pip install 'typedrpc[adapters]'")
    before, cls, libraries = CONTRACTS[name]
    contract = f"    @rpc\n    def put(self, value: {cls}) -> None: ..."
    package = f"typedrpc.schema.adapters.{name}"
    assert package in imported(before, contract) <= {*libraries, package, "typedrpc.schema.adapters"}
