"""What commands share that carry or remove all data."""

import io
import sys

import pytest

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.cli.consent import read_passphrase, sealed

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


def test_what_is_sealed_is_counted_by_kind() -> None:
    assert sealed(["key", "account", "key"]) == "2 sealed keys and 1 sealed account"
    assert sealed([]) == "no sealed key"
