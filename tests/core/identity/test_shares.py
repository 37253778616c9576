"""The table of shares, and what it leaves for others."""

import gc
import weakref
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.core.identity.shares import SHARES, Holder, Measure, Resource, Shares
from tests.support.clocks import ManualClock

ANN, ABE, BO = Holder("ann", "one"), Holder("abe", "one"), Holder("bo", "two")
HELD = [resource for resource, share in SHARES.items() if share.measure is Measure.HELD]
RATES = [resource for resource, share in SHARES.items() if share.measure is Measure.RATE]


def take_all(shares: Shares, resource: Resource, holder: Holder, held: ExitStack, amount: int = 1) -> int:
    """Take as much of a resource as the holder gets, and return how much that is."""
    taken = 0
    try:
        while True:
            if SHARES[resource].measure is Measure.HELD:
                held.enter_context(shares.held(resource, holder, amount))
            else:
                shares.use(resource, holder)
            taken += amount
    except LimitExceededError as exc:
        return taken if exc.retry_after is not None and exc.retry_after > timedelta(0) else -1


def test_every_resource_has_a_row_and_words() -> None:
    assert set(SHARES) == set(Resource)
    assert all(share.what and share.mend for share in SHARES.values())
    assert all(
        (share.capacity is None) is (share.measure in {Measure.ROWS, Measure.QUEUED}) for share in SHARES.values()
    )


def test_the_page_lists_every_share() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/serve.md").read_text(encoding="utf-8")
    listed = {row[1].strip(): row[2:4] for row in (line.split("|") for line in page.splitlines()) if len(row) > 4}
    for share in SHARES.values():
        whole, user = listed[share.what]
        assert "no bound" in whole if share.capacity is None else f" {share.capacity:,} " in whole
        unless_said = "no bound" if share.measure is Measure.ROWS else "7/8 of it"
        assert (f" {share.user:,}" if share.user is not None else unless_said) in user


@pytest.mark.parametrize("resource", HELD + RATES)
def test_one_user_may_have_nearly_all_that_is_idle_and_leaves_some_for_others(resource: Resource) -> None:
    ceiling = SHARES[resource].user
    shares = Shares(ManualClock(), {resource: 1000})
    with ExitStack() as held:
        assert take_all(shares, resource, ANN, held) == min(875, 875 if ceiling is None else ceiling)
        # Somebody of the same organisation, then somebody of another.
        assert take_all(shares, resource, ABE, held) > 0
        assert take_all(shares, resource, BO, held) > 0


@pytest.mark.parametrize("resource", HELD)
def test_what_was_held_can_be_held_again(resource: Resource) -> None:
    shares = Shares(ManualClock(), {resource: 100})
    with ExitStack() as held:
        first = take_all(shares, resource, ANN, held)
    with ExitStack() as held:
        assert take_all(shares, resource, ANN, held) == first


class Somebody:
    """A user who can be seen to be forgotten."""


@pytest.mark.parametrize("resource", HELD)
def test_who_holds_nothing_any_more_takes_no_memory(resource: Resource) -> None:
    shares, somebody = Shares(ManualClock(), {resource: 100}), Somebody()
    remembered = weakref.ref(somebody)
    with shares.held(resource, Holder(somebody, somebody)):
        pass
    del somebody
    gc.collect()
    assert remembered() is None


@pytest.mark.parametrize("resource", RATES)
def test_what_was_used_is_forgotten_after_the_time_that_was_said(resource: Resource) -> None:
    clock = ManualClock()
    shares = Shares(clock, {resource: 64})
    with ExitStack() as held:
        first = take_all(shares, resource, ANN, held)
        with pytest.raises(LimitExceededError) as refused:
            shares.use(resource, ANN)
        assert refused.value.retry_after is not None
        clock.advance(refused.value.retry_after)
        shares.use(resource, ANN)
        clock.advance(timedelta(minutes=2))
        assert take_all(shares, resource, ANN, held) == first


def test_a_user_has_no_more_than_the_ceiling_of_the_table_however_idle_the_server_is() -> None:
    shares = Shares(ManualClock())
    with ExitStack() as held:
        for resource, share in SHARES.items():
            if share.user is not None and share.measure is not Measure.ROWS:
                assert take_all(shares, resource, ANN, held) == share.user


def test_a_ceiling_of_the_table_holds_for_every_minute_and_not_for_the_first_alone() -> None:
    clock = ManualClock()
    shares, most = Shares(clock), SHARES[Resource.KEY_PAGES].user
    assert most is not None
    with ExitStack() as held:
        take_all(shares, Resource.KEY_PAGES, ANN, held)
        for _ in range(10):
            clock.advance(timedelta(seconds=30))
            assert take_all(shares, Resource.KEY_PAGES, ANN, held) == most // 2


def test_accounts_of_one_organisation_do_not_take_all_together() -> None:
    shares = Shares(ManualClock(), {Resource.RUNNING_TURNS: 160})
    with ExitStack() as held:
        for number in range(200):
            take_all(shares, Resource.RUNNING_TURNS, Holder(number, "one"), held)
        with pytest.raises(
            LimitExceededError, match=r"Your organisation's share .* running turns is used up \(150 of 160\)"
        ):
            held.enter_context(shares.held(Resource.RUNNING_TURNS, Holder(201, "one")))
        assert take_all(shares, Resource.RUNNING_TURNS, BO, held) > 0


def test_a_full_server_says_that_it_is_and_a_user_over_the_share_that_they_are() -> None:
    shares = Shares(ManualClock(), {Resource.RUNNING_BYTES: 1000})
    with ExitStack() as held:
        with pytest.raises(LimitExceededError, match=r"This server has as many bytes .* \(1,000\)") as refused:
            held.enter_context(shares.held(Resource.RUNNING_BYTES, ANN, 1001))
        assert refused.value.is_servers
        held.enter_context(shares.held(Resource.RUNNING_BYTES, ANN, 800))
        with pytest.raises(LimitExceededError, match=r"Your share of .* bytes .* \(800 of 1,000\)") as refused:
            held.enter_context(shares.held(Resource.RUNNING_BYTES, ANN, 100))
        assert not refused.value.is_servers


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 30)), max_size=60), st.integers(1, 200))
def test_there_is_never_more_than_all_and_always_something_for_who_has_nothing(
    takes: list[tuple[int, int, int]], capacity: int
) -> None:
    shares, taken = Shares(ManualClock(), {Resource.RUNNING_TURNS: capacity}), 0
    with ExitStack() as held:
        for user, org, amount in takes:
            try:
                held.enter_context(shares.held(Resource.RUNNING_TURNS, Holder((user, org), org), amount))
            except LimitExceededError:
                continue
            taken += amount
            assert taken <= capacity
        if taken < capacity:
            held.enter_context(shares.held(Resource.RUNNING_TURNS, Holder("new", "newer")))
