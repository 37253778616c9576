"""Hosts and web origins are compared by what they mean, and nothing but them is taken for one."""

from ipaddress import IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.origins import Authority, Origin

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,20}[A-Za-z0-9])?", fullmatch=True)
PORTS = st.sampled_from([80, 443]) | st.integers(0, 65535)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("https://a", "https://a:443", True),
        ("http://a", "http://a:80", True),
        ("HTTPS://A.Example", "https://a.example", True),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000", True),
        ("http://[2001:DB8::A]", "http://[2001:db8:0::a]:80", True),
        ("https://a:", "https://a", True),
        ("https://a", "http://a", False),
        ("https://a:80", "http://a:80", False),
        ("https://a", "https://a:8443", False),
        ("https://a", "https://a.", False),  # as browsers have it
        ("https://a", "https://a.b", False),
        ("http://127.0.0.1", "http://[::ffff:127.0.0.1]", False),
    ],
)
def test_origins_are_the_same_by_scheme_host_and_port(one: str, other: str, is_same: bool) -> None:  # noqa: FBT001  # a parameter
    first, second = Origin.parse(one), Origin.parse(other)
    assert first is not None
    assert second is not None
    assert (first == second) == is_same
    assert (str(first) == str(second)) == is_same


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "",
        "a",
        "//a",
        "https:a",
        "https://",
        "https://a/",
        "https://a?b",
        "https://a#b",
        "https://u@a",
        "https://u:p@a",
        "https://a:443@evil",
        "https://a:b",
        "https://a:65536",
        "https://a:-1",
        "https://a:+1",
        "https://a:\u0661",
        "https://a:1:1",
        "https://a b",
        "https://a https://b",
        "https://a\\@b",
        "https://[::1",
        "https://::1",
        "https://[::1%25lo]",
        "https://[1]",
        "https://[v1.a]",
        "https://\u212aa",
        "https://-a",
        "1tp://a",
        "f_p://a",
        "https://a:00000443",
    ],
)
def test_what_is_no_origin_equals_none(text: str) -> None:
    assert Origin.parse(text) is None


@given(name=NAMES, port=PORTS, scheme=st.sampled_from(["http", "https"]))
def test_an_origin_is_serialized_as_browsers_do(name: str, port: int, scheme: str) -> None:
    origin = Origin.parse(f"{scheme.upper()}://{name.swapcase()}:{port}")
    assert origin is not None
    parts = urlsplit(str(origin))
    assert (parts.scheme, parts.hostname) == (scheme, name.lower())
    usual = {"http": 80, "https": 443}[scheme]
    assert parts.port == (None if port == usual else port)
    assert Origin.parse(str(origin)) == origin


@given(st.ip_addresses(v=6))
def test_each_form_of_an_address_is_the_same_host(address: IPv6Address) -> None:
    forms = {address.compressed, address.exploded, address.exploded.upper()}
    assert len({Authority.parse(f"[{form}]:1") for form in forms}) == 1


@given(st.text(alphabet="aA1.-_:@/[]?#%\\ \t\n\u0661é", max_size=12))
def test_whatever_is_taken_for_a_host_is_a_host_to_a_url_too(text: str) -> None:
    authority = Authority.parse(text)
    if authority is not None:
        parts = urlsplit(f"http://{text}/")
        assert parts.hostname == authority.host.strip("[]")
        assert parts.port == authority.port
        assert (parts.username, parts.path, parts.query) == (None, "/", "")


@pytest.mark.parametrize("text", ["app://obsidian.md", "chrome-extension://abcdefgh"])
def test_a_page_of_a_program_has_no_port(text: str) -> None:
    origin = Origin.parse(text)
    assert origin is not None
    assert (origin.port, str(origin)) == (None, text)
    assert origin != Origin.parse(f"{text}:443")
