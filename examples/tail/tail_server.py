"""Lets others follow the files of a folder as they grow, and put files there.

::

    python examples/tail/tail_server.py --root /var/log
    python examples/tail/tail.py follow syslog             # and press Ctrl-C when you have seen enough
"""

import argparse
import logging
import os
import secrets
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from follower import Follower
from tail_contract import Files, Receipt

from typedrpc import Server, current_call, rpc, serve

logger = logging.getLogger("tail")

INTERVAL = 0.2
"""Seconds between two looks at a file that does not grow."""

MAX_UPLOAD = 1024 * 1024 * 1024


class FolderFiles(Files):
    """The files below one folder."""

    def __init__(self, root: Path, max_upload: int = MAX_UPLOAD) -> None:
        self._root = root.resolve()
        self._max_upload = max_upload

    @rpc
    def follow(self, path: str, from_end: bool = False) -> Iterator[bytes]:
        # A handler with a stream has a thread of its own: it may wait here for as long as the caller listens.
        file = self._path_of(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {path!r}")
        call = current_call()
        with Follower(file, from_end=from_end) as follower:
            logger.info("%s follows %s", call.peer, path)
            try:
                # In place of time.sleep: it returns True at once when the caller closes the stream, or has left.
                while not call.cancelled.wait(0 if (chunk := follower.read()) else INTERVAL):
                    if chunk:
                        yield chunk  # waits while the caller does not keep pace, so nothing piles up here
            finally:  # however it ends: also where the caller leaves while `yield` waits
                logger.info("%s follows %s no longer", call.peer, path)

    @rpc
    def upload(self, name: str, size: int, chunks: Iterator[bytes]) -> Receipt:
        if not 0 <= size <= self._max_upload:
            raise ValueError(f"a file has 0 to {self._max_upload:,} bytes here, not {size:,}")
        path = self._path_of(name)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        peer = current_call().peer
        received, digest = 0, sha256()
        try:
            with part.open("xb") as file:
                for chunk in chunks:  # raises when the caller breaks off, leaves, or his own iterator fails
                    received += len(chunk)
                    if received > size:
                        raise ValueError(f"more than the {size:,} bytes that were announced")
                    file.write(chunk)
                    digest.update(chunk)
            if received < size:
                raise ValueError(f"{received:,} bytes instead of the {size:,} that were announced")
            os.replace(part, path)
        except BaseException as error:
            part.unlink(missing_ok=True)
            logger.info("%s: the upload of %s ended after %s bytes: %s", peer, name, f"{received:,}", error)
            raise
        logger.info("%s has uploaded %s, %s bytes", peer, name, f"{size:,}")
        return Receipt(name, size, digest.hexdigest())

    def _path_of(self, name: str) -> Path:
        """Where a file is that a caller names. Links are followed first, so none leads out of the folder."""
        path = (self._root / name).resolve()
        if self._root not in path.parents:
            raise PermissionError(f"{name!r} is not below the folder that is served")
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the files of a folder until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9040", help="where to listen (%(default)s)")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder (the current one)")
    parser.add_argument("--max-upload", type=int, default=MAX_UPLOAD, help="bytes of a file (%(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("typedrpc").setLevel(logging.WARNING)

    def on_start(server: Server) -> None:
        print(f"serving {arguments.root.resolve()} at {server.url}", flush=True)

    serve(FolderFiles(arguments.root, arguments.max_upload), url=arguments.url, on_start=on_start)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
