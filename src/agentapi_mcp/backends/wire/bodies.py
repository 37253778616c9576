"""What is sent to a provider."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


class Body:
    """The body of a request, which is let go when it is sent, since the answer may take minutes, and made anew if not.

    It is as long whenever it is made.
    """

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._content: bytes | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        if self._content is None:
            self._content = self._make()
        return len(self._content)

    def take(self) -> bytes:
        """Hand over the content."""
        content, self._content = self._content, None
        return self._make() if content is None else content


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request as it goes out; `connect` is how many seconds its connection may take.

    `ca_file` names a file of the authorities that are trusted instead of those of the machine.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    content: Body | None
    connect: float
    ca_file: str | None = None
