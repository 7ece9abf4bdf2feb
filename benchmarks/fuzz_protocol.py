"""A coverage-guided fuzzer of the protocol's core: whatever a peer sends, only what is documented comes of it.

::

    make fuzz                                   # half a minute, and half a minute of the codec
    python benchmarks/fuzz_protocol.py --seconds 600 --corpus folder
    python benchmarks/fuzz_protocol.py crash-0123abcd        # what a finding does, with its traceback

The first byte of an input says what the core is (a client or a server, greeted already or not, with calls and streams
of its own or not, with a secret or not), the second how its bytes are split; the others are what the peer sends. The
inputs to begin with are the byte vectors of ``tests/vectors/``. What counts as a finding is what fails
``tests/test_fuzz_protocol.py``: an exception, an event out of place, a call that runs twice, an outcome that nobody
waits for, a table that grows. So does an input that takes more than 10 seconds or 2 GiB.

Needs atheris (the extra ``fuzz``), which comes for some versions of CPython on Linux and macOS alone.

Exit code: 0 when nothing was found, libFuzzer's otherwise; 2 without atheris.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Final

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

try:
    atheris: Any = import_module("atheris")
except ImportError:
    print("the fuzzer needs atheris: pip install 'typedrpc[fuzz]', on a version of CPython that it comes for")
    sys.exit(2)

with atheris.instrument_imports(include=["typedrpc"]):
    from typedrpc.protocol import BatchRequest, State
    from typedrpc.wire import HEADER, HEADER_SIZE, PREAMBLE, Flag, Kind

from tests.back_to_back import frame  # noqa: E402
from tests.support import hello  # noqa: E402
from tests.test_fuzz_protocol import UNASKED, Watched, words  # noqa: E402

VECTORS: Final = ROOT / "tests" / "vectors"
CLIENT, GREETED, BUSY, GUARDED = 1, 2, 4, 8
"""What the bits of an input's first byte say of the core."""
SIZES: Final = (1 << 20, 1, 2, 3, 11, 12, 13, 100)
"""Bytes that arrive at a time; the second byte of an input chooses."""


def vectors() -> Iterator[tuple[str, bytes]]:
    """The names and bytes of the vectors that are frames."""
    for name in ("conversation", "faults", "frames", "pieces"):
        for vector in json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))["vectors"]:
            yield vector.get("name") or vector["what"], bytes.fromhex(vector["hex"])
    for vector in json.loads((VECTORS / "authentication.json").read_text(encoding="utf-8"))["vectors"]:
        for side in ("client", "server"):
            said = [step["hex"] for step in vector["steps"] if step["from"] == side]
            yield f"{vector['what']}, {side}", bytes.fromhex("".join(said))


def examples() -> Iterator[bytes]:
    """Inputs to begin with: each vector by itself, and what each side says in the conversation."""
    for number, (_, data) in enumerate(vectors()):
        size = number % len(SIZES)
        for mode in (
            0,
            GUARDED,
            CLIENT | GUARDED,
            GREETED,
            GREETED | BUSY,
            CLIENT,
            CLIENT | GREETED,
            CLIENT | GREETED | BUSY,
        ):
            yield bytes([mode, size]) + data
    conversation = json.loads((VECTORS / "conversation.json").read_text(encoding="utf-8"))["vectors"]
    for side, mode in (("client", 0), ("server", CLIENT)):
        yield bytes([mode, 0]) + b"".join(bytes.fromhex(one["hex"]) for one in conversation if one["from"] == side)


def make_busy(watched: Watched) -> None:
    """Calls of the core's own, with streams both ways, and a batch."""
    core = watched.core
    if core.state is not State.OPEN:
        return
    for _ in range(2):
        watched.call(b"\x90")
        call = max(core.calls.calls)
        core.inflow(call, 0)
        core.outflow(call, 1)
    watched.batch([b"\x90", b"\x90", b"\x90"])


def answer_all(watched: Watched) -> None:
    """What the peer has called is over."""
    core = watched.core
    for call, request in watched.running.items():
        if core.state is State.CLOSED or isinstance(request, BatchRequest):
            core.forget(call)
        else:
            core.response(request, b"\xc0", "the result")
    watched.running.clear()
    assert core.running == 0
    assert not core.handled


def attack(data: bytes) -> None:
    """Sends one input to a core. Whatever this raises is a finding."""
    if len(data) < 2:
        return
    mode, size, said = data[0], SIZES[data[1] % len(SIZES)], data[2:]
    watched = Watched(client=bool(mode & CLIENT), guarded=bool(mode & GUARDED))
    if mode & GREETED:
        watched.feed(PREAMBLE + hello() + (frame(Kind.WELCOME) if mode & CLIENT else b""), 1 << 20)
        watched.core.welcome()
    if mode & BUSY:
        make_busy(watched)
    half = len(said) // 2
    watched.feed(said[:half], size)
    answer_all(watched)
    for flows in watched.core.inflows.values():
        for flow in flows.values():
            while flow.take()[0] is not None:
                pass
            flow.grant()
    watched.feed(said[half:], size)
    watched.take_said()
    watched.end_of_file()
    answer_all(watched)
    watched.core.end_all_flows()
    assert watched.core.state is State.CLOSED
    assert words(watched.said) <= UNASKED


def cut(data: bytes) -> list[bytes]:
    """The frames of some bytes; the last may be no whole one."""
    start = len(PREAMBLE) if data.startswith(PREAMBLE) else 0
    found = [data[:start]] if start else []
    while len(data) - start >= HEADER_SIZE:
        end = start + HEADER_SIZE + HEADER.unpack_from(data, start)[0]
        found.append(data[start:end])
        start = end
    return [*found, data[start:]] if start < len(data) else found


def changed(one: bytes, random: Random) -> bytes:
    """A frame with another header, or with another payload and the length that it has then."""
    if len(one) < HEADER_SIZE:
        return one
    length, kind, flags, command, call = HEADER.unpack_from(one)
    body = one[HEADER_SIZE:]
    match random.randrange(7):
        case 0:
            kind = random.choice([*Kind, 0x7F, 0x90])
        case 1:
            flags ^= random.choice((Flag.EXTENSION, Flag.MORE, Flag.SEGMENTS, 0x10))
        case 2:
            command = random.choice((0, 1, 2, 7, 0xFF00, 0xFF03, random.randrange(1 << 16)))
        case 3:
            call = random.choice((0, 1, 2, 3, 4, 5, 6, 0xFFFF_FFFF))
        case 4:
            length = random.choice((0, len(body) - 1 if body else 1, len(body) + 1, 65_536, 1 << 24, 0xFFFF_FFFF))
            return HEADER.pack(length, kind, flags, command, call) + body
        case 5:
            at = random.randint(0, len(body))
            first = HEADER.pack(4 + at, kind, flags | Flag.MORE, command, call) + len(body).to_bytes(4, "big")
            return first + body[:at] + HEADER.pack(len(body) - at, kind, 0, command, call) + body[at:]
        case _:
            body = bytes(atheris.Mutate(body, len(body) + 64))
    return HEADER.pack(len(body), kind, flags, command, call) + body


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes bytes, or frames: most changed bytes break the framing, and what comes after is lost."""
    random = Random(seed)
    found = cut(data[2:])
    if random.random() < 0.6 and found:
        at = random.randrange(len(found))
        match random.randrange(5):
            case 0:
                del found[at]
            case 1:
                found.insert(random.randint(0, len(found)), found[at])
            case _:
                found[at] = changed(found[at], random)
        new = data[:2] + b"".join(found)
        if new != data and len(new) <= max_size:
            return new
    return bytes(atheris.Mutate(data, max_size))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long it runs (%(default)s)")
    parser.add_argument("--corpus", type=Path, help="where inputs that found something new are kept")
    parser.add_argument("inputs", nargs="*", type=Path, help="inputs that are run once, instead of fuzzing")
    options = parser.parse_args(arguments)
    for one in options.inputs:
        attack(one.read_bytes())
    if options.inputs:
        return
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for index, example in enumerate(examples()):
            (seeds / str(index)).write_bytes(example)
        corpus = options.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup(
            [sys.argv[0], *limits, "-print_final_stats=1", str(corpus), str(seeds)], attack, custom_mutator=mutate
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
