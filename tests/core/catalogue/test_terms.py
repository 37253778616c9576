"""The words that usage is told by: the operator adds some, and nothing that is there is ever changed."""

from dataclasses import replace

import pytest

from agentapi_mcp.base.errors import ConflictError, InvalidRequestError
from agentapi_mcp.core.audit.models import AuditAction, AuditFilter
from agentapi_mcp.core.catalogue.term_models import AuthType, Provider, Term, TermKind
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Report, Tagging
from agentapi_mcp.core.services import Services
from tests.support.connect import open_edge
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer

ACME = Provider(id="acme", name="Acme AI", auth_type=AuthType.OAUTH, base_url="https://api.acme.example")
TEACHING = Term(kind=TermKind.INTERACTION_TYPE, id="teaching", name="Teaching", icon="school", color="#10b981")


async def events(services: Services, action: AuditAction) -> list[str]:
    """Return the targets of the events of this kind."""
    found = await services.audit.list_(services.principal, AuditFilter(action=action))
    return [str(event.target and event.target.id) for event in found.items]


async def test_what_is_added_is_there_once_and_nothing_is_ever_changed(seed: Seed) -> None:
    async with seed.started("terms-") as server, open_edge(server.home, OpenAIPeer()) as edge:
        terms, operator = edge.services.terms, edge.services.principal
        shipped = {provider.id: provider for provider in await terms.providers(operator)}
        assert await terms.add_provider(operator, replace(ACME, id=" ACME "))
        assert not await terms.add_provider(operator, ACME)
        for other in (replace(ACME, name="Other"), replace(shipped["openai"], name="Ours")):
            with pytest.raises(ConflictError, match="with other values, and it is not changed"):
                await terms.add_provider(operator, other)
        assert not await terms.add_provider(operator, shipped["openai"])
        there = {provider.id: provider for provider in await terms.providers(operator)}
        assert list(there) == sorted(there)
        acme = there.pop("acme")
        assert there == shipped
        assert acme.added_at is not None
        assert replace(acme, added_at=None) == ACME
        assert await events(edge.services, AuditAction.PROVIDER_ADDED) == ["acme"]


async def test_a_kind_of_interactions_that_was_added_comes_last_and_is_one_that_conversations_can_have(
    seed: Seed,
) -> None:
    async with seed.started("terms-") as server, open_edge(server.home, OpenAIPeer()) as edge:
        terms, operator = edge.services.terms, edge.services.principal
        before = await terms.list_(operator)
        assert await terms.add(operator, replace(TEACHING, color="#10B981"))
        assert not await terms.add(operator, TEACHING)
        # A feature may have the same id.
        assert await terms.add(operator, replace(TEACHING, kind=TermKind.FEATURE, sort_order=0))
        with pytest.raises(ConflictError, match="There is already an interaction type teaching"):
            await terms.add(operator, replace(TEACHING, sort_order=1))
        there = await terms.list_(operator)
        assert [term for term in there if term in before] == list(before)
        assert (there[0].id, there[-1].id) == ("teaching", "teaching")
        assert replace(there[-1], added_at=None, sort_order=None) == TEACHING
        recorded = await edge.services.facts.record(operator, NewInteraction(title="A lesson", report=Report()))
        tagging = Tagging(interaction_type="teaching")
        tagged = await edge.services.facts.tag(operator, str(recorded.session.id), tagging)
        assert tagged.facts.interaction_type == "teaching"
        assert await events(edge.services, AuditAction.TERM_ADDED) == ["teaching", "teaching"]


async def test_what_is_no_word_is_refused_and_nothing_is_added(seed: Seed) -> None:
    providers = [
        *((replace(ACME, id=id_), "must be of letters") for id_ in ("", "a b", "a\0", "-a", "ä", "a" * 101, "a/b")),
        *((replace(ACME, name=name), "name ") for name in (" ", "two\nlines", "\u202ename", "n" * 256, "\ud800")),
        (replace(ACME, description="d" * 4_001), "at most 4,000"),
        *((replace(ACME, base_url=url), "base_url ") for url in ("", "ftp://acme.example", "https://", "https://a b")),
        (replace(ACME, base_url="https://me:secret@acme.example"), "holds credentials"),
    ]
    terms = [
        (replace(TEACHING, id="Daily Q&A"), "must be of letters"),
        *((replace(TEACHING, color=color), "must be a colour") for color in ("red", "#10b98", "#10b98\uff11", "")),
        *((replace(TEACHING, sort_order=order), "whole number from 0") for order in (-1, 1_000_001)),
        (replace(TEACHING, category="two\nlines"), "must be one line"),
        (replace(TEACHING, icon="i" * 256), "at most 255"),
    ]
    async with seed.started("terms-") as server, open_edge(server.home, OpenAIPeer()) as edge:
        use, operator = edge.services.terms, edge.services.principal
        before = await use.providers(operator), await use.list_(operator)
        for provider, words in providers:
            with pytest.raises(InvalidRequestError, match=words):
                await use.add_provider(operator, provider)
        for term, words in terms:
            with pytest.raises(InvalidRequestError, match=words):
                await use.add(operator, term)
        assert (await use.providers(operator), await use.list_(operator)) == before
