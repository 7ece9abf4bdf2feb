"""The shapes of the soak, in threads. :mod:`soak_asyncio` has the same ones, in the same order.

A shape does its work once, with one server, and checks every answer. It draws its numbers from the dice.
"""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future, as_completed
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

from caller import expect
from relay import result_after, step
from soak_places import PATIENCE, RETRY, Place
from soak_services import Soak

from typedrpc import ConnectionLost, DeadlineExceeded, Retry, connect, deadline
from typedrpc.common.client import ConnectOptions
from typedrpc.sync import Client

LONG: Final = 120.0
"""Seconds that nothing takes unless it is given up."""

MIB: Final = 1024 * 1024
PAUSE: Final = 0.005
"""Seconds between two looks whether one-way calls have come."""


class Ends(NamedTuple):
    """What a shape works with.

    Attributes:
        soak: The proxy.
        here: What this client exposes.
        word: One that nobody else has.
        again: Connects once more to the same server; with ``retry`` if it is given.
    """

    soak: Soak
    here: Soak
    word: str
    again: Callable[..., Client[Soak]]


def dial(place: Place, url: str, folder: Path, here: Soak, retry: Retry | None = None) -> Client[Soak]:
    options: ConnectOptions = {**place.connect(folder), "expose": [here], "timeout": PATIENCE}
    if retry is not None:
        options["retry"] = retry
    return connect(Soak, url, **options)


def calls(ends: Ends, dice: Random) -> None:
    for number in range(dice.randint(1, 50)):
        expect(ends.soak.add(number, 7), number + 7)
        expect(ends.soak.aadd.call(number, 8), number + 8)


def errors(ends: Ends, dice: Random) -> None:
    try:
        ends.soak.fail(ends.word)
    except ValueError as error:
        expect(str(error), ends.word)
    else:
        raise AssertionError("a handler that fails has returned")


def futures(ends: Ends, dice: Random) -> None:
    made: dict[Future[int], int] = {}
    for number in range(dice.randint(1, 60)):
        submit = ends.soak.add.submit if number % 2 else ends.soak.aadd.submit
        made[submit(number, 1)] = number + 1
    for future in as_completed(made, LONG):
        expect(future.result(), made[future])


def maps(ends: Ends, dice: Random) -> None:
    count = dice.randint(1, 2000)
    expect(list(ends.soak.add.map(range(count), range(count))), [2 * number for number in range(count)])
    expect(list(islice(ends.soak.add.map(range(count), range(count)), 3)), [0, 2, 4][:count])  # the rest is given up


def one_way(ends: Ends, dice: Random) -> None:
    count = dice.randint(1, 50)
    for number in range(count):
        ends.soak.note.notify(ends.word, number)
    last = monotonic() + LONG
    while (noted := ends.soak.noted(ends.word, count)) is None:
        if monotonic() > last:
            raise AssertionError("one-way calls did not come")
        sleep(PAUSE)
    expect(noted, list(range(count)))


def streams_out(ends: Ends, dice: Random) -> None:
    start, count = dice.randrange(1000), dice.randint(0, 3000)
    expect(list(ends.soak.count(start, count)), list(range(start, start + count)))
    expect(list(ends.soak.acount.call(start, count)), list(range(start, start + count)))


def streams_in(ends: Ends, dice: Random) -> None:
    count = dice.randint(0, 3000)
    expect(ends.soak.total(iter(range(count))), count * (count - 1) // 2)
    expect(ends.soak.atotal.call(_anumbers(count)), count * (count - 1) // 2)


def streams_both(ends: Ends, dice: Random) -> None:
    count = dice.randint(0, 1000)
    expect(list(ends.soak.double(_numbers(count))), [2 * number for number in range(count)])


def streams_closed(ends: Ends, dice: Random) -> None:
    item = dice.randbytes(dice.randint(1, 10_000))
    with ends.soak.endless(item) as stream:
        for got in islice(stream, dice.randint(0, 100)):
            expect(got, item)
    with ends.soak.aendless.call(item) as stream:
        expect(next(stream), item)


def callbacks(ends: Ends, dice: Random) -> None:
    count, value = dice.randint(1, 20), dice.getrandbits(31)
    expect(ends.soak.fold(count, value, step), result_after(count, value))
    expect(ends.soak.afold.call(count, value, _astep), result_after(count, value))


def callbacks_kept(ends: Ends, dice: Random) -> None:
    value = dice.getrandbits(31)
    ends.soak.keep(ends.word, step)
    expect(ends.soak.use(ends.word, value), step(value))
    ends.soak.drop(ends.word)


def nested(ends: Ends, dice: Random) -> None:
    legs, value = dice.randint(1, 20), dice.getrandbits(31)
    expect(ends.soak.bounce(legs, value), result_after(legs, value))


def broadcasts(ends: Ends, dice: Random) -> None:
    heard = threading.Event()
    ends.here.ears[ends.word] = heard.set
    try:
        expect(ends.soak.shout(ends.word) >= 1, True)
        expect(heard.wait(LONG), True)
    finally:
        del ends.here.ears[ends.word]


def gathers(ends: Ends, dice: Random) -> None:
    for answers in (ends.soak.ask(dice.randrange(1000), 5), ends.soak.aask.call(dice.randrange(1000), 6)):
        expect(answers.others, [])
        expect(answers.right >= 1, True)


def large(ends: Ends, dice: Random) -> None:
    data = dice.randbytes(dice.randint(MIB, 8 * MIB))
    expect(ends.soak.echo(data) == data, True)
    expect(ends.soak.aecho.call(data) == data, True)


def deadlines(ends: Ends, dice: Random) -> None:
    for wait in (partial(ends.soak.wait, LONG), ends.soak.await_.call):
        try:
            with deadline(dice.uniform(0.001, 0.05)):
                wait()
        except DeadlineExceeded:
            continue
        raise AssertionError("a deadline has passed unseen")


def cancellations(ends: Ends, dice: Random) -> None:
    for submit in (partial(ends.soak.wait.submit, LONG), ends.soak.await_.submit):
        future: Future[Any] = submit()
        sleep(dice.uniform(0, 0.01))
        expect(future.cancel(), True)
        try:
            future.result(LONG)
        except CancelledError:
            continue
        raise AssertionError("a call that was cancelled has a result")


def visits(ends: Ends, dice: Random) -> None:
    """A client comes, calls, and goes, now and then while a call is under way."""
    with ends.again() as soak:
        visitor = ends._replace(soak=soak, word=f"{ends.word} again")
        for shape in dice.sample(VISITED, 2):
            shape(visitor, dice)
        left = soak.wait.submit(LONG) if dice.random() < 0.5 else None
    if left is not None:
        try:
            left.result(LONG)
        except ConnectionLost:
            return
        raise AssertionError("a call has survived its connection")


def cuts(ends: Ends, dice: Random) -> None:
    """A client with ``retry``, whose connection is cut under its calls: none fails, and none runs twice."""
    count = dice.randint(5, 20)
    with ends.again(retry=RETRY) as soak:
        for number in range(count):
            if dice.random() < 0.3:
                soak.hang_up.notify(dice.random() < 0.5)
            later = [soak.abook.submit(ends.word, number), soak.look.submit(number)]
            expect(soak.book(ends.word, number), -number)
            expect([future.result(LONG) for future in later], [-number, -number])
        expect(soak.booked(ends.word), dict.fromkeys(range(count), 2))


def _numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def _anumbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def _astep(value: int) -> int:
    return step(value)


SHAPES: Final[tuple[Callable[[Ends, Random], None], ...]] = (
    calls,
    errors,
    futures,
    maps,
    one_way,
    streams_out,
    streams_in,
    streams_both,
    streams_closed,
    callbacks,
    callbacks_kept,
    nested,
    broadcasts,
    gathers,
    large,
    deadlines,
    cancellations,
    visits,
    cuts,
)
VISITED: Final = SHAPES[: SHAPES.index(visits)]
