"""An answer that is not whole, as clients are told of it, from a provider to every form of the turn."""

from pathlib import Path
from typing import cast

import pytest

from tests.support.connect import LINKS, Link, call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

ENDS = {
    "length": ("length", "was cut at its greatest length, after 5 tokens"),
    "content_filter": ("content_filter", "sent without this one and its answer"),
    "tool_calls": ("tool_calls", "ends in a call of a tool"),
    "whatever": ("other", "may not be whole"),
}


@pytest.mark.parametrize("link", LINKS)
async def test_a_cut_answer_is_told_in_fields_text_and_transcripts(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        for word, (reason, said) in ENDS.items():
            asked = await call(client, "chat", agent="droid", message=f"{edge.tag} [[stops_{word}]]")
            turn = fields_of(asked)
            read = await call(client, "get_turn", turn_id=turn["turn_id"])
            for result in (asked, read):
                assert fields_of(result)["stop_reason"] == reason
                assert said in str(fields_of(result)["warning"])
                assert said in text_of(result)
            session = turn["session_id"]
            markdown = fields_of(await call(client, "get_transcript", session_id=session))["markdown"]
            assert said in str(markdown)
            document = fields_of(await call(client, "get_transcript", session_id=session, format="json"))["document"]
            messages = cast("dict[str, list[dict[str, dict[str, str]]]]", document)["messages"]
            assert messages[-1]["turn"]["stop_reason"] == reason
            assert said in messages[-1]["turn"]["warning"]


async def test_a_whole_answer_is_told_as_one(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        result = await call(client, "chat", agent="droid", message=edge.tag)
        assert (fields_of(result)["stop_reason"], fields_of(result)["warning"]) == ("end", None)
        assert "Warning" not in text_of(result)
