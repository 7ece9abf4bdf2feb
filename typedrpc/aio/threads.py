"""A function in a thread of its own, awaited: for what may take its time and call others."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a new thread, in the context of this task, and return what it returns."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if isinstance(error, StopIteration):  # which a future does not take
            failed = RuntimeError(f"{function!r} raised StopIteration")
            failed.__cause__ = error
            done.set_exception(failed)
        elif error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # it returned that

    def run() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = context.run(function)
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name="typedrpc-aside", daemon=True).start()
    return await done
