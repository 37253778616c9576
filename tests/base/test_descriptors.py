"""Descriptors that another process made non-blocking are read and written as any other."""

import os
import threading

from agentapi_mcp.base import descriptors
from tests.support.waiting import wait_until


def test_what_does_not_block_is_waited_for() -> None:
    theirs, ours = os.pipe()
    for fd in (theirs, ours):
        os.set_blocking(fd, False)  # the name of the function says it
    sent, heard = b"x" * 1_000_000, bytearray()

    def read() -> None:
        while chunk := descriptors.read(theirs, 1 << 16):
            heard.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()  # before anything is there
    descriptors.write(ours, sent)  # more than a pipe takes
    wait_until(lambda: len(heard) == len(sent))
    os.close(ours)
    thread.join()
    os.close(theirs)
    assert heard == sent
