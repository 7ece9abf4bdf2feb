"""What tests of the asyncio side share."""

import pytest

from tests.loops import LOOPS, Loop


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each kind of event loop."""
    return Loop(request.param)
