"""A file that is read while others write it. Knows nothing of calls and connections."""

import os
from pathlib import Path
from typing import Self

CHUNK_SIZE = 64 * 1024


class Follower:
    """Reads a file to its end, again and again, whatever becomes of it meanwhile."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        """
        Args:
            path: Of a file that is there.
            from_end: Start behind what is in it.

        Raises:
            OSError: It cannot be read.
        """
        self._path = path
        self._file = path.open("rb", buffering=0)
        if from_end:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> bytes:
        """What was added, or some of it; empty while there is nothing new.

        A file that has become shorter, and one that has taken the place of the one that was read, is read from its
        beginning. One that was cut short and has grown beyond where we were in the meantime looks as if it had grown
        only: nothing in a file tells.
        """
        if chunk := self._file.read(CHUNK_SIZE):
            return chunk
        try:
            there = self._path.stat()
        except FileNotFoundError:  # moved away; a new one may come
            return b""
        here = os.fstat(self._file.fileno())
        if not os.path.samestat(there, here):
            # Its last lines may have been written after we had looked, and before it was moved away.
            if chunk := self._file.read(CHUNK_SIZE):
                return chunk
            successor = self._path.open("rb", buffering=0)
            self._file.close()
            self._file = successor
        elif there.st_size < self._file.tell():
            self._file.seek(0)
        else:
            return b""
        return self._file.read(CHUNK_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
