"""The shapes of the soak, on an event loop: the same ones as in :mod:`soak_threads`, in the same order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final, NamedTuple

from caller import expect
from relay import result_after, step
from soak_places import PATIENCE, RETRY, Place
from soak_services import Soak
from soak_threads import LONG, MIB, PAUSE

from typedrpc import ConnectionLost, DeadlineExceeded, Retry, deadline
from typedrpc.aio import Client, connect
from typedrpc.common.client import ConnectOptions


class Ends(NamedTuple):
    """What a shape works with, see :class:`soak_threads.Ends`."""

    soak: Soak
    here: Soak
    word: str
    again: Callable[..., Awaitable[Client[Soak]]]


async def dial(place: Place, url: str, folder: Path, here: Soak, retry: Retry | None = None) -> Client[Soak]:
    options: ConnectOptions = {**place.connect(folder), "expose": [here], "timeout": PATIENCE}
    if retry is not None:
        options["retry"] = retry
    return await connect(Soak, url, **options)


async def calls(ends: Ends, dice: Random) -> None:
    for number in range(dice.randint(1, 50)):
        expect(await ends.soak.add.aio(number, 7), number + 7)
        expect(await ends.soak.aadd(number, 8), number + 8)


async def errors(ends: Ends, dice: Random) -> None:
    try:
        await ends.soak.fail.aio(ends.word)
    except ValueError as error:
        expect(str(error), ends.word)
    else:
        raise AssertionError("a handler that fails has returned")


async def futures(ends: Ends, dice: Random) -> None:
    count = dice.randint(1, 60)
    tasks = [ends.soak.add.aio(number, 1) if number % 2 else ends.soak.aadd(number, 1) for number in range(count)]
    expect(await asyncio.gather(*tasks), list(range(1, count + 1)))
    submitted = [asyncio.wrap_future(ends.soak.add.submit(number, 2)) for number in range(count)]
    expect(await asyncio.gather(*submitted), list(range(2, count + 2)))


async def maps(ends: Ends, dice: Random) -> None:
    count = dice.randint(1, 2000)

    def run() -> None:
        expect(list(ends.soak.add.map(range(count), range(count))), [2 * number for number in range(count)])
        for got in ends.soak.add.map(range(count), range(count)):
            expect(got, 0)
            break  # the rest is given up

    await asyncio.to_thread(run)


async def one_way(ends: Ends, dice: Random) -> None:
    count = dice.randint(1, 50)
    for number in range(count):
        ends.soak.note.notify(ends.word, number)
    last = monotonic() + LONG
    while (noted := await ends.soak.noted.aio(ends.word, count)) is None:
        if monotonic() > last:
            raise AssertionError("one-way calls did not come")
        await asyncio.sleep(PAUSE)
    expect(noted, list(range(count)))


async def streams_out(ends: Ends, dice: Random) -> None:
    start, count = dice.randrange(1000), dice.randint(0, 3000)
    expect([number async for number in ends.soak.count.aio(start, count)], list(range(start, start + count)))
    expect([number async for number in ends.soak.acount(start, count)], list(range(start, start + count)))


async def streams_in(ends: Ends, dice: Random) -> None:
    count = dice.randint(0, 3000)
    expect(await ends.soak.total.aio(iter(range(count))), count * (count - 1) // 2)
    expect(await ends.soak.atotal(_numbers(count)), count * (count - 1) // 2)


async def streams_both(ends: Ends, dice: Random) -> None:
    count = dice.randint(0, 1000)
    doubled = [number async for number in ends.soak.adouble(_numbers(count))]
    expect(doubled, [2 * number for number in range(count)])


async def streams_closed(ends: Ends, dice: Random) -> None:
    item, count = dice.randbytes(dice.randint(1, 10_000)), dice.randint(1, 100)
    async with ends.soak.aendless(item) as stream:
        async for got in stream:
            expect(got, item)
            count -= 1
            if not count:
                break
    async with ends.soak.endless.aio(item) as other:
        expect(await anext(other), item)


async def callbacks(ends: Ends, dice: Random) -> None:
    count, value = dice.randint(1, 20), dice.getrandbits(31)
    expect(await ends.soak.fold.aio(count, value, step), result_after(count, value))
    expect(await ends.soak.afold(count, value, _astep), result_after(count, value))


async def callbacks_kept(ends: Ends, dice: Random) -> None:
    value = dice.getrandbits(31)
    await ends.soak.keep.aio(ends.word, step)
    expect(await ends.soak.use.aio(ends.word, value), step(value))
    await ends.soak.drop.aio(ends.word)


async def nested(ends: Ends, dice: Random) -> None:
    legs, value = dice.randint(1, 20), dice.getrandbits(31)
    expect(await ends.soak.abounce(legs, value), result_after(legs, value))


async def broadcasts(ends: Ends, dice: Random) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    ends.here.ears[ends.word] = lambda: loop.call_soon_threadsafe(heard.set)
    try:
        expect(await ends.soak.shout.aio(ends.word) >= 1, True)
        async with asyncio.timeout(LONG):
            await heard.wait()
    finally:
        del ends.here.ears[ends.word]


async def gathers(ends: Ends, dice: Random) -> None:
    for asked in (ends.soak.ask.aio(dice.randrange(1000), 5), ends.soak.aask(dice.randrange(1000), 6)):
        answers = await asked
        expect(answers.others, [])
        expect(answers.right >= 1, True)


async def large(ends: Ends, dice: Random) -> None:
    data = dice.randbytes(dice.randint(MIB, 8 * MIB))
    expect(await ends.soak.echo.aio(data) == data, True)
    expect(await ends.soak.aecho(data) == data, True)


async def deadlines(ends: Ends, dice: Random) -> None:
    for wait in (partial(ends.soak.wait.aio, LONG), ends.soak.await_):
        try:
            with deadline(dice.uniform(0.001, 0.05)):
                await wait()
        except DeadlineExceeded:
            continue
        raise AssertionError("a deadline has passed unseen")


async def cancellations(ends: Ends, dice: Random) -> None:
    for wait in (partial(ends.soak.wait.aio, LONG), ends.soak.await_):
        task = asyncio.create_task(_awaited(wait()))
        await asyncio.sleep(dice.uniform(0, 0.01))
        expect(task.cancel(), True)
        try:
            await task
        except asyncio.CancelledError:
            continue
        raise AssertionError("a call that was cancelled has a result")


async def visits(ends: Ends, dice: Random) -> None:
    async with await ends.again() as soak:
        visitor = ends._replace(soak=soak, word=f"{ends.word} again")
        for shape in dice.sample(VISITED, 2):
            await shape(visitor, dice)
        left = soak.await_.submit() if dice.random() < 0.5 else None
    if left is not None:
        try:
            await asyncio.wrap_future(left)
        except ConnectionLost:
            return
        raise AssertionError("a call has survived its connection")


async def cuts(ends: Ends, dice: Random) -> None:
    count = dice.randint(5, 20)
    async with await ends.again(retry=RETRY) as soak:
        for number in range(count):
            if dice.random() < 0.3:
                soak.hang_up.notify(dice.random() < 0.5)
            found = await asyncio.gather(
                soak.book.aio(ends.word, number), soak.abook(ends.word, number), soak.look.aio(number)
            )
            expect(found, [-number] * 3)
        expect(await soak.booked.aio(ends.word), dict.fromkeys(range(count), 2))


async def _awaited(call: Awaitable[object]) -> None:
    await call


async def _numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def _astep(value: int) -> int:
    return step(value)


SHAPES: Final[tuple[Callable[[Ends, Random], Awaitable[None]], ...]] = (
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
