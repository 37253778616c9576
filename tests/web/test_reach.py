"""Who can reach a server decides whether it may serve without a token."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.access.models import Issuer, SignInRules
from agentapi_mcp.web.reach import Reach, is_local

LOCAL = Reach(address="127.0.0.1")
RESOURCE = "https://agents.example.com/mcp"
NO_ISSUERS, ISSUERS = SignInRules(), SignInRules(issuers=(Issuer(issuer="https://auth.example.com"),))

# What lets others in, by what it is called in the refusal.
REACHED_BY = {
    "0.0.0.0": replace(LOCAL, address="0.0.0.0"),  # noqa: S104  # it is refused
    "::": replace(LOCAL, address="::"),
    "192.0.2.7": replace(LOCAL, address="192.0.2.7"),
    "fe80::1%eth0": replace(LOCAL, address="fe80::1%eth0"),
    "agents.example.com": replace(LOCAL, hosts=("localhost", "agents.example.com")),
    "10.1.2.3:8000": replace(LOCAL, hosts=("10.1.2.3:8000",)),
    "https://web.example.com": replace(LOCAL, origins=("https://web.example.com",)),
    "10.0.0.0/8": replace(LOCAL, trusted_proxies=("10.0.0.0/8",)),
    "127.0.0.1": replace(LOCAL, trusted_proxies=("127.0.0.1",)),
}
# What lets nobody in without a token, or what says that something else guards it.
GUARDED_BY = ("has_token", "needs_token", "insecure")


def refusal(reach: Reach, rules: SignInRules) -> str:
    """Return why the server does not start, or an empty text."""
    try:
        reach.check(rules)
    except ConfigurationError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    "reach",
    [
        LOCAL,
        Reach(address="::1"),
        Reach(address="127.8.8.8"),
        replace(LOCAL, hosts=("localhost", "127.0.0.1:8000", "[::1]:*", "app.localhost", "LOCALHOST:80")),
        replace(LOCAL, origins=("http://localhost:6274", "https://127.0.0.1", "http://[::1]:1")),
    ],
)
def test_a_server_that_only_this_machine_reaches_needs_no_token(reach: Reach) -> None:
    assert reach.others() == ()
    assert refusal(reach, NO_ISSUERS) == ""


@pytest.mark.parametrize(("name", "reach"), list(REACHED_BY.items()))
def test_each_way_in_from_elsewhere_needs_a_token_and_is_named(name: str, reach: Reach) -> None:
    said = refusal(reach, NO_ISSUERS)
    ways = ("export AGENTAPI_BEARER_TOKEN=", "export AGENTAPI_REQUIRE_TOKEN=true", "--require-token", "[[issuers]]")
    for words in (name, *ways, "--insecure"):
        assert words in said


@pytest.mark.parametrize(("reach", "guard"), list(product(REACHED_BY.values(), GUARDED_BY)))
def test_each_guard_alone_opens_each_way(reach: Reach, guard: str) -> None:
    assert refusal(replace(reach, **{guard: True}), NO_ISSUERS) == ""


@pytest.mark.parametrize("reach", list(REACHED_BY.values()))
def test_a_sign_in_opens_each_way(reach: Reach) -> None:
    assert refusal(replace(reach, resource_url=RESOURCE), ISSUERS) == ""


def test_all_ways_in_are_named_at_once() -> None:
    hosts, origins = ("a.example", "b.example"), ("https://c.example",)
    reach = Reach(address="192.0.2.7", hosts=hosts, origins=origins, trusted_proxies=("10.9.9.9",))
    assert all(name in refusal(reach, NO_ISSUERS) for name in ("192.0.2.7", *hosts, *origins, "10.9.9.9"))


@pytest.mark.parametrize(("reach", "guard"), list(product((LOCAL, *REACHED_BY.values()), (None, *GUARDED_BY))))
def test_half_a_sign_in_is_refused_whatever_else_guards_the_server(reach: Reach, guard: str | None) -> None:
    guarded = reach if guard is None else replace(reach, **{guard: True})
    assert "export AGENTAPI_RESOURCE_URL=" in refusal(guarded, ISSUERS)
    assert "declare [[issuers]]" in refusal(replace(guarded, resource_url=RESOURCE), NO_ISSUERS)


@given(st.text())
def test_only_names_of_this_machine_are_local(name: str) -> None:
    # Whatever else the name holds: a name whose host is this machine's says so itself.
    assert not is_local(name) or any(word in name.lower() for word in ("localhost", "127.", "::1"))


@pytest.mark.parametrize(
    "name",
    ["localhost.example.com", "localhost@evil.example", "127.0.0.1.example.com", "[::1", "", "evil.example/localhost"],
)
def test_names_that_only_look_local_are_not(name: str) -> None:
    assert not is_local(name)
