"""Following files and uploading them: the demo, and the server with its clients, each a process."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from typedrpc import Service, connect, rpc

pytestmark = pytest.mark.unmeasured

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., Any]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tail"
PATIENCE = 30.0

CHUNK = bytes(256 * 1024)
"""More than a stream may have on its way at first: the second one leaves when the server has taken the first."""


@dataclass(frozen=True)
class Receipt:
    name: str
    size: int
    sha256: str


class Files(Service):
    """The contract, as another program would write it down."""

    @rpc
    def follow(self, path: str, from_end: bool = False) -> Iterator[bytes]:
        yield from ()

    @rpc
    def upload(self, name: str, size: int, chunks: Iterator[bytes]) -> Receipt:
        raise NotImplementedError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def server(start: Start, root: Path) -> Any:
    return start("tail/tail_server.py", "--url", "tcp://127.0.0.1:0", "--root", str(root))


@pytest.fixture
def url(server: Any) -> str:
    line: str = server.output.expect("serving ")
    return line.rpartition(" ")[2]


@pytest.fixture
def files(url: str) -> Iterator[Files]:
    with connect(Files, url, timeout=PATIENCE) as files:
        yield files


def test_the_demo_shows_both_and_ends_by_itself(run: Run) -> None:
    demo = run("tail/tail_demo.py")
    assert "  [tail] line 3, added while it is followed\n" in demo.stdout
    assert "  [tail] the first line of a new file: the old one was moved away\n" in demo.stdout
    assert "  [tail] cut short\n" in demo.stdout
    assert " follows app.log no longer\n" in demo.stdout
    assert "it has arrived\n" in demo.stdout
    assert demo.stdout.endswith("  [server] stopped\n")
    assert demo.stderr.splitlines() == [f"picture.raw: {percent} %" for percent in (0, 25, 50, 75, 100)]
    assert demo.returncode == 0


def test_a_file_is_followed_until_the_client_leaves(server: Any, start: Start, url: str, root: Path) -> None:
    log = root / "app.log"
    log.write_text("one\n")
    client = start("tail/tail.py", "--url", url, "follow", "app.log")
    client.output.expect("one")
    with log.open("a") as file:
        file.write("two\n")
    client.output.expect("two")
    server.complaints.expect("follows app.log")
    client.popen.send_signal(signal.SIGINT)
    assert client.wait() == 130
    assert (client.output.rest(), client.complaints.rest()) == (["one", "two"], [])
    server.complaints.expect("follows app.log no longer")


def test_the_server_stops_following_for_a_client_that_is_killed(
    server: Any, start: Start, url: str, root: Path
) -> None:
    (root / "app.log").write_text("one\n")
    client = start("tail/tail.py", "--url", url, "follow", "app.log")
    client.output.expect("one")
    client.popen.kill()
    server.complaints.expect("follows app.log no longer")
    server.popen.terminate()
    assert server.wait() == 0
    assert not [line for line in server.complaints.rest() if "Traceback" in line or "error id" in line]


def test_leaving_the_loop_stops_the_server_and_keeps_the_connection(server: Any, files: Files, root: Path) -> None:
    (root / "app.log").write_text("one\n")
    for chunk in files.follow("app.log"):
        assert chunk == b"one\n"
        break
    server.complaints.expect("follows app.log no longer")
    with files.follow("app.log") as chunks:
        assert next(chunks) == b"one\n"
    server.complaints.expect("follows app.log no longer")


def test_from_its_end_a_file_gives_only_what_is_added(files: Files, server: Any, root: Path) -> None:
    log = root / "app.log"
    log.write_text("before\n")
    with files.follow("app.log", from_end=True) as chunks:
        server.complaints.expect("follows app.log")
        with log.open("a") as file:
            file.write("after\n")
        assert next(chunks) == b"after\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is served, with what is beside it and links that lead there."""
    tree = tmp_path_factory.mktemp("tail")
    (tree / "served" / "folder").mkdir(parents=True)
    (tree / "elsewhere").mkdir()
    (tree / "secret").write_text("secret\n")
    (tree / "served" / "link").symlink_to(tree / "secret")
    (tree / "served" / "link_to_folder").symlink_to(tree / "elsewhere")
    return tree


@pytest.fixture(scope="module")
def strict(tree: Path, serve: Callable[..., Any]) -> Iterator[Files]:
    """A server of that folder, for what it refuses: after that it is as it was."""
    server = serve("tail/tail_server.py", "--root", str(tree / "served"), "--max-upload", "1000")
    before = sorted(tree.rglob("*"))
    with connect(Files, server.url, timeout=PATIENCE) as files:
        yield files
    assert sorted(tree.rglob("*")) == before
    assert (tree / "secret").read_text() == "secret\n"


@pytest.mark.parametrize("path", ["none.log", "folder", "folder/none.log"])
def test_what_is_no_file_is_not_followed(strict: Files, path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no file '{path}'"):
        next(strict.follow(path))


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link", ".", "folder/.."])
def test_what_is_not_below_the_folder_is_not_followed(strict: Files, path: str) -> None:
    with pytest.raises(PermissionError, match=f"'{path}' is not below the folder that is served"):
        next(strict.follow(path))


@pytest.mark.parametrize("name", ["../new", "/tmp/new", "..", "folder/../../new", "link", "link_to_folder/new"])
def test_a_name_that_leaves_the_folder_is_refused(strict: Files, name: str) -> None:
    with pytest.raises(PermissionError, match=f"'{name}' is not below the folder that is served"):
        strict.upload(name, 1, iter([b"x"]))


@pytest.mark.parametrize(
    ("size", "chunks", "text"),
    [
        (3, [b"xy"], "2 bytes instead of the 3 that were announced"),
        (3, [b"xy", b"zz"], "more than the 3 bytes that were announced"),
        (-1, [], "a file has 0 to 1,000 bytes here, not -1"),
        (1001, [], "a file has 0 to 1,000 bytes here, not 1,001"),
    ],
)
def test_a_size_that_is_not_kept_is_refused(strict: Files, size: int, chunks: list[bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        strict.upload("new", size, iter(chunks))


def test_the_command_line_says_in_a_line_what_is_wrong(run: Run, url: str) -> None:
    client = run("tail/tail.py", "--url", url, "follow", "none.log")
    complaint = "FileNotFoundError: there is no file 'none.log'\n"
    assert (client.stdout, client.stderr, client.returncode) == ("", complaint, 1)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 3_000_000])
def test_what_is_uploaded_arrives(run: Run, url: str, root: Path, tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "here.bin").write_bytes(content)
    (root / "there.bin").write_text("what was there before")
    client = run("tail/tail.py", "--url", url, "upload", str(tmp_path / "here.bin"), "--name", "there.bin")
    digest = hashlib.sha256(content).hexdigest()
    assert client.stdout == f"there.bin: {size:,} bytes, sha256 {digest}\n"
    assert client.stderr.splitlines()[-1] == "there.bin: 100 %"
    assert client.returncode == 0
    assert (root / "there.bin").read_bytes() == content
    assert [path.name for path in root.iterdir()] == ["there.bin"]


class Upload:
    """Chunks that stop when the server has a partial file, until they are told to go on or to fail."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.under_way = Event()
        self.go_on = Event()
        self.closed = Event()
        self.failure: Exception | None = None

    def chunks(self) -> Iterator[bytes]:
        try:
            yield CHUNK
            yield CHUNK
            assert [path.suffix for path in self._root.iterdir()] == [".part"]
            self.under_way.set()
            assert self.go_on.wait(PATIENCE)
            if self.failure is not None:
                raise self.failure
            yield CHUNK
        finally:
            self.closed.set()


@pytest.fixture
def upload(root: Path) -> Iterator[Upload]:
    upload = Upload(root)
    yield upload
    upload.go_on.set()
    if upload.under_way.is_set():
        assert upload.closed.wait(PATIENCE)


def test_an_upload_that_is_cancelled_leaves_nothing(server: Any, files: Files, root: Path, upload: Upload) -> None:
    future = files.upload.submit("big", 3 * len(CHUNK), upload.chunks())
    assert upload.under_way.wait(PATIENCE)
    assert future.cancel()
    server.complaints.expect("the upload of big ended after ")
    assert list(root.iterdir()) == []
    assert files.upload("small", 1, iter([b"x"])).size == 1


def test_an_upload_whose_client_has_left_leaves_nothing(server: Any, url: str, root: Path, upload: Upload) -> None:
    with connect(Files, url, timeout=PATIENCE) as files:
        files.upload.submit("big", 3 * len(CHUNK), upload.chunks())
        assert upload.under_way.wait(PATIENCE)
    server.complaints.expect("the upload of big ended after ")
    assert list(root.iterdir()) == []


def test_an_upload_whose_file_cannot_be_read_on_leaves_nothing(
    server: Any, files: Files, root: Path, upload: Upload
) -> None:
    upload.failure = OSError(5, "the disk is broken")
    upload.go_on.set()
    with pytest.raises(OSError, match="the disk is broken") as raised:
        files.upload("big", 3 * len(CHUNK), upload.chunks())
    assert raised.value is upload.failure
    server.complaints.expect("the upload of big ended after 524,288 bytes: ")
    assert list(root.iterdir()) == []


def run_program(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return done.stdout


def test_the_follower_notices_growth_truncation_and_rotation(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from follower import Follower

log = Path(sys.argv[1])
log.write_bytes(b"one\\n")
with Follower(log) as follower, Follower(log, from_end=True) as from_end:
    assert follower.read() == b"one\\n"
    assert (follower.read(), from_end.read()) == (b"", b"")
    with log.open("ab") as file:
        file.write(b"two\\n")
    assert (follower.read(), from_end.read()) == (b"two\\n", b"two\\n")
    log.write_bytes(b"short\\n")
    assert (follower.read(), from_end.read()) == (b"short\\n", b"short\\n")
    log.rename(log.with_suffix(".1"))
    assert follower.read() == b""
    with log.with_suffix(".1").open("ab") as file:
        file.write(b"last words\\n")
    assert from_end.read() == b"last words\\n"
    log.write_bytes(b"new\\n")
    assert (follower.read(), follower.read(), follower.read()) == (b"last words\\n", b"new\\n", b"")
    assert (from_end.read(), from_end.read()) == (b"new\\n", b"")
    log.unlink()
    assert follower.read() == b""
    log.write_bytes(bytes(100_000))
    assert [len(follower.read()) for _ in range(3)] == [65536, 34464, 0]
print("done")
"""
    assert run_program(program, str(tmp_path / "app.log")) == "done\n"


def test_in_a_terminal_the_bar_is_drawn_over_itself() -> None:
    program = """
import io, os
from bar import Bar

class Terminal(io.StringIO):
    def isatty(self):
        return True

os.environ["COLUMNS"] = "23"
terminal = Terminal()
with Bar("abc", 1000, terminal) as bar:
    for _ in range(4):
        bar.advance(250)
        bar.advance(0)
with Bar("e", 0, terminal):
    pass
print(terminal.getvalue().replace("\\r", "|"), end="")
"""
    steps, empty = run_program(program).splitlines()
    assert steps.split("|")[1:] == [
        "abc [..........]   0 %",
        "abc [##........]  25 %",
        "abc [#####.....]  50 %",
        "abc [#######...]  75 %",
        "abc [##########] 100 %",
    ]
    assert empty == "|e [############] 100 %"
