"""A turn's cost as every answer has it, made from the fields of `TurnCost`, so that a new one needs nothing here.

The tokens are in `usage`, and all else is beside it. Amounts are US dollars, times are milliseconds, unknown is null.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import create_model

from agentapi_mcp.base.json_records import from_json, to_json
from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.conversations.models import TurnCost
from agentapi_mcp.presentation.output_model import OutputModel, fields_of


def cost_json(cost: TurnCost) -> dict[str, object]:
    """Serialize a turn's cost."""
    published = to_json(cost, amount=float)
    usage = as_object(published.pop("usage"))
    return {"usage": usage, "cost_usd": usage.pop("cost_usd"), **published}


def read_cost(turn: Mapping[str, object]) -> TurnCost:
    """Read the cost from the JSON of a turn."""
    return from_json(TurnCost, {**turn, "usage": as_object(turn["usage"]) | {"cost_usd": turn["cost_usd"]}})


def cost_fields() -> dict[str, Any]:
    """Return the fields of `cost_json` as `create_model` takes them."""
    published, usage = fields_of(TurnCost), fields_of(Usage)
    del published["usage"]
    amount = usage.pop("cost_usd")
    return {"usage": create_model("UsageOut", __base__=OutputModel, **usage), "cost_usd": amount, **published}
