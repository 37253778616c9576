"""An address of a Redis with options: one that no connection can be made with is refused at the start, in words."""

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import ConfigurationError, StoreUnavailableError
from agentapi_mcp.stores.redis.client import open_redis
from tests.support.clocks import ManualClock

HIDDEN = "S3cr3tPw"
PLACES = (
    "redis://:{}@127.0.0.1:9",
    "rediss://:{}@127.0.0.1:9",
    "unix://:{}@/nowhere.sock",
    "redis+sentinel://:{}@127.0.0.1:9/ours",
    "rediss+sentinel://:{}@127.0.0.1:9/ours",
    "redis+cluster://:{}@127.0.0.1:9",
    "rediss+cluster://:{}@127.0.0.1:9",
)
# Of the library's connections, pools and clients, of other libraries, and ours.
OPTIONS = """
client_name connection_class connection_pool db decode_responses encoding family foo health_check_interval
host max_connections password path port protocol retry retry_on_timeout self sentinel_kwargs sentinel_password
sentinel_username sentinels service_name single_connection_client socket_connect_timeout socket_keepalive
socket_timeout ssl ssl_ca_certs ssl_ca_data ssl_ca_path ssl_cert_reqs ssl_certfile ssl_check_hostname
ssl_ciphers ssl_context ssl_include_verify_flags ssl_keyfile ssl_min_version ssl_password startup_nodes
timeout tls url username
"""
VALUES = ("", "0", "1", "3", "-1", "771", "no", "none", "required", "x", "/nowhere", "a=b", HIDDEN)


async def outcome(url: str) -> str:
    """Return what is said of an address at the start; empty if it is taken, and then used as one that is away."""
    said = ""
    try:
        async with open_redis(url, "", ManualClock()) as client:
            assert await client.read(lambda redis: redis.get("key"), "default") == "default"
            with pytest.raises(StoreUnavailableError, match="works on without it") as caught:
                await client.probe()
            assert HIDDEN not in str(caught.value)
    except ConfigurationError as exc:
        said = str(exc)
    assert HIDDEN not in said
    return said


@settings(deadline=timedelta(seconds=20), max_examples=150)
@given(
    place=st.sampled_from(PLACES),
    path=st.sampled_from(["", "/", "/0", "/7", "/x", "/1/2"]),
    options=st.lists(st.tuples(st.sampled_from(OPTIONS.split()), st.sampled_from(VALUES)), max_size=2),
    more=st.sampled_from(["", "&", "&x", "&=", "&%00=1", "#x"]),
)
@example(place="redis://:{}@127.0.0.1:9", path="", options=[("foo", "bar")], more="")
@example(place="redis+sentinel://:{}@127.0.0.1:9", path="/m", options=[("socket_timeout", "1")], more="")
@example(place="redis+cluster://:{}@127.0.0.1:9", path="", options=[("max_connections", "3")], more="")
@example(place="rediss://:{}@127.0.0.1:9", path="", options=[("ssl_cert_reqs", HIDDEN)], more="")
async def test_each_address_is_refused_at_the_start_or_can_be_used(
    place: str, path: str, options: list[tuple[str, str]], more: str
) -> None:
    query = "&".join(f"{name}={value}" for name, value in options)
    said = await outcome(place.format(HIDDEN) + path + (f"?{query}{more}" if query or more else ""))
    assert said == "" or said.startswith("AGENTAPI_REDIS_URL ")


@pytest.mark.parametrize("place", PLACES)
async def test_an_option_that_is_not_known_is_refused_with_those_that_are_and_not_named(place: str) -> None:
    said = await outcome(f"{place.format(HIDDEN)}?password=x&{HIDDEN}=y")
    assert "an option after its `?` that is not known" in said
    assert "username, password" in said
    assert ("ssl_ca_certs" in said) is place.startswith("rediss")
    assert ("sentinel_password" in said) is ("sentinel" in place)


@pytest.mark.parametrize("option", ["ssl_ca_certs=/nowhere", "ssl_cert_reqs=sometimes", "ssl_min_version=9"])
async def test_an_option_of_tls_that_cannot_be_used_is_told(option: str) -> None:
    assert "an option for TLS" in await outcome(f"rediss://127.0.0.1:9?{option}")


@pytest.mark.parametrize("address", ["redis://127.0.0.1:9/x", "redis://127.0.0.1:9?db=x", "redis+sentinel://a/ours/x"])
async def test_a_database_without_a_number_is_not_taken_for_the_first_one(address: str) -> None:
    assert "is no address of a Redis" in await outcome(address)
