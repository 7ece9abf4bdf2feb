"""URL to socket: parse, listen, dial and wait, with errors in words. The only module that asks which system this is."""

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Collection
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, final

from typedrpc.errors import ConnectFailed, ListenFailed

SEND_PATIENCE: Final = 0.002
"""Seconds that a send waits in the kernel for room before it says that the pipe is full."""

DONT_WAIT: Final[int] = getattr(socket, "MSG_DONTWAIT", 0)
"""Flag of a send that says at once that the pipe is full; where there is none, sockets are set so that none waits."""

READS_END: Final = os.name == "posix"
"""Reads that wait for data end after a while, see :func:`limit_silence`; elsewhere they do not wait."""

LONGEST_WAIT: Final = 86_400.0
"""Seconds that :func:`wait` waits at most, whatever it is asked for: systems refuse to wait for weeks."""

MOST_BUFFERS: Final = 64
"""Buffers that are sent at once; systems have a limit too."""

BACKLOG: Final = 1024

OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of accepting that go by when descriptors or memory are free again."""

UNIX_MODE: Final = 0o600

_TCP_INFO: Final = struct.Struct("=16xI4xI92xQ16xI")
"""Of Linux's ``struct tcp_info``: the size of a segment, segments in flight, bytes acknowledged, bytes not sent yet.

Linux 4.6 has all of them, ``include/uapi/linux/tcp.h``.
"""

_HAS_PEERCRED: Final = hasattr(socket, "SO_PEERCRED")
_HAS_UNIX: Final = hasattr(socket, "AF_UNIX")
_HAS_POLL: Final = hasattr(select, "poll")
_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")


class SocketLike(Protocol):
    """What is used of a connected socket. One that is none of the system's has ``has_more``: see :func:`wait`."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = ..., flags: int = ..., /) -> int: ...
    def send(self, data: bytes | bytearray | memoryview, flags: int = ..., /) -> int: ...
    def sendmsg(
        self, buffers: list[bytes | bytearray | memoryview], ancdata: tuple[()] = ..., flags: int = ..., /
    ) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


@final
class OwnSocket(socket.socket):
    """One that is closed when nobody has it any more, and not complained about: clients may be left without closing."""

    __slots__ = ()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):  # otherwise it could not be made
            self.close()


class Address(NamedTuple):
    """Where a server listens: host and port, with TLS or without, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"


def parse(url: str) -> Address:
    """The address that a URL names: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path/of/socket``.

    A host may be an address, of IPv6 as in ``tcp://[::1]:9000``.

    Raises:
        ValueError: It names none; says why and what a right one looks like.
    """
    forms = "write tcp://host:port, tls://host:port or unix:///path"
    if not isinstance(url, str):
        raise ValueError(f"a URL is a str, not {type(url).__name__}; {forms}")
    if url.startswith("unix:"):
        path = url.removeprefix("unix://")
        if not url.startswith("unix://") or not path:
            raise ValueError(f"no path; {forms}")
        if "\0" in path:
            raise ValueError(f"a zero byte in the path; {forms}")
        if not _HAS_UNIX:
            raise ValueError("this system has no unix sockets; write tcp://host:port or tls://host:port")
        return Address(path=path)
    from urllib.parse import urlsplit  # imported when used: with ipaddress it costs 3 ms

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{error}; {forms}") from None
    if parts.scheme not in ("tcp", "tls"):
        raise ValueError(f"unknown scheme {parts.scheme!r}; {forms}")
    if parts.hostname is None or port is None:
        raise ValueError(f"no {'host' if parts.hostname is None else 'port'}; {forms}")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"more than a host and a port; {forms}")
    return Address(host=parts.hostname, port=port, tls=parts.scheme == "tls")


def listen(url: str, *, insecure: bool, mode: int = UNIX_MODE) -> tuple[socket.socket, Address]:
    """A listening socket, and its address with the port that the system chose where the URL said 0.

    Args:
        url: Where to listen; see :func:`parse`.
        insecure: Whether an address beyond loopback is allowed although nothing guards it.
        mode: The permissions of a unix socket's file.

    Raises:
        ListenFailed: It cannot be done; says why.
    """
    try:
        address = parse(url)
    except ValueError as error:
        raise ListenFailed(url, str(error)) from None
    try:
        return _listen_unix(url, address.path, mode) if address.path else _listen_tcp(url, address, insecure)
    except (OSError, UnicodeError) as error:
        if isinstance(error, ListenFailed):
            raise
        reason = "its directory does not exist" if isinstance(error, FileNotFoundError) else in_words(error)
        raise ListenFailed(url, reason) from error


def _listen_tcp(url: str, address: Address, insecure: bool) -> tuple[socket.socket, Address]:
    family, kind, number, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Resolved addresses are in canonical form.
    if not (insecure or address.tls) and not str(where[0]).startswith(("127.", "::ffff:127.")) and where[0] != "::1":
        raise ListenFailed(
            url,
            "this address can be reached from other machines, and neither TLS nor authentication guards it; "
            "write tls://host:port, give a secret, listen on 127.0.0.1, or pass insecure=True if all who can reach it "
            "may call it",
        )
    listener = socket.socket(family, kind, number)
    try:
        if os.name == "posix":  # pragma: no branch  # tested there
            # Elsewhere the option means that two servers may take the same port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, address._replace(port=listener.getsockname()[1])


def _listen_unix(url: str, path: str, mode: int) -> tuple[socket.socket, Address]:
    _remove_stale(url, path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Nobody can connect before listen(), so the file never stands open with other permissions.
        os.chmod(path, mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, Address(path=os.path.abspath(path))


def _remove_stale(url: str, path: str) -> None:
    """Remove the socket file that a server left behind which runs no more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ListenFailed(url, "the path exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except (TimeoutError, BlockingIOError):
            raise ListenFailed(url, "another server listens there, and does not accept") from None
        else:
            raise ListenFailed(url, "another server listens there")


def unlisten(listener: socket.socket, address: Address, inode: int) -> None:
    """Close a listening socket, and remove its file if it still is the one with this inode (see :func:`inode_of`)."""
    listener.close()
    if address.path and inode_of(address) == inode:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)


def inode_of(address: Address) -> int:
    """The inode of a unix socket's file; 0 for none."""
    try:
        return os.stat(address.path).st_ino if address.path else 0
    except OSError:
        return 0


def dial(url: str, timeout: float) -> socket.socket:
    """A connected socket.

    Args:
        url: Where to; see :func:`parse`.
        timeout: Seconds it may take.

    Raises:
        ConnectFailed: It cannot be done; says why.
    """
    address = resolve(url)
    try:
        sock: socket.socket
        if address.path:
            sock = OwnSocket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(address.path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = _dial_tcp(address, timeout)
        try:
            prepare(sock)
        except BaseException:
            sock.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ConnectFailed(url, in_words(error)) from error
    return sock


def _dial_tcp(address: Address, timeout: float) -> socket.socket:
    """Try the addresses of a host in turn; each may take its share of the time that is left."""
    deadline = monotonic() + timeout
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    first: OSError | None = None
    for left, (family, kind, number, _, where) in zip(range(len(found), 0, -1), found, strict=True):
        try:
            sock = OwnSocket(family, kind, number)
            try:
                sock.settimeout(max(0.001, (deadline - monotonic()) / left))
                sock.connect(where)
                if sock.getsockname() == sock.getpeername():
                    # The system may choose the very port that is dialled, where nobody listens: a socket meets itself.
                    raise ConnectionRefusedError
            except BaseException:
                sock.close()
                raise
            return sock
        except OSError as error:
            first = first or error
    raise first or OSError("the host has no address")


def resolve(url: str) -> Address:
    """The address that a URL names, for a client.

    Raises:
        ConnectFailed: It names none.
    """
    try:
        return parse(url)
    except ValueError as error:
        raise ConnectFailed(url, str(error)) from None


def set_options(sock: socket.socket) -> None:
    """Set a connected socket up: no delay, keep-alive."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def keep_alive(sock: SocketLike, period: float, *, reads: bool, patience: float) -> None:
    """Have the system find out within so many seconds that the other end is gone, as far as it can.

    It sees that a machine or a network is gone, not that a process has stopped.

    Args:
        sock: Connected.
        period: Seconds; what is less than the system's least is that.
        reads: Whether the peer reads all the time. What is on its way to another waits until it does, for at least
            ``patience`` seconds.
        patience: See there.
    """
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    probes = 3
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(period / 2))),
        ("TCP_KEEPINTVL", max(1, round(period / 2 / probes))),
        ("TCP_KEEPCNT", probes),
        # It counts for what is not acknowledged, for what the peer has no room for, and for the probes too.
        ("TCP_USER_TIMEOUT", round(1000 * period) if reads or period >= patience else 0),
    ):
        option = getattr(socket, name, None)
        if option is not None:  # pragma: no branch  # systems have some of them
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Delivery(NamedTuple):
    """How far what was sent has come."""

    acknowledged: int
    """Bytes that the other end's system has, since the beginning."""
    waiting: int
    """Bytes that are on their way, or still wait for this system to send them; about."""


def delivery(sock: SocketLike) -> Delivery | None:
    """How far what was sent over TCP has come; None where the system does not say: Linux does."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not sys.platform.startswith("linux") or sock.family == getattr(socket, "AF_UNIX", None):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO.size)
    except (OSError, ValueError):  # closed meanwhile
        return None
    if len(info) < _TCP_INFO.size:
        return None
    segment, in_flight, acknowledged, unsent = _TCP_INFO.unpack(info)
    return Delivery(acknowledged, segment * in_flight + unsent)


def limit_silence(sock: SocketLike, period: float) -> None:
    """Have reads of a socket set up by :func:`prepare` say that nothing came, after so many seconds: EAGAIN."""
    if READS_END:  # pragma: no branch  # tested there
        micros = max(1, round(1_000_000 * period))
        timeval = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)


def prepare(sock: socket.socket) -> None:
    """The same; and reads that wait for data, writes that wait but a moment."""
    set_options(sock)
    if os.name == "posix":
        sock.setblocking(True)
        timeval = struct.pack("@ll", 0, int(SEND_PATIENCE * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    else:  # pragma: no cover  # no such option: every read and write that would wait says so, and wait() follows
        sock.setblocking(False)


def send(sock: SocketLike, buffers: list[bytes | bytearray | memoryview], flags: int = 0) -> int:
    """Send what there is room for of some buffers, at once where the system can do that: how many bytes."""
    if len(buffers) == 1 or not _HAS_SENDMSG:
        return sock.send(buffers[0], flags)
    return sock.sendmsg(buffers[:MOST_BUFFERS], (), flags)


@final
class Waker:
    """Ends the :func:`wait` of another thread, as often as it is :meth:`set`."""

    def __init__(self) -> None:
        self._reader, self._writer = (OwnSocket(fileno=each.detach()) for each in socket.socketpair())
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def set(self) -> None:
        """Have the wait that goes on end, or the next one."""
        with contextlib.suppress(OSError):  # set often enough already, or closed
            self._writer.send(b"\0")

    def clear(self) -> None:
        """The wait has ended."""
        with contextlib.suppress(OSError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def has_more(sock: SocketLike) -> bool:
    """Whether a socket that is none of the system's may have something to read of which the system does not know."""
    return bool(getattr(sock, "has_more", False))


def wait(
    sock: SocketLike,
    *,
    read: bool = False,
    write: bool = False,
    timeout: float | None = None,
    waker: Waker | None = None,
) -> bool:
    """Wait until a socket can be read or written, whichever is asked for; a broken one can be both.

    Args:
        sock: The socket.
        read: Whether to wait until it can be read.
        write: Whether to wait until it can be written.
        timeout: Seconds to wait at most.
        waker: Ends the wait too.

    Returns:
        Whether it can be *read* (asked for or not: False when only writing was asked for).
    """
    if read and not isinstance(sock, socket.socket) and has_more(sock):
        return True  # it was read from the system already
    if _HAS_POLL:
        poller = select.poll()
        number = sock.fileno()
        poller.register(number, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        if waker is not None:
            poller.register(waker, select.POLLIN)
        events = poller.poll(None if timeout is None else min(max(0.0, timeout), LONGEST_WAIT) * 1000)
        readable = read and any(event & ~select.POLLOUT for which, event in events if which == number)
        if waker is not None and any(which != number for which, _ in events):
            waker.clear()
        return readable
    waiting: list[Any] = [*([sock] if read else []), *([waker] if waker is not None else [])]  # pragma: no cover
    found, _, _ = select.select(  # pragma: no cover  # systems without poll
        waiting,
        [sock] if write else [],
        [],
        None if timeout is None else max(0.0, timeout),
    )
    if waker is not None and waker in found:  # pragma: no cover
        waker.clear()
    return sock in found  # pragma: no cover


def is_of_socket(error: BaseException) -> bool:
    """Whether a socket's operation raised this, and not a signal handler that ran meanwhile.

    A handler may raise any exception, ``TimeoutError`` for one, which is an ``OSError`` too. Those of the system have a
    number.
    """
    return isinstance(error, OSError) and error.errno is not None


def describe_peer(sock: socket.socket) -> str:
    """The address of the other end of a connected socket, for people."""
    try:
        name: Any = sock.getpeername()
    except OSError:
        return "an unknown address"
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name)}" if name else "unix"


def find_users(url: str, users: Collection[int | str]) -> frozenset[int]:
    """The numbers of users of this system, who may connect to a unix socket.

    Raises:
        ListenFailed: There is no such user, or nobody could tell who connects there.
    """
    if not _HAS_PEERCRED or not url.startswith("unix:"):
        raise ListenFailed(url, "allow_users needs a unix socket on Linux, where the system says who connects")
    import pwd  # imported when used: not every system has it

    found = set()
    for user in users:
        try:
            found.add(pwd.getpwnam(user).pw_uid if isinstance(user, str) else int(user))
        except KeyError:
            raise ListenFailed(url, f"allow_users: this system has no user {user!r}") from None
    return frozenset(found)


def user_of(sock: socket.socket) -> tuple[int, str]:
    """The user who has connected to a unix socket, after :func:`find_users`: the number, and the name if it has one.

    Raises:
        OSError: The system does not say.
    """
    import pwd

    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    try:
        return uid, pwd.getpwuid(uid).pw_name
    except KeyError:
        return uid, str(uid)


def in_words(error: OSError | UnicodeError) -> str:
    match error:
        case UnicodeError():
            return "no host or file can have this name"
        case BlockingIOError():
            return "the server has no room for another connection that it has not accepted yet"
        case ConnectionRefusedError():
            return "nothing listens there (connection refused)"
        case FileNotFoundError():
            return "there is no such socket file"
        case PermissionError():
            return "permission denied"
        case TimeoutError():
            return "no answer within the time-out"
        case socket.gaierror():
            return f"the host name cannot be resolved ({error.strerror})"
    if error.errno is None and "too long" in str(error):
        return "the path is too long for a unix socket (about 100 bytes are allowed)"
    return error.strerror or str(error)
