"""A model in the lists of the terminal."""

from decimal import Decimal

from agentapi_mcp.base.money import Prices
from agentapi_mcp.cli.models import MODEL_COLUMNS, model_row
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
