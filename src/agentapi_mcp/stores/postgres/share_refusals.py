"""The refusals of rows that are more than a share, in words (0009_shares.sql, 0019_facts.sql)."""

import json
import math
from decimal import Decimal

import asyncpg

from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.core.identity.shares import SHARES, Measure, Resource

_OVER_SHARE = "AA003"


def share_refusal(exc: BaseException | None) -> LimitExceededError | None:
    """Return the refusal that a driver's exception stands for; None if it is another one."""
    if not isinstance(exc, asyncpg.PostgresError) or exc.sqlstate != _OVER_SHARE:
        return None
    # A limit may be any number of JSON: below zero nothing is allowed, and of a fraction what is whole.
    over = json.loads(str(exc), parse_int=Decimal, parse_float=Decimal)
    if over["whose"] == "process":  # whoever refused it before has the reason
        return LimitExceededError("The turn was refused.")
    share = SHARES[Resource(over["what"])]
    numbers = f"{int(over['used']):,} of {math.floor(max(over['most'], 0)):,} {share.what}"
    if over["whose"] == "user":
        where = "" if share.measure is Measure.ROWS else " in all processes"
        return LimitExceededError(f"You have {numbers}{where}; {share.mend}.", retry_after=share.wait)
    return LimitExceededError(
        f"Your organisation has {numbers} that it may have; {share.mend}, or ask the operator of this server.",
        retry_after=share.wait,
    )
