"""The smallest service: the contract and its implementation are one class.

Start it in one terminal, and greet_client.py in another::

    python examples/greet_server.py
    python examples/greet_client.py
"""

import argparse

from typedrpc import Server, Service, rpc, serve

DEFAULT_URL = "tcp://127.0.0.1:9000"


class Greeter(Service):
    """Every annotation below is checked by mypy at the client, and again at run time on both sides."""

    @rpc
    def hello(self, name: str) -> str:
        return f"hello {name}"

    @rpc
    def goodbye(self, name: str, times: int = 1) -> str:
        return " ".join(["goodbye"] * times + [name])

    @rpc(id=100)  # without id= it is derived from the names, and never changes either
    def add_2_words(self, first: str, second: str) -> str:
        return f"{first} {second}"

    @rpc
    def func_no_args(self) -> str:
        return "called without arguments"

    @rpc
    def sum_of_array(self, numbers: list[int]) -> int:
        return sum(numbers)

    @rpc
    def sum_and_echo(self, numbers: list[int], text: str) -> tuple[int, str]:
        return sum(numbers), text


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the greeter until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default=DEFAULT_URL, help="where to listen (%(default)s)")
    arguments = parser.parse_args()

    def on_start(server: Server) -> None:
        print(f"serving Greeter at {server.url}", flush=True)

    serve(Greeter(), url=arguments.url, on_start=on_start)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
