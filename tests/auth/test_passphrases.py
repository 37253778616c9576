"""Master keys that are sealed by a passphrase."""

import pytest

from agentapi_mcp.auth.master_keys import new_master_key, parse_keys, written_keys
from agentapi_mcp.auth.passphrases import LEAST, check_passphrase, seal, unseal
from agentapi_mcp.base.errors import InvalidRequestError

PASSPHRASE = "correct horse battery 🐎"  # noqa: S105  # of the test


def test_the_same_passphrase_alone_opens_what_it_sealed() -> None:
    text = written_keys(parse_keys(f"{new_master_key()},old:{new_master_key()}", "TEST"))
    sealed = seal(text, PASSPHRASE)
    assert unseal(sealed, PASSPHRASE) == text
    assert text.encode() not in sealed
    with pytest.raises(InvalidRequestError, match="does not open"):
        unseal(sealed, "another passphrase")


def test_keys_are_written_as_they_are_read() -> None:
    keys = parse_keys(f"{new_master_key()},old:{new_master_key()}", "TEST")
    assert parse_keys(written_keys(keys), "TEST") == keys


@pytest.mark.parametrize("place", [1, 20, 40, -1])
def test_a_value_that_was_changed_is_refused(place: int) -> None:
    sealed = bytearray(seal("k", PASSPHRASE))
    sealed[place] ^= 1
    with pytest.raises(InvalidRequestError, match="does not open"):
        unseal(bytes(sealed), PASSPHRASE)


def test_a_later_way_of_sealing_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="does not know"):
        unseal(b"\x02" + seal("k", PASSPHRASE)[1:], PASSPHRASE)


def test_a_short_passphrase_is_refused() -> None:
    check_passphrase("x" * LEAST)
    with pytest.raises(InvalidRequestError, match=str(LEAST)):
        check_passphrase("x" * (LEAST - 1))


def test_each_seal_has_its_own_salt_and_nonce() -> None:
    first, second = seal("k", PASSPHRASE), seal("k", PASSPHRASE)
    assert first[1:17] != second[1:17]
    assert first[17:29] != second[17:29]
