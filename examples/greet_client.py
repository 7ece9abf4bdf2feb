"""Calls every command of greet_server.py, in each of the forms that a command has."""

import argparse

from greet_server import DEFAULT_URL, Greeter

from typedrpc import connect


def main() -> None:
    parser = argparse.ArgumentParser(description="Call the greeter.")
    parser.add_argument("--url", default=DEFAULT_URL, help="what greet_server.py printed (%(default)s)")
    arguments = parser.parse_args()

    with connect(Greeter, arguments.url, timeout=5.0) as greeter:  # greeter is a Greeter, for mypy and for your editor
        print(greeter.hello("Robert"))
        print(greeter.goodbye("Robert"))
        print(greeter.goodbye(times=2, name="Robert"))
        print(greeter.add_2_words("two", "words"))
        print(greeter.func_no_args())
        print(greeter.sum_of_array([1, 2, 3]))

        total, text = greeter.sum_and_echo([10, 20, 30], "echo")
        print(total, text)

        future = greeter.hello.submit("Futura")  # a concurrent.futures.Future[str]
        print(future.result())

        print(greeter.hello.with_options(timeout=2.0)("in time"))

        greeter.hello.notify("nobody waits for this one")

        try:
            greeter.hello(42)  # type: ignore[arg-type]  # mypy refuses it, and so does the run time, before a byte is sent
        except TypeError as error:
            print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
