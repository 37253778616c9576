"""Every use case refuses a principal without the right before it touches anything."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import Parameter, getmembers, isclass, isfunction, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import UUID

import pytest
from typing_extensions import override

import agentapi_mcp
from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.budgets.models import BudgetKind
from agentapi_mcp.core.identity.principals import NEEDS, VIA_PERSONAL, Action, Exceptions, Principal, Role, TokenScope
from agentapi_mcp.core.keys.key_requests import KeyRequests
from agentapi_mcp.core.usage.models import UsageGroup, UsageQuery
from tests.support.use_cases import types_of_services


@dataclass(frozen=True)
class Row:
    """What a use case needs, with the arguments on which that depends; others are never looked at."""

    use_case: str
    needs: tuple[Action, ...]
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])

    @override
    def __str__(self) -> str:
        """Name the row."""
        said = "".join(f"-{name}={value}" for name, value in self.arguments.items())
        return f"{self.use_case}{said}"


SOURCE = Path(agentapi_mcp.__file__).parent
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
OWN, SHARED = {"organization": False}, {"organization": True}
TABLE = [
    Row("Accounts.begin", (Action.MANAGE_KEYS,)),
    Row("Accounts.disconnect", (Action.MANAGE_KEYS,)),
    Row("Accounts.finish", (Action.MANAGE_KEYS,)),
    Row("Accounts.list_", (Action.MANAGE_KEYS,)),
    Row("Agents.default", (Action.READ_CATALOGUE,)),
    Row("Agents.get", (Action.READ_CATALOGUE,)),
    Row("Agents.list_", (Action.READ_CATALOGUE,)),
    Row("Agents.meant", (Action.READ_CATALOGUE,)),
    Row("Agents.models", (Action.READ_CATALOGUE,)),
    Row("Agents.names", (Action.READ_CATALOGUE,)),
    Row("ApiKeys.add", (Action.MANAGE_KEYS,), OWN),
    Row("ApiKeys.add", (Action.EDIT_ORGANIZATION,), SHARED),
    Row("ApiKeys.available", (Action.CHAT,)),
    Row("ApiKeys.list_", (Action.MANAGE_KEYS,), OWN),
    Row("ApiKeys.list_", (Action.EDIT_ORGANIZATION,), SHARED),
    Row("ApiKeys.remove", (Action.MANAGE_KEYS,), OWN),
    Row("ApiKeys.remove", (Action.EDIT_ORGANIZATION,), SHARED),
    Row("ApiKeys.set_active", (Action.MANAGE_KEYS,), {**OWN, "active": True}),
    Row("ApiKeys.set_active", (Action.EDIT_ORGANIZATION,), {**SHARED, "active": True}),
    Row("AuditLog.list_", (Action.READ_AUDIT,)),
    Row("Clients.change", (Action.EDIT_PREFERENCES,)),
    Row("Budgets.list_", (Action.READ_SESSIONS,)),
    Row("Budgets.remove", (Action.EDIT_ORGANIZATION,), {"budget_id": str(UUID(int=1))}),
    Row("Budgets.set", (Action.EDIT_ORGANIZATION,), {"kind": BudgetKind(), "limit_usd": Decimal(1)}),
    Row("Clients.find_client", (Action.READ_CATALOGUE,)),
    Row("Clients.get", (Action.READ_CATALOGUE,)),
    Row("Clients.list_", (Action.READ_CATALOGUE,)),
    Row("Facts.archive", (Action.EDIT_SESSIONS,)),
    Row("Facts.rate_session", (Action.EDIT_SESSIONS,)),
    Row("Facts.rate_turn", (Action.EDIT_SESSIONS,)),
    Row("Facts.record", (Action.CHAT,)),
    Row("Facts.tag", (Action.EDIT_SESSIONS,)),
    Row("Health.report", (Action.READ_CATALOGUE,)),
    Row("KeyRequests.admit", (Action.MANAGE_KEYS,)),
    Row("KeyRequests.consume", (Action.MANAGE_KEYS,)),
    Row("KeyRequests.save", (Action.MANAGE_KEYS,)),
    Row("KeyRequests.serve", (Action.MANAGE_KEYS,)),
    Row("Memberships.invite", (Action.MANAGE_MEMBERS,), {"role": Role.ADMIN}),
    Row("Memberships.invite", (Action.MANAGE_MEMBERS, Action.MANAGE_OWNERS), {"role": Role.OWNER}),
    Row("Memberships.list_", (Action.READ_ORGANIZATION,)),
    Row("Memberships.remove", (Action.MANAGE_MEMBERS,)),
    Row("Memberships.set_role", (Action.MANAGE_MEMBERS,), {"role": Role.ADMIN}),
    Row("Memberships.set_role", (Action.MANAGE_MEMBERS, Action.MANAGE_OWNERS), {"role": Role.OWNER}),
    Row("Memberships.withdraw", (Action.MANAGE_MEMBERS,)),
    Row("Organizations.change", (Action.EDIT_ORGANIZATION,)),
    Row("Organizations.get", (Action.READ_ORGANIZATION,)),
    Row("PersonalTokens.create", (Action.CREATE_TOKENS,)),
    Row("PersonalTokens.list_", (Action.MANAGE_TOKENS,)),
    Row("PersonalTokens.revoke", (Action.MANAGE_TOKENS,)),
    Row("Sessions.delete", (Action.EDIT_SESSIONS,)),
    Row("Sessions.get", (Action.READ_SESSIONS,)),
    Row("Sessions.list_", (Action.READ_SESSIONS,)),
    Row("Sessions.rename", (Action.EDIT_SESSIONS,)),
    Row("Sessions.sizes", (Action.READ_SESSIONS,)),
    Row("Sessions.transcript", (Action.READ_SESSIONS,)),
    Row("Tasks.cancel", (Action.CHAT,)),
    Row("Tasks.create", (Action.CHAT,)),
    Row("Tasks.get", (Action.READ_SESSIONS,)),
    Row("Tasks.get_to_answer", (Action.CHAT,)),
    Row("Tasks.list_", (Action.READ_SESSIONS,)),
    Row("Terms.list_", (Action.READ_CATALOGUE,)),
    Row("Terms.providers", (Action.READ_CATALOGUE,)),
    Row("TransportSessions.watch", (Action.READ_SESSIONS,), {"most": 1}),
    Row("Turns.cancel", (Action.CHAT,)),
    Row("Turns.chat", (Action.CHAT,), {"wait": timedelta(0)}),
    Row("Turns.estimate", (Action.CHAT,)),
    Row("Turns.follow", (Action.READ_SESSIONS,)),
    Row("Turns.get", (Action.READ_SESSIONS,)),
    Row("Turns.ids_like", (Action.READ_SESSIONS,), {"part": "3b9f"}),
    Row("Turns.recent", (Action.READ_SESSIONS,)),
    Row("Turns.start", (Action.CHAT,)),
    Row("Usage.report", (Action.READ_SESSIONS,), {"query": UsageQuery(since=BEGINNING)}),
    Row("Usage.report", (Action.READ_ORGANIZATION,), {"query": UsageQuery(since=BEGINNING, whole=True)}),
    Row("Usage.report", (Action.READ_ORGANIZATION,), {"query": UsageQuery(since=BEGINNING, by=UsageGroup.MEMBER)}),
    Row("Wallet.means", (Action.CHAT,)),
]
THE_OPERATORS = "for the operator at the server's command line, whom no role limits"
OPEN_TO_ALL = {
    "AccountPageVisits.invite": "returns no address instead, as with keys",
    "Accounts.available": "looks at nothing where no account can be connected; else test_accounts.py shows the refusal",
    "Accounts.token": "belongs to a turn for which the accounts have been loaded",
    "ApiKeys.mark_used": "belongs to a turn that was let through, which the key has paid",
    "ApiKeys.rotate": THE_OPERATORS,
    "AuditLog.denied": "records a refusal",
    "AuditLog.event": "makes an event of what a use case does that has checked the right",
    "AuditLog.record": "records what a use case did that has checked the right",
    "AuditLog.signed_in": "records a sign-in, which needs no right",
    "Budgets.list_as_operator": THE_OPERATORS,
    "Budgets.remove_as_operator": THE_OPERATORS,
    "Budgets.seen": "returns nothing instead, as test_edge_rights.py shows with set_budget",
    "Budgets.set_as_operator": THE_OPERATORS,
    "Budgets.plan_of": THE_OPERATORS,
    "Budgets.set_plan": THE_OPERATORS,
    "ChangeFeed.subscribe": "tells only what the principal may read, as test_change_feed.py shows",
    "Clients.preferences": "reads the caller's own preferences to serve any other request",
    "Clients.record": "keeps that a client connected, which needs no right",
    "Elicitations.answer": "belongs to a call that has been let through",
    "Elicitations.create": "belongs to a call that has been let through",
    "Elicitations.find_answer": "belongs to a call that has been let through",
    "Elicitations.withdraw": "belongs to a call that has been let through",
    "Health.measure": "belongs to a list or report that was let through; its usage is what the caller may see",
    "KeyRequests.create": "returns no address instead, as the next test shows",
    "KeyRequests.restore": "gives a link back whose use was allowed, and failed",
    "KeyPageVisits.invite": "returns no address instead, as KeyRequests.create does",
    "Memberships.create_organization": THE_OPERATORS,
    "Memberships.own": "names the organisations of the caller alone, as test_members.py shows",
    "Organizations.limit": THE_OPERATORS,
    "Tasks.conclude": "ends the caller's own call, for which the task has been read",
    "Terms.add": THE_OPERATORS,
    "Terms.add_provider": THE_OPERATORS,
    "TransportSessions.close": "ends the caller's own session, which needs no right",
    "TransportSessions.find": "a client connects before it is known what it will ask for",
    "TransportSessions.on_change": "tells that the caller's own session changed, and nothing of it",
    "Wallet.mark_used": "belongs to a turn that was let through, which the key has paid",
    "Wallet.token": "belongs to a turn for which the accounts have been loaded",
    "TransportSessions.open_": "a client connects before it is known what it will ask for",
    "TransportSessions.notify_cancelled": "takes the caller's own request back, which needs no right",
    "Usage.of_agents": "returns less instead, and nothing without a right, as test_usage.py of the stores shows",
    "UndeclaredAgents.remove": THE_OPERATORS,
    "TransportSessions.unwatch": "ends the caller's own subscription, which needs no right",
}


class TouchedError(Exception):
    """A use case called one of its parts."""


class Part:
    """A store, or any other part or argument of a use case: it has every attribute, and a call is counted and fails."""

    def __init__(self, calls: list[str], name: str) -> None:
        self._calls = calls
        self._name = name

    def __getattr__(self, name: str) -> "Part":
        """Return a part of it."""
        return Part(self._calls, f"{self._name}.{name}")

    def __call__(self, *_args: object, **_kwargs: object) -> object:
        """Count and refuse."""
        self._calls.append(self._name)
        raise TouchedError(self._name)


def use_case_classes() -> dict[str, type[Any]]:
    """Return the classes among the fields of `Services` that are no ports, and those behind the visits of a page."""
    fields = (*types_of_services().values(), KeyRequests)
    return {each.__name__: each for each in fields if isclass(each) and not getattr(each, "_is_protocol", False)}


def principal_parameter(function: object) -> str | None:
    """Name the parameter that is a principal, if there is one."""
    hints = get_type_hints(function)
    hints.pop("return", None)
    return next((name for name, hint in hints.items() if hint is Principal or Principal in get_args(hint)), None)


def use_cases() -> Iterator[str]:
    """Name all public methods that take a principal."""
    for name, class_ in use_case_classes().items():
        for method, function in getmembers(class_, isfunction):
            if not method.startswith("_") and principal_parameter(function) is not None:
                yield f"{name}.{method}"


def required(function: object, calls: list[str]) -> dict[str, Any]:
    """Return a part for each parameter that must be given."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    parameters = signature(function).parameters.values()  # pyright: ignore[reportArgumentType]  # it is callable
    needed = [each for each in parameters if each.kind in kinds and each.default is Parameter.empty]
    return {each.name: Part(calls, each.name) for each in needed if each.name != "self"}


async def outcome_of(row: Row, principal: Principal) -> tuple[Exception | None, list[str]]:
    """Return what a use case raises for a principal, and the calls that it made before."""
    calls: list[str] = []
    class_name, _, method = row.use_case.partition(".")
    class_ = use_case_classes()[class_name]
    function = getattr(class_, method)
    arguments = required(function, calls) | dict(row.arguments) | {str(principal_parameter(function)): principal}
    try:
        outcome: Any = function(class_(**required(class_.__init__, calls)), **arguments)
        await (anext(outcome) if hasattr(outcome, "__anext__") else outcome)
    except Exception as exc:  # noqa: BLE001  # whatever it is, it is what the test asks for
        return exc, calls
    return None, calls


def principal_with(role: Role, scopes: frozenset[TokenScope] | None, denied: frozenset[Action]) -> Principal:
    return Principal(UserId(new_id()), OrgId(new_id()), role, scopes, Exceptions(denied=denied))


def without(action: Action) -> Iterator[tuple[str, Principal]]:
    """Yield principals who lack nothing but the right to an action: by role, by scope, by an exception."""
    need, roles = NEEDS[action], list(Role)
    for role in roles[: roles.index(need.role)]:
        yield f"role={role}", principal_with(role, None, frozenset())
    yield f"no-scope={need.scope}", principal_with(Role.OWNER, frozenset(TokenScope) - {need.scope}, frozenset())
    yield "denied", principal_with(Role.OWNER, None, frozenset({action}))


REFUSED = [
    pytest.param(row, principal, id=f"{row}-{action}-{lack}")
    for row in TABLE
    for action in row.needs
    for lack, principal in without(action)
]


def test_every_use_case_that_takes_a_principal_has_a_row() -> None:
    rows = {row.use_case for row in TABLE}
    assert sorted(use_cases()) == sorted(rows | set(OPEN_TO_ALL)), (
        "add a row to TABLE for a new use case, or say in OPEN_TO_ALL why it needs no right"
    )
    assert rows & set(OPEN_TO_ALL) == set()


@pytest.mark.parametrize("use_case", [name for name, why in OPEN_TO_ALL.items() if why == THE_OPERATORS])
def test_what_no_role_limits_is_called_by_commands_alone(use_case: str) -> None:
    class_name, _, method = use_case.partition(".")
    (part,) = (name for name, hint in types_of_services().items() if hint is use_case_classes()[class_name])
    callers = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if f"{part}.{method}(" in path.read_text(encoding="utf-8")
    }
    assert callers
    assert callers <= {"cli", "app"}


@pytest.mark.parametrize(("row", "principal"), REFUSED)
async def test_who_lacks_the_right_is_refused_before_anything_is_touched(row: Row, principal: Principal) -> None:
    raised, calls = await outcome_of(row, principal)
    assert isinstance(raised, PermissionDeniedError)
    assert raised.action in row.needs
    assert calls == []


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_who_has_the_right_and_no_more_is_not_refused(row: Row) -> None:
    roles, needs = list(Role), [NEEDS[action] for action in row.needs]
    role = max((need.role for need in needs), key=roles.index)
    principal = principal_with(role, frozenset(need.scope for need in needs), frozenset())
    raised, _ = await outcome_of(row, principal)
    assert raised is not None  # it goes on to its parts, which fail
    assert not isinstance(raised, PermissionDeniedError)


@pytest.mark.parametrize(
    "principal",
    [pytest.param(each, id=lack) for lack, each in without(Action.MANAGE_KEYS) if not lack.startswith("no-scope")],
)
async def test_who_may_keep_no_keys_is_not_asked_for_one(principal: Principal) -> None:
    calls: list[str] = []
    entries = use_case_classes()["KeyRequests"](**required(use_case_classes()["KeyRequests"].__init__, calls))

    def can_log_in(_issuer: str) -> bool:
        return True

    assert await entries.create(principal, "openai", can_log_in) is None
    assert calls == []


@pytest.mark.parametrize(
    ("scopes", "via", "scope"),
    [
        pytest.param(frozenset({TokenScope.KEYS}), "local", "chat", id="a-scope-that-its-own-token-lacks"),
        pytest.param(None, f"{VIA_PERSONAL}{new_id()}", None, id="signed-in-by-a-personal-token"),
    ],
)
async def test_no_token_makes_one_that_may_do_more_or_lasts_longer(
    scopes: frozenset[TokenScope] | None, via: str, scope: str | None
) -> None:
    principal = replace(principal_with(Role.OWNER, scopes, frozenset()), via=via)
    row = Row("PersonalTokens.create", (), {"name": "laptop", "scopes": ["chat", "keys"]})
    raised, calls = await outcome_of(row, principal)
    assert isinstance(raised, PermissionDeniedError)
    assert raised.scope == scope
    assert calls == []
