"""The commands for budgets, of each kind that there is."""

from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.test_json_output import asked, refused
from tests.acceptance.test_keys import master_key
from tests.acceptance.test_processes import environ, run
from tests.support.databases import Seed

pytestmark = pytest.mark.acceptance


async def test_budgets_of_each_kind_are_set_changed_listed_and_removed(seed: Seed) -> None:
    async with seed.started("budgets-") as server:
        env = environ(server.home) | {"AGENTAPI_MASTER_KEY": master_key()}
        organization = await asked(env, "organization", "show")
        [me] = (await asked(env, "members", "list"))["members"]
        await asked(env, "keys", "add", "openrouter", "--name", "mine", stdin="sk-or-budgets\n")
        [key] = (await asked(env, "keys", "list"))["keys"]
        kinds = {
            ("organization", "month"): (),
            ("member", "day"): ("--member", "--period", "day"),
            ("user", "day"): ("--user", me["user_id"][-8:], "--period", "day"),
            ("agent", "total"): ("--agent", "guide", "--period", "total"),
            ("key", "month"): ("--key", "mine"),
        }
        for (scope, period), options in kinds.items():
            one = await asked(env, "budgets", "set", "2.50", *options)
            assert (one["scope"], one["period"], one["limit_usd"], one["left_usd"]) == (scope, period, 2.5, 2.5)
        assert (await asked(env, "budgets", "set", "3", "--key", key["id"][-8:]))["limit_usd"] == 3
        await asked(env, "budgets", "set", "20", "--plan", "free")
        assert "of no plan: budgets of plans do not hold for it." in (await run(env, "budgets", "list"))[2]
        assert (await asked(env, "budgets", "plan", "free", "--org", organization["id"]))["plan"] == "free"
        assert "of the plan free: budgets of other plans do not hold for it." in (await run(env, "budgets", "list"))[2]
        assert (await asked(env, "budgets", "list"))["plan"] == "free"

        async def listed() -> dict[tuple[str, str], dict[str, Any]]:
            found = (await asked(env, "budgets", "list"))["budgets"]
            return {(each["scope"], each["period"]): each for each in found if each["plan"] is None}

        there = await listed()
        assert there.keys() == kinds.keys()
        removed = there["agent", "total"]["id"]
        assert await asked(env, "budgets", "remove", removed[-8:]) == {"removed": removed}
        assert (await listed()).keys() == kinds.keys() - {("agent", "total")}
        error = await refused(env, "budgets", "remove", removed[-8:])
        assert error["message"].startswith(f"There is no budget {removed[-8:]}; `agentapi-mcp budgets list` shows")
        # A script's empty variable sets nothing for everybody.
        for option in ("--key", "--user", "--agent"):
            assert (await refused(env, "budgets", "set", "1", option, ""))["code"] in {"invalid_request", "not_found"}
        assert (await listed())["organization", "month"]["limit_usd"] == 2.5
        status, _, err = await run(env, "budgets", "set", "1", "--member", "--agent", "guide")
        assert (status, "Error: Say one of --member, --user, --agent and --key.\n" in err) == (2, True)


async def test_what_does_not_fit_a_budget_is_said_with_what_does(seed: Seed) -> None:
    async with seed.started("budgets-words-") as server:
        env = environ(server.home)
        status, out, err = await run(env, "budgets", "list")
        assert (status, out, "There is no budget: `agentapi-mcp budgets set 50` sets one" in err) == (0, "", True)
        status, _, err = await run(env, "budgets", "set", "1", "--plan", "free", "--agent", "guide")
        assert (status, "leave --user, --agent, --key out" in err) == (2, True)
        error = await refused(env, "budgets", "set", "1", "--agent", "nosuch")
        assert error["message"].startswith("--agent must be the name of an agent; there are: ")
        error = await refused(env, "budgets", "list", "--org", str(uuid4()))
        assert (error["code"], error["message"]) == ("not_found", "There is no such organisation.")
        _, _, err = await run(env, "budgets", "set", "1", "--soft")
        assert "organization: month 1 USD, soft, spent 0, left 1" in err
        # A plan without budgets bounds nothing, such as one that is misspelt.
        _, _, err = await run(env, "budgets", "plan", "fre")
        assert err.startswith("Of the plan fre now.\nIt has no budgets: `agentapi-mcp budgets set DOLLARS --plan NAME`")
        await asked(env, "budgets", "set", "20", "--plan", "free")
        assert (await run(env, "budgets", "plan", "free"))[2] == "Of the plan free now.\n"
