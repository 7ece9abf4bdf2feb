"""What the file server and its clients agree on."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from typedrpc import Service, rpc


@dataclass(frozen=True)
class Receipt:
    """What has arrived. Who sent it compares the digest with his own."""

    name: str
    size: int
    sha256: str


class Files(Service):
    """Files below one folder; names are relative to it."""

    @rpc
    @abstractmethod
    def follow(self, path: str, from_end: bool = False) -> Iterator[bytes]:
        """What is in a file, and then what is added to it, until the caller has enough.

        A file that was cut short is read from its beginning again, and so is one that took the place of it, as when
        logs are rotated.

        Args:
            path: Of a file that is there.
            from_end: Leave out what is in it already.

        Raises:
            FileNotFoundError: It is not there, or is no file.
            PermissionError: It is not below the folder, or must not be read.
        """

    @rpc
    @abstractmethod
    def upload(self, name: str, size: int, chunks: Iterator[bytes]) -> Receipt:
        """Keep a file. It appears under its name when all of it is there; what was under that name is replaced.

        Args:
            name: In a folder that is there.
            size: Bytes of all chunks together.
            chunks: What is in it.

        Raises:
            PermissionError: The name is not below the folder, or must not be written.
            ValueError: The size is above the server's limit, or the chunks do not add up to it.
        """
