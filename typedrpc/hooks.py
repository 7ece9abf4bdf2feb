"""What users have called when something happens at a server or a client: who comes, who goes, what is called.

Hooks about peers may be ``async def``: whoever runs them waits until they have run on an event loop. A hook that raises
is logged and harms nothing: neither what it was told of nor the hooks after it.
"""

import inspect
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from threading import Lock
from types import CoroutineType
from typing import Any, Final, TypeVar, final

from typedrpc.call import Call
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ConnectionLost, DefinitionError, RpcError
from typedrpc.peer import Peer

logger = logging.getLogger("typedrpc")

PeerHookT = TypeVar("PeerHookT", bound=Callable[[Peer], object])
LossHookT = TypeVar("LossHookT", bound=Callable[[Peer, ConnectionLost], object])
ErrorHookT = TypeVar("ErrorHookT", bound=Callable[[RpcError], object])
CallHookT = TypeVar("CallHookT", bound=Callable[[Call], object])


@final
class CallOutcome:
    """How a call that this side handled has ended.

    Attributes:
        result: What the handler returned; None if it failed.
        error: What it failed with; None if it did not.
        seconds: How long it took, from its arguments to its packed result.
    """

    __slots__ = ("error", "result", "seconds")

    def __init__(self, result: object, error: BaseException | None, seconds: float) -> None:
        self.result: Final = result
        self.error: Final = error
        self.seconds: Final = seconds

    def __repr__(self) -> str:
        what = f"result={self.result!r}" if self.error is None else f"error={self.error!r}"
        return f"CallOutcome({what}, seconds={self.seconds:.6f})"


_teller: Final[ContextVar[object]] = ContextVar("typedrpc.teller", default=None)


def told_by(end: object) -> bool:
    """Whether this thread or task runs a hook of this server or client."""
    return _teller.get() is end


ResultHookT = TypeVar("ResultHookT", bound=Callable[[Call, CallOutcome], object])


@final
class Event:
    """The hooks of one event, in the order in which they were registered. Thread-safe."""

    __slots__ = ("_hooks", "_lock", "_run_async", "_teller")

    def __init__(
        self,
        hook: Callable[..., object] | None,
        teller: object = None,
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] | None = None,
    ) -> None:
        """
        Args:
            hook: The first one.
            teller: The server or client whose hooks they are.
            run_async: Runs a coroutine on an event loop and waits for it; without it hooks must be plain functions.
        """
        self._lock = Lock()
        self._teller = teller
        self._run_async = run_async
        self._hooks: tuple[Callable[..., object], ...] = () if hook is None else (hook,)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, hook: Callable[..., object]) -> None:
        with self._lock:
            self._hooks = (*self._hooks, hook)

    def run(self, *args: Any, until: Callable[[], bool] | None = None) -> None:
        """Call the hooks one after another.

        Args:
            args: What they are called with.
            until: Asked before each one: whether it, and those after it, are not needed any more.
        """
        if not self._hooks:
            return
        token = _teller.set(self._teller)
        try:
            for hook in self._hooks:
                if until is not None and until():
                    return
                try:
                    self._run_one(hook, args)
                except KeyboardInterrupt:  # not the hook's
                    raise
                except BaseException:
                    logger.exception("a hook failed")
        finally:
            _teller.reset(token)

    def _run_one(self, hook: Callable[..., object], args: tuple[Any, ...]) -> None:
        result = hook(*args)
        if type(result) is not CoroutineType:
            return
        if self._run_async is None:
            result.close()
            raise TypeError(f"{hook!r} is called while a call waits for it, and must be a plain function")
        self._run_async(result)


def check_plain(hook: Callable[..., object] | None, what: str) -> None:
    """Check a hook that is called while a call waits for it, in whatever thread handles that.

    Args:
        hook: The hook.
        what: Which one it is.

    Raises:
        DefinitionError: It is ``async def``.
    """
    call = getattr(type(hook), "__call__", None)  # noqa: B004  # of an object that can be called
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(call):
        name = getattr(hook, "__qualname__", repr(hook))
        raise DefinitionError(
            name,
            [f"{what} takes plain functions, which each call waits for: declare it with def, and let it begin a task"],
        )


class Hooked:
    """Something that hooks can be registered at: a server, a client.

    The decorators return the function as it is. A hook that is registered later than what it would have been told of
    is not told.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        on_connect: Callable[[Peer], object] | None,
        on_disconnect: Callable[[Peer, ConnectionLost], object] | None,
        on_connect_failed: Callable[[RpcError], object] | None,
        on_call: Callable[[Call], object] | None,
        on_result: Callable[[Call, CallOutcome], object] | None,
    ) -> None:
        check_plain(on_call, "on_call")
        check_plain(on_result, "on_result")
        self._dispatcher = dispatcher
        self._connect = Event(on_connect, self, self._run_async)
        self._disconnect = Event(on_disconnect, self, self._run_async)
        self._connect_failed = Event(on_connect_failed, self, self._run_async)
        self._call = Event(on_call)
        self._result = Event(on_result)
        self._observe()

    def _run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the event loop of this side, and wait for what it returns."""
        raise NotImplementedError

    def on_connect(self, hook: PeerHookT, /) -> PeerHookT:
        """Register a function that is called with each peer before a call passes between the two sides.

        It may call the peer, set its ``state``, and turn it away with ``peer.close(reason)``; hooks after it are not
        called then. It may be ``async def``, as may the other hooks that are about peers.
        """
        self._connect.add(hook)
        return hook

    def on_disconnect(self, hook: LossHookT, /) -> LossHookT:
        """Register a function that is called with each peer that was let in, and the cause, when its connection ends.

        It runs in a thread of its own, after ``on_connect`` has returned; handlers of the peer may still run.
        """
        self._disconnect.add(hook)
        return hook

    def on_connect_failed(self, hook: ErrorHookT, /) -> ErrorHookT:
        """Register a function that is called with the error when a connection does not come about."""
        self._connect_failed.add(hook)
        return hook

    def on_call(self, hook: CallHookT, /) -> CallHookT:
        """Register a function that is called before each handler of this side, in its thread.

        Raises:
            DefinitionError: It is ``async def``: each call waits for it.
        """
        check_plain(hook, "on_call")
        self._call.add(hook)
        self._observe()
        return hook

    def on_result(self, hook: ResultHookT, /) -> ResultHookT:
        """Register a function that is called after each handler of this side, in its thread, before it is answered.

        Raises:
            DefinitionError: It is ``async def``: each call waits for it.
        """
        check_plain(hook, "on_result")
        self._result.add(hook)
        self._observe()
        return hook

    def _observe(self) -> None:
        """Calls are looked at only where somebody wants to know of them."""
        if self._call or self._result:
            self._dispatcher.observer = _Observer(self._call, self._result)


@final
class _Observer:
    """See :class:`typedrpc.dispatch.Observer`."""

    def __init__(self, call: Event, result: Event) -> None:
        self._call = call
        self._result = result

    def begins(self, call: Call) -> None:
        self._call.run(call)

    def ended(self, call: Call, result: object, error: BaseException | None, seconds: float) -> None:
        self._result.run(call, CallOutcome(result, error, seconds))
