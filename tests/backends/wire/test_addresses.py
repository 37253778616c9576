"""An address is one that a request can have, or it is refused."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.addresses import address_of
from agentapi_mcp.base.errors import BackendError, BackendFault
from tests.support.hostile import TEXTS

TARGET = re.compile(r"/[!-~]*")


@given(TEXTS | TEXTS.map("http://h/".__add__) | TEXTS.map("https://{}/x".format) | st.text().map("http://h/?".__add__))
@example("http://[::1")
@example("http://h:\u0661/")
@example("http://é..b/")
@example("https://h/\ud800")
def test_any_text_is_an_address_or_refused(text: str) -> None:
    fault = None
    try:
        address = address_of(text)
    except BackendError as error:
        fault = error.fault
    else:
        assert TARGET.fullmatch(address.url.raw_path_qs)
        assert address.host.isascii()
        assert address.host.isprintable()
    assert fault in {None, BackendFault.BAD_REQUEST}


@pytest.mark.parametrize(
    ("url", "host", "whole"),
    [
        ("http://H", "h", "http://h/"),
        ("http://h:80/a", "h", "http://h/a"),
        ("https://h:443", "h", "https://h/"),
        ("https://h:80/?a", "h:80", "https://h:80/?a"),
        ("http://u:p@h:8080/%41", "h:8080", "http://h:8080/%41"),
        ("http://[::1]:1/", "[::1]:1", "http://[::1]:1/"),
        ("http://bücher.example/é", "xn--bcher-kva.example", "http://xn--bcher-kva.example/%C3%A9"),
    ],
)
def test_an_address_names_its_host_and_goes_to_a_proxy_as_a_whole(url: str, host: str, whole: str) -> None:
    address = address_of(url)
    assert (address.host, str(address.url)) == (host, whole)
