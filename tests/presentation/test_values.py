"""Times as every edge shows them, and lines of lists."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentapi_mcp
from agentapi_mcp.base.far_times import FarTime
from agentapi_mcp.presentation.agents import model_line
from agentapi_mcp.presentation.models import ModelOut
from agentapi_mcp.presentation.values import dollars, moment

SOURCE = Path(agentapi_mcp.__file__).parent
# Dates of price lists, and the log of events, whose exact times are what it is for.
EXACT = {"presentation/values.py", "presentation/agents.py", "cli/models.py", "cli/commands/audit.py"}


def test_a_time_is_short_and_in_utc() -> None:
    at = datetime(2026, 11, 28, 4, 24, 44, 829957, tzinfo=timezone(timedelta(hours=1)))
    assert moment(at) == "2026-11-28T03:24:44Z"
    assert moment(FarTime(2**63 - 1)) == "9999-12-31T23:59:59Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_read_back_to_the_second(at: datetime) -> None:
    assert datetime.fromisoformat(moment(at)) == at.replace(microsecond=0)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        *(("0", "$0.00"), ("0.000000001", "$0.000000001"), ("0.00014", "$0.00014"), ("0.000999999", "$0.000999999")),
        *(("0.0012345678", "$0.001235"), ("0.5", "$0.5"), ("1", "$1.00"), ("12.3456", "$12.35")),
    ],
)
def test_a_known_amount_is_not_shown_as_zero_unless_it_is(amount: str, shown: str) -> None:
    assert dollars(Decimal(amount)) == shown
    assert dollars(float(amount)) == shown


@pytest.mark.parametrize("layer", ["presentation", "edges", "cli", "resident"])
def test_what_shows_a_time_does_it_by_this_function(layer: str) -> None:
    files = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in (SOURCE / layer).rglob("*.py")}
    assert files
    assert {name for name, text in files.items() if ".isoformat(" in text} <= EXACT


def test_the_line_of_a_model_has_what_its_description_warns_of() -> None:
    model = ModelOut(
        agent="droid",
        name="old",
        model_id="old-1",
        provider="vendor",
        description="Ends in 2026;\nmay be gone.",
        enabled=True,
        is_default=False,
        context_window=1000,
        max_output_tokens=None,
        input_price=None,
        output_price=None,
        cached_input_price=None,
        price_source=None,
        price_date=None,
    )
    assert model_line(model) == "- old (droid, vendor, 1,000 tokens): Ends in 2026; may be gone."
    assert model_line(model.model_copy(update={"description": None})) == "- old (droid, vendor, 1,000 tokens)"
