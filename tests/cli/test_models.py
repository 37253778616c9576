"""A model in the lists of the terminal."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from agentapi_mcp.base.money import Prices, Tier
from agentapi_mcp.cli.model_tables import changes
from agentapi_mcp.cli.models import MODEL_COLUMNS, model_row
from agentapi_mcp.core.backends.models import OfferedModel
from agentapi_mcp.core.catalogue.models import ModelView

MODEL = ModelView(
    agent="droid",
    name="old",
    model_id="vendor/old",
    provider="vendor",
    description="Withdrawn by Vendor on 2026-10-23.",
    enabled=True,
    is_default=True,
    context_window=128_000,
    max_output_tokens=None,
    prices=Prices(input=Decimal("0.25")),
)


def test_a_row_has_provider_units_and_what_the_description_warns_of() -> None:
    assert dict(zip((*MODEL_COLUMNS, "DESCRIPTION"), model_row(MODEL), strict=True)) == {
        "MODEL": "old (default)",
        "PROVIDER": "vendor",
        "CONTEXT (TOKENS)": "128,000",
        "IN ($ PER 1M)": "0.25",
        "OUT ($ PER 1M)": "unknown",
        "DESCRIPTION": "Withdrawn by Vendor on 2026-10-23.",
    }


def test_a_row_has_the_prices_of_longer_requests_where_they_differ() -> None:
    tiers = (
        Tier(above=100_000, input=Decimal(1), output=Decimal(2)),
        Tier(above=200_000, input=Decimal("2.5"), output=Decimal(2)),
    )
    prices = Prices(input=Decimal(1), output=Decimal(2), tiers=tiers)
    shown = dict(zip(MODEL_COLUMNS, model_row(replace(MODEL, prices=prices)), strict=False))
    assert (shown["IN ($ PER 1M)"], shown["OUT ($ PER 1M)"]) == ("1 (2.5 above 200,000 in)", "2")


def test_what_a_list_does_not_say_of_prices_stays_and_is_named() -> None:
    tiers = [{"above": 9, "input": 2, "output": 3}]
    present = {"prices": {"input": 1, "cache_write_1h": 2, "tiers": tiers, "source": "a page", "on": date(2026, 1, 2)}}
    offer = OfferedModel(model_id="m", input_price=Decimal(1), cache_write_price=Decimal("1.25"))
    found = changes(present, offer, "house", date(2026, 11, 30))
    assert found == {
        "prices": {
            "input": 1,
            "cache_write": 1.25,
            "cache_write_1h": 2,
            "tiers": tiers,
            "source": "the list of house, but for cache_write_1h and tiers",
            "on": date(2026, 11, 30),
        }
    }
    assert changes(found, offer, "house", date(2026, 12, 1)) == {}  # a day alone is no reason to write
