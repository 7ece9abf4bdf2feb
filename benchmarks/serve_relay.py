"""The server process of the nested proofs: prints its url, and serves the relay until its standard input ends."""

from processes import end_with_input
from relay import Referee, Relay

from typedrpc import Server


def main() -> None:
    end_with_input()
    relay = Relay()
    with Server(relay, Referee(relay), url="tcp://127.0.0.1:0") as server:
        print(server.url, flush=True)
        server.wait()


if __name__ == "__main__":
    main()
