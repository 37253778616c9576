"""Anthropic's own server, as the peer of the backend `anthropic`."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from agentapi_mcp.testing.http import Ticks
from agentapi_mcp.testing.peers import Behaviour, Peer
from tests.support.peers.cases import BuiltInCase
from tests.support.peers.faults import Expected
from tests.support.peers.messages import KEY, WORDS, MessagesPeer, messages_faults, messages_peer

_BILLED_BEFORE = (
    "cut",
    "badchunk",
    "nofinish",
    "errchunk",
    "byname",
    "waits",
)  # a stream begins with the bill of its input


class AnthropicCase:
    """Runs the contract suite streamed and whole."""

    kind = "anthropic"
    variants = ("streamed", "whole")
    words: Mapping[Behaviour, str] = WORDS
    answer = "w0 w1 w2 "
    not_applicable: Mapping[Behaviour, str] = {}
    unreachable: str | None = None
    bills_refusals: str | None = None
    secrets = (KEY,)

    def in_pieces(self, variant: str) -> bool:
        """Tell by the variant's name."""
        return variant == "streamed"

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Tell the faults of the Messages API."""
        table = messages_faults(streams=self.in_pieces(variant))
        if not self.in_pieces(variant):
            return table
        table["drip"] = replace(table["drip"], billed=None)  # it may be over before the stream begins
        return table | {word: replace(table[word], billed=True) for word in _BILLED_BEFORE}

    @asynccontextmanager
    async def start(self, variant: str) -> AsyncGenerator[Peer]:
        """Start the server."""
        async with MessagesPeer(pace=Ticks(0.02)) as server:
            yield messages_peer(server, variant, "stub-{}")


CASE: BuiltInCase = AnthropicCase()
