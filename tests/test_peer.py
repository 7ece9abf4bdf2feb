import threading
from typing import Any

import pytest

from tests.support import StubLink, run_all
from typedrpc import Service, rpc
from typedrpc.peer import MAX_VERSIONS, MAX_VERSIONS_SIZE, Peer, Versions, next_peer_id


class Listener(Service):
    @rpc
    def on_text(self, text: str) -> None: ...


class Other(Service):
    @rpc
    def on_other(self) -> None: ...


def test_no_two_peers_have_one_id() -> None:
    ids = [next_peer_id() for _ in range(100)]
    assert sorted(set(ids)) == ids


def test_a_peer_closes_its_connection_with_the_reason() -> None:
    link = StubLink()
    server: Any = object()
    peer = Peer(7, "127.0.0.1:50214", server, link)
    assert (peer.id, peer.address, peer.server) == (7, "127.0.0.1:50214", server)
    assert repr(peer) == "<peer 7 at 127.0.0.1:50214>"
    peer.close("enough")
    peer.close()
    assert link.reasons == ["enough", ""]


def test_a_peer_exposes_what_it_says() -> None:
    peer = Peer(7, "here", None, StubLink())
    assert [peer.exposes(what) for what in (Listener, Listener.on_text, Other, Other.on_other)] == [True, True] + [
        False
    ] * 2


def test_the_state_of_a_peer_has_a_type() -> None:
    peer = Peer(7, "here", None, StubLink())
    with pytest.raises(RuntimeError, match=r"the state of <peer 7 at here> is no dict: None"):
        peer.state_as(dict)
    peer.state = {"name": "Robert"}
    assert peer.state_as(dict) is peer.state


def test_a_peer_hands_on_to_its_link() -> None:
    link = StubLink()
    peer = Peer(7, "here", None, link)
    assert peer.proxy(Listener) == ("proxy", Listener)  # type: ignore[comparison-overlap]
    peer.set_limit(max_message_size=5000)
    assert link.limits == [5000]


def test_versions_are_numbered_from_0_and_kept() -> None:
    versions = Versions()
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    assert versions.number_of(5, b"a", lambda: make("5a")) == 0
    assert versions.number_of(5, b"b", lambda: make("5b")) == 1
    assert versions.number_of(6, b"a", lambda: make("6a")) == 2
    assert versions.number_of(5, b"a", lambda: make("again")) == 0
    assert versions.rows == made == ["5a", "5b", "6a"]
    assert Versions().rows == []


def test_a_peer_has_so_many_versions_and_no_more() -> None:
    versions = Versions()
    for number in range(MAX_VERSIONS):
        assert versions.number_of(1, b"%d" % number, object) == number
    assert versions.number_of(1, b"one more", object) is None
    assert versions.number_of(1, b"7", object) == 7
    assert len(versions.rows) == MAX_VERSIONS


def test_the_versions_of_a_peer_take_so_many_bytes_and_no_more() -> None:
    versions = Versions()
    large = bytes(MAX_VERSIONS_SIZE // 4)
    assert [versions.number_of(command, large, object) for command in range(5)] == [0, 1, 2, 3, None]
    assert versions.number_of(2, large, object) == 2
    assert versions.number_of(9, b"", object) == 4


@pytest.mark.usefixtures("no_leaks")
def test_threads_that_ask_at_once_get_one_number() -> None:
    versions = Versions()
    start = threading.Barrier(8)

    def ask() -> list[int | None]:
        start.wait()
        return [versions.number_of(1, b"%d" % number, object) for number in range(200)]

    results = run_all([ask] * 8)
    assert all(numbers == results[0] for numbers in results)
    assert sorted(map(str, results[0])) == sorted(map(str, range(200)))


def test_each_connection_has_versions_of_its_own() -> None:
    peers = [Peer(number, "here", None, StubLink()) for number in range(2)]
    peers[0].versions.number_of(1, b"", object)
    assert peers[1].versions.rows == []
