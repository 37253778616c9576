"""Which proxy of the environment leads to a host, and which hosts are spared, in each form that people write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.proxies import Proxy, proxy_of
from tests.support.hostile import TEXTS

ONE, TWO = "http://one:1", "http://two:2"


@pytest.mark.parametrize(
    ("environ", "scheme", "proxy"),
    [
        ({}, "http", None),
        ({"HTTP_PROXY": ONE}, "http", Proxy(ONE, "HTTP_PROXY")),
        ({"HTTP_PROXY": ONE}, "https", None),
        ({"http_proxy": ONE}, "http", Proxy(ONE, "http_proxy")),
        ({"HTTP_PROXY": TWO, "http_proxy": ONE}, "http", Proxy(ONE, "http_proxy")),
        ({"http_proxy": ONE, "HTTP_PROXY": TWO}, "http", Proxy(ONE, "http_proxy")),
        ({"HTTPS_PROXY": ONE}, "https", Proxy(ONE, "HTTPS_PROXY")),
        ({"https_proxy": ONE, "ALL_PROXY": TWO}, "https", Proxy(ONE, "https_proxy")),
        ({"HTTPS_PROXY": ONE, "ALL_PROXY": TWO}, "http", Proxy(TWO, "ALL_PROXY")),
        ({"all_proxy": "socks5://two:2"}, "http", Proxy("socks5://two:2", "all_proxy")),
        ({"HTTP_PROXY": " one:1 "}, "http", Proxy(ONE, "HTTP_PROXY")),
        ({"HTTP_PROXY": "", "ALL_PROXY": ""}, "http", None),
        ({"HTTP_PROXY": TWO, "http_proxy": ""}, "http", None),  # the usual way to say that there is none
        ({"HTTP_PROXY": "", "ALL_PROXY": TWO}, "http", Proxy(TWO, "ALL_PROXY")),
        ({"FTP_PROXY": ONE, "NO_PROXY": "x"}, "http", None),
    ],
)
def test_the_proxy_is_that_of_the_scheme_or_that_of_all(
    environ: dict[str, str], scheme: str, proxy: Proxy | None
) -> None:
    assert proxy_of(scheme, "host.example", None, environ) == proxy


@pytest.mark.parametrize(
    ("written", "host", "port", "spared"),
    [
        ("*", "host.example", 80, True),
        ("", "host.example", 80, False),
        ("host.example", "host.example", 80, True),
        ("Host.Example.", "host.EXAMPLE", 80, True),
        ("example", "host.example", 80, True),
        ("xample", "host.example", 80, False),
        (".example", "host.example", 80, True),
        (".host.example", "host.example", 80, True),
        ("*.example", "host.example", 80, True),
        ("*.example", "example.org", 80, False),
        ("host.example:80", "host.example", 80, True),
        ("host.example:80", "host.example", 81, False),
        ("host.example:80", "host.example", None, True),
        ("a, host.example", "host.example", 80, True),
        ("a host.example\tb", "host.example", 80, True),
        ("http://host.example:80/", "host.example", 80, True),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False),
        ("127.0.0.0/8", "127.1.2.3", 80, True),
        ("10.0.0.0/8", "127.1.2.3", 80, False),
        ("10.1.2.3/8", "10.9.9.9", 80, True),
        ("10.0.0.0/8", "10.example", 80, False),
        ("[::1]", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
        ("[::1]:80", "::1", 80, True),
        ("::1", "::1", 80, True),
        ("0:0:0:0:0:0:0:1", "::1", 80, True),
        ("fd00::/8", "fd12::1", 80, True),
        ("fd00::/8", "127.0.0.1", 80, False),
        ("/", "host.example", 80, False),
        (".", "host.example", 80, False),
        (":80", "host.example", 80, False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_names_hosts_domains_networks_and_ports(
    variable: str, written: str, host: str, port: int | None, *, spared: bool
) -> None:
    environ = {"ALL_PROXY": ONE, variable: written}
    assert (proxy_of("http", host, port, environ) is None) is spared


@given(TEXTS, st.sampled_from(["host.example", "127.0.0.1", "::1"]))
def test_any_text_may_stand_in_no_proxy(written: str, host: str) -> None:
    assert proxy_of("http", host, 80, {"ALL_PROXY": ONE, "NO_PROXY": written}) in {None, Proxy(ONE, "ALL_PROXY")}
