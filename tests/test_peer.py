from typedrpc.peer import Peer, next_peer_id


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
