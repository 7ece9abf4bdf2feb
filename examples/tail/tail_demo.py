"""Shows both: a log that is followed while it grows and is rotated, and an upload. Ends by itself.

::

    python examples/tail/tail_demo.py
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

HERE = Path(__file__).resolve().parent


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(part: str, output: IO[str] | None, who: str) -> str:
    """Show what a process prints, up to the line that contains something; returns that."""
    assert output is not None
    for line in output:
        print(f"  [{who}] {line.rstrip()}", flush=True)
        if part in line:
            return line.rstrip()
    raise SystemExit(f"{who} has ended without a line with {part!r}")


def show_following(root: Path, url: str, server: "subprocess.Popen[str]") -> None:
    log = root / "app.log"
    log.write_text("a line that is there already\n")
    print("$ tail.py follow app.log", flush=True)
    tail = start("tail.py", "--url", url, "follow", "app.log")
    try:
        wait_for("there already", tail.stdout, "tail")
        for number in range(1, 4):
            with log.open("a") as file:
                file.write(f"line {number}, added while it is followed\n")
            wait_for(f"line {number}", tail.stdout, "tail")
        log.rename(root / "app.log.1")
        log.write_text("the first line of a new file: the old one was moved away\n")
        wait_for("new file", tail.stdout, "tail")
        log.write_text("cut short\n")
        wait_for("cut short", tail.stdout, "tail")
    finally:
        tail.terminate()
        tail.communicate()
    wait_for("no longer", server.stdout, "server")


def show_upload(root: Path, url: str, elsewhere: Path) -> bool:
    picture = elsewhere / "picture.raw"
    picture.write_bytes(bytes(range(256)) * 40_000)
    print("\n$ tail.py upload picture.raw", flush=True)
    done = subprocess.run([sys.executable, str(HERE / "tail.py"), "--url", url, "upload", str(picture)], check=False)
    arrived = done.returncode == 0 and (root / "picture.raw").read_bytes() == picture.read_bytes()
    print("it has arrived" if arrived else "it has NOT arrived", flush=True)
    return arrived


def main() -> int:
    with TemporaryDirectory() as folder, TemporaryDirectory() as elsewhere:
        root = Path(folder)
        print("$ tail_server.py", flush=True)
        server = start("tail_server.py", "--root", folder, "--url", "tcp://127.0.0.1:0")
        try:
            url = wait_for("serving", server.stdout, "server").rpartition(" ")[2]
            show_following(root, url, server)
            arrived = show_upload(root, url, Path(elsewhere))
        finally:
            server.terminate()
            last_words, _ = server.communicate(timeout=20)
        print("\n".join(f"  [server] {line}" for line in last_words.splitlines()))
    return 0 if arrived and server.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
