import errno
import traceback
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typedrpc.codec import CommandCodec, Payload, Segmented, pack_plain, unpack_plain
from typedrpc.errors import (
    ArgumentError,
    ArgumentMissing,
    ArgumentTypeError,
    ArgumentValueError,
    CallCancelled,
    ConnectFailed,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    MessageTooLarge,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RemoteError,
    RpcError,
    ServerBusy,
    UnknownCommand,
)
from typedrpc.failure import (
    MAX_ARGUMENTS,
    MAX_TEXT,
    MAX_TRACE,
    PUBLIC_BUILTINS,
    Code,
    DeclaredFailure,
    cut,
    is_public,
    pack_declared_failure,
    pack_handler_failure,
    pack_protocol_failure,
    unpack_failure,
)
from typedrpc.schema import schema_of

COMMAND = "Store.put"
HUGE = 1 << 20_000


class Colour(Enum):
    RED = 1


class Subclass(ValueError):
    pass


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Hostile(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no")


def there_and_back(error: BaseException) -> Exception:
    """A handler's exception as its caller gets it; it can be printed in every way."""
    return check(unpack_failure(pack_handler_failure(error, error_id="0badcafe"), COMMAND))


def check(error: Exception) -> Exception:
    assert isinstance(error, Exception)
    assert str(error) is not None
    assert repr(error)
    assert traceback.format_exception(error)
    return error


# typedrpc's own errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownCommand("Store.put", 7), Code.UNKNOWN_COMMAND),
        (ArgumentError("a"), Code.ARGUMENT),
        (ArgumentTypeError("Store.put: argument 'a': expected int, got str"), Code.ARGUMENT_TYPE),
        (ArgumentValueError("a"), Code.ARGUMENT_VALUE),
        (ArgumentMissing("a"), Code.ARGUMENT_MISSING),
        (ServerBusy("a"), Code.BUSY),
        (MessageTooLarge("the result", 20, 10), Code.TOO_LARGE),
        (DeadlineExceeded("a"), Code.DEADLINE),
        (CallCancelled("a"), Code.CANCELLED),
    ],
)
def test_an_error_of_typedrpc_there_and_back(error: RpcError, code: Code) -> None:
    payload = pack_protocol_failure(error)
    packed = unpack_plain(payload)
    assert isinstance(packed, list)
    assert packed[0] == code
    again = check(unpack_failure(payload, COMMAND))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {**vars(again), "_from_call": None} == {**vars(error), "_from_call": None}


@pytest.mark.parametrize("cls", [ArgumentError, ArgumentTypeError, ArgumentValueError, ArgumentMissing])
def test_an_argument_error_of_a_handler_arrives_as_itself_and_goes_no_further(cls: type[ArgumentError]) -> None:
    error = cls("3 is too many")
    assert is_public(error)
    again = there_and_back(error)
    assert type(again) is cls
    assert str(again) == "3 is too many"
    cause = again.__cause__
    assert type(cause) is RemoteError
    assert (cause.command, cause.type_name, cause.error_id) == (COMMAND, cls.__name__, "")
    assert str(cause) == f"Store.put failed at the peer with {cls.__name__}"
    assert not is_public(again)
    assert type(there_and_back(again)) is RemoteError
    assert is_public(cls("one's own"))


def test_an_argument_error_that_cannot_be_printed() -> None:
    assert str(there_and_back(ArgumentTypeError(Unprintable()))) == "<ArgumentTypeError>"
    assert str(there_and_back(ArgumentTypeError("x\udc80" * 1_000_000))).startswith("x\\udc80x")


def test_what_a_codec_refuses_is_marked_as_of_a_call() -> None:
    def put(a: int) -> None: ...

    codec = CommandCodec(COMMAND, schema_of(put, method=False))
    for args in ((), ("1",), ("1", 2), (1 << 40_000, 2)):
        with pytest.raises(ArgumentError) as caught:
            codec.pack_arguments(*args)
        assert not is_public(caught.value)


def test_a_declared_error_as_it_comes() -> None:
    payload = pack_declared_failure(KeyError("text"), "OutOfStock", b"\x80")
    error = check(unpack_failure(payload, COMMAND))
    assert isinstance(error, DeclaredFailure)
    assert isinstance(error, RemoteError)
    assert (error.command, error.type_name, error.error_id, error.fields) == (COMMAND, "OutOfStock", "", b"\x80")
    assert str(error) == "Store.put failed at the peer with OutOfStock: 'text'"
    plain = error.plain("why")
    assert type(plain) is RemoteError
    assert str(plain) == f"{error} (why)"
    assert str(error.origin()) == "Store.put failed at the peer with OutOfStock"


def test_the_text_and_the_name_of_a_declared_error_are_cut() -> None:
    payload = pack_declared_failure(KeyError("\udc80" * 1_000_000), "X" * 100_000, b"")
    assert len(payload) < 2 * MAX_TEXT + 100


def test_an_unknown_command_gets_the_name_that_the_caller_knows() -> None:
    again = unpack_failure(pack_protocol_failure(UnknownCommand("", 7)), COMMAND)
    assert isinstance(again, UnknownCommand)
    assert (again.command, again.id) == (COMMAND, 7)


@pytest.mark.parametrize(
    "error", [ConnectionLost("the server is closing"), OutcomeUnknown("the answer is gone"), PermissionDenied("no")]
)
def test_what_became_of_a_call_that_did_not_run(error: Exception) -> None:
    again = unpack_failure(pack_protocol_failure(error), COMMAND)
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("error", [ProtocolError("why"), ContractMismatch("a", "b", "c"), KeyError("why")])
def test_another_error_arrives_as_remote(error: Exception) -> None:
    again = check(unpack_failure(pack_protocol_failure(error), COMMAND))
    assert isinstance(again, RemoteError)
    assert (again.command, again.type_name, again.error_id) == (COMMAND, type(error).__name__, "")
    assert str(error) in str(again)


@pytest.mark.parametrize(
    "error",
    [ArgumentTypeError("x" * 1_000_000), UnknownCommand("x" * 1_000_000, 1), MessageTooLarge("x" * 1_000_000, 2, 1)],
)
def test_a_long_text_of_typedrpcs_own_is_cut(error: RpcError) -> None:
    assert len(pack_protocol_failure(error)) < 2 * MAX_TEXT + 100


# Exceptions of handlers


@pytest.mark.parametrize("name", PUBLIC_BUILTINS)
def test_a_public_builtin_arrives_as_itself(name: str) -> None:
    cls = PUBLIC_BUILTINS[name]
    error = cls("int too big to convert")
    assert is_public(error)
    again = there_and_back(error)
    assert type(again) is cls
    assert again.args == ("int too big to convert",)
    cause = again.__cause__
    assert isinstance(cause, RemoteError)
    assert (cause.command, cause.type_name, cause.error_id) == (COMMAND, name, "")
    assert str(cause) == f"Store.put failed at the peer with {name}"


@pytest.mark.parametrize(
    "error",
    [
        Subclass("secret"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret"),
        TimeoutError("secret"),
        ConnectionResetError(errno.ECONNRESET, "secret"),
        ConnectionError("secret"),
        BlockingIOError(errno.EAGAIN, "secret"),
        StopIteration("secret"),
        RuntimeError("secret"),
        RecursionError("secret"),
        MemoryError("secret"),
        AssertionError("secret"),
        AttributeError("secret"),
        KeyboardInterrupt("secret"),
        SystemExit("secret"),
        Hostile("secret"),
        ExceptionGroup("secret", [ValueError("secret")]),
        ConnectFailed("tcp://secret:1", "secret"),
        DeadlineExceeded("secret"),
        type("Mine", (ArgumentValueError,), {})("secret"),
        UnknownCommand("secret", 1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_anything_else_tells_its_type_and_an_error_id_only(error: BaseException) -> None:
    assert not is_public(error)
    try:
        raise error from ValueError("secret too")
    except BaseException as raised:
        payload = pack_handler_failure(raised, error_id="0badcafe")
    for word in (b"secret", b"Traceback", b"File", __file__.encode()):
        assert word not in payload
    again = check(unpack_failure(payload, COMMAND))
    assert isinstance(again, RemoteError)
    name = type(error).__name__
    assert (again.command, again.type_name, again.error_id) == (COMMAND, name, "0badcafe")
    assert str(again) == f"Store.put failed at the peer with {name} (error id 0badcafe, see the peer's log)"


def test_a_class_with_the_name_of_a_builtin_is_none() -> None:
    impostor = type("ValueError", (Exception,), {})("secret")
    assert not is_public(impostor)
    assert isinstance(there_and_back(impostor), RemoteError)


def test_nothing_of_a_public_builtins_traceback_or_cause_travels() -> None:
    try:
        try:
            raise RuntimeError("secret")
        except RuntimeError as inner:
            error = ValueError("public")
            error.add_note("secret")
            raise error from inner
    except ValueError as raised:
        payload = pack_handler_failure(raised, error_id="")
    for word in (b"secret", b"Traceback", __file__.encode()):
        assert word not in payload
    assert str(unpack_failure(payload, COMMAND)) == "public"


@pytest.mark.parametrize(
    ("argument", "arrives"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        pytest.param(HUGE, "<int>", id="huge"),
        ("text", "text"),
        ("", ""),
        ("a\0b", "a\0b"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("\udcff", "\\udcff"),
        ("x" * (MAX_TEXT + 1), "x" * (MAX_TEXT - 3) + "..."),
        ("x" * MAX_TEXT, "x" * MAX_TEXT),
        (b"ab", b"ab"),
        (bytes(1_000_000), bytes(MAX_TEXT)),
        ((1, "a"), (1, "a")),
        ([1, "a"], (1, "a")),
        ((), ()),
        ((1, (2, [3])), (1, "(2, [3])")),
        (tuple(range(MAX_ARGUMENTS)), tuple(range(MAX_ARGUMENTS))),
        (tuple(range(MAX_ARGUMENTS + 1)), str(tuple(range(MAX_ARGUMENTS + 1)))),
        ({"a": 1}, "{'a': 1}"),
        (Colour.RED, "<Colour.RED: 1>"),
        (Unprintable(), "<Unprintable>"),
        ((Unprintable(),), ("<Unprintable>",)),
        (int, "<class 'int'>"),
    ],
)
def test_arguments_travel_where_they_are_plain(argument: object, arrives: object) -> None:
    again = there_and_back(KeyError(argument))
    assert type(again) is KeyError
    assert again.args == (arrives,)
    assert hash(again.args) is not None


@pytest.mark.parametrize("args", [(), (1,), ("a", 2, None), tuple(range(MAX_ARGUMENTS))])
def test_any_number_of_arguments(args: tuple[object, ...]) -> None:
    assert there_and_back(ValueError(*args)).args == args


def test_there_are_not_more_arguments_than_can_be_read() -> None:
    error = LookupError(*range(100_000))
    assert there_and_back(error).args == tuple(range(MAX_ARGUMENTS))
    assert len(pack_handler_failure(error, error_id="")) < 100


def test_a_text_of_a_megabyte_and_surrogates_is_cut() -> None:
    payload = pack_handler_failure(ValueError("\udc80" * 1_000_000), error_id="")
    assert len(payload) < MAX_TEXT + 100
    assert str(unpack_failure(payload, COMMAND)).startswith("\\udc80" * 100)


def test_cut() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "..."
    assert cut("abcdefgh", 6) == "abc..."
    assert cut("a\ud800", 7) == "a\\ud800"
    assert cut("a\ud800", 6) == "a\\u..."


def test_an_exception_whose_class_has_a_long_name() -> None:
    error = type("X" * 100_000, (Exception,), {})()
    assert len(pack_handler_failure(error, error_id="")) < MAX_TEXT + 100


# OSError


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/a"),
        FileExistsError(errno.EEXIST, "File exists", "/a", None, "/b"),
        IsADirectoryError(errno.EISDIR, "Is a directory", b"/data/\xff"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", 5),
        PermissionError(errno.EACCES, "Permission denied"),
        PermissionError("in words"),
        OSError(errno.ENOSPC, "No space left on device", "/data/a"),
        OSError("in words"),
        OSError(),
    ],
)
def test_an_os_error_keeps_its_attributes(error: OSError) -> None:
    again = there_and_back(error)
    assert isinstance(again, OSError)
    assert type(again) is type(error)
    for name in ("errno", "strerror", "filename", "filename2"):
        assert getattr(again, name) == getattr(error, name), name
    assert str(again) == str(error)


def test_a_filename_that_is_no_text_travels_escaped() -> None:
    again = there_and_back(FileNotFoundError(errno.ENOENT, "gone", "/data/\udcff"))
    assert isinstance(again, FileNotFoundError)
    assert again.filename == "/data/\\udcff"


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EAGAIN, errno.ESRCH])
def test_an_errno_does_not_let_in_what_the_table_leaves_out(number: int) -> None:
    payload = pack_plain([Code.BUILTIN, "OSError", [[number, "text"], [None, None]]])
    again = check(unpack_failure(payload, COMMAND))
    assert type(again) is OSError
    assert again.args == (f"[{errno.errorcode[number]}] text",)


# The traceback, for servers in debug mode


def test_a_traceback_travels_where_the_server_says_so() -> None:
    payload = pack_handler_failure(RuntimeError("x"), error_id="0b", trace="Traceback\n\udcff")
    again = check(unpack_failure(payload, COMMAND))
    assert str(again).endswith("with RuntimeError (error id 0b, see the peer's log): Traceback\n\\udcff")


def test_of_a_long_traceback_the_end_travels() -> None:
    payload = pack_handler_failure(RuntimeError("x"), error_id="0b", trace="a" * 1_000_000 + "the end")
    assert len(payload) < MAX_TRACE + 100
    assert str(unpack_failure(payload, COMMAND)).endswith("the end")


# What a peer may send


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\x91" * 5000,
        Segmented(b"\x93\x01\xa0\x90", []),
        pack_plain(None),
        pack_plain({}),
        pack_plain([]),
        pack_plain([1, "a"]),
        pack_plain([1, "a", [], []]),
        pack_plain(["1", "a", []]),
        pack_plain([1, b"a", []]),
        pack_plain([1, "a", {}]),
        pack_plain([1.0, "a", []]),
    ],
)
def test_an_error_that_cannot_be_read(payload: Payload) -> None:
    error = check(unpack_failure(payload, COMMAND))
    assert isinstance(error, ProtocolError)
    assert str(error) == "Store.put: the peer answered with an error that cannot be read"


@pytest.mark.parametrize(
    "packed",
    [
        [0, "a", []],
        [Code.DECLARED, "a", []],
        [Code.DECLARED, "a", ["X"]],
        [Code.DECLARED, "a", ["X", "text"]],
        [Code.DECLARED, "a", [1, b""]],
        [99, "a", []],
        [-1, "a", []],
        [HUGE, "a", []],
        [Code.UNKNOWN_COMMAND, "a", []],
        [Code.UNKNOWN_COMMAND, "a", ["name", "1"]],
        [Code.UNKNOWN_COMMAND, "a", ["name", -1]],
        [Code.UNKNOWN_COMMAND, "a", ["name", 0x10000]],
        [Code.UNKNOWN_COMMAND, "a", ["name", HUGE]],
        [Code.TOO_LARGE, "a", ["what", 1]],
        [Code.TOO_LARGE, "a", ["what", HUGE, 1]],
        [Code.TOO_LARGE, "a", ["what", 2, -1]],
        [Code.TOO_LARGE, "a", ["what", 2, 3]],
        [Code.REMOTE, "a", []],
        [Code.REMOTE, "a", [1, 2]],
        [Code.BUILTIN, "ValueError", []],
        [Code.BUILTIN, "ValueError", [1, 2]],
        [Code.BUILTIN, "ValueError", [{}, []]],
        [Code.BUILTIN, "Exception", [[], []]],
        [Code.BUILTIN, "SystemExit", [[], []]],
        [Code.BUILTIN, "TimeoutError", [[], []]],
        [Code.BUILTIN, "builtins.ValueError", [[], []]],
        [Code.BUILTIN, "__import__", [["os"], []]],
        [Code.BUILTIN, "", [[], []]],
    ],
)
def test_an_error_that_is_not_known(packed: list[object]) -> None:
    error = check(unpack_failure(pack_plain(packed), COMMAND))
    assert type(error) is ProtocolError
    assert str(error).startswith("Store.put: the peer answered with an")


@pytest.mark.parametrize("name", ["OSError", "FileNotFoundError", "KeyError"])
@pytest.mark.parametrize(
    "arguments",
    [
        [HUGE],
        [2, HUGE],
        [HUGE, "a"],
        [{1: HUGE}],
        [[[[HUGE]]]],
        [True, "a"],
        [104, {"a": [1]}],
        [104, [1, [2]]],
        [2, "a", [1], {}, []],
        [1, 2, 3, 4, 5, 6, 7],
        [float("nan")],
        [b"\xff"],
    ],
)
@pytest.mark.parametrize("filenames", [[], ["a"], [None, None], [1, 2], [HUGE, {}], [[HUGE], "a"], ["a", "b", "c"]])
def test_arguments_of_a_builtin_that_no_handler_raised(
    name: str, arguments: list[object], filenames: list[object]
) -> None:
    error = check(unpack_failure(pack_plain([Code.BUILTIN, name, [arguments, filenames]]), COMMAND))
    assert type(error).__name__ in PUBLIC_BUILTINS
    assert hash(error.args) is not None


def test_a_peers_endless_text_is_cut() -> None:
    for code in (Code.BUSY, Code.REMOTE, 99):
        details = ["KeyError", ""] if code is Code.REMOTE else []
        error = unpack_failure(pack_plain([code, "x" * 3_000_000, details]), COMMAND)
        assert len(str(error)) < MAX_TRACE + 100


LEAF: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(sorted(PUBLIC_BUILTINS))
    | st.builds(lambda: HUGE)
)
DATA = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
FAILURE = st.tuples(
    st.integers(0, 14) | st.just(Code.BUILTIN),
    st.text(max_size=5) | st.sampled_from(sorted(PUBLIC_BUILTINS)),
    st.lists(DATA, max_size=3) | st.tuples(st.lists(DATA, max_size=5), st.lists(DATA, max_size=3)).map(list),
).map(list)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | FAILURE.map(pack_plain) | DATA.map(pack_plain))
def test_no_payload_makes_it_raise(payload: bytes) -> None:
    error = check(unpack_failure(payload, COMMAND))
    assert isinstance(error, RpcError) or type(error) in PUBLIC_BUILTINS.values()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(PUBLIC_BUILTINS)), st.lists(st.text(max_size=8) | DATA, max_size=4))
def test_any_public_builtin_there_and_back(name: str, arguments: list[object]) -> None:
    error = PUBLIC_BUILTINS[name](*arguments)
    again = there_and_back(error)
    assert type(again) is type(error) if is_public(error) else isinstance(again, RemoteError)
