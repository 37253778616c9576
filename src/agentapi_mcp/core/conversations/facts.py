"""Rate, tag and archive conversations, and record those that happened elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import SessionId, TurnId, parse_id
from agentapi_mcp.base.text import listed, number_of, one_line
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.base.validation import MAX_NAME, check_text
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditTarget
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.ports import FactStore
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Rating, Report, Tagging, TurnRating
from agentapi_mcp.core.conversations.sessions import check_title
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.models import plain_provider

MOST_TAGS = 50
LONGEST_TAG = 50  # characters
LONGEST_NOTE = 4_000  # characters
_BEST = 5
_LONGEST_LINK = 2_000
_LONGEST_PROVIDER = 100
_MOST_TOKENS = 1_000_000_000_000
_MOST_USD = 1_000_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A conversation elsewhere as it is recorded; `is_new` is false where it had been recorded before."""

    session: Session
    is_new: bool


class Facts:
    """What a user says of their own conversations; those of other users are reported as not found."""

    def __init__(self, store: FactStore, clock: Clock, audit: AuditLog) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit

    async def rate_session(
        self, principal: Principal, session_id: str, rating: Rating, *, clear: bool = False
    ) -> Session:
        """Rate a session; a rating replaces the one before, and `clear` takes it back.

        Raises:
            PermissionDeniedError: the principal may not edit sessions.
            InvalidRequestError: the rating says nothing, or is none.
            NotFoundError: there is no such session.
            ConflictError: its first turn is still running.
        """
        require(principal, Action.EDIT_SESSIONS)
        parsed = SessionId(parse_id(session_id, "session_id"))
        _check_rating(rating, clear=clear)
        session = await self._store.rate_session(principal, parsed, rating, clear=clear)
        await self._audit.record(principal, AuditAction.RATED, target=AuditTarget("session", str(parsed)))
        return session

    async def rate_turn(self, principal: Principal, turn_id: str, rating: Rating, *, clear: bool = False) -> TurnRating:
        """Rate a turn that has ended; the rest is as for a session.

        Raises:
            PermissionDeniedError: the principal may not edit sessions.
            InvalidRequestError: the rating says nothing, or is none.
            NotFoundError: there is no such turn.
            ConflictError: it is still running.
            LimitExceededError: the user has rated as many turns as they may.
        """
        require(principal, Action.EDIT_SESSIONS)
        parsed = TurnId(parse_id(turn_id, "turn_id"))
        if rating.usefulness is not None:
            raise InvalidRequestError("is said of sessions, not of turns; leave it out.", argument="usefulness")
        _check_rating(rating, clear=clear)
        rated = await self._store.rate_turn(principal, parsed, rating, clear=clear)
        await self._audit.record(principal, AuditAction.RATED, target=AuditTarget("turn", str(parsed)))
        return rated

    async def tag(self, principal: Principal, session_id: str, tagging: Tagging) -> Session:
        """Add and remove tags of a session, and set its kind; what is there already, or is not, is no error.

        Raises:
            PermissionDeniedError: the principal may not edit sessions.
            InvalidRequestError: a tag or the kind is none, it would have too many tags, or nothing is to change.
            NotFoundError: there is no such session.
        """
        require(principal, Action.EDIT_SESSIONS)
        parsed = SessionId(parse_id(session_id, "session_id"))
        if not tagging.add and not tagging.remove and tagging.interaction_type is None:
            raise InvalidRequestError("Say what to change: tags to add or to remove, or the type.")
        tagging = Tagging(
            add=plain_tags(tagging.add, "add"),
            remove=plain_tags(tagging.remove, "remove"),
            interaction_type=await self._interaction_type(principal, tagging.interaction_type),
        )
        both = set(tagging.add) & set(tagging.remove)
        if both:
            raise InvalidRequestError(f"has {listed(sorted(both))}, which you also add.", argument="remove")
        session = await self._store.tag(principal, parsed, tagging, MOST_TAGS)
        await self._audit.record(principal, AuditAction.SESSION_TAGGED, target=AuditTarget("session", str(parsed)))
        return session

    async def archive(self, principal: Principal, session_id: str, *, undo: bool = False) -> Session:
        """Leave a session out of lists that do not ask for archived ones, or take that back.

        Raises:
            PermissionDeniedError: the principal may not edit sessions.
            NotFoundError: there is no such session.
        """
        require(principal, Action.EDIT_SESSIONS)
        parsed = SessionId(parse_id(session_id, "session_id"))
        session = await self._store.archive(principal, parsed, archived=not undo)
        await self._audit.record(principal, AuditAction.SESSION_ARCHIVED, target=AuditTarget("session", str(parsed)))
        return session

    async def record(self, principal: Principal, new: NewInteraction) -> Recorded:
        """Record a conversation that happened elsewhere, once: a further call with the same id finds it.

        What the user reports of its tokens and cost is counted apart from what was billed.

        Raises:
            PermissionDeniedError: the principal may not chat.
            InvalidRequestError: an argument is invalid.
            ConflictError: another conversation was recorded with this id.
            LimitExceededError: the user has recorded as many as they may, or their organisation has as many as it may.
        """
        require(principal, Action.CHAT)
        check_title(new.title)
        checked = replace(
            new,
            title=new.title.strip(),
            report=_checked_report(new.report),
            tags=plain_tags(new.tags, "tags"),
            interaction_type=await self._interaction_type(principal, new.interaction_type),
        )
        self._check_times(new.started_at, new.ended_at)
        session, is_new = await self._store.record(principal, checked)
        if is_new:
            target = AuditTarget("session", str(session.id))
            await self._audit.record(principal, AuditAction.INTERACTION_RECORDED, target=target)
        return Recorded(session, is_new)

    async def _interaction_type(self, principal: Principal, given: str | None) -> str | None:
        if given is None:
            return None
        types = await self._store.interaction_types(principal)
        plain = given.strip().lower()
        if plain not in types:
            raise InvalidRequestError(
                f"is none of {', '.join(types)}, but {one_line(given, LONGEST_TAG)!r}.", argument="type"
            )
        return plain

    def _check_times(self, started_at: datetime | None, ended_at: datetime | None) -> None:
        now = self._clock.now()
        for name, at in (("started_at", started_at), ("ended_at", ended_at)):
            if at is not None and at > now:
                raise InvalidRequestError("is in the future; record it once it has happened.", argument=name)
        if started_at is not None and ended_at is not None and ended_at < started_at:
            raise InvalidRequestError("is before started_at.", argument="ended_at")


def plain_tags(tags: Iterable[str], argument: str) -> tuple[str, ...]:
    """Return tags as they are kept and compared: in lower case, with single blanks, each once.

    Raises:
        InvalidRequestError: one is blank, too long or holds a comma or a character that cannot be seen, or there are
            too many.
    """
    plain = tuple(dict.fromkeys(" ".join(tag.split()).lower() for tag in tags))
    for tag in plain:
        if not tag:
            raise InvalidRequestError("has a blank tag; leave it out.", argument=argument)
        if len(tag) > LONGEST_TAG:
            raise InvalidRequestError(
                f"has a tag of {number_of(len(tag), 'character')}; at most {LONGEST_TAG} are allowed.",
                argument=argument,
            )
        if "," in tag or not tag.isprintable():
            raise InvalidRequestError(
                f"has the tag {one_line(tag, LONGEST_TAG)!r}: a tag holds no comma and nothing that cannot be seen.",
                argument=argument,
            )
    if len(plain) > MOST_TAGS:
        raise InvalidRequestError(
            f"has {number_of(len(plain), 'tag')}; a session has at most {MOST_TAGS}.", argument=argument
        )
    return plain


def _check_rating(rating: Rating, *, clear: bool) -> None:
    says = [rating.rating, rating.usefulness, rating.note]
    if clear and says != [None, None, None]:
        raise InvalidRequestError("takes the rating back; leave the others out.", argument="clear")
    if not clear and says == [None, None, None]:
        raise InvalidRequestError(f"Say a rating from 1 to {_BEST}, a note, or both.")
    for name, number in (("rating", rating.rating), ("usefulness", rating.usefulness)):
        if number is not None and not 1 <= number <= _BEST:
            raise InvalidRequestError(f"must be a whole number between 1 and {_BEST}.", argument=name)
    if rating.note is not None:
        _check_length(rating.note, "note", LONGEST_NOTE)


def _checked_report(report: Report) -> Report:
    texts = (
        ("external_id", report.external_id, MAX_NAME),
        ("agent", report.agent, MAX_NAME),
        ("model", report.model, MAX_NAME),
        ("provider", report.provider, _LONGEST_PROVIDER),
    )
    for name, text, most in texts:
        if text is not None:
            check_text(text, name, most)
    if report.content_preview is not None:
        _check_length(report.content_preview, "content", LONGEST_NOTE)
    if report.external_link is not None:
        _check_link(report.external_link)
    _check_amounts(report)
    return replace(
        report,
        external_id=report.external_id and report.external_id.strip(),
        agent=_plain(report.agent),
        model=_plain(report.model),
        provider=plain_provider(_plain(report.provider) or "") or None,
    )


def _plain(name: str | None) -> str | None:
    return None if name is None else one_line(name, MAX_NAME) or None


def _check_amounts(report: Report) -> None:
    for name, tokens in (("input_tokens", report.input_tokens), ("output_tokens", report.output_tokens)):
        if tokens is not None and not 0 <= tokens <= _MOST_TOKENS:
            raise InvalidRequestError(f"must be between 0 and {_MOST_TOKENS:,}.", argument=name)
    cost = report.cost_usd
    if cost is not None and (not cost.is_finite() or not 0 <= cost <= _MOST_USD):
        raise InvalidRequestError(f"must be US dollars between 0 and {_MOST_USD:,}.", argument="cost_usd")


def _check_link(link: str) -> None:
    check_text(link, "external_link", _LONGEST_LINK)
    try:
        parts = parse_http_url(link)
    except ValueError as exc:
        raise InvalidRequestError(f"{exc}.", argument="external_link") from exc
    if parts.username is not None or parts.password is not None:
        raise InvalidRequestError("holds a name or a password; remove it.", argument="external_link")


def _check_length(text: str, name: str, most: int) -> None:
    check_text(text, name, 4 * most)
    if len(text) > most:
        raise InvalidRequestError(
            f"has {number_of(len(text), 'character')}; at most {most:,} are allowed. Shorten it.", argument=name
        )
