"""What a user says of conversations, over the tools of `usage`: in both eras, and refused in words."""

from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from agentapi_mcp.edges.mcp.options import McpOptions
from tests.support.connect import LINKS, Link, call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.timeout(60)
BOTH = McpOptions(toolsets=frozenset({"core", "usage"}))


def ids(listed: object) -> list[str]:
    fields = cast("dict[str, list[dict[str, str]]]", listed)
    return [session["session_id"] for session in fields["sessions"]]


@pytest.mark.parametrize("link", LINKS)
async def test_a_session_is_rated_tagged_found_and_archived(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer(), BOTH) as edge, connect(edge.server, link) as client:
        turn = fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} [[echo]]"))
        session_id, tag = turn["session_id"], f"tag {uuid4().hex}"
        rated = await call(client, "rate", session_id=session_id, rating=5, usefulness=4, note="well")
        assert fields_of(rated) == {
            "session_id": session_id,
            "turn_id": None,
            "rating": 5,
            "usefulness": 4,
            "note": "well",
        }
        assert text_of(rated) == f"The session {session_id}: rating 5, usefulness 4, a note."
        rated = await call(client, "rate", turn_id=turn["turn_id"], rating="2")
        assert (fields_of(rated)["turn_id"], fields_of(rated)["rating"]) == (turn["turn_id"], 2)
        cleared = await call(client, "rate", turn_id=turn["turn_id"], clear=True)
        assert text_of(cleared) == f"The turn {turn['turn_id']}: no rating."
        tagged = fields_of(await call(client, "tag", session_id=session_id, add=[tag.upper()], type="Coding"))
        assert (tagged["tags"], tagged["interaction_type"], tagged["rating"]) == ([tag], "coding", 5)
        found = await call(client, "list_sessions", tag=tag)
        assert ids(fields_of(found)) == [session_id]
        assert f"; coding, rating 5, tags {tag}): {session_id}" in text_of(found)
        [listed] = cast("dict[str, list[dict[str, dict[str, object]]]]", fields_of(found))["sessions"]
        assert (listed["usage"]["turns"], listed["usage"]["cost_usd"]) == (1, turn["cost_usd"])
        archived = fields_of(await call(client, "archive", session_id=session_id))
        assert archived["status"] == "archived"
        # What it cost is told as the list tells it.
        assert tagged["usage"] == archived["usage"] == listed["usage"]
        assert ids(fields_of(await call(client, "list_sessions", tag=tag))) == []
        assert ids(fields_of(await call(client, "list_sessions", tag=tag, archived=True))) == [session_id]
        # It is read and continued as before.
        again = fields_of(await call(client, "chat", session_id=session_id, message=f"{edge.tag} more [[echo]]"))
        assert (again["status"], again["session_id"]) == ("completed", session_id)
        back = fields_of(await call(client, "archive", session_id=session_id, undo=True))
        assert back["status"] == "active"
        assert ids(fields_of(await call(client, "list_sessions", tag=tag))) == [session_id]


@pytest.mark.parametrize("link", LINKS)
async def test_what_happened_elsewhere_is_recorded_once(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer(), BOTH) as edge, connect(edge.server, link) as client:
        said: dict[str, object] = {
            "title": "Code Review Session",
            "external_link": f"https://claude.ai/chat/{uuid4()}",
            "type": "coding",
            "input_tokens": 1500,
            "output_tokens": 800,
            "cost_usd": 0.0425,
            "agent": "claude.ai",
        }
        first = await call(client, "record_interaction", **said)
        recorded = fields_of(first)
        assert (recorded["is_new"], recorded["cost_usd"], recorded["cost_source"]) == (
            *(True, 0.0425, "reported by the user"),
        )
        assert text_of(first) == (
            f"Recorded as the session {recorded['session_id']}: 1,500 tokens in, 800 tokens out, $0.0425, reported by "
            "the user, and counted apart from bills."
        )
        again = fields_of(await call(client, "record_interaction", **said))
        assert (again["is_new"], again["session_id"]) == (False, recorded["session_id"])
        other = await call(client, "record_interaction", **said | {"cost_usd": 1})
        assert other.is_error
        assert "with another cost_usd" in text_of(other)
        listed = cast("dict[str, list[dict[str, object]]]", fields_of(await call(client, "list_sessions")))["sessions"]
        [there] = [each for each in listed if each["session_id"] == recorded["session_id"]]
        assert (there["agent"], there["status"], there["external_link"]) == (
            *("claude.ai", "completed", said["external_link"]),
        )
        usage = cast("dict[str, object]", there["usage"])
        assert (usage["cost_usd"], usage["reported"]) == (
            *(0, {"input_tokens": 1500, "output_tokens": 800, "cost_usd": 0.0425}),
        )


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "nothing to rate": ("rate", {"rating": 3}, "Pass either session_id or turn_id"),
    "two to rate": ("rate", {"session_id": "{}", "turn_id": "{}", "rating": 3}, "Pass either session_id or turn_id"),
    "nothing said": ("rate", {"session_id": "{}"}, "Say a rating from 1 to 5, a note, or both."),
    "six stars": ("rate", {"session_id": "{}", "rating": 6}, "between 1 and 5"),
    "a half": ("rate", {"session_id": "{}", "rating": 2.5}, "between 1 and 5"),
    "said and taken back": ("rate", {"session_id": "{}", "rating": 1, "clear": True}, "leave the others out"),
    "usefulness of a turn": ("rate", {"turn_id": "{}", "usefulness": 1}, "is said of sessions, not of turns"),
    "a long note": ("rate", {"session_id": "{}", "note": "x" * 4001}, "has 4,001 characters; at most 4,000"),
    "no session": ("rate", {"session_id": str(uuid4()), "rating": 1}, "There is no such session"),
    "no turn": ("rate", {"turn_id": str(uuid4()), "rating": 1}, "There is no such turn"),
    "no change of tags": ("tag", {"session_id": "{}"}, "Say what to change"),
    "a blank tag": ("tag", {"session_id": "{}", "add": [" "]}, "has a blank tag"),
    "a tag with a comma": ("tag", {"session_id": "{}", "add": ["a,b"]}, "no comma"),
    "a hidden tag": ("tag", {"session_id": "{}", "add": ["a\u200bb"]}, "nothing that cannot be seen"),
    "a long tag": ("tag", {"session_id": "{}", "add": ["x" * 51]}, "a tag of 51 characters; at most 50"),
    "many tags": ("tag", {"session_id": "{}", "add": [f"t{n}" for n in range(51)]}, "has 51 tags"),
    "a tag added and removed": ("tag", {"session_id": "{}", "add": ["a"], "remove": ["A"]}, "which you also add"),
    "no type": ("tag", {"session_id": "{}", "type": "nosuch"}, "type is none of conversation, coding,"),
    "nothing to archive": ("archive", {"session_id": str(uuid4())}, "There is no such session"),
    "no link": ("record_interaction", {"title": "x", "external_link": "javascript:x"}, "http or https URL"),
    "a link with a password": (
        "record_interaction",
        {"title": "x", "external_link": "https://a:b@c.example"},
        "password",
    ),
    "less than nothing": ("record_interaction", {"title": "x", "cost_usd": -1}, "between 0 and 1000000"),
    "no number": ("record_interaction", {"title": "x", "cost_usd": "NaN"}, "a number"),
    "many tokens": ("record_interaction", {"title": "x", "input_tokens": 10**13}, "between 0 and 1,000,000,000,000"),
    "two lines": ("record_interaction", {"title": "x\ny"}, "must be one line"),
    "no time": ("record_interaction", {"title": "x", "started_at": "yesterday"}, "is no time such as"),
    "no zone": ("record_interaction", {"title": "x", "started_at": "2026-01-01T00:00:00"}, "has no zone"),
    "the future": ("record_interaction", {"title": "x", "ended_at": "9999-01-01T00:00:00Z"}, "is in the future"),
    "an end before the begin": (
        "record_interaction",
        {"title": "x", "started_at": "2026-01-02T00:00:00Z", "ended_at": "2026-01-01T00:00:00Z"},
        "is before started_at",
    ),
}


async def test_what_cannot_be_said_is_refused_in_words(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer(), BOTH) as edge, connect(edge.server, "http-2026") as client:
        turn = fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} [[echo]]"))
        for name, (tool, arguments, words) in REFUSED.items():
            given = {key: str(turn[key]) if value == "{}" else value for key, value in arguments.items()}
            refused = await call(client, tool, **given)
            assert refused.is_error, name
            assert words in text_of(refused), (name, text_of(refused))
        running = fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} [[slow]]", wait_seconds=0))
        refused = await call(client, "rate", turn_id=running["turn_id"], rating=1)
        assert f"The turn {running['turn_id']} is still running; it is rated once it has ended." in text_of(refused)
        assert "end it with cancel_turn" in text_of(refused)
        await call(client, "cancel_turn", turn_id=running["turn_id"])
