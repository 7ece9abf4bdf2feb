"""Follows a file of another machine as ``tail -f`` does, or puts one there.

::

    python examples/tail/tail.py follow app.log --from-end
    python examples/tail/tail.py upload holiday.mp4
"""

import argparse
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from bar import Bar
from tail_contract import Files

from typedrpc import RpcError, connect

CHUNK_SIZE = 64 * 1024

CANCELLED = 130
"""What shells take for the exit code of a program that Ctrl-C has ended: 128 and the number of SIGINT."""


def follow(files: Files, path: str, from_end: bool) -> None:
    # Leaving the block, by Ctrl-C too, stops the server's generator.
    with files.follow(path, from_end) as chunks:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def upload(files: Files, path: Path, name: str) -> None:
    size, digest = path.stat().st_size, sha256()

    def read(bar: Bar) -> Iterator[bytes]:
        # It runs in a thread of its own, as far ahead of the server as it has credit: 1 MiB at most. So the bar shows
        # what the server has taken, and not what is in some buffer.
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_SIZE):
                digest.update(chunk)
                yield chunk
                bar.advance(len(chunk))

    with Bar(name, size) as bar:
        receipt = files.upload(name, size, read(bar))
    if receipt.sha256 != digest.hexdigest():
        raise ValueError(f"{name} has arrived as something else, its digest is {receipt.sha256}")
    print(f"{receipt.name}: {receipt.size:,} bytes, sha256 {receipt.sha256}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Follow a file of another machine, or put one there.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9040", help="what tail_server.py printed (%(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the server (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    following = commands.add_parser("follow", help="print what is in a file, and what is added to it")
    following.add_argument("path", help="as the server names it")
    following.add_argument("--from-end", action="store_true", help="only what is added from now on")
    uploading = commands.add_parser("upload", help="put a file there")
    uploading.add_argument("path", type=Path, help="as this machine names it")
    uploading.add_argument("--name", help="as the server is to name it (its own)")
    arguments = parser.parse_args()
    try:
        with connect(Files, arguments.url, timeout=arguments.timeout) as files:
            if arguments.command == "follow":
                follow(files, arguments.path, arguments.from_end)
            else:
                upload(files, arguments.path, arguments.name or arguments.path.name)
    except KeyboardInterrupt:
        return CANCELLED
    except (RpcError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
