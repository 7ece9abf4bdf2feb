"""The greeter: its server and its client, each a process."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.unmeasured

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_client_prints_the_result_of_every_call(serve: Callable[..., Any], run: Run) -> None:
    server = serve("greet_server.py")
    client = run("greet_client.py", "--url", server.url)
    assert client.stderr == ""
    assert client.stdout.splitlines() == [
        "hello Robert",
        "goodbye Robert",
        "goodbye goodbye Robert",
        "two words",
        "called without arguments",
        "6",
        "60 echo",
        "hello Futura",
        "hello in time",
        "ArgumentTypeError: Greeter.hello: argument 'name': expected str, got int",
    ]
    assert client.returncode == 0
    assert server.stop() == (0, "stopped\n", "")


def test_the_server_says_where_it_serves(serve: Callable[..., Any]) -> None:
    server = serve("greet_server.py")
    assert server.first_line.startswith("serving Greeter at tcp://127.0.0.1:")
    assert not server.url.endswith(":0")
    assert server.stop()[0] == 0


def test_two_clients_share_a_server(serve: Callable[..., Any], run: Run) -> None:
    server = serve("greet_server.py")
    first, second = (run("greet_client.py", "--url", server.url) for _ in range(2))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout != ""
