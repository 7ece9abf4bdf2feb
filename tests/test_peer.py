import threading

import pytest

from tests.support import run_all
from typedrpc.peer import MAX_VERSIONS, MAX_VERSIONS_SIZE, Peer, Versions, next_peer_id


def test_no_two_peers_have_one_id() -> None:
    ids = [next_peer_id() for _ in range(100)]
    assert sorted(set(ids)) == ids


def test_a_peer_closes_its_connection_with_the_reason() -> None:
    reasons: list[str] = []
    server = object()
    peer = Peer(7, "127.0.0.1:50214", server, reasons.append)
    assert (peer.id, peer.address, peer.server) == (7, "127.0.0.1:50214", server)
    assert repr(peer) == "<peer 7 at 127.0.0.1:50214>"
    peer.close("enough")
    peer.close()
    assert reasons == ["enough", ""]


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
    peers = [Peer(number, "here", None, lambda reason: None) for number in range(2)]
    peers[0].versions.number_of(1, b"", object)
    assert peers[1].versions.rows == []
