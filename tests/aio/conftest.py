"""What tests of the asyncio side share."""

import asyncio
from importlib.util import find_spec

import pytest

from tests.loops import LOOPS, Loop


@pytest.fixture(scope="session", autouse=True)
def first_loops() -> None:
    """What the first loop of a kind opens is kept for as long as the process runs: it is no leak."""
    for kind in ("asyncio", "uvloop") if find_spec("uvloop") else ("asyncio",):
        Loop(kind).run(asyncio.sleep(0))


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each kind of event loop."""
    return Loop(request.param)
