"""Which agent answers: rows are data, the operator's file is trust."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    BackendFault,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.core.catalogue.agents import LARGEST_PAGE, Agents
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentPreferences,
    AgentRow,
    CatalogueFile,
    OrganizationSettings,
    Preferences,
)
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.usage.models import UsageSums
from tests.support.catalogues import (
    ALICE,
    BOB,
    CheckedBackend,
    MemoryCatalogue,
    MemoryHealth,
    agent_row,
    declared,
    model_row,
)
from tests.support.clocks import ManualClock

SECRET = "sk-or-v1-do-not-tell"  # noqa: S105  # the test looks for it everywhere
NO_KEY = "OPENROUTER_API_KEY is not set"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
GUIDE_FIRST = OrganizationSettings(default_agent="guide")


@dataclass
class Scene:
    """Agents over rows and declarations, with everything that a test may want to look at."""

    rows: tuple[AgentRow, ...]
    declarations: tuple[AgentDeclaration, ...]
    build: Callable[[AgentDeclaration], Backend] | None = None
    clock: ManualClock = field(default_factory=ManualClock)
    built: dict[str, CheckedBackend] = field(default_factory=dict[str, CheckedBackend])

    def __post_init__(self) -> None:
        self.store = MemoryCatalogue(self.rows)
        self.health_store = MemoryHealth(self.clock)
        self.catalogue = Catalogue(
            store=self.store,
            file=CatalogueFile(self.declarations, "sha"),
            build=self.build or self._build,
            clock=self.clock,
        )
        self.health = Health(policy=CataloguePolicy(self.catalogue), store=self.health_store, clock=self.clock)
        self.agents = Agents(self.catalogue, self.health)

    def _build(self, declaration: AgentDeclaration) -> Backend:
        assert declaration.name not in self.built
        self.built[declaration.name] = CheckedBackend()
        return self.built[declaration.name]


def usual(*, key: bool = True) -> Scene:
    """Set up the agents out of the box, with or without a key for droid."""
    missing = () if key else (NO_KEY,)
    return Scene(
        rows=(
            agent_row("guide"),
            agent_row("droid", model_row("gpt-4o", context_window=128_000), model_row("old", enabled=False)),
            agent_row("ccrouter", model_row("gemini-1.5-pro")),
        ),
        declarations=(
            replace(declared("ccrouter", "gemini-1.5-pro", backend="ccrouter"), missing=("it is not there yet",)),
            replace(declared("droid", "gpt-4o", "old"), missing=missing, default_model="gpt-4o"),
            declared("guide", backend="guide"),
        ),
    )


async def test_an_agent_and_its_model_are_chosen_by_name() -> None:
    scene = usual()
    choice = await scene.agents.resolve(agent="droid", model="gpt-4o")
    row = next(row for row in scene.rows if row.name == "droid")
    assert (choice.agent, choice.agent_id, choice.declaration.backend) == ("droid", row.id, "openai")
    assert choice.model is not None
    assert (choice.model.model_id, choice.model_row_id, choice.context_window) == (
        "vendor/gpt-4o",
        choice.model.id,
        128_000,
    )
    assert (await choice.backend.check()) == scene.built["droid"].outcome
    assert (await scene.agents.resolve(agent="droid", model="vendor/gpt-4o")).model == choice.model


async def test_a_model_that_an_agent_does_not_need_is_none() -> None:
    choice = await usual().agents.resolve(agent="guide")
    assert (choice.model, choice.model_row_id, choice.context_window, choice.prices_at(NOW)) == (
        None,
        None,
        None,
        Prices(),
    )


async def test_prices_and_instructions_come_from_the_rows() -> None:
    priced = replace(model_row("m"), prices=Prices(input=Decimal(1)))
    scene = Scene((replace(agent_row("a", priced), instructions="Be brief."),), (declared("a", "m"),))
    choice = await scene.agents.resolve()
    assert (choice.instructions, choice.prices_at(NOW)) == ("Be brief.", Prices(input=Decimal(1)))


@pytest.mark.parametrize("day", ["2026-12-31T23:59:59", "2027-01-01T00:00:00"])
async def test_what_the_lists_show_is_the_price_of_now_and_what_the_bill_takes(day: str) -> None:
    model = replace(
        model_row("small"), provider="vertex-ai", model_id="gemini-3.8-flash"
    )  # its price doubles that night
    scene = Scene((agent_row("a", model),), (declared("a", "small"),))
    scene.clock.at = datetime.fromisoformat(f"{day}+00:00")
    choice = await scene.agents.resolve(model="small")
    prices = choice.prices_at(scene.clock.now())
    (listed,) = (await scene.agents.models(ALICE)).items
    (seen,) = (await scene.agents.get(ALICE, "a")).models
    assert prices.input
    assert (listed.prices, seen.prices) == (prices, prices)
    assert listed.context_window == choice.context_window == 1_000_000
    before = choice.prices_at(datetime(2026, 12, 31, tzinfo=UTC))
    assert (before == prices) is (scene.clock.now().year == 2026)


async def test_who_names_no_agent_gets_the_first_that_works_in_the_files_order() -> None:
    assert (await usual().agents.resolve()).agent == "droid"
    assert (await usual(key=False).agents.resolve()).agent == "guide"


async def test_guide_comes_last_wherever_the_file_names_it() -> None:
    scene = Scene(
        (agent_row("guide"), agent_row("z"), agent_row("y")),
        (declared("guide", backend="guide"), declared("z"), declared("y")),
    )
    assert (await scene.agents.resolve()).agent == "z"


async def test_a_given_default_goes_before_the_files_order() -> None:
    scene = usual()
    assert (await scene.agents.resolve(settings=GUIDE_FIRST)).agent == "guide"
    assert (await scene.agents.resolve(agent="droid", settings=GUIDE_FIRST)).agent == "droid"


async def test_a_default_agent_that_no_file_declares_is_passed_over() -> None:
    scene = Scene((agent_row("a"), agent_row("gone")), (declared("a"),))
    for default in ("gone", "never"):
        assert (await scene.agents.resolve(settings=OrganizationSettings(default_agent=default))).agent == "a"
        assert (await scene.agents.resolve(preferences=Preferences(default_agent=default))).agent == "a"
    with pytest.raises(NotFoundError, match=r"allowed_agents has gone\. .*set allowed_agents NAME"):
        await scene.agents.resolve(settings=OrganizationSettings(allowed_agents=("gone",)))


async def test_who_names_only_a_model_gets_an_agent_that_has_it() -> None:
    scene = usual()
    assert (await scene.agents.resolve(model="gpt-4o", settings=GUIDE_FIRST)).agent == "droid"
    with pytest.raises(BackendError):
        await scene.agents.resolve(model="gemini-1.5-pro")
    with pytest.raises(NotFoundError):
        await scene.agents.resolve(model="nonesuch")


async def test_a_default_model_is_taken_where_it_is_the_agents() -> None:
    rows = (agent_row("a", model_row("one"), model_row("two")), agent_row("b", model_row("three")))
    scene = Scene(rows, (declared("a", "two", "one"), declared("b", "three")))

    async def model(agent: str, default_model: str | None = None) -> str | None:
        choice = await scene.agents.resolve(agent=agent, session_model=default_model)
        return choice.model.name if choice.model else None

    assert await model("a") == "two"
    assert await model("a", "one") == "one"
    assert await model("a", "three") == "two"


async def test_a_clients_preferences_go_before_the_organisations_settings() -> None:
    rows = (agent_row("a", model_row("one"), model_row("two")), agent_row("b", model_row("three")))
    scene = Scene(rows, (declared("a", "two", "one"), declared("b", "three")))

    async def chosen(preferences: Preferences, **given: str) -> tuple[str, str | None]:
        settings = OrganizationSettings(default_agent="a", default_model="one")
        choice = await scene.agents.resolve(settings=settings, preferences=preferences, **given)  # type: ignore[arg-type]  # names of agents and models
        return choice.agent, choice.model.name if choice.model else None

    b_first, two = Preferences(default_agent="b"), Preferences(default_model="two")
    own = Preferences(default_model="one", agents={"a": AgentPreferences(model="two")})
    assert await chosen(Preferences()) == ("a", "one")
    assert await chosen(b_first) == ("b", "three")
    assert await chosen(b_first, agent="a") == ("a", "one")
    assert await chosen(b_first, model="two") == ("a", "two")
    assert await chosen(two) == ("a", "two")
    assert await chosen(own) == ("a", "two")
    assert await chosen(own, session_model="one") == ("a", "one")
    assert await chosen(own, agent="b") == ("b", "three")
    assert await chosen(Preferences(default_agent="gone", default_model="gone")) == ("a", "one")


async def test_an_agent_that_is_switched_off_in_a_client_does_not_answer_there() -> None:
    off = AgentPreferences(enabled=False)
    scene = usual()
    chosen = await scene.agents.resolve(preferences=Preferences(default_agent="droid", agents={"droid": off}))
    assert chosen.agent == "guide"
    with pytest.raises(InvalidRequestError, match=r"droid\.enabled"):
        await scene.agents.resolve(agent="droid", preferences=Preferences(agents={"droid": off}))
    with pytest.raises(BackendError) as lacking:
        await scene.agents.resolve(agent="ccrouter", preferences=Preferences(agents={"guide": off}))
    assert lacking.value.next_step.endswith("use one of the agents that are set up: droid.")
    with pytest.raises(NotFoundError, match="there are: ccrouter, guide"):
        await scene.agents.resolve(agent="gone", preferences=Preferences(agents={"droid": off}))
    with pytest.raises(InvalidRequestError, match="every agent"):
        await scene.agents.resolve(preferences=Preferences(agents=dict.fromkeys(("ccrouter", "droid", "guide"), off)))


@pytest.mark.parametrize(
    ("agent", "model", "kind", "words"),
    [
        ("nonesuch", None, NotFoundError, ["ccrouter, droid, guide"]),
        ("droid", "gpt-4", NotFoundError, ["did you mean gpt-4o"]),
        ("droid", "zzz", NotFoundError, ["it has: gpt-4o."]),
        ("droid", "gemini-1.5-pro", InvalidRequestError, ["belongs to the agent ccrouter"]),
        ("droid", "old", InvalidRequestError, ["disabled", "gpt-4o"]),
        ("guide", "zzz", NotFoundError, ["it has: none."]),
        ("", "", NotFoundError, ["there are: ccrouter"]),
        ("x" * 10_000, None, NotFoundError, ["xxx…'"]),
        ("\ud800", None, NotFoundError, [r"'\ud800'"]),
        ("droid", "\x00" * 9_000, NotFoundError, ["it has: gpt-4o."]),
    ],
)
async def test_what_cannot_be_chosen_says_what_can(
    agent: str, model: str | None, kind: type[AgentApiError], words: list[str]
) -> None:
    with pytest.raises(kind) as refused:
        await usual().agents.resolve(agent=agent, model=model)
    assert all(word in str(refused.value) for word in words)
    assert len(str(refused.value)) < 400


async def test_a_disabled_agent_is_refused_with_what_works() -> None:
    scene = Scene((replace(agent_row("a"), enabled=False), agent_row("b")), (declared("a"), declared("b")))
    with pytest.raises(InvalidRequestError, match=r"a is disabled.*can be used now: b\."):
        await scene.agents.resolve(agent="a")
    assert (await scene.agents.resolve()).agent == "b"


async def test_an_agent_that_lacks_something_says_what() -> None:
    with pytest.raises(BackendError) as refused:
        await usual(key=False).agents.resolve(agent="droid")
    assert refused.value.fault is BackendFault.BACKEND_MISSING
    assert str(refused.value) == "The agent droid is not set up: OPENROUTER_API_KEY is not set."
    assert refused.value.next_step == (
        "Set that up and start the program again, or use one of the agents that are set up: guide."
    )


@pytest.mark.parametrize(
    ("missing", "fault", "backend", "reason"),
    [
        ((), None, "droid", None),
        (("COMMAND is not set",), None, "openai", None),
        ((), "the program is not installed", "openai", "droid cannot be used: the program is not installed"),
    ],
)
async def test_an_agent_is_reached_as_preferred_or_otherwise_and_says_which(
    missing: tuple[str, ...], fault: str | None, backend: str, reason: str | None
) -> None:
    def build(declaration: AgentDeclaration) -> Backend:
        if fault is not None and declaration.backend == "droid":
            raise ConfigurationError(fault)
        return CheckedBackend()

    preferred = replace(declared("a", "m", backend="droid"), missing=missing, otherwise=declared("a", "m"))
    scene = Scene((agent_row("a", model_row("m")),), (preferred,), build)
    view = await scene.agents.get(ALICE, "a")
    assert (view.backend, view.backend_reason, view.missing) == (backend, reason, ())
    choice = await scene.agents.resolve(agent="a")
    assert (choice.declaration.backend, (await scene.agents.resolve(agent="a")).backend) == (backend, choice.backend)


async def test_what_both_ways_lack_is_told_of_the_second() -> None:
    second = replace(declared("a"), missing=(NO_KEY,))
    first = replace(declared("a", backend="droid"), missing=("COMMAND is not set", NO_KEY), otherwise=second)
    view = await Scene((agent_row("a"),), (first,)).agents.get(ALICE, "a")
    assert (view.backend, view.missing, view.backend_reason) == ("openai", (NO_KEY,), None)


async def test_an_empty_catalogue_says_what_to_do() -> None:
    with pytest.raises(NotFoundError, match=r"agentapi\.toml"):
        await Scene((), ()).agents.resolve()


async def test_a_default_model_that_is_gone_or_off_is_not_replaced_in_silence() -> None:
    row = agent_row("a", model_row("on"), model_row("off", enabled=False))
    for default, kind in (("gone", NotFoundError), ("off", InvalidRequestError)):
        scene = Scene((replace(row, default_model=default),), (declared("a"),))
        with pytest.raises(kind, match=r"one of: on\."):
            await scene.agents.resolve()


async def test_a_row_that_no_file_declares_is_in_front_of_nobody_and_never_used() -> None:
    scene = Scene((agent_row("theirs", model_row("m")), agent_row("a")), (declared("a"),))
    assert [view.name for view in (await scene.agents.list_(ALICE)).items] == ["a"]
    assert await scene.agents.names(ALICE) == ["a"]
    assert (await scene.agents.models(ALICE)).items == ()
    assert [view.name for view in (await scene.health.report(ALICE)).agents] == ["a"]
    assert list(scene.built) == ["a"]


@pytest.mark.parametrize("removed", [False, True])
async def test_who_asks_for_an_agent_that_no_file_declares_is_told_which_it_was(*, removed: bool) -> None:
    scene = Scene((replace(agent_row("theirs", model_row("m")), removed=removed), agent_row("a")), (declared("a"),))
    what = "was removed" if removed else "is not declared in the configuration file"
    said = rf"The agent theirs {what}, .* its sessions and bills stay\. Name another one \(a\), .*AGENTAPI_CONFIG names"
    for asking in (
        scene.agents.resolve(agent="theirs"),
        scene.agents.get(ALICE, "theirs"),
        scene.agents.models(ALICE, agent="theirs"),
        scene.health.report(ALICE, "theirs"),
    ):
        with pytest.raises(NotFoundError, match=said):
            await asking
    # One that the organisation does not allow is not told of.
    with pytest.raises(NotFoundError, match="There is no agent 'theirs'"):
        await scene.agents.resolve(agent="theirs", settings=OrganizationSettings(allowed_agents=("a",)))


async def test_rows_that_another_file_wrote_are_read_as_this_file_declares_them() -> None:
    own, theirs, foreign = model_row("m", enabled=False), replace(model_row("x"), declared=True), model_row("f")
    row = replace(agent_row("a", own, theirs, foreign), description="Theirs.", enabled=False, default_model="x")
    ours = replace(declared("a", "m", "unwritten"), description="Ours.", instructions="Be brief.", default_model="m")
    scene = Scene((row,), (ours,))
    view = await scene.agents.get(ALICE, "a")  # as it stands: this file was the last to be written
    assert (view.description, view.enabled, [model.name for model in view.models]) == (
        "Theirs.",
        False,
        ["f", "m", "x"],
    )
    scene.store.sha256 = "another"
    scene.catalogue.expire()
    view = await scene.agents.get(ALICE, "a")
    assert (view.description, view.enabled, view.default_model) == ("Ours.", True, "m")
    assert [(model.name, model.enabled) for model in view.models] == [("f", True), ("m", True)]
    choice = await scene.agents.resolve(agent="a")
    assert (choice.agent_id, choice.model_row_id, choice.instructions) == (row.id, own.id, "Be brief.")


async def test_a_row_may_stand_for_a_declared_agent_but_not_for_itself() -> None:
    rows = (
        replace(agent_row("team", model_row("m")), means="a"),
        replace(agent_row("b"), means="a"),
        replace(agent_row("lost"), means="nonesuch"),
    )
    scene = Scene(rows, (declared("a"), declared("b", backend="guide")))
    team = await scene.agents.resolve(agent="team", model="m")
    assert (team.agent, team.declaration.name, team.agent_id) == ("team", "a", rows[0].id)
    assert (await scene.agents.resolve(agent="b")).declaration.name == "b"
    assert await scene.agents.names(ALICE) == ["b", "team"]


async def test_backends_are_made_when_wanted_once_and_closed_at_the_end() -> None:
    scene = usual()
    assert scene.built == {}
    first = await scene.agents.resolve(agent="droid")
    assert (await scene.agents.resolve(agent="droid")).backend is first.backend
    await scene.catalogue.aclose()
    assert [backend.closed for backend in scene.built.values()] == [True, True]


async def test_options_that_do_not_fit_are_what_the_agent_lacks_without_their_values() -> None:
    calls: list[str] = []

    def refuse(declaration: AgentDeclaration) -> Backend:
        calls.append(declaration.name)
        raise ConfigurationError(f"The option api_key of {declaration.name} cannot be {SECRET} or '{SECRET[:8]}'.")

    bad = replace(declared("a"), options={"api_key": SECRET, "more": {"list": [SECRET[:8], 3]}})
    scene = Scene((agent_row("a"),), (bad,), build=refuse)
    view = await scene.agents.get(ALICE, "a")
    assert view.missing == ("The option api_key of a cannot be … or '…'",)
    assert view.health.status is HealthStatus.NOT_CONFIGURED
    with pytest.raises(BackendError, match="api_key"):
        await scene.agents.resolve(agent="a")
    assert calls == ["a"]


async def test_rows_are_looked_up_again_after_half_a_minute_or_on_demand() -> None:
    scene = usual()
    await scene.agents.resolve()
    scene.clock.advance(timedelta(seconds=29))
    await scene.agents.resolve()
    assert scene.store.loads == 1
    scene.clock.advance(timedelta(seconds=1))
    scene.store.rows = (agent_row("guide"),)
    assert (await scene.agents.resolve()).agent == "guide"
    scene.store.rows = usual().rows
    await scene.agents.refresh()
    assert (await scene.agents.resolve()).agent == "droid"
    assert scene.store.loads == 3


async def test_publishing_writes_the_file_and_looks_again() -> None:
    scene = usual()
    assert await scene.catalogue.publish()
    assert [file.sha256 for file in scene.store.written] == ["sha"]
    assert scene.store.loads == 1


async def test_agents_are_listed_by_name_with_what_they_lack_and_how_they_are() -> None:
    scene = usual(key=False)
    page = await scene.agents.list_(ALICE)
    assert page.next_cursor is None
    assert [(view.name, view.missing, view.health.status) for view in page.items] == [
        ("ccrouter", ("it is not there yet",), HealthStatus.NOT_CONFIGURED),
        ("droid", (NO_KEY,), HealthStatus.NOT_CONFIGURED),
        ("guide", (), HealthStatus.HEALTHY),
    ]
    droid, guide = page.items[1:]
    assert (droid.backend, droid.default_model) == ("openai", "gpt-4o")
    assert [(model.name, model.is_default, model.enabled) for model in droid.models] == [
        ("gpt-4o", True, True),
        ("old", False, False),
    ]
    assert guide.usage == UsageSums()
    assert SECRET not in repr(page)


async def test_an_agent_that_lacks_something_is_not_called_healthy_for_its_past() -> None:
    scene = usual(key=False)
    droid = next(row for row in scene.rows if row.name == "droid")
    await scene.health_store.record(droid.id, HealthCheck(status=HealthStatus.HEALTHY))
    view = await scene.agents.get(ALICE, "droid")
    assert view.health.status is HealthStatus.NOT_CONFIGURED
    assert view.health.checked_at is not None


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("DROID", ["droid"]),
        (" gpt-4O ", ["droid"]),
        ("vendor/gemini", ["ccrouter"]),
        ("the agent", ["ccrouter", "droid", "guide"]),
        ("", ["ccrouter", "droid", "guide"]),
        ("nonesuch", []),
    ],
)
async def test_agents_are_found_by_name_description_or_model(query: str, names: list[str]) -> None:
    page = await usual().agents.list_(ALICE, query=query)
    assert [view.name for view in page.items] == names


async def test_pages_follow_each_other_and_miss_nothing() -> None:
    scene = usual()
    names: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = await scene.agents.list_(ALICE, cursor=cursor, limit=1)
        names += [view.name for view in page.items]
        cursor = page.next_cursor
    assert (names, cursor) == (["ccrouter", "droid", "guide"], None)


async def test_pages_of_models_follow_each_other() -> None:
    scene = usual()
    first = await scene.agents.models(ALICE, limit=2)
    assert first.next_cursor is not None
    second = await scene.agents.models(ALICE, limit=2, cursor=first.next_cursor)
    assert [(model.agent, model.name) for model in (*first.items, *second.items)] == [
        ("ccrouter", "gemini-1.5-pro"),
        ("droid", "gpt-4o"),
        ("droid", "old"),
    ]
    assert second.next_cursor is None


async def test_models_are_filtered_by_agent_and_query() -> None:
    agents = usual().agents
    assert [model.name for model in (await agents.models(ALICE, agent="droid", query="VENDOR/g")).items] == ["gpt-4o"]
    assert (await agents.models(ALICE, agent="guide")).items == ()
    with pytest.raises(NotFoundError):
        await agents.models(ALICE, agent="nonesuch")


async def test_a_cursor_is_bound_to_its_list_filter_and_principal() -> None:
    agents = usual().agents
    cursor = (await agents.list_(ALICE, limit=1)).next_cursor
    assert cursor is not None
    with pytest.raises(InvalidRequestError):
        await agents.list_(BOB, cursor=cursor)
    with pytest.raises(InvalidRequestError):
        await agents.list_(ALICE, query="d", cursor=cursor)
    with pytest.raises(InvalidRequestError):
        await agents.models(ALICE, cursor=cursor)
    with pytest.raises(InvalidRequestError):
        await agents.list_(ALICE, cursor=cursor[:-2])


@pytest.mark.parametrize("limit", [0, -1, LARGEST_PAGE + 1])
async def test_a_limit_that_cannot_be_meant_is_refused(limit: int) -> None:
    with pytest.raises(InvalidRequestError):
        await usual().agents.list_(ALICE, limit=limit)
    with pytest.raises(InvalidRequestError):
        await usual().agents.models(ALICE, limit=limit)


async def test_a_query_without_end_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        await usual().agents.list_(ALICE, query="x" * 501)


async def test_who_may_not_read_is_refused() -> None:
    nobody = replace(ALICE, scopes=frozenset())
    agents = usual().agents
    with pytest.raises(PermissionDeniedError):
        await agents.list_(nobody)
    with pytest.raises(PermissionDeniedError):
        await agents.get(nobody, "droid")
    with pytest.raises(PermissionDeniedError):
        await agents.models(nobody)
