"""Reading and writing descriptors as if they blocked.

Whether one blocks is a matter of the file behind it, which other processes share: one of them may have said that it
does not, and may rely on it.
"""

import os
import select


def read(descriptor: int, size: int) -> bytes:
    """Read what is there, and wait for something; nothing at the end."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            _wait(descriptor, select.POLLIN)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it."""
    left = memoryview(data)  # of which the rest is no copy
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT)


def _wait(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()
