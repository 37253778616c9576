"""What a user says of conversations by commands."""

import json
from typing import Any

import pytest

from agentapi_mcp.presentation.models import RatingOut, RecordedOut, SessionOut
from tests.acceptance.test_json_output import asked, refused
from tests.acceptance.test_processes import environ, run
from tests.support.databases import Seed

pytestmark = pytest.mark.acceptance


async def test_conversations_are_rated_tagged_archived_and_recorded(seed: Seed) -> None:
    async with seed.started("said-") as server:
        env = environ(server.home)
        turn = await asked(env, "chat", "--agent", "guide", "what is a turn?")
        session, end = turn["session_id"], turn["session_id"][-8:]

        async def listed(*options: str) -> list[str]:
            return [each["session_id"] for each in (await asked(env, "sessions", "list", *options))["sessions"]]

        rated = await asked(env, "rate", end, "4", "--usefulness", "5", "--note", "well")
        assert RatingOut.model_validate(rated).model_dump(mode="json") == rated
        assert (rated["session_id"], rated["rating"], rated["usefulness"]) == (session, 4, 5)
        status, _, err = await run(env, "rate", turn["turn_id"][-8:], "2", "--turn")
        assert (status, err) == (0, f"The turn {turn['turn_id']}: rating 2.\n")
        status, _, err = await run(env, "tag", end, "cats", "to do", "--type", "writing")
        assert (status, err) == (0, f"The session {session}: writing; rating 4; tags cats, to do.\n")
        tagged = await asked(env, "tag", end, "--remove", "cats")
        assert SessionOut.model_validate(tagged).tags == ["to do"]
        assert await listed("--tag", "To Do") == [session]
        assert (await asked(env, "archive", end))["status"] == "archived"
        assert (await listed(), await listed("--all")) == ([], [session])
        # It is found by a part of its id all the same.
        assert (await asked(env, "sessions", "show", end))["session"]["id"] == session
        assert (await asked(env, "archive", end, "--undo"))["status"] == "active"

        words = ("record", "Code review", "--link", "https://claude.ai/chat/xyz", "--cost", "0.0425", "--tag", "work")
        recorded = await asked(env, *words)
        assert RecordedOut.model_validate(recorded).model_dump(mode="json") == recorded
        assert (recorded["cost_usd"], recorded["tags"], recorded["is_new"]) == (0.0425, ["work"], True)
        assert (await asked(env, *words))["is_new"] is False
        assert await listed() == [recorded["session_id"], session]
        # Of whole days, as the tool has it without a time, and as lists of agents have it.
        assert (await asked(env, "usage"))["since"].endswith("T00:00:00Z")
        # The list has it as its user reports it, and what nobody knows is no zero.
        _, lines, _ = await run(env, "sessions", "list", "--tag", "work")
        assert lines.splitlines()[1].split("\t")[3:6] == ["0", "unknown", "$0.0425 reported"]

        for wrong, message in (
            (("record", "x", "--cost", "much"), "--cost must be an amount such as 0.0425, not 'much'."),
            (("record", "x", "--cost", "NaN"), "--cost must be US dollars between 0 and 1,000,000."),
            (("record", "x", "--started", "now"), "--started is no time such as"),
            (("tag", end, "--type", "nosuch"), "--type is none of conversation,"),
            (("rate", end), "Say a rating from 1 to 5, a note, or both."),
            (("rate", turn["turn_id"], "3", "--turn", "--usefulness", "2"), "--usefulness is said of sessions"),
        ):
            error: dict[str, Any] = await refused(env, *wrong)
            assert error["message"].startswith(message), json.dumps(error)
