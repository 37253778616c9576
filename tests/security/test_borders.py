"""What Ann has, tried from behind every border over every tool, resource, completion, cursor and route, in both eras.

An attempt is refused when its answer holds nothing of hers, and is the same as for something that never was. The cases
are held against what the server registers: a new tool without one fails.
"""

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference, ResourceUpdatedNotification
from pydantic import BaseModel

from agentapi_mcp.base.ids import SessionId, new_id
from agentapi_mcp.core.conversations.models import Sent
from agentapi_mcp.edges.mcp.server.resources import CATALOGUE_URI
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from tests.support.connect import call, fields_of, subscribe_resource
from tests.support.raw_client import RawClient
from tests.support.tenants import Tenants, tenants

ATTACKERS = ("abe", "vic", "bo", "bea", "away", "narrow")
_UNTIL = re.compile(r"until\W+\d{4}-[\d:TZ-]+")
LINKS = ("http-2025", "http-2026", "sse-2025")
pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Loot:
    """What names something of Ann's; `canary` is in her messages and titles and nowhere else."""

    canary: str
    session_id: str
    turn_id: str
    running_id: str
    key: str
    list_cursor: str
    transcript_cursor: str

    @property
    def words(self) -> set[str]:
        """What no answer to anybody else may hold, unless they said it themselves."""
        return {self.canary, self.session_id, self.turn_id, self.running_id}

    def nobodys(self) -> "Loot":
        """Return the same of nothing that ever was."""
        ids = {name: str(new_id()) for name in ("session_id", "turn_id", "running_id")}
        return replace(self, canary=f"c{uuid4().hex}", key=uuid4().hex, **ids)


@asynccontextmanager
async def scene(home: Path, directory: Path) -> AsyncGenerator[tuple[Tenants, Loot]]:
    """Let Ann talk, and leave a turn of hers running."""
    async with tenants(home, directory) as here, here.client("ann", "http-2026") as ann:
        canary, key = f"c{uuid4().hex}", uuid4().hex
        asked = {"agent": "droid", "message": f"{canary} [[echo]]", "idempotency_key": key}
        done = fields_of(await call(ann, "chat", **asked))
        assert done["status"] == "completed"
        running = fields_of(await call(ann, "chat", agent="droid", message=f"{canary} [[waits]]", wait_seconds=0))
        who, sessions = here.members["ann"].principal, here.services.sessions
        await call(ann, "set_preference", name="guide.system_prompt", value=canary)
        page = await sessions.list_(who, limit=1)
        transcript = await sessions.transcript(who, str(done["session_id"]), limit=1)
        assert page.next_cursor is not None
        assert transcript.older is not None
        yield (
            here,
            Loot(
                canary=canary,
                session_id=str(done["session_id"]),
                turn_id=str(done["turn_id"]),
                running_id=str(running["turn_id"]),
                key=key,
                list_cursor=page.next_cursor,
                transcript_cursor=transcript.older,
            ),
        )
        untouched = fields_of(await call(ann, "get_turn", turn_id=running["turn_id"], wait_seconds=0))
        assert untouched["status"] == "running"
        now = await sessions.transcript(who, str(done["session_id"]))
        assert {message.content.split()[0] for message in now.messages} == {canary}
        assert now.session.title is not None
        assert canary in now.session.title


def tool_attempts(loot: Loot) -> Mapping[str, list[dict[str, object]]]:
    """List what to try with each tool."""
    return {
        "chat": [
            {"session_id": loot.session_id, "message": "and then?"},
            {"session_id": loot.session_id, "message": "and then?", "agent": "droid", "idempotency_key": loot.key},
        ],
        "get_turn": [{"turn_id": loot.turn_id}, {"turn_id": loot.running_id, "wait_seconds": 0}],
        "cancel_turn": [{"turn_id": loot.turn_id}, {"turn_id": loot.running_id}],
        "list_agents": [{}, {"query": loot.canary}],
        "list_models": [{}, {"query": loot.canary}],
        "list_sessions": [
            {},
            {"query": loot.canary},
            {"tag": loot.canary, "archived": True},
            {"cursor": loot.list_cursor},
        ],
        "get_transcript": [
            {"session_id": loot.session_id},
            {"session_id": loot.session_id, "format": "json"},
            {"session_id": loot.session_id, "cursor": loot.transcript_cursor},
        ],
        "get_health": [{}],
        "get_organization": [{}],
        "get_usage": [{}, {"by": "session"}, {"by": "agent", "whose": "organization"}, {"by": "member"}],
        "list_budgets": [{}],
        "set_budget": [{"limit_usd": 1, "scope": "agent", "subject": loot.canary}],
        "remove_budget": [{"budget_id": loot.turn_id}],
        "set_organization": [{"default_agent": loot.canary}, {"unset": [loot.canary]}],
        "get_preferences": [{}],
        "rate": [
            {"session_id": loot.session_id, "rating": 1},
            {"turn_id": loot.turn_id, "rating": 1},
            {"turn_id": loot.running_id, "clear": True},
        ],
        "tag": [{"session_id": loot.session_id, "add": ["forged"]}],
        "archive": [{"session_id": loot.session_id}, {"session_id": loot.session_id, "undo": True}],
        "record_interaction": [{"title": "mine", "external_id": loot.canary, "cost_usd": -1}],
        "set_preference": [{"name": "default_agent", "value": loot.canary}, {"name": f"{loot.canary}.enabled"}],
    }


async def outcome(asking: Awaitable[object]) -> str:
    """Return all that came of an attempt, as text."""
    try:
        answer = await asking
    except MCPError as exc:
        return f"error {exc.error.code} {exc.error.message} {json.dumps(exc.error.data)}"
    return answer.model_dump_json() if isinstance(answer, BaseModel) else repr(answer)


def masked(text: str, loot: Loot) -> str:
    """Replace what the attempt itself has said, and when a period that goes on was cut."""
    for word in (*sorted(loot.words), loot.key, loot.list_cursor, loot.transcript_cursor):
        text = text.replace(word, "…")
    return _UNTIL.sub("until …", text)


@pytest.mark.parametrize("link", LINKS)
async def test_every_tool_is_tried_across_every_border(link: str, edge_home: Path, tmp_path: Path) -> None:
    attempts = 0
    async with scene(edge_home, tmp_path) as (here, loot):
        nobodys = loot.nobodys()
        for attacker in ATTACKERS:
            async with here.client(attacker, link) as client:
                cases, twins = tool_attempts(loot), tool_attempts(nobodys)
                listed = {tool.name for tool in (await client.list_tools()).tools}
                assert set(cases) == listed, "add a new tool to `tool_attempts`, with the arguments that others try"
                for tool, tried in cases.items():
                    for arguments, twin in zip(tried, twins[tool], strict=True):
                        said = await outcome(call(client, tool, **arguments))
                        never = await outcome(call(client, tool, **twin))
                        attempts += 1
                        given = set_of_words(json.dumps(arguments), loot)
                        assert set_of_words(said, loot) <= given, (attacker, tool, said)
                        if arguments:
                            assert masked(said, loot) == masked(never, nobodys), (attacker, tool)
    assert attempts == len(ATTACKERS) * sum(map(len, tool_attempts(loot).values()))
    print(f"{attempts} attempts over {link}, all refused")  # noqa: T201  # of interest to whoever asks pytest for it


def set_of_words(text: str, loot: Loot) -> set[str]:
    """Find what is Ann's in a text."""
    return {word for word in loot.words if word in text}


@pytest.mark.parametrize("attacker", ["abe", "bo", "bea", "away"])
async def test_her_idempotency_key_and_message_are_another_turn_of_anybody_else(
    attacker: str, edge_home: Path, tmp_path: Path
) -> None:
    async with scene(edge_home, tmp_path) as (here, loot), here.client(attacker, "http-2026") as client:
        asked = {"agent": "droid", "message": f"{loot.canary} [[echo]]", "idempotency_key": loot.key}
        turn = fields_of(await call(client, "chat", **asked))
        assert turn["status"] == "completed"
        assert turn["turn_id"] != loot.turn_id
        assert turn["session_id"] != loot.session_id


@pytest.mark.parametrize("link", LINKS)
async def test_every_resource_template_and_completion_is_tried(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with scene(edge_home, tmp_path) as (here, loot):
        nobodys = loot.nobodys()
        for attacker in ATTACKERS:
            async with here.client(attacker, link) as client:
                templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
                for template in templates:
                    said, never = [
                        await outcome(client.read_resource(filled(template, which))) for which in (loot, nobodys)
                    ]
                    # Everybody has usage of their own.
                    assert said.startswith("error") or "{period}" in template
                    assert masked(said, loot) == masked(never, nobodys)
                    assert set_of_words(said, loot) <= {loot.session_id}
                    reference = ResourceTemplateReference(type="ref/resource", uri=template)
                    await complete_all(client, reference, ["session_id", "query", "cursor", "period"], loot)
                for prompt in (await client.list_prompts()).prompts:
                    reference = PromptReference(type="ref/prompt", name=prompt.name)
                    names = [argument.name for argument in prompt.arguments or []]
                    await complete_all(client, reference, names, loot)
                    given = {name: loot.session_id if name == "session_id" else "x" for name in names}
                    assert not (loot.words - {loot.session_id}) & set_of_words(
                        await outcome(client.get_prompt(prompt.name, given)), loot
                    )
                for cursor in (None, loot.list_cursor):
                    listed = await outcome(client.list_resources(cursor=cursor))
                    assert not set_of_words(listed, loot)
                    if cursor is not None:
                        assert listed.startswith("error")
                for uri in (CATALOGUE_URI, "agentapi://chat/sessions"):
                    assert not set_of_words(await outcome(client.read_resource(uri)), loot)


def filled(template: str, loot: Loot) -> str:
    """Fill in a template with what is hers."""
    uri = template.replace("{session_id}", loot.session_id).replace("{?cursor}", f"?cursor={loot.transcript_cursor}")
    uri = uri.replace("{?query,cursor}", f"?cursor={loot.list_cursor}")
    uri = uri.replace("{period}", "year")
    assert "{" not in uri, "a template of a form that is not tried here"
    return uri


async def complete_all(
    client: Client, reference: ResourceTemplateReference | PromptReference, names: list[str], loot: Loot
) -> None:
    """Complete every argument from what begins hers."""
    for name in names:
        for typed in ("", loot.canary, loot.canary[:4], loot.session_id, loot.session_id[:8]):
            said = await outcome(client.complete(reference, {"name": name, "value": typed}))
            assert not set_of_words(said, loot), (name, typed)


@pytest.mark.parametrize("attacker", ["abe", "vic", "bo", "bea", "away"])
async def test_nobody_hears_that_something_happened_in_her_sessions(
    attacker: str, edge_home: Path, tmp_path: Path
) -> None:
    heard: list[str] = []

    async def hear(message: object) -> None:
        heard.append(message.params.uri if isinstance(message, ResourceUpdatedNotification) else type(message).__name__)

    async with scene(edge_home, tmp_path) as (here, loot), here.client("ann", "http-2026") as ann:
        uris = [transcript_uri(SessionId(new_id())), *(filled(one, loot) for one in await of_transcripts(ann))]
        async with (
            here.client(attacker, "http-2025", hear) as old,
            here.client(attacker, "http-2026") as new,
            new.listen(resource_subscriptions=[*uris, CATALOGUE_URI], resources_list_changed=True) as events,
        ):
            assert events.honored.resource_subscriptions == [CATALOGUE_URI]
            for uri in uris:
                with pytest.raises(MCPError, match="no such resource"):
                    await subscribe_resource(old, uri)
            await subscribe_resource(old, CATALOGUE_URI)
            await call(ann, "chat", session_id=loot.session_id, message=f"{loot.canary} [[echo]]", agent="droid")
            await call(ann, "chat", message="a new session", agent="guide")
            # What comes after it in the database has been told to all: nothing came before.
            await PostgresCatalogue(here.database).notify_changed()
            first = [await anext(events), await anext(events)]
            assert CATALOGUE_URI in repr(first)
            assert not set_of_words(repr(first), loot)
            while CATALOGUE_URI not in heard:
                await call(old, "get_health", agent="guide")  # until the stream of the old era has told it, too
            assert set(heard) <= {CATALOGUE_URI, "ResourceListChangedNotification"}
            assert heard.count("ResourceListChangedNotification") <= 1


async def of_transcripts(client: Client) -> list[str]:
    templates = (await client.list_resource_templates()).resource_templates
    return [
        one.uri_template for one in templates if "session_id" in one.uri_template and "cursor" not in one.uri_template
    ]


async def test_her_tasks_are_there_for_nobody_else(edge_home: Path, tmp_path: Path) -> None:
    async with scene(edge_home, tmp_path) as (here, loot):
        ann, services = here.members["ann"].principal, here.services
        turn = await services.turns.get(ann, loot.running_id)
        task = await services.tasks.create(ann, turn, Sent(has_key=False, in_session=False))
        for attacker in ATTACKERS:
            async with here.http(attacker) as http:
                client = RawClient(here.place.mcp, http)
                for method in ("tasks/get", "tasks/update", "tasks/cancel"):
                    said = [
                        await outcome_of(client, method, {"taskId": task_id, "inputResponses": {"q": {}}})
                        for task_id in (task.id, "A" * 32)
                    ]
                    assert said[0].startswith("error"), (attacker, method)
                    assert said[0] == said[1], (attacker, method)
                    assert not set_of_words(said[0], loot)
                if attacker != "narrow":  # who may not read at all
                    async with client.listening(taskIds=[task.id], resourcesListChanged=True) as messages:
                        acknowledged = await anext(messages)
                        assert acknowledged["params"]["notifications"] == {"resourcesListChanged": True}
        async with here.http("ann") as http:
            assert (await RawClient(here.place.mcp, http).task(task.id))["status"] == "working"


async def outcome_of(client: RawClient, method: str, params: dict[str, object]) -> str:
    """Return all that came of an attempt, as text."""
    answer = await client.http.send(client.request(method, params))
    message = json.loads(answer.text)
    return f"error {answer.status_code} {json.dumps(message['error'])}" if "error" in message else answer.text


async def test_her_transport_sessions_answer_nobody_else(edge_home: Path, tmp_path: Path) -> None:
    start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ann", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}
    accepts = {"accept": "application/json, text/event-stream"}
    async with tenants(edge_home, tmp_path) as here:
        async with here.http("ann") as http:
            begun = await http.post(here.place.mcp, json=body, headers=accepts)
            session = begun.headers["mcp-session-id"]
        for attacker in ("abe", "vic", "bo", "bea"):
            async with here.http(attacker) as http:
                for method in ("POST", "GET", "DELETE"):
                    answers = [
                        await http.request(
                            method,
                            here.place.mcp,
                            headers={**accepts, "mcp-session-id": named},
                            json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"} if method == "POST" else None,
                        )
                        for named in (session, uuid4().hex)
                    ]
                    assert [answer.status_code for answer in answers] == [404, 404], (attacker, method)
                    assert answers[0].text == answers[1].text
        async with here.http("ann") as http:
            ended = await http.delete(here.place.mcp, headers={**accepts, "mcp-session-id": session})
            assert ended.status_code == 204
