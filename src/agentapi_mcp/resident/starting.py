"""Connect to the resident server of a place, and start it if there is none.

Whoever gets the lock binds the socket, listens, and hands both to the new process. So nobody waits for a server to
become ready: its clients wait in the backlog of a socket that is there.
"""

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket  # not from the module `socket`, which costs 10 ms

from agentapi_mcp.base.locks import pause
from agentapi_mcp.resident.environment import PACKAGE, Environ
from agentapi_mcp.resident.place import NoPlaceError, Place

_TRIES = 4000
_BACKLOG = 4096  # what Linux allows by default: all clients of a frozen server can wait for it
_PROGRAM = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.append(root); "
    "from agentapi_mcp.base.preparation import prepare; prepare(); "
    "from agentapi_mcp.resident.server import main; main(sys.argv[1:])  # agentapi-mcp: the server that clients share"
)


class Starter:
    """Opens connections to the resident server of one place."""

    def __init__(self, place: Place, environ: Environ, toolsets: str | None) -> None:
        self.place = place
        self._environ = environ
        self._toolsets = toolsets
        self.log_offset = 0

    def open(self) -> tuple[socket, bool]:
        """Return a connection, and whether the server had to be started for it.

        Raises:
            NoPlaceError: it cannot be started.
        """
        for _ in range(_TRIES):
            connection = self._connect()
            if connection is not None:
                return connection, False
            lock = self.place.try_lock()
            if lock is None:  # another bridge is between lock and listen, or a server between unlink and its end
                pause(0.003)
                continue
            try:
                connection = self._connect()  # it may have come up between the two
                if connection is not None:
                    return connection, False
                connection = self._start(lock)
            finally:
                os.close(lock)
            if connection is not None:
                return connection, True
        raise NoPlaceError(f"the server at {self.place.socket} neither serves nor ends")

    def last_words(self) -> str:
        """Return what a server that has just ended said last."""
        return self.place.last_words(self.log_offset)

    def last_line(self) -> str:
        """Return the last line that it wrote; empty if it wrote none."""
        return self.place.last_line(self.log_offset)

    def _connect(self) -> socket | None:
        self.log_offset = self.place.log_size()  # what was written earlier says nothing of its end
        return connect(self.place)

    def _start(self, lock: int) -> socket | None:
        self.place.remove_socket()  # we have the lock: it is nobody's
        self.place.clear_mark()
        listener = socket(AF_UNIX, SOCK_STREAM)
        try:
            mask = os.umask(0o177)
            try:
                listener.bind(self.place.socket)
            finally:
                os.umask(mask)
            listener.listen(_BACKLOG)
            self._spawn(listener.fileno(), lock)
        except OSError as exc:
            self.place.remove_socket()
            raise NoPlaceError(f"no server can be started at {self.place.socket} ({exc.strerror})") from None
        finally:
            listener.close()
        return connect(self.place)

    def _spawn(self, listener: int, lock: int) -> None:
        log = self.place.open_log()
        self.log_offset = os.fstat(log).st_size
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        inherited = (listener, lock)
        for fd in inherited:
            os.set_inheritable(fd, True)  # noqa: FBT003  # the name of the function says it
        try:
            # In a session of its own, and no child of ours: a client that ends our group or our tree does not reach it.
            pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", "-c", 'cd / && "$@" &', "sh", *self._words(listener, lock)],
                self._environ,
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
            )
            os.waitpid(pid, 0)
        finally:
            for fd in inherited:
                os.set_inheritable(fd, False)  # noqa: FBT003  # as above
            os.close(nothing)
            os.close(log)

    def _words(self, listener: int, lock: int) -> list[str]:
        # No directory of the caller's choice in front of the modules (-P), and else as this interpreter was started.
        flags = [f"-{flag}" for flag, is_set in (("I", sys.flags.isolated), ("s", sys.flags.no_user_site)) if is_set]
        words = [sys.executable, "-P", *flags, "-c", _PROGRAM, os.path.dirname(PACKAGE)]
        words += [str(listener), str(lock), self.place.base]
        return words if self._toolsets is None else [*words, self._toolsets]


def connect(place: Place) -> socket | None:
    """Return a connection to the server of a place; None if nobody listens there, or too many wait already."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    # Where a server that is frozen has as many waiting as it can have, this would wait, too, and nobody knew.
    connection.setblocking(False)  # noqa: FBT003  # the name of the method says it
    try:
        connection.connect(place.socket)
    except OSError:
        connection.close()
        return None
    connection.setblocking(True)  # noqa: FBT003  # as above
    return connection
