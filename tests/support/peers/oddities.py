"""What servers of both formats send beside an answer, by words in the model's name; all follow the same answer.

odd        frames that mean nothing in between, another content type
lingers    holds the connection open when all is said
babbles    says what nobody can read, when all is said
failsafter reports an error, when all is said
"""

import json
from collections.abc import Set as AbstractSet

from agentapi_mcp.testing.http import Answer
from agentapi_mcp.testing.peers import Behaviour

ODD_WORDS: dict[Behaviour, str] = {
    Behaviour.ENDS_SHORT: "chunks3-short",
    Behaviour.WITHHOLDS: "chunks3-withheld",
    Behaviour.PAUSES: "chunks3-pauses",
    Behaviour.LINGERS: "chunks3-lingers",
    Behaviour.BABBLES: "chunks3-babbles",
    Behaviour.FAILS_AFTER: "chunks3-failsafter",
    Behaviour.ODD: "chunks3-odd",
    Behaviour.REASONS: "chunks3-marks",
}
# What follows a whole answer that is JSON.
ODD_BODIES = {
    "odd": "\n\n",
    "lingers": "",
    "babbles": "<!-- from the cache -->",
    "failsafter": '{"error":{"message":"Too late"}}',
}
_BETWEEN = (
    ": a comment\n\n",
    "data:\n\n",
    "data: null\n\n",
    "event: heartbeat\ndata: still here\n\n",
    'data: {"type":"news","of":["nobody"]}\n\n',
)


async def odd_frames(answer: Answer, words: AbstractSet[str]) -> None:
    """Send frames that mean nothing, if a word says so."""
    for frame in _BETWEEN if "odd" in words else ():
        await answer.write_chunk(frame)


async def odd_end(answer: Answer, words: AbstractSet[str]) -> None:
    """Send what follows an answer before the mark of its end, if a word says so."""
    if "lingers" in words:
        await answer.hang()
    if "babbles" in words:
        await answer.write_chunk("data: {nonsense\n\n")
    if "failsafter" in words:
        await answer.write_chunk('event: error\ndata: {"message":"Too late"}\n\n')


async def odd_body(answer: Answer, body: object, words: AbstractSet[str]) -> None:
    """Send an answer that is JSON, and what follows it."""
    (word,) = words & ODD_BODIES.keys()
    await answer.open_stream({"content-type": "text/plain" if word == "odd" else "application/json"})
    await answer.write_chunk(f"\n{json.dumps(body)}{ODD_BODIES[word]}")
    if word == "lingers":
        await answer.hang()
    await answer.close_stream()
