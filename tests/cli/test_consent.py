"""What commands share that carry or remove all data."""

import io
import sys
import time

import pytest

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.cli.consent import local_time, number_of, read_passphrase, sealed

_CUT = "päss".encode()[:2]


@pytest.mark.parametrize(("encoding", "errors"), [("utf-8", "strict"), ("ascii", "surrogateescape")])
def test_a_passphrase_is_the_same_in_every_locale(encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for typed, read in (("pässword 🔑".encode(), "pässword 🔑"), (b"  spaces \r", "  spaces "), (b"", "")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed + b"\nmore\n"), encoding, errors))
        assert read_passphrase(is_new=True) == read
    for no_text in (b"\xff", _CUT, "pässword".encode("latin-1")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(no_text + b"\n"), encoding, errors))
        with pytest.raises(InvalidRequestError, match="no text in UTF-8"):
            read_passphrase(is_new=True)


def test_numbers_agree_with_their_words() -> None:
    assert [number_of(count, "user") for count in (0, 1, 2, 12_345)] == ["0 users", "1 user", "2 users", "12,345 users"]
    assert sealed(["key", "account", "key"]) == "2 sealed keys and 1 sealed account"
    assert sealed([]) == "no sealed key"


def test_a_time_is_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5EDT")
    time.tzset()
    try:
        assert local_time("2026-01-01T00:00:00+00:00") == "2025-12-31 19:00:00 EST"
    finally:
        monkeypatch.undo()
        time.tzset()
