"""After a fork the child has copies of the parent's sockets and locks and none of its threads: it leaves all alone."""

import os
import weakref
from typing import Final, Protocol


class Forsakable(Protocol):
    """Something whose descriptors and threads are the parent's."""

    def forsake(self) -> None:
        """Called in the child, in its only thread. Closes descriptors, touches none of their bytes, takes no lock.

        Called again in the child's own children: they share with it whatever it has made in place of what it left.
        """


_parents: Final["weakref.WeakSet[Forsakable]"] = weakref.WeakSet()


def forsake_after_fork(thing: Forsakable) -> None:
    """Have ``thing.forsake()`` called in every child that is forked while the thing lives."""
    _parents.add(thing)


def _forsake_all() -> None:
    for thing in tuple(_parents):
        thing.forsake()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forsake_all)
