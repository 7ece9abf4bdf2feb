"""Who waits, reads: the read role of a connection, and the threads that are parked until they get it or their outcome.

The invariants, each of which a hang taught somebody:

1. Only the holder gives the role up, and :meth:`ReadRole.release` is the only way.
2. Parking: enter ``parked``, then look again whether there is still a reason to sleep, then sleep.
3. Who wakes a parked thread must have won its removal from ``parked``; a thread that cannot remove itself any more is
   being woken, and goes on when ``roused`` says that all was said. A bare wake, which says nothing, may come at any
   time.
4. Releasing: put the role back, then look at ``parked``: whoever leaves the role free and somebody parked wakes one.
5. The role is handed over locked: the thread that is woken with ``leads`` set already has it.
"""

from _thread import allocate_lock
from collections import deque
from typing import Any, Final, final

from typedrpc.transport import LONGEST_WAIT

WORD_TIME: Final = 1.0
"""Seconds after which somebody who has begun to wake a thread, and does not go on, was interrupted in between."""

_SLICES: Final = 50
"""In so many parts, as time also passes while the whole process is stopped."""


class Waiter:
    """One thread that may sleep until another has something for it."""

    __slots__ = ("abortable", "done", "leads", "roused", "wake", "work")

    def __init__(self, *, abortable: bool = False) -> None:
        """
        Args:
            abortable: Another thread may end the wait while this one reads.
        """
        self.abortable = abortable
        self.work: Final[deque[Any]] = deque()
        """What only this thread may do, before what it waits for is looked at."""
        self.done = False
        """What the thread waits for has come."""
        self.leads = False
        """The thread was woken because the read role is now its own."""
        self.roused = False
        """Whoever wakes the thread has said why; only the wake is still to come."""
        self.wake = allocate_lock()
        self.wake.acquire()


@final
class ReadRole:
    """The right to read from a connection, held by one thread at a time."""

    __slots__ = ("parked", "progress", "token")

    def __init__(self) -> None:
        # A list of one element is a try-lock at a third of the price of one: pop takes it, append gives it back.
        self.token: Final = [True]
        self.parked: Final[dict[Waiter, bool]] = {}
        self.progress = 0
        """Counts releases; written by the holder only."""

    @property
    def free(self) -> bool:
        """Nobody reads at this moment."""
        return bool(self.token)

    def try_take(self) -> bool:
        """Take the role if it is free."""
        try:
            return self.token.pop()
        except IndexError:
            return False

    def release(self) -> None:
        """Give the role up: to a parked thread if there is one."""
        self.progress += 1
        while True:
            if self.parked and self._hand_over():
                return
            self.token.append(True)
            if not self.parked or not self.try_take():
                return

    def _hand_over(self) -> bool:
        for waiter in tuple(self.parked):
            if self.parked.pop(waiter, False):
                waiter.leads = waiter.roused = True
                _wake(waiter)
                return True
        return False

    def rouse(self, waiter: Waiter) -> bool:
        """Wake this thread if it is parked. Returns whether it was."""
        if self.parked.pop(waiter, False):
            waiter.roused = True
            _wake(waiter)
            return True
        return False

    def rouse_for_good(self, waiter: Waiter) -> None:
        """Wake this thread, also if one that was interrupted took it out of ``parked``.

        If that one was not interrupted, what it has to say, such as that the role was handed over, is waited for.
        """
        if not self.rouse(waiter):
            _wake(waiter)

    def park(self, waiter: Waiter, timeout: float | None) -> bool:
        """Sleep until roused or handed the role; return at once when the role is free or there is a reason to look.

        Returns:
            False when the time passed, or LONGEST_WAIT. True says only that it is worth looking again; ``waiter.leads``
            is set when the role was handed over, and must be cleared by the caller.
        """
        waiter.roused = False
        self.parked[waiter] = True
        try:
            if (waiter.done or waiter.work or self.token) and self.parked.pop(waiter, False):
                return True
            if waiter.wake.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, LONGEST_WAIT))):
                if not waiter.roused and not self.parked.pop(waiter, False):
                    _await_word(waiter)
                return True
            if self.parked.pop(waiter, False):
                return False
            _await_word(waiter)
            return True
        except BaseException:
            # An exception of a signal handler. Being woken already, the thread may have been given the role.
            if not self.parked.pop(waiter, False):
                _await_word(waiter)
                if waiter.leads:
                    waiter.leads = False
                    self.release()
            raise


def _wake(waiter: Waiter) -> None:
    try:  # noqa: SIM105  # once for each call of many threads, where `suppress` takes longer than all the rest
        waiter.wake.release()
    except RuntimeError:  # a bare wake has come already, and was not taken yet
        pass


def _await_word(waiter: Waiter) -> None:
    """Another thread has taken this one out of ``parked``: return when it has said why, if it ever does."""
    for _ in range(_SLICES):
        if waiter.roused:
            return
        waiter.wake.acquire(timeout=WORD_TIME / _SLICES)
