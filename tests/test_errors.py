import concurrent.futures
import inspect
import pickle
import re
from collections.abc import Iterator

import pytest

from typedrpc import errors
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
    DefinitionError,
    ListenFailed,
    MessageTooLarge,
    ProtocolError,
    RemoteError,
    RpcError,
    ServerBusy,
    UnknownCommand,
)

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, RpcError)]


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (RpcError, (Exception,)),
        (DefinitionError, (RpcError, TypeError)),
        (ArgumentError, (RpcError,)),
        (ArgumentTypeError, (ArgumentError, TypeError)),
        (ArgumentValueError, (ArgumentError, ValueError)),
        (ArgumentMissing, (ArgumentError, TypeError)),
        (UnknownCommand, (RpcError,)),
        (ContractMismatch, (RpcError,)),
        (ConnectFailed, (RpcError, ConnectionError)),
        (ListenFailed, (RpcError, OSError)),
        (ConnectionLost, (RpcError, ConnectionError)),
        (DeadlineExceeded, (RpcError, TimeoutError)),
        (CallCancelled, (RpcError, concurrent.futures.CancelledError)),
        (ServerBusy, (RpcError,)),
        (MessageTooLarge, (RpcError,)),
        (ProtocolError, (RpcError,)),
        (RemoteError, (RpcError,)),
    ],
)
def test_an_error_is_also_the_builtin_that_one_expects(cls: type[Exception], bases: tuple[type, ...]) -> None:
    assert cls.__bases__ == bases


def lines_of_the_tree() -> Iterator[tuple[int, str, str]]:
    assert errors.__doc__ is not None
    for indent, name, builtin in re.findall(r"(?m)^    ([|` -]*)(\w+)(?: \(([\w.]+)\))?(?:  |$)", errors.__doc__):
        yield len(indent) // 3, name, builtin


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    path: list[type] = []
    drawn = []
    for depth, name, builtin in lines_of_the_tree():
        cls = getattr(errors, name)
        drawn.append(cls)
        del path[depth:]
        parent, *others = cls.__bases__
        assert parent is (path[-1] if path else Exception)
        assert [other.__name__ for other in others] == ([builtin.removeprefix("futures.")] if builtin else [])
        path.append(cls)
    assert sorted(drawn, key=str) == sorted(CLASSES, key=str)


def test_a_definition_reports_every_fault() -> None:
    one = DefinitionError("Store", ["no annotation"])
    assert str(one) == "Store: no annotation"
    assert one.faults == ("no annotation",)
    two = DefinitionError("Store", ["first", "second"])
    assert str(two) == "Store: 2 faults\n- first\n- second"
    assert (two.subject, two.faults) == ("Store", ("first", "second"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnknownCommand("Store.put", 0x1F), "the peer has no command 'Store.put' (id 0x001f)"),
        (UnknownCommand("", 0xFEFF), "no command has the id 0xfeff"),
        (
            ContractMismatch("Store.put", "(a: int) -> None", "() -> None"),
            "Store.put: the contracts differ: here (a: int) -> None, at the peer () -> None",
        ),
        (ConnectFailed("tcp://a:1", "no answer"), "cannot connect to tcp://a:1: no answer"),
        (ListenFailed("tcp://a:1", "no permission"), "cannot listen on tcp://a:1: no permission"),
        (
            MessageTooLarge("the result of Store.get", 20, 10),
            "the result of Store.get: 20 bytes, the limit is 10 (raise max_message_size on both sides)",
        ),
        (RemoteError("it failed", command="Store.get", type_name="KeyError", error_id="0f"), "it failed"),
    ],
)
def test_the_text_says_what_the_attributes_say(error: RpcError, text: str) -> None:
    assert str(error) == text


def test_attributes() -> None:
    mismatch = ContractMismatch("a", "b", "c")
    assert (mismatch.command, mismatch.ours, mismatch.theirs) == ("a", "b", "c")
    failed = ConnectFailed("a", "b")
    assert (failed.url, failed.reason) == ("a", "b")
    unheard = ListenFailed("a", "b")
    assert (unheard.url, unheard.reason) == ("a", "b")
    large = MessageTooLarge("a", 2, 1)
    assert (large.what, large.size, large.limit) == ("a", 2, 1)
    unknown = UnknownCommand("a", 1)
    assert (unknown.command, unknown.id) == ("a", 1)
    remote = RemoteError("x", command="a", type_name="b", error_id="c")
    assert (remote.command, remote.type_name, remote.error_id) == ("a", "b", "c")


@pytest.mark.parametrize(
    "error",
    [
        DefinitionError("Store", ["first", "second"]),
        UnknownCommand("Store.put", 1),
        ContractMismatch("a", "b", "c"),
        ConnectFailed("tcp://a:1", "no answer"),
        ListenFailed("tcp://a:1", "no permission"),
        MessageTooLarge("a", 2, 1),
        RemoteError("x", command="a", type_name="b", error_id="c"),
        ConnectionLost("gone"),
        DeadlineExceeded("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_pickled(error: RpcError) -> None:
    """As process pools and test runners do with what they catch."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
