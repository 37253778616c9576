"""Parse JSON of providers."""

from decimal import Decimal

from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_bounds import JsonBounds, JsonBoundsError
from agentapi_mcp.base.json_values import as_amount as amount
from agentapi_mcp.base.json_values import as_count as count
from agentapi_mcp.base.json_values import as_list as sequence
from agentapi_mcp.base.json_values import as_object as mapping
from agentapi_mcp.base.json_values import as_text as text
from agentapi_mcp.base.json_values import load_json

__all__ = ["amount", "count", "mapping", "parse_json", "sequence", "text"]

# More than of a client: one reply may list all models of a provider. It takes less than a tenth of a second.
REPLY_BOUNDS = JsonBounds(containers=50_000, values=250_000)


def parse_json(raw: str | bytes, *, what: str) -> object:
    """Parse JSON with exact decimals; `what` names the document in the error message.

    Raises:
        BackendError: BAD_REPLY, if it is not JSON, or too much of it.
    """
    try:
        return load_json(raw, parse_float=Decimal, parse_constant=_refuse_constant, bounds=REPLY_BOUNDS)
    except JsonBoundsError as error:
        raise BackendError(BackendFault.BAD_REPLY, f"{what} {error}.") from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # the exponent of a number may be too large
        raise BackendError(BackendFault.BAD_REPLY, f"{what} is not JSON.") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
