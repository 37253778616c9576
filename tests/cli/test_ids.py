"""Ids are found by their beginnings or ends."""

from uuid import UUID

import pytest

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.cli.ids import SESSION, check_part, find_id, short_id, whole_id

ONE, TWO = "01980000-0000-7000-8000-0123456789ab", "01980000-0000-7000-8000-ba9876543210"


@pytest.mark.parametrize("text", [ONE, ONE.upper(), UUID(ONE).hex, short_id(ONE), "6789AB", ONE[:30], f" {ONE}\n"])
def test_an_id_is_found_by_all_of_it_its_beginning_or_its_end(text: str) -> None:
    assert find_id([TWO, ONE, ONE], text, SESSION) == ONE


@pytest.mark.parametrize("text", ["", "      ", "789ab"])
def test_what_is_too_short_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="too short for the id of a session"):
        check_part(text, SESSION)
    with pytest.raises(InvalidRequestError, match="too short for the id of a session"):
        find_id([ONE], text, SESSION)


def test_what_fits_nothing_or_more_than_one_is_refused() -> None:
    with pytest.raises(NotFoundError, match=r"There is no session 7000-8000; `agentapi-mcp sessions list` shows"):
        find_id([ONE, TWO], "7000-8000", SESSION)
    with pytest.raises(NotFoundError, match=f"2 ids of a session begin or end with 019800: {ONE}, {TWO}"):
        find_id([ONE, TWO], "019800", SESSION)


@pytest.mark.parametrize("text", [ONE[:-1], f"{ONE[:-1]}x", "x" * 32, f"{{{ONE}}}"])
def test_what_is_no_uuid_is_no_whole_id(text: str) -> None:
    assert whole_id(text) is None
