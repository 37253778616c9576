"""Careful reading of what a provider sent: a value of another type than expected counts as absent."""

from decimal import Decimal

from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_amount as amount
from agentapi_mcp.base.json_values import as_count as count
from agentapi_mcp.base.json_values import as_list as sequence
from agentapi_mcp.base.json_values import as_object as mapping
from agentapi_mcp.base.json_values import as_text as text
from agentapi_mcp.base.json_values import load_json

__all__ = ["amount", "count", "mapping", "parse_json", "sequence", "text"]


def parse_json(raw: str | bytes, *, what: str) -> object:
    """Parse JSON with exact decimals; `what` names the thing in the error.

    Raises:
        BackendError: BAD_REPLY, since it is no JSON.
    """
    try:
        return load_json(raw, parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, ArithmeticError, RecursionError) as error:  # a number may have too large an exponent
        raise BackendError(BackendFault.BAD_REPLY, f"{what} is not JSON.") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
