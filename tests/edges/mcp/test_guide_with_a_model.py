"""The guide with a model that the user named: it writes from the pages, cites them, and is on the bill."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import ConflictError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.connect import Edge, call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

ASK = "How do I cancel a turn?"
# In so many words that those which a test adds do not make it another question.
LONG_ASK = "How do I cancel a turn, stop an answer, abort what runs and what becomes of it then?"
PLAIN = "**Cancelling a turn** (docs/turns.md#cancelling-a-turn)"


def asked_bodies(edge: Edge) -> list[dict[str, object]]:
    """Return what was sent to the provider to be answered."""
    return [each.json for each in edge.peer.exchanges if each.path.endswith("/chat/completions")]


async def test_who_names_no_model_is_answered_without_one_and_pays_nothing(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        turn = fields_of(await call(client, "chat", agent="guide", message=f"{ASK} {edge.tag}"))
        assert PLAIN in str(turn["reply"])
        assert (turn["cost_usd"], turn["model"], asked_bodies(edge)) == (0, None, [])


@pytest.mark.parametrize("named", ["gpt-4o", "openai/gpt-4o", "droid/gpt-4o"])
async def test_a_model_that_is_named_writes_and_is_on_the_bill(named: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        message = f"{ASK} {edge.tag} [[chunks7]]"
        turn = fields_of(await call(client, "chat", agent="guide", model=named, message=message))
        reply = str(turn["reply"])
        assert reply.startswith("w0 w1 w2 w3 w4 w5 w6")
        assert reply.endswith("gpt-4o of droid wrote this from these pages; it can be wrong.")
        assert (turn["agent"], turn["model"], turn["model_used"]) == ("guide", "droid/gpt-4o", "openai/gpt-4o-001")
        assert (turn["cost_usd"], turn["cost_source"]) == (0.00014, "provider")
        assert cast("dict[str, object]", turn["usage"])["input_tokens"] == 11
        [body] = asked_bodies(edge)
        assert body["model"] == "openai/gpt-4o"


async def test_nothing_but_the_question_and_passages_is_sent(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        first = fields_of(await call(client, "chat", agent="guide", message=f"which agents work? secret{edge.tag}"))
        message = f"{ASK} {edge.tag}"
        more = {"system_prompt": f"prompt{edge.tag}", "max_tokens": 77}
        await call(client, "chat", session_id=first["session_id"], model="gpt-4o", message=message, **more)
        [body] = asked_bodies(edge)
        system, user = cast("list[dict[str, str]]", body["messages"])
        assert (system["role"], user["role"]) == ("system", "user")
        assert f"secret{edge.tag}" not in str(body)
        assert f"prompt{edge.tag}" not in str(body)
        assert user["content"].endswith(f"<question>\n{message}\n</question>")
        assert 'source="docs/turns.md#cancelling-a-turn"' in user["content"]
        assert "tools" not in body
        assert body["max_tokens"] == 77


async def test_citations_are_checked_and_the_sources_are_named(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        message = (
            "How do I cancel a turn and stop the answer? cite: [1] [1, 77] [88] docs/turns.md docs/no.md#x [[echo]]"
        )
        turn = fields_of(await call(client, "chat", agent="guide", model="gpt-4o", message=message))
        said = str(turn["reply"]).partition("cite:")[2]
        assert said.startswith(" [1] [1]  docs/turns.md (a page that does not exist) [[echo]]")
        sent = str(asked_bodies(edge)[0]["messages"])
        [source] = re.findall(r'number="1" source="([^"]+)"', sent)
        assert re.search(rf"Sources:\n\n- \[1\] \*\*[^*]+\*\* \({re.escape(source)}\)\n\nIt cited", said)
        assert "It cited 3 more that do not exist; they were left out." in said


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("which agents work right now?", "agents work right now"),
        ("is there a web dashboard?", "Not yet. "),
        ("what is the capital of France?", "I found nothing"),
        ("hello", "I am the guide"),
    ],
)
async def test_what_needs_no_model_asks_none_and_costs_nothing(message: str, words: str, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        turn = fields_of(await call(client, "chat", agent="guide", model="gpt-4o", message=message))
        assert words in str(turn["reply"])
        assert (turn["cost_usd"], turn["model_used"], asked_bodies(edge)) == (0, "none", [])


@pytest.mark.parametrize(
    ("word", "why", "cost"),
    [
        ("e401", "It was asked with the key in OPENROUTER_API_KEY.", 0),
        ("e402", "It was asked with the key in OPENROUTER_API_KEY.", 0),
        ("e429", "Wait and send the message again.", 0),
        ("e500", "Stub failure 500", None),
        ("empty", "", 0.00014),  # what the provider bills is billed
        ("cut", "The connection broke in mid-answer.", None),
    ],
)
async def test_a_model_that_fails_is_told_of_and_the_pages_answer(
    word: str, why: str, cost: float | None, edge_home: Path
) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        result = await call(client, "chat", agent="guide", model="gpt-4o", message=f"{LONG_ASK} {edge.tag} [[{word}]]")
        turn = fields_of(result)
        reply = str(turn["reply"])
        assert (turn["status"], turn["cost_usd"]) == ("completed", cost)
        assert "**gpt-4o of droid could not write this answer: " in reply
        assert why in reply
        assert "This is what the search finds:\n\n**" in reply
        assert "](" not in reply.partition("finds:")[2]
        assert "(docs/" in reply
        assert "The model could not answer" in str(turn["warning"])
        assert "The model could not answer" in text_of(result)


async def test_a_model_that_nobody_has_or_that_is_not_set_up_is_refused_at_once(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        unknown = await call(client, "chat", agent="guide", model="gpt-none", message=ASK)
        assert unknown.is_error
        assert "No agent has a model 'gpt-none'; there are: " in text_of(unknown)
        lacking = await call(client, "chat", agent="guide", model="ccrouter/gemini-3.5-flash-lite", message=ASK)
        assert lacking.is_error
        assert "AGENTAPI_CCROUTER_BASE_URL" in text_of(lacking)
        assert asked_bodies(edge) == []


async def test_a_preference_agrees_for_one_client_until_it_is_taken_back(edge_home: Path) -> None:
    options = McpOptions(toolsets=frozenset({"core", "preferences"}))
    async with (
        open_edge(edge_home, OpenAIPeer(), options) as edge,
        connect(edge.server, "http-2026", name=f"client-{edge.tag}") as client,
        connect(edge.server, "http-2026", name=f"other-{edge.tag}") as other,
    ):
        await call(client, "set_preference", name="default_model", value="gpt-4o")
        await call(client, "chat", agent="guide", message=f"{ASK} default {edge.tag}")
        assert asked_bodies(edge) == []  # a default of all agents is no agreement
        done = await call(client, "set_preference", name="guide.model", value="droid/gpt-4o")
        assert not done.is_error, text_of(done)
        await call(client, "chat", agent="guide", message=f"{ASK} mine {edge.tag}")
        assert len(asked_bodies(edge)) == 1
        await call(other, "chat", agent="guide", message=f"{ASK} other {edge.tag}")
        await call(client, "set_preference", name="guide.model")
        await call(client, "chat", agent="guide", message=f"{ASK} again {edge.tag}")
        assert len(asked_bodies(edge)) == 1


async def test_an_agreed_model_that_is_not_set_up_is_told_of_and_the_pages_answer(edge_home: Path) -> None:
    options = McpOptions(toolsets=frozenset({"core", "preferences"}))
    async with (
        open_edge(edge_home, OpenAIPeer(), options) as edge,
        connect(edge.server, "http-2026", name=f"client-{edge.tag}") as client,
    ):
        named = "ccrouter/gemini-3.5-flash-lite"
        await call(client, "set_preference", name="guide.model", value=named)
        turn = fields_of(await call(client, "chat", agent="guide", message=f"{ASK} {edge.tag}"))
        reply = str(turn["reply"])
        assert reply.startswith(f"**{named} could not write this answer: The agent ccrouter is not set up: AGENTAPI_")
        assert PLAIN in reply
        assert (turn["cost_usd"], asked_bodies(edge)) == (0, [])


async def test_the_operator_agrees_for_all_in_the_file(edge_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "agentapi.toml"
    file.write_text('[agents.guide]\nbackend = "guide"\ndefault_model = "droid/gpt-4o"\n')
    async with OpenAIPeer() as peer:
        settings = Settings(home=edge_home, config=file, postgres_linger_seconds=20)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        async with open_app(settings, environ) as app:
            services = await app.services_provider.services()
            request = ChatRequest(message=ASK, agent="guide", new=True)
            turn = await services.turns.chat(services.principal, request, wait=timedelta(seconds=30))
            listed = await services.agents.get(services.principal, "guide")
        assert (turn.model, turn.bill.model_used) == ("droid/gpt-4o", "openai/gpt-4o-001")
        assert listed.default_model == "droid/gpt-4o"


@dataclass(frozen=True, slots=True)
class Lenders:
    """Two processes on one home, whose agents have models of the same name."""

    services: tuple[Services, Services]
    peers: Mapping[str, OpenAIPeer]

    async def chat(self, message: str, *, by: int = 0, **given: str | bool) -> Turn:
        """Ask the guide through one of the processes."""
        services = self.services[by]
        request = ChatRequest(message=message, agent="guide", **given)  # type: ignore[arg-type]  # as the test says
        return await services.turns.chat(services.principal, request, wait=timedelta(seconds=60))

    def asked(self) -> dict[str, int]:
        """Count the answers that each agent was asked for."""
        return {
            name: sum(each.path.endswith("/chat/completions") for each in peer.exchanges)
            for name, peer in self.peers.items()
        }


@asynccontextmanager
async def lenders(home: Path, folder: Path, *names: str) -> AsyncGenerator[Lenders]:
    """Open two processes with these agents, each at a provider of its own, and the guide."""
    async with AsyncExitStack() as stack:
        peers = {name: await stack.enter_async_context(OpenAIPeer()) for name in names}
        blocks = [
            f"""
            [agents.{name}]
            backend = "openai"
            [agents.{name}.options]
            base_url = "{peer.openrouter_url}"
            [[agents.{name}.models]]
            name = "gpt-4o"
            model_id = "openai/gpt-4o"
            provider = "here"
            """
            for name, peer in peers.items()
        ]
        file = folder / f"{len(names)}.toml"
        file.write_text("\n".join(['[agents.guide]\nbackend = "guide"', *blocks]))
        settings = Settings(home=home, config=file, postgres_linger_seconds=20)
        apps = [await stack.enter_async_context(open_app(settings, {})) for _ in range(2)]
        first, second = [await app.services_provider.services() for app in apps]
        yield Lenders((first, second), peers)


@pytest.mark.parametrize(("named", "other"), [("one", "two"), ("two", "one")])
async def test_a_session_keeps_whose_model_was_named_in_it(
    named: str, other: str, edge_home: Path, tmp_path: Path
) -> None:
    async with lenders(edge_home, tmp_path, "one", "two") as here:
        session = str((await here.chat(ASK, model=f"{named}/gpt-4o", new=True)).session_id)
        # Without a name: by the process that knows the session, and by one that does not.
        for by, message in enumerate(("How do I restore a backup?", "How do I use a local model?")):
            more = await here.chat(message, by=by, session_id=session)
            assert (more.model, more.bill.model_used) == (f"{named}/gpt-4o", "openai/gpt-4o-001")
        assert here.asked() == {named: 3, other: 0}
        # Another one is taken where it is named, and kept from then on, also by who knew another one before.
        changed = await here.chat(ASK, by=1, model=f"{other}/gpt-4o", session_id=session)
        more = await here.chat("How do I add OpenRouter?", session_id=session)
        assert changed.model == more.model == f"{other}/gpt-4o"
        assert here.asked() == {named: 3, other: 2}


async def test_the_same_message_to_another_lender_is_another_request(edge_home: Path, tmp_path: Path) -> None:
    async with lenders(edge_home, tmp_path, "one", "two") as here:
        key = str(new_id())
        first = await here.chat(ASK, model="one/gpt-4o", idempotency_key=key)
        with pytest.raises(ConflictError, match="was used for another request"):
            await here.chat(ASK, model="two/gpt-4o", idempotency_key=key)
        again = await here.chat(ASK, model="one/gpt-4o", idempotency_key=key)
        assert (again.id, here.asked()) == (first.id, {"one": 1, "two": 0})


async def test_off_ends_what_a_session_agreed_on(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "http-2026") as client:
        first = fields_of(await call(client, "chat", agent="guide", model="gpt-4o", message=f"{ASK} {edge.tag}"))
        for message, named in (("How do I restore a backup?", {"model": "off"}), ("How do I add OpenRouter?", {})):
            turn = fields_of(await call(client, "chat", session_id=first["session_id"], message=message, **named))
            assert str(turn["reply"]).startswith("**")  # a section
            assert (turn["model"], turn["cost_usd"]) == ("off", 0)
        assert len(asked_bodies(edge)) == 1


async def test_a_session_whose_lender_is_gone_says_so_and_asks_no_other(edge_home: Path, tmp_path: Path) -> None:
    async with lenders(edge_home, tmp_path, "one", "two") as here:
        session = str((await here.chat(ASK, model="one/gpt-4o", new=True)).session_id)
    async with lenders(edge_home, tmp_path, "two") as here:
        await here.services[0].agents.refresh()
        for message in ("How do I restore a backup?", "How do I use a local model?"):
            turn = await here.chat(message, session_id=session)
            assert turn.reply.startswith(
                "**one/gpt-4o could not write this answer: There is no agent one that you may use any more. This "
                "conversation agreed on that one, so no other is asked: name another model, as AGENT/MODEL, or off to "
                "go on without.**"
            )
            assert (turn.model, turn.bill.usage.cost_usd) == ("one/gpt-4o", 0)
        named = await here.chat(ASK, model="two/gpt-4o", session_id=session)
        assert (named.model, here.asked()) == ("two/gpt-4o", {"two": 1})


async def test_cancelling_the_guide_stops_the_model(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer(pace=Steps())) as edge,
        connect(edge.server, "http-2026") as client,
    ):
        message = f"{ASK} {edge.tag} [[waits]]"
        turn = fields_of(await call(client, "chat", agent="guide", model="gpt-4o", message=message, wait_seconds=0))
        # The agent's health may be asked for first.
        await expect_soon(edge.peer.received(path="/chat/completions"), "the model is asked")
        cancelled = fields_of(await call(client, "cancel_turn", turn_id=turn["turn_id"]))
        assert cancelled["status"] == "cancelled"
        await expect_soon(edge.peer.client_gone(path="/chat/completions"), "nobody waits for the model any more")


async def test_what_a_model_writes_is_joined_and_stopped_as_that_models_own_turns_are(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        alone = await edge.services.agents.resolve(agent="guide")
        written = await edge.services.agents.resolve(agent="guide", model="gpt-4o")
        lender = await edge.services.agents.resolve(agent="droid", model="gpt-4o")
        assert {Capability.LIVE, Capability.STOPS_BILLING} <= alone.capabilities
        # LIVE would ask, and bill, a message again that was sent again because its answer was lost.
        assert Capability.LIVE not in written.capabilities
        assert {each.capabilities & {Capability.STOPS_BILLING} for each in (written, lender)} == {
            lender.capabilities & {Capability.STOPS_BILLING}
        }
        now = datetime.now(UTC)
        assert written.prices_at(now) == lender.prices_at(now)
