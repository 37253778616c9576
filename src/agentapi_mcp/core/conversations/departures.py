"""How callers leave before they have their answer, as far as it can be told."""

import asyncio
from enum import StrEnum


class Departure(StrEnum):
    """How a caller left; an edge that knows it passes it to the `cancel` of the task that waits for the caller.

    - `STOPPED`: its user stopped the call.
    - `TIMED_OUT`: the client gave up waiting, and is expected to ask again.
    - `CLIENT_GONE`: the client itself ended, or its user closed it.
    - `UNCLEAR`: anything else, such as a closed response stream.
    """

    STOPPED = "stopped"
    TIMED_OUT = "timed_out"
    CLIENT_GONE = "client_gone"
    UNCLEAR = "unclear"

    @classmethod
    def of(cls, cancelled: asyncio.CancelledError) -> "Departure":
        """Return how the caller of a cancelled task left."""
        return next((word for word in cancelled.args if isinstance(word, Departure)), cls.UNCLEAR)
