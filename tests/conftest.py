"""Fixtures that all tests share. A test that hangs is killed, and the stacks of all threads printed."""

import contextlib
import gc
import importlib
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

import typedrpc
from tests.ends import COLOURS, ENDS, Colours, Ends
from tests.runners import RUNNERS, Runner, make_runner
from tests.support import PATIENCE, Log, open_descriptors
from typedrpc.common import loop

SLOWEST: Final = [
    "test_soak.py",
    "both/test_random_cuts.py",
    "typing/test_verdicts.py",
    "both/test_restart.py",
    "benchmarks/test_prove.py",
    "benchmarks/test_profile.py",
    "cost/test_cost.py",
    "sync/test_interrupts.py",
    "sync/test_hostile.py",
    "sync/test_connection.py",
    "codec/test_properties.py",
    "both/test_fuzz_server.py",
    "both/test_faults.py",
    "test_fuzz_protocol.py",
    "both/test_nested.py",
    "both/test_callbacks.py",
    "common/test_streams.py",
    "both/test_slow_peers.py",
    "both/test_many.py",
    "both/test_cascade.py",
    "common/test_apart.py",
    "common/test_broadcast.py",
    "common/test_fork.py",
    "both/test_stream_ends.py",
    "common/test_mapping.py",
    "both/test_interop.py",
    "codec/test_wrapped.py",
    "schema/test_evolution.py",
    "examples/test_codesearch.py",
    "examples/test_tail.py",
    "examples/test_progress.py",
    "examples/test_chat.py",
]
"""The files that take long come first, so that the workers, who take whole files, end at about the same time."""


# Machines are shared, and how long it takes to invent an example is no test of anything.
settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        ends = params.get("colours") or params.get("ends")
        if isinstance(ends, Colours | Ends) and ends.client != ends.server:
            item.add_marker("unmeasured")  # both were measured with their like


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """What is there stays. Many tests collect garbage, and are not to look through all of it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Find the tests without coverage, which looks on while modules of the library are imported."""
    for module in pkgutil.walk_packages(typedrpc.__path__, "typedrpc."):
        with contextlib.suppress(ImportError):  # an adapter, whose library is not there
            importlib.import_module(module.name)
    with unmeasured():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Hand out the tests to workers, and hear what became of them, without coverage."""
    with unmeasured() if session.config.pluginmanager.has_plugin("dsession") else contextlib.nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run what is marked as unmeasured without coverage, its fixtures too: coverage doubles what a test takes.

    So do tests whose examples hypothesis invents: what they happen to execute is no measure of anything.
    """
    aside = any(item.get_closest_marker(name) for name in ("unmeasured", "hypothesis"))
    with unmeasured() if aside else contextlib.nullcontext():
        return (yield)


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Trace neither this thread nor the threads and processes that are started meanwhile."""
    trace, trace_of_threads = sys.gettrace(), threading.gettrace()
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COVERAGE_")}
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        threading.settrace(trace_of_threads)
        sys.settrace(trace)
        os.environ.update(hidden)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails the test if it leaves a thread or a descriptor behind."""
    threads_before = set(threading.enumerate())
    descriptors_before = open_descriptors()
    yield
    for thread in set(threading.enumerate()) - threads_before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread} was left"
    left = {name: target for name, target in open_descriptors().items() if descriptors_before.get(name) != target}
    assert not left, f"descriptors were left: {left}"


@pytest.fixture(scope="session")
def kept_loop() -> None:
    """The loop of async handlers, and of coroutines that threads run, lasts as long as the process: it is no leak."""
    loop.kept_loop()


@pytest.fixture
def log() -> Iterator[Log]:
    """The library's log from warnings up. A line that the test does not read fails it.

    To be asked for before whatever writes it, so that the end of that is seen too.
    """
    log = Log()
    logger = logging.getLogger("typedrpc")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)
    assert log.unread == []


@pytest.fixture(params=COLOURS, ids=" ".join)
def colours(request: pytest.FixtureRequest) -> Colours:
    """Client and server of either side, each with each."""
    return Colours(*request.param)


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """Each way to have a conversation."""
    return make_runner(request.param, tmp_path)


@pytest.fixture(params=ENDS, ids=repr)
def ends(request: pytest.FixtureRequest) -> Ends:
    """Clients and servers of each colour, the crossed pairs too."""
    found: Ends = request.param
    return found
