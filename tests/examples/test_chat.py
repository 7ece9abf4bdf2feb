"""The chat room: its server and several clients, each a process."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unmeasured

Start = Callable[..., Any]
Visit = Callable[[str], Any]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "chat"
PATIENCE = 30.0


@pytest.fixture
def server(start: Start) -> Any:
    return start("chat/chat_server.py", "--url", "tcp://127.0.0.1:0")


@pytest.fixture
def url(server: Any) -> str:
    line: str = server.output.expect("serving the room at ")
    return line.rpartition(" ")[2]


@pytest.fixture
def visit(start: Start, url: str) -> Visit:
    """Starts a client, and waits until it is in the room."""

    def enter(name: str) -> Any:
        client = start("chat/chat_client.py", name, "--url", url)
        client.output.expect("* ")
        return client

    return enter


def test_everybody_sees_who_comes_what_is_said_and_who_goes(server: Any, visit: Visit) -> None:
    ann = visit("ann")
    bob = visit("bob")
    cleo = visit("cleo")
    bob.type("hello")
    ann.output.expect("bob: hello")
    cleo.output.expect("bob: hello")
    cleo.type("  hello yourself ")
    ann.output.expect("cleo: ")
    bob.output.expect("cleo: ")
    cleo.end_input()  # Ctrl-D
    assert cleo.wait() == 0
    ann.output.expect("left")
    bob.output.expect("left")
    ann.popen.send_signal(signal.SIGINT)  # Ctrl-C
    assert ann.wait() == 0
    bob.output.expect("left")
    bob.end_input()
    assert bob.wait() == 0

    assert ann.output.rest() == [
        "* nobody else is here yet",
        "* bob has joined",
        "* cleo has joined",
        "bob: hello",
        "cleo: hello yourself",
        "* cleo has left",
    ]
    assert bob.output.rest() == [
        "* here are ann",
        "* cleo has joined",
        "cleo: hello yourself",
        "* cleo has left",
        "* ann has left",
    ]
    assert cleo.output.rest() == ["* here are ann, bob", "bob: hello"]
    assert ann.complaints.rest() == bob.complaints.rest() == cleo.complaints.rest() == []

    server.complaints.expect("bob has left, 0 in the room: the peer closed the connection")
    server.popen.terminate()
    assert server.wait() == 0
    assert server.output.rest()[-1] == "stopped"
    told = [re.sub(r"^\S+ \S+ |127\.0\.0\.1:\d+", "", line) for line in server.complaints.rest()]
    assert told == [
        "ann has joined from , 1 in the room",
        "bob has joined from , 2 in the room",
        "cleo has joined from , 3 in the room",
        "cleo has left, 2 in the room: the peer closed the connection",
        "ann has left, 1 in the room: the peer closed the connection",
        "bob has left, 0 in the room: the peer closed the connection",
    ]


def test_who_lists_who_is_there(visit: Visit) -> None:
    ann = visit("ann")
    bob = visit("bob")
    bob.type("/who")
    assert bob.output.expect("* here are ann, ") == "* here are ann, bob"
    bob.type("/quit")
    assert bob.output.expect("* there") == "* there is /who, and Ctrl-D to leave"
    bob.end_input()
    ann.output.expect("* bob has left")
    ann.type("/who")
    assert ann.output.expect("* here") == "* here are ann"
    assert bob.wait() == 0


def test_a_name_that_is_taken_is_refused_and_nobody_is_told(start: Start, visit: Visit, url: str) -> None:
    ann = visit("ann")
    second = start("chat/chat_client.py", "Ann", "--url", url)
    assert second.wait() == 1
    assert second.output.rest() == []
    assert second.complaints.rest() == ["somebody here is called Ann already, take another name than Ann"]
    visit("bob")
    ann.output.expect("* bob has joined")
    assert ann.output.seen == ["* nobody else is here yet", "* bob has joined"]


@pytest.mark.parametrize("name", ["", "two words", "a" * 21, "bell\a"])
def test_what_is_no_name_is_refused(start: Start, url: str, name: str) -> None:
    client = start("chat/chat_client.py", "--url", url, "--", name)
    assert client.wait() == 1
    assert client.complaints.rest() == [f"ValueError: a name has 1 to 20 characters and no spaces: {name!r}"]


def test_a_client_that_is_killed_is_seen_to_go_and_its_name_is_free(server: Any, visit: Visit) -> None:
    ann = visit("ann")
    bob = visit("bob")
    bob.popen.kill()
    ann.output.expect("* bob has left")
    server.complaints.expect("bob has left, 1 in the room: ")
    visit("bob")
    assert ann.output.expect("bob") == "* bob has joined"


def test_all_are_told_everything_in_the_same_order(visit: Visit) -> None:
    watchers = visit("first"), visit("second")
    watchers[0].output.expect("* second has joined")
    talkers = [visit(f"talker-{number}") for number in range(3)]
    for talker in talkers:
        for number in range(50):
            talker.type(f"line {number}")
        talker.end_input()
    for watcher in watchers:
        for _ in talkers:
            watcher.output.expect("has left")
    heard, heard_too = (watcher.output.seen[-156:] for watcher in watchers)
    assert heard == heard_too
    assert heard[0] == "* talker-0 has joined"
    for number in range(3):
        name = f"talker-{number}"
        said = [line for line in heard if line.startswith(f"{name}: ")]
        assert said == [f"{name}: line {number}" for number in range(50)]


def test_a_line_that_is_too_long_is_not_sent_and_the_visit_goes_on(visit: Visit) -> None:
    ann = visit("ann")
    bob = visit("bob")
    bob.type("x" * 100_000)
    assert bob.output.expect("* not sent: ").startswith("* not sent: Room.say: ")
    bob.type("short")
    ann.output.expect("bob: ")
    assert ann.output.seen[-1] == "bob: short"


def test_who_talks_to_nobody_is_told_so(visit: Visit) -> None:
    ann = visit("ann")
    ann.type("hello?")
    assert ann.output.expect("nobody else is here") == "* nobody else is here"


def test_what_others_write_does_nothing_to_the_terminal(visit: Visit) -> None:
    ann = visit("ann")
    bob = visit("bob")
    bob.type("\x1b[2J clear")
    assert ann.output.expect("bob: ") == "bob: \N{REPLACEMENT CHARACTER}[2J clear"


def test_a_client_that_waits_for_a_line_ends_when_the_server_does(server: Any, visit: Visit) -> None:
    ann = visit("ann")
    server.popen.terminate()
    assert ann.wait() == 1
    assert ann.complaints.rest() == ["ConnectionLost: the peer closed the connection: the server is closing"]
    assert server.wait() == 0


def test_who_has_not_joined_says_nothing(visit: Visit, url: str) -> None:
    ann = visit("ann")
    program = (
        "from chat_contract import Room; from typedrpc import connect\n"
        f"with connect(Room, {url!r}) as room:\n"
        "    print(room.who())\n"
        "    try: room.say('hello')\n"
        "    except PermissionError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['ann']", "join the room before you say something"]
    visit("bob")
    ann.output.expect("* bob has joined")
    assert ann.output.seen == ["* nobody else is here yet", "* bob has joined"]


def test_in_a_terminal_a_line_that_comes_does_not_tear_the_one_that_is_typed(visit: Visit, url: str) -> None:
    bob = visit("bob")
    controller, terminal = pty.openpty()
    command = [sys.executable, str(FOLDER / "chat_client.py"), "ann", "--url", url]
    environment = {**os.environ, "TERM": "xterm"}
    ann = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""

    def read_until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([controller], [], [], PATIENCE)[0], shown
            shown += os.read(controller, 1000)
        shown = shown.partition(text)[2]

    try:
        read_until(b"* here are bob\r\n")
        read_until(b"ann: ")
        os.write(controller, b"hel")
        read_until(b"hel")
        bob.type("hi ann")
        read_until(b"\r\x1b[Kbob: hi ann\r\nann: hel")
        os.write(controller, b"lo\r")
        bob.output.expect("ann: hello")
        read_until(b"ann: ")
        os.write(controller, b"\x04")
        assert ann.wait(PATIENCE) == 0
        bob.output.expect("* ann has left")
    finally:
        ann.kill()
        ann.wait()
        os.close(controller)


def test_the_client_reads_the_contract_and_nothing_else_of_the_server() -> None:
    program = "import sys, chat_client; print(sorted(name for name in sys.modules if name.startswith('chat_')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout == "['chat_client', 'chat_contract']\n"
