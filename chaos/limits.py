"""Budgets of a world, as its operator sets them: tight ones, that refuse."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal

from chaos.clients import BareClient
from chaos.clocks import jumping, placed
from chaos.evidence import INPUT_NANOS, OUTPUT_NANOS, Sums, UsageTold
from chaos.people import Person
from chaos.postgres import APP
from chaos.running import Fault, Run, together
from chaos.timing import pause
from chaos.world import AGENT, World

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.budgets.models import NANOS, BudgetKind, BudgetPeriod, BudgetScope
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles

# What a turn costs in the mean (evidence.usage_of).
_TURN = round(134.5 * INPUT_NANOS + 12.5 * OUTPUT_NANOS)
_WIDE = 1000 * NANOS
SetBudget = Callable[[OrgId, BudgetKind, int], Awaitable[None]]


@asynccontextmanager
async def operator(world: World) -> AsyncGenerator[tuple[Principal, SetBudget]]:
    """Give whoever is the operator of a world, and how budgets are set to so many nano-dollars, also of its plan."""
    async with open_database(RemoteServer(world.postgres.url(APP)), PoolOptions()) as database:
        store = PostgresBudgets(database)
        if world.people:
            who = Principal(UserId(world.people[0].user), OrgId(world.people[0].organization), Role.OWNER)
        else:
            who = await PostgresProfiles(database).local_principal()

        async def set_(organization: OrgId, kind: BudgetKind, nanos: int) -> None:
            if kind.plan is not None:
                await store.set_plan(who, organization, kind.plan)
            await store.set_as_operator(who, None if kind.plan else organization, kind, Decimal(nanos) / NANOS)

        yield who, set_


def hot_budget(turns: int, gap: float, *faults: Fault) -> Fault:
    """Set a hard budget of nothing, and raise it by so many turns again and again, among other faults."""

    async def inject(run: Run) -> None:
        async with operator(run.world) as (who, set_):
            await set_(who.org_id, BudgetKind(scope=BudgetScope.AGENT, subject=AGENT, hard=False), turns * _TURN)
            await set_(who.org_id, BudgetKind(), 0)
            await pause(gap)

            async def raised(run: Run) -> None:
                nanos = 0
                while run.left > 1:
                    nanos += turns * _TURN
                    with suppress(AgentApiError):  # the database may be away
                        await set_(who.org_id, BudgetKind(), nanos)
                        run.count("hard budget raised")
                    await pause(gap)

            await together(raised, *faults)(run)

    return inject


async def limit_the_day(run: Run) -> None:
    """Set budgets of all kinds to the organisations of a day, which are used up within it; the last one has room."""
    assert run.load.habit.enough is not None
    share = run.load.habit.enough * _TURN // 15  # of an organisation between two midnights
    one, two, three, four, five = (
        OrgId(name) for name in dict.fromkeys(each.organization for each in run.world.people)
    )
    spender = next(each.user for each in reversed(run.world.people) if each.organization == three)
    day, month, total = BudgetPeriod.DAY, BudgetPeriod.MONTH, BudgetPeriod.TOTAL
    user = BudgetKind(scope=BudgetScope.USER, subject=str(spender), period=total)
    limits = [
        (one, BudgetKind(period=day), share // 2),
        (two, BudgetKind(scope=BudgetScope.MEMBER, period=month), share // 10),
        (three, user, share // 10),
        (three, BudgetKind(period=total, hard=False), share),
        (four, BudgetKind(scope=BudgetScope.AGENT, subject=AGENT, period=day), share // 2),
        (four, BudgetKind(scope=BudgetScope.MEMBER, period=day, hard=False), share // 20),
        (five, BudgetKind(period=month), _WIDE),
        (five, BudgetKind(scope=BudgetScope.MEMBER, period=day, hard=False, plan="small"), share // 20),
        *((each, BudgetKind(period=total), _WIDE) for each in (one, two, four, five)),
    ]
    async with operator(run.world) as (_, set_):
        for organization, kind, nanos in limits:
            await set_(organization, kind, nanos)
    run.count("budget set", len(limits))


async def ask_usage(run: Run) -> None:
    """Ask, once all is over, what each organisation and two of its members have used, by whatever it is asked for.

    The replica that answers has the clock of Postgres, as elsewhere: it says which days are over.
    """
    replica = run.world.replicas[0]
    await replica.stop()
    replica.env = {**replica.env, **placed(jumping(), run.world.place)}
    await replica.start()
    for number, person in enumerate(run.world.people[: 2 * run.world.shape.organizations]):
        whole = number < run.world.shape.organizations  # administrators
        for by in ("agent", "day", "member") if whole else ("agent", "day"):
            run.world.usage.append(await _usage(run, person, by, whole=whole))


async def _usage(run: Run, person: Person, by: str, *, whole: bool) -> UsageTold:
    arguments = {"by": by, "whose": "organization" if whole else "own", "since": "900d", "limit": 1000}
    address = f"{run.world.replicas[0].url}?toolsets=usage"
    client = BareClient(run.world.http, address, "2026-07-28", person.token)
    told = await client.call("get_usage", arguments, 60)
    return UsageTold(
        organization=str(person.organization),
        user=str(person.user),
        whole=whole,
        by=by,
        total=_sums(told["total"]),
        groups={str(group["key"]): _sums(group) for group in told["groups"]},
    )


def _sums(told: dict[str, int]) -> Sums:
    names = ("turns", "input_tokens", "output_tokens", "cost_nanos", "unpriced")
    return Sums(**{name: told[name] for name in names})
