"""Host and port of an address, which are shown, and its password, which never is."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.addresses import host_and_port


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example:6432/x?sslmode=require", "db.example:6432"),
        ("postgresql://me@db.example/x", "db.example:5432"),
        ("postgresql://db.example", "db.example:5432"),
        ("postgresql://me:secret@[::1]/x", "[::1]:5432"),
        ("postgresql://me:secret@[::1]:6432/x", "[::1]:6432"),
        ("postgresql://me:secret@a:1,b:2/x", "a:1,b:2"),
        ("postgresql://me:secret@/x?host=/run/postgresql", "/run/postgresql"),
        ("postgresql://me:secret@/x?host=db.example&port=6432", "db.example:6432"),
        ("unix:///run/valkey.sock?db=1&password=secret", "/run/valkey.sock"),
        ("postgresql://", None),
        ("not an address", None),
        ("postgresql://[::1/x", None),
    ],
)
def test_host_and_port_of_an_address_are_shown(url: str, shown: str | None) -> None:
    assert host_and_port(url, 5432) == shown


@pytest.mark.parametrize("password", ["se@cret", "se/cret", "12/cret", "se#cret", "se?cret", "@", "a@b/c@d"])
def test_a_password_that_is_not_encoded_hides_the_address(password: str) -> None:
    assert host_and_port(f"postgresql://me:{password}@db.example:6432/x", 5432) is None


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_an_encoded_password_is_never_shown(password: str) -> None:
    assert host_and_port(f"postgresql://me:{quote(password, safe='')}@db.example:1/x", 5432) == "db.example:1"


@given(st.text(alphabet="@/#?:%[]ab1,", min_size=1))
def test_a_password_as_it_is_shows_nothing_or_the_true_address(password: str) -> None:
    assert host_and_port(f"postgresql://me:{password}@db.example:1/x", 5432) in {None, "db.example:1"}
