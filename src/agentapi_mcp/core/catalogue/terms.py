"""Use cases of the words that usage is told by, which everybody reads and the operator adds to."""

import re
from dataclasses import replace

from agentapi_mcp.base.errors import ConflictError, InvalidRequestError
from agentapi_mcp.base.text import one_line
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditTarget
from agentapi_mcp.core.catalogue.ports import TermStore
from agentapi_mcp.core.catalogue.term_models import Provider, Term, TermKind
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.models import plain_provider

_LONGEST_DESCRIPTION = 4_000
_LONGEST_URL = 2_000
_LAST = 1_000_000
# Databases do not agree on the lower case of other letters.
_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)
_COLOR = re.compile(r"#[0-9a-f]{6}", re.ASCII | re.IGNORECASE)


class Terms:
    """Providers, features and kinds of interactions, for every organisation alike."""

    def __init__(self, store: TermStore, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit

    async def providers(self, principal: Principal) -> tuple[Provider, ...]:
        """List those that came with the program and those that were added; everybody may."""
        require(principal, Action.READ_CATALOGUE)
        return await self._store.providers(principal)

    async def list_(self, principal: Principal) -> tuple[Term, ...]:
        """List the terms of all kinds, as the providers."""
        require(principal, Action.READ_CATALOGUE)
        return await self._store.terms(principal)

    async def add_provider(self, operator: Principal, provider: Provider) -> bool:
        """Add a provider, and return whether it is new; for operators with database access only.

        Nothing that is there is changed: its id stands in ledgers. Add it again as it is, and nothing happens.

        Raises:
            InvalidRequestError: a value is none, or too long; nothing is added.
            ConflictError: there is another one with this id.
        """
        provider = replace(
            provider,
            id=_checked_id(provider.id),
            name=_line(provider.name, "name") or "",
            description=_description(provider.description),
            base_url=_base_url(provider.base_url),
        )
        there, is_new = await self._store.add_provider(operator, provider)
        _refuse_another(replace(there, added_at=None), provider, f"a provider {provider.id}")
        if is_new:
            await self._audit.record(operator, AuditAction.PROVIDER_ADDED, target=AuditTarget("provider", provider.id))
        return is_new

    async def add(self, operator: Principal, term: Term) -> bool:
        """Add a term; all else is as with a provider. Without a `sort_order` it comes last of its kind."""
        if term.color is not None and not _COLOR.fullmatch(term.color):
            raise InvalidRequestError("must be a colour such as #10b981.", argument="color")
        if term.sort_order is not None and not 0 <= term.sort_order <= _LAST:
            raise InvalidRequestError(f"must be a whole number from 0 to {_LAST:,}.", argument="sort_order")
        term = replace(
            term,
            id=_checked_id(term.id),
            name=_line(term.name, "name") or "",
            description=_description(term.description),
            category=_line(term.category, "category"),
            icon=_line(term.icon, "icon"),
            color=term.color and term.color.lower(),
        )
        there, is_new = await self._store.add_term(operator, term)
        order = there.sort_order if term.sort_order is None else term.sort_order
        what = f"{'a feature' if term.kind is TermKind.FEATURE else 'an interaction type'} {term.id}"
        _refuse_another(replace(there, added_at=None), replace(term, sort_order=order), what)
        if is_new:
            await self._audit.record(operator, AuditAction.TERM_ADDED, target=AuditTarget(str(term.kind), term.id))
        return is_new


def _checked_id(text: str) -> str:
    """Return an id as it is compared everywhere."""
    id_ = plain_provider(text)
    if not _ID.fullmatch(id_):
        raise InvalidRequestError(
            "must be of letters a to z, digits, and . _ - between them, at most 100, such as acme or daily_qa.",
            argument="id",
        )
    return id_


def _line(text: str | None, argument: str) -> str | None:
    if text is None:
        return None
    check_text(text, argument, MAX_NAME)
    line = text.strip()
    if one_line(line, MAX_NAME) != line:
        raise InvalidRequestError("must be one line, without characters that nobody sees.", argument=argument)
    return line


def _description(text: str | None) -> str | None:
    if text is not None:
        check_text(text, "description", _LONGEST_DESCRIPTION)
    return text


def _base_url(url: str | None) -> str | None:
    if url is None:
        return None
    check_text(url, "base_url", _LONGEST_URL)
    try:
        parts = parse_http_url(url)
    except ValueError as exc:
        raise InvalidRequestError(f"{exc}.", argument="base_url") from exc
    if "@" in parts.netloc:
        raise InvalidRequestError("holds credentials, which everybody could read: leave them out.", argument="base_url")
    return url


def _refuse_another(there: Provider | Term, wanted: Provider | Term, what: str) -> None:
    if there != wanted:
        raise ConflictError(
            f"There is already {what}, with other values, and it is not changed. Choose another id, or change its row "
            "in the database."
        )
