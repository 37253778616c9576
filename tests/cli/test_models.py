"""A model in the lists of the terminal."""

from agentapi_mcp.base.money import Prices
from agentapi_mcp.cli.models import model_json, model_row
from agentapi_mcp.core.catalogue.models import ModelView

MODEL = ModelView(
    agent="droid",
    name="old",
    model_id="vendor/old",
    provider="vendor",
    description="Withdrawn by Vendor on 2026-10-23.",
    enabled=True,
    is_default=False,
    context_window=None,
    max_output_tokens=None,
    prices=Prices(),
)


def test_what_the_description_warns_of_is_in_the_table_and_in_the_json() -> None:
    assert model_row(MODEL)[-1] == MODEL.description
    assert model_json(MODEL)["description"] == MODEL.description
