"""What a bridge and the resident server say to each other, beside the client's lines, which pass as they are.

No line of the server's here can be taken for JSON-RPC. A line of the bridge's begins with a NUL, which is no JSON; a
client's line that begins so gets a space in front, and is refused all the same.
"""

NUMBER = 2  # of this protocol; it grows with every change of it
MARK = b"\0"
SYNCED, RELOAD = MARK + b"synced ", MARK + b"reload"
OK, SYNC, BYE = b"ok ", b"sync ", b"bye "


class Hello:
    """The first line of a bridge: which protocol it speaks, its process, and where its client started it."""

    __slots__ = ("cwd", "pid", "protocol")

    def __init__(self, protocol: int, pid: int, cwd: str) -> None:
        self.protocol = protocol
        self.pid = pid
        self.cwd = cwd

    def line(self) -> bytes:
        """Write it."""
        return b"bridge %d %d %s\n" % (
            self.protocol,
            self.pid,
            self.cwd.encode("utf-8", "surrogateescape").hex().encode(),
        )

    @classmethod
    def read(cls, line: bytes) -> "Hello | None":
        """Read it; None if it is no hello."""
        words = line.decode("ascii", "replace").split()
        if len(words) != 4 or words[0] != "bridge" or not (words[1] + words[2]).isdecimal():  # noqa: PLR2004  # as above
            return None
        try:
            cwd = bytes.fromhex(words[3])
        except ValueError:
            return None
        return cls(int(words[1]), int(words[2]), cwd.decode("utf-8", "replace"))


def ok(version: str, pid: int) -> bytes:
    """Say that the server reads: the first line of its answer."""
    return b"ok %d %s %d\n" % (NUMBER, version.encode(), pid)


def sync(number: int) -> bytes:
    """Announce a line of the server's: the bridge says when it has handed that on."""
    return SYNC + b"%d\n" % number


def synced(number: bytes) -> bytes:
    """Say that it has."""
    return SYNCED + number + b"\n"


def bye(read: int) -> bytes:
    """Say that the server leaves, and how many of the client's lines it has read: the last line."""
    return BYE + b"%d\n" % read


def read_bye(line: bytes) -> int | None:
    """Read it; None if it does not say how many."""
    number = line.removeprefix(BYE)
    return int(number) if number.isdigit() else None
