"""URLs in configuration are checked where they come in, so that none fails, or breaks a header, later."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.urls import parse_http_url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://h:99999/", "is not a URL"),
        ("https://h:abc/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("ftp://h/", "must be an http or https URL with a host"),
        ("https:///path", "must be an http or https URL with a host"),
        ("h.example/mcp", "must be an http or https URL with a host"),
        ('https://h/a"b', "holds a character that a URL cannot have"),
        ("https://h/a b", "holds a character that a URL cannot have"),
        ("https://h/a\nb", "holds a character that a URL cannot have"),
        ("https://h\u00e9/", "holds a character that a URL cannot have"),
    ],
)
def test_what_is_no_http_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_http_url(url)


@given(st.text(alphabet='htps:/@[]%?#.-~é "\n\\0x9', max_size=30))
def test_whatever_is_accepted_can_stand_in_a_header_and_has_a_port_or_none(text: str) -> None:
    try:
        parts = parse_http_url(f"https://{text}")
    except ValueError:
        return
    assert parts.hostname
    assert parts.port is None or 0 <= parts.port <= 65535
    assert parts == urlsplit(f"https://{text}")
    assert not set(text) & set('é "\n\\')
