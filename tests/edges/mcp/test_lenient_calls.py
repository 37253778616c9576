"""Calls as clients and models really send them are answered as those of the schema."""

import json
from pathlib import Path

import pytest

from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.testing.http import Steps
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, begin, fault, message, served
from tests.support.connect import call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

CALLS = MODERN | {"mcp-method": "tools/call", "mcp-name": "list_agents"}


@pytest.mark.parametrize("agent", ["Droid", "DROID", " droid "])
async def test_an_agent_is_known_in_another_spelling_by_every_tool(agent: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        turn = fields_of(await call(client, "chat", agent=agent, message=edge.tag, sessionId="", temperature="0.5"))
        assert (turn["agent"], turn["status"]) == ("droid", "completed")
        asked = (await edge.peer.received()).json
        assert asked["temperature"] == 0.5
        for tool, found in (("list_models", "models"), ("list_sessions", "sessions"), ("get_health", "agents")):
            whole = as_list(fields_of(await call(client, tool, agent="droid"))[found])
            assert whole
            assert len(as_list(fields_of(await call(client, tool, agent=agent))[found])) == len(whole)
        named = text_of(await call(client, "chat", agent="dröid", message="x"))
        assert "There is no agent 'dröid'; there are: " in named


async def test_a_model_is_known_in_another_spelling(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        models = as_list(fields_of(await call(client, "list_models", agent="droid"))["models"])
        model = str(as_object(models[0])["name"])
        spelled = model.upper().replace("-", "_")
        assert spelled != model
        turn = fields_of(await call(client, "chat", agent="droid", model=spelled, message=edge.tag))
        assert (turn["status"], turn["model"]) == ("completed", model)


async def test_a_session_keeps_its_model_if_its_agent_is_spelled_otherwise(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        models = [
            str(as_object(each)["name"])
            for each in as_list(fields_of(await call(client, "list_models", agent="droid"))["models"])
        ]
        usual = fields_of(await call(client, "chat", agent="droid", message=edge.tag))["model"]
        other = next(name for name in models if name != usual)
        begun = fields_of(await call(client, "chat", agent="droid", model=other, message=f"{edge.tag} 1"))
        for number, agent in enumerate(("droid", "Droid", " DROID"), 2):
            more = {"session_id": begun["session_id"], "agent": agent, "message": f"{edge.tag} {number}"}
            assert fields_of(await call(client, "chat", **more))["model"] == other


@pytest.mark.parametrize(("given", "reads"), [('{"query": "droid"}', "droid"), ([], ""), ("", ""), (None, "")])
async def test_arguments_are_read_from_the_text_of_an_object_and_from_an_empty_list(
    given: object, reads: str, edge_home: Path
) -> None:
    async with served(edge_home) as (_, _, http):
        for headers, meta in ((await begin(http), {}), (CALLS, {"_meta": META})):
            asked = message("tools/call", {"name": "list_agents", "arguments": given, **meta})
            answer = (await http.post("/mcp", json=asked, headers=headers)).json()
            assert reads in json.dumps(answer["result"]["structuredContent"]["agents"])


@pytest.mark.parametrize("given", ["[]", "query", "{", '"x"', "[" * 5000, [1], 7, True])
async def test_other_arguments_are_refused(given: object, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        asked = message("tools/call", {"name": "list_agents", "arguments": given})
        assert fault(await http.post("/mcp", json=asked, headers=ACCEPT))


async def test_a_retry_joins_however_its_arguments_are_spelled(edge_home: Path) -> None:
    peer = OpenAIPeer(pace=Steps())
    async with open_edge(edge_home, peer) as edge, connect(edge.server, "stdio-2026") as client:
        model = as_object(as_list(fields_of(await call(client, "list_models", agent="droid"))["models"])[0])
        name, id_ = str(model["name"]), str(model["model_id"])
        begun = fields_of(await call(client, "chat", agent="guide", message=edge.tag))
        spellings: list[list[dict[str, object]]] = [
            [{"agent": "droid"}, {"agent": "Droid"}, {"agent": " DROID "}],
            [{"agent": "droid", "model": each} for each in (name, name.upper().replace("-", "_"), id_)],
            [{"agent": "droid", "temperature": each} for each in (1, 1.0, "1", "1.0")],
            [{"agent": "droid", "max_tokens": each} for each in (100, 100.0, "1e2")],
        ]
        for number, group in enumerate(spellings):
            said = {"session_id": begun["session_id"], "message": f"{number} [[slow]]", "wait_seconds": 0}
            turns = [fields_of(await call(client, "chat", **said, **each)) for each in group]
            assert [turn["joined"] for turn in turns] == [False, *[True] * (len(group) - 1)], group
            await call(client, "cancel_turn", turn_id=turns[0]["turn_id"])


async def test_a_session_keeps_its_model_however_its_agent_is_spelled(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        usual = fields_of(await call(client, "chat", agent="droid", message=edge.tag))["model"]
        models = as_list(fields_of(await call(client, "list_models", agent="droid"))["models"])
        other = next(name for name in (str(as_object(model)["name"]) for model in models) if name != usual)
        begun = fields_of(await call(client, "chat", agent="droid", model=other, message=f"{edge.tag} a"))
        for agent in ("droid", "Droid", " DROID "):
            said = {"session_id": begun["session_id"], "agent": agent, "message": f"{edge.tag} {agent}"}
            assert fields_of(await call(client, "chat", **said))["model"] == other
